"""A world beside the real game that it was learned from: the same start, the same keys, in lock-step, over a meter of how far they diverge.

The pair is played like one world whose frames are twice as wide. What has happened in the real game cannot be taken back, so a game beside it has no
rewind, slots or recordings. When an episode of the real game ends, both begin again elsewhere.
"""

import importlib.util
import math
from typing import Any, Protocol

import numpy as np

from controls.keys import Actions
from game.commands import BESIDE_REAL_COMMANDS
from game.game import Game
from game.reel import side_by_side
from game.stage import Stream, World
from world_model.card import Card
from world_model.psnr import psnr_db
from world_model.real.doom import Doom
from world_model.real.sources import SOURCES

ELSEWHERE = 1009  # seeds of the real game from one seed of the world to the next


class Real(Protocol):
    """A real game."""

    def begin(self, seed: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Play a few frames of a new episode; return them, uint8 [frames, height, width, 3], and their action vectors [frames, actions]."""

    def step(self, actions: Actions) -> np.ndarray | None:
        """Hold the actions for one frame; return it, or None if the episode has ended."""


def check_real(card: Card, *, recorded: bool = False) -> None:
    """Raise ValueError, with one sentence for the user, if this world cannot be played beside the real game here."""
    source = SOURCES.get(card.name)
    if source is None:
        raise ValueError(f"There is no real game to play beside {card.title}; --beside-real knows those of {', '.join(SOURCES)}.")
    if importlib.util.find_spec(source.needs) is None:
        raise ValueError(f"--beside-real plays the real game, which needs {source.needs}; install it by pip install -e '.[make]'.")
    if recorded:
        raise ValueError("A game beside the real one is not recorded; give --beside-real without --record.")


class GameBesideReal(Game):
    """Play a world beside the real game; what is opened is a `Pair`."""

    commands = BESIDE_REAL_COMMANDS

    @property
    def sign(self) -> str:
        """What the player must know about time, or else how close the world is to the real game."""
        stream = getattr(self, "_stream", None)
        return super().sign or (f"Real | world: {stream.psnr_db:.1f} dB" if isinstance(stream, PairStream) and math.isfinite(stream.psnr_db) else "")


class Played:
    """The real game of a world that ships, for as long as the player likes."""

    def __init__(self, world: World) -> None:
        from world_model.evaluation.real import RealGame

        self._real: Any = RealGame(world)  # type: ignore[arg-type]
        if isinstance(self._real.game, Doom):
            self._real.game.game.set_episode_timeout(0)

    def begin(self, seed: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Let the scripted player play for a few frames."""
        while (played := self._real.play(seed, frames, ())) is None:
            seed += 1
        return played[0], played[1]

    def step(self, actions: Actions) -> np.ndarray | None:
        """Play on."""
        return self._real.game.step(actions)

    def close(self) -> None:
        """End the real game."""
        self._real.close()


class Pair:
    """A world and its real game, played as one."""

    def __init__(self, world: World, real: Real) -> None:
        self.world, self.real = world, real
        self.card, self.sha256 = world.card, world.sha256

    def stream(self, seed: int = 0, start: Any = 0) -> Stream:
        """Begin both where a scripted player has come to in the real game; seed and start say where."""
        return PairStream(self, seed, start)  # type: ignore[return-value]


class PairStream:
    """Both in lock-step; the frames are the real one on the left, the world's on the right, and the meter below."""

    prompt = ""

    def __init__(self, pair: Pair, seed: int, start: int) -> None:
        self._pair, self.seed, self._place = pair, seed, seed * ELSEWHERE + start
        self.frame = 0
        self._begin()

    @property
    def rolled_back(self) -> int:
        """By how many levels the world's window went back in the last tick."""
        return self._stream.rolled_back

    def tick(self, action: Actions, *, rollback: int) -> np.ndarray:
        """Advance both by a frame; return both, uint8 [height + 4, 2 * width + 2, 3]."""
        self.frame += 1
        real = self._pair.real.step(action)
        if real is None:
            self._place += 1
            self._begin()
        else:
            self._show(real, self._stream.tick(action, rollback=rollback))
        return self.screen

    def prepare(self) -> None:
        """Let the world do what its next frame need not wait for an action to do."""
        self._stream.prepare()

    def snapshot(self) -> dict[str, Any]:
        """Return nothing, for the real game cannot be brought back."""
        return {}

    def _begin(self) -> None:
        frames, actions = self._pair.real.begin(self._place, self._pair.card.start_frames)
        self._stream: Stream = self._pair.world.stream(seed=self.seed, start=frames, actions=actions)  # type: ignore[call-arg]
        self._show(frames[-1], self._stream.screen)

    def _show(self, real: np.ndarray, made: np.ndarray) -> None:
        self.psnr_db = psnr_db(real, made)
        self.screen = side_by_side(real, made, self.psnr_db)
