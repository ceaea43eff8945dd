"""Point-adjusted figures, always beside what a random score reaches.

Point adjustment calls a whole event found once one of its rows is, which needs the labels and rewards
long events: a random score does well. These figures exist to read older papers, never to compare
detectors, so each comes with the mean of random scores on the same labels, adjusted in the same way.

Sources: Xu et al. 2018, Unsupervised Anomaly Detection via Variational Auto-Encoder (WWW), for the
adjustment; Kim et al. 2022, Towards a Rigorous Evaluation of Time-series Anomaly Detection (AAAI), for
PA%K and for why a random baseline belongs beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreshock.errors import FrameError
from foreshock.metrics.events import spans
from foreshock.metrics.points import at_threshold, best_f1_oracle, checked

RANDOM_DRAWS = 5


@dataclass(frozen=True, slots=True)
class Adjusted:
    """One adjusted figure and what it must be held against."""

    f1: float
    random_f1: float  # mean over RANDOM_DRAWS uniform scores, adjusted in the same way
    plain_f1: float  # the same scores, not adjusted


def point_adjusted_f1(
    score: np.ndarray,
    truth: np.ndarray,
    threshold: float,
    ignore: np.ndarray | None = None,
    share: float = 0.0,
    seed: int = 0,
) -> Adjusted:
    """PA-F1 at a threshold; the random scores tell as many rows as the given ones.

    Args:
        share: PA%K: an event is adjusted when more than this share of its rows was told; 0 is PA-F1.
    """
    score, positive, keep = checked(score, truth, ignore)
    plain = at_threshold(score[keep], positive[keep], threshold)
    level = 1 - plain.told / max(len(score[keep]), 1)
    random = [
        at_threshold(_adjusted(draw, positive, keep, share)[keep], positive[keep], level).f1
        for draw in _draws(len(score), seed)
    ]
    of = at_threshold(_adjusted(score, positive, keep, share)[keep], positive[keep], threshold)
    return Adjusted(of.f1, float(np.mean(random)), plain.f1)


def point_adjusted_f1_oracle(
    score: np.ndarray,
    truth: np.ndarray,
    ignore: np.ndarray | None = None,
    share: float = 0.0,
    seed: int = 0,
) -> Adjusted:
    """PA-F1 at the threshold that makes it best, as most papers report it; `share` as above."""
    score, positive, keep = checked(score, truth, ignore)
    random = [
        best_f1_oracle(_adjusted(draw, positive, keep, share)[keep], positive[keep])
        for draw in _draws(len(score), seed)
    ]
    of = best_f1_oracle(_adjusted(score, positive, keep, share)[keep], positive[keep])
    return Adjusted(of, float(np.mean(random)), best_f1_oracle(score[keep], positive[keep]))


def _draws(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((RANDOM_DRAWS, rows))


def _adjusted(score: np.ndarray, truth: np.ndarray, keep: np.ndarray, share: float) -> np.ndarray:
    """Raise each event's rows to the highest threshold at which enough of them are told."""
    if not 0 <= share < 1:
        raise FrameError(f"the share is {share}; point adjustment needs 0 or more and below 1.")
    raised = score.copy()
    for first, last in spans(truth):
        rows = first + np.flatnonzero(keep[first:last])
        if len(rows):
            needed = int(np.floor(share * len(rows) + 1e-9)) + 1
            raised[rows] = np.maximum(score[rows], np.sort(score[rows])[-needed])
    return raised
