"""The floor under every claim: expectations and scores of one line each, which learn nothing.

The expectations run through the same evidence and pooling as the network, so that a comparison
shows what the network is worth and nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreshock.errors import ConfigError
from foreshock.frame import Frame
from foreshock.models.evidence import EvidenceDetector, EvidenceOptions, Expectation, require_later
from foreshock.models.shapes import (
    MEMORY,
    PROFILE_ROWS,
    left_profile,
    matrix_profile,
    polynomial_blocks,
    polynomial_context,
    polynomial_error,
    spectral_residual,
)
from foreshock.scores import Scores, layout, pool
from foreshock.windows import median_and_mad, quantiles

ROBUST_EVERY = 16  # rows for which a median holds
CAP = 20.0  # no single robust z counts more
LEAST_WINDOW = {"robust_z": ROBUST_EVERY, "spectral_residual": 23, "poly": 2, "matrix_profile": 4}


class PastMedian:
    """The median of the whole memory: sees level changes for as long as they last."""

    whole_memory = True

    def expect(self, context: np.ndarray, block: int) -> np.ndarray:
        return np.repeat(quantiles(context.T, (0.5,))[0][:, None], block, axis=1)


class LastValue:
    """The last value observed."""

    def expect(self, context: np.ndarray, block: int) -> np.ndarray:
        seen = np.isfinite(context)
        last = context.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1)
        value = np.where(seen.any(1), context[np.arange(len(context)), last], np.nan)
        return np.repeat(value[:, None], block, axis=1)


class LinearAr:
    """Ridge auto-regression of order 16, fitted on each context, rolled forward."""

    order, ridge = 16, 1e-2

    def expect(self, context: np.ndarray, block: int) -> np.ndarray:
        center = np.nan_to_num(quantiles(context.T, (0.5,))[0])[:, None]
        filled = np.where(np.isfinite(context), context - center, 0.0)
        spread = filled.std(1, keepdims=True)
        filled /= np.where(spread > 0, spread, 1)
        lags = np.lib.stride_tricks.sliding_window_view(filled, self.order + 1, 1)
        x, y = lags[..., :-1], lags[..., -1]
        gram = np.einsum("nti,ntj->nij", x, x) + self.ridge * x.shape[1] * np.eye(self.order)
        weights = np.linalg.solve(gram, np.einsum("nti,nt->ni", x, y)[..., None])[..., 0]
        state, out = filled[:, -self.order :], np.empty((len(context), block))
        for step in range(block):
            out[:, step] = np.clip(np.einsum("ni,ni->n", state, weights), -10, 10)
            state = np.concatenate([state[:, 1:], out[:, step : step + 1]], axis=1)
        result: np.ndarray = out * np.where(spread > 0, spread, 0) + center
        result[~np.isfinite(context).any(1)] = np.nan
        return result


EXPECTATIONS: dict[str, Callable[[], Expectation]] = {
    "past_median": PastMedian,
    "last_value": LastValue,
    "linear_ar": LinearAr,
}


def expectation_detector(name: str, **options: Any) -> EvidenceDetector:
    """A one-line expectation through the same evidence as the network."""
    return EvidenceDetector(name, {name: EXPECTATIONS[name]()}, EvidenceOptions(**options), {})


def rolling_variance(values: np.ndarray, window: int) -> np.ndarray:
    """Variance of the last `window` rows, (T, K)."""
    seen = np.isfinite(values)
    first = np.argmax(seen, axis=0)
    start = np.where(seen.any(0), values[first, np.arange(values.shape[1])], 0.0)
    filled = np.where(seen, values - start, 0.0)

    def rolling(x: np.ndarray) -> np.ndarray:
        total = np.cumsum(x, 0)
        total[window:] = total[window:] - total[:-window]
        return total

    count = np.maximum(rolling(seen.astype(float)), 1)
    mean = rolling(filled) / count
    result: np.ndarray = np.maximum(rolling(filled**2) / count - mean**2, 0)
    return result


def squared_difference(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` rows of squared steps, (T, K)."""
    steps = np.nan_to_num(np.diff(values, axis=0, prepend=values[:1])) ** 2
    total = np.cumsum(steps, 0)
    total[window:] = total[window:] - total[:-window]
    return np.asarray(total / np.minimum(np.arange(1, len(values) + 1), window)[:, None])


