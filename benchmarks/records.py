"""Records under benchmarks/results: a JSON line each; read, appended, or put in the place of an older one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Record = dict[str, Any]


def read(name: str) -> list[Record]:
    """The records of one file; none when the benchmark was never run."""
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def append(name: str, record: Record) -> None:
    """One more line."""
    with (RESULTS / name).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def put(name: str, record: Record, same: Sequence[str]) -> None:
    """As the last line, in the place of those whose fields `same` are the record's."""
    kept = [r for r in read(name) if any(r[field] != record[field] for field in same)]
    (RESULTS / name).write_text("".join(json.dumps(r) + "\n" for r in [*kept, record]))
