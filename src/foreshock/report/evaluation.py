"""One HTML page about an evaluation: who is best and how sure that is, where, how late, at what cost.

The page is a single file that loads nothing, runs no script, and follows the reader's theme. Its pictures are
shapes drawn in place; every word stands beside them as text, so that they keep their size on a phone.

Not here: figures (metrics), what records say together (evaluate.tables), the shapes (report.drawings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreshock import __version__
from foreshock.errors import InputError
from foreshock.evaluate import FLOOR, grouped_interval, interval, paired_rows
from foreshock.evaluate.tables import Record, by_series, latest, threshold_of
from foreshock.report.drawings import Curve, curves, delay_curve, mean_precision, timeline
from foreshock.report.page import render

METRIC = "vus_pr"
SHOWN = 4  # detectors in a picture: ours, the best rivals, the floor's random score
TIMELINES = 3  # of each family
CURVE_COLORS = ("value", "alarm", "known", "expected")  # by place among those shown


@dataclass(frozen=True, slots=True)
class Source:
    """What a page is made from."""

    done: list[Record]
    refused: list[Record]
    sketches: Mapping[str, Mapping[str, Any]]  # by the record's key
    ours: str

    @property
    def detectors(self) -> list[str]:
        return list(dict.fromkeys(r["detector"] for r in self.done))

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(r["data"] for r in self.done))

    def of(self, detector: str) -> list[Record]:
        return [r for r in self.done if r["detector"] == detector]


def html(
    records: Sequence[Record],
    sketches: Mapping[str, Mapping[str, Any]],
    ours: str = "foreshock",
    title: str = "evaluation",
) -> str:
    """The page as text.

    Args:
        records: lines of `foreshock evaluate`; of what was measured twice the last one counts.
        sketches: by key; a page without them has no curves and no timelines, and says so.

    Raises:
        InputError: no detector was measured.
    """
    found = latest(records)
    done = [r for r in found if r["status"] == "done"]
    if not done:
        raise InputError("no record tells of a detector that could score; there is nothing to report.")
    refused = [r for r in found if r["status"] == "refused"]
    source = Source(done, refused, sketches, ours)
    board = leaderboard(source)
    shown = _shown(source, board)
    told = _told(source, shown)
    return render(
        "evaluation.html.j2",
        ("report.css", "evaluation.css"),
        title=title,
        verdict=_verdict(source, board),
        facts=_facts(source),
        board=board,
        paired=_paired(source),
        families=_families(source, board),
        told=list(told),
        kinds=_kinds(source, told),
        shown=[{"name": name, "color": color} for name, color in shown.items()],
        delays=_delays(source, told),
        precision=_precision(source, shown),
        timelines=_timelines(source),
        is_sketched=any(r["key"] in sketches for r in done),
        cost=_cost(source),
        refused=_refused(source),
        held=_held(source),
        ours=ours,
        asked=_asked(source),
        version=__version__,
    )


# ---------------------------------------------------------------------------------------------- leaderboard


def leaderboard(source: Source) -> list[dict[str, Any]]:
    """A row for each detector, the best mean first; those that lack series stand last."""
    figures, precision = by_series(source.done, METRIC), by_series(source.done, "average_precision")
    every = {place for one in figures.values() for place in one}
    rows = []
    for name in source.detectors:
        one = figures.get(name, {})
        mean = _over_families(one)
        found, false, days = _at_threshold(source.of(name))
        rows.append(
            {
                "name": name,
                "is_ours": name == source.ours,
                "is_floor": name in FLOOR,
                "is_supervised": bool(source.of(name)[0].get("supervised")),
                "is_whole": one.keys() == every,
                "series": len(one),
                "mean": mean.mean,
                "low": mean.low,
                "high": mean.high,
                "precision": _over_families(precision.get(name, {})).mean,
                "found": interval(found),
                "false_a_day": false / days if days else float("nan"),
            }
        )
    rows.sort(key=lambda row: (row["is_whole"], np.nan_to_num(row["mean"], nan=-1.0)), reverse=True)
    return rows


def _over_families(one: Mapping[tuple[str, str], float]) -> Any:
    sets = dict.fromkeys(data for data, _ in one)
    return grouped_interval([np.array([v for (d, _), v in one.items() if d == data]) for data in sets])


def _at_threshold(records: Sequence[Record]) -> tuple[list[float], float, float]:
    """For each fault 1 or 0, false alarms, days."""
    told = [threshold_of(r, "fixed") for r in records]
    found = [float(f) for t in told for f in t["found"]]
    return found, sum(t["false_alarms"] for t in told), sum(t["hours"] for t in told) / 24


def _verdict(source: Source, board: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What the leaderboard says about ours, in one sentence and no more than it shows."""
    rivals = [r for r in board if r["is_whole"] and not r["is_supervised"]]
    names = [r["name"] for r in rivals]
    if source.ours not in names:
        return {"title": f"{board[0]['name']} leads", "text": f"{source.ours} has no figure on all series."}
    place = names.index(source.ours) + 1
    ordinal = "first" if place == 1 else f"number {place}"
    text = "By the mean VUS-PR over the families, among detectors that saw no labels and scored every series."
    behind = [row["family"] for row in _families(source, board) if not row["is_all"] and row["best_is_ahead"]]
    if behind and place == 1:
        text += f" Another one leads on {', '.join(behind)}."
    return {"title": f"{source.ours} is {ordinal} of {len(names)}", "text": text}


