"""How far the Train Ticket simulator resembles real recordings, quiet and broken, and where it does not.

    python benchmarks/simulator_likeness.py --data FOLDER     # measure: results, figure, page
    python benchmarks/simulator_likeness.py --page            # write the page's tables from the results

FOLDER holds `nezha/` as docs/data.md describes it. Records go to benchmarks/results/simulator_likeness.jsonl,
the tables to docs/simulator.md, the figure to docs/img/simulator-likeness.png.

Quiet: the rows of Nezha's Train Ticket day before 15:50 UTC without visible faults, their recovery and the
injections its list leaves out, against simulated rows of the same number, step and (steady) load, no fault.
Beside each distance stands the one between the two halves of the real rows, and between two simulated
seeds: a distance can't be asked to be smaller than that. The simulator was tuned on this recording, so the
table says how good the fit is, not how it would do on another day.
Faults: medians at the root cause and at the front door, before and during, over the real injections and
over simulated ones at the same services, of the same length and step.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tables as tables_
from tables import table

import foreshock
from foreshock.frame import Frame
from foreshock.runlog import git_commit
from foreshock.sources import simulator
from foreshock.sources.simulator import TRAINTICKET, Fault

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "simulator_likeness.jsonl"
PAGE = HERE.parent / "docs" / "simulator.md"
FIGURE = HERE.parent / "docs" / "img" / "simulator-likeness.png"
TICKET = "nezha/trainticket88_2023-01-29.csv.gz"
BOUTIQUE = "nezha/onlineboutique_2022-08-22.parquet"
UNTIL = np.datetime64("2023-01-29T15:50")
SEEDS = range(5)
CLASSES = {
    "CPU": "cpu_pct",
    "memory": "mem_mi",
    "workload": "workload_ops",
    "server latency p90": "server_lat_p90_s",
    "front-door latency": "lat_p",
}
FIGURES = ("cv", "lag1", "missing", "distinct", "mode")
Record = dict[str, Any]


# ------------------------------------------------------------------------------------------------ quiet


def quiet_rows(frame: Frame) -> np.ndarray:
    """(T,) bool: nothing that metrics could show happens, and the traffic is the day's."""
    labels = frame.labels
    assert labels is not None
    seen = labels.anomaly & labels.metric_visible
    # The rows after a code fault are marked as recovery as well; nothing shows in them.
    visible_before = np.convolve(seen, np.ones(9), "full")[: len(seen)] > 0
    suspect = labels.ignore & (labels.fault_type != "") & ~labels.anomaly
    return ~seen & ~visible_before & ~suspect & (frame.time < UNTIL)


def columns(names: Iterable[str], ending: str) -> list[int]:
    """Places of the KPIs of one class."""
    front = ending == "lat_p"
    return [
        i
        for i, name in enumerate(names)
        if name.startswith("frontdoor") == front and (front or name.endswith("__" + ending))
    ]


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance between two empirical distributions; NaN without values."""
    a, b = np.sort(a[np.isfinite(a)]), np.sort(b[np.isfinite(b)])
    if not len(a) or not len(b):
        return float("nan")
    at = np.concatenate([a, b])
    below = np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)
    return float(np.abs(below).max())


def standard(x: np.ndarray) -> np.ndarray:
    """Less its mean, over its spread."""
    return (x - np.nanmean(x)) / (np.nanstd(x) + 1e-12)


def figures(x: np.ndarray) -> dict[str, float]:
    """What one KPI looks like: spread, memory, holes, how many values."""
    seen = x[np.isfinite(x)]
    both = np.isfinite(x[1:]) & np.isfinite(x[:-1])
    a, b = x[1:][both], x[:-1][both]
    _, times = np.unique(seen, return_counts=True)
    moves = len(a) > 2 and a.std() > 0 and b.std() > 0
    return {
        "cv": float(seen.std() / abs(seen.mean())) if len(seen) and seen.mean() else float("nan"),
        "lag1": float(np.corrcoef(a, b)[0, 1]) if moves else float("nan"),
        "missing": float(1 - len(seen) / len(x)),
        "distinct": len(times) / max(len(seen), 1),
        "mode": float(times.max() / len(seen)) if len(seen) else float("nan"),
    }


def together(x: np.ndarray) -> float:
    """The median correlation between two KPIs of a class, over the rows both have."""
    found = []
    for i in range(x.shape[1]):
        for j in range(i):
            both = np.isfinite(x[:, i]) & np.isfinite(x[:, j])
            a, b = x[both, i], x[both, j]
            if len(a) > 20 and a.std() > 0 and b.std() > 0:
                found.append(float(np.corrcoef(a, b)[0, 1]))
    return float(np.median(found))


def compare(real: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Median distances over the KPIs of a class, both (T, K) with the same columns."""
    pairs = [(real[:, k], other[:, k]) for k in range(real.shape[1])]
    return {
        "ks_standardised": float(np.nanmedian([ks(standard(a), standard(b)) for a, b in pairs])),
        "ks_raw": float(np.nanmedian([ks(a, b) for a, b in pairs])),
    }


