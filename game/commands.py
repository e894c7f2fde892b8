"""What the player can ask of the game itself, and with which keys.

The keys stay off the ones that worlds like for their actions (arrows, W A S D, space, control, shift). Where a card binds
one of them all the same, the world wins. A command looks like an action of a card, so keys and help treat both alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from controls.keys import ActionSpec


@dataclass(frozen=True)
class Command:
    """One thing to ask of the game; the window has a method of that name with a leading underscore, or else the game one of that name."""

    name: str
    keys: tuple[str, ...]
    label: str
    analogue: ClassVar[bool] = False


_WINDOW = (
    Command("help_page", ("f1", "h"), "Help"),
    Command("figures", ("f3",), "Figures on or off"),
    Command("scaling", ("f4",), "Sharp or smooth pixels"),
    Command("toggle_full_screen", ("f11",), "Full screen"),
    Command("screenshot", ("f12",), "Screenshot"),
    Command("leave", ("escape",), "Quit"),
)
COMMANDS = (
    Command("worlds", ("tab", "pad_back"), "Choose a world"),
    Command("switch", tuple("123456789"), "Switch to a world"),
    Command("keys", ("f10",), "Choose keys"),
    Command("pause", ("p", "pause", "pad_start"), "Pause"),
    Command("step", ("n", "period"), "One step"),
    Command("rewind", ("backspace",), "Rewind while held"),
    Command("restart", ("r",), "Restart"),
    Command("new_seed", ("f2",), "New seed, next start"),
    Command("rollback", ("b",), "Rollback depth"),
    Command("type_prompt", ("return",), "Type a prompt"),
    Command("record", ("f8",), "Record, or stop it"),
    Command("clip", ("f7",), "Save the last 30 seconds"),
    Command("save", ("f5",), "Save in the slot"),
    Command("load", ("f9",), "Load the slot"),
    Command("slot", ("f6",), "Next slot"),
    *_WINDOW,
)
BESIDE_REAL_COMMANDS = tuple(command for command in COMMANDS if command.name in {
    "keys", "pause", "step", "restart", "new_seed", "rollback", *(command.name for command in _WINDOW),
})  # fmt: skip
REPLAY_COMMANDS = (
    Command("take_over", ("return", "kp_enter"), "Play on from here"),
    Command("pause", ("p", "space", "pause"), "Pause"),
    Command("step", ("n", "period"), "One frame on"),
    Command("step_back", ("comma",), "One frame back"),
    Command("earlier", ("left",), "Two seconds back"),
    Command("later", ("right",), "Two seconds on"),
    Command("first", ("home",), "To the beginning"),
    Command("last", ("end",), "To the end"),
    Command("faster", ("up", "equals"), "Faster"),
    Command("slower", ("down", "minus"), "Slower"),
    *_WINDOW,
)


def commands_beside(actions: Iterable[ActionSpec], commands: Iterable[Command] = COMMANDS) -> tuple[Command, ...]:
    """Return the commands with only the keys that no action of the world has taken."""
    taken = {key for action in actions for key in action.keys}
    return tuple(Command(command.name, tuple(k for k in command.keys if k not in taken), command.label) for command in commands)
