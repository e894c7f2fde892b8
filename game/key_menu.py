"""The menu in which the player chooses the keys of a world's actions, on the keyboard and on a gamepad."""

from collections.abc import Callable

import numpy as np
import pygame

from controls.keyboard import Keyboard
from controls.keys import CODES, NAMES, ActionSpec
from game import theme
from game.widgets import clipped, column, key_cap, panel, row, text, widened

ROWS = 12
KEYS = {
    "up": ("up", "pad_up", "stick_up"), "down": ("down", "pad_down", "stick_down"), "set": ("return", "kp_enter", "pad_a"),
    "more": ("insert", "equals", "pad_y"), "forget": ("backspace", "delete", "pad_x"), "close": ("escape", "f10", "pad_b"),
}  # fmt: skip
MEANING = {CODES[key]: meaning for meaning, keys in KEYS.items() for key in keys}


class KeyMenu:
    """Choose an action, then press its new key; Esc is never one, for it leads out everywhere.

    Args:
        actions: of the world being played, as its card has them.
        keyboard: learns the new keys at once.
        tell: called with a sentence if they cannot be kept.
    """

    def __init__(self, actions: Callable[[], tuple[ActionSpec, ...]], keyboard: Keyboard, tell: Callable[[str], None]) -> None:
        self._actions, self._keyboard, self._tell = actions, keyboard, tell
        self._row = 0
        self.waits = ""  # for a key: to set it, or for one more

    def press(self, code: int) -> bool:
        """Take in a key; return whether the menu stays open."""
        actions, meaning = self._actions(), MEANING.get(code)
        if self.waits:
            more, self.waits = self.waits == "more", ""
            if code not in NAMES:
                self._tell("This key has no name here; take another one")
            elif code != CODES["escape"]:
                self._keep(lambda: self._keyboard.layout.choose(actions, self._name, NAMES[code], more=more))
            return True
        if meaning in ("up", "down"):
            self._row = (self._row + (1 if meaning == "down" else -1)) % max(1, len(actions))
        elif meaning in ("set", "more") and actions:
            self.waits = meaning
        elif meaning == "forget" and actions:
            self._keep(lambda: self._keyboard.layout.forget(self._name))
        return meaning != "close"

    def point(self, place: tuple[int, int], click: bool) -> bool:
        """The mouse means nothing here."""
        return True

    def draw(self, frame: np.ndarray | None, px: int) -> pygame.Surface:
        """Return the picture of it, which needs no frame of the world."""
        laid = self._keyboard.layout.of(self._actions())
        here = self._row % max(1, len(laid))
        first = max(0, min(here - ROWS // 2, len(laid) - ROWS))
        rows = []
        for number, action in list(enumerate(laid))[first : first + ROWS]:
            name = widened(clipped(text(action.label or action.name, px, theme.LIT if number == here else theme.INK), 11 * px), 12 * px)
            asked = self.waits and number == here
            caps = row([key_cap(key, False, px) for key in action.keys], px // 4)
            rows.append(row([name, text("Press a key or a button", px, theme.WARNING) if asked else clipped(caps, 26 * px)], px))
        table = column(rows or [text("This world has no keys.", px, theme.QUIET)], px // 2)
        meanings = (("return", "Other key"), ("equals", "One more key"), ("backspace", "As the world says"), ("escape", "Back"))
        foot = row([part for key, words in meanings for part in (key_cap(key, False, px), text(words, px, theme.QUIET))], px // 2)
        return panel(column([text("Keys", round(px * 1.5)), table, foot], px), px)

    @property
    def _name(self) -> str:
        actions = self._actions()
        return actions[self._row % len(actions)].name

    def _keep(self, change: Callable[[], None]) -> None:
        try:
            change()
        except OSError as error:
            self._tell(f"The keys cannot be kept: {error}")
        self._keyboard.bind(self._actions())
