"""Which keys ask for which action: those of the world's card and the usual ones of a gamepad, and over them what the player chose.

The player's choice counts for an action's name in every world that has it, and is kept in a JSON file of his own. A key
means one thing at a time: where two actions want it, the one that the player chose it for has it.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from controls.keys import CODES, GAMEPAD, ActionSpec

MAX_BYTES = 1 << 20
DIRECTIONS = {"left": ("left",), "right": ("right",), "up": ("forward", "up"), "down": ("backward", "back", "down")}
TRIGGERS = ("pad_r2", "pad_l2")  # for what can be held partly
SIDES = {"left": "pad_l1", "right": "pad_r1"}  # for a second pair, as turning and stepping aside
BUTTONS = ("pad_a", "pad_b", "pad_x", "pad_y", "pad_r2", "pad_l2", "pad_r1", "pad_l1", "pad_r3", "pad_l3")

Name = Annotated[str, Meta(min_length=1, max_length=64)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    keys: dict[Name, Annotated[tuple[Name, ...], Meta(max_length=16)]]


@dataclass(frozen=True)
class Bound:
    """An action and the keys that ask for it here; looks like an action of a card."""

    name: str
    keys: tuple[str, ...]
    label: str
    analogue: bool


class Layout:
    """The keys of all actions.

    Args:
        path: where the player's choice is kept; without one it is forgotten in the end.

    Attributes:
        notice: one sentence on why the file was not taken, empty if all is well.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.notice = ""
        self._path = path
        self._own: dict[str, tuple[str, ...]] = {}
        if path and path.exists():
            try:
                self._own = _read(path)
            except (OSError, ValueError) as error:
                self.notice = f"The keys are those of the worlds, for {path} cannot be used: {error}."

    def of(self, actions: Iterable[ActionSpec]) -> tuple[Bound, ...]:
        """Return the actions of a world with the keys that they have for this player, those of a gamepad last."""
        actions, taken, keys = tuple(actions), set[str](), dict[str, tuple[str, ...]]()
        usual = gamepad_keys(actions)
        for action in sorted(actions, key=lambda action: action.name not in self._own):
            wanted = self._own.get(action.name, tuple(key.lower() for key in action.keys) + usual[action.name])
            keys[action.name] = tuple(sorted((key for key in dict.fromkeys(wanted) if key not in taken), key=GAMEPAD.__contains__))
            taken |= set(wanted)
        return tuple(Bound(action.name, keys[action.name], action.label, action.analogue) for action in actions)

    def choose(self, actions: Iterable[ActionSpec], name: str, key: str, *, more: bool = False) -> None:
        """Let a key ask for the action of that name, in place of its other keys of the same device or with `more` beside them; keep that.

        Raises:
            OSError: it cannot be written; it counts until the end all the same.
        """
        now = {bound.name: bound.keys for bound in self.of(actions)}
        kept = (other for other in now[name] if other != key and (more or (other in GAMEPAD) != (key in GAMEPAD)))
        for other in now.keys() & self._own.keys():
            self._own[other] = tuple(k for k in self._own[other] if k != key)
        self._own[name] = (*kept, key)
        self._write()

    def forget(self, name: str) -> None:
        """Give an action the keys of the card again; raise OSError as `choose` does."""
        self._own.pop(name, None)
        self._write()

    def _write(self) -> None:
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_name(self._path.name + ".part")
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(_File(1, self._own))))
            os.replace(temporary, self._path)


def gamepad_keys(actions: Iterable[ActionSpec]) -> dict[str, tuple[str, ...]]:
    """Return by action the usual keys of a gamepad.

    What sounds like a direction has the cross and the left stick, what else is analogue a trigger, the rest buttons in order. Keys that the card itself
    names are left alone.
    """
    actions = tuple(actions)
    named = {key.lower() for action in actions for key in action.keys}
    free = [button for button in BUTTONS if button not in named]
    found: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for action in actions:
        words = action.name.split("_")
        direction = next((way for way, names in DIRECTIONS.items() if any(name in words for name in names)), "")
        if direction and direction not in taken:
            taken.add(direction)
            found[action.name] = tuple(key for key in (f"pad_{direction}", f"stick_{direction}") if key not in named)
        elif SIDES.get(direction) in free:
            free.remove(SIDES[direction])
            found[action.name] = (SIDES[direction],)
    for action in sorted((action for action in actions if action.name not in found), key=lambda action: not action.analogue):
        button = next((trigger for trigger in TRIGGERS if action.analogue and trigger in free), free[0] if free else None)
        if button:
            free.remove(button)
        found[action.name] = (button,) if button else ()
    return found


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    with open(path, "rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    keys = msgspec.json.decode(text, type=_File).keys
    for key in {key for chosen in keys.values() for key in chosen} - CODES.keys():
        raise ValueError(f"{key!r} is not the name of a key")
    return keys
