"""Has a KPI ever looked like this? The nearest of its own past stretches, and how far that is.

Movement and surprise weigh rows; a heartbeat that comes out wrong, or a day without its peak, has rows like
any other. So each stretch of `LENGTH` means of `STEP` rows is held against all stretches that ended before
it began. Levels are taken away, heights are not: z-normalised stretches make a quiet night look like
a stormy one (VUS-PR on NAB 0.29 in place of 0.43; docs/log.md, 2026-11-26).

Source: Yeh et al. 2016 (matrix profile), looking back only as Lu et al. 2022; without z-normalisation.

Not here: what becomes of it (vigil).
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from foreshock.windows import rearranged

STEP = 8  # rows a sample is the mean of
LENGTH = 32  # samples a stretch: 256 rows, as the network sees at its finest
STRETCHES = 1024  # past stretches that are looked at: 8,192 rows
HELD = STRETCHES + 2 * LENGTH - 1  # samples kept for them
LEAST = 8  # stretches with a neighbour, before one can be far from it
USUAL = 1.0  # deviations: no usual distance is taken for less
MOST = 100.0  # no novelty counts more
AT_ONCE = 64  # stretches compared at once


class Novelty:
    """Keeps the samples of a stream; pieces of any size give the same."""

    def __init__(self) -> None:
        self.rows = 0
        self.tail: np.ndarray | None = None  # (<= STEP, K) rows not yet in a sample
        self.samples: np.ndarray  # (<= HELD, K) less `origin`
        self.sizes: np.ndarray  # (<= HELD, K) of the stretch that each sample ends, infinite where none does
        self.origin: np.ndarray  # (K,) the first value, which sums are relative to
        self.sums: np.ndarray  # (3, K) of rows told: count, sum, squares
        self.usual: np.ndarray  # (2, K) of the distances so far: count, sum
        self.deviation: np.ndarray  # (K,) of all rows so far
        self.last: np.ndarray  # (K,) what the last sample said

    def push(self, filled: np.ndarray) -> np.ndarray:
        """The next rows (n, K), gaps filled forward, NaN only before a KPI's first value → (n, K).

        0 is nothing new: no farther from the past than usual. It rises with the square, at most `MOST`. A row
        gets what the last sample that ended before it says, so that this can be worked out ahead.
        """
        n, kpis = filled.shape
        if self.tail is None:
            self.tail, self.samples, self.sizes = np.zeros((3, 0, kpis))
            self.origin = np.full(kpis, np.nan)
            self.last, self.deviation = np.zeros((2, kpis))
            self.sums, self.usual = np.zeros((3, kpis)), np.zeros((2, kpis))
        before = (self.rows - len(self.tail)) // STEP  # samples so far
        whole = np.concatenate([self.tail, filled])
        deviation = np.concatenate([self.deviation[None], self._deviation(filled)])
        many = (len(whole) - 1) // STEP  # what the last row completes can wait
        ends = np.arange(1, many + 1) * STEP - len(self.tail)  # in rows of the piece, counted from 1
        self.tail, self.deviation = whole[many * STEP :], deviation[-1]
        said = np.concatenate([self.last[None], self._take(whole[: many * STEP], deviation[ends])])
        rows = np.arange(self.rows, self.rows + n)
        self.rows += n
        return np.asarray(said[rows // STEP - before])

    def prepare(self) -> None:
        """If the last row completed a sample, hold it against the past now."""
        if self.tail is not None and len(self.tail) == STEP:
            rows, self.tail = self.tail, self.tail[:0]
            self._take(rows, self.deviation[None])

    def _take(self, rows: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """What the samples of some rows (m * STEP, K) say, (m, K), from the deviations (m, K) by then."""
        many = len(rows) // STEP
        if not many:
            return np.zeros((0, rows.shape[1]))
        means = rows.reshape(many, STEP, -1).mean(1) - self.origin
        self.samples = np.concatenate([self.samples, means])
        self.sizes = np.concatenate([self.sizes, np.full(means.shape, np.inf)])
        said = self._weigh(nearest(self.samples, self.sizes, many), deviation)
        self.samples, self.sizes, self.last = self.samples[-HELD:], self.sizes[-HELD:], said[-1]
        return said

    def take(self, columns: np.ndarray) -> None:
        """Go on with these KPIs, by their column; -1 is one that was never observed."""
        if self.tail is None:
            return
        for name, blank in (("tail", np.nan), ("samples", np.nan), ("sizes", np.inf), ("origin", np.nan),
                            ("sums", 0.0), ("usual", 0.0), ("deviation", 0.0), ("last", 0.0)):  # fmt: skip
            setattr(self, name, rearranged(getattr(self, name), columns, blank))

    def _deviation(self, filled: np.ndarray) -> np.ndarray:
        """Standard deviation of each KPI up to each row, (n, K)."""
        told = np.isfinite(filled)
        first = filled[np.argmax(told, axis=0), np.arange(filled.shape[1])]
        self.origin = np.where(np.isfinite(self.origin), self.origin, first)
        off = np.where(told, filled - self.origin, 0)
        count, total, squares = (
            before + np.cumsum(rows, 0) for before, rows in zip(self.sums, (told, off, off**2), strict=True)
        )
        self.sums = np.stack([count[-1], total[-1], squares[-1]])
        count = np.maximum(count, 1)
        return np.asarray(np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0)))

    def _weigh(self, far: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Distances (n, K), NaN where there is no neighbour, in units of what is usual → novelty."""
        with np.errstate(divide="ignore", invalid="ignore"):
            far = np.where((deviation > 0) | np.isnan(far), far / deviation, 0)
        told = np.isfinite(far)
        count = self.usual[0] + np.cumsum(told, 0)
        total = self.usual[1] + np.cumsum(np.where(told, far, 0), 0)
        self.usual = np.stack([count[-1], total[-1]])
        usual = np.maximum(total / np.maximum(count, 1), USUAL)
        more = np.where(told & (count > LEAST), far / usual - 1, 0)
        return np.asarray(np.minimum(np.maximum(more, 0) ** 2, MOST))


