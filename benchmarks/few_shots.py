"""Writes the blocks of docs/few_shots.md and its figure from benchmarks/results/. Run by `make docs`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from records import Record, read
from tables import filled, table

from foreshock.pretrain.simulated import macro_f1

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PICTURE = DOCS / "few_shots.md", DOCS / "img" / "few-shots.png"
SIMULATED = "simulated Train Ticket"
ZERO, PROBE, LORA, WHOLE = (
    f"foreshock, {name}" for name in ("zero-shot", "linear probe", "LoRA", "whole network")
)
SPREAD = ", of 500"  # behind the names of those whose windows were drawn from a longer recording
OURS = (PROBE, LORA, WHOLE, PROBE + SPREAD, LORA + SPREAD)
FEW = 100  # labelled windows that the label efficiency starts from
TOLD_AT = (0, 100, 500)  # labelled windows whose confusions are shown
LEVELS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def page() -> str:
    """The page's words as they stand, its tables from the records."""
    records = measured()
    simulated = [r for r in records if r["recording"] == SIMULATED]
    real = [r for r in records if r["recording"] != SIMULATED]
    servers = [r for r in real if r["recording"].endswith(" servers")]
    recorded = [r for r in real if not r["recording"].endswith(" servers")]
    return filled(
        PAGE.read_text("utf-8"),
        {
            "curves": curves(simulated),
            "efficiency": efficiency(simulated),
            "paired": paired(simulated),
            "kinds": kinds(simulated),
            "named": named(),
            "confusion": confusion(simulated),
            "rejection": rejection(simulated),
            "roots": roots(simulated),
            "recorded": each(recorded),
            "recorded paired": paired(recorded),
            "servers": each(servers),
            "servers paired": paired(servers),
            "cost": cost(),
        },
    )


def measured() -> list[Record]:
    """The records of learning curves that came to an end."""
    return [r for r in read("learning_curves.jsonl") if "skipped" not in r]


def each(records: Sequence[Record]) -> list[str]:
    """Detection, a table for each recording."""
    return [
        line
        for name in dict.fromkeys(r["recording"] for r in records)
        for line in (f"**{name}**", "", *curves([r for r in records if r["recording"] == name]))
    ]


def groups(records: Sequence[Record]) -> dict[tuple[str, int], list[Record]]:
    """Records by detector and shots, shots rising, all seeds together."""
    names = list(dict.fromkeys(r["detector"] for r in records))
    order = sorted(records, key=lambda r: (names.index(r["detector"]), r["shots"], r["seed"]))
    out: dict[tuple[str, int], list[Record]] = {}
    for r in order:
        out.setdefault((r["detector"], r["shots"]), []).append(r)
    return out


def curves(records: Sequence[Record]) -> list[str]:
    """Detection by detector and number of labels."""
    rows = []
    for (detector, shots), group in groups(records).items():
        found = sum(fault["found"] for r in group for fault in r["each"])
        faults = sum(len(r["each"]) for r in group)
        false = sum(r["false_alarms"] for r in group)
        low, high = interval(found, faults, false)
        rows.append(
            [
                detector,
                _shots(group, shots),
                " ".join(str(r["seed"]) for r in group),
                f"{statistics.mean(r['average_precision'] for r in group):.3f}",
                f"{f1(found, faults, false):.3f} ({low:.2f} to {high:.2f})",
                f"{found} of {faults}",
                false,
                f"{statistics.mean(map(best_f1, group)):.3f}",
                f"{statistics.mean(_spent(r) for r in group):.0f}",
            ]
        )
    head = ["detector", "windows", "seeds", "AP", "event F1", "found", "false", "best F1", "processor s"]
    return table(head, rows)


def _shots(group: Sequence[Record], shots: int) -> str:
    """How many were asked for, and how many there were where the recording holds fewer."""
    drawn = min((r["shots_drawn"] for r in group if "shots_drawn" in r), default=shots)
    return str(shots) if drawn == shots else f"{shots} ({drawn} there)"


def _spent(record: Record) -> float:
    """Processor time of learning and judging; of an adapted network that was kept also of adapting."""
    return float(max(record["cpu_s"], record.get("facts", {}).get("adapting_cpu_s", 0)))


def f1(found: float, faults: int, false: float) -> float:
    return 2 * found / max(found + false + faults, 1e-9)


