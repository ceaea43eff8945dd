"""Writes RESULTS.md here, docs/leakage.md and docs/plan.md from benchmarks/results/. Run by `make docs`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from records import Record, read

from foreshock.evaluate import audit_table, leaderboard, report
from foreshock.evaluate.statistics import interval, wilcoxon
from foreshock.evaluate.tables import latest, paired_table

HERE = Path(__file__).parent
LEAKAGE = HERE.parent / "docs" / "leakage.md"
PLAN = HERE.parent / "docs" / "plan.md"
BEGIN, END = "<!-- table: written by `make docs` -->", "<!-- end of table -->"
HOURLY = "recall_at_one_false_alarm_an_hour_oracle"
COUNTS = ("found", "service_first", "false_alarms")


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """A Markdown table."""
    header = list(header)
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return [*lines, *("| " + " | ".join(str(c) for c in row) + " |" for row in rows), ""]


def spread(records: list[Record], key: str) -> str:
    """One figure, with its range over seeds where there is more than one."""
    values = [r[key] for r in records]
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def recordings() -> list[str]:
    """Detection on the development recordings."""
    records = read("recordings.jsonl")
    if not records:
        return []
    lines = ["## Development recordings", ""]
    lines += [
        "Zero-shot, one fixed configuration, no label seen; scores causal unless said otherwise. AP and AUC",
        "over rows. Found: faults that an incident touches; root first: of those, the labelled service is",
        "named first; false: incidents that touch no fault, recovery or unlisted injection. Threshold at one",
        "false alarm a day: from the whole unlabelled recording (as `foreshock detect` judges it, with the",
        "default detector from both ends unless something changes for good) and, as live, from the rows",
        "before each. Hourly: faults found by the best threshold that raises at most one false",
        "alarm an hour, chosen with the labels (an oracle's). Positive: faults that metrics can show. Range",
        "over seeds in brackets.",
        "Made by `python benchmarks/recordings.py`.",
        "",
    ]
    for title in dict.fromkeys(r["recording"] for r in records):
        here = [r for r in records if r["recording"] == title]
        one = here[0]
        lines += [f"### {title}", ""]
        lines += [
            f"{one['rows']} rows × {one['kpis']} KPIs, {one['faults']} faults, "
            f"{one['positive_rows']} rows positive.",
            "",
        ]
        rows = []
        for name in dict.fromkeys(r["detector"] for r in here):
            group = [r for r in here if r["detector"] == name]
            cells = [name, spread(group, "average_precision"), spread(group, "roc_auc")]
            hourly = [r.get(HOURLY) for r in group]
            cells.append("" if None in hourly else spread(group, HOURLY))
            for threshold in ("recording", "past"):
                found = [r["threshold_from"][threshold] for r in group]
                count = {k: statistics.mean(f[k] for f in found) for k in COUNTS}
                cells += [
                    f"{count['found']:.3g} of {one['faults']}",
                    f"{count['service_first']:.3g}",
                    f"{count['false_alarms']:.3g}",
                ]
            rows.append(cells)
        head = ["detector", "AP", "AUC", "hourly", "found", "root first", "false"]
        lines += table([*head, *(f"{word}, as live" for word in head[4:])], rows)
    return lines


def evaluation() -> list[str]:
    """Detectors over the development data, by the protocol."""
    lines = report(read("evaluate.jsonl"))
    if not lines:
        return []
    about = [
        "By the protocol of [docs/evaluation.md](../docs/evaluation.md): fitted on the training part, judged",
        "after it and a gap, thresholds from unlabelled scores. Definitions:",
        "[docs/metrics.md](../docs/metrics.md). Made by `foreshock evaluate --data DIR --out",
        "benchmarks/results/evaluate.jsonl`.",
        "",
    ]
    return ["## Evaluation", "", *about, *lines]


def ablation() -> list[str]:
    """The default detector without some of its parts."""
    _, lines = _by_protocol(
        "ablation.jsonl", "What each part of the default detector is worth",
        ["Variants by the same protocol on fewer and shorter series. Made by `foreshock",
         "evaluate benchmarks/ablation.yaml --data DIR`."],
    )  # fmt: skip
    return lines


def offline() -> list[str]:
    """Detectors that look both ways, among themselves."""
    done, lines = _by_protocol(
        "offline.jsonl", "Looking both ways",
        ["By the same protocol, with detectors that read later rows too, as most published figures do; for a",
         "recording that lies in the past. None of it can be had live. One configuration for all data.",
         "Made by `foreshock evaluate benchmarks/offline.yaml --data DIR`."],
    )  # fmt: skip
    return [*lines, *paired_table(done, "vus_pr", "foreshock")] if done else []


def _by_protocol(name: str, title: str, about: list[str]) -> tuple[list[Record], list[str]]:
    """Finished records of a file, and their section; no lines where there are none."""
    done = [r for r in latest(read(name)) if r["status"] == "done"]
    if not done:
        return [], []
    tables = [leaderboard(done, "vus_pr"), leaderboard(done, "average_precision", "AP by rows")]
    return done, [f"## {title}", "", *about, "", *tables[0], *tables[1]]


def leakage() -> str:
    """docs/leakage.md: its words as they stand, its table from the records."""
    return with_table(LEAKAGE, audit_table(read("audit.jsonl")))


def with_table(page: Path, lines: Iterable[str]) -> str:
    """A page's words as they stand, with this table between its marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, behind = rest.partition(END)
    return before + BEGIN + "\n" + "\n".join(lines) + END + behind


