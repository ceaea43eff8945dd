"""Writes the blocks of docs/methodology_v2.md from benchmarks/results/. Run by `make docs`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from records import Record, read
from tables import filled, table

from foreshock.evaluate import FLOOR, audit_table, grouped_interval, paired_rows
from foreshock.evaluate.tables import Paired, by_series, latest, threshold_of

PAGE = Path(__file__).parent.parent / "docs" / "methodology_v2.md"
OURS, ALONE, UNTRAINED = "foreshock", "foreshock, evidence alone", "untrained"
LSTM, FIRST_PHASE_S = "lstm_autoencoder", 25.4
MADE_UP = ("simulated", "TODS")  # by our simulator, and by somebody's generator


def page() -> str:
    """The page's words as they stand, its tables from the records."""
    records = read("evaluate.jsonl")
    found = latest(records)
    done = [r for r in found if r["status"] == "done"]
    return filled(
        PAGE.read_text("utf-8"),
        {
            "data": data(done),
            "ablation": ablation(),
            "calibration": calibration(done),
            "agreement": agreement(),
            "leaderboard": leaderboard(done),
            "paired": paired(done),
            "families": families(done),
            "audit": audit_table(r for r in read("audit.jsonl") if r["question"] == "split"),
            "cost": cost(records, done),
        },
    )


def data(done: Sequence[Record]) -> list[str]:
    """What was judged."""
    rows = []
    for name in dict.fromkeys(r["data"] for r in done):
        parts = {r["series"]: r for r in done if r["data"] == name}.values()
        judged = sum(p["split"]["judged_rows"] for p in parts)
        rows.append(
            [
                name,
                len(parts),
                spread(p["kpis"] for p in parts),
                spread(p["step_s"] for p in parts),
                spread(p["split"]["train_rows"] for p in parts),
                spread(p["split"]["validation_rows"] for p in parts),
                spread(p["split"]["gap_rows"] for p in parts),
                f"{judged:,}",
                f"{sum(p['split']['positive_rows'] for p in parts) / judged:.1%}",
                sum(p["split"]["faults"] for p in parts),
            ]
        )
    head = ["data", "series", "KPIs", "step, s", "training rows", "validation rows", "gap", "judged rows"]
    return table([*head, "faulty", "faults"], rows)


def spread(values: Iterable[float]) -> str:
    """The least and the greatest, once where they are equal."""
    found = sorted(set(values))
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g}"


def overall(done: Sequence[Record], metric: str) -> dict[str, tuple[str, float]]:
    """By detector the mean of the data sets' means with its interval, and the mean as a number."""
    figures = by_series(done, metric)
    most = {place for one in figures.values() for place in one}
    found = {}
    for detector, one in figures.items():
        sets = dict.fromkeys(name for name, _ in one)
        mean = grouped_interval([np.array([v for (n, _), v in one.items() if n == name]) for name in sets])
        text = f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
        found[detector] = (text if one.keys() == most else f"({text})", mean.mean)
    return found


def leaderboard(done: Sequence[Record]) -> list[str]:
    """Three ranking figures over all families."""
    metrics = ("vus_pr", "average_precision", "roc_auc")
    found = [overall(done, metric) for metric in metrics]
    order = sorted(found[0], key=lambda d: (not found[0][d][0].startswith("("), found[0][d][1]), reverse=True)
    rows = [[title(d, done), *(f.get(d, ("–", 0))[0] for f in found)] for d in order]
    told = "Mean of the families' means with its interval; in brackets where some series could not be scored."
    return [told, "", *table(["detector", "VUS-PR", "average precision", "AUC"], rows)]


def title(detector: str, done: Iterable[Record]) -> str:
    """The floor in italics, who learned from labels with a star."""
    is_supervised = next(r for r in done if r["detector"] == detector).get("supervised")
    return (f"*{detector}*" if detector in FLOOR else detector) + (" \\*" if is_supervised else "")