def robust_z(values: np.ndarray, start: int, memory: int) -> np.ndarray:
    """Distance from the median of the last `memory` rows in robust spreads, (T, K); NaN before 16 rows.

    Median and spread are renewed every 16 rows, counted from the recording's first (`start` is the
    number of the first row given). No value counts more than 20.
    """
    out = np.full(values.shape, np.nan)
    for begin in range(-(start % ROBUST_EVERY), len(values), ROBUST_EVERY):
        past = values[max(0, begin - memory) : max(0, begin)]
        if start + begin >= ROBUST_EVERY and len(past):
            center, mad = median_and_mad(past)
            rows = slice(max(0, begin), begin + ROBUST_EVERY)
            out[rows] = np.abs(values[rows] - center) / spread_of(past, center, mad)
    return np.asarray(np.minimum(out, CAP))


def spread_of(past: np.ndarray, center: np.ndarray, mad: np.ndarray) -> np.ndarray:
    """(K,) above 0: the spread by median absolute deviation; where that is 0 the standard deviation; for
    a KPI that never changed a hundredth of its level, or 1."""
    seen = np.isfinite(past)
    count = np.maximum(seen.sum(0), 1)
    off = np.where(seen, past - center, 0.0)
    spread = np.where(mad > 0, mad, np.sqrt((off**2).sum(0) / count))
    level = np.abs(center) / 100
    usable = np.isfinite(spread) & (spread > 1e-9 * np.abs(center))
    return np.where(usable, spread, np.where(level > 0, level, 1.0))


@dataclass(frozen=True, slots=True)
class Line:
    """One one-liner: what it computes, and what it needs for it."""

    window: int  # rows, by default
    reach: Callable[[int], int]  # window → rows before the first judged
    raw: Callable[[np.ndarray, int, int, int], np.ndarray]  # known rows, number of the first, rows, window
    filled: bool = False  # gaps are filled with the value before them
    divided: bool = True  # by the KPI's own past mean
    offline: Callable[[np.ndarray, int], np.ndarray] | None = None  # with both sides: rows, window
    source: str = "elementary"


def _centered(score: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[np.ndarray, int], np.ndarray]:
    """The same figure of a window around each row, cut off at the recording's ends."""

    def both_sides(values: np.ndarray, window: int) -> np.ndarray:
        ahead = (window - 1) // 2
        beyond = np.full((ahead, values.shape[1]), np.nan)
        return score(np.concatenate([values, beyond]), window)[ahead:]

    return both_sides


def _centered_difference(values: np.ndarray, window: int) -> np.ndarray:
    ahead, rows = (window - 1) // 2, np.arange(len(values))
    mean = _centered(squared_difference)(values, window)
    divided_by = np.minimum(rows + ahead + 1, window)
    really = np.minimum(rows + ahead + 1, len(values)) - np.maximum(rows + ahead + 1 - window, 0)
    return np.asarray(mean * (divided_by / really)[:, None])


def _whole_z(values: np.ndarray, window: int) -> np.ndarray:
    center, mad = median_and_mad(values)
    return np.asarray(np.abs(values - center) / spread_of(values, center, mad))


LINES: dict[str, Line] = {
    "rolling_variance": Line(
        64,
        lambda w: 2 * w,
        lambda v, start, rows, w: rolling_variance(v, w)[-rows:],
        offline=_centered(rolling_variance),
    ),
    "squared_difference": Line(
        64,
        lambda w: 2 * w,
        lambda v, start, rows, w: squared_difference(v, w)[-rows:],
        offline=_centered_difference,
    ),
    "robust_z": Line(
        1024,
        lambda w: w + ROBUST_EVERY,
        lambda v, start, rows, w: robust_z(v, start, w)[-rows:],
        divided=False,
        offline=_whole_z,
    ),
    "spectral_residual": Line(
        64,
        lambda w: w - 1,
        lambda v, start, rows, w: spectral_residual(v, w)[-rows:],
        filled=True,
        divided=False,
        source="Ren et al. 2019",
    ),
    "poly": Line(
        16,
        lambda w: w + polynomial_context(w) - 1,
        lambda v, start, rows, w: polynomial_error(v, w)[-rows:],
        filled=True,
        offline=polynomial_blocks,
        source="Li et al. 2007; Paparrizos et al. 2022",
    ),
    "matrix_profile": Line(
        32,
        lambda w: MEMORY + PROFILE_ROWS + w,
        lambda v, start, rows, w: left_profile(v, start, w, rows),
        filled=True,
        offline=matrix_profile,
        source="Yeh et al. 2016; Lu et al. 2022",
    ),
    "random": Line(1, lambda w: 0, lambda v, start, rows, w: np.zeros((rows, v.shape[1])), divided=True),
}


