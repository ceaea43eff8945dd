"""Which service comes first for simulated faults, without any label: `explain`, and a BARO-like scorer.

    python benchmarks/fault_origins.py [--seeds 0 1 2] [--cache FOLDER]

The judged recordings are those of benchmarks/learning_curves.py, whose records hold what an adapter learned.
`explain` alone, and with what simulated systems taught of roots, as `detect` has it. All are told the rows
of each fault. One JSON line a seed and scorer goes to results/fault_origins.jsonl.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import labelled
import numpy as np
from learning_curves import SIMULATED, Looks

from foreshock.decide import Event
from foreshock.explain import explain
from foreshock.frame import Frame
from foreshock.models import judging
from foreshock.models.shots import Lesson
from foreshock.runlog import git_commit
from foreshock.scores import Scores

OUT = Path(__file__).parent / "results" / "fault_origins.jsonl"
BEFORE_ROWS = 256


def baro(frame: Frame, first: int, last: int) -> list[str]:
    """Services by the largest deviation of any KPI from its median before, in inter-quartile ranges.

    Source: Pham et al. 2024, "BARO: Robust Root Cause Analysis for Microservices via Multivariate Bayesian
    Online Change Point Detection", the RobustScorer of github.com/phamquiluan/baro (MIT): scikit-learn's
    RobustScaler on the rows before, the maximum over the rows of the fault; a range of 0 counts as 1. Told
    when the fault begins, in place of its change point detection.
    """
    past, now = frame.values[max(0, first - BEFORE_ROWS) : first], frame.values[first:last]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a KPI nobody observed
        middle = np.nanmedian(past, 0)
        low, high = np.nanpercentile(past, [25, 75], axis=0)
        spread = np.where(high > low, high - low, 1.0)
        score = np.nan_to_num(np.nanmax((now - middle) / spread, 0), nan=-np.inf)
    best: dict[str, float] = {}
    for kpi, value in zip(frame.kpis, score, strict=True):
        best[kpi.service] = max(best.get(kpi.service, -np.inf), float(value))
    return sorted(best, key=lambda name: -best[name])


def explained(frame: Frame, scores: Scores, first: int, last: int, number: int) -> list[str]:
    stamps = [int(frame.time_ns[row]) for row in (first, last - 1)]
    seen = min(first + 2, last - 1)
    event = Event(
        number, first, last, stamps[0], stamps[1], first, stamps[0], 1.0, 1.0, 0.9, seen,
        int(frame.time_ns[seen]), last - first, False,
    )  # fmt: skip
    return [service.name for service in explain(frame, scores, event).services]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "foreshock-curves")
    parser.add_argument("--model", default="nano")
    args = parser.parse_args()
    looks = Looks(args.cache, args.model)
    assert looks.known is not None
    with OUT.open("w", encoding="utf-8") as file:
        for seed in args.seeds:
            task = labelled.simulated(seed, 1)
            frame, labels = task.judged, task.judged.labels
            assert labels is not None
            seen = looks.of(frame, f"{SIMULATED}-{seed}-judged".replace(" ", "-"))
            scores = seen_scores(seen)
            names = ("explain with the verdict, zero-shot", "explain alone", "BARO-like")
            ranks: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            told = replace(scores, origins=judging.read(seen, looks.known)[2].astype(np.float32))
            for number, (first, last) in enumerate(task.faults):
                root = str(labels.root_cause[first])
                orders = (
                    explained(frame, told, first, last, number),
                    explained(frame, scores, first, last, number),
                    baro(frame, first, last),
                )  # fmt: skip
                for name, order in zip(ranks, orders, strict=True):
                    rank = order.index(root) + 1 if root in order else None
                    ranks[name].append({"kind": str(labels.fault_type[first]), "root_rank": rank})
            for name, each in ranks.items():
                record = {
                    "kind": "fault_origins", "scorer": name, "seed": seed, "each": each,
                    "weights_sha256": looks.base.facts["weights_sha256"], "commit": git_commit(),
                    "date": time.strftime("%Y-%m-%d"),
                }  # fmt: skip
                file.write(json.dumps(record) + "\n")
                print(name, seed, sum(e["root_rank"] == 1 for e in each), len(each), flush=True)


def seen_scores(seen: Lesson) -> Scores:
    frame = seen.frame
    kpis = np.where(np.isfinite(frame.values), seen.evidence, np.nan).astype(np.float32)
    services = np.zeros((len(frame), len(frame.services)), np.float32)
    system = seen.system.astype(np.float32)
    return Scores(frame.time_ns, kpis, services, system, frame.kpis, frame.services, frame.step_s)


if __name__ == "__main__":
    main()