def filled(text: str, blocks: dict[str, list[str]]) -> str:
    """A page with each block between `<!-- table: NAME -->` and `<!-- end -->` written anew."""
    for name, lines in blocks.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, rest = text.split(start)
        text = before + start + "\n".join(lines) + end + rest.split(end, 1)[1]
    return text


def plan() -> str:
    """docs/plan.md, with predicted beside measured memory."""
    sizes = ("small", "base", "large")
    records = sorted(read("plan_memory.jsonl"), key=lambda r: sizes.index(r["size"]))
    holes = {_configuration(r): r["peak_bytes"] for r in records if r["has_holes"]}
    product = {_configuration(r): r["peak_bytes"] for r in records if r.get("has_product")}
    rows = []
    for r in records:
        if r["has_holes"] or r.get("has_product"):
            continue
        step, need = r["step"], r["need"]
        # Of full training gradients would be part of it.
        alone = [need["activations"] + need["workspace"], r["peak_bytes"] - r["ready_bytes"]]
        alone = alone if step["method"] == "lora" else []
        dropout = "" if step["dropout"] is None else f", dropout {step['dropout']:g}"
        method = "full" if step["method"] == "full" else f"LoRA {step['rank']} on {' '.join(step['targets'])}"
        rows.append(
            [
                r["size"],
                method + dropout,
                step["precision"],
                f"{step['batch']} × {step['channels']} × {step['window']}",
                "yes" if step["checkpointing"] else "",
                f"{r['predicted_bytes'] / 2**20:.0f}",
                f"{r['peak_bytes'] / 2**20:.0f}",
                f"{r['predicted_bytes'] / r['peak_bytes'] - 1:+.1%}",
                " / ".join(f"{size / 2**20:.0f}" for size in alone),
                f"{holes[_configuration(r)] / 2**20:.0f}" if _configuration(r) in holes else "",
                f"{product[_configuration(r)] / 2**20:.0f}" if _configuration(r) in product else "",
                f"{r['cpu_s']:.2f}",
            ]
        )
    head = ["MOMENT-1", "trained", "precision", "batch × KPIs × rows", "checkpointing", "predicted MiB"]
    head += ["measured MiB", "off", "step alone, predicted / measured", "with holes", "as adapt trains"]
    head += ["processor s"]
    return with_table(PLAN, table(head, rows))


def _configuration(record: Record) -> str:
    return record["size"] + json.dumps(record["step"], sort_keys=True)


