"""What does a simulated recording cost: processor time, wall time, peak memory, size on disk?

    python benchmarks/simulator_cost.py                    # the default recording, as users type it
    python benchmarks/simulator_cost.py --rows 10000000    # a long one, Parquet alone

Runs `foreshock simulate` as a process of its own and asks the system what it took, start-up included. A line
of benchmarks/results/simulator_cost.jsonl each; a newer one of the same rows replaces the older. The table
stands in docs/simulator.md (`make docs`).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import own_process

from foreshock.memory import resident_bytes
from foreshock.runlog import git_commit, processor

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "simulator_cost.jsonl"


def measure(rows: int | None, nice: int) -> dict[str, Any]:
    """One recording: what was made, and what the process took."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["simulate", "--out", f"{folder}/made", "--json", "--quiet"]
        words += [] if rows is None else ["--rows", str(rows), "--no-csv"]
        load = os.getloadavg()[0]
        took = own_process.run(words, out=f"{folder}/told")
        made = json.loads(Path(folder, "told").read_bytes())
        sizes = {Path(f).suffix: Path(f).stat().st_size for f in made["files"] if "recording" in Path(f).name}
    kinds = {fault["fault_type"] for fault in made["faults"]}
    return {
        "kind": "simulate",
        "command": "foreshock " + " ".join(words).replace(folder, "DIR"),
        "is_default": rows is None,
        "rows": made["rows"],
        "kpis": made["kpis"],
        "step_s": 15.0,
        "faults": len(made["faults"]),
        "fault_types": len(kinds),
        "cpu_s": round(took["cpu_s"], 1),
        "wall_s": round(took["wall_s"], 1),
        "peak_bytes": took["peak_bytes"],
        "parent_bytes": resident_bytes(),
        "parquet_bytes": sizes[".parquet"],
        "csv_bytes": sizes.get(".csv"),
        "nice": nice,
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="without CSV; by default the command's own, with CSV")
    parser.add_argument("--nice", type=int, default=0, help="so much more politely than now")
    options = parser.parse_args()
    nice = os.nice(options.nice)
    record = measure(options.rows, nice)
    about = {
        "commit": (git_commit(HERE) or {}).get("commit"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(json.dumps(record, indent=2))
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    same = ("rows", "is_default")
    lines = [line for line in lines if any(line[name] != record[name] for name in same)] + [record | about]
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda r: r["rows"])))


if __name__ == "__main__":
    main()
