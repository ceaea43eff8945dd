"""The floor under every claim: expectations and scores of one line each.

The expectations run through the same evidence and pooling as the network, so that a comparison
shows what the network is worth and nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from foreshock.frame import Frame
from foreshock.models.evidence import EvidenceDetector, EvidenceOptions, Expectation, require_later
from foreshock.scores import Scores, layout, pool
from foreshock.windows import quantiles


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


class OneLiner:
    """rolling_variance, squared_difference or random: causal, per KPI divided by its own past median."""

    def __init__(self, name: str, window: int = 64, seed: int = 0) -> None:
        self.name = name
        self.window = window
        self.seed = seed

    def score(self, frame: Frame) -> Scores:
        return self.stream().push(frame)

    def stream(self) -> _OneLinerStream:
        return _OneLinerStream(self)

    def describe(self) -> dict[str, Any]:
        return {"detector": self.name, "causal": True, "window": self.window, "seed": self.seed}


class _OneLinerStream:
    """Keeps the last rows, and the running mean of each KPI's score to divide by."""

    def __init__(self, detector: OneLiner) -> None:
        self.detector = detector
        self.tail: np.ndarray | None = None
        self.total: np.ndarray | None = None
        self.count = 0
        self.last_ns: int | None = None

    def push(self, piece: Frame) -> Scores:
        require_later(piece, self.last_ns)
        self.last_ns = int(piece.time_ns[-1])
        raw = self._raw(piece)
        total = np.zeros(raw.shape[1]) if self.total is None else self.total
        sums = total + np.cumsum(raw, 0)
        counts = self.count + np.arange(1, len(raw) + 1)[:, None]
        self.total, self.count = sums[-1], self.count + len(raw)
        usual = sums / counts
        kpis = np.where(np.isfinite(piece.values), raw / np.where(usual > 0, usual, 1), np.nan)
        services, system = pool(kpis.astype(np.float32), layout(piece.kpis))
        kpis = kpis.astype(np.float32)
        meta = (piece.kpis, piece.services, piece.step_s, self.detector.name)
        return Scores(piece.time_ns, kpis, services, system, *meta)

    def _raw(self, piece: Frame) -> np.ndarray:
        d = self.detector
        if d.name == "random":
            seeds = [d.seed, zlib.crc32(d.name.encode())]
            rows = [np.random.default_rng([*seeds, int(t) & (2**63 - 1)]) for t in piece.time_ns]
            return np.stack([r.random(len(piece.kpis)) for r in rows])
        known = piece.values if self.tail is None else np.concatenate([self.tail, piece.values])
        self.tail = known[-2 * d.window :]
        score = rolling_variance if d.name == "rolling_variance" else squared_difference
        return score(np.where(np.isfinite(known), known, np.nan), d.window)[-len(piece) :]
