"""The worlds that can be entered now: those in the folders, and files that were dropped on the window.

A worker looks once a second, so that a file appears, changes and goes without a restart. It reads the card and one picture of a file that is new or
has changed, and never the model.
"""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world_model.card import Card, WorldError, read_card, read_screen, world_files

LOOK_S = 1.0

Stamp = tuple[int, int]  # time of change in ns and size: another file has another one


@dataclass(frozen=True)
class Entry:
    """One file: its card and a picture of it, or why it is no world."""

    path: Path
    stamp: Stamp
    card: Card | None = None
    picture: np.ndarray | None = None  # uint8 [height, width, 3]
    fault: str = ""


class Shelf:
    """Keep the list of worlds. `entries` may be read by any thread at any time."""

    def __init__(self) -> None:
        self.entries: tuple[Entry, ...] = ()
        self._added: list[Path] = []
        self._wake, self._closed = threading.Event(), False
        self._worker = threading.Thread(target=self._work, name="shelf", daemon=True)

    def open(self) -> None:
        """Begin to look."""
        self._worker.start()

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        self._wake.set()
        if self._worker.is_alive():
            self._worker.join()

    def add(self, path: Path) -> None:
        """Put a file on the shelf, wherever it lies."""
        self._added = [*self._added, path]
        self._wake.set()

    def find(self, path: Path | None) -> Entry | None:
        """Return the entry of a file."""
        return next((entry for entry in self.entries if entry.path == path), None)

    def look(self) -> None:
        """Bring the list up to date."""
        known = {entry.path: entry for entry in self.entries}
        entries: dict[Path, Entry] = {}
        for path in dict.fromkeys(path.resolve() for path in [*world_files(), *self._added]):
            try:
                found = path.stat()
            except OSError:  # gone meanwhile
                continue
            before, stamp = known.get(path), (found.st_mtime_ns, found.st_size)
            entries[path] = before if before and before.stamp == stamp else _read(path, stamp)
        self.entries = tuple(entries.values())

    def _work(self) -> None:
        while not self._closed:
            self.look()
            self._wake.wait(LOOK_S)
            self._wake.clear()


def _read(path: Path, stamp: Stamp) -> Entry:
    try:
        card = read_card(path)
        return Entry(path, stamp, card, read_screen(path, card))
    except WorldError as error:
        return Entry(path, stamp, fault=str(error))
