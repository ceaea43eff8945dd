"""How far values are from what was expected, in units of how far they usually are.

Errors are scaled by the KPI's own past errors, twice: by their spread, so that units don't matter, and by
their tail, so that a KPI that jumps every few minutes has to jump further than one that never does. A value
must be surprising to both expectations: the network's, and the median of the longer past.

Not here: expectations (scan), evidence for networks that are asked for whole blocks (evidence).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreshock.models.evidence import EvidenceOptions, agree, block_starts, spread_of, tail_of
from foreshock.windows import quantiles, rearranged


@dataclass(slots=True)
class Scales:
    """What was fixed when a block began, from the rows before it."""

    level: np.ndarray  # (K,) median of the memory
    spread: np.ndarray  # (2, K)
    tail: np.ndarray  # (2, K)
    known: np.ndarray  # (K,) 0..1, how much is known


class Surprise:
    """Keeps the past errors of a stream; pieces of any size give the same."""

    def __init__(self, options: EvidenceOptions) -> None:
        self.options = options
        self.rows = 0
        self.values: np.ndarray | None = None  # (<= memory, K)
        self.errors: np.ndarray  # (2, <= memory, K) float32
        self.ratios: np.ndarray  # (2, <= memory, K) float32, error by spread
        self.scales: Scales | None = None
        self.fixed = -1  # the row they were fixed for

    def push(self, values: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """The next rows (n, K), NaN where not observed, and what was expected of them → (n, K), 0 is calm."""
        kpis = values.shape[1]
        if self.values is None:
            self.values = np.zeros((0, kpis))
            self.errors, self.ratios = np.zeros((2, 2, 0, kpis), np.float32)
        out, at = np.zeros(values.shape), 0
        first, stop = self.rows, self.rows + len(values)
        starts = [int(s) - first for s in block_starts(first, stop, self.options)]
        for edge in [*starts[bool(starts) and starts[0] == 0 :], len(values)]:
            if self.scales is None or (at in starts and self.fixed != self.rows):
                self._renew()
            assert self.scales is not None
            out[at:edge] = self._take(values[at:edge], expected[at:edge], self.scales)
            at = edge
        return out

    def prepare(self) -> None:
        """If the next row begins a block, fix its scales now."""
        is_due = len(block_starts(self.rows, self.rows + 1, self.options)) > 0
        if self.values is not None and is_due and self.fixed != self.rows:
            self._renew()

    def _renew(self) -> None:
        self.scales, self.fixed = self._fix(), self.rows

    def take(self, columns: np.ndarray) -> None:
        """Go on with these KPIs, by their column; -1 is one that was never observed."""
        if self.values is None:
            return
        for name in ("values", "errors", "ratios"):
            setattr(self, name, rearranged(getattr(self, name), columns, np.nan))
        if self.scales is not None:
            fresh = self._fix()
            for name in Scales.__slots__:
                kept = rearranged(getattr(self.scales, name), columns, np.nan)
                setattr(self.scales, name, np.where(columns >= 0, kept, getattr(fresh, name)))

    def _fix(self) -> Scales:
        o = self.options
        assert self.values is not None
        level = quantiles(self.values, (0.5,))[0]
        floor = np.abs(level) * o.least_change
        scatter = spread_of(np.abs(self.values - level), floor)
        seen = np.isfinite(self.errors[0]).sum(0)
        weight = seen / (seen + o.block)
        spread = np.stack([weight * spread_of(e, floor) + (1 - weight) * scatter for e in self.errors])
        tail = np.stack([tail_of(r, o) for r in self.ratios])
        return Scales(level, spread, tail, seen / (seen + o.trust_steps))

    def _take(self, values: np.ndarray, expected: np.ndarray, scales: Scales) -> np.ndarray:
        """Weigh rows of one block, then remember them."""
        o = self.options
        assert self.values is not None
        told = np.where(np.isfinite(expected), expected, scales.level)
        error = np.abs(values - np.stack([told, np.broadcast_to(scales.level, values.shape)]))
        ratio = error / scales.spread[:, None]
        self.values = np.concatenate([self.values, values])[-o.memory :]
        self.errors = np.concatenate([self.errors, error.astype(np.float32)], 1)[:, -o.memory :]
        kept = np.minimum(ratio, 1e6).astype(np.float32)
        self.ratios = np.concatenate([self.ratios, kept], 1)[:, -o.memory :]
        self.rows += len(values)
        found = agree(ratio / scales.tail[:, None], o.cap) * scales.known
        return np.where(np.isfinite(values), found, 0.0)
