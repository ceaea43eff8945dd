"""The leakage audit: how a random forest gets F1 = 1, and what is left of it when nothing leaks.

Four leaks, each switched off alone: windows that overlap across a shuffled split, a change of regime after
the last fault, a threshold chosen with the labels, and point adjustment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.calibrate import calibrate
from foreshock.errors import FrameError
from foreshock.frame import Frame
from foreshock.metrics import (
    at_threshold,
    average_precision,
    best_f1_oracle,
    point_adjusted_f1_oracle,
    roc_auc,
)
from foreshock.models import LearningDetector, load_detector

TRAIN_SHARE = 0.7  # of the faults; the rest are for testing
WINDOWS = (
    8,
    16,
)  # rows that the forest's features look back: short, as the recordings' first faults come early
GAP_ROWS = 32  # between the parts in time; no window reaches across
WHOLE = "whole day"
UNTIL = np.datetime64("2023-01-29T15:50", "ns")  # Train Ticket's traffic falls at 16:00; docs/data.md
RECORDINGS = {
    "Train Ticket": "nezha/trainticket88_2023-01-29.csv.gz",
    "Online Boutique": "nezha/onlineboutique_2022-08-22.parquet",
}


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One way to judge one scorer on one recording."""

    recording: str
    question: str  # which leak this row is about
    scorer: str
    how: str  # the split, or the rows judged
    rows: int
    positive: int
    ap: float
    auc: float
    f1_oracle: float  # threshold chosen with the labels
    f1_calibrated: float  # threshold from the unlabelled scores, one false alarm a day
    point_adjusted_f1_oracle: float
    point_adjusted_f1_oracle_random: float  # the same of random scores

    def record(self) -> dict[str, Any]:
        return {"kind": "audit", **asdict(self)}


