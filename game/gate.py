"""The way into another world while one is played.

A world is loaded and tried in a thread beside the game, which plays on; the display loop fetches it when it is there, or a sentence on why it is not. So
nothing that is wrong with a file reaches the game, and the switch itself takes no longer than a few ticks.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from controls.keys import bindings
from game.preview import Preview
from game.shelf import Shelf, Stamp
from game.stage import World

ROOM = 2  # times the size of a file must be free: for the file, and for its weights in the numbers that they are computed in
CLOSING_S = 5.0


@dataclass(frozen=True)
class Arrival:
    """A world that is ready to be played, or why there is none."""

    world: World | None
    keep_screen: bool
    refusal: str = ""


class Gate:
    """Open worlds, one at a time; of two that are asked for, the later one counts.

    Args:
        shelf: where the worlds are found.
        load: loads a file, slowly.
        inside: the file of the world that is played first.
        watch: whether to load the world that is played again when its file changes, with the screen kept.

    Attributes:
        keep_screen: whether the next world begins from the frame on the screen, and not afresh.
        opening: the file that is being loaded.
        preview: where a world can be looked at before it is entered.
    """

    def __init__(self, shelf: Shelf, load: Callable[[Path], World], inside: Path | None = None, watch: bool = False) -> None:
        self.shelf, self.inside, self.watch = shelf, inside and inside.resolve(), watch
        if inside:
            shelf.add(inside)
        self.keep_screen = False
        self.opening: Path | None = None
        self._load = load
        self._seen: Stamp | None = None  # of the file inside, the last time that it was looked at
        self._arrival: Arrival | None = None
        self._let_in: tuple[World, Path] | None = None  # the world that arrived last, and its file
        self._asked, self._closed = 0, False
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self.preview = Preview(self._show)
        self._worker: threading.Thread | None = None

    @property
    def sign(self) -> str:
        """What the player must know about the gate."""
        opening = self.opening
        return f"Loading {opening.stem}" if opening else ""

    def enter(self, path: Path, *, keep_screen: bool | None = None) -> None:
        """Begin to load a file; `keep_screen` in place of the attribute."""
        with self._lock:
            self._asked, self.opening, self._arrival = self._asked + 1, path, None
        keep = self.keep_screen if keep_screen is None else keep_screen
        self._worker = threading.Thread(target=self._open, args=(self._asked, path, keep), name="gate", daemon=True)
        self._worker.start()

    def fetch(self, playing: World | None = None) -> Arrival | None:
        """Take out what has arrived since. `playing` is the world that is played now: not what arrived last if the game would not have it."""
        if (let_in := self._let_in) and let_in[0] is playing and let_in[1] != self.inside:
            self.inside, self._seen = let_in[1], None
        if self.watch and not self.opening:
            self._look_for_change()
        with self._lock:
            arrival, self._arrival = self._arrival, None
        return arrival

    def close(self) -> None:
        """Open nothing more."""
        self._closed = True
        self.shelf.close()
        self.preview.close()
        if self._worker:
            self._worker.join(CLOSING_S)

    def _look_for_change(self) -> None:
        if entry := self.shelf.find(self.inside):
            before, self._seen = self._seen, entry.stamp
            if before not in (None, entry.stamp):
                self.enter(entry.path, keep_screen=True)

    def _open(self, number: int, path: Path, keep_screen: bool) -> None:
        with self._loading:
            if number != self._asked or self._closed:
                return
            try:
                arrival = Arrival(self.preview.loaded(self.shelf.find(path)) or self._try(path), keep_screen)
            except Exception as error:  # whatever it is, the game goes on
                why = (str(error) or type(error).__name__).splitlines()[0]
                arrival = Arrival(None, keep_screen, why if isinstance(error, ValueError) else f"{path} cannot be entered: {why}.")
            with self._lock:
                if number == self._asked:
                    if arrival.world:
                        self._let_in = arrival.world, path
                    self._arrival, self.opening = arrival, None

    def _show(self, path: Path) -> World:
        with self._loading:
            return self._try(path)

    def _try(self, path: Path) -> World:
        """Return a world that has made a frame, so that it is neither damaged nor slow to begin."""
        free, size = free_bytes(), path.stat().st_size if path.exists() else 0
        if free is not None and ROOM * size > free:
            raise ValueError(f"{path} is too large for the memory that is free: it needs some {ROOM * size >> 20} MB of {free >> 20}.")
        world = self._load(path)
        bindings(world.card.actions)
        _ = world.sha256  # of the file as it is now; it may be another one when first asked for
        if not world.card.parts:
            world.stream().tick((), rollback=0)
        return world


def free_bytes(root: Path = Path("/")) -> int | None:
    """Return how much memory is free, in the machine or in the container that this runs in; None where the system does not say."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    group = root / "sys/fs/cgroup"
    try:
        used, most = int((group / "memory.current").read_text()), int((group / "memory.max").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):  # no container, or one without a limit
        return free
    return min(free, most - used + cached)