def interval(found: int, faults: int, false: int) -> tuple[float, float]:
    """Of the F1, 95 %: faults drawn with replacement, false alarms as a Poisson count."""
    draw = np.random.default_rng(0)
    again, alarms = draw.binomial(faults, found / faults, 1000), draw.poisson(false, 1000)
    made = sorted(f1(hits, faults, count) for hits, count in zip(again, alarms, strict=True))
    return made[25], made[974]


def seed_f1(record: Record) -> float:
    return f1(record["found"], record["faults"], record["false_alarms"])


# ------------------------------------------------------------------------------------- label efficiency


def needed(curve: dict[int, float], level: float) -> float:
    """Labels at which a curve reaches a level, between two measured numbers on a log scale; inf if never."""
    before: tuple[int, float] | None = None
    for shots, value in sorted(curve.items()):
        if value >= level:
            if before is None or before[1] >= value:
                return float(shots)
            share = (level - before[1]) / (value - before[1])
            return math.exp(math.log(before[0]) + share * math.log(shots / before[0]))
        before = shots, value
    return math.inf


def efficiency(records: Sequence[Record]) -> list[str]:
    """How many labels the best baseline needs for what each way of ours reaches with few."""
    found = groups(records)
    names = [n for n in dict.fromkeys(r["detector"] for r in records) if not n.startswith("foreshock")]
    names = [n for n in names if not n.endswith(SPREAD)]  # they have the whole recordings at 500 windows
    rows = []
    for ours in OURS:
        for r in found.get((ours, FEW), []):
            cells: list[str] = []
            for figure in (seed_f1, best_f1):
                theirs = {name: _curve(records, name, r["seed"], figure) for name in names}
                cells += [f"{figure(r):.3f}", *_needs({n: c for n, c in theirs.items() if c}, figure(r))]
            rows.append([ours, r["seed"], *cells])
    head = ["detector", "seed", f"event F1 with {FEW}", "best baseline at any number", "times the labels"]
    head += ["best F1, an oracle's", "best baseline at any number", "times the labels"]
    most = {n: max(r["shots"] for r in records if r["detector"] == n) for n in names}
    each = ", ".join(f"{name} {shots}" for name, shots in most.items())
    return [*table(head, rows), f"Measured up to so many windows: {each}.", ""]


def _needs(theirs: dict[str, dict[int, float]], level: float) -> list[str]:
    """The best that baselines reach, and how many times the labels the first of them needs for a level."""
    if not theirs:
        return ["", ""]
    top, name, shots = max((value, name, shots) for name, c in theirs.items() for shots, value in c.items())
    least, first = min((needed(curve, level), name) for name, curve in theirs.items())
    told = f"{least / FEW:.1f} ({first})"
    if math.isinf(least):
        told = f"more than {min(max(curve) for curve in theirs.values()) / FEW:g}"
    return [f"{top:.3f} ({name}, {shots})", told]


def best_f1(record: Record) -> float:
    return float(max(record["best_f1"], record["event_f1"]))


def _curve(
    records: Sequence[Record], detector: str, seed: int, figure: Callable[[Record], float]
) -> dict[int, float]:
    return {r["shots"]: figure(r) for r in records if (r["detector"], r["seed"]) == (detector, seed)}


def paired(records: Sequence[Record]) -> list[str]:
    """Ours minus each baseline with as many labels, on the same recording and seed."""
    rows = []
    for name in dict.fromkeys(r["recording"] for r in records):
        here = [r for r in records if r["recording"] == name]
        found = groups(here)
        zero = {r["seed"]: r for r in found.get((ZERO, 0), [])}
        for (detector, shots), ours in found.items():
            if detector not in OURS:
                continue
            is_spread = detector.endswith(SPREAD)
            against = [
                (d, g)
                for (d, s), g in found.items()
                if s == shots and not d.startswith("foreshock") and d.endswith(SPREAD) == is_spread
            ]
            if zero:
                other = [zero.get(r["seed"], zero[min(zero)]) | {"seed": r["seed"]} for r in ours]
                against.append((ZERO, other))
            for other_name, theirs in against:
                by_seed = {r["seed"]: r for r in theirs}
                pairs = [(r, by_seed[r["seed"]]) for r in ours if r["seed"] in by_seed]
                if pairs:
                    cells = [_apart([a(x) - a(y) for x, y in pairs]) for a in (seed_f1, _ap)]
                    rows.append([name, shots, detector, other_name, len(pairs), *cells])
    if len({row[0] for row in rows}) == 1:
        rows = [row[1:] for row in rows]
        return table(["windows", "ours", "beside", "seeds", "event F1", "AP"], rows)
    return table(["recording", "windows", "ours", "beside", "seeds", "event F1", "AP"], rows)