def nearest(samples: np.ndarray, sizes: np.ndarray, last: int) -> np.ndarray:
    """Distance of the stretches that end with the `last` samples to their nearest past neighbour.

    Args:
        samples: (S, K), NaN only before a KPI's first.
        sizes: (S, K), squared lengths of the stretches, levels taken away; those of the `last` are filled in.

    Returns:
        (last, K) in the KPI's own units; NaN where there is no such stretch or no neighbour.
    """
    out = np.full((last, samples.shape[1]), np.nan)
    first = max(len(samples) - last - LENGTH + 1, 0)  # stretches count from 0 and end LENGTH - 1 later
    known = np.nan_to_num(samples)
    for k in range(samples.shape[1]) if len(samples) >= LENGTH else ():
        stretches = sliding_window_view(known[:, k], LENGTH)
        fresh = stretches[first:] - stretches[first:].mean(1, keepdims=True)
        told = np.isfinite(samples[first : len(stretches), k])
        size = np.where(told, np.einsum("ij,ij->i", fresh, fresh), np.inf)
        sizes[first + LENGTH - 1 :, k] = size
        for at in range(0, len(fresh), AT_ONCE):
            some = slice(at, at + AT_ONCE)
            squares = size[some] + _least(fresh[some], first + at, stretches, sizes[LENGTH - 1 :, k])
            far = np.where(np.isfinite(squares), np.sqrt(np.maximum(squares, 0)), np.nan)
            out[last - len(fresh) :][some, k] = far
    return out


def _least(fresh: np.ndarray, start: int, stretches: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Squared distance of each fresh stretch, the first of which is `start`, to its nearest past one, less
    its own squared length; infinite where none ended before it began."""
    stop = start + len(fresh)
    past = slice(max(0, start - LENGTH - STRETCHES + 1), max(0, stop - LENGTH))
    lag = np.arange(start, stop)[:, None] - np.arange(past.start, past.stop)
    # The fresh ones have no level, so that of the past ones falls out of the product by itself.
    squares = sizes[past] - 2 * fresh @ stretches[past].T
    is_past = (lag >= LENGTH) & (lag < LENGTH + STRETCHES)
    return np.asarray(np.where(is_past, squares, np.inf).min(1, initial=np.inf))
