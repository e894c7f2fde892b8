"""Recording beside the game: a worker writes what the generation thread hands over.

The queue between them is bounded and never drops: a disk that cannot keep up slows the game, and the HUD says so, but no
frame of the tape is lost. When writing fails (full disk, removed folder), the player is told in one sentence, what was
written stays readable, and the game goes on.
"""

import os
import platform
import queue
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from world_model.session import SessionWriter

QUEUE_FRAMES = 64
PACKAGES = ("torch", "numpy", "pygame-ce", "av")


class Recorder:
    """Record one stream into a new folder.

    Args:
        directory: a new or empty folder.
        header: facts of the session, see `session_header`.
        tell: called once, from the worker, with a sentence for the player if recording fails.

    Raises:
        SessionError: the folder is not empty or cannot be written.
    """

    def __init__(self, directory: Path, header: dict[str, Any], tell: Callable[[str], None]) -> None:
        self._writer = SessionWriter(directory, header)
        self._tell = tell
        self._queue: queue.Queue[tuple[np.ndarray, tuple[str, ...], int, str] | None] = queue.Queue(QUEUE_FRAMES)
        self._failed = False
        self._worker = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._worker.start()

    @property
    def writing(self) -> bool:
        """Whether everything so far has reached the disk or is on its way."""
        return not self._failed

    def append(self, frame: np.ndarray, actions: tuple[str, ...], rollback: int, prompt: str = "") -> None:
        """Hand over one frame and what led to it; waits only if the worker is far behind."""
        self._queue.put((frame, actions, rollback, prompt))

    def close(self) -> None:
        """Write what was handed over and finish the files."""
        self._queue.put(None)
        self._worker.join()

    def _work(self) -> None:
        # After a failure the queue is still emptied, so that the game never waits for a disk that is gone.
        while item := self._queue.get():
            if not self._failed:
                self._attempt(self._writer.append, *item)
        self._attempt(self._writer.close)

    def _attempt(self, write: Callable[..., None], *arguments: object) -> None:
        try:
            write(*arguments)
        except Exception as error:  # whatever it was, the player must hear that his recording stopped
            if not self._failed:
                self._tell(str(error) if isinstance(error, ValueError) else f"Recording stopped: {error}.")
            self._failed = True


def session_header(world: Any, seed: int, start: int) -> dict[str, Any]:
    """Return the facts that a session of `world` begins with."""
    card = world.card
    return {
        "source": "play",
        "world": card.name,
        "world_sha256": world.sha256,
        "seed": seed,
        "start": start,
        "fps": card.fps,
        "width": card.width,
        "height": card.height,
        "actions": [action.name for action in card.actions],
        "keys": {action.name: list(action.keys) for action in card.actions},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def next_folder(directory: Path) -> Path:
    """Return `directory`, or if it is taken the first free one of ``directory-2``, ``directory-3`` ..."""
    number, free = 1, directory
    while free.exists():
        number += 1
        free = directory.with_name(f"{directory.name}-{number}")
    return free


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