def _ap(record: Record) -> float:
    return float(record["average_precision"])


def _apart(differences: Sequence[float]) -> str:
    mean = statistics.mean(differences)
    if len(differences) == 1:
        return f"{mean:+.3f}"
    return f"{mean:+.3f} ({min(differences):+.2f} to {max(differences):+.2f})"


# --------------------------------------------------------------------------------------- kinds and roots


def _named(group: Sequence[Record]) -> list[tuple[str, str, float]]:
    return [(f["kind"], f["named"], f["chance"]) for r in group for f in r["each"] if "named" in f]


def kinds(records: Sequence[Record]) -> list[str]:
    """How well kinds are told, by the number of labels."""
    rows = []
    for (detector, shots), group in groups(records).items():
        if told := _named(group):
            sure = [(true, name) for true, name, chance in told if chance >= 0.5]
            rows.append(
                [
                    detector,
                    shots,
                    " ".join(str(r["seed"]) for r in group),
                    f"{macro_f1([true for true, _, _ in told], [name for _, name, _ in told]):.2f}",
                    f"{sum(true == name for true, name, _ in told)} of {len(told)}",
                    f"{sum(true == name for true, name in sure)} of {len(sure)}",
                ]
            )
    head = ["detector", "windows", "seeds", "macro F1, best guess", "best guess right", "right of those told"]
    return table(head, rows)


def named() -> list[str]:
    """What the shipped verdict says of other systems, without a label."""
    rows = []
    for r in read("simulated_verdict.jsonl"):
        first = r["root_first"]
        rows.append([
            r["recording"], r["faults"], f"{r['macro_f1']:.2f}", f"{r['right']} of {r['faults']}",
            f"{r['told_right']} of {r['told']}", first["explain"], first["explain with the verdict"],
            first["verdict"],
        ])  # fmt: skip
    head = ["recording", "faults", "macro F1, best guess", "best guess right", "right of those told"]
    head += ["root first: explain alone", "with the verdict", "the verdict alone"]
    return table(head, rows)


def confusion(records: Sequence[Record]) -> list[str]:
    """True kinds down, best guesses across, for each of some numbers of windows."""
    found, lines = groups(records), []
    for shots in TOLD_AT:
        group = found.get((PROBE if shots else ZERO, shots), [])
        told = _named(group)
        names = sorted({true for true, _, _ in told} | {name for _, name, _ in told})
        rows = []
        for i, true in enumerate(names, 1):
            mine = [(name, chance) for kind, name, chance in told if kind == true]
            cells = [sum(name == other for name, _ in mine) or "" for other in names]
            rows.append([f"{i} `{true}`", *cells, sum(chance < 0.5 for _, chance in mine) or ""])
        if rows:
            seeds = " ".join(str(r["seed"]) for r in group)
            what = f"The verdict on the frozen network, {shots} windows" if shots else "Without labels"
            lines += [f"{what}, seeds {seeds}:", ""]
            head = ["true kind, told as", *(str(i) for i in range(1, len(names) + 1)), "unsure"]
            lines += table(head, rows)
    return lines


def rejection(records: Sequence[Record]) -> list[str]:
    """How often a kind is right, the surer it has to be to be told."""
    rows = []
    for (detector, shots), group in groups(records).items():
        told = _named(group)
        if detector not in (ZERO, PROBE) or not told:
            continue
        cells = []
        for level in LEVELS:
            kept = [true == name for true, name, chance in told if chance >= level]
            cells.append(f"{sum(kept) / len(kept):.2f} of {len(kept) / len(told):.2f}" if kept else "none")
        rows.append([shots, *cells])
    return table(["windows", *(f"from {level:g}" for level in LEVELS)], rows)


def hits(ranks: Sequence[int | None]) -> list[str]:
    """AC@1, AC@3 and Avg@5."""
    at = [sum(rank is not None and rank <= k for rank in ranks) / len(ranks) for k in range(1, 6)]
    return [f"{at[0]:.2f}", f"{at[2]:.2f}", f"{statistics.mean(at):.2f}"]


