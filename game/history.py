"""The last moments of play, kept in memory so that the player can go back to any of them, or save them after the fact.

A moment is what one tick made, what led to it and the state of the stream after it. States share what did not change between them, so a moment of
the maze costs about 0.3 MB and not the 2.6 MB of a whole state. The memory is bounded: past `MAX_BYTES` (256 MB: 52 seconds of the maze, more than
the 30 of an instant clip) the oldest moments are forgotten. What the oldest still shares with younger ones is counted once, with the oldest: the true
need may be higher by one whole state.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from controls.keys import Actions

MAX_BYTES = 256 << 20


@dataclass(slots=True)
class Moment:
    """One tick of play; times in seconds of the game's clock."""

    block: np.ndarray  # uint8 [frames, height, width, 3]
    number: int  # of its last frame, since the stream began
    made_s: float
    saved: Any  # what `restore` of the stream takes; None in worlds whose states are too large to be kept
    actions: Actions = ()
    rollback: int = 0
    prompt: str = ""
    input_s: float | None = None
    flip_s: float | None = None  # set by the window when its first frame is on the screen

    @property
    def frame(self) -> np.ndarray:
        """The last frame, uint8 [height, width, 3]."""
        return self.block[-1]

    def fitted(self, width: int, height: int) -> np.ndarray:
        """Return the last frame at another size, uint8 [height, width, 3]: its middle, where the proportions are others."""
        return np.array(ImageOps.fit(Image.fromarray(self.frame), (width, height), Image.Resampling.BICUBIC))


class History:
    """Moments from the oldest that fits to the newest; the newest is always kept."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._moments: deque[tuple[Moment, int]] = deque()

    def __len__(self) -> int:
        return len(self._moments)

    @property
    def newest(self) -> Moment:
        """The moment that play goes on from."""
        return self._moments[-1][0]

    def add(self, moment: Moment) -> None:
        """Remember a moment, and forget the oldest while they need too much memory."""
        before: set[int] = set()
        if self._moments:
            weigh(self.newest.saved, set(), before)
        size = moment.block.nbytes + weigh(moment.saved, before, set())
        self._moments.append((moment, size))
        self.num_bytes += size
        while self.num_bytes > self.max_bytes and len(self._moments) > 1:
            self.num_bytes -= self._moments.popleft()[1]

    def back(self) -> Moment:
        """Forget the newest moment, unless it is the only one, and return the one that is the newest then."""
        if len(self._moments) > 1:
            self.num_bytes -= self._moments.pop()[1]
        return self.newest

    def cut(self, number: int) -> None:
        """Forget the moments after that number."""
        while self._moments and self.newest.number > number:
            self.num_bytes -= self._moments.pop()[1]

    def find(self, number: int) -> Moment | None:
        """Return the newest moment of that number or an earlier one; None if there is none."""
        return next((moment for moment, _ in reversed(self._moments) if moment.number <= number), None)

    def last(self, count: int) -> list[Moment]:
        """Return the newest moments, at most so many, oldest first."""
        return [moment for moment, _ in list(self._moments)[-count:]]

    def clear(self) -> None:
        """Forget everything."""
        self._moments.clear()
        self.num_bytes = 0


def weigh(part: Any, before: set[int], now: set[int]) -> int:
    """Return the bytes of the arrays in a state, without those whose ids are in `before`; the ids of all of them go into `now`."""
    if isinstance(part, dict):
        part = part.values()
    elif not isinstance(part, tuple | list):
        now.add(id(part))
        return 0 if id(part) in before else getattr(part, "nbytes", 0)
    return sum(weigh(inner, before, now) for inner in part)
