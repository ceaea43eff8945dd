"""Detectors that learn before they score: from a training part, or from their own past as they go.

`fit(frame)` learns from that frame alone, and then any frame is scored. Without it a detector that needs
no labels learns as a recording goes on: anew at rows 32, 64, 128, … (where it looks at windows, first
when there are three of them), each time from at most the last 4,096 rows; before the first of them
nothing is known and the evidence is 0. Which rows those are depends on no later row, so that a stream,
in pieces of any size, gives what the whole recording gives.

Offline (`causal=False`) it learns from the whole recording it scores, as published benchmarks do.

Not here: what is learned (classical, lstm); averaging several (ensemble).
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np

from foreshock.errors import ConfigError, FrameError
from foreshock.frame import Frame, Kpi
from foreshock.models.evidence import require_later
from foreshock.models.oneline import fill_from, spread_of
from foreshock.scores import Scores, layout, pool
from foreshock.windows import median_and_mad

# Rows at which a detector without a training part learns for the first time, at the earliest. At 128 the
# faults that begin Online Boutique's recording fell before it: AP of PCA 0.39 in place of 0.70 (2026-11-26).
FIRST_FIT = 32
MOST_ROWS = 4096  # rows, or windows of rows, that are learned from
CAP = 20.0  # where a ratio begins to count less than itself
PIECE = 8192  # rows judged at once


class Fitted(Protocol):
    """What was learned."""

    def judge(self, values: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Score the last `rows` rows of values (T, K), which begin at most `reach` rows earlier.

        Returns:
            (rows, K) for each KPI, and (rows,) for the system, None where the KPIs' scores are pooled.
            NaN where there is nothing to say.
        """
        ...


