"""What the player can ask of the game itself, and with which keys.

The keys stay off the ones that worlds like for their actions (arrows, W A S D, space, control, shift). Where a card binds
one of them all the same, the world wins. A command looks like an action of a card, so keys and help treat both alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from controls.keys import ActionSpec


@dataclass(frozen=True)
class Command:
    """One thing to ask of the game; the window has a method of that name (with a leading underscore)."""

    name: str
    keys: tuple[str, ...]
    label: str


COMMANDS = (
    Command("pause", ("p", "pause"), "Pause"),
    Command("step", ("n", "period"), "One step"),
    Command("restart", ("r",), "Restart"),
    Command("new_seed", ("f2",), "New seed, next start"),
    Command("rollback", ("b",), "Rollback depth"),
    Command("type_prompt", ("return",), "Type a prompt"),
    Command("help_page", ("f1", "h"), "Help"),
    Command("figures", ("f3",), "Figures on or off"),
    Command("scaling", ("f4",), "Sharp or smooth pixels"),
    Command("toggle_full_screen", ("f11",), "Full screen"),
    Command("screenshot", ("f12",), "Screenshot"),
    Command("leave", ("escape",), "Quit"),
)


def commands_beside(actions: Iterable[ActionSpec]) -> tuple[Command, ...]:
    """Return the commands with only the keys that no action of the world has taken."""
    taken = {key for action in actions for key in action.keys}
    return tuple(Command(command.name, tuple(k for k in command.keys if k not in taken), command.label) for command in COMMANDS)
