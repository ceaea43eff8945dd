"""What a KPI was expected to be, and the range around it that its own past would not have left.

Not here: how far outside is an anomaly (models), which KPI is to blame (explain).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreshock.frame import Frame
from foreshock.scores import Scores

OUTSIDE = 0.01  # share of the past's errors left outside on each side
FEWEST = 8  # errors needed for a range
BEFORE = 256  # rows ahead that set it


@dataclass(frozen=True, slots=True)
class Band:
    """In the KPI's unit, (n,) each; NaN where nothing can be said."""

    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(frame: Frame, scores: Scores | None, kpi: int, rows: slice, calm: slice | None = None) -> Band:
    """The expectation of one KPI at some rows, with a range from how far it was off in the rows before.

    Args:
        scores: of the same rows; its `expected` where it has one, else the median of the rows before.
        kpi: its place in the frame.
        calm: rows whose errors set the range; None takes the `BEFORE` rows ahead of `rows`. Where they hold
            too few values, `rows` themselves are taken.

    Nothing that never was below 0 is expected below it.
    """
    start, stop, _ = rows.indices(len(frame))
    values = frame.values[:, kpi]
    past = slice(max(0, start - BEFORE), start) if calm is None else calm
    if np.isfinite(values[past]).sum() < FEWEST:
        past = rows
    expected = np.full(len(frame), np.nan)
    if scores is not None and scores.expected is not None and scores.kpi_meta == frame.kpis:
        expected = scores.expected[:, kpi].astype(float)
    seen = values[past][np.isfinite(values[past])]
    if not len(seen):
        missing = np.full(stop - start, np.nan)
        return Band(missing, missing.copy(), missing.copy())
    expected = np.where(np.isfinite(expected), expected, np.median(seen))
    errors = (values - expected)[past]
    errors = errors[np.isfinite(errors)]
    if len(errors) < FEWEST:
        missing = np.full(stop - start, np.nan)
        return Band(expected[rows], missing, missing.copy())
    below, above = np.quantile(errors, [OUTSIDE, 1 - OUTSIDE])
    least = 0.01 * float(np.abs(np.median(seen)))  # a constant KPI's range can still be seen
    floor = 0.0 if seen.min() >= 0 else -np.inf
    told = expected[rows]
    low, high = told + min(float(below), -least), told + max(float(above), least)
    return Band(np.maximum(told, floor), np.maximum(low, floor), np.maximum(high, floor))
