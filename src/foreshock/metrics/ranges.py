"""Range metrics: near an event counts in part, and the share is averaged over how near (VUS).

Around each event the labels get two slopes of half a buffer; precision and recall are measured at 250
thresholds for every buffer from 0 to `window` rows, and the areas under the curves are averaged. A
random score is not worth 0 here: compare with a random baseline of the same series.

Two definitions, each under its own name:
- `vus_pr`, `vus_roc`: the original. Source: Paparrizos et al. 2022, Volume Under the Surface, PVLDB
  15(11), as in aeon's `range_pr_vus_score` and `range_roc_vus_score`.
- `vus_pr_tsb_ad`, `vus_roc_tsb_ad`: that of the TSB-AD benchmark. Source: Liu and Paparrizos 2024, The
  Elephant in the Room, NeurIPS; `RangeAUC_volume_opt` of TSB-AD. It differs in three ways: the slopes
  are symmetric, the positive rows are half those that were told, and precision is not interpolated.

Rows to ignore, or without a score, keep their place in time but count nowhere. Both definitions walk
over 250 thresholds times `window` buffers times T rows; here rows are counted once by threshold and by
distance from the nearest event, and the buffers are sums over those counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from foreshock.errors import FrameError
from foreshock.metrics.points import checked

THRESHOLDS = 250  # of both definitions
WINDOW_ROWS = 500  # widest buffer of the original definition, where no period is known
FAR = np.iinfo(np.int64).max // 4  # a slope no buffer reaches


def vus_pr(
    score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None, window: int = WINDOW_ROWS
) -> float:
    """Volume under the precision-recall surface, original definition.

    Args:
        window: the widest buffer, rows. `period` of the series is the usual choice.

    Returns:
        0..1; NaN where one class is missing; 0 where all scores are equal, as aeon has it.
    """
    return _volume(score, truth, ignore, window)[0]


def vus_roc(
    score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None, window: int = WINDOW_ROWS
) -> float:
    """Volume under the ROC surface, original definition; edge cases as `vus_pr`."""
    return _volume(score, truth, ignore, window)[1]


def vus_pr_tsb_ad(
    score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None, window: int = 100
) -> float:
    """VUS-PR as the TSB-AD benchmark publishes it.

    Args:
        window: TSB-AD takes `period` of the series.

    Returns:
        About 0..1; NaN where one class is missing. Equal scores give about the share of positive rows.
    """
    return _volume_tsb_ad(score, truth, ignore, window)[0]


def vus_roc_tsb_ad(
    score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None, window: int = 100
) -> float:
    """VUS-ROC as the TSB-AD benchmark publishes it; edge cases as `vus_pr_tsb_ad`."""
    return _volume_tsb_ad(score, truth, ignore, window)[1]


def period(values: np.ndarray, usual: int = 125) -> int:
    """Rows of the strongest repetition of one series, 6..303; `usual` where none stands out.

    The highest local maximum of the auto-correlation from lag 3 on, of the first 20,000 rows. Missing
    values are left out. Source: `find_length_rank` of TSB-AD.

    Example:
        >>> period(np.sin(np.arange(2000) * 2 * np.pi / 24))
        24
    """
    values = np.asarray(values, float)
    if values.ndim != 1:
        raise FrameError(f"values have shape {values.shape}; a period belongs to one series, (T,).")
    seen = values[np.isfinite(values)][:20_000]
    if len(seen) < 8 or np.ptp(seen) == 0:
        return usual
    centered = seen - seen.mean()
    spectrum = np.fft.rfft(centered, 2 ** int(np.ceil(np.log2(2 * len(seen) + 1))))
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[: min(401, len(seen))][3:]
    peaks = 1 + np.flatnonzero((correlation[1:-1] > correlation[:-2]) & (correlation[1:-1] > correlation[2:]))
    if not len(peaks):
        return usual
    best = int(peaks[np.argmax(correlation[peaks])])
    return usual if best < 3 or best > 300 else best + 3


# ------------------------------------------------------------------------------------------ definitions


def _volume(
    score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None, window: int
) -> tuple[float, float]:
    rows = _prepare(score, truth, ignore, window)
    if rows is None:
        return float("nan"), float("nan")
    if rows.is_flat:
        return 0.0, 0.0
    pr, roc = np.empty(window + 1), np.empty(window + 1)
    for buffer, slope in enumerate(_slopes(rows, window, lag=1)):
        hits = rows.hits + slope.hits
        positive = rows.positive + slope.weight / 2
        recall = np.minimum(hits / positive, 1) * slope.existence
        false = np.minimum((rows.told - hits) / (rows.count - positive), 1)
        precision = np.concatenate([[1.0], hits / rows.told])
        recall, false = np.concatenate([[0.0], recall, [1.0]]), np.concatenate([[0.0], false, [1.0]])
        pr[buffer] = np.sum(np.diff(recall[:-1]) * (precision[1:] + precision[:-1])) / 2
        roc[buffer] = np.sum(np.diff(false) * (recall[1:] + recall[:-1])) / 2
    return float(pr.mean()), float(roc.mean())


def _volume_tsb_ad(
    score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None, window: int
) -> tuple[float, float]:
    rows = _prepare(score, truth, ignore, window)
    if rows is None:
        return float("nan"), float("nan")
    pr, roc = np.empty(window + 1), np.empty(window + 1)
    for buffer, slope in enumerate(_slopes(rows, window, lag=0)):
        hits = rows.hits + slope.hits
        positive = rows.positive + slope.hits / 2
        recall = np.minimum(hits / positive, 1) * slope.existence
        false = (rows.told - hits) / (rows.count - positive)
        recall, false = np.concatenate([[0.0], recall, [1.0]]), np.concatenate([[0.0], false, [1.0]])
        pr[buffer] = np.sum(np.diff(recall[:-1]) * hits / rows.told)
        roc[buffer] = np.sum(np.diff(false) * (recall[1:] + recall[:-1])) / 2
    return float(pr.mean()), float(roc.mean())


# --------------------------------------------------------------------------------------------- counting


@dataclass(frozen=True, slots=True)
class _Rows:
    """What does not depend on the buffer. K = 250 thresholds, from the highest score down."""

    starts: np.ndarray  # (E,) first row of each event
    ends: np.ndarray  # (E,) last row of each event
    inside: np.ndarray  # (T,) bool: in an event
    rank: np.ndarray  # (T,) the first threshold a row reaches; K where it does not count
    told: np.ndarray  # (K,) rows at or above each threshold
    hits: np.ndarray  # (K,) of those, rows in events
    positive: int  # rows in events that count
    count: int  # rows that count
    is_flat: bool  # all scores are equal


@dataclass(frozen=True, slots=True)
class _Slope:
    """One buffer: what the slopes around the events add."""

    hits: np.ndarray  # (K,) weight of the slopes' rows at or above each threshold
    weight: float  # of all the slopes' rows
    existence: np.ndarray  # (K,) share of the events, slopes included, that were touched


def _prepare(score: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None, window: int) -> _Rows | None:
    """None where one class is missing among the rows that count."""
    if window < 0 or int(window) != window:
        raise FrameError(f"the window is {window} rows; it must be a whole number, 0 or more.")
    score, truth, keep = checked(score, truth, ignore)
    inside = truth & keep
    if not inside.any() or inside.sum() == keep.sum():
        return None
    edges = np.diff(truth.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    counted = np.append(0, np.cumsum(inside))
    is_counted = counted[ends + 1] > counted[starts]
    starts, ends = starts[is_counted], ends[is_counted]
    ordered = np.sort(score[keep])  # upwards
    places = np.linspace(0, len(ordered) - 1, THRESHOLDS).astype(np.int64)
    levels = ordered[::-1][places][::-1]  # upwards, for searchsorted
    rank = np.full(len(score), THRESHOLDS)
    rank[keep] = THRESHOLDS - np.searchsorted(levels, score[keep], side="right")
    return _Rows(
        starts, ends, truth, rank,
        told=_cumulated(rank[keep]), hits=_cumulated(rank[inside]),
        positive=int(inside.sum()), count=len(ordered), is_flat=bool(ordered[0] == ordered[-1]),
    )  # fmt: skip


def _cumulated(rank: np.ndarray) -> np.ndarray:
    return np.cumsum(np.bincount(rank, minlength=THRESHOLDS)[:THRESHOLDS])


def _slopes(rows: _Rows, window: int, lag: int) -> Iterator[_Slope]:
    """The slopes of every buffer from 0 to `window`.

    A slope of s = buffer // 2 rows weighs a row at distance d with sqrt(1 - d / buffer), at least
    sqrt(1/2), and the label is cut at 1: a row that two events reach weighs 1.

    Args:
        lag: the slope after an event is so many rows shorter than that before it: 1 in the original,
            which begins on the event's last row; 0 in TSB-AD.
    """
    widest = window // 2
    place, distance, one, two = _reach(rows, widest, lag)
    rank = rows.rank[place]
    single = np.zeros((widest + 1, THRESHOLDS))  # by distance and rank: rows reached by one event
    double = np.zeros(THRESHOLDS)  # by rank: rows reached by two or more
    entering, leaving = _by_step(one, widest), _by_step(two, widest)
    touched = _Touched(rows, lag)
    for slope in range(widest + 1):
        come, go = entering(slope), leaving(slope)
        np.add.at(single, (distance[come], rank[come]), 1)
        np.subtract.at(single, (distance[go], rank[go]), 1)
        double += np.bincount(rank[go], minlength=THRESHOLDS)
        existence = touched.widen(slope)
        for buffer in (2 * slope, 2 * slope + 1):
            if buffer > window:
                return
            weights = np.sqrt(1 - np.arange(slope + 1) / max(buffer, 1))
            hits = np.cumsum(weights @ single[: slope + 1] + double)
            yield _Slope(hits, float(hits[-1]), existence)


def _reach(rows: _Rows, widest: int, lag: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows that some slope reaches: row, distance to the first event that does, slope at which one
    event and slope at which a second one does."""
    place = np.flatnonzero(~rows.inside & (rows.rank < THRESHOLDS))
    after = np.searchsorted(rows.starts, place)  # events before a row
    slopes, distances = [], []
    for back in (1, 2):
        event = after - back
        far = np.where(event >= 0, place - rows.ends[np.maximum(event, 0)], FAR)
        slopes.append(far + lag)
        distances.append(far)
    for ahead in (0, 1):
        event = after + ahead
        is_there = event < len(rows.starts)
        far = np.where(is_there, rows.starts[np.minimum(event, len(rows.starts) - 1)] - place, FAR)
        slopes.append(far)
        distances.append(far)
    order = np.argsort(np.stack(slopes), axis=0, kind="stable")[:2]
    one, two = np.take_along_axis(np.stack(slopes), order, 0)
    distance = np.take_along_axis(np.stack(distances), order[:1], 0)[0]
    near = one <= widest
    return place[near], distance[near], one[near], two[near]