def paired(done: Sequence[Record]) -> list[str]:
    """Ours against each rival: over all families, and over those that somebody recorded."""
    rows = [r for r in paired_rows(done, "vus_pr", OURS) if r.data == "all"]
    rows.sort(key=lambda r: r.difference.mean)
    recorded = [r for r in done if r["data"] not in MADE_UP]
    alone = {r.rival: r for r in paired_rows(recorded, "vus_pr", OURS) if r.data == "all"}
    head = ["against", "series", "VUS-PR, difference", "better / worse", "effect", "p (Holm)"]
    head += ["recorded families only", "p (Holm) there"]
    cells = []
    for r in rows:
        cells.append(
            [
                title(r.rival, done), r.difference.n, width(r), f"{r.better} / {r.worse}",
                f"{r.test.effect:+.2f}", f"{r.p_holm:.2g}",
                *((width(one), f"{one.p_holm:.2g}") if (one := alone.get(r.rival)) else ("–", "–")),
            ]
        )  # fmt: skip
    return table(head, cells)


def width(r: Paired) -> str:
    """A difference with its interval."""
    return f"{r.difference.mean:+.3f} [{r.difference.low:+.3f}, {r.difference.high:+.3f}]"


def families(done: Sequence[Record]) -> list[str]:
    """Ours beside the best rival of each family, random weights and the floor."""
    supervised = {r["detector"] for r in done if r.get("supervised")}
    rows = []
    whole = [r for r in paired_rows(done, "vus_pr", OURS) if r.rival not in supervised]
    for name in dict.fromkeys(r.data for r in whole):
        here = [r for r in whole if r.data == name]
        most = max(r.difference.n for r in here)
        rivals = [r for r in here if r.rival != ALONE]
        best = max((r for r in rivals if r.difference.n == most), key=lambda r: r.theirs)
        beside = {r.rival: r.theirs for r in here if r.difference.n == most}
        behind = sum(r.difference.mean < 0 for r in rivals)
        d = best.difference
        width = f" [{d.low:+.3f}, {d.high:+.3f}]" if d.n > 1 else ""
        rows.append(
            [
                "all families" if name == "all" else name, d.n, f"{best.ours:.3f}", best.rival,
                f"{best.theirs:.3f}", f"{d.mean:+.3f}{width}", f"{behind} of {len(rivals)}",
                *(f"{beside[name]:.3f}" if name in beside else "–" for name in (ALONE, UNTRAINED, *FLOOR)),
            ]
        )  # fmt: skip
    head = ["family", "series", OURS, "best rival", "its VUS-PR", "difference", "rivals ahead"]
    return table([*head, ALONE, UNTRAINED, *(f"*{name}*" for name in FLOOR)], rows)


def calibration(done: Sequence[Record]) -> list[str]:
    """Asked and got, over all series."""
    rows = []
    for detector in dict.fromkeys(r["detector"] for r in done):
        here = [r for r in done if r["detector"] == detector]
        cells: list[object] = [title(detector, done), len({(r["data"], r["series"]) for r in here})]
        for fixed in (True, False):
            told = [threshold_of(r, "fixed" if fixed else "past") for r in here]
            days = sum(t["hours"] for t in told) / 24
            found = [f for t in told for f in t["found"]]
            delays = [d / r["step_s"] for r, t in zip(here, told, strict=True) for d in t["delays_s"]]
            cells += [
                f"{sum(t['false_alarms'] for t in told) / days:.2f}",
                f"{np.mean(found):.2f}" if found else "–",
                f"{np.median(delays):.0f}" if delays else "–",
            ]
        rows.append(cells)
    asked = spread(r["thresholds"]["past"]["false_alarms_asked_per_day"] for r in done)
    head = ["false a day", "faults found", "delay, rows"]
    head = ["detector", "series", *(f"{w}, fixed" for w in head), *(f"{w}, as live" for w in head)]
    told = f"All series together, seeds and all; asked for: {asked} a day. Delay: median of those found."
    return [told, "", *table(head, rows)]


