"""The real game as a yardstick: what it shows under the same keys as a world. Needs ViZDoom; without it a world is measured against itself alone."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from world_model.training.data import Clips
from world_model.world import World


def has_real(world: World) -> bool:
    """Tell whether the real environment of this world can be played here."""
    return world.card.name == "maze" and importlib.util.find_spec("vizdoom") is not None


class RealMaze:
    """The real maze, explored by the scripted player or played by given actions."""

    def __init__(self, world: World) -> None:
        from world_model.training.maze import Maze

        self.world, self.maze = world, Maze()

    def play(self, seed: int, walked: int, then: Iterable[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Explore for `walked` frames, then do what is given; None if the episode ends before that.

        Returns:
            frames uint8 [n, height, width, 3], action vectors [n, actions], states [n, 3] (x, y, heading in degrees).
        """
        from world_model.training.maze import Explorer

        self.maze.game.set_seed(seed)
        frame: np.ndarray | None = self.maze.reset()
        player, frames, vectors, states = Explorer(np.random.default_rng(seed)), [], [], []
        tape = list(then)
        for n in range(walked + len(tape)):
            assert frame is not None
            names = player.act(frame, self.maze.depth) if n < walked else tape[n - walked]
            frame, _ = self.maze.step(names)
            if frame is None:
                return None
            frames.append(frame)
            vectors.append(self.world.action_vector(names))
            states.append([self.maze.state[name] for name in ("x", "y", "angle")])
        return np.stack(frames), np.stack(vectors), np.array(states, np.float32)

    def clips(self, count: int, length: int, tapes: list[list[Any]] | None = None, seed: int = 0) -> Clips:
        """Return `count` clips of `length` frames, each from another seed: explored, or explored for a second and then played by its tape."""
        rng = np.random.default_rng(seed)
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        while len(parts) < count:
            tape = tapes[len(parts)] if tapes else []
            made = self.play(int(rng.integers(1 << 30)), length - len(tape), tape)
            if made:
                parts.append(made)
        frames, actions, states = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Clips(Path(), frames, actions, states, np.arange(count + 1) * length, self.world.card.action_names)

    def close(self) -> None:
        """End the game process."""
        self.maze.close()