def _facts(source: Source) -> list[tuple[str, str]]:
    commits = {str(r.get("commit") or "unknown")[:9] for r in source.done}
    series = {(r["data"], r["series"]) for r in source.done}
    return [
        ("Records", f"{len(source.done):,}"),
        ("Detectors", str(len(source.detectors))),
        ("Families", str(len(source.families))),
        ("Series", str(len(series))),
        ("Faults", f"{sum(len(threshold_of(r, 'fixed')['found']) for r in _one_each(source)):,}"),
        ("Commit", min(commits) if len(commits) == 1 else f"{len(commits)} of them"),
    ]


def _one_each(source: Source) -> list[Record]:
    """One record of each series, whoever made it."""
    return list({(r["data"], r["series"]): r for r in source.done}.values())


def _asked(source: Source) -> str:
    asked = sorted({r["thresholds"]["past"]["false_alarms_asked_per_day"] for r in source.done})
    return " or ".join(f"{n:g}" for n in asked)


# ------------------------------------------------------------------------------------- paired, by family


def _paired(source: Source) -> list[dict[str, Any]]:
    """Ours less each rival, the hardest rival first, with places on an axis around 0."""
    rows = [r for r in paired_rows(source.done, METRIC, source.ours) if r.data == "all"]
    rows.sort(key=lambda r: r.difference.mean)
    supervised = {r["detector"] for r in source.done if r.get("supervised")}
    most = max((max(abs(r.difference.low), abs(r.difference.high)) for r in rows), default=1.0) or 1.0
    return [
        {
            "name": r.rival,
            "is_floor": r.rival in FLOOR,
            "is_supervised": r.rival in supervised,
            "series": r.difference.n,
            "difference": r.difference,
            "has_width": r.difference.has_width,
            "is_sure": r.difference.leaves_0_out,
            "left": 50 + 50 * r.difference.low / most,
            "middle": 50 + 50 * r.difference.mean / most,
            "right": 50 + 50 * r.difference.high / most,
            "better": r.better,
            "worse": r.worse,
            "effect": r.test.effect,
            "p": f"{r.p_holm:.3f}" if r.p_holm >= 0.001 else f"{r.p_holm:.0e}",
        }
        for r in rows
    ]