def quiet(real: Frame) -> list[Record]:
    """One record a KPI class."""
    rows = quiet_rows(real)
    x = real.values[rows]
    simulated = []
    for seed in SEEDS:
        frame = simulator.simulate(
            seed, len(x) + 120, 60.0, (), deploys=(), system=TRAINTICKET, regimes=(), steady=True
        )
        order = [frame.names.index(name) for name in real.names]
        simulated.append(frame.values[120:][:, order])
    records = []
    for title, ending in CLASSES.items():
        which = columns(real.names, ending)
        mine = x[:, which]
        halves = compare(mine[: len(mine) // 2], mine[len(mine) // 2 :])
        fits = [compare(mine, s[:, which]) for s in simulated]
        seeds = [compare(a[:, which], b[:, which]) for a, b in pairwise(simulated)]
        told = [figures(mine[:, k]) for k in range(len(which))]
        theirs = [[figures(s[:, k]) for k in which] for s in simulated]
        record: Record = {"kind": "quiet", "class": title, "kpis": len(which), "rows": len(x)}
        for key in ("ks_standardised", "ks_raw"):
            record[key] = {
                "sim": [f[key] for f in fits],
                "real_halves": halves[key],
                "sim_seeds": float(np.median([f[key] for f in seeds])),
            }
        for key in FIGURES:
            record[key] = {
                "real": float(np.nanmedian([f[key] for f in told])),
                "sim": [float(np.nanmedian([f[key] for f in group])) for group in theirs],
            }
        record["correlation"] = {
            "real": together(mine),
            "sim": [together(s[:, which]) for s in simulated],
        }
        records.append(record)
    return records


# ----------------------------------------------------------------------------------------------- faults


def course(frame: Frame, fault_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the 20 minutes before a fault, and its rows of full effect (all but the first)."""
    labels = frame.labels
    assert labels is not None
    rows = np.flatnonzero(labels.fault_id == fault_id)
    before = np.arange(max(rows[0] - 20, 0), rows[0])
    before = before[~labels.anomaly[before] & ~labels.ignore[before]]
    return before, rows[1:]


def change(frame: Frame, name: str, before: np.ndarray, during: np.ndarray) -> tuple[float, float]:
    """A KPI's medians before and during; NaN where nobody was there to see."""
    if name not in frame.names:
        return float("nan"), float("nan")
    x = frame.values[:, frame.names.index(name)]
    return float(np.nanmedian(x[before])), float(np.nanmedian(x[during]))


def signature(frame: Frame, kinds: Iterable[str]) -> dict[str, list[dict[str, float]]]:
    """For each kind of fault, what each injection did to its root and to the front door."""
    labels = frame.labels
    assert labels is not None
    found: dict[str, list[dict[str, float]]] = {}
    for number in sorted(set(labels.fault_id[labels.fault_id >= 0].tolist())):
        first = int(np.flatnonzero(labels.fault_id == number)[0])
        kind, root = str(labels.fault_type[first]), str(labels.root_cause[first])
        if kind not in kinds:
            continue
        before, during = course(frame, number)
        told = {}
        for metric in ("cpu_pct", "mem_mi", "workload_ops", "server_lat_p90_s"):
            a, b = change(frame, f"{root}__{metric}", before, during)
            told[f"{metric}_before"], told[f"{metric}_during"] = a, b
        for metric in ("lat_p50_s", "lat_p90_s", "lat_p99_s"):
            a, b = change(frame, f"frontdoor__{metric}", before, during)
            told[f"front_{metric}_ratio"] = b / a if a > 0 else float("nan")
        found.setdefault(kind, []).append(told)
    return found


def summary(told: list[dict[str, float]]) -> dict[str, float]:
    """Medians over injections, as an operator would say them."""

    def median(values: Iterable[float]) -> float:
        values = [v for v in values if np.isfinite(v)]
        return float(np.median(values)) if values else float("nan")

    def ratio(metric: str) -> float:
        return median(t[f"{metric}_during"] / t[f"{metric}_before"] for t in told if t[f"{metric}_before"])

    return {
        "injections": len(told),
        "root_cpu_before_pct": median(t["cpu_pct_before"] for t in told),
        "root_cpu_during_pct": median(t["cpu_pct_during"] for t in told),
        "root_memory_added_mi": median(t["mem_mi_during"] - t["mem_mi_before"] for t in told),
        "root_workload_ratio": ratio("workload_ops"),
        "root_p90_ratio": ratio("server_lat_p90_s"),
        "front_p50_ratio": median(t["front_lat_p50_s_ratio"] for t in told),
        "front_p90_ratio": median(t["front_lat_p90_s_ratio"] for t in told),
        "front_p99_ratio": median(t["front_lat_p99_s_ratio"] for t in told),
    }


def simulated_signature(kind: str, roots: Iterable[str]) -> list[dict[str, float]]:
    """The same length (180 s) and step as the real injections, at full size, five seeds a root."""
    told = []
    for seed in SEEDS:
        faults = [Fault(kind, root, 7200.0 + 1800 * n, 180.0) for n, root in enumerate(roots)]
        rows = 120 + 30 * len(faults) + 30
        frame = simulator.simulate(
            seed, rows, 60.0, faults, deploys=(), system=TRAINTICKET, regimes=(), steady=True
        )
        told += signature(frame, [kind])[kind]
    return told


def faults(ticket: Frame, boutique: Frame) -> list[Record]:
    """Real signatures beside simulated ones; kinds that nobody recorded alone."""
    records = []
    roots = ["ts-contacts-service", "ts-verification-code-service", "ts-food-service", "ts-preserve-service"]
    real = {
        ("cpu_contention", "Train Ticket"): signature(ticket, ["cpu_contention"])["cpu_contention"],
        ("cpu_contention", "Online Boutique"): signature(boutique, ["cpu_contention"])["cpu_contention"],
        ("network_delay", "Online Boutique"): signature(boutique, ["network_delay"])["network_delay"],
    }
    for (kind, system), told in real.items():
        records.append({"kind": "fault", "fault_type": kind, "of": system, **summary(told)})
    for kind in simulator.FAULTS:
        where = roots if kind == "cpu_contention" else TRAINTICKET.roots.get(kind, ("ts-gateway-service",))
        told = simulated_signature(kind, where)
        records.append({"kind": "fault", "fault_type": kind, "of": "simulated", **summary(told)})
    return records


def visible(recordings: int = 8) -> list[Record]:
    """Share of the drawn faults that a two-sample test between the fault's rows and those of the same
    recording without faults tells, at its best KPI (chance of a false alarm per fault below 0.1 %)."""
    counts: dict[str, list[bool]] = {}
    for seed in range(recordings):
        usual = simulator.SYSTEMS["trainticket"]
        broken = simulator.simulate(seed, usual.rows, usual.step_s, system=TRAINTICKET)
        whole = simulator.simulate(seed, usual.rows, usual.step_s, (), system=TRAINTICKET)
        assert broken.labels is not None
        for number in sorted(set(broken.labels.fault_id.tolist()) - {-1}):
            rows = np.flatnonzero(broken.labels.fault_id == number)
            a, b = broken.values[rows], whole.values[rows]
            told = False
            for k in range(a.shape[1]):
                # Missing counts as a value of its own, below all others.
                x, y = np.nan_to_num(a[:, k], nan=-1.0), np.nan_to_num(b[:, k], nan=-1.0)
                n = len(x) * len(y) / (len(x) + len(y))
                # Kolmogorov's bound; 88 KPIs are tried.
                told |= 2 * np.exp(-2 * n * ks(x, y) ** 2) < 0.001 / 88
            counts.setdefault(str(broken.labels.fault_type[rows[0]]), []).append(bool(told))
    return [
        {"kind": "visible", "fault_type": kind, "planted": len(told), "told": sum(told)}
        for kind, told in counts.items()
    ]


# --------------------------------------------------------------------------------------- page and figure


def read() -> list[Record]:
    """All records; none before the first run."""
    return [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()] if RESULTS.exists() else []


def keep(records: list[Record]) -> None:
    """Replace what was measured before of the same things."""
    fresh = {r["kind"] for r in records}
    lines = [r for r in read() if r["kind"] not in fresh] + records
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(r) + "\n" for r in lines), encoding="utf-8")


def short(value: float, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def tables(records: list[Record]) -> dict[str, str]:
    """The page's tables by name."""
    quiet_ = [r for r in records if r["kind"] == "quiet"]
    lines = table(
        ["KPI class", "KS, standardised: sim / real halves", "KS, raw", "CV: real / sim", "lag-1", "missing",
         "distinct values", "commonest value", "correlation"],
        (
            [
                f"{r['class']} ({r['kpis']})",
                *(
                    f"{short(np.median(r[k]['sim']))} / {short(r[k]['real_halves'])}"
                    for k in ("ks_standardised", "ks_raw")
                ),
                *(
                    f"{short(r[k]['real'])} / {short(np.median(r[k]['sim']))}"
                    for k in (*FIGURES, "correlation")
                ),
            ]
            for r in quiet_
        ),
    )  # fmt: skip
    found = {"quiet": "\n".join(lines)}
    rows = []
    order = ["Train Ticket", "Online Boutique", "simulated"]
    told = [r for r in records if r["kind"] == "fault"]
    for kind in dict.fromkeys(r["fault_type"] for r in told):
        for r in sorted((r for r in told if r["fault_type"] == kind), key=lambda r: order.index(r["of"])):
            rows.append(
                [
                    f"`{kind}`",
                    f"{r['of']} ({r['injections']})",
                    f"{short(r['root_cpu_before_pct'], 1)} → {short(r['root_cpu_during_pct'], 1)}",
                    short(r["root_memory_added_mi"], 0),
                    f"× {short(r['root_workload_ratio'])}",
                    f"× {short(r['root_p90_ratio'], 1)}",
                    f"× {short(r['front_p50_ratio'])}",
                    f"× {short(r['front_p90_ratio'])}",
                    f"× {short(r['front_p99_ratio'])}",
                ]
            )
    found["faults"] = "\n".join(
        table(
            ["fault", "of (injections)", "root CPU, %", "root memory, + MiB", "root workload", "root p90",
             "front p50", "front p90", "front p99"],
            rows,
        )
    )  # fmt: skip
    seen = sorted((r for r in records if r["kind"] == "visible"), key=lambda r: str(r["fault_type"]))
    rows = [[f"`{r['fault_type']}`", f"{r['told']} / {r['planted']}"] for r in seen]
    found["visible"] = "\n".join(table(["fault", "told / planted"], rows))
    found["stream"] = "\n".join(cost())
    return found


def cost() -> list[str]:
    """What recordings cost, from the records of simulator_cost.py."""
    rows = [
        [
            "`foreshock simulate`, CSV too" if r["is_default"] else "`--rows`, `--no-csv`",
            f"{r['rows']:,}",
            f"{r['step_s']:g} s",
            f"{r['faults']:,} of {r['fault_types']} kinds",
            f"{r['cpu_s']:.1f} s" if r["cpu_s"] < 60 else f"{r['cpu_s'] / 60:.1f} min",
            f"{r['wall_s']:.1f} s" if r["wall_s"] < 60 else f"{r['wall_s'] / 60:.1f} min",
            f"{r['load'][0]:g} to {r['load'][1]:g}",
            f"{r['peak_bytes'] / 2**20:.0f} MiB",
            f"{r['parquet_bytes'] / 1e6:,.0f} MB",
        ]
        for r in tables_.read("simulator_cost.jsonl")
    ]
    header = [
        "command",
        "rows",
        "step",
        "faults",
        "processor time",
        "wall time",
        "load",
        "peak memory",
        "Parquet",
    ]
    return table(header, rows)


def page(text: str, records: list[Record]) -> str:
    """The page with its tables written anew."""
    return tables_.filled(text, {name: [*body.splitlines(), ""] for name, body in tables(records).items()})


def picture(real: Frame) -> None:
    """Three hours of one service, real and simulated, with a CPU contention; distributions beside it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    root = "ts-contacts-service"
    assert real.labels is not None
    first = int(np.flatnonzero((real.labels.root_cause == root) & real.labels.metric_visible)[0])
    faults_ = (Fault("cpu_contention", root, 7200.0 + 100 * 60.0, 180.0, onset_s=60.0),)
    sim = simulator.simulate(1, 340, 60.0, faults_, deploys=(), system=TRAINTICKET, regimes=(), steady=True)
    quiet_sim = simulator.simulate(2, 340, 60.0, (), deploys=(), system=TRAINTICKET, regimes=(), steady=True)
    rows = quiet_rows(real)
    names = ("cpu_pct", "mem_mi", "workload_ops", "server_lat_p90_s")
    units = ("CPU, %", "memory, MiB", "workload, 1/s", "server p90, s")
    figure, axes = plt.subplots(5, 3, figsize=(12, 11), gridspec_kw={"width_ratios": [3, 3, 2]})
    shown = [(f"{root}__{m}", u) for m, u in zip(names, units, strict=True)]
    shown.append(("frontdoor__lat_p90_s", "front door p90, s"))
    for line, (name, unit) in zip(axes, shown, strict=True):
        a = real.values[first - 100 : first + 60, real.names.index(name)]
        b = sim.values[120:280, sim.names.index(name)]
        for axis, x in ((line[0], a), (line[1], b)):
            axis.plot(x, ".-", lw=0.7, ms=2.5, color="#1f5f8b")
            axis.axvspan(100, 103, color="#c0392b", alpha=0.25, lw=0)
            if "lat" in name or "cpu" in name:
                axis.set_yscale("log")
        low = min(line[0].get_ylim()[0], line[1].get_ylim()[0])
        high = max(line[0].get_ylim()[1], line[1].get_ylim()[1])
        for axis in line[:2]:
            axis.set_ylim(low, high)
        line[0].set_ylabel(unit)
        ending = name.split("__")[1]
        ending = "lat_p" if name.startswith("front") else ending
        for values, frame, label, colour in (
            (real.values[rows], real, "real", "#222222"),
            (quiet_sim.values[:], quiet_sim, "simulated", "#1f5f8b"),
        ):
            x = np.concatenate([standard(values[:, k]) for k in columns(frame.names, ending)])
            x = np.sort(x[np.isfinite(x)])
            line[2].plot(x, np.arange(len(x)) / len(x), label=label, color=colour, lw=1.2)
        line[2].set_xlim(-2.5, 4)
    axes[0][0].set_title(f"real: {root}, a contention injected")
    axes[0][1].set_title("simulated: the same")
    axes[0][2].set_title("whole class, quiet, standardised")
    axes[0][2].legend(frameon=False)
    for axis in axes[-1][:2]:
        axis.set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=80)


def commit() -> str:
    return str((git_commit(HERE) or {"commit": "unknown"})["commit"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--page", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*(empty slice|All-NaN|Degrees of freedom).*")
    made = {"commit": commit(), "version": foreshock.__version__}
    if args.data:
        ticket = foreshock.read(str(args.data / TICKET))
        boutique = foreshock.read(str(args.data / BOUTIQUE))
        keep([r | made for r in (*quiet(ticket), *faults(ticket, boutique), *visible())])
        picture(ticket)
    if PAGE.exists():
        PAGE.write_text(page(PAGE.read_text("utf-8"), read()), encoding="utf-8")


if __name__ == "__main__":
    main()
