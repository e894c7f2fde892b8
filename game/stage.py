"""What a game is played on: a world, a stream of it, and a screen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from controls.keys import Actions
from game.mailbox import Picture


class Stream(Protocol):
    """A running world, as `World.stream` returns it."""

    prompt: str  # of a text world

    @property
    def screen(self) -> np.ndarray: ...
    @property
    def frame(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def rolled_back(self) -> int: ...
    def tick(self, action: Actions, *, rollback: int) -> np.ndarray: ...
    def snapshot(self) -> dict[str, Any]: ...
    def restore(self, saved: Mapping[str, Any]) -> None: ...
    def save(self, path: Path, saved: dict[str, Any] | None = None) -> None: ...
    def load(self, path: Path) -> dict[str, Any]: ...


class World(Protocol):
    """A loaded world, as `World.load` returns it."""

    @property
    def card(self) -> Any: ...
    @property
    def sha256(self) -> str: ...
    def stream(self, seed: int = 0, start: Any = 0) -> Stream: ...


class Screen(Protocol):
    """Where pictures and sentences for the player go."""

    def show(self, picture: Picture) -> None: ...
    def tell(self, sentence: str) -> None: ...