def audit(
    folder: str | Path, seed: int = 0, detectors: Iterable[str] = ("isolation_forest",)
) -> Iterator[AuditRow]:
    """Every row of the audit; recordings that are not in `folder` are left out.

    Args:
        detectors: judged beside the forest before and after Train Ticket's change of regime.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    from foreshock import sources
    from foreshock.sources import simulator

    found = {"simulated shop": simulator.simulate(seed=seed, rows=2880)}
    for name, path in RECORDINGS.items():
        if (Path(folder) / path).is_file():
            found[name] = sources.read(Path(folder) / path)
    for name, frame in found.items():
        until = UNTIL if name == "Train Ticket" else None
        day = frame if until is None else frame.rows(frame.time < until)
        yield from forest_rows(name, day, seed)
        if until is not None:
            yield from regime_rows(name, frame, until, detectors)


def forest_rows(recording: str, frame: Frame, seed: int) -> Iterator[AuditRow]:
    """The same forest on the same rows, split by chance and split in time with a gap.

    The forest's features tell of the last 16 rows, so neighbours share almost all of them: these are the
    overlapping windows. Where some faults leave no trace in metrics, they are judged alone as well: what a
    score finds of them, it has from their neighbours in the training part.
    """
    labels = frame.labels
    if labels is None:
        raise FrameError(f"{recording} has no labels; the audit needs them.")
    shuffled = np.random.default_rng(seed).random(len(frame)) < 1 - TRAIN_SHARE
    boundary = _boundary(frame)
    later = np.arange(len(frame)) >= boundary
    earlier = np.arange(len(frame)) < boundary - GAP_ROWS
    unseen = labels.anomaly & ~labels.metric_visible
    for how, train, test in (
        ("shuffled rows", ~shuffled, shuffled),
        ("in time, with a gap", earlier, later),
    ):
        learner = load_detector("random_forest", seed=seed, windows=WINDOWS)
        assert isinstance(learner, LearningDetector)
        # In time the forest is handed earlier rows alone; shuffled it needs all of them for its features,
        # and the rows to be tested have no label in it.
        if how == "shuffled rows":
            given = replace(frame, labels=replace(labels, ignore=labels.ignore | ~train))
        else:
            given = frame.rows(train)
        scores = learner.fit(given).score(frame.without_labels())
        words = "all listed faults" if unseen.any() else "faults"
        split = _Judging(recording, "split", how, frame.step_s, seed)
        counted = test & ~labels.ignore
        yield split.row(f"random forest, {words}", scores.system, labels.anomaly, counted)
        counted &= ~(labels.anomaly & ~unseen)
        if (unseen & counted).any():
            name = "random forest, only faults that no metric shows"
            yield split.row(name, scores.system, unseen, counted)


def _boundary(frame: Frame) -> int:
    """The row before which the first faults lie: so many that they are the training share."""
    labels = frame.labels
    assert labels is not None
    ids = labels.fault_id
    starts = sorted(int(np.flatnonzero(ids == fault)[0]) for fault in np.unique(ids[ids >= 0]))
    if len(starts) < 2:
        raise FrameError(
            f"the recording has {len(starts)} faults; a split in time needs at least 2, one on each side."
        )
    return starts[min(len(starts) - 1, max(1, round(TRAIN_SHARE * len(starts))))] - 1


def regime_rows(
    recording: str, frame: Frame, until: np.datetime64, detectors: Iterable[str]
) -> Iterator[AuditRow]:
    """Whole day against the rows before the traffic falls, for the traffic itself and for detectors."""
    labels = frame.labels
    assert labels is not None
    traffic = [i for i, k in enumerate(frame.kpis) if "workload" in k.name]
    if not traffic:
        raise FrameError(f"{recording} has no workload KPI; the audit's traffic row needs one.")
    scored = {"number of calls, nothing else": np.nansum(frame.values[:, traffic], axis=1)}
    for name in detectors:
        detector = load_detector(name)
        if isinstance(detector, LearningDetector):
            detector.fit(frame.without_labels())
        system = detector.score(frame.without_labels()).system.astype(float)
        scored[f"{name}, fitted on the whole day"] = system
    for scorer, system in scored.items():
        for how, counted in ((WHOLE, np.ones(len(frame), bool)), ("before 15:50 UTC", frame.time < until)):
            judging = _Judging(recording, "regime", how, frame.step_s, 0)
            yield judging.row(scorer, system, labels.anomaly, counted & ~labels.ignore)


@dataclass(frozen=True, slots=True)
class _Judging:
    """What rows of one way to judge have in common."""

    recording: str
    question: str
    how: str
    step_s: float
    seed: int

    def row(self, scorer: str, system: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> AuditRow:
        system, ignore = np.asarray(system, float), ~counted
        threshold = calibrate(np.where(counted, system, np.nan), self.step_s)
        adjusted = point_adjusted_f1_oracle(system, truth, ignore, seed=self.seed)
        return AuditRow(
            recording=self.recording,
            question=self.question,
            scorer=scorer,
            how=self.how,
            rows=int(counted.sum()),
            positive=int((truth & counted).sum()),
            ap=average_precision(system, truth, ignore),
            auc=roc_auc(system, truth, ignore),
            f1_oracle=best_f1_oracle(system, truth, ignore),
            f1_calibrated=at_threshold(system, truth, threshold.high, ignore).f1,
            point_adjusted_f1_oracle=adjusted.f1,
            point_adjusted_f1_oracle_random=adjusted.random_f1,
        )


def audit_table(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The audit as one Markdown table, from its records."""
    head = ["recording", "scorer", "judged", "rows (faulty)", "AP", "AUC", "F1, best threshold",
            "F1, calibrated threshold", "point-adjusted F1", "of random scores"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        figures = (
            "ap", "auc", "f1_oracle", "f1_calibrated", "point_adjusted_f1_oracle",
            "point_adjusted_f1_oracle_random",
        )  # fmt: skip
        cells = ["–" if r[name] is None or np.isnan(r[name]) else f"{r[name]:.2f}" for name in figures]
        about = [r["recording"], r["scorer"], r["how"], f"{r['rows']} ({r['positive']})"]
        lines.append("| " + " | ".join([*about, *cells]) + " |")
    return [*lines, ""]