class OneLiner:
    """A score of one line for each KPI, causal; what depends on its unit is divided by its own past mean.

    Args:
        window: rows looked at; None for the line's own default.
        causal: False looks at both sides and at the whole recording, where the line can.
    """

    def __init__(self, name: str, window: int | None = None, seed: int = 0, causal: bool = True) -> None:
        self.name = name
        self.line = LINES[name]
        self.window = self.line.window if window is None else window
        self.seed = seed
        self.causal = causal
        if not causal and self.line.offline is None:
            raise ConfigError(f"the detector {name!r} has no option 'causal': it reads the past only.")
        least = LEAST_WINDOW.get(name, 1)
        if self.window < least:
            raise ConfigError(f"the window of {name} is {self.window} rows; it must be {least} or more.")

    def score(self, frame: Frame) -> Scores:
        if self.causal or self.line.offline is None:
            return self.stream().push(frame)
        frame.require_clock()
        values = np.where(np.isfinite(frame.values), frame.values, np.nan)
        if self.line.filled:
            values, _ = fill_from(values, None)
        raw = self.line.offline(values, self.window)
        count = np.isfinite(raw).sum(0)
        usual = np.nansum(raw, 0) / np.maximum(count, 1) if self.line.divided else np.ones(raw.shape[1])
        return self.scores(frame, raw, usual)

    def stream(self) -> _OneLinerStream:
        if not self.causal:
            raise ConfigError("offline scoring reads later rows, so it can't stream; leave out --offline.")
        return _OneLinerStream(self)

    def describe(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "causal": self.causal,
            "window": self.window,
            "seed": self.seed,
            "source": self.line.source,
        }

    def scores(self, piece: Frame, raw: np.ndarray, usual: np.ndarray) -> Scores:
        """Raw figures (T, K), NaN where there is nothing to say yet, over what is usual, pooled."""
        ratio = np.where(np.isfinite(raw), raw / np.where(usual > 0, usual, 1), 0.0)
        kpis = np.where(np.isfinite(piece.values), ratio, np.nan).astype(np.float32)
        services, system = pool(kpis, layout(piece.kpis))
        meta = (piece.kpis, piece.services, piece.step_s, self.name)
        return Scores(piece.time_ns, kpis, services, system, *meta, causal=self.causal)


def fill_from(values: np.ndarray, last: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """NaN → the last value observed before it; before the first, that one. Returns also the new last (K,).

    A KPI that was never observed stays NaN. What stands before the first observation is never judged.
    """
    index = np.where(np.isfinite(values), np.arange(len(values))[:, None], -1)
    at = np.maximum.accumulate(index, axis=0)
    filled = np.take_along_axis(values, np.maximum(at, 0), 0)
    first = values[np.argmax(index >= 0, axis=0), np.arange(values.shape[1])]
    before = first if last is None else np.where(np.isfinite(last), last, first)
    filled = np.where(at >= 0, filled, before)
    return filled, filled[-1]


class _OneLinerStream:
    """Keeps the last rows, and the running mean of each KPI's score to divide by."""

    def __init__(self, detector: OneLiner) -> None:
        self.detector = detector
        self.reach = detector.line.reach(detector.window)
        self.tail: np.ndarray | None = None
        self.last: np.ndarray | None = None  # (K,) the last value observed
        self.total: np.ndarray | None = None
        self.count: np.ndarray | int = 0
        self.row = 0  # rows scored
        self.last_ns: int | None = None

    def push(self, piece: Frame) -> Scores:
        require_later(piece, self.last_ns)
        self.last_ns = int(piece.time_ns[-1])
        raw = self._raw(piece)
        self.row += len(piece)
        if not self.detector.line.divided:
            return self.detector.scores(piece, raw, np.ones(raw.shape[1]))
        told = np.isfinite(raw)
        sums = np.cumsum(np.where(told, raw, 0), 0)
        sums += np.zeros(raw.shape[1]) if self.total is None else self.total
        counts = self.count + np.cumsum(told, 0)
        self.total, self.count = sums[-1], counts[-1]
        return self.detector.scores(piece, raw, sums / np.maximum(counts, 1))

    def _raw(self, piece: Frame) -> np.ndarray:
        d = self.detector
        if d.name == "random":
            seeds = [d.seed, zlib.crc32(d.name.encode())]
            rows = [np.random.default_rng([*seeds, int(t) & (2**63 - 1)]) for t in piece.time_ns]
            return np.stack([r.random(len(piece.kpis)) for r in rows])
        values = np.where(np.isfinite(piece.values), piece.values, np.nan)
        if d.line.filled:
            values, self.last = fill_from(values, self.last)
        known = values if self.tail is None else np.concatenate([self.tail, values])
        if d.line.filled and self.tail is not None:
            known, _ = fill_from(known, None)  # a KPI observed for the first time
        self.tail = known[-self.reach :] if self.reach else known[:0]
        return d.line.raw(known, self.row + len(values) - len(known), len(values), d.window)
