"""Recognition over time: rows come in, and for each KPI and row goes out how likely it is an anomaly.

The network reads blocks of rows behind their context, at the step of the table and again at coarser ones:
the mean of the last 4 rows, of the last 16. A coarse series is read in four phases, so that it is renewed
at least every fourth row. A row's result depends on it and on earlier rows only, and comes out the same
whether rows arrive one by one or all at once.

Not here: the network and its heads (recognise), what becomes of the probabilities (vigil).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from foreshock.models.recognise import Recogniser, scale_by_context, unbend
from foreshock.windows import PATCH, rearranged

PHASES = 4
AT_ONCE = 64  # windows a pass: 2,048 patches at 256 steps, a fifth faster than half as many (AMX, 2026-11-26)
GATHERED = 2048  # windows held at once: 8 MB of values
LEAST_OBSERVED = PATCH  # steps of context below which nothing is said


@dataclass(frozen=True, slots=True)
class Reading:
    """What recognition says of some rows at one scale; NaN where it has too little past to say anything."""

    chance: np.ndarray  # (n, K) float32, 0..1, of being an anomaly
    expected: np.ndarray  # (n, K) float64 in the KPI's units


@dataclass(frozen=True, slots=True)
class _Block:
    phase: int
    start: int  # in samples of the phase
    size: int
    low: int  # first sample of the phase that is wanted
    high: int  # end of its samples so far


class Scan:
    """One scale of a stream: the mean of `factor` rows, sampled so that `PHASES` series interleave."""

    def __init__(self, recogniser: Recogniser, factor: int, length: int, block: int) -> None:
        self.recogniser = recogniser
        self.factor, self.length, self.block = factor, length, block
        # The first blocks double from a patch on, each behind as many steps as it has.
        self.early = [PATCH * 2**i for i in range(20) if PATCH * 2**i < block]
        self.phases = min(factor, PHASES)
        self.stride = factor // self.phases  # rows between two samples
        self.count = 0  # samples taken so far
        self.rows = 0  # rows seen so far
        self.kept: np.ndarray | None = None  # (<= length * phases, K) the newest samples
        self.tail: np.ndarray | None = None  # (factor - 1, K) rows not yet in every mean
        self.last: np.ndarray | None = None  # (2, K) chance and expected of the newest sample

    def push(self, filled: np.ndarray) -> Reading:
        """The next rows (n, K), gaps filled forward, NaN only before a KPI's first value."""
        n, kpis = filled.shape
        samples = self._sample(filled)
        first, self.count = self.count, self.count + len(samples)
        kept = np.zeros((0, kpis)) if self.kept is None else self.kept
        known = np.concatenate([kept, samples])
        said = self._read(known, first)
        self.kept = known[-self.length * self.phases :]
        before = np.full((2, kpis), np.nan) if self.last is None else self.last
        said = np.concatenate([before[:, None], said], axis=1)  # (2, 1 + samples, K)
        self.last = said[:, -1]
        newest = (self.rows + 1 + np.arange(n)) // self.stride - first  # the sample that each row has, from 1
        self.rows += n
        chance, expected = said[:, newest]
        return Reading(chance.astype(np.float32), expected)

    def take(self, columns: np.ndarray) -> None:
        """Go on with these KPIs, by their column; -1 is one that was never observed."""
        for name in ("kept", "tail", "last"):
            if (held := getattr(self, name)) is not None:
                setattr(self, name, rearranged(held, columns, np.nan))

    def _sample(self, filled: np.ndarray) -> np.ndarray:
        """Means of the last `factor` rows, at every `stride`-th row: (samples, K)."""
        if self.tail is None:
            self.tail = np.full((self.factor - 1, filled.shape[1]), np.nan)
        whole = np.concatenate([self.tail, filled])
        self.tail = whole[len(filled) :]
        at = np.flatnonzero((self.rows + 1 + np.arange(len(filled))) % self.stride == 0)
        if self.factor == 1:
            return filled
        total, seen = np.zeros((len(at), filled.shape[1])), np.zeros((len(at), filled.shape[1]))
        for back in range(self.factor):
            row = whole[at + back]
            told = np.isfinite(row)
            total += np.where(told, row, 0)
            seen += told
        with np.errstate(invalid="ignore"):
            return np.asarray(total / np.where(seen > 0, seen, np.nan))

    def _read(self, known: np.ndarray, first: int) -> np.ndarray:
        """Chance and expectation of the samples from `first` on: (2, samples, K)."""
        stop, base = self.count, self.count - len(known)
        out = np.full((2, stop - first, known.shape[1]), np.nan)
        jobs = [job for phase in range(self.phases) for job in self._blocks(phase, first, stop)]
        many = max(1, GATHERED // max(1, known.shape[1]))
        for size, steps in sorted({(job.size, self._steps(job)) for job in jobs}):
            same = [job for job in jobs if (job.size, self._steps(job)) == (size, steps)]
            for some in (same[at : at + many] for at in range(0, len(same), many)):
                windows = np.concatenate([self._window(job, steps, known, base) for job in some])
                said = self._judge(windows, size).reshape(2, len(some), -1, size)  # (2, jobs, K, size)
                for i, job in enumerate(some):
                    into = np.arange(max(job.start, job.low), min(job.start + size, job.high))
                    place = into * self.phases + job.phase - first
                    out[:, place] = said[:, i, :, into - job.start].swapaxes(0, 1)
        return out

    def _steps(self, job: _Block) -> int:
        """How many samples a block's window has: fewer before there is a whole one."""
        return min(self.length, job.start + job.size)

    def _blocks(self, phase: int, first: int, stop: int) -> Iterator[_Block]:
        """The blocks of a phase that hold samples first..stop; the very first of a stream is not judged."""
        low = -(-(first - phase) // self.phases)  # in the phase's own count
        high = -(-(stop - phase) // self.phases)
        late = max(0, low - self.block) // self.block * self.block + self.block
        early = [start for start in self.early if start < high and 2 * start > low]
        for start in [*early, *range(late, high, self.block)]:
            yield _Block(phase, start, min(start, self.block), low, high)

    def _window(self, job: _Block, steps: int, known: np.ndarray, base: int) -> np.ndarray:
        """The block's samples behind their context, (K, steps); what has not come yet repeats the newest."""
        at = np.arange(job.start + job.size - steps, job.start + job.size)
        return np.asarray(known[np.minimum(at, job.high - 1) * self.phases + job.phase - base].T)

    @torch.no_grad()
    def _judge(self, windows: np.ndarray, size: int) -> np.ndarray:
        """(N, steps) windows, NaN before the first value, the last `size` to be judged: (2, N, size)."""
        seen = np.isfinite(windows)
        context = windows.shape[1] - size
        told = np.where(seen, windows, np.inf)
        lowest = np.minimum.accumulate(told, axis=1)[:, context:]
        highest = np.maximum.accumulate(np.where(seen, windows, -np.inf), axis=1)[:, context:]
        out = np.full((2, len(windows), size), np.nan)
        enough = seen[:, :context].sum(1) >= LEAST_OBSERVED
        rows = np.flatnonzero(enough & (highest[:, -1] > lowest[:, -1]))
        for some in (rows[at : at + AT_ONCE] for at in range(0, len(rows), AT_ONCE)):
            # Always as many: a matrix product's last bits depend on its size, and a stream's must not.
            whole = np.resize(some, AT_ONCE)
            out[:, some] = self._pass(windows[whole], seen[whole], context)[:, : len(some)]
        # What never moved is no anomaly, and nothing is told of it, whatever comes later in the block.
        still = ~(highest > lowest)
        out[0][still & enough[:, None]] = 0
        out[1][still] = np.nan
        return out

    def _pass(self, windows: np.ndarray, seen: np.ndarray, context: int) -> np.ndarray:
        model = self.recogniser
        observed = torch.from_numpy(seen)
        scaled = scale_by_context(
            torch.from_numpy(np.where(seen, windows, 0)), observed, torch.full((len(windows), 1), context)
        )
        attended = observed.reshape(len(windows), -1, PATCH).all(-1)
        told = model.fast(scaled.x, attended, (self.length - windows.shape[1]) // PATCH)
        chance = torch.sigmoid(told.logit)[:, context:]
        expected = unbend(told.expected[:, context:].double()) * scaled.spread + scaled.center
        return np.stack([chance.double().numpy(), expected.numpy()])
