"""Names of keys, and the actions that a world binds to them.

A world's card names keys by their place on a US keyboard (``"up"``, ``"w"``). Places are what a player's fingers know, so
keys are told apart by scancode, not by the letter printed on them: W A S D stay a cross on a French keyboard. The codes
are the USB HID usages that SDL and pygame use as well, which is why this table needs neither of them. The buttons of a
gamepad, its left stick and its triggers are keys too, with codes beyond those of a keyboard.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

SCANCODES: Mapping[str, int] = {
    **{letter: 4 + place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz")},
    **{digit: 30 + place for place, digit in enumerate("1234567890")},
    **{f"f{number}": 57 + number for number in range(1, 13)},
    **{f"kp{number}": 88 + number for number in range(1, 10)},
    "return": 40, "escape": 41, "backspace": 42, "tab": 43, "space": 44,
    "minus": 45, "equals": 46, "leftbracket": 47, "rightbracket": 48, "backslash": 49,
    "semicolon": 51, "apostrophe": 52, "grave": 53, "comma": 54, "period": 55, "slash": 56,
    "pause": 72, "insert": 73, "home": 74, "pageup": 75, "delete": 76, "end": 77, "pagedown": 78,
    "right": 79, "left": 80, "down": 81, "up": 82, "kp_enter": 88, "kp0": 98,
    "lctrl": 224, "lshift": 225, "lalt": 226, "rctrl": 228, "rshift": 229, "ralt": 230,
}  # fmt: skip

GAMEPAD: Mapping[str, int] = {
    name: 1024 + place
    for place, name in enumerate((
        "pad_a", "pad_b", "pad_x", "pad_y", "pad_back", "pad_start", "pad_l1", "pad_r1", "pad_l2", "pad_r2", "pad_l3", "pad_r3",
        "pad_up", "pad_down", "pad_left", "pad_right", "stick_up", "stick_down", "stick_left", "stick_right",
    ))
}  # fmt: skip
CODES: Mapping[str, int] = {**SCANCODES, **GAMEPAD}
NAMES: Mapping[int, str] = {code: name for name, code in CODES.items()}


Actions = tuple[str, ...] | Mapping[str, float]  # names; or, where some are held partly, how far each is: more than 0, at most 1


class ActionSpec(Protocol):
    """One action of a world's card: its name, the keys that ask for it, words for the help screen, and whether it can be held partly."""

    @property
    def name(self) -> str: ...
    @property
    def keys(self) -> tuple[str, ...]: ...
    @property
    def label(self) -> str: ...
    @property
    def analogue(self) -> bool: ...


def shares(actions: Actions) -> dict[str, float]:
    """Return how far each held action is held."""
    return dict(actions) if isinstance(actions, Mapping) else dict.fromkeys(actions, 1.0)


def bindings(actions: Iterable[ActionSpec]) -> dict[int, str]:
    """Return {scancode: action name} for the actions of a card.

    Raises:
        ValueError: a key name is unknown, or one key is bound to two actions.
    """
    bound: dict[int, str] = {}
    for action in actions:
        for key in action.keys:
            code = CODES.get(key.lower())
            if code is None:
                raise ValueError(f"The world binds the action {action.name!r} to {key!r}, which is not the name of a key.")
            if code in bound:
                raise ValueError(f"The world binds the key {key!r} to both {bound[code]!r} and {action.name!r}.")
            bound[code] = action.name
    return bound
