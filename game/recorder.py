"""Recording beside the game: a worker writes what the generation thread hands over.

The queue between them is bounded and never drops: a disk that cannot keep up slows the game, and the HUD says so, but no
frame of the tape is lost. A frame is written when the next one comes, because only then the time is known at which it was on the
screen. When writing fails (full disk, removed folder), the player is told in one sentence, what was written stays readable, and
the game goes on.
"""

import contextlib
import itertools
import os
import platform
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from game.history import Moment
from world_model.machine import processor
from world_model.session import SessionError, SessionWriter, frame_digest

QUEUE_FRAMES = 64
WORKER_NICENESS = 19  # it writes while the processors have nothing to generate
MEASURED_FRAMES = 16
STATE_S = 20  # so long after one state the next is kept
PACKAGES = ("rolling-worlds", "torch", "numpy", "pygame-ce", "av")

SaveState = Callable[[Path, Any], None]


@dataclass(frozen=True)
class Recorded:
    """How much of a session has been written: frames and bytes."""

    frames: int
    num_bytes: int


@dataclass(frozen=True)
class Part:
    """What a session holds of a stream: so many frames after the one with the number `began`."""

    directory: Path
    began: int
    frames: int

    def parent(self, moment: Moment) -> dict[str, Any] | None:
        """Return how a session that goes on from this moment names this one as its parent; None if the moment is not in it."""
        frame = moment.number - self.began
        return {"session": self.directory.name, "frame": frame, "digest": frame_digest(moment.frame)} if 0 <= frame <= self.frames else None


class Recorder:
    """Record one stream into a new folder.

    Args:
        open_writer: begins the session; called in the worker.
        began: the moment that the session begins with; its first frame is the one after.
        save_state: writes what a moment has saved to a path.
        tell: called once, from the worker, with a sentence for the player if recording fails.
    """

    def __init__(self, open_writer: Callable[[], SessionWriter], began: Moment, save_state: SaveState, tell: Callable[[str], None]) -> None:
        self._began, self._save_state, self._tell = began, save_state, tell
        self._open_writer: Callable[[], SessionWriter] | None = open_writer
        self._writer: SessionWriter | None = None
        self._queue: queue.Queue[Moment | None] = queue.Queue(QUEUE_FRAMES)
        self._failed = False
        self.recorded = Recorded(0, 0)
        self._worker = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._worker.start()

    @property
    def writing(self) -> bool:
        """Whether everything so far has reached the disk or is on its way."""
        return not self._failed

    @property
    def directory(self) -> Path | None:
        """Where the session is, once it has begun."""
        return self._writer.directory if self._writer else None

    def append(self, moment: Moment) -> None:
        """Hand over one frame and what led to it; waits only if the worker is far behind."""
        self._queue.put(moment)

    def close(self) -> None:
        """Write what was handed over and finish the files; calling it again only waits for that."""
        self._queue.put(None)
        self._worker.join()

    @property
    def part(self) -> Part | None:
        """What it has written; None if the session has not begun."""
        return Part(self.directory, self._began.number, self.recorded.frames) if self.directory else None

    def _work(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICENESS)
        # After a failure the queue is still emptied, so that the game never waits for a disk that is gone.
        self._attempt(self._open)
        waiting: Moment | None = None
        while moment := self._queue.get():
            if waiting:
                self._attempt(self._write, waiting)
            waiting = moment
        if waiting:
            self._attempt(self._write, waiting)
        if self._writer:
            self._attempt(self._writer.close, always=True)
            self._attempt(self._measure)

    def _open(self) -> None:
        open_writer, self._open_writer = self._open_writer, None  # it may hold on to the session before, and that to a stream
        assert open_writer, "a session is opened once"
        self._writer = open_writer()

    def _write(self, moment: Moment) -> None:
        assert self._writer, "nothing is written after a failure"
        write(self._writer, moment, self._began, self._save_state)
        self.recorded = Recorded(self._writer.num_frames, self.recorded.num_bytes)
        if self._writer.num_frames % MEASURED_FRAMES < len(moment.block):
            self._measure()

    def _measure(self) -> None:
        assert self._writer, "nothing is measured after a failure"
        self.recorded = Recorded(self._writer.num_frames, self._writer.size())

    def _attempt(self, write: Callable[..., None], *arguments: object, always: bool = False) -> None:
        if self._failed and not always:
            return
        try:
            write(*arguments)
        except Exception as error:  # whatever it was, the player must hear that his recording stopped
            if not self._failed:
                self._tell(str(error) if isinstance(error, ValueError) else f"Recording stopped: {error}.")
            self._failed = True


def write(writer: SessionWriter, moment: Moment, began: Moment, save_state: SaveState) -> None:
    """Append the frames of a moment to a session that began with another, and every twenty seconds its state.

    What happened once for all of the frames stands with the first.
    """
    input_s, flip_s = (None if time is None else round(time - began.made_s, 4) for time in (moment.input_s, moment.flip_s))
    once = (moment.rollback, moment.prompt, input_s, flip_s)
    for frame in moment.block:
        writer.append(frame, moment.actions, *once)
        once = (0, moment.prompt, None, None)
    if moment.saved and writer.num_frames % max(1, round(STATE_S * writer.fps)) < len(moment.block):
        writer.keep_state(lambda path: save_state(path, moment.saved))


def session_header(
    world: Any, seed: int, start: int, rollback: int, keys: Mapping[str, Sequence[str]], parent: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the facts that a session of `world` begins with.

    `rollback` is the wanted one, the tape says what was done; `keys` are those that the player has for the actions, and where he has none the card's count.
    """
    card = world.card
    return {
        "source": "play",
        "world": card.name,
        "world_sha256": world.sha256,
        "seed": seed,
        "start": start,
        "rollback": rollback,
        **({"dtype": str(world.dtype).removeprefix("torch.")} if hasattr(world, "dtype") else {}),
        **({"parent": parent} if parent else {}),
        "fps": card.fps,
        "width": card.width,
        "height": card.height,
        "actions": [action.name for action in card.actions],
        "keys": {action.name: list(keys.get(action.name, action.keys)) for action in card.actions},
        **surroundings(world),
    }


def surroundings(world: Any) -> dict[str, Any]:
    """Return the versions, the machine and the device that frames depend on."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count()},
        **({"device": str(world.device)} if hasattr(world, "device") else {}),
    }


def new_folder(directory: Path) -> Path:
    """Make `directory`, or if it is taken the first free one of ``directory-2``, ``directory-3`` ...; nobody else gets the same.

    Raises:
        SessionError: none can be made.
    """
    for number in itertools.count(1):
        folder = directory if number == 1 else directory.with_name(f"{directory.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except OSError as error:
            if not os.path.lexists(folder):
                raise SessionError(f"Cannot record into {folder}: {error.strerror}.") from error
    raise AssertionError("numbers do not end")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
