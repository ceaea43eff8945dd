"""How far values are from all of a KPI's past: what lies outside is unusual whatever came last.

Surprise (surprise) is measured against what a KPI did lately, incidents included, and the network grows used
to a new level within a window. The median and spread of a long past, thinned so that little has to be kept,
do neither.

Not here: what becomes of it (vigil).
"""

from __future__ import annotations

import numpy as np

from foreshock.models.evidence import EvidenceOptions, block_starts
from foreshock.windows import quantiles, rearranged

KEPT = 1024  # rows of the past that are kept ...
STRIDE = 8  # ... at most every eighth: 8,192 rows; VUS-PR on SMD 0.43, with the last 1,024 rows 0.34
FAR, MOST = 3.0, 8.0  # spreads from the median that are still usual; what the rest counts at most
LEAST_SPREAD = 0.1  # of the standard deviation, for KPIs that hardly ever leave their median


class Distance:
    """Keeps a thinned past of a stream; pieces of any size give the same."""

    def __init__(self, options: EvidenceOptions) -> None:
        self.options = options  # of these the blocks: median and spread are renewed where one begins
        self.rows = 0
        self.stride = 1  # rows between two that are kept; doubles when the memory is full
        self.count = 0  # rows kept so far with this stride
        self.past: np.ndarray | None = None  # (KEPT, K), in no order once it is full
        self.median: np.ndarray  # (K,) when the block began
        self.spread: np.ndarray  # (K,) infinite for what never moved
        self.renewed = -1  # the row they were measured for

    def push(self, values: np.ndarray) -> np.ndarray:
        """The next rows (n, K), NaN where not observed → (n, K), 0 is within the past, at most `MOST`."""
        kpis = values.shape[1]
        if self.past is None:
            self.past = np.full((KEPT, kpis), np.nan)
            self.median, self.spread = np.full(kpis, np.nan), np.full(kpis, np.inf)
        out, at = np.zeros(values.shape), 0
        first, stop = self.rows, self.rows + len(values)
        starts = [int(start) - first for start in block_starts(first, stop, self.options)]
        for edge in [*starts, len(values)]:
            self._remember(values[at:edge])
            far = np.abs(values[at:edge] - self.median) / self.spread - FAR
            out[at:edge] = np.clip(np.nan_to_num(far), 0, MOST)
            at = edge
            if edge in starts:
                self._renew()
        return out

    def prepare(self) -> None:
        """If the next row begins a block, measure the past now."""
        if self.past is not None and len(block_starts(self.rows, self.rows + 1, self.options)):
            self._renew()

    def take(self, columns: np.ndarray) -> None:
        """Go on with these KPIs, by their column; -1 is one that was never observed."""
        if self.past is not None:
            self.past = rearranged(self.past, columns, np.nan)
            self.median = rearranged(self.median, columns, np.nan)
            self.spread = rearranged(self.spread, columns, np.inf)

    def _renew(self) -> None:
        assert self.past is not None
        if not self.count or self.renewed == self.rows:
            return
        self.renewed = self.rows
        past = self.past[: min(self.count, KEPT)]
        told = np.isfinite(past)
        count = np.maximum(told.sum(0), 1)
        mean = np.where(told, past, 0).sum(0) / count
        deviation = np.sqrt(np.where(told, (past - mean) ** 2, 0).sum(0) / count)
        self.median = quantiles(past, (0.5,))[0]
        half = quantiles(np.abs(past - self.median), (0.5,))[0]
        spread = np.fmax(half / 0.6745, LEAST_SPREAD * deviation)
        self.spread = np.where(spread > 0, spread, np.inf)

    def _remember(self, values: np.ndarray) -> None:
        assert self.past is not None
        for row in values:
            if self.rows % self.stride == 0:
                if self.count == KEPT and self.stride < STRIDE:
                    self.past[: KEPT // 2] = self.past[::2].copy()
                    self.stride, self.count = 2 * self.stride, KEPT // 2
                if self.rows % self.stride == 0:
                    self.past[self.count % KEPT] = row
                    self.count += 1
            self.rows += 1
