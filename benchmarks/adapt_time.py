"""How long `foreshock adapt` takes with 100 shots on nano, as somebody calls it: wall and processor time.

    python benchmarks/adapt_time.py [--threads 2] [--shots 100]

On the simulated Train Ticket recording that benchmarks/learning_curves.py teaches seed 0 with, as a table
with labels. One JSON line is appended to results/adapt_time.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import labelled
import records

from foreshock.cli.inspect import write_table
from foreshock.runlog import git_commit, processor

TOLD = ("shots", "incidents", "steps", "best_step", "seconds", "crossed_ap", "zero_shot_ap")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shots", type=int, default=100)
    args = parser.parse_args()
    frame = labelled.teaching(1000, args.shots)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "taught.parquet"
        write_table(frame, table, ".parquet")
        command = [sys.executable, "-m", "foreshock", "adapt", str(table), "--shots", str(args.shots)]
        command += ["--out", str(Path(folder) / "adapter"), "--json", "--quiet"]
        load, began = os.getloadavg()[0], time.perf_counter()
        threads = {"OMP_NUM_THREADS": str(args.threads)}
        done = subprocess.run(command, env=os.environ | threads, check=True, capture_output=True, text=True)
        wall_s = time.perf_counter() - began
    told = json.loads(done.stdout)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = {
        "kind": "adapt_time", "recording": "simulated Train Ticket", "rows": len(frame),
        "kpis": len(frame.kpis), "shots": args.shots, "threads": args.threads, "wall_s": round(wall_s, 2),
        "cpu_s": round(spent.ru_utime + spent.ru_stime, 2), "load": round(load, 2), "cpu": processor(),
        "told": {key: told[key] for key in TOLD}, "commit": git_commit(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    records.append("adapt_time.jsonl", record)
    print(record)


if __name__ == "__main__":
    main()
