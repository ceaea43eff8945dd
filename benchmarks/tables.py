"""Writes benchmarks/RESULTS.md from the records in benchmarks/results/. Run by `make docs`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Record = dict[str, Any]


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
        "Zero-shot, causal unless said otherwise, one fixed configuration, no label seen. AP: area under",
        "the precision-recall curve over rows; recall, false alarms and causes: of the events at the",
        "calibrated threshold (one false alarm a day asked for). Causal from the first row on: the faults of",
        "the first half hour are judged by what little lies before them. Range over seeds in brackets.",
        "Positive: faults that metrics can show. Made by `python benchmarks/recordings.py`.",
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
            mean = {
                k: statistics.mean(r[k] for r in group)
                for k in ("event_recall", "false_alarms_per_hour", "found", "service_first")
            }
            rows.append(
                [
                    name,
                    spread(group, "average_precision"),
                    spread(group, "roc_auc"),
                    f"{mean['event_recall']:.2f}",
                    f"{mean['false_alarms_per_hour']:.2f}",
                    f"{mean['service_first']:.1f} of {mean['found']:.1f}",
                ]
            )
        head = ["detector", "AP", "AUC", "event recall", "false alarms an hour", "root service first"]
        lines += table(head, rows)
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
