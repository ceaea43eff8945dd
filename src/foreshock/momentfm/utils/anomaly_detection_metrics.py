"""The original's `momentfm.utils.anomaly_detection_metrics`: the label-adjusted F1 of its tutorial.

It looks at the labels to mend the predictions, so a random score does well on it; see foreshock.metrics
for honest ones.
"""

from __future__ import annotations

import numpy as np


def f1_score(predict: np.ndarray, actual: np.ndarray) -> float:
    """F1 of 0/1 predictions, with the original's small number in each divisor."""
    hits = float(np.sum(predict * actual))
    precision = hits / (float(np.sum(predict)) + 1e-5)
    recall = hits / (float(np.sum(actual)) + 1e-5)
    return 2 * precision * recall / (precision + recall + 1e-5)


def adjust_predicts(predict: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Predictions with every anomaly counted as found whole if one of its rows was found."""
    actual = np.asarray(actual) > 0.1
    starts = np.flatnonzero(np.diff(actual.astype(int), prepend=0) == 1)
    ends = np.flatnonzero(np.diff(actual.astype(int), append=0) == -1) + 1
    adjusted = np.array(predict, dtype=bool)
    for start, end in zip(starts, ends, strict=True):
        adjusted[start:end] |= adjusted[start:end].any()
    return adjusted


def adjbestf1(y_true: np.ndarray, y_scores: np.ndarray, n_splits: int = 100) -> float:
    """The best adjusted F1 over `n_splits` thresholds between the lowest and the highest score."""
    actual = np.asarray(y_true) > 0
    thresholds = np.linspace(np.min(y_scores), np.max(y_scores), n_splits)
    return max(f1_score(adjust_predicts(y_scores >= t, actual), actual) for t in thresholds)