def speed() -> list[str]:
    """The forward pass beside the original package's, a table for each processor."""
    records = read("moment_speed.jsonl")
    if not records:
        return []
    lines = ["## Forward pass beside the original", ""]
    lines += [
        "Random weights of the true shapes, batch × KPIs × steps; alternating in one run with",
        f"{records[0]['original']}. Best of",
        "the rounds; ours auto is bfloat16. The original pads 256 steps to 512 (`256`) unless the window is",
        "handed to it bare (`256d`). Share: of the measured matmul peak of that precision. Other work on",
        "the machine stretches what the clock says; the columns with (cpu) take processor time, which",
        "suffers less. The peak is taken by processor time since 2026-11-26 02:30 UTC, before by the clock,",
        "which beside other work makes it too low and the shares too high. Load: of the machine, the bench",
        "included, in the case's last minute. Rank: of the errors against the original's. Made by",
        "`make bench`.",
        "",
    ]
    has_amx = lambda r: "amx_bf16" in r["abilities"]  # noqa: E731
    for machine in dict.fromkeys(_machine(r) for r in sorted(records, key=has_amx, reverse=True)):
        here = [r for r in records if _machine(r) == machine]
        kind = "with AMX" if has_amx(here[0]) else "without AMX"
        lines += [f"### {machine}: {kind}", "", f"Abilities: {', '.join(here[0]['abilities'])}.", ""]
        lines += _speed_table(here)
    return lines


def _machine(record: Record) -> str:
    threads = "1 thread" if record["threads"] == 1 else f"{record['threads']} threads"
    return f"{threads} of {record['cpu']}"


def _speed_table(records: list[Record]) -> list[str]:
    rows = []
    for size, case in dict.fromkeys((r["size"], r["case"]) for r in records):
        here = {r["variant"]: r for r in records if (r["size"], r["case"]) == (size, case)}
        base = here["original fp32"]
        for name, r in here.items():
            rows.append(
                [
                    f"{size} {case.replace('x', ' × ')}",
                    name,
                    f"{r['wall_s']:.2f}",
                    f"{base['wall_s'] / r['wall_s']:.2f}",
                    f"{base['cpu_s'] / r['cpu_s']:.2f}",
                    f"{r['peak_bytes'] / 2**20:.0f}",
                    f"{r['share_of_matmul_peak']:.2f}",
                    f"{r['share_of_matmul_peak'] * r['wall_s'] * r['threads'] / r['cpu_s']:.2f}",
                    f"{r['rank_correlation']:.4f}",
                    f"{r['load']:.1f}",
                ]
            )
    head = [
        "case",
        "variant",
        "s",
        "faster",
        "faster (cpu)",
        "peak MiB",
        "share",
        "share (cpu)",
        "rank",
        "load",
    ]
    return table(head, rows)


def published() -> list[str]:
    """Baselines beside the figures that TSB-AD publishes."""
    records = read("published.jsonl")
    if not records:
        return []
    series = len({r["file"] for r in records})
    lines = ["## Baselines beside their published figures", ""]
    lines += [
        f"{series} files of TSB-AD-U, offline forms, VUS-PR in TSB-AD's variant. r: correlation over files",
        "with the published column; off: absolute difference. The first seven rows are the same methods run",
        "elsewhere; what is left are ties that round-off breaks and windows cut off at a series' ends.",
        "Below, seeds differ, and settings where TSB-AD's are not told. `foreshock` is the default detector",
        "as it ships, looking back only and both ways, beside what others publish on these series: means to",
        "compare, no agreement to expect.",
        "Made by `python benchmarks/published.py`.",
        "",
    ]
    rows = []
    for method in dict.fromkeys(r["method"] for r in records):
        here = [r for r in records if r["method"] == method]
        ours = [r["vus_pr"] for r in here]
        for column in here[0]["published"]:
            theirs = [r["published"][column] for r in here]
            apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
            rows.append(
                [
                    method,
                    column,
                    f"{statistics.correlation(ours, theirs):.4f}",
                    f"{statistics.median(apart):.5f}",
                    f"{max(apart):.4f}",
                    f"{statistics.mean(ours):.3f}",
                    f"{statistics.mean(theirs):.3f}",
                    f"{sum(r['wall_s'] for r in here):.1f}",
                ]
            )
    head = ["method", "column", "r", "median off", "most off", "mean", "published mean", "s"]
    return [*lines, *table(head, rows), *beside_published(records)]


