"""The player's hands on the keyboard: events go in as they happen, one answer comes out per tick.

An action is on for a tick if one of its keys is down when the tick begins, or went down since the tick before. So a tap of
a millisecond reaches exactly one tick, a key that is released stops at the very next one, and of two keys on one action
either keeps it on. Keys are remembered whether or not anything is bound to them: what is pressed or released while a world
loads counts as soon as it is there. An analogue action is held as far as its stick or trigger is pushed, and wholly by a key.
The window presses, tilts and releases, the generation thread takes; a lock keeps them apart.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from controls.keys import Actions, ActionSpec, bindings
from controls.layout import Layout


@dataclass(frozen=True)
class Held:
    """What is asked of one tick: actions in the card's order, and when the oldest input that it is the first to see happened."""

    actions: Actions = ()
    input_s: float | None = None


class Player(Protocol):
    """Whoever plays: hands on a keyboard, or a tape."""

    @property
    def keys(self) -> Mapping[str, tuple[str, ...]]:
        """The keys that ask for the actions of the world being played, by action; empty without hands."""

    def bind(self, actions: Iterable[ActionSpec]) -> None:
        """Learn the actions of the world about to be played."""

    def take(self) -> Held | None:
        """Return what the next tick shall do; None ends the game."""


class Keyboard:
    """Collect key events by scancode; `take` turns them into the actions of one tick.

    Args:
        layout: the keys that the player chose, over those of the worlds' cards.
    """

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or Layout()
        self._lock = threading.Lock()
        self._actions: tuple[ActionSpec, ...] = ()
        self._analogue: dict[str, bool] = {}  # by action, in the card's order
        self._bound: dict[int, str] = {}
        self._tilts: Mapping[int, float] = {}
        self._down: set[int] = set()
        self._tapped: set[int] = set()
        self._input_s: float | None = None

    def bind(self, actions: Iterable[ActionSpec]) -> None:
        """Give the keys the meaning that a world's card and the player have for them; what is down stays down.

        Raises:
            ValueError: the card names an unknown key, or binds one twice.
        """
        actions = tuple(actions)
        bindings(actions)  # a card that is wrong is refused, whatever the player chose
        bound = bindings(self.layout.of(actions))
        with self._lock:
            self._actions, self._bound = actions, bound
            self._analogue = {action.name: action.analogue for action in actions}
            self._input_s = None

    @property
    def keys(self) -> Mapping[str, tuple[str, ...]]:
        """The keys of every action, as bound now."""
        return {bound.name: bound.keys for bound in self.layout.of(self._actions)}

    def binds(self, scancode: int) -> bool:
        """Tell whether the world gives this key a meaning."""
        return scancode in self._bound

    def press(self, scancode: int, now_s: float) -> None:
        """Note that a key went down; a key that is down already (auto-repeat) is no new press."""
        with self._lock:
            if scancode not in self._down:
                self._down.add(scancode)
                self._tapped.add(scancode)
                self._note(scancode, now_s)

    def release(self, scancode: int, now_s: float) -> None:
        """Note that a key came up."""
        with self._lock:
            if scancode in self._down:
                self._down.discard(scancode)
                self._note(scancode, now_s)

    def tilt(self, tilts: Mapping[int, float], now_s: float, *, further: bool = True) -> None:
        """Note how far every stick and trigger is pushed, from 0 to 1; those that are not named are let go.

        Args:
            further: False takes none for pushed further than it was, only for less far.
        """
        with self._lock:
            before = self._tilts
            self._tilts = dict(tilts) if further else {code: min(share, before.get(code, 0.0)) for code, share in tilts.items()}
            for code in before.keys() | tilts.keys():
                if before.get(code) != self._tilts.get(code) and self._analogue.get(self._bound.get(code, "")):
                    self._note(code, now_s)

    def release_all(self) -> None:
        """Let go of everything: the window lost the keyboard, and no key-up will be heard from now on."""
        with self._lock:
            self._down.clear()
            self._tilts = {}

    @property
    def waits(self) -> bool:
        """Whether something happened that no tick has seen yet."""
        return self._input_s is not None

    def take(self) -> Held:
        """Return the actions of one tick and forget the taps that it has now seen."""
        with self._lock:
            asked: dict[str, float] = {}
            for code in (self._down | self._tapped | self._tilts.keys()) & self._bound.keys():
                name = self._bound[code]
                asked[name] = max(asked.get(name, 0.0), self._share(code, name))
            held = {name: asked[name] for name in self._analogue if asked.get(name)}
            input_s, self._input_s = self._input_s, None
            self._tapped.clear()
        return Held(held if any(share < 1 for share in held.values()) else tuple(held), input_s)

    def _share(self, code: int, name: str) -> float:
        """Return how far a key, button, stick or trigger asks for its action."""
        tilt = self._tilts.get(code, 0.0) if self._analogue[name] else 0.0
        return tilt or float(code in self._down | self._tapped)

    def _note(self, scancode: int, now_s: float) -> None:
        if scancode in self._bound and self._input_s is None:
            self._input_s = now_s
