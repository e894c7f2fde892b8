"""What a real game is to a world that learns it: pictures that answer to named actions, and someone who plays.

Timing as everywhere: `Game.step(action n)` returns frame n, the one that this action led to.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from world_model.real.origin import Origin


def share(actions: Collection[str], name: str) -> float:
    """Return how far an action is held, from 0 to 1."""
    return float(actions.get(name, 0.0)) if isinstance(actions, Mapping) else float(name in actions)


class GameError(ValueError):
    """A real game that cannot be played here; the message is one sentence for the user."""


class Game(Protocol):
    """A real game in a world's own words.

    Attributes:
        state: what is true after the last frame: ``x``, ``y``, ``angle`` in degrees and whatever else is known; of what moves by itself, ``bodies``: lists of a
            number that stays with each, its kind, x, y and angle. None where nothing is.
        tally: how often what happened since the last reset: a shot, a hit, a death.
    """

    state: dict[str, Any] | None
    tally: Counter[str]

    def reset(self, seed: int) -> np.ndarray:
        """Begin again, everything random drawn from `seed`; return the first frame, uint8 [height, width, 3]."""

    def step(self, actions: Collection[str]) -> np.ndarray | None:
        """Hold the named actions, or with a mapping some of them partly, for one frame and return it; None if the game is over and does not go on."""

    def close(self) -> None:
        """Leave the game."""


class Player(Protocol):
    """A scripted player. It may look at the game itself: at depth, at where the road goes, at where the monsters are."""

    def act(self, game: Any, frame: np.ndarray) -> Collection[str]:
        """Return the actions that lead to the next frame, or a mapping of how far each is held."""


@dataclass(frozen=True)
class Source:
    """Where a world comes from: what is said about it, how its real game is opened, who plays, and the package that all this needs."""

    origin: Origin
    open: Callable[[], Game]
    player: Callable[[np.random.Generator], Player]
    needs: str
