"""One table of metrics, each a function of the same thing: scores and what was known afterwards.

Adding a metric is a function, a line here, a test and a paragraph in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.errors import FrameError
from foreshock.metrics import adjusted, events, points, ranges


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores of one series and all that a metric may need to judge them."""

    score: np.ndarray  # (T,) float, higher is more anomalous, NaN where nothing was observed
    truth: np.ndarray  # (T,) 0 or 1
    ignore: np.ndarray | None = None  # (T,) bool: recovery, suspects, not observed
    step_s: float = 60.0
    window_rows: int = ranges.WINDOW_ROWS  # widest buffer of the range metrics
    threshold: float | None = None  # calibrated on other rows, or on none with labels
    alarms: Sequence[events.Span] | None = None  # of `decide`; runs at or above the threshold unless given
    faults: Sequence[tuple[int, int]] | None = None  # runs of true rows that count unless given
    tolerance_rows: int = events.TOLERANCE_ROWS
    seed: int = 0  # of the random baseline beside adjusted figures


@dataclass(frozen=True, slots=True)
class _Run:
    start: int
    end: int


def event_counts(judged: Judged) -> events.EventCounts:
    """Faults and alarms of `judged`.

    Raises:
        FrameError: neither alarms nor a threshold is given.
    """
    score, truth, keep = points.checked(judged.score, judged.truth, judged.ignore)
    alarms = judged.alarms
    if alarms is None:
        told = keep & (np.nan_to_num(score, nan=-np.inf) >= _threshold(judged))
        alarms = [_Run(*span) for span in events.spans(told)]
    faults = judged.faults
    if faults is None:
        faults = [span for span in events.spans(truth) if keep[slice(*span)].any()]
    return events.count_events(alarms, faults, len(score), judged.step_s, ~keep, judged.tolerance_rows)


def _threshold(judged: Judged) -> float:
    if judged.threshold is None:
        raise FrameError("this metric needs a threshold; calibrate one on quiet scores and hand it in.")
    return judged.threshold


def _at(judged: Judged) -> points.AtThreshold:
    return points.at_threshold(judged.score, judged.truth, _threshold(judged), judged.ignore)


def _three(judged: Judged) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    return judged.score, judged.truth, judged.ignore


def _pa(judged: Judged, share: float) -> adjusted.Adjusted:
    return adjusted.point_adjusted_f1(
        *_three(judged)[:2], _threshold(judged), judged.ignore, share, judged.seed
    )


def _pa_oracle(judged: Judged, share: float) -> adjusted.Adjusted:
    return adjusted.point_adjusted_f1_oracle(*_three(judged), share, judged.seed)


METRICS: dict[str, Callable[[Judged], float]] = {
    # by rows, no threshold
    "average_precision": lambda j: points.average_precision(*_three(j)),
    "roc_auc": lambda j: points.roc_auc(*_three(j)),
    "best_f1_oracle": lambda j: points.best_f1_oracle(*_three(j)),
    # by rows, at the threshold
    "precision": lambda j: _at(j).precision,
    "recall": lambda j: _at(j).recall,
    "f1": lambda j: _at(j).f1,
    # by events, at the threshold
    "event_precision": lambda j: event_counts(j).precision,
    "event_recall": lambda j: event_counts(j).recall,
    "event_f1": lambda j: event_counts(j).f1,
    "delay_median_s": lambda j: event_counts(j).delay_median_s,
    "delay_p90_s": lambda j: event_counts(j).delay_p90_s,
    "never_found": lambda j: event_counts(j).never_found,
    "false_alarms_per_day": lambda j: event_counts(j).false_alarms_per_day,
    # by ranges, no threshold
    "vus_pr": lambda j: ranges.vus_pr(*_three(j), j.window_rows),
    "vus_roc": lambda j: ranges.vus_roc(*_three(j), j.window_rows),
    "vus_pr_tsb_ad": lambda j: ranges.vus_pr_tsb_ad(*_three(j), j.window_rows),
    "vus_roc_tsb_ad": lambda j: ranges.vus_roc_tsb_ad(*_three(j), j.window_rows),
    # adjusted with labels: each beside its random baseline, never alone
    "point_adjusted_f1": lambda j: _pa(j, 0.0).f1,
    "point_adjusted_f1_random": lambda j: _pa(j, 0.0).random_f1,
    "point_adjusted_f1_oracle": lambda j: _pa_oracle(j, 0.0).f1,
    "point_adjusted_f1_oracle_random": lambda j: _pa_oracle(j, 0.0).random_f1,
    "point_adjusted_f1_at_20": lambda j: _pa(j, 0.2).f1,
    "point_adjusted_f1_at_20_random": lambda j: _pa(j, 0.2).random_f1,
}
