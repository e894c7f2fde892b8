"""A player for any game: it knows nothing but the names of the actions, and tries everything that fingers do."""

from collections.abc import Sequence

import numpy as np

from world_model.real.game import Game


class Restless:
    """Hold an action, a chord of actions, tap one, or hold still, each for a random number of frames."""

    def __init__(self, actions: Sequence[str], rng: np.random.Generator) -> None:
        self.actions, self.rng = tuple(actions), rng
        self.held: frozenset[str] = frozenset()
        self.left = 0  # frames until the next choice

    def act(self, game: Game, frame: np.ndarray) -> frozenset[str]:
        """Return the actions of the next frame."""
        if self.left == 0:
            self._choose()
        self.left -= 1
        return self.held

    def _choose(self) -> None:
        rng = self.rng
        kind = str(rng.choice(["hold", "chord", "tap", "pause"], p=[0.45, 0.25, 0.15, 0.15]))
        count, shortest, longest = {"hold": (1, 4, 30), "chord": (int(rng.integers(2, 4)), 3, 20), "tap": (1, 1, 3), "pause": (0, 2, 16)}[kind]
        self.held = frozenset(rng.choice(self.actions, min(count, len(self.actions)), replace=False).tolist())
        self.left = int(rng.integers(shortest, longest + 1))
