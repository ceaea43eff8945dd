"""What a page draws of one record: its precision-recall curve, and the score in time with faults and alarms.

A sketch is small whatever the length of the series: 40 figures of precision, at most 240 columns of time, and
stretches counted in columns. Not here: figures and who is sketched (protocol), drawing (report).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.calibrate import CausalThreshold, Threshold
from foreshock.evaluate.parts import Part
from foreshock.scores import Scores

RECALLS = np.arange(1, 41) / 40  # the shares of faulty rows at which precision is noted
COLUMNS = 240  # of a timeline; a column keeps its highest score


def sketches_of(records: str | Path) -> Path:
    """The file of sketches beside a file of records.

    Example:
        >>> sketches_of("runs/evaluate.jsonl").name
        'evaluate.sketches.jsonl'
    """
    path = Path(records)
    return path.with_name(f"{path.stem}.sketches{path.suffix}")


def timeline(
    part: Part, scores: Scores, threshold: Threshold | CausalThreshold, events: Iterable[Any]
) -> dict[str, Any]:
    """The judged stretch of one part in a few hundred numbers.

    Args:
        threshold: the fixed one, drawn as a line.
        events: what it made of the scores; only those that touch the stretch are kept.

    Returns:
        First stamp, rows and seconds, `score` (None where nothing was observed), `high`, and `faults` and
        `alarms` as (first column, column after the last).
    """
    system = scores.system.astype(float)
    rows = np.flatnonzero(part.judged)
    first, stop = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    columns = min(COLUMNS, stop - first)
    high = np.asarray(threshold.high, float)
    level = float(high) if high.ndim == 0 else float(np.median(high[first:stop]))
    return {
        "start": str(part.frame.time[first].astype("datetime64[s]")) + "Z" if columns else None,
        "rows": stop - first,
        "step_s": part.frame.step_s,
        "score": [_short(v) for v in _highest(system[first:stop], columns)],
        "high": _short(level),
        "faults": _in_columns(part.faults, first, stop, columns),
        "alarms": _in_columns([(e.start, e.end) for e in events], first, stop, columns),
    }


def precision_at(score: np.ndarray, truth: np.ndarray, ignore: np.ndarray) -> list[float] | None:
    """The best precision at each recall of RECALLS or more; None where no faulty row has a score.

    Example:
        >>> precision_at(np.array([3.0, 2, 1, 0]), np.array([1, 0, 1, 0], bool), np.zeros(4, bool))[::13]
        [1.0, 1.0, 0.667, 0.667]
    """
    keep = ~ignore & ~np.isnan(score)
    score, truth = score[keep], truth[keep]
    positive = int(truth.sum())
    if not positive:
        return None
    order = np.argsort(-score, kind="stable")
    is_last = np.append(np.diff(score[order]) != 0, True)  # equal scores are told together
    hits = np.cumsum(truth[order])[is_last]
    told = np.flatnonzero(is_last) + 1
    best_from = np.maximum.accumulate((hits / told)[::-1])[::-1]
    place = np.searchsorted(hits / positive, RECALLS - 1e-9)
    return [round(float(v), 3) for v in best_from[np.minimum(place, len(best_from) - 1)]]


def _highest(values: np.ndarray, columns: int) -> np.ndarray:
    """The highest value of each column, NaN where none was observed."""
    if not columns:
        return np.zeros(0)
    filled = np.where(np.isnan(values), -np.inf, values)
    found = np.maximum.reduceat(filled, np.arange(columns) * len(values) // columns)
    return np.where(np.isneginf(found), np.nan, found)


def _in_columns(spans: Sequence[tuple[int, int]], first: int, stop: int, columns: int) -> list[list[int]]:
    """Stretches of rows as stretches of columns; those that share a column become one."""
    out: list[list[int]] = []
    for start, end in sorted(spans):
        start, end = max(start, first) - first, min(end, stop) - first
        if end <= start:
            continue
        left, right = start * columns // (stop - first), -(-end * columns // (stop - first))
        if out and left < out[-1][1]:
            out[-1][1] = max(right, out[-1][1])
        else:
            out.append([left, right])
    return out


def _short(value: float) -> float | None:
    """Three digits; None for what JSON can't hold."""
    return float(f"{value:.3g}") if math.isfinite(value) else None
