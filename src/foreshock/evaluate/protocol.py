"""The protocol: what is run, on what, with which seeds, and what one record holds.

Each detector is made anew for each part and seed, fitted on the training part without labels (a supervised
one with them), and scores the whole part in one causal pass (both ways where its options
say so). Two thresholds, neither from a label:

- `validation`: one threshold from the unlabelled scores of the validation part; where a recording has no such
  part it is called `recording` and comes from all its unlabelled scores but the first 64;
- `past`: for each row from the scores before it, as `foreshock score` takes it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from foreshock.calibrate import (
    CausalThreshold,
    Guess,
    Threshold,
    calibrate_causal,
    calibrate_finished,
    usual_of,
)
from foreshock.decide import Event, decide
from foreshock.errors import ConfigError, ForeshockError
from foreshock.evaluate.contamination import held_by
from foreshock.evaluate.parts import DataSet, Part, named_parts
from foreshock.evaluate.sketch import precision_at, timeline
from foreshock.memory import watch
from foreshock.metrics import METRICS, TOLERANCE_ROWS, Judged, event_counts, period
from foreshock.models import Detector, fit, load_detector
from foreshock.scores import Scores

FLOOR = ("random", "rolling_variance", "squared_difference")  # rows of every table
# Detectors that draw; every other one is run with one seed.
WEIGHTS = ("weights_sha256", "heads_sha256", "verdict_sha256")
SEEDED = ("random", "untrained", "isolation_forest", "kmeans_ad", "lstm_autoencoder", "random_forest",
          "rank_average")  # fmt: skip
WINDOW_MOST = 303  # widest buffer of the range metrics, rows: the longest `period` there is
RANKING = ("vus_pr", "vus_roc", "vus_pr_tsb_ad", "vus_roc_tsb_ad", "average_precision", "roc_auc",
           "best_f1_oracle", "point_adjusted_f1_oracle", "point_adjusted_f1_oracle_random")  # fmt: skip
AT_THRESHOLD = ("f1", "precision", "recall", "event_precision", "event_recall", "event_f1", "delay_median_s",
                "delay_p90_s", "never_found", "false_alarms_per_day")  # fmt: skip
VERSION = 1  # of the protocol: a change of what the figures mean makes old records stale


@dataclass(frozen=True, slots=True)
class DetectorChoice:
    """A detector of the table, with options that differ from its defaults."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""  # how tables call it; its name unless given

    @property
    def title(self) -> str:
        return self.label or self.name


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A configuration file of `foreshock evaluate`."""

    detectors: tuple[DetectorChoice, ...]
    data: tuple[DataSet, ...]
    folder: str = "data"  # where the data sets lie
    out: str = "runs/evaluate.jsonl"
    ours: str = "foreshock"  # whom the paired rows are about
    seeds: tuple[int, ...] = (0, 1, 2)  # for detectors that draw
    gap_rows: int = 256  # between parts; a twentieth or tenth of short ones
    window_most: int = WINDOW_MOST  # widest buffer of the range metrics
    false_alarms_per_day: float = 1.0
    metrics: tuple[str, ...] = RANKING + AT_THRESHOLD

    def __post_init__(self) -> None:
        for what, names in (("metric", self.metrics), ("data set", [d.name for d in self.data]),
                            ("detector", [d.title for d in self.detectors])):  # fmt: skip
            if len(set(names)) < len(names):
                twice = next(name for name in names if list(names).count(name) > 1)
                raise ConfigError(
                    f"the {what} {twice!r} stands twice; keep one, or give it a label of its own."
                )
        for name in self.metrics:
            if name not in RANKING + AT_THRESHOLD:
                near = difflib.get_close_matches(name, RANKING + AT_THRESHOLD, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"there is no metric {name!r} for evaluation{hint}")
        if not self.seeds or not self.data or not self.detectors:
            raise ConfigError("an evaluation needs at least one detector, one data set and one seed.")
        if self.gap_rows < 0 or self.window_most < 1:
            raise ConfigError(
                f"gap_rows is {self.gap_rows} and window_most {self.window_most}; "
                "they must be at least 0 and 1."
            )

    @property
    def with_floor(self) -> tuple[DetectorChoice, ...]:
        """The detectors, and those floor rows that are not among them."""
        there = {choice.title for choice in self.detectors}
        return (*self.detectors, *(DetectorChoice(name) for name in FLOOR if name not in there))


@dataclass(frozen=True, slots=True)
class Job:
    """One record to be: a part, a detector, a seed."""

    data: DataSet
    series: str
    load: Callable[[], Part]
    choice: DetectorChoice
    seed: int
    key: str  # equal for equal work, so that a record made before is found again


def plan(
    setup: Evaluation,
    only: Collection[str] = (),
    limit: int | None = None,
    rows: int | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Job]:
    """Everything to be done, part by part.

    Args:
        only: titles of detectors; all unless given.
        limit, rows, seeds: for a quick look, fewer series, rows and seeds than the configuration says.

    Raises:
        ConfigError: an unknown detector or option, told before any work.
        SourceError: a data set is not there.
    """
    choices = setup.with_floor
    unknown = [name for name in only if name not in {c.title for c in choices}]
    if unknown:
        raise ConfigError(
            f"the configuration has no detector {unknown[0]!r}; it has {', '.join(c.title for c in choices)}."
        )
    choices = tuple(c for c in choices if not only or c.title in only)
    weights = {c.title: _weights_of(_make(c, 0)) for c in choices}
    jobs = []
    for data in setup.data:
        parts = named_parts(data, setup.folder, setup.gap_rows, limit, rows)
        for series, load in parts.items():
            for choice in choices:
                for seed in _seeds(choice, setup.seeds if seeds is None else seeds):
                    cut = min((n for n in (data.rows, rows) if n is not None), default=None)
                    facts = (
                        VERSION, asdict(replace(data, limit=None, rows=cut, origin="")), series,
                        asdict(choice), seed, weights[choice.title],
                        setup.gap_rows, setup.window_most, setup.false_alarms_per_day, setup.metrics,
                    )  # fmt: skip
                    told = json.dumps(facts, sort_keys=True, default=str)
                    key = hashlib.sha256(told.encode()).hexdigest()[:16]
                    jobs.append(Job(data, series, load, choice, seed, key))
    return jobs


def _seeds(choice: DetectorChoice, seeds: Sequence[int]) -> Sequence[int]:
    draws = choice.name in SEEDED or choice.name.startswith("pyod:")
    return seeds if draws and "seed" not in choice.options else seeds[:1]


def _make(choice: DetectorChoice, seed: int) -> Detector:
    draws = choice.name in SEEDED or choice.name.startswith("pyod:")
    options = {"seed": seed, **choice.options} if draws else choice.options
    return load_detector(choice.name, **options)


def _weights_of(detector: Detector) -> str | None:
    """The hashes of what it was loaded from, of heads and verdict too where they are files of their own."""
    about = detector.describe()
    hashes = [about[name] for name in WEIGHTS if about.get(name)]
    return "-".join(hashes) or None


def evaluate(
    setup: Evaluation,
    jobs: Sequence[Job],
    done: Collection[str] = (),
    on_job: Callable[[Job], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """The records of the jobs that are not done yet, one after the other.

    A detector that can't score a part (too short, no labels to learn from) gives a record that says why; it
    counts as done. Records of the first seed hold a `sketch`, what a page draws of them; it belongs into
    a file of its own. `on_job` is told after each job, skipped ones too.
    """
    loaded: tuple[Any, Part] | None = None
    for job in jobs:
        if job.key not in done:
            if loaded is None or loaded[0] is not job.load:
                loaded = (job.load, job.load())
            yield record(setup, job, loaded[1])
        if on_job is not None:
            on_job(job)


def record(setup: Evaluation, job: Job, part: Part) -> dict[str, Any]:
    """One detector on one part: figures, cost, and what they were made with."""
    window = window_rows(part, setup.window_most)
    facts: dict[str, Any] = {
        "kind": "evaluation",
        "key": job.key,
        "protocol": VERSION,
        "data": job.data.name,
        "data_kind": job.data.kind,
        "series": job.series,
        "detector": job.choice.title,
        "name": job.choice.name,
        "options": job.choice.options,
        "seed": job.seed,
        "split": {"kind": job.data.split, **part.facts()},
        "fault_types": part.fault_types,
        "rows": len(part.frame),
        "kpis": len(part.frame.kpis),
        "step_s": part.frame.step_s,
        "window_rows": window,
        "data_sha256": part.sha256,
    }
    try:
        with watch(job.choice.title) as seen:
            detector = _make(job.choice, job.seed)
            scores, cost = score(detector, part)
    except ForeshockError as error:
        return {**facts, "status": "refused", "reason": str(error)}
    about = detector.describe()
    model = about.get("model")
    guess = usual_of(detector, len(scores.kpi_meta))
    chosen = thresholds(part, scores, setup.false_alarms_per_day, guess)
    fixed = next(iter(chosen.values()))
    drawn = {"sketch": sketch(setup, job, part, scores, fixed)} if job.seed == setup.seeds[0] else {}
    return {
        **facts,
        "status": "done",
        "metrics": rank_figures(_metrics_of(setup, job.data), part, scores, window),
        "thresholds": {
            name: figures_at(setup.metrics, part, scores, threshold, setup.false_alarms_per_day)
            for name, threshold in chosen.items()
        },
        "cost": {**cost, "peak_bytes": seen.peak.resident_bytes},
        "weights_sha256": about.get("weights_sha256"),
        "heads_sha256": about.get("heads_sha256"),
        "verdict_sha256": about.get("verdict_sha256"),
        "model": model,
        "supervised": bool(getattr(detector, "supervised", False)),
        "contamination": held_by(
            model if isinstance(model, str) else None, job.data.origin or job.data.name.lower()
        ),
        **drawn,
    }


def sketch(
    setup: Evaluation, job: Job, part: Part, scores: Scores, fixed: Threshold | CausalThreshold
) -> dict[str, Any]:
    """What a page draws of one record: a curve of each detector, a timeline of ours alone.

    Timelines of all would be five times the records' sketches, and no page shows them.
    """
    drawn: dict[str, Any] = {"precision": precision_at(scores.system.astype(float), part.truth, part.ignore)}
    if job.choice.title == setup.ours:
        drawn["timeline"] = timeline(part, scores, fixed, decide(scores, fixed))
    return drawn


def _metrics_of(setup: Evaluation, data: DataSet) -> tuple[str, ...]:
    return setup.metrics if data.ranges else tuple(m for m in setup.metrics if not m.startswith("vus_"))


def score(detector: Detector, part: Part) -> tuple[Scores, dict[str, float]]:
    """Fit on the training part, score the whole part without labels: scores, and what each took."""
    began, cpu = time.perf_counter(), time.process_time()
    if part.train is not None:
        fit(detector, part.frame.rows(part.train))
    fitted, fitted_cpu = time.perf_counter(), time.process_time()
    scores = detector.score(part.frame.without_labels())
    ended, ended_cpu = time.perf_counter(), time.process_time()
    return scores, {
        "fit_wall_s": round(fitted - began, 6),
        "fit_cpu_s": round(fitted_cpu - cpu, 6),
        "score_wall_s": round(ended - fitted, 6),
        "score_cpu_s": round(ended_cpu - fitted_cpu, 6),
    }


def window_rows(part: Part, most: int = WINDOW_MOST) -> int:
    """Widest buffer of the range metrics: the median `period` of the KPIs that change, at most `most`."""
    values = part.frame.values
    with np.errstate(invalid="ignore"):
        changing = np.flatnonzero(np.nanmax(np.nan_to_num(values), 0) > np.nanmin(np.nan_to_num(values), 0))
    found = [period(values[:, k]) for k in changing]
    return min(int(np.median(found)) if found else period(values[:, 0]), most)


def rank_figures(metrics: Sequence[str], part: Part, scores: Scores, window: int) -> dict[str, float | None]:
    """The metrics that need no threshold; None where they are not defined, such as with one class only."""
    judged = Judged(
        scores.system.astype(float), part.truth, part.ignore, part.frame.step_s, window, faults=part.faults
    )
    return {name: _number(METRICS[name](judged)) for name in RANKING if name in metrics}


def thresholds(
    part: Part, scores: Scores, false_alarms_per_day: float, guess: Guess | None = None
) -> dict[str, Threshold | CausalThreshold]:
    """Both thresholds by name; no label is read."""
    step_s, system = part.frame.step_s, scores.system.astype(float)
    if part.validation is not None and part.validation.stop > part.validation.start:
        name, known = "validation", system[part.validation]
    else:
        name, known = "recording", system
    return {
        name: calibrate_finished(
            known, step_s, false_alarms_per_day, guess=guess, is_beginning=name == "recording"
        ),
        "past": calibrate_causal(system, step_s, false_alarms_per_day, guess=guess),
    }


def figures_at(
    metrics: Sequence[str],
    part: Part,
    scores: Scores,
    threshold: Threshold | CausalThreshold,
    false_alarms_per_day: float,
) -> dict[str, Any]:
    """What one threshold makes of the rows and events, and of each fault: found or not, how late."""
    events = [e for e in decide(scores, threshold) if _counts(e, part)]
    system = scores.system.astype(float)
    told = np.where(np.isnan(system), np.nan, (system >= threshold.high).astype(float))
    faults = part.faults
    judged = Judged(
        told, part.truth, part.ignore, part.frame.step_s, threshold=0.5, alarms=events, faults=faults
    )
    counts = event_counts(judged)
    found = [any(e.start < last + TOLERANCE_ROWS and e.end > first for e in events) for first, last in faults]
    return {
        **{name: _number(METRICS[name](judged)) for name in AT_THRESHOLD if name in metrics},
        "false_alarms_asked_per_day": false_alarms_per_day,
        "alarms": counts.alarms,
        "false_alarms": counts.false_alarms,
        "hours": round(counts.hours, 4),
        "found": [int(f) for f in found],
        "delays_s": list(counts.delays_s),
    }


def _counts(event: Event, part: Part) -> bool:
    """Whether an alarm touches a row that is judged."""
    return bool(part.judged[event.start : event.end].any())


def _number(value: float) -> float | None:
    """Six digits are enough for a record; None where it is not defined."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
