"""What is measured while playing: the speed of the world, and the time from key to picture."""

import math
import statistics
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """The speed of the last two seconds: frames per second, that over the world's own, median tick, share of late ticks."""

    fps: float = 0.0
    factor: float = 0.0
    tick_ms: float = 0.0
    late_share: float = 0.0


class Speedometer:
    """Measure the speed over the last two seconds of the world's time."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._ticks: deque[tuple[float, float, bool, int]] = deque(maxlen=max(2, math.ceil(2 * fps)))

    def reset(self) -> None:
        """Forget everything: time that was not played must not count."""
        self._ticks.clear()

    def tick(self, started_s: float, done_s: float, late: bool, frames: int = 1) -> Speed:
        """Take in one tick, which made so many frames, and return the speed of the recent ones."""
        self._ticks.append((started_s, (done_s - started_s) * 1000, late, frames))
        span_s = started_s - self._ticks[0][0]
        fps = (sum(frames for *_, frames in self._ticks) - frames) / span_s if span_s > 0 else 0.0
        return Speed(
            fps=fps,
            factor=fps / self._fps,
            tick_ms=statistics.median(tick_ms for _, tick_ms, *_ in self._ticks),
            late_share=sum(late for _, _, late, _ in self._ticks) / len(self._ticks),
        )


class KeyToPhoton:
    """Collect the times from a key event to the return of the display flip that first shows a frame made from it."""

    def __init__(self, samples: int = 200) -> None:
        self._ms: deque[float] = deque(maxlen=samples)

    def add(self, input_s: float, flip_s: float) -> None:
        """Take in one sample."""
        self._ms.append((flip_s - input_s) * 1000)

    def __len__(self) -> int:
        return len(self._ms)

    def p50_p95_ms(self) -> tuple[float, float] | None:
        """Return the median and the 95th percentile in milliseconds, or None before the first key."""
        return (percentile(self._ms, 0.5), percentile(self._ms, 0.95)) if self._ms else None


def percentile(values: Collection[float], share: float) -> float:
    """Return the smallest of `values` that at least `share` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
