"""When the next tick may start.

Ticks have deadlines one period apart, so that a small delay is caught up by a shorter wait and the world keeps its speed.
A tick that starts more than half a period after its deadline is late: the deadlines are laid anew from that moment, so that
the engine never races to catch up with lost time, and the late tick is counted for the player to see. When the player changes
his mind, the next tick need not wait: it may start up to a period before its deadline, which stays where it is. So a key is answered
at once where the engine would idle, and the world is never more than one tick ahead of its time. `Pace` is a pure
function of its own fields and the time it is given; the clock is handed in, and tests hand in one of their own.
"""

import threading
import time
from dataclasses import dataclass, replace

SLACK = 0.5  # of a period


@dataclass(frozen=True)
class Pace:
    """The deadline of the next tick, in seconds of the game's clock; a period of 0 means as fast as it can."""

    period_s: float
    due_s: float
    late: bool = False

    def wait_s(self, now_s: float, *, hurried: bool = False) -> float:
        """Return how long to wait before the next tick may start; `hurried` if the player has changed his mind since the last."""
        return max(0.0, self.due_s - hurried * self.period_s - now_s)

    def started(self, now_s: float) -> "Pace":
        """Return the pace after a tick that started at `now_s`."""
        late = self.period_s > 0 and now_s > self.due_s + SLACK * self.period_s
        anchor_s = now_s if late or self.period_s == 0 else self.due_s
        return replace(self, due_s=anchor_s + self.period_s, late=late)


class Clock:
    """The wall clock."""

    def now_s(self) -> float:
        """Return the time in seconds, from any origin, never going back."""
        return time.perf_counter()

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """Wait on a held condition until it is notified or the time is over."""
        condition.wait(timeout_s)
