"""The real game as a yardstick: what it shows under the same keys as a world. Where it cannot be played, a world is measured against itself alone."""

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from world_model.real.sources import SOURCES
from world_model.training.data import BODY, VITALS, Clips, state_vector
from world_model.world import World


def has_real(world: World) -> bool:
    """Tell whether the real game of this world can be played here."""
    source = SOURCES.get(world.card.name)
    return source is not None and importlib.util.find_spec(source.needs) is not None


class RealGame:
    """The real game of a world that ships, played by its scripted player or by given actions."""

    def __init__(self, world: World) -> None:
        self.world, self.source = world, SOURCES[world.card.name]
        self.game = self.source.open()

    def play(self, seed: int, walked: int, then: Iterable[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Let the scripted player play for `walked` frames, then do what is given; None if the game ends before that.

        Returns:
            frames uint8 [n, height, width, 3], action vectors [n, actions], states [n, 4] (x, y, heading in degrees, z of the eye).
        """
        frame: np.ndarray | None = self.game.reset(seed)
        player, frames, vectors, states = self.source.player(np.random.default_rng(seed)), [], [], []
        tape = list(then)
        for n in range(walked + len(tape)):
            assert frame is not None
            names = player.act(self.game, frame) if n < walked else tape[n - walked]
            frame = self.game.step(names)
            if frame is None:
                return None
            assert self.game.state is not None
            frames.append(frame)
            vectors.append(self.world.action_vector(names))
            states.append(state_vector(self.game.state))
        return np.stack(frames), np.stack(vectors), np.array(states, np.float32)

    def endless(self, seed: int, tape: Iterable[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the frames, uint8 [height, width, 3], and action vectors [actions] of a tape; where the game ends, it begins anew somewhere else."""
        rng = np.random.default_rng(seed)
        self.game.reset(int(rng.integers(1 << 30)))
        for names in tape:
            while (frame := self.game.step(names)) is None:
                self.game.reset(int(rng.integers(1 << 30)))
            yield frame, self.world.action_vector(names)

    def clips(self, count: int, length: int, tapes: list[list[Any]] | None = None, seed: int = 0) -> Clips:
        """Return `count` clips of `length` frames, each from another seed: of the scripted player, or of it for a second and then of a tape."""
        rng = np.random.default_rng(seed)
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        while len(parts) < count:
            tape = tapes[len(parts)] if tapes else []
            made = self.play(int(rng.integers(1 << 30)), length - len(tape), tape)
            if made:
                parts.append(made)
        frames, actions, states = (np.concatenate(part) for part in zip(*parts, strict=True))
        nobody = np.zeros((len(states), len(VITALS)), np.float32), np.zeros((len(states), 0, BODY), np.float32)
        return Clips(Path(), frames, actions, states, *nobody, np.arange(count + 1) * length, self.world.card.action_names)

    def close(self) -> None:
        """End the game."""
        self.game.close()
