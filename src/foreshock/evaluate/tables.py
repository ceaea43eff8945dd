"""What the records say together, as Markdown: leaderboard, events, paired rows, cost, refusals.

Seeds of one detector are averaged first, so that a series counts once. † marks data that a model's
pretraining held; * a detector that learned from labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreshock.evaluate.protocol import FLOOR
from foreshock.evaluate.statistics import Interval, SignedRank, grouped_interval, holm, interval, wilcoxon

Record = dict[str, Any]
SERIES_KIND = "series"  # single series; everything else are recordings of many KPIs
DASH = "–"


@dataclass(frozen=True, slots=True)
class Paired:
    """Ours against one rival on one data set, or on all of them."""

    data: str
    rival: str
    ours: float  # mean over the series that both have
    theirs: float
    difference: Interval  # ours less theirs
    test: SignedRank
    p_holm: float  # among all rivals on this data set
    better: int  # series on which ours is higher
    worse: int


def report(records: Iterable[Record], ours: str = "foreshock", metric: str = "vus_pr") -> list[str]:
    """Every table, as lines of Markdown; nothing where there are no records."""
    found = latest(records)
    done = [r for r in found if r["status"] == "done"]
    if not done:
        return []
    lines = [*_about(found), *leaderboard(done, metric)]
    for other, words in (
        ("vus_pr_tsb_ad", "VUS-PR, TSB-AD's variant"),
        ("average_precision", "AP by rows"),
        ("vus_roc", "VUS-ROC, original"),
    ):
        if other != metric:
            lines += leaderboard(done, other, words)
    lines += paired_table(done, metric, ours)
    for title, kept in (
        ("single series", [r for r in done if r["data_kind"] == SERIES_KIND]),
        ("recordings of many KPIs", [r for r in done if r["data_kind"] != SERIES_KIND]),
    ):
        lines += event_table(kept, title)
    return [*lines, *cost_table(done), *refusals(found)]


def latest(records: Iterable[Record]) -> list[Record]:
    """Of several records of one detector, part and seed the last: what was measured anew replaces the old."""
    found: dict[tuple[Any, ...], Record] = {}
    for r in records:
        if r.get("kind") == "evaluation":
            place = (r["data"], r["series"], r["detector"], r["seed"])
            found.pop(place, None)
            found[place] = r
    return list(found.values())


def _about(records: Sequence[Record]) -> list[str]:
    commits = sorted({str(r.get("commit") or "unknown")[:12] for r in records})
    held = sorted({(r["detector"], r["data"], r["contamination"]) for r in records if r.get("contamination")})
    series = {(r["data"], r["series"]) for r in records}
    lines = [
        f"{len(records):,} records, {len(series)} series and recordings, commit {', '.join(commits)}.",
        "Rows in *italics* are the floor: a random score, a rolling variance, a squared difference.",
        "\\* learned from labels of the training part. † the model's pretraining held these data or their",
        "kin. Intervals: 95 % bootstrap over series (over events for recall). A number in brackets says on",
        "how many series a detector has a figure where others have more; a mean in brackets lacks some.",
        "",
    ]
    if held:
        lines += [f"- † {detector} on {data}: {words}." for detector, data, words in held] + [""]
    return lines


# ------------------------------------------------------------------------------------------- by series


def by_series(records: Iterable[Record], metric: str) -> dict[str, dict[tuple[str, str], float]]:
    """detector → (data set, series) → the metric, the mean over seeds; undefined figures are left out.

    A series that was cut elsewhere is another series: its name goes with the hash of what was judged.
    """
    gathered: dict[str, dict[tuple[str, str], list[float]]] = {}
    for r in records:
        value = r["metrics"].get(metric)
        if value is not None:
            series = f"{r['series']} {r.get('data_sha256', '')[:12]}"
            gathered.setdefault(r["detector"], {}).setdefault((r["data"], series), []).append(value)
    return {
        detector: {place: float(np.mean(values)) for place, values in found.items()}
        for detector, found in gathered.items()
    }


def leaderboard(records: Sequence[Record], metric: str, words: str = "VUS-PR, original") -> list[str]:
    """Means by data set, and the mean of those means; the best first."""
    figures = by_series(records, metric)
    sets = list(dict.fromkeys(r["data"] for r in records))
    most = {
        data: max((sum(place[0] == data for place in one) for one in figures.values()), default=0)
        for data in sets
    }
    sets = [data for data in sets if most[data]]
    if not sets:
        return []
    marks = _marks(records)
    rows = []
    for detector, found in figures.items():
        groups = [[v for (data, _), v in found.items() if data == one] for one in sets]
        is_whole = all(len(group) == most[data] for group, data in zip(groups, sets, strict=True))
        overall = grouped_interval([np.asarray(group) for group in groups])
        cells = []
        for group, data in zip(groups, sets, strict=True):
            fewer = f" ({len(group)})" if 0 < len(group) < most[data] else ""
            held = "†" if marks.get((detector, data)) else ""
            cells.append(f"{np.mean(group):.3f}{held}{fewer}" if group else DASH)
        rows.append((is_whole, overall.mean, [_title(detector, records), *cells, _shown(overall, is_whole)]))
    rows.sort(key=lambda row: (row[0], row[1]), reverse=True)
    head = ["detector", *(f"{data} ({most[data]})" for data in sets), "mean of these"]
    return [f"### {words}", "", *_table(head, [row for _, _, row in rows])]


def _marks(records: Iterable[Record]) -> dict[tuple[str, str], str]:
    return {(r["detector"], r["data"]): r.get("contamination", "") for r in records}


def _title(detector: str, records: Iterable[Record]) -> str:
    one = next(r for r in records if r["detector"] == detector)
    title = f"*{detector}*" if detector in FLOOR else detector
    return f"{title} \\*" if one.get("supervised") else title


def _shown(found: Interval, is_whole: bool = True) -> str:
    if not found.n:
        return DASH
    text = f"{found.mean:.3f}"
    if found.has_width:
        text += f" [{found.low:.3f}, {found.high:.3f}]"
    return text if is_whole else f"({text})"


# --------------------------------------------------------------------------------------------- paired


def paired_rows(records: Sequence[Record], metric: str, ours: str) -> list[Paired]:
    """Ours against every other detector, on each data set and on all (`data` is "all").

    Over all, the test takes every series once, and the difference is the mean of the data sets' means, so
    that a large family does not drown a small one.
    """
    figures = by_series(records, metric)
    if ours not in figures:
        return []
    mine = figures[ours]
    sets = list(dict.fromkeys(r["data"] for r in records))
    rows: list[Paired] = []
    for data in [*sets, "all"]:
        here = []
        for rival, found in figures.items():
            shared = [place for place in mine if place in found and data in (place[0], "all")]
            if rival == ours or not shared:
                continue
            difference = np.array([round(mine[place] - found[place], 12) for place in shared])
            groups = [
                difference[[i for i, place in enumerate(shared) if place[0] == one]]
                for one in dict.fromkeys(place[0] for place in shared)
            ]
            mean = grouped_interval(groups)
            ours_mean, theirs = (
                float(np.mean([np.mean([side[p] for p in shared if p[0] == one]) for one in
                               dict.fromkeys(p[0] for p in shared)]))
                for side in (mine, found)
            )  # fmt: skip
            here.append(
                Paired(
                    data, rival, ours_mean, theirs, mean, wilcoxon(difference), math.nan,
                    int((difference > 0).sum()), int((difference < 0).sum()),
                )
            )  # fmt: skip
        adjusted = holm([row.test.p for row in here])
        rows += [
            Paired(r.data, r.rival, r.ours, r.theirs, r.difference, r.test, p, r.better, r.worse)
            for r, p in zip(here, adjusted, strict=True)
        ]
    return rows


def paired_table(records: Sequence[Record], metric: str, ours: str) -> list[str]:
    """Two tables: over all series, and by data set."""
    rows = paired_rows(records, metric, ours)
    if not rows:
        return []
    lines = [f"### {ours} against each, paired ({metric})", ""]
    lines += [
        "Difference: ours less theirs, mean of the data sets' means. Wilcoxon's signed-rank test over",
        "series, two-sided, p after Holm among these rows; effect: rank-biserial correlation, -1..1.",
        "",
    ]
    whole = sorted((r for r in rows if r.data == "all"), key=lambda r: r.difference.mean)
    head = ["against", "series", "ours", "theirs", "difference", "better / worse", "effect", "p", "p (Holm)"]
    lines += _table(head, [_paired_cells(r, records) for r in whole])
    sets = [data for data in dict.fromkeys(r.data for r in rows) if data != "all"]
    places = {(r.rival, r.data): r for r in rows}
    cells = [
        [_title(r.rival, records), *(_difference(places.get((r.rival, data))) for data in sets)]
        for r in whole
    ]
    lines += ["Difference by data set; ! where the interval leaves 0 out.", ""]
    return lines + _table(["against", *sets], cells)


def _paired_cells(r: Paired, records: Sequence[Record]) -> list[str]:
    d = r.difference
    return [
        _title(r.rival, records), str(d.n), f"{r.ours:.3f}", f"{r.theirs:.3f}",
        f"{d.mean:+.3f}" + (f" [{d.low:+.3f}, {d.high:+.3f}]" if d.has_width else ""),
        f"{r.better} / {r.worse}",
        f"{r.test.effect:+.2f}", _p(r.test.p), _p(r.p_holm),
    ]  # fmt: skip


def _difference(r: Paired | None) -> str:
    if r is None:
        return DASH
    sure = " !" if r.difference.leaves_0_out else ""
    return f"{r.difference.mean:+.3f}{sure}"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


# --------------------------------------------------------------------------------------------- events


def event_table(records: Sequence[Record], title: str) -> list[str]:
    """Events at both thresholds, counted over all series of a group; the mean over seeds."""
    if not records:
        return []
    lines = [f"### Events at calibrated thresholds: {title}", ""]
    lines += [
        "Faults and alarms of all series together; an event counts once, an alarm may begin up to two rows",
        f"after a fault. Threshold at {_asked(records)} from unlabelled scores: of the validation part (of",
        "the whole recording where nothing is held back) and, as live, of the rows before each.",
        "",
    ]
    head = ["detector", "faults", "found", "false a day", "delay, median s", "event F1"]
    head += [f"{word}, as live" for word in head[2:]]
    rows = []
    for detector in dict.fromkeys(r["detector"] for r in records):
        here = [r for r in records if r["detector"] == detector]
        cells = [_title(detector, records)]
        for which, name in enumerate(("fixed", "past")):
            counted = [threshold_of(r, name) for r in here]
            found = _found(here, counted)
            hours = sum(c["hours"] for c in counted)
            false = sum(c["false_alarms"] for c in counted)
            alarms = sum(c["alarms"] for c in counted)
            delays = [d for c in counted for d in c["delays_s"]]
            if which == 0:
                cells.append(str(len(found)))
            recall = interval(found)
            share = f"{recall.mean:.2f} [{recall.low:.2f}, {recall.high:.2f}]" if len(found) else DASH
            cells += [
                share,
                f"{false / hours * 24:.2f}" if hours else DASH,
                f"{np.median(delays):.0f}" if delays else DASH,
                _event_f1(found, alarms, false),
            ]
        rows.append(cells)
    return [*lines, *_table(head, rows)]


def _asked(records: Iterable[Record]) -> str:
    asked = sorted({r["thresholds"]["past"]["false_alarms_asked_per_day"] for r in records})
    many = "" if asked == [1] else "s"
    return " or ".join(f"{n:g}" for n in asked) + f" false alarm{many} a day"


def _found(records: Sequence[Record], counted: Sequence[Record]) -> np.ndarray:
    """For each fault once: the share of seeds that found it."""
    by_series: dict[tuple[str, ...], list[list[int]]] = {}
    for r, c in zip(records, counted, strict=True):
        place = (r["data"], r["series"], r.get("data_sha256", ""))
        by_series.setdefault(place, []).append(c["found"])
    shares = [np.mean(np.asarray(seeds, float), axis=0) for seeds in by_series.values()]
    return np.concatenate(shares) if shares else np.zeros(0)


def threshold_of(record: Record, name: str) -> Record:
    """The fixed threshold's figures under whichever name they stand, or those of the past."""
    own = record["thresholds"]
    found: Record = own["past"] if name == "past" else own.get("validation", own.get("recording"))
    return found


