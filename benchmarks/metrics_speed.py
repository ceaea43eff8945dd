"""How fast are the range metrics here, against aeon's, side by side, and do they agree?

    python benchmarks/metrics_speed.py [--rows 100000] [--rounds 3] [--agree]

Makes an environment of its own for aeon (.venv-aeon), since it wants other versions of numpy and pandas. Two
processes take turns on the same seeded series, the reference and ours; each is called once on a short series
first, so that what compiles has compiled. A line of benchmarks/results/metrics_speed.jsonl is a metric at one
width of the buffer; a newer run of the same case replaces the older.

With --agree aeon judges short series of many kinds instead (`small_case`), and
benchmarks/results/metrics_agreement.jsonl keeps what it says: tests/test_metrics.py holds ours against that,
without aeon.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / ".venv-aeon"
REFERENCE = "aeon==1.6.0"
RESULTS = HERE / "results" / "metrics_speed.jsonl"
METRICS = {"vus_pr": "range_pr_vus_score", "vus_roc": "range_roc_vus_score"}  # ours: theirs
WINDOWS = (100, 500)  # widest buffer, rows; 500 is aeon's default
EVENTS = 40
AGREEMENT = HERE / "results" / "metrics_agreement.jsonl"
SMALL_CASES = 120


def series(rows: int) -> tuple[Any, Any]:
    """Scores (T,) with ties among the low ones, and labels (T,) of 0 and 1: 40 events of 5 to 400 rows."""
    import numpy as np

    rng = np.random.default_rng(0)
    truth = np.zeros(rows, np.int64)
    for start in rng.integers(0, rows - 400, EVENTS):
        truth[start : start + rng.integers(5, 400)] = 1
    score = rng.gamma(2.0, 1.0, rows).round(2) + truth * rng.gamma(1.0, 1.5, rows)
    return score, truth


def small_case(seed: int) -> tuple[Any, Any, int]:
    """Scores, labels and a buffer of many kinds: ties, events at the ends and side by side, wide buffers."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = int(rng.integers(20, 1500))
    truth = np.zeros(rows, np.int64)
    for start in rng.integers(0, rows, rng.integers(1, 8)):
        truth[start : start + rng.integers(1, max(2, rows // 6))] = 1
    truth[[0, -1][seed % 2]] = seed % 3 != 0  # an event at one end, or none there
    truth[rows // 2] = 1 - truth[rows // 2] if truth.min() == truth.max() else truth[rows // 2]
    score = rng.gamma(2.0, 1.0, rows) + truth * rng.gamma(1.0, 2.0, rows) * (seed % 4)
    score = score.round(int(rng.integers(0, 4)))  # ties, often many
    return score, truth, int(rng.integers(1, 120))


def work(who: str, rows: int) -> None:
    """Serve the parent: a line with a metric and a width in, a line with value and times out.

    A line with a seed is about that small case.
    """
    if who == "aeon":
        from aeon.benchmarking.metrics import anomaly_detection as theirs  # type: ignore[import-not-found]

        def call(name: str, score: Any, truth: Any, window: int) -> float:
            return float(getattr(theirs, METRICS[name])(truth, score, max_buffer_size=window))
    else:
        from foreshock import metrics as ours

        def call(name: str, score: Any, truth: Any, window: int) -> float:
            return float(getattr(ours, name)(score, truth, window=window))

    short = series(2000)
    for name in METRICS:
        call(name, *short, 4)
    score, truth = series(rows)
    print(json.dumps(versions()), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "seed" in asked:
            *case, window = small_case(asked["seed"])
            print(json.dumps({name: call(name, *case, window) for name in METRICS}), flush=True)
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        value = call(asked["metric"], score, truth, asked["window"])
        took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        print(json.dumps({"value": value, **took}), flush=True)


def versions() -> dict[str, str]:
    from importlib import metadata

    names = ("aeon", "foreshock", "numpy", "numba")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": sys.version.split()[0], **found}


class Worker:
    """One of the two processes."""

    def __init__(self, python: Path | str, who: str, rows: int) -> None:
        self._process = subprocess.Popen(
            [str(python), __file__, "--worker", who, "--rows", str(rows)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.versions = self._read()

    def ask(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        if not answer:
            raise SystemExit(f"the worker ended with {self._process.wait()}; its words stand above.")
        return answer


def reference_environment() -> Path:
    """The Python that has aeon; made when it is missing."""
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    if subprocess.run([python, "-c", "import aeon"], capture_output=True).returncode:
        subprocess.run([python, "-m", "pip", "install", "-q", REFERENCE], check=True)
    return python


def agree() -> None:
    """A line for each small case: its seed, aeon's two figures, and aeon's version."""
    aeon = Worker(reference_environment(), "aeon", 2000)
    lines = [
        {"kind": "metrics_agreement", "seed": seed, **aeon.ask(seed=seed), "aeon": aeon.versions["aeon"]}
        for seed in range(SMALL_CASES)
    ]
    aeon.stop()
    AGREEMENT.write_text("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, nargs="+", default=list(WINDOWS))
    parser.add_argument("--agree", action="store_true", help="keep what aeon says of small series")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.rows)
        return
    if options.agree:
        agree()
        return
    from foreshock.runlog import git_commit, processor

    sides = {
        "aeon": Worker(reference_environment(), "aeon", options.rows),
        "foreshock": Worker(sys.executable, "foreshock", options.rows),
    }
    about = {
        "versions": {name: side.versions for name, side in sides.items()},
        "commit": (git_commit(HERE) or {}).get("commit"),
        "processor": processor(),
        "cores": os.cpu_count(),
    }
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for window in options.windows:
        for metric in METRICS:
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
            for _ in range(options.rounds):
                for name, side in sides.items():
                    found[name].append(side.ask(metric=metric, window=window))
            record = {
                "kind": "metrics_speed", "metric": metric, "rows": options.rows, "events": EVENTS,
                "window_rows": window, "rounds": options.rounds,
                **{
                    name: {
                        "value": took[0]["value"],
                        "wall_s": round(min(t["wall_s"] for t in took), 4),
                        "cpu_s": round(min(t["cpu_s"] for t in took), 4),
                    }
                    for name, took in found.items()
                },
                "difference": abs(found["aeon"][0]["value"] - found["foreshock"][0]["value"]),
                "load": round(os.getloadavg()[0], 1),
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                **about,
            }  # fmt: skip
            print(
                json.dumps(
                    {k: record[k] for k in ("metric", "window_rows", "aeon", "foreshock", "difference")}
                )
            )
            same = ("metric", "rows", "window_rows")
            lines = [line for line in lines if any(line[k] != record[k] for k in same)] + [record]
            lines.sort(key=lambda line: [line[k] for k in ("rows", "window_rows", "metric")])
            RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for side in sides.values():
        side.stop()


if __name__ == "__main__":
    main()
