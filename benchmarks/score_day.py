"""How long does `foreshock score` take for 24 hours of 88 KPIs at 15 s, and how much memory?

    python benchmarks/score_day.py [--runs 3] [--threads N]

Makes the recording (simulated Train Ticket, 5,760 rows, Parquet), runs the command as a process of its own,
start-up included, and asks the system what it took. A line of benchmarks/results/score_day.jsonl a processor
and number of threads; a newer one replaces the older. The table stands in RESULTS.md (`make docs`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import own_process
import records

from foreshock.memory import resident_bytes
from foreshock.runlog import git_commit, processor

ROWS = 5760


def measure(runs: int, threads: int) -> dict[str, Any]:
    load = os.getloadavg()[0]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with tempfile.TemporaryDirectory() as folder:
        made = ["--out", f"{folder}/day", "--rows", str(ROWS), "--step", "15", "--no-csv", "--quiet"]
        own_process.run(["simulate", *made], environment=environment)
        words = ["score", f"{folder}/day/recording.parquet", "--out", f"{folder}/scores.parquet"]
        words += ["--force", "--quiet"]
        told = [own_process.run(words, environment=environment) for _ in range(runs)]
    record: dict[str, Any] = {"kind": "score_day", "rows": ROWS, "kpis": 88, "step_s": 15.0, "runs": runs}
    for name in ("wall_s", "cpu_s", "peak_bytes"):
        values = [one[name] for one in told]
        record[name] = {
            "least": round(min(values), 1), "median": round(statistics.median(values), 1),
            "most": round(max(values), 1),
        }  # fmt: skip
    return record | {
        "threads": threads or None,
        "own_bytes": resident_bytes(),
        "processor": processor(),
        "has_amx": "amx_bf16" in Path("/proc/cpuinfo").read_text().split(),
        "cores": os.cpu_count(),
        "load_before": round(load, 1),
        "commit": git_commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as the command chooses itself")
    told = parser.parse_args()
    record = measure(told.runs, told.threads)
    records.put("score_day.jsonl", record, same=("processor", "has_amx", "threads"))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
