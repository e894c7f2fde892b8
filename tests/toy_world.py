"""A world without a network, for tests of the game: its frames say which tick they are and what the tick was asked for."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from controls.keys import SCANCODES, Actions
from game.pacing import Clock
from world_model.card import ActionSpec, Card

UP, W, LEFT = SCANCODES["up"], SCANCODES["w"], SCANCODES["left"]
FORWARD, TURN = "forward", "turn_left"
CARD = Card(
    format=1, name="toy", title="Toy", description="A world for tests.", data_source="none", licence="CC0", width=32, height=24, fps=20.0,
    actions=(ActionSpec(FORWARD, ("up", "w"), "Walk"), ActionSpec(TURN, ("left",), "Turn left")),
    num_starts=3, start_frames=1, transformer={}, autoencoder={}, window={"ladder": [1.0, 0.7, 0.4]},
)  # fmt: skip


class ToyWorld:
    """Counts its ticks and remembers what they were asked for; `during_tick` is called in each."""

    sha256 = "0" * 64

    def __init__(self, card: Card = CARD, during_tick: Callable[[int], None] = lambda number: None) -> None:
        self.card, self.during_tick = card, during_tick
        self.asked: list[Actions] = []
        self.streams: list[tuple[int, int]] = []
        self.rolled_back: list[int] = []

    def frame_of(self, number: int) -> np.ndarray | None:
        """The picture of a tick, if not what its stream makes of it."""
        return None

    def stream(self, seed: int = 0, start: int = 0) -> "ToyStream":
        self.streams.append((seed, start))
        return ToyStream(self, seed)


class ToyStream:
    def __init__(self, world: ToyWorld, seed: int) -> None:
        self.world, self.seed, self.number = world, seed, 0
        self.last: Actions = ()
        self.rolled_back = 0
        self.screen = self._frame(())

    def tick(self, action: Actions, *, rollback: int) -> np.ndarray:
        self.number += 1
        asked = action if isinstance(action, dict) else tuple(action)
        self.rolled_back = rollback if self.number > 1 and asked != self.last else 0
        self.last = asked
        self.world.rolled_back.append(self.rolled_back)
        self.world.asked.append(asked)
        self.world.during_tick(self.number)
        self.screen = self._frame(asked)
        return self.screen

    def prepare(self) -> None:
        pass

    @property
    def frame(self) -> int:
        return self.number

    def snapshot(self) -> dict[str, Any]:
        return {"number": self.number, "seed": self.seed, "last": self.last, "screen": self.screen}

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.number, self.seed, self.last, self.screen = saved["number"], saved["seed"], saved["last"], saved["screen"]

    def save(self, path: Path, saved: dict[str, Any] | None = None) -> None:
        saved = self.snapshot() if saved is None else saved
        path.write_text(json.dumps({**saved, "screen": saved["screen"].tolist()}))

    def load(self, path: Path) -> dict[str, Any]:
        saved = json.loads(path.read_text())
        return {**saved, "last": tuple(saved["last"]), "screen": np.array(saved["screen"], np.uint8)}

    def _frame(self, asked: Actions) -> np.ndarray:
        frame = np.zeros((self.world.card.height, self.world.card.width, 3), np.uint8)
        frame[...] = (self.number % 256, 255 * (FORWARD in asked), self.seed % 256)
        own = self.world.frame_of(self.number)
        return frame if own is None else own


class ToyClock(Clock):
    """Time that passes only by waiting and by `advance`; `during_wait` is called in every wait, with its length, and may return when it is cut short."""

    def __init__(self, during_wait: Callable[[float | None], float | None] = lambda wait_s: None) -> None:
        self.time_s, self.during_wait = 0.0, during_wait

    def now_s(self) -> float:
        return self.time_s

    def wait(self, condition: object, timeout_s: float | None) -> None:
        cut_s = self.during_wait(timeout_s)
        self.time_s += (timeout_s or 0.0) if cut_s is None else cut_s

    def advance(self, seconds: float) -> None:
        self.time_s += seconds
