"""How good scores and events are, held against what was known afterwards.

Rows to ignore (recovery, suspects, not observed) are left out everywhere. Nothing here is adjusted
with labels. Not here yet: range metrics (VUS) and the label-adjusted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from foreshock.errors import FrameError


def _known(score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    score, truth = np.asarray(score, float), np.asarray(truth, bool)
    if score.shape != truth.shape or score.ndim != 1:
        raise FrameError(f"scores have shape {score.shape}, labels {truth.shape}; both must be (T,).")
    keep = np.isfinite(score) if ignore is None else np.isfinite(score) & ~np.asarray(ignore, bool)
    return score[keep], truth[keep]


def average_precision(score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Point AUC-PR: the precision at each new recall, summed (no interpolation).

    Equal scores count together. NaN where there is no positive row.
    """
    score, truth = _known(score, truth, ignore)
    if not truth.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.cumsum(truth[order])[last_of_ties]
    precision = hits / (last_of_ties + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / truth.sum())


def roc_auc(score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Point AUC-ROC: the chance that a positive row outscores a negative one; ties count half.

    NaN where only one class is there.
    """
    score, truth = _known(score, truth, ignore)
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return float("nan")
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[inverse]
    return float((rank[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]] = {
    "average_precision": average_precision,
    "roc_auc": roc_auc,
}


class Span(Protocol):
    """Anything that lasts from row `start` to row `end`, exclusive."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


@dataclass(frozen=True, slots=True)
class EventCounts:
    """Faults found and alarms raised; an event counts once."""

    faults: int
    found: int
    alarms: int
    false_alarms: int  # alarms that touch no fault, no ignored row and no row just after them
    hours: float
    delays_s: tuple[float, ...]  # of the found faults: first alarmed row minus first faulty row, at least 0

    @property
    def recall(self) -> float:
        return self.found / self.faults if self.faults else float("nan")

    @property
    def precision(self) -> float:
        return 1 - self.false_alarms / self.alarms if self.alarms else float("nan")

    @property
    def false_alarms_per_hour(self) -> float:
        return self.false_alarms / self.hours if self.hours else float("nan")


def count_events(
    alarms: Sequence[Span],
    faults: Sequence[tuple[int, int]],
    rows: int,
    step_s: float,
    ignore: np.ndarray | None = None,
    tolerance_rows: int = 2,
) -> EventCounts:
    """Match alarms with faults by overlap.

    Args:
        faults: (first row, row after the last) of each.
        ignore: (rows,) bool; an alarm that touches such a row is not false, nor does it find anything.
        tolerance_rows: an alarm may begin this many rows after a fault's end and still find it.
    """
    excused = np.zeros(rows, bool) if ignore is None else np.asarray(ignore, bool).copy()
    delays = []
    for first, last in faults:
        excused[first : last + tolerance_rows] = True
        touching = [a for a in alarms if a.start < last + tolerance_rows and a.end > first]
        if touching:
            delays.append(max(0.0, (min(a.start for a in touching) - first) * step_s))
    false = sum(not excused[a.start : max(a.end, a.start + 1)].any() for a in alarms)
    hours = (rows - int(np.sum(ignore) if ignore is not None else 0)) * step_s / 3600
    return EventCounts(len(faults), len(delays), len(alarms), false, hours, tuple(delays))


def fault_spans(fault_id: np.ndarray, keep: np.ndarray | None = None) -> list[tuple[int, int]]:
    """Rows of each fault from `Labels.fault_id`; -1 is none. `keep` (T,) bool drops faults never covered."""
    fault_id = np.asarray(fault_id)
    spans = []
    for fault in np.unique(fault_id[fault_id >= 0]):
        rows = np.flatnonzero(fault_id == fault)
        if keep is None or keep[rows].any():
            spans.append((int(rows[0]), int(rows[-1]) + 1))
    return spans
