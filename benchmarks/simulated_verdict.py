"""How well the shipped verdict names incidents nobody labelled: kinds, and the service they come from.

    python benchmarks/simulated_verdict.py [--data FOLDER] [--cache FOLDER]

The verdict beside `nano` was learned on invented systems (`python -m foreshock.pretrain verdict`). Judged,
told the rows of each fault: invented systems it never saw, with the same physics; the demo's shop; with
--data (it holds `nezha/`) real faults that people injected, by the kind that they evidently are (MEANT).
What the network sees of a recording lies in --cache, so that another verdict is judged in minutes.
Simulated Train Ticket stands in results/learning_curves.jsonl, as `foreshock, zero-shot`. The root is ranked
by the verdict alone, and by `explain` without and with it. One JSON line a recording goes to
results/simulated_verdict.jsonl.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fault_origins import explained, seen_scores
from learning_curves import Looks

import foreshock
from foreshock.frame import Frame
from foreshock.metrics import fault_spans
from foreshock.models import judging
from foreshock.models.known import load_known
from foreshock.models.shots import Lesson
from foreshock.models.verdict import Verdict
from foreshock.pretrain.simulated import HELD_BACK, SimulatedPlan, macro_f1, recording
from foreshock.runlog import git_commit
from foreshock.sources import simulator

OUT = Path(__file__).parent / "results" / "simulated_verdict.jsonl"
HELD_BACK_SYSTEMS, SHOP_SEEDS = 20, (9300, 9301, 9302)
NEZHA = {
    "Online Boutique": "nezha/onlineboutique_2022-08-22.parquet",
    "Train Ticket": "nezha/trainticket88_2023-01-29.csv.gz",
}
# What Nezha calls a fault, and the kind that it evidently is. Code that returns wrong or throws is an error
# of its service, whether or not any metric counts errors.
MEANT = {"cpu_consumed": "cpu_contention", "return": "error_storm", "exception": "error_storm"}


def recordings(data: Path | None) -> Iterator[tuple[str, Frame]]:
    for number in range(HELD_BACK_SYSTEMS):
        yield "invented systems", recording(HELD_BACK + number, SimulatedPlan().rows)
    for seed in SHOP_SEEDS:
        yield "shop", simulator.simulate(seed, 2880)
    for name, file in NEZHA.items() if data else ():
        yield f"{name}, recorded", foreshock.read(str(data / file))


def judge(looked: Lesson, verdict: Verdict) -> list[dict[str, Any]]:
    """Each fault that metrics can show: its kind, what it is told as, how likely, the ranks of its root."""
    frame, labels = looked.frame, looked.frame.labels
    assert labels is not None
    alone = seen_scores(looked)
    _, kinds, origins = judging.read(looked, verdict)
    scores = replace(alone, origins=origins.astype(np.float32))
    out = []
    seen = np.where(labels.anomaly & labels.metric_visible & ~labels.ignore, labels.fault_id, -1)
    for number, (first, last) in enumerate(fault_spans(seen)):
        kind, root = str(labels.fault_type[first]), str(labels.root_cause[first])
        mean = kinds[first:last].mean(0)
        by_verdict = np.argsort(-origins[first:last].mean(0), kind="stable")
        orders = {
            "explain": explained(frame, alone, first, last, number),
            "explain with the verdict": explained(frame, scores, first, last, number),
            "verdict": [frame.services[int(i)] for i in by_verdict],
        }
        ranks = {name: order.index(root) + 1 if root in order else None for name, order in orders.items()}
        out.append({
            "kind": MEANT.get(kind, kind), "called": kind, "named": verdict.kinds[int(mean.argmax())],
            "chance": round(float(mean.max()), 4), "root_ranks": ranks,
        })  # fmt: skip
    return out


def summary(each: list[dict[str, Any]], sure: float) -> dict[str, Any]:
    true, named = ([one[what] for one in each] for what in ("kind", "named"))
    told = [one["kind"] == one["named"] for one in each if one["chance"] >= sure]
    ranks = [one["root_ranks"] for one in each]
    return {
        "faults": len(each), "macro_f1": round(macro_f1(true, named), 4),
        "right": sum(a == b for a, b in zip(true, named, strict=True)), "told": len(told),
        "told_right": sum(told),
        "root_first": {name: sum(one[name] == 1 for one in ranks) for name in ranks[0]},
        "root_in_three": {name: sum((one[name] or 99) <= 3 for one in ranks) for name in ranks[0]},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "foreshock-verdict")
    args = parser.parse_args()
    known, looks = load_known("nano"), Looks(args.cache, "nano")
    assert known is not None
    found: dict[str, list[dict[str, Any]]] = {}
    for number, (name, frame) in enumerate(recordings(args.data)):
        found.setdefault(name, []).extend(judge(looks.of(frame, f"verdict-{number}"), known.verdict))
        print(number, name, len(frame), flush=True)
    with OUT.open("w", encoding="utf-8") as file:
        for name, each in found.items():
            record = {
                "kind": "simulated_verdict", "recording": name, **summary(each, known.verdict.sure),
                "each": each, "verdict_sha256": known.sha256, "systems": known.facts["systems"],
                "taught_faults": known.facts["faults"], "commit": git_commit(),
                "date": time.strftime("%Y-%m-%d"),
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")
            print(name, {k: v for k, v in record.items() if k not in ("each", "commit")}, flush=True)


if __name__ == "__main__":
    main()