class _by_step:
    """Which entries have a given step, found by sorting once."""

    def __init__(self, steps: np.ndarray, most: int) -> None:
        self._order = np.argsort(steps, kind="stable")
        self._edges = np.searchsorted(steps[self._order], np.arange(most + 2))

    def __call__(self, step: int) -> np.ndarray:
        return self._order[self._edges[step] : self._edges[step + 1]]


class _Touched:
    """The share of events, with their slopes, in which some row reaches each threshold; slopes only widen."""

    def __init__(self, rows: _Rows, lag: int) -> None:
        self._rows, self._lag = rows, lag
        ends = np.append(rows.rank, THRESHOLDS)
        pairs = np.stack([rows.starts, rows.ends + 1], 1).ravel()
        self._best = np.minimum.reduceat(ends, pairs)[::2]  # (E,) the first threshold that touches each
        gaps = rows.starts[1:] - rows.ends[:-1] - 1
        # The original merges slopes that touch, TSB-AD those that overlap.
        self._needed = gaps + (0 if lag else 1)

    def widen(self, slope: int) -> np.ndarray:
        rows = self._rows
        before, behind = slope, max(slope - self._lag, 0)
        if before:
            self._take(rows.starts - before)
        if behind:
            self._take(rows.ends + behind)
        is_new = np.append(True, before + behind < self._needed)
        best = np.minimum.reduceat(self._best, np.flatnonzero(is_new))
        return _cumulated(best) / len(best)

    def _take(self, place: np.ndarray) -> None:
        inside = (place >= 0) & (place < len(self._rows.rank))
        rank = self._rows.rank[np.clip(place, 0, len(self._rows.rank) - 1)]
        self._best = np.where(inside, np.minimum(self._best, rank), self._best)
