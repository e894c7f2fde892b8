"""The place where the generation thread leaves its newest picture for the display loop.

It holds one picture. If the display has not fetched the last one when the next comes, the newer one takes its place: a
player is served by the newest frame, never by a queue. Sentences for the player, on the other hand, are all kept.
"""

import threading
from dataclasses import dataclass, replace

import numpy as np

from controls.keys import Actions
from game.history import Moment
from game.meters import Speed


@dataclass(frozen=True)
class Picture:
    """One frame for the player, and what he is told about it."""

    frame: np.ndarray  # uint8 [height, width, 3]
    number: int = 0  # frames since the start picture, which is number 0
    actions: Actions = ()  # what the model saw
    input_s: float | None = None  # when the oldest input happened that this frame is the first to obey
    speed: Speed = Speed()
    rollback: int = 0  # by how many levels, when the actions change
    allowed_rollback: int = 0  # by how many the clock allows
    reel: np.ndarray | None = None  # uint8 [frames, height, width, 3]: a block to be shown at the world's fps, `frame` is its last
    moment: Moment | None = None  # is told when the picture is on the screen


class Mailbox:
    """Hand the newest picture, and all sentences, from one thread to another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._filled = threading.Event()
        self._picture: Picture | None = None
        self._sentences: list[str] = []

    def show(self, picture: Picture) -> None:
        """Leave a picture in place of any that was not fetched."""
        with self._lock:
            if self._picture and self._picture.input_s is not None:
                picture = replace(picture, input_s=self._picture.input_s)
            self._picture = picture
            self._filled.set()

    def tell(self, sentence: str) -> None:
        """Leave a sentence for the player."""
        with self._lock:
            self._sentences.append(sentence)
            self._filled.set()

    def wait(self, timeout_s: float) -> None:
        """Wait until there is something to fetch, or until the time is over."""
        self._filled.wait(timeout_s)

    def fetch(self) -> tuple[Picture | None, list[str]]:
        """Take out the newest picture, if there is one that was not fetched, and all sentences."""
        with self._lock:
            picture, self._picture = self._picture, None
            sentences, self._sentences = self._sentences, []
            self._filled.clear()
        return picture, sentences
