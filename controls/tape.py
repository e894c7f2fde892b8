"""A tape plays in place of hands: the actions of each tick, one after the other."""

from collections.abc import Iterable, Mapping, Sequence

from controls.keyboard import Held, Player
from controls.keys import Actions, ActionSpec, shares


class Nobody:
    """Holds no key, for ever."""

    keys: Mapping[str, tuple[str, ...]] = {}

    def bind(self, actions: Iterable[ActionSpec]) -> None:
        """Nobody needs to know the actions."""

    def take(self) -> Held:
        """Return a tick without actions."""
        return Held()


class Tape:
    """Play a tape from its first tick; after its last, `then` plays on, and without `then` the game ends."""

    def __init__(self, ticks: Sequence[Actions], then: Player | None = None) -> None:
        self._ticks = iter(ticks)
        self._then = then
        self._known: set[str] | None = None  # actions of the world being played

    @property
    def keys(self) -> Mapping[str, tuple[str, ...]]:
        """Those of the player who plays on."""
        return self._then.keys if self._then else {}

    def bind(self, actions: Iterable[ActionSpec]) -> None:
        """A tape is in its world's own words: what another world does not know is left out there."""
        actions = tuple(actions)
        self._known = {action.name for action in actions}
        if self._then:
            self._then.bind(actions)

    def take(self) -> Held | None:
        """Return the actions of the next tick."""
        for actions in self._ticks:
            known = {name: share for name, share in shares(actions).items() if self._known is None or name in self._known}
            return Held(tuple(known) if isinstance(actions, tuple) else known)
        return self._then.take() if self._then else None