def _families(source: Source, board: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each family the mean of every detector, and who is best without labels."""
    figures = by_series(source.done, METRIC)
    order = [row["name"] for row in board]
    supervised = {row["name"] for row in board if row["is_supervised"]}
    rows = []
    for family in source.families:
        means = {
            name: float(np.mean(found))
            for name in order
            if (found := [v for (data, _), v in figures.get(name, {}).items() if data == family])
        }
        rivals = {n: v for n, v in means.items() if n not in supervised and n != source.ours}
        if not means:
            continue
        best = max(rivals, key=lambda n: rivals[n]) if rivals else ""
        ours = means.get(source.ours, float("nan"))
        rows.append(
            {
                "family": family,
                "is_all": False,
                "series": len({r["series"] for r in source.done if r["data"] == family}),
                "ours": ours,
                "best": best,
                "best_value": rivals.get(best, float("nan")),
                "best_is_ahead": bool(rivals) and rivals[best] > ours,
                "means": [means.get(name) for name in order],
            }
        )
    return rows


def _shown(source: Source, board: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Who is drawn, and in which colour: ours, the best rivals without labels, the random score."""
    usable = [r["name"] for r in board if r["is_whole"] and not r["is_supervised"] and r["name"] != "random"]
    names = [source.ours] if source.ours in source.detectors else []
    names += [name for name in usable if name != source.ours][: SHOWN - 1 - len(names)]
    names += ["random"] if "random" in source.detectors else []
    return dict(zip(names, CURVE_COLORS, strict=False))


def _told(source: Source, shown: Mapping[str, str]) -> dict[str, str]:
    """Who stands in a table of few: those that are drawn, and the rest of the floor, which has no colour."""
    return {**shown, **{name: "" for name in FLOOR if name in source.detectors and name not in shown}}


def _kinds(source: Source, shown: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each kind of fault: how many, and which share each of those told of found."""
    shares: dict[str, dict[str, list[int]]] = {}
    for name in shown:
        for r in source.of(name):
            for kind, hit in zip(r.get("fault_types") or (), threshold_of(r, "fixed")["found"], strict=False):
                shares.setdefault(kind or "not told", {}).setdefault(name, []).append(hit)
    seeds = {name: len({r["seed"] for r in source.of(name)}) for name in shown}
    return [
        {
            "kind": kind.replace("_", " "),
            "faults": max(len(hits) // seeds[name] for name, hits in by_name.items()),
            "shares": [float(np.mean(by_name[name])) if by_name.get(name) else None for name in shown],
        }
        for kind, by_name in sorted(shares.items())
    ]


# ------------------------------------------------------------------------------------ pictures and the rest


def _delays(source: Source, shown: Mapping[str, str]) -> dict[str, Any] | None:
    """Share of all faults found within so many rows: a row for each of those told of, a curve if drawn."""
    lines = []
    for name, color in shown.items():
        rows, faults = [], 0
        for r in source.of(name):
            told = threshold_of(r, "fixed")
            rows += [d / r["step_s"] for d in told["delays_s"]]
            faults += len(told["found"])
        if faults:
            lines.append((name, color, rows, faults))
    return delay_curve(lines) if lines else None


def _precision(source: Source, shown: Mapping[str, str]) -> list[dict[str, Any]]:
    """A small picture for each family: mean precision over its series, at each recall."""
    pictures = []
    for family in source.families:
        lines = []
        for name, color in shown.items():
            found = [
                source.sketches[r["key"]].get("precision")
                for r in source.of(name)
                if r["data"] == family and r["key"] in source.sketches
            ]
            known = [f for f in found if f]
            if known:
                lines.append(Curve(name, color, mean_precision(known)))
        if lines:
            pictures.append({"family": family, "series": max(len(lines), 1), "svg": curves(lines, family)})
    return pictures


def _timelines(source: Source) -> list[dict[str, Any]]:
    """Scores of ours in time with labelled and found events, some series of each family."""
    out = []
    for family in source.families:
        rows = []
        for r in source.of(source.ours):
            line = source.sketches.get(r["key"], {}).get("timeline")
            if r["data"] != family or not line or not line["rows"]:
                continue
            told = threshold_of(r, "fixed")
            rows.append(
                {
                    "series": r["series"],
                    "figure": r["metrics"].get(METRIC),
                    "found": f"{sum(told['found'])} of {len(told['found'])}",
                    "false": told["false_alarms"],
                    **timeline(line, f"{family} {r['series']}"),
                }
            )
        if rows:
            places = np.unique(np.linspace(0, len(rows) - 1, min(TIMELINES, len(rows))).round().astype(int))
            out.append({"family": family, "of": len(rows), "rows": [rows[i] for i in places]})
    return out


def _cost(source: Source) -> list[dict[str, Any]]:
    rows = []
    for name in source.detectors:
        here = source.of(name)
        spent = [r["cost"] for r in here]
        values = sum(r["rows"] * r["kpis"] for r in here)
        rows.append(
            {
                "name": name,
                "fit": sum(c["fit_cpu_s"] for c in spent),
                "score": sum(c["score_cpu_s"] for c in spent),
                "each": 1e6 * sum(c["score_cpu_s"] for c in spent) / values,
                "peak": max(c["peak_bytes"] for c in spent) / 2**20,
            }
        )
    most = max(row["fit"] + row["score"] for row in rows) or 1.0
    for row in rows:
        row["fit_percent"] = 100 * row["fit"] / most
        row["score_percent"] = 100 * row["score"] / most
    return sorted(rows, key=lambda row: -(row["fit"] + row["score"]))


def _refused(source: Source) -> list[dict[str, Any]]:
    """For each detector what it could not score, by family, and why."""
    groups: dict[str, dict[str, list[Record]]] = {}
    for r in source.refused:
        groups.setdefault(r["detector"], {}).setdefault(r["data"], []).append(r)
    found = []
    for detector, by_data in groups.items():
        reasons = [
            {"data": data, "series": len({r["series"] for r in here}), "why": here[0]["reason"]}
            for data, here in by_data.items()
        ]
        series = sum(len({r["series"] for r in here}) for here in by_data.values())
        found.append({"detector": detector, "series": series, "reasons": reasons})
    return found


def _held(source: Source) -> list[str]:
    held = {(r["detector"], r["data"], r["contamination"]) for r in source.done if r.get("contamination")}
    return [f"{detector} on {data}: {words}." for detector, data, words in sorted(held)]