def _event_f1(found: np.ndarray, alarms: int, false: int) -> str:
    if not len(found):
        return DASH
    if not found.any() or alarms == false:
        return "0.00"
    precision, recall = 1 - false / alarms, float(found.mean())
    return f"{2 * precision * recall / (precision + recall):.2f}"


# --------------------------------------------------------------------------------------- cost, refusals


def cost_table(records: Sequence[Record]) -> list[str]:
    """Processor time and memory, over all parts."""
    rows = []
    for detector in dict.fromkeys(r["detector"] for r in records):
        here = [r for r in records if r["detector"] == detector]
        cost = [r["cost"] for r in here]
        cells = sum(r["rows"] * r["kpis"] for r in here)
        rows.append(
            [
                _title(detector, records),
                f"{sum(c['fit_cpu_s'] for c in cost):.1f}",
                f"{sum(c['score_cpu_s'] for c in cost):.1f}",
                f"{1e6 * sum(c['score_cpu_s'] for c in cost) / cells:.2f}",
                f"{sum(c['fit_wall_s'] + c['score_wall_s'] for c in cost):.1f}",
                f"{max(c['peak_bytes'] for c in cost) / 2**20:.0f}",
            ]
        )
    head = ["detector", "fit, cpu s", "score, cpu s", "µs a value", "wall s", "peak MiB"]
    return ["### Cost", "", "Of all parts and seeds together; peak of the process.", "", *_table(head, rows)]


def refusals(records: Iterable[Record]) -> list[str]:
    """What could not be scored, and why."""
    refused = [r for r in records if r["status"] == "refused"]
    if not refused:
        return []
    groups: dict[tuple[str, str], list[Record]] = {}
    for r in refused:
        groups.setdefault((r["detector"], r["data"]), []).append(r)
    lines = ["### Not scored", ""]
    for (detector, data), group in groups.items():
        series = sorted({r["series"] for r in group})
        lines.append(f"- {detector} on {data}, {len(series)} series ({series[0]}): {group[0]['reason']}")
    return [*lines, ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]
