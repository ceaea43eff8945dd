"""Do the baselines give the figures that TSB-AD publishes? 30 series of TSB-AD-U, offline forms.

    python benchmarks/published.py --data FOLDER [--only NAME ...]

FOLDER holds `univariate/` with `published_vus_pr.csv`: for each of 30 files the series, its first and last
row, TSB-AD's window `W`, and the published VUS-PR of its detectors. One JSON line a series and method goes
to benchmarks/results/published.jsonl; benchmarks/tables.py writes RESULTS.md from it. Printed: for each
method the correlation with the published column over series, and the median absolute difference.

VUS-PR is TSB-AD's variant (`metrics.vus_pr_tsb_ad`), with the window of each series as TSB-AD finds it
(`metrics.period`). Offline: a method sees the whole series and puts a window's score at its middle, as
TSB-AD's do. The one-liners, Sub-PCA and the matrix profile are the same methods; in the others seeds,
and perhaps settings that are not told, differ. Where TSB-AD's own lists leave a choice (clusters, neighbours,
power) it is the one nearest to the published figures; no label was used to choose.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.frame import Frame, Kpi
from foreshock.metrics import period, vus_pr_tsb_ad
from foreshock.models import load_detector
from foreshock.runlog import git_commit

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "published.jsonl"
Score = Callable[[np.ndarray, int], np.ndarray]


def by_detector(name: str, window: int | str, **options: Any) -> Score:
    """The offline form of a detector, its window in rows or, by "period", that of the series."""

    def score(values: np.ndarray, rows: int) -> np.ndarray:
        frame = Frame(np.arange(len(values)) * 10**9, values[:, None], (Kpi("value"),), 1.0)
        chosen = rows if isinstance(window, str) else window
        return load_detector(name, window=chosen, causal=False, **options).score(frame).kpis[:, 0]

    return score


def ours(causal: bool) -> Score:
    """The default detector as it ships, nothing chosen for the series; or both ways, as the methods above."""

    def score(values: np.ndarray, rows: int) -> np.ndarray:
        frame = Frame(np.arange(len(values)) * 60 * 10**9, values[:, None], (Kpi("value"),), 60.0)
        return load_detector("foreshock", causal=causal).score(frame).system

    return score


def chance(values: np.ndarray, rows: int) -> np.ndarray:
    """A random score, which no table does without."""
    return np.random.default_rng(0).random(len(values))


OTHERS = ("MOMENT (ZS)", "MOMENT (FT)", "TSPulse ZS ensemble", "TSPulse FT ensemble", "Sub-PCA", "POLY")
# Method: published columns to hold it against, and how it is computed. z2 is no detector of ours.
METHODS: dict[str, tuple[tuple[str, ...], Score]] = {
    "rolling_variance(16)": (("rvar16",), by_detector("rolling_variance", 16)),
    "rolling_variance(64)": (("rvar64",), by_detector("rolling_variance", 64)),
    "rolling_variance(256)": (("rvar256",), by_detector("rolling_variance", 256)),
    "squared_difference(1)": (("sqdiff",), by_detector("squared_difference", 1)),
    "squared_difference(64)": (("sqdiff_ma64",), by_detector("squared_difference", 64)),
    "squared z": (("z2",), lambda values, rows: (values - values.mean()) ** 2),
    "sub_pca(period)": (("SubPCA", "Sub-PCA"), by_detector("sub_pca", "period")),
    "isolation_forest(1)": (("IForest",), by_detector("isolation_forest", 1)),
    "isolation_forest(period)": (("Sub-IForest",), by_detector("isolation_forest", "period")),
    "kmeans_ad(period, 10 means)": (("KMeansAD",), by_detector("kmeans_ad", "period", clusters=10)),
    "knn(period, 50 neighbors)": (("Sub-KNN",), by_detector("knn", "period", neighbors=50)),
    "poly(period)": (("POLY",), by_detector("poly", "period")),
    "matrix_profile(period)": (("MatrixProfile",), by_detector("matrix_profile", "period")),
    "random": (("random",), chance),
    # Not the same method: held against what others reach on these series.
    "foreshock (causal)": (OTHERS, ours(causal=True)),
    "foreshock (both ways)": (OTHERS, ours(causal=False)),
}


def read(folder: Path, row: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Values (T,) and labels (T,) of one published series."""
    with np.load(folder / row["dataset"] / f"{row['series']}.npz") as arrays:
        part = slice(int(row["start"]), int(row["end"]))
        return arrays["value"][part].astype(float), arrays["label"][part] > 0


def agreement(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each method and published column: series, correlation, median and largest absolute difference."""
    found = []
    for method in dict.fromkeys(r["method"] for r in records):
        here = [r for r in records if r["method"] == method]
        for column in here[0]["published"]:
            ours = np.array([r["vus_pr"] for r in here])
            theirs = np.array([r["published"][column] for r in here])
            apart = np.abs(ours - theirs)
            found.append({
                "method": method,
                "column": column,
                "series": len(here),
                "correlation": float(np.corrcoef(ours, theirs)[0, 1]) if len(here) > 1 else float("nan"),
                "median_difference": float(np.median(apart)),
                "largest_difference": float(apart.max()),
                "mean": float(ours.mean()),
                "published_mean": float(theirs.mean()),
                "wall_s": sum(r["wall_s"] for r in here),
            })  # fmt: skip
    return found


def commit() -> str:
    return str((git_commit(HERE) or {"commit": "unknown"})["commit"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="methods to run anew; the others' records are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    folder = args.data / "univariate"
    table = folder / "published_vus_pr.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    unknown = set(args.only or ()) - set(METHODS)
    if unknown:
        sys.exit(f"there is no method {sorted(unknown)[0]!r}; known: {', '.join(METHODS)}")
    old = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    records = [r for r in old if args.only and r["method"] not in args.only]
    facts = {
        "data_sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
        "commit": commit(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    for method in args.only or METHODS:
        columns, score = METHODS[method]
        for row in rows:
            values, truth = read(folder, row)
            window = period(values)
            began, cpu = time.perf_counter(), time.process_time()
            found = score(values, window).astype(float)
            took = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
            # A window's middle has no score at the ends: the lowest there is.
            found = np.where(np.isfinite(found), found, np.nanmin(found))
            record = {
                "kind": "published",
                "method": method,
                "file": row["file"],
                "family": row["dataset"],
                "rows": len(values),
                "window": window,
                "vus_pr": vus_pr_tsb_ad(found, truth, None, int(float(row["W"]))),
                "published": {column: float(row[column]) for column in columns},
                **{name: round(seconds, 4) for name, seconds in took.items()},
                **facts,
            }
            records.append(record)
        for one in agreement([r for r in records if r["method"] == method]):
            print(
                f"{one['method']:<28} {one['column']:<14} r {one['correlation']:.4f}  median difference "
                f"{one['median_difference']:.5f}  largest {one['largest_difference']:.4f}  mean "
                f"{one['mean']:.3f} (published {one['published_mean']:.3f})  {one['wall_s']:.1f} s",
                flush=True,
            )
    order = {name: place for place, name in enumerate(METHODS)}
    records.sort(key=lambda r: order[r["method"]])
    part = args.out.with_suffix(".part")
    part.write_text("".join(json.dumps(r) + "\n" for r in records))
    part.replace(args.out)


if __name__ == "__main__":
    main()