def roots(records: Sequence[Record]) -> list[str]:
    """How often the root stands first; without labels above, and by kinds that show at their root."""
    unseen = ("network_delay", "packet_loss")
    named: dict[tuple[str, object], list[tuple[str, int | None]]] = {}
    for r in read("fault_origins.jsonl"):
        named.setdefault((r["scorer"], 0), []).extend((f["kind"], f["root_rank"]) for f in r["each"])
    for (detector, shots), group in groups(records).items():
        ranks = [(f["kind"], f["root_rank"]) for r in group for f in r["each"] if "root_rank" in f]
        if ranks:
            named[detector, shots] = ranks
    rows = []
    for (name, shots), ranks in named.items():
        shown = [rank for kind, rank in ranks if kind not in unseen]
        rows.append([name, shots, len(ranks), *hits([rank for _, rank in ranks]), hits(shown)[0]])
    head = ["scorer", "windows", "faults", "AC@1", "AC@3", "Avg@5", "AC@1 without delay and loss"]
    return table(head, rows)


def cost() -> list[str]:
    """What `foreshock adapt` takes, and an adapter in use."""
    rows = [
        [r["recording"], f"{r['rows']} × {r['kpis']}", r["shots"], r["threads"], f"{r['wall_s']:.0f}",
         f"{r['cpu_s']:.0f}", f"{r['load']:.1f}"]
        for r in read("adapt_time.jsonl")
    ]  # fmt: skip
    head = ["recording", "rows × KPIs", "windows", "threads", "wall s", "processor s", "load"]
    lines = table(head, rows)
    for r in read("adapter_cost.jsonl")[-1:]:
        way = "more" if r["share_more"] > 0 else "less"
        share, switch = f"{abs(r['share_more']):.1%} {way}", f"{r['switch_cpu_ms']:.0f} ms"
        lines += [
            f"In use, {r['rows']} rows of {r['kpis']} KPIs (`python benchmarks/adapter_cost.py`), by "
            f"processor time: scoring takes {share}, switching to an adapter {switch}.",
            "",
        ]
    return lines


# ------------------------------------------------------------------------------------------- the figure


def points(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    """Event F1 over all seeds' faults, by detector and shots."""
    out: dict[str, dict[int, float]] = {}
    for (detector, shots), group in groups(records).items():
        found, faults, false = (sum(r[key] for r in group) for key in ("found", "faults", "false_alarms"))
        out.setdefault(detector, {})[shots] = round(f1(found, faults, false), 3)
    return out


def told_in_picture() -> str:
    """What the figure shows, in words; it lies in the file, so that an old figure is seen to be old."""
    return json.dumps(points([r for r in measured() if r["recording"] == SIMULATED]))


def picture() -> Figure:
    """Event F1 of what looks back, against labelled windows; thin marks are single seeds."""
    from matplotlib.figure import Figure

    from foreshock.plots import LIGHT

    records = [r for r in measured() if r["recording"] == SIMULATED]
    figure = Figure(figsize=(10, 5.2), facecolor=LIGHT.ground)
    axes = figure.add_subplot()
    colours = [LIGHT.value, LIGHT.alarm, LIGHT.known, LIGHT.limit, LIGHT.expected, LIGHT.muted, LIGHT.ink]
    told = points(records)
    names = [n for n in told if n in OURS or not (n.startswith("foreshock") or n.endswith(SPREAD))]
    for number, name in enumerate(names):
        line, colour = told[name], colours[number % len(colours)]
        style = "-" if name in OURS else "--"
        axes.plot(list(line), list(line.values()), style, color=colour, lw=2, marker="o", ms=5, label=name)
        for r in records:
            if r["detector"] == name:
                axes.plot(r["shots"], seed_f1(r), "_", color=colour, ms=9, alpha=0.6)
    for level in told.get(ZERO, {}).values():
        axes.axhline(level, color=LIGHT.muted, lw=1.2, ls=":", label=ZERO)
    axes.set_xscale("log")
    shots = sorted({r["shots"] for r in records if r["shots"]})
    axes.set_xticks(shots, [str(s) for s in shots])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.set_xlabel("labelled windows of 32 rows", color=LIGHT.ink)
    axes.set_ylabel("event F1 at the threshold in use", color=LIGHT.ink)
    axes.grid(axis="y", color=LIGHT.line)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.tight_layout()
    return figure


def main() -> None:
    PAGE.write_text(page(), "utf-8")
    picture().savefig(PICTURE, dpi=100, metadata={"Description": told_in_picture()})


if __name__ == "__main__":
    main()
