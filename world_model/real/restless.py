"""Players for any game: one that knows nothing but the actions and tries everything that fingers do, and one that does so between other things."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from world_model.card import ActionSpec
from world_model.real.game import Game

STEPS = 8  # in which a stick is pushed


class Restless:
    """Hold an action, a chord of actions, tap one, or hold still, each for a random number of frames; half of the time analogue actions are held partly."""

    def __init__(self, actions: Sequence[ActionSpec], rng: np.random.Generator) -> None:
        self.actions, self.rng = {action.name: action.analogue for action in actions}, rng
        self.held: Collection[str] = frozenset()
        self.left = 0  # frames until the next choice

    def act(self, game: Game, frame: np.ndarray) -> Collection[str]:
        """Return the actions of the next frame."""
        if self.left == 0:
            self._choose()
        self.left -= 1
        return self.held

    def _choose(self) -> None:
        rng = self.rng
        kind = str(rng.choice(["hold", "chord", "tap", "pause"], p=[0.45, 0.25, 0.15, 0.15]))
        count, shortest, longest = {"hold": (1, 4, 30), "chord": (int(rng.integers(2, 4)), 3, 20), "tap": (1, 1, 3), "pause": (0, 2, 16)}[kind]
        names = rng.choice(list(self.actions), min(count, len(self.actions)), replace=False).tolist()
        self.left = int(rng.integers(shortest, longest + 1))
        self.held = frozenset(names)
        if any(self.actions[name] for name in names) and rng.random() < 0.5:
            self.held = {name: int(rng.integers(1, STEPS + 1)) / STEPS if self.actions[name] else 1.0 for name in sorted(names)}


class Moody:
    """Do one thing for a while and then another. A subclass says what is held in a mood that begins, and what to do in the main one.

    Args:
        moods: by name the share of the choices, and from how many to below how many frames it lasts. The first is the main one; in ``any`` a `Restless`
            plays.
    """

    def __init__(self, actions: Sequence[ActionSpec], rng: np.random.Generator, moods: Mapping[str, tuple[float, int, int]]) -> None:
        self.rng, self.restless, self.moods = rng, Restless(actions, rng), moods
        self.main = self.mood = next(iter(moods))
        self.left = 0  # frames until the next choice
        self.held: Collection[str] = frozenset()

    def begin(self) -> Collection[str]:
        """Return the actions to hold in the mood that begins."""
        raise NotImplementedError

    def pursue(self, game: Any) -> Collection[str]:
        """Return the next frame's actions in the main mood."""
        raise NotImplementedError

    def act(self, game: Any, frame: np.ndarray) -> Collection[str]:
        """Return the actions of the next frame."""
        if self.left <= 0:
            self.mood = str(self.rng.choice(list(self.moods), p=[share for share, _, _ in self.moods.values()]))
            self.left = int(self.rng.integers(*self.moods[self.mood][1:]))
            self.held = self.begin()
        self.left -= 1
        if self.mood == self.main:
            self.held = self.pursue(game)
        elif self.mood == "any":
            self.held = self.restless.act(game, frame)
        return self.held