def beside_published(records: list[Record]) -> list[str]:
    """Ours against what others publish on the same files, paired."""
    rows = []
    for method in dict.fromkeys(r["method"] for r in records if r["method"].startswith("foreshock")):
        here = [r for r in records if r["method"] == method]
        for column in here[0]["published"]:
            apart = [r["vus_pr"] - r["published"][column] for r in here]
            mean = interval(apart)
            better = sum(d > 0 for d in apart)
            cells = [
                f"{mean.mean:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]",
                f"{better} / {len(apart) - better}",
            ]
            rows.append([method, column, *cells, f"{wilcoxon(apart).p:.2g}"])
    about = [
        "Ours less theirs, file by file: 95 % bootstrap over files, Wilcoxon's signed-rank test, two-sided.",
        "",
    ]
    return [*about, *table(["ours", "published", "difference", "better / worse", "p"], rows)]


def day() -> list[str]:
    """A day of 88 KPIs, as a user scores it."""
    rows = [
        [
            f"{r['processor']}{', AMX' if r['has_amx'] else ''}",
            r["threads"] or f"its own choice of {r['cores']}",
            r["runs"],
            " / ".join(f"{r['wall_s'][name]:.1f}" for name in ("least", "median", "most")),
            f"{r['cpu_s']['median']:.1f}",
            f"{r['peak_bytes']['most'] / 2**20:.0f}",
            f"{r['load_before']:.1f}",
        ]
        for r in read("score_day.jsonl")
    ]
    if not rows:
        return []
    return [
        "## A day of 88 KPIs",
        "",
        "`python benchmarks/score_day.py`: `foreshock score` on 5,760 rows at 15 s, Parquet to Parquet,",
        "start-up included. Wall seconds: least / median / most of the runs; load: what others did then.",
        "",
        *table(["processor", "threads", "runs", "s", "cpu s", "peak MiB", "load"], rows),
    ]


def live() -> list[str]:
    """A step of the live service."""
    records = read("serve_cycle.jsonl")
    if not records:
        return []
    rows = []
    for r in records:
        memory = [m / 2**20 for m in r["memory_bytes"]]
        cycle, ahead = r["cycle_s"], r["ahead_s"]
        rows.append(
            [
                f"{r['services']:,} × {r['kpis']}, {r['step_s']:g} s",
                r["rows"],
                " / ".join(f"{cycle[q]:.2f}" for q in ("p50", "p99", "most")),
                " / ".join(f"{ahead[q]:.2f}" for q in ("p50", "p99", "most")),
                f"{r['cpu_s_a_row']:.2f}",
                f"{r['backfill_rows']} in {r['backfill_s']:.0f} s",
                f"{memory[0]:.0f} / {memory[len(memory) // 2]:.0f} / {memory[-1]:.0f}",
                r["incidents"],
                r["threads"],
                f"{r['load_before']:.1f}",
            ]
        )
    machines = ", ".join(sorted({r["machine"] for r in records}))
    head = [
        "services × KPIs, step",
        "rows",
        "cycle s",
        "ahead s",
        "cpu s a row",
        "read back",
        "MiB",
        "incidents",
    ]
    return [
        "## A step of the live service",
        "",
        "`python benchmarks/serve_cycle.py [--services 2000 --kpis 10 --step 60]`: the loop of",
        "`foreshock serve` on a server that answers as Prometheus does, clock set forward. A cycle is",
        "reading, scoring, storing and telling one row; ahead is what is prepared for the next row while it",
        "is waited for. Seconds: median / 99 % / largest. Memory of the process: at the first of the rows,",
        f"half-way and at the last; load: what others did when it began. On {machines}.",
        "",
        *table([*head, "threads", "load"], rows),
    ]


def whole() -> str:
    lines = [
        "<!-- Written by `make docs` from benchmarks/results/*.jsonl; change the benchmark instead. -->",
        "",
    ]
    lines += [
        "# Results",
        "",
        *evaluation(),
        *offline(),
        *ablation(),
        *recordings(),
        *published(),
        *day(),
        *live(),
        *speed(),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    (HERE / "RESULTS.md").write_text(whole())
    LEAKAGE.write_text(leakage())
    PLAN.write_text(plan())