class Learner(Protocol):
    """How a detector learns."""

    supervised: bool  # learns from labels, and is given them in `fit` only
    fills: bool  # gaps are filled with the value before them; otherwise the learner gets NaN
    reach: int  # rows before a row that its score depends on

    def learn(self, values: np.ndarray, truth: np.ndarray | None) -> Fitted:
        """Learn from values (T, K); `truth` (T,) is 0 or 1, NaN where a row is to be ignored."""
        ...

    def describe(self) -> dict[str, Any]:
        """Options, source."""
        ...

    def judge_offline(self, fitted: Fitted, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Score whole recordings (T, K) with later rows in view."""
        ...


class FittedDetector:
    """A detector around what it learns. `needs_fit` is True while it can't score yet."""

    def __init__(self, name: str, learner: Learner, causal: bool = True) -> None:
        self.name = name
        self.learner = learner
        self.causal = causal
        self.fitted: Fitted | None = None
        self.kpis: tuple[Kpi, ...] = ()
        self.cost: dict[str, float] = {}

    @property
    def supervised(self) -> bool:
        return self.learner.supervised

    @property
    def needs_fit(self) -> bool:
        return self.supervised and self.fitted is None

    @property
    def first_fit(self) -> int:
        """Rows needed to learn from."""
        return max(FIRST_FIT, 3 * (self.learner.reach + 1))

    def fit(self, frame: Frame) -> FittedDetector:
        """Learn from the training part, and from nothing else afterwards. Labels are read only if supervised.

        Raises:
            FrameError: too few rows, unsorted stamps, or, if supervised, no labels or only one class.
        """
        frame.require_clock()
        least = 2 * (self.learner.reach + 1)
        if len(frame) < least:
            raise FrameError(
                f"the training part has {len(frame)} rows; {self.name} needs at least {least}. "
                "Give it a longer one."
            )
        truth = _truth(self.name, frame) if self.supervised else None
        values = np.where(np.isfinite(frame.values), frame.values, np.nan)
        self.fitted = self.learn(values, truth)
        self.kpis = frame.kpis
        return self

    def learn(self, values: np.ndarray, truth: np.ndarray | None = None) -> Fitted:
        """What the learner makes of it, with the time it took noted."""
        if self.learner.fills:
            values, _ = fill_from(values, None)
        began, cpu = time.perf_counter(), time.process_time()
        fitted = self.learner.learn(values, truth)
        took = {"fit_wall_s": time.perf_counter() - began, "fit_cpu_s": time.process_time() - cpu}
        self.cost = {**self.cost, "fit_rows": len(values), **took}
        return fitted

    def score(self, frame: Frame) -> Scores:
        if self.causal:
            return self.stream().push(frame)
        frame.require_clock()
        self.require(frame)
        values = np.where(np.isfinite(frame.values), frame.values, np.nan)
        fitted = self.fitted or self.learn(values)
        if self.learner.fills:
            values, _ = fill_from(values, None)
        return self.scores(frame, *self.learner.judge_offline(fitted, values))

    def stream(self) -> FittedStream:
        if not self.causal:
            raise ConfigError("offline scoring reads later rows, so it can't stream; leave out --offline.")
        return FittedStream(self)

    def describe(self) -> dict[str, Any]:
        """Options, source, and what learning and scoring took the last time."""
        return {
            "detector": self.name,
            "causal": self.causal,
            "supervised": self.supervised,
            "is_fitted": self.fitted is not None,
            "first_fit_row": self.first_fit,
            **self.learner.describe(),
            **self.cost,
        }

    def require(self, frame: Frame) -> None:
        """Raises where it can't score this frame.

        Raises:
            ConfigError: it learns from labels and was never fitted.
            FrameError: the KPIs are not those it was fitted on.
        """
        if self.needs_fit:
            raise ConfigError(
                f"{self.name} learns from labels and was not fitted; call fit(frame) with a labelled "
                "training part first, or choose a detector that needs none."
            )
        if self.kpis and frame.names != tuple(k.name for k in self.kpis):
            raise FrameError(
                f"the frame has {len(frame.kpis)} KPIs that differ from the {len(self.kpis)} that "
                f"{self.name} was fitted on; select those, in their order, or fit anew."
            )

    def scores(self, piece: Frame, kpis: np.ndarray, system: np.ndarray | None) -> Scores:
        """Pool what was judged; nothing to say yet is 0, not observed is NaN."""
        observed = np.isfinite(piece.values)
        kpis = np.where(observed, np.nan_to_num(kpis), np.nan).astype(np.float32)
        services, pooled = pool(kpis, layout(piece.kpis))
        if system is not None:
            pooled = np.where(observed.any(1), np.nan_to_num(system), np.nan).astype(np.float32)
        meta = (piece.kpis, piece.services, piece.step_s, self.name)
        return Scores(piece.time_ns, kpis, services, pooled, *meta, causal=self.causal)


def _truth(name: str, frame: Frame) -> np.ndarray:
    labels = frame.labels
    if labels is None:
        raise FrameError(f"the training part has no labels; {name} learns from them. Add a label column.")
    truth = np.where(labels.ignore, np.nan, labels.anomaly.astype(float))
    for value, word in ((1, "faulty"), (0, "quiet")):
        if not (truth == value).any():
            raise FrameError(
                f"the training part has no {word} row among its {len(frame)}; {name} needs both kinds. "
                "Give it a longer one, or choose a detector that needs no labels."
            )
    return truth


class FittedStream:
    """Scores rows as they come; learns on the way if its detector was not fitted."""

    def __init__(self, detector: FittedDetector) -> None:
        self.detector = detector
        self.fitted = detector.fitted
        self.next_fit = None if detector.fitted is not None else detector.first_fit
        self.tail: np.ndarray | None = None  # (reach, K) the last rows, gaps filled if the learner wants it
        self.history: list[np.ndarray] = []  # rows to learn from
        self.last: np.ndarray | None = None
        self.row = 0
        self.names: tuple[str, ...] | None = None
        self.last_ns: int | None = None

    def push(self, piece: Frame) -> Scores:
        """Score the next rows.

        Raises:
            ConfigError: the detector needs a fit first.
            FrameError: other KPIs than before, or rows that are not later than all before.
        """
        require_later(piece, self.last_ns)
        self.detector.require(piece)
        if self.names is not None and piece.names != self.names:
            raise FrameError(
                f"the piece has {len(piece.kpis)} KPIs that differ from the stream's {len(self.names)}; "
                "a stream keeps its KPIs, start a new one."
            )
        self.names, self.last_ns = piece.names, int(piece.time_ns[-1])
        values = np.where(np.isfinite(piece.values), piece.values, np.nan)
        parts, row = [], 0
        while row < len(values):
            stop = min(row + PIECE, len(values))
            if self.next_fit is not None:
                stop = min(stop, row + self.next_fit - self.row)
            parts.append(self._advance(values[row:stop]))
            row = stop
        kpis = np.concatenate([found for found, _ in parts])
        system = _joined([told for _, told in parts], [len(found) for found, _ in parts])
        return self.detector.scores(piece, kpis, system)

    def _advance(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        d = self.detector
        raw = values
        if d.learner.fills:
            values, self.last = fill_from(values, self.last)
        known = values if self.tail is None else np.concatenate([self.tail, values])
        if d.learner.fills and self.tail is not None:
            known, _ = fill_from(known, None)  # a KPI observed for the first time
        kpis: np.ndarray = np.full(values.shape, np.nan)
        system: np.ndarray | None = None
        if self.fitted is not None:
            began = time.perf_counter()
            kpis, system = self.fitted.judge(known, len(values))
            d.cost["score_ms_per_row"] = 1e3 * (time.perf_counter() - began) / len(values)
        self.tail = known[len(known) - min(d.learner.reach, len(known)) :]
        self.row += len(values)
        if self.next_fit is not None:
            self._remember(raw)
        return kpis, system

    def _remember(self, values: np.ndarray) -> None:
        self.history.append(values)
        is_due = self.row == self.next_fit
        # Joined now and then only, so that pushing single rows doesn't copy all of them each time.
        if is_due or sum(map(len, self.history)) > 2 * MOST_ROWS:
            self.history = [np.concatenate(self.history)[-MOST_ROWS:]]
        if is_due and self.next_fit is not None:
            self.fitted = self.detector.learn(self.history[0])
            self.next_fit *= 2


def _joined(parts: list[np.ndarray | None], lengths: list[int]) -> np.ndarray | None:
    """One array, or None if no part has one; NaN for those that have none."""
    if all(part is None for part in parts):
        return None
    return np.concatenate(
        [np.full(n, np.nan) if part is None else part for part, n in zip(parts, lengths, strict=True)]
    )


class RowScale:
    """Median and spread of each KPI in the rows learned from; what was never observed there says nothing."""

    def __init__(self, values: np.ndarray, cap: float = CAP) -> None:
        self.cap = cap
        center, mad = median_and_mad(values)
        self.known = np.isfinite(center)
        self.center = np.nan_to_num(center)
        self.spread = spread_of(values, self.center, np.nan_to_num(mad))
        seen = np.where(np.isfinite(values), values, self.center)
        self.changes = self.known & (np.ptp(seen, axis=0) > 1e-9 * np.abs(self.center))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(T, K) spreads from the median, within ±cap; a missing value is taken to be the past median."""
        off = np.where(np.isfinite(values) & self.known, (values - self.center) / self.spread, 0.0)
        return np.clip(off, -self.cap, self.cap)


def soften(ratio: np.ndarray) -> np.ndarray:
    """Keeps the order; from about 20 on a ratio counts less and less, so that no single KPI drowns others."""
    return np.asarray(CAP * np.log1p(np.maximum(ratio, 0) / CAP))


def share(system: np.ndarray, off: np.ndarray) -> np.ndarray:
    """What of a joint score (T,) falls on each KPI, by its distance (T, K) from its own median: (T, K).

    The root mean square over KPIs is the joint score. An attribution, not what the method computed.
    """
    size = np.sqrt((off**2).mean(1, keepdims=True))
    weight = np.where(size > 0, np.abs(off) / np.where(size > 0, size, 1), 1.0)
    return np.asarray(system[:, None] * weight)
