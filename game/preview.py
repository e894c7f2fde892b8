"""A world that is played for show while the player looks at it in the picker: one action after another is held.

A thread of its own loads and plays it, a few frames a second, so that little is taken from the game beside it. What it has loaded last is kept: the gate
need not load it again.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from game.shelf import Entry
from game.stage import World

REST_S = 0.4  # a player who goes past a world does not want it loaded
PERIOD_S = 0.2
HELD_FRAMES = 6


class Preview:
    """Play the world that is looked at.

    Args:
        load: loads a file, slowly.

    Attributes:
        picture: the newest frame, uint8 [height, width, 3]; None while there is none.
    """

    def __init__(self, load: Callable[[Path], World]) -> None:
        self.picture: np.ndarray | None = None
        self._load = load
        self._entry: Entry | None = None
        self._kept: tuple[Entry, World] | None = None
        self._told, self._closed = threading.Event(), False
        self._worker: threading.Thread | None = None

    def look(self, entry: Entry | None) -> None:
        """Show this world from now on, or none."""
        if entry is not self._entry:
            self._entry, self.picture = entry, None
            self._told.set()
        if entry and not self._worker:
            self._worker = threading.Thread(target=self._work, name="preview", daemon=True)
            self._worker.start()

    def loaded(self, entry: Entry | None) -> World | None:
        """Return the world of a file, if it is the one that was loaded last and has not changed since."""
        kept = self._kept
        return kept[1] if kept and kept[0] is entry else None

    def close(self) -> None:
        """Show nothing more."""
        self._closed = True
        self.look(None)
        self._told.set()

    def _work(self) -> None:
        while not self._closed:
            self._told.clear()
            entry = self._entry
            if entry is None or self._told.wait(REST_S):
                self._told.wait()
                continue
            try:
                world = self.loaded(entry) or self._load(entry.path)
                self._kept = entry, world
                self._play(entry, world)
            except Exception:  # the gate says what is wrong with it when it is to be entered
                self._told.wait()

    def _play(self, entry: Entry, world: World) -> None:
        stream, names = world.stream(), [action.name for action in world.card.actions]
        while not self._told.is_set():
            turn = stream.frame // HELD_FRAMES
            frame = stream.tick((names[turn % len(names)],) if names else (), rollback=0)
            if entry is self._entry:
                self.picture = frame if frame.ndim == 3 else frame[-1]
            self._told.wait(PERIOD_S)
