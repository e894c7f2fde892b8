"""How deep a rollback may go so that its tick still fits the world's frame period.

A rollback by r levels makes r short passes before the tick: deep ones obey best and cost most. What a tick costs is learnt while playing, for every depth as
a multiple of a plain tick; depths that were not played yet are judged by the blocks that pass through the network, and so in the end are those that were too
dear when they were last played.
"""

import math

FORGET = 0.9  # of what was known remains after each new measurement
BELIEVED, DOUBT = 100, 0.02  # plain ticks for which a depth's cost is believed, and how fast it is doubted then: it may have been a hiccup


class RollbackBudget:
    """Choose the depth of rollbacks.

    Args:
        levels: of the world's ladder.
        period_s: the world's frame period; 0 where nothing waits for a clock.
    """

    def __init__(self, levels: int, period_s: float) -> None:
        self._period_s = period_s
        self._plain_s: float | None = None
        self._likely = [1 + sum(range(levels - depth, levels)) / (levels + 1) for depth in range(levels)]
        self._factors, self._age = list(self._likely), [0] * levels

    def choose(self, wanted: int) -> int:
        """Return the depth nearest to the one that is wanted whose tick fits the period; 0 if none does."""
        if self._period_s == 0 or self._plain_s is None:
            return wanted
        return next((depth for depth in range(wanted, 0, -1) if self.cost_s(depth) <= self._period_s), 0)

    def cost_s(self, depth: int) -> float:
        """Return how long a tick with a rollback of this depth takes, as far as is known; NaN before the first tick."""
        return math.nan if self._plain_s is None else self._plain_s * self._factors[depth]

    def learn(self, depth: int, took_s: float) -> None:
        """Take in how long a tick took that was rolled back by `depth` levels."""
        if depth == 0:
            self._plain_s = took_s if self._plain_s is None else FORGET * self._plain_s + (1 - FORGET) * took_s
            for other, likely in enumerate(self._likely):
                self._age[other] += 1
                if self._age[other] > BELIEVED:
                    self._factors[other] += DOUBT * (min(likely, self._factors[other]) - self._factors[other])
        elif self._plain_s:
            self._age[depth] = 0
            self._factors[depth] = FORGET * self._factors[depth] + (1 - FORGET) * took_s / self._plain_s