def agreement() -> list[str]:
    rows = [
        [
            f"`{r['metric']}`",
            f"{r['rows']:,}",
            r["window_rows"],
            f"{r['difference']:.0e}",
            f"{r['aeon']['cpu_s']:.2f}",
            f"{r['foreshock']['cpu_s']:.3f}",
            f"1/{r['aeon']['cpu_s'] / r['foreshock']['cpu_s']:.0f}",
            f"1/{r['aeon']['wall_s'] / r['foreshock']['wall_s']:.0f}",
        ]
        for r in read("metrics_speed.jsonl")
    ]
    if not rows:
        return ["Not measured yet.", ""]
    head = ["metric", "points", "widest buffer", "difference to aeon", "aeon, processor s", "ours", "share"]
    return table([*head, "share, by the clock"], rows)


def ablation() -> list[str]:
    """Variants of the default detector, over the series of their own run."""
    done = [r for r in latest(read("ablation.jsonl")) if r["status"] == "done"]
    if not done:
        return ["Not measured yet.", ""]
    pairs = {r.rival: r for r in paired_rows(done, "vus_pr", OURS) if r.data == "all"}
    found, precision = overall(done, "vus_pr"), overall(done, "average_precision")
    rows = []
    for detector in sorted(found, key=lambda d: found[d][1], reverse=True):
        r = pairs.get(detector)
        change = (
            ""
            if r is None
            else f"{-r.difference.mean:+.3f} [{-r.difference.high:+.3f}, {-r.difference.low:+.3f}]"
        )
        cells = [found[detector][0], change, "" if r is None else f"{r.worse} / {r.better}"]
        rows.append([title(detector, done), *cells, precision[detector][0]])
    series = {(r["data"], r["series"]) for r in done}
    longest = max(r["rows"] for r in done)
    told = (
        f"{len(series)} series of {len({d for d, _ in series})} families, at most {longest:,} rows of each."
    )
    return [told, "", *table(["variant", "VUS-PR", "less the default", "better / worse", "AP"], rows)]


def cost(records: Sequence[Record], done: Sequence[Record]) -> list[str]:
    """Of the whole protocol: the run's own line where one did everything, and the sum of its records."""
    spent = sum(r["cost"]["fit_cpu_s"] + r["cost"]["score_cpu_s"] for r in done)
    peak = max(r["cost"]["peak_bytes"] for r in done)
    lines = [
        f"Fitting and scoring of all {len(done):,} records: {spent / 60:.1f} minutes of processor time on "
        f"one core; the highest peak of the process {peak / 2**20:,.0f} MiB.",
        "",
    ]
    whole = [r for r in records if r.get("kind") == "run" and r["records"] == r["of"]]
    if whole:
        r = whole[-1]
        lines[1:1] = [
            f"The whole run, reading data and computing metrics included, without a break: "
            f"{r['cpu_s'] / 60:.1f} minutes of processor time, {r['wall_s'] / 60:.1f} by the clock beside "
            f"other work, peak {r['peak_bytes'] / 2**20:,.0f} MiB.",
        ]
    lessons = [
        r for r in done if r["name"] == LSTM and r["cost"]["fit_cpu_s"] > 0 and r["split"]["train_rows"]
    ]
    if lessons:
        fit = [r["cost"]["fit_wall_s"] for r in lessons]
        row_ms = [1e3 * r["cost"]["score_wall_s"] / r["rows"] for r in lessons]
        lines[-1:-1] = [
            f"The LSTM autoencoder, whose {FIRST_PHASE_S} s of training the project's first phase called "
            f"too slow, learned in {np.median(fit):.1f} s a series (median of {len(fit)}, at most "
            f"{max(fit):.1f}) and scored a row in {np.median(row_ms):.3f} ms (at most {max(row_ms):.3f}), "
            "beside other work.",
        ]
    return lines


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
