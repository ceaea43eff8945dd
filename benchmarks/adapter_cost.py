"""What an adapter costs in use: milliseconds to switch to one, processor time of scoring with and without.

    python benchmarks/adapter_cost.py

On a simulated shop (50 KPIs, 30 s). One JSON line is appended to results/adapter_cost.jsonl.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import records
import torch

from foreshock.models import load_detector
from foreshock.models.finetune import FinetuneOptions, finetune
from foreshock.models.lora import load_adapter, with_adapter
from foreshock.runlog import git_commit, processor
from foreshock.sources import simulator

ROWS, ROUNDS = 512, 3


def main() -> None:
    frame = simulator.simulate(31, 960, 30.0)
    base = load_detector("foreshock")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "a"
        finetune(frame, place, "nano", FinetuneOptions(shots=30, steps=2, check_every=2, least_incidents=0))
        began = time.perf_counter()
        adapter = load_adapter(place)
        load_ms = 1e3 * (time.perf_counter() - began)
    switches = []
    for _ in range(10):
        began = time.process_time()
        adapted = with_adapter(base, adapter)
        switches.append(1e3 * (time.process_time() - began))
    part = frame.rows(slice(0, ROWS)).without_labels()
    spent: dict[str, list[float]] = {"base": [], "adapted": []}
    for number in range(ROUNDS + 1):  # in turn; the first warms up
        for name, detector in (("base", base), ("adapted", adapted)):
            began = time.process_time()
            detector.score(part)
            if number:
                spent[name].append(time.process_time() - began)
    record = {
        "kind": "adapter_cost", "rows": ROWS, "kpis": len(frame.kpis), "load_ms": round(load_ms, 2),
        "switch_cpu_ms": round(statistics.median(switches), 2),
        "score_cpu_s": {name: round(min(all_of), 4) for name, all_of in spent.items()},
        "share_more": round(min(spent["adapted"]) / min(spent["base"]) - 1, 4),
        "threads": torch.get_num_threads(), "cpu": processor(), "commit": git_commit(),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    records.append("adapter_cost.jsonl", record)
    print(record)


if __name__ == "__main__":
    main()
