"""Row by row: how well scores rank faulty rows, and what one threshold makes of them.

Rows to ignore and rows without a score (NaN) are left out. Not here: events (events), tolerance in
time (ranges), anything adjusted with labels (adjusted).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreshock.errors import FrameError


def known(score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of the rows that count.

    Raises:
        FrameError: shapes differ, labels are not 0 and 1, or a score is infinite.
    """
    score, positive, keep = checked(score, truth, ignore)
    return score[keep], positive[keep]


def checked(
    score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (T,) float, labels (T,) bool and which rows count (T,) bool; errors as `known`."""
    score, truth = np.asarray(score, float), np.asarray(truth)
    if score.shape != truth.shape or score.ndim != 1:
        raise FrameError(f"scores have shape {score.shape}, labels {truth.shape}; both must be (T,).")
    if ignore is not None and np.shape(ignore) != score.shape:
        raise FrameError(
            f"scores have shape {score.shape}, ignored rows {np.shape(ignore)}; both must be (T,)."
        )
    keep = ~np.isnan(score) if ignore is None else ~np.isnan(score) & ~np.asarray(ignore, bool)
    if np.isinf(score[keep]).any():
        row = int(np.flatnonzero(np.isinf(score) & keep)[0])
        raise FrameError(f"the score of row {row} is infinite; scores must be finite, or NaN where unknown.")
    if truth.dtype != bool:
        strange = truth[(truth != 0) & (truth != 1)]
        if len(strange):
            raise FrameError(f"labels hold {strange[0]}; they must be 0 or 1.")
    return score, truth.astype(bool), keep


def average_precision(score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Point AUC-PR: the precision at each new recall, summed (no interpolation).

    Equal scores count together. NaN where there is no positive row.
    """
    score, truth = known(score, truth, ignore)
    if not truth.any():
        return float("nan")
    hits, told = _ladder(score, truth)[:2]
    return float(np.sum(np.diff(hits, prepend=0) * hits / told) / truth.sum())


def roc_auc(score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Point AUC-ROC: the chance that a positive row outscores a negative one; ties count half.

    NaN where only one class is there.
    """
    score, truth = known(score, truth, ignore)
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return float("nan")
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[inverse]
    return float((rank[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What one threshold makes of the rows; a row is told when its score is at or above it."""

    threshold: float
    hits: int  # positive rows told
    told: int
    positive: int

    @property
    def precision(self) -> float:
        """NaN where nothing was told."""
        return self.hits / self.told if self.told else float("nan")

    @property
    def recall(self) -> float:
        """NaN where there is no positive row."""
        return self.hits / self.positive if self.positive else float("nan")

    @property
    def f1(self) -> float:
        """0 where nothing was told; NaN where there is no positive row."""
        return 2 * self.hits / (self.told + self.positive) if self.positive else float("nan")


def at_threshold(
    score: np.ndarray, truth: np.ndarray, threshold: float, ignore: np.ndarray | None = None
) -> AtThreshold:
    """Rows told, hit and missed at a threshold found without the labels of these rows.

    Raises:
        FrameError: the threshold is NaN, beside the errors of every metric.
    """
    if np.isnan(threshold):
        raise FrameError("the threshold is NaN; calibrate one on quiet scores first.")
    score, truth = known(score, truth, ignore)
    told = score >= threshold
    return AtThreshold(float(threshold), int((told & truth).sum()), int(told.sum()), int(truth.sum()))


def best_f1_oracle(score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """The best F1 over all thresholds, which only somebody who knows the labels could choose.

    NaN where there is no positive row.
    """
    score, truth = known(score, truth, ignore)
    if not truth.any():
        return float("nan")
    hits, told = _ladder(score, truth)[:2]
    return float(np.max(2 * hits / (told + truth.sum())))


def best_threshold_oracle(score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """The threshold of `best_f1_oracle`: the highest of those that reach it."""
    score, truth = known(score, truth, ignore)
    if not truth.any():
        return float("nan")
    hits, told, levels = _ladder(score, truth)
    return float(levels[np.argmax(2 * hits / (told + truth.sum()))])


def _ladder(score: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits and rows told at each distinct score, from the highest down, and those scores."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    return np.cumsum(truth[order])[last], last + 1, score[order][last]
