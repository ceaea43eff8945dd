"""What the network reads of a shot: windows of single KPIs at each scale, and which steps are anomalous.

Not here: which rows are shots (shots), the loss on them (training).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.models.recognise import Recogniser
from foreshock.models.scan import LEAST_OBSERVED, PHASES, Scan
from foreshock.models.shots import FAULTY, IGNORED, QUIET, Lesson, Shot
from foreshock.models.vigil import LARGEST, VigilOptions
from foreshock.windows import PATCH, fill_forward, to_grid

LOUD = 0.05  # share of KPIs that speak for an incident whose service nobody named
QUIET_KPIS = 32  # series without an anomaly kept of each window and scale


def targets(lesson: Lesson) -> np.ndarray:
    """(T, K) int8: which steps of which KPIs are anomalous.

    Of the service that is named, the louder half of the KPIs (an overloaded processor leaves most of a
    service's figures alone); without a name the loudest of all. The other KPIs of an incident are ignored:
    a symptom elsewhere is neither right nor wrong. In quiet rows every KPI is quiet.
    """
    labels = lesson.frame.labels
    assert labels is not None
    out = np.full(lesson.evidence.shape, IGNORED, np.int8)
    out[lesson.truth == QUIET] = QUIET
    services = np.array([kpi.service for kpi in lesson.frame.kpis])
    usual = np.median(lesson.evidence[lesson.truth == QUIET], 0)
    ids = np.where(lesson.truth == FAULTY, labels.fault_id, -1)
    for one in np.unique(ids[ids >= 0]):
        rows = np.flatnonzero(ids == one)
        loud = np.quantile(lesson.evidence[rows], 0.8, axis=0) - usual
        own = np.flatnonzero(services == labels.root_cause[rows[0]])
        count = max(1, len(own) // 2)
        if not len(own):
            own, count = np.arange(len(services)), max(1, int(np.ceil(LOUD * len(services))))
        chosen = own[np.argsort(-loud[own], kind="stable")[:count]]
        out[np.ix_(rows, chosen[loud[chosen] > 0])] = FAULTY
    return out


@dataclass(frozen=True, slots=True)
class Series:
    """N windows of L samples, each a KPI at one scale, as the detector would read them."""

    values: np.ndarray  # (N, L) float64, NaN where nothing was observed
    label: np.ndarray  # (N, L) int8
    context: np.ndarray  # (N, 1) leading steps that set the scale

    def take(self, some: np.ndarray) -> Series:
        return Series(self.values[some], self.label[some], self.context[some])

    @property
    def has_anomaly(self) -> np.ndarray:
        return np.asarray((self.label == FAULTY).any(1))


def cut(lesson: Lesson, shots: Sequence[Shot], recogniser: Recogniser, options: VigilOptions) -> Series:
    """All windows of the shots' rows: each KPI at each scale; those that never move are left out."""
    frame = lesson.frame
    grid = to_grid(frame.time_ns, frame.step_s, None, options.length)
    dense = np.full((grid.end, len(frame.kpis)), np.nan)
    values = np.clip(frame.values, -LARGEST, LARGEST)
    dense[grid.slots] = np.where(np.isfinite(frame.values), values, np.nan)
    truth = np.full(dense.shape, IGNORED, np.int8)
    judged = np.zeros(len(frame), bool)
    for shot in shots:
        judged[shot.start : shot.end] = True
    truth[grid.slots[judged]] = targets(lesson)[judged]
    filled = fill_forward(dense.T).T
    parts = [_at_scale(filled, truth, factor, recogniser, options) for factor in options.scales]
    return join(parts, options.length)


def _at_scale(
    filled: np.ndarray, truth: np.ndarray, factor: int, recogniser: Recogniser, options: VigilOptions
) -> list[Series]:
    scan = Scan(recogniser, factor, options.length, options.block)
    samples = scan._sample(filled)
    ends = (np.arange(len(samples)) + 1) * scan.stride - 1
    label = truth[ends].copy()
    is_unsure = label == IGNORED
    for back in range(1, factor):  # a mean is anomalous from the first anomalous row in it
        row = truth[np.maximum(ends - back, 0)]
        label, is_unsure = np.maximum(label, row), is_unsure | (row == IGNORED)
    label[is_unsure & (label != FAULTY)] = IGNORED
    label[truth[ends] == IGNORED] = IGNORED
    found = []
    for phase in range(min(factor, PHASES)):
        x, y = samples[phase :: scan.phases], label[phase :: scan.phases]
        starts = sorted({_block(int(i), options.block) for i in np.flatnonzero((y != IGNORED).any(1))} - {0})
        for start in starts:
            size = min(start, options.block)
            at = np.arange(start + size - options.length, start + size)
            window = x[np.clip(at, 0, len(x) - 1)].T.copy()  # (K, L)
            window[:, at < 0] = np.nan
            told = y[np.clip(at, 0, len(x) - 1)].T.copy()
            told[:, (at < start) | (at >= len(x))] = IGNORED
            context = options.length - size
            seen = np.isfinite(window[:, :context]).sum(1) >= LEAST_OBSERVED
            last = np.nan_to_num(window[:, -1:])
            moves = (np.where(np.isfinite(window), window, last) != last).any(1)
            use = np.flatnonzero(seen & moves & (told != IGNORED).any(1))
            is_bad = (told[use] == FAULTY).any(1)
            rest = use[~is_bad]
            # Hundreds of KPIs would fill the memory with what is quiet.
            use = np.concatenate([use[is_bad], rest[:: max(1, -(-len(rest) // QUIET_KPIS))]])
            if len(use):
                found.append(Series(window[use], told[use], np.full((len(use), 1), context)))
    return found


def _block(sample: int, block: int) -> int:
    """Where the block that judges a sample starts, as in `Scan`; 0 where none does."""
    if sample >= block:
        return sample // block * block
    start = PATCH
    while 2 * start <= sample:
        start *= 2
    return start if sample >= PATCH else 0


def join(parts: Sequence[Sequence[Series]], length: int) -> Series:
    """All of them as one; perhaps empty."""
    flat = [series for some in parts for series in some]
    if not flat:
        return Series(np.zeros((0, length)), np.zeros((0, length), np.int8), np.zeros((0, 1), int))
    return Series(*(np.concatenate([getattr(s, n) for s in flat]) for n in ("values", "label", "context")))
