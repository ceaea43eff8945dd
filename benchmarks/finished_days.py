"""What `foreshock detect` finds in simulated days: judged as live, looking back, and from both ends.

    python benchmarks/finished_days.py [--seeds 0 1 2 3]

The judged recordings of benchmarks/learning_curves.py: 48 hours of Train Ticket at 30 s, all 14 kinds of
fault. No label is seen, one false alarm a day is asked for. As live: each row by the rows before it, as
`detect --as-live` and the live service do. Looking back: one threshold for the whole recording, the first
rows judged by later ones. From both ends: what `detect` does. One JSON line a seed and way goes to
results/finished_days.jsonl; a newer one replaces the older.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import labelled
import records
import torch
from recordings import commit, root_causes

from foreshock.calibrate import CausalThreshold, Threshold, calibrate_causal, usual_of
from foreshock.cli.steps import finished_scores, fixed_threshold
from foreshock.config import Settings
from foreshock.decide import decide
from foreshock.frame import Frame
from foreshock.hindsight import settle
from foreshock.metrics import average_precision, count_events
from foreshock.models import load_detector, naming
from foreshock.runlog import processor
from foreshock.scores import Scores

NAME = "finished_days.jsonl"
WAYS = ("as live", "looking back", "from both ends")


def judge(
    task: labelled.Task, scores: Scores, threshold: Threshold | CausalThreshold, later: bool
) -> dict[str, Any]:
    """What is found, and how well the right service is told."""
    frame = task.judged
    events = decide(scores, threshold)
    counts = count_events(events, task.faults, len(frame), frame.step_s, task.ignore)
    labels = frame.labels
    assert labels is not None
    return {
        "faults": len(task.faults),
        "false_alarms": counts.false_alarms,
        "event_f1": counts.f1,
        "average_precision": average_precision(scores.system, labels.anomaly, task.ignore),
        "high": None if isinstance(threshold, CausalThreshold) else threshold.high,
        **root_causes(frame, scores, events, task.faults, later=later),
    }


def measure(seed: int) -> dict[str, dict[str, Any]]:
    """The figures of each way on one recording."""
    task, settings = labelled.simulated(seed, 1), Settings()
    hidden = task.judged.without_labels()
    detector = naming(load_detector("foreshock"))
    ahead = detector.score(hidden)

    def score(frame: Frame) -> Scores:
        return ahead if frame is hidden else detector.score(frame)

    live = calibrate_causal(ahead.system, ahead.step_s, guess=usual_of(detector, len(hidden.kpis)))
    back = settle(hidden, ahead, score)
    chosen, both, _ = finished_scores(detector, hidden, score, settings)
    return {
        WAYS[0]: judge(task, ahead, live, later=False),
        WAYS[1]: judge(task, back, fixed_threshold(back, settings, detector), later=True),
        WAYS[2]: judge(task, both, fixed_threshold(both, settings, chosen), later=True),
    }


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3])
    for seed in parser.parse_args().seeds:
        began = time.perf_counter()
        for way, figures in measure(seed).items():
            record = {"kind": "finished_day", "seed": seed, "way": way, **figures, "commit": commit(),
                      "torch": torch.__version__, "processor": processor(), "date": time.strftime("%Y-%m-%d"),
                      "seconds": round(time.perf_counter() - began, 1)}  # fmt: skip
            records.put(NAME, record, same=("seed", "way"))
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
