"""Writes benchmarks/RESULTS.md from the records in benchmarks/results/. Run by `make docs`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Record = dict[str, Any]
COUNTS = ("found", "service_first", "false_alarms")


def read(name: str) -> list[Record]:
    """The records of one file; none when the benchmark was never run."""
    path = HERE / "results" / name
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


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
        "false alarm a day: from the whole unlabelled recording (as `foreshock detect` does) and, as live,",
        "from the rows before each. Positive: faults that metrics can show. Range over seeds in brackets.",
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
            for threshold in ("recording", "past"):
                found = [r["threshold_from"][threshold] for r in group]
                count = {k: statistics.mean(f[k] for f in found) for k in COUNTS}
                cells += [
                    f"{count['found']:.3g} of {one['faults']}",
                    f"{count['service_first']:.3g}",
                    f"{count['false_alarms']:.3g}",
                ]
            rows.append(cells)
        head = ["detector", "AP", "AUC", "found", "root first", "false"]
        lines += table([*head, *(f"{word}, as live" for word in head[3:])], rows)
    return lines


def speed() -> list[str]:
    """The forward pass beside the original package's."""
    records = [r for r in read("moment_speed.jsonl") if r.get("kind") == "case"]
    if not records:
        return []
    return ["## Forward pass", "", "See `benchmarks/results/moment_speed.jsonl`.", ""]


def whole() -> str:
    lines = [
        "<!-- Written by `make docs` from benchmarks/results/*.jsonl; change the benchmark instead. -->",
        "",
    ]
    lines += ["# Results", "", *recordings(), *speed()]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    (HERE / "RESULTS.md").write_text(whole())
