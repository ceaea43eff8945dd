"""How well incidents are found on the development recordings, beside one-liners and an untrained network.

    python benchmarks/recordings.py --data FOLDER [--quick] [--only NAME ...]

FOLDER holds `nezha/` as docs/data.md describes it. One JSON line a recording and detector goes to
benchmarks/results/recordings.jsonl; benchmarks/tables.py writes RESULTS.md from it.

Protocol: zero-shot, causal scores, one fixed configuration, the detectors see no label. Thresholds, both
from unlabelled scores at one false alarm a day: of the whole recording, as `foreshock detect` judges a
finished one (the default detector from both ends), and of the rows before each row, as `foreshock score`
and `detect --as-live` do.
Positive rows: faults that metrics can show; other faults, recovery rows and unlisted injections are
ignored. Train Ticket is scored before 15:50 UTC, since its traffic falls after all faults (docs/data.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import foreshock
from foreshock.calibrate import calibrate_causal, usual_of
from foreshock.cli.steps import finished_scores, fixed_threshold
from foreshock.config import Settings
from foreshock.decide import decide
from foreshock.explain import explain
from foreshock.frame import Frame
from foreshock.memory import watch
from foreshock.metrics import average_precision, count_events, fault_spans, roc_auc, spans
from foreshock.models import Detector, load_detector
from foreshock.runlog import git_commit
from foreshock.scores import Scores

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "recordings.jsonl"
RECORDINGS = {
    "Online Boutique 2022-08-22": ("nezha/onlineboutique_2022-08-22.parquet", None),
    "Train Ticket 2023-01-29, 88 KPIs": ("nezha/trainticket88_2023-01-29.csv.gz", "2023-01-29T15:50"),
    "Train Ticket 2023-01-29, all KPIs": ("nezha/trainticket_2023-01-29.parquet", "2023-01-29T15:50"),
}


def detectors(quick: bool) -> Iterator[tuple[str, int, Callable[[], Detector]]]:
    """Name, seed and how to make each."""
    yield "foreshock (nano)", 0, lambda: load_detector("foreshock")
    yield "foreshock, evidence alone (nano)", 0, lambda: load_detector("foreshock", known=False)
    yield "foreshock (nano, offline)", 0, lambda: load_detector("foreshock", causal=False)
    for seed in range(1 if quick else 3):
        yield "untrained network, same shape", seed, lambda seed=seed: load_detector("untrained", seed=seed)
    yield "masked reconstruction (nano)", 0, lambda: load_detector("foreshock", recognise=False)
    for name in ("past_median", "linear_ar", "last_value", "rolling_variance", "squared_difference"):
        yield name, 0, lambda name=name: load_detector(name)
    for name in ("robust_z", "spectral_residual", "poly", "matrix_profile"):
        yield name, 0, lambda name=name: load_detector(name)
    # Learning as they go, from no labels; random_forest and the ensemble with it need a training part.
    for name in ("pca", "sub_pca", "knn"):
        yield name, 0, lambda name=name: load_detector(name)
    for name in ("isolation_forest", "kmeans_ad", "lstm_autoencoder"):
        for seed in range(1 if quick else 3):
            yield name, seed, lambda name=name, seed=seed: load_detector(name, seed=seed)
    for seed in range(3):
        yield "random", seed, lambda seed=seed: load_detector("random", seed=seed)
    yield "moment_published (nano, offline)", 0, lambda: load_detector("moment_published", causal=False)


def judge(frame: Frame, until: str | None, detector: Detector) -> dict[str, Any]:
    """Every figure of one detector on one recording."""
    labels = frame.labels
    assert labels is not None
    seen = labels.anomaly & labels.metric_visible
    ignore = labels.ignore | (labels.anomaly & ~seen)
    if until is not None:
        ignore = ignore | (frame.time >= np.datetime64(until))
    began, cpu = time.perf_counter(), time.process_time()
    hidden = frame.without_labels()
    scores = detector.score(hidden)
    took, took_cpu = time.perf_counter() - began, time.process_time() - cpu
    faults = fault_spans(np.where(seen & ~ignore, labels.fault_id, -1))
    finished, settled = detector, scores
    if scores.causal:  # as `foreshock detect` judges what lies in the past

        def again(detector: Detector, part: Frame) -> Scores:
            return scores if part is hidden else detector.score(part)

        finished, settled = finished_scores(detector, hidden, again, Settings())
    whole = fixed_threshold(settled, Settings(), finished)
    causal = calibrate_causal(scores.system, frame.step_s, guess=usual_of(detector, len(frame.kpis)))
    by_threshold = {}
    for name, threshold, judged in (("recording", whole, settled), ("past", causal, scores)):
        events = decide(judged, threshold)
        counts = count_events(events, faults, len(frame), frame.step_s, ignore)
        by_threshold[name] = {
            "event_recall": counts.recall,
            "alarms": counts.alarms,
            "false_alarms": counts.false_alarms,
            "false_alarms_per_hour": counts.false_alarms_per_hour,
            "median_delay_s": float(np.median(counts.delays_s)) if counts.delays_s else None,
            **root_causes(frame, judged, events, faults, later=judged is settled),
        }
    return {
        "rows": len(frame),
        "kpis": len(frame.kpis),
        "faults": len(faults),
        "positive_rows": int((seen & ~ignore).sum()),
        "average_precision": average_precision(scores.system, seen, ignore),
        "roc_auc": roc_auc(scores.system, seen, ignore),
        "recall_at_one_false_alarm_an_hour_oracle": recall_at_one_an_hour(
            scores.system, faults, frame.step_s, ignore
        ),
        "threshold_from": by_threshold,
        "score_wall_s": took,
        "score_cpu_s": took_cpu,
    }


class Run(NamedTuple):
    """Rows at or above a threshold, one after the other."""

    start: int
    end: int


def recall_at_one_an_hour(
    score: np.ndarray, faults: list[tuple[int, int]], step_s: float, ignore: np.ndarray
) -> float:
    """The best share of faults found by a threshold that raises at most one false alarm an hour.

    An oracle's figure: the threshold is chosen with the labels, from the scores that occur.
    """
    best = 0.0
    for level in np.unique(score[np.isfinite(score)])[::-1]:
        runs = [Run(a, b) for a, b in spans(np.nan_to_num(score) >= level)]
        counts = count_events(runs, faults, len(score), step_s, ignore)
        if counts.false_alarms_per_hour > 1:
            break
        best = max(best, counts.recall)
    return best


def root_causes(
    frame: Frame, scores: Any, events: Any, faults: list[tuple[int, int]], later: bool
) -> dict[str, Any]:
    """Of the faults found: is the labelled service first, or among the first three?"""
    labels = frame.labels
    assert labels is not None
    first = third = found = 0
    for start, end in faults:
        event = next((e for e in events if e.start < end + 2 and e.end > start), None)
        if event is None:
            continue
        found += 1
        cause = explain(frame.without_labels(), scores, event, others=events, later=later)
        ranked = [s.name for s in cause.services]
        root = str(labels.root_cause[start])
        first += ranked[:1] == [root]
        third += root in ranked[:3]
    return {"found": found, "service_first": first, "service_in_three": third}


def commit() -> str:
    return str((git_commit(HERE) or {"commit": "unknown"})["commit"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one seed of the untrained network")
    parser.add_argument("--only", nargs="*", help="detectors to run anew; the others' records are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    known = [name for name, *_ in detectors(quick=True)]
    if unknown := [name for name in args.only or () if name not in known]:
        parser.error(f"there is no detector {unknown[0]!r}; there are {', '.join(known)}")
    old = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    records = [r for r in old if args.only and r["detector"] not in args.only]
    order = {one: place for place, one in enumerate((t, n) for t in RECORDINGS for n, *_ in detectors(False))}
    for title, (path, until) in RECORDINGS.items():
        frame = foreshock.read(str(args.data / path))
        digest = hashlib.sha256((args.data / path).read_bytes()).hexdigest()
        for name, seed, make in detectors(args.quick):
            if args.only and name not in args.only:
                continue
            with watch(name) as seen:
                detector = make()
                figures = judge(frame, until, detector)
            record = {
                "kind": "recording",
                "recording": title,
                "detector": name,
                "seed": seed,
                **figures,
                "peak_bytes": seen.peak.resident_bytes,
                "data_sha256": digest,
                "describe": detector.describe(),
                "commit": commit(),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "date": time.strftime("%Y-%m-%d"),
            }
            records.append(record)
            print(title, name, round(figures["average_precision"], 3), figures["threshold_from"]["recording"])
    records.sort(key=lambda r: order[r["recording"], r["detector"]])
    part = args.out.with_suffix(".part")
    part.write_text("".join(json.dumps(r) + "\n" for r in records))
    part.replace(args.out)


if __name__ == "__main__":
    main()
