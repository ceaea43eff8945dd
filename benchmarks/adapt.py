"""What labels buy: zero-shot beside adapters learned from a few labelled windows, on rows they never saw.

    python benchmarks/adapt.py [--shots 10 50 100] [--seeds 0 1 2] [--rows 2880] [--model nano] [--steps 120]
    python benchmarks/adapt.py --recording FILE.parquet [--until TIME] [--train-share 0.5] ...

Without --recording, an adapter is learned from a simulated recording (seed 1000 + s) and held against
zero-shot on another (seed 2000 + s). With --recording, the rows up to the middle between two incidents
teach and the later ones judge; a block of rows after the cut counts nowhere. One JSON line for each
seed and number of shots (0 is zero-shot, `steps` 0 is the verdict on the frozen network) goes to --out as it
is measured; what is there already is not measured again.

AP is over rows of the system score; event F1 is at the threshold that each detector takes in use: unlabelled
for zero-shot (one false alarm a day, from the whole judged recording), learned for an adapter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import foreshock
from foreshock.calibrate import calibrate, from_labels
from foreshock.decide import decide
from foreshock.frame import Frame
from foreshock.metrics import average_precision, count_events, fault_spans, roc_auc
from foreshock.models import load_detector
from foreshock.models.finetune import FinetuneOptions, finetune
from foreshock.models.lora import with_adapter
from foreshock.models.verdict import UNKNOWN
from foreshock.sources import simulator

OUT = Path(__file__).parent / "results" / "adapt.jsonl"
SETTLING_ROWS = 64


def judge(detector: Any, frame: Frame, first: int, until: np.datetime64 | None) -> dict[str, Any]:
    """Figures of one detector on rows from `first` on; earlier ones are its past."""
    labels = frame.labels
    assert labels is not None
    began = time.process_time()
    scores = detector.score(frame.without_labels())
    spent = time.process_time() - began
    seen = labels.anomaly & labels.metric_visible
    ignore = labels.ignore | (labels.anomaly & ~seen) | (np.arange(len(frame)) < first)
    if until is not None:
        ignore |= frame.time >= until
    faults = fault_spans(np.where(seen & ~ignore, labels.fault_id, -1))
    level = getattr(detector, "threshold", None)
    quiet = np.where(np.arange(len(frame)) < max(first, SETTLING_ROWS), np.nan, scores.system)
    threshold = calibrate(quiet, frame.step_s) if level is None else from_labels(level, frame.step_s)
    counts = count_events(decide(scores, threshold), faults, len(frame), frame.step_s, ignore)
    precision = 1 - counts.false_alarms / max(1, counts.alarms)
    named = right = 0
    top = 0
    for start, end in faults:
        rows = slice(start, end)
        root = str(labels.root_cause[start])
        loud = np.nanmean(scores.services[rows], 0) / (np.nanmedian(scores.services, 0) + 0.05)
        top += scores.service_names[int(np.nanargmax(loud))] == root
        if scores.kinds is not None:
            name = detector.adapter.verdict.name(scores.kinds[rows])
            named += name != UNKNOWN
            right += name == str(labels.fault_type[start])
    return {
        "rows": int((~ignore).sum()), "faults": len(faults),
        "average_precision": average_precision(scores.system, seen, ignore),
        "roc_auc": roc_auc(scores.system, seen, ignore),
        "event_recall": counts.recall, "alarms": counts.alarms, "false_alarms": counts.false_alarms,
        "event_f1": 2 * precision * counts.recall / max(1e-9, precision + counts.recall),
        "kinds_named": named, "kinds_right": right, "service_first": top, "score_cpu_s": spent,
    }  # fmt: skip


def cut(frame: Frame, share: float) -> int:
    """The row where teaching ends: after so many of the incidents, in the middle of what is quiet."""
    assert frame.labels is not None
    labels = frame.labels
    spans = fault_spans(np.where(labels.anomaly & labels.metric_visible, labels.fault_id, -1))
    last = max(1, round(share * len(spans))) - 1
    return (spans[last][1] + spans[last + 1][0]) // 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shots", type=int, nargs="*", default=[10, 50, 100])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=2880)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int, nargs="*", default=[FinetuneOptions().steps])
    parser.add_argument("--targets", nargs="*", default=list(FinetuneOptions().targets))
    parser.add_argument("--recording")
    parser.add_argument("--until")
    parser.add_argument("--train-share", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    args.out.parent.mkdir(exist_ok=True)
    old = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    until = np.datetime64(args.until) if args.until else None
    base = load_detector("foreshock", model=args.model)
    for seed in args.seeds:
        if args.recording:
            test = foreshock.read(args.recording)
            first = cut(test, args.train_share)
            train = test.rows(slice(0, first))
            first += base.options.block
        else:
            train = simulator.simulate(1000 + seed, args.rows, 30.0)
            test, first = simulator.simulate(2000 + seed, args.rows, 30.0), 0
        for shots in (0, *args.shots):
            for steps in args.steps if shots else [0]:
                name = Path(args.recording).name if args.recording else "simulate:"
                key = {
                    "kind": "adapt", "recording": name, "rows": args.rows, "seed": seed, "shots": shots,
                    "steps": steps, "targets": args.targets,
                    "weights_sha256": base.facts["weights_sha256"],
                }  # fmt: skip
                if any(all(r.get(k) == v for k, v in key.items()) for r in old):
                    continue
                record = {**key, **_measure(args, base, train, test, first, until, shots, steps, seed)}
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                told = ("seed", "shots", "steps", "average_precision", "event_f1", "kinds_right", "faults")
                print({k: record[k] for k in told}, flush=True)


def _measure(
    args: argparse.Namespace, base: Any, train: Frame, test: Frame, first: int,
    until: np.datetime64 | None, shots: int, steps: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    facts: dict[str, Any] = {}
    detector = base
    if shots:
        began, cpu = time.perf_counter(), time.process_time()
        options = FinetuneOptions(shots=shots, steps=steps, seed=seed, targets=tuple(args.targets))
        with tempfile.TemporaryDirectory() as folder:
            try:
                adapter = finetune(train, Path(folder) / "adapter", args.model, options)
            except foreshock.ForeshockError as error:
                return {"skipped": str(error), "average_precision": None, "event_f1": None,
                        "kinds_right": None, "faults": None, "service_first": None}  # fmt: skip
        detector = with_adapter(base, adapter)
        facts = {
            "adapt_wall_s": time.perf_counter() - began, "adapt_cpu_s": time.process_time() - cpu,
            "adapter": adapter.facts, "threshold": adapter.verdict.threshold, "options": asdict(options),
        }  # fmt: skip
    run = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        **judge(detector, test, first, until), **facts, "train_rows": len(train), "kpis": len(test.kpis),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "commit": run.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


if __name__ == "__main__":
    main()
