"""Where a KPI's values stand among its own of before.

Latencies of single calls reach ten times the usual one in any quiet hour, so that no distance tells three
times as slow from that. Ranks do: a value's rank among those of before, as the normal deviate that has such
a rank, is the same whatever the shape of the tail.

Not here: other signals of a KPI, and whether it stands on one side for long (signals).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from foreshock.windows import rearranged

KEPT = 256  # values of the past that are kept
RENEWED = 32  # rows after which the past is sorted anew
FEW = 8.0  # values in the past at which a rank counts half
_HALVES = [KEPT >> i for i in range(1, KEPT.bit_length())] + [1]
_RANKS = np.linspace(0.001, 0.999, 999)
_DEVIATES = np.array([NormalDist().inv_cdf(rank) for rank in _RANKS])


class Standing:
    """Ranks of values in a thinned past of a stream; pieces of any size give the same."""

    def __init__(self, stride: int = 1) -> None:
        self.stride = stride  # rows between two that are kept
        self.rows = 0
        self.past: np.ndarray | None = None  # (KEPT, K), in no order once it is full
        self.sorted: np.ndarray  # (KEPT, K) the past when the block began, NaN last
        self.count: np.ndarray  # (K,) of them that are values

    def push(self, values: np.ndarray) -> np.ndarray:
        """The next rows (n, K), NaN where not observed → (n, K) normal deviates, ±3.1 at most, 0 there.

        Ranks are those of the middle of equal values, so that what never moves stands at 0.
        """
        if self.past is None:
            self.past = np.full((KEPT, values.shape[1]), np.nan)
            self._sort()
        out, at = np.zeros(values.shape), 0
        while at < len(values):
            if self.rows % RENEWED == 0:
                self._sort()
            stop = min(len(values), at + RENEWED - self.rows % RENEWED)
            out[at:stop] = self._ranked(values[at:stop])
            for row in values[at:stop]:
                if self.rows % self.stride == 0:
                    self.past[self.rows // self.stride % KEPT] = row
                self.rows += 1
            at = stop
        return out

    def take(self, columns: np.ndarray) -> None:
        """Go on with these KPIs, by their column; -1 is one that was never observed."""
        if self.past is not None:
            self.past = rearranged(self.past, columns, np.nan)
            self.sorted = rearranged(self.sorted, columns, np.nan)
            self.count = rearranged(self.count, columns, 0)

    def _sort(self) -> None:
        assert self.past is not None
        self.sorted = np.sort(self.past, axis=0)
        self.count = np.isfinite(self.sorted).sum(0)

    def _ranked(self, values: np.ndarray) -> np.ndarray:
        middle = (self._before(values, np.less) + self._before(values, np.less_equal)) / 2
        deviates = np.interp((middle + 0.5) / (self.count + 1), _RANKS, _DEVIATES)
        return np.where(np.isfinite(values), deviates * self.count / (self.count + FEW), 0)

    def _before(self, values: np.ndarray, is_before: np.ufunc) -> np.ndarray:
        """(n, K) how many values of the past are less (or equal), by halves in all columns at once."""
        found = np.zeros(values.shape, int)
        for step in _HALVES:
            found += step * is_before(np.take_along_axis(self.sorted, found + step - 1, 0), values)
        return found
