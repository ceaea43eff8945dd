"""What the command line says, and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Console:
    """How a command talks. With `json` stdout holds one JSON document and nothing else."""

    json: bool = False
    quiet: bool = False

    def result(self, facts: Any, text: str | Callable[[], str] = "") -> None:
        """The command's answer: facts for machines with --json, else text for people."""
        if self.json:
            from foreshock.runlog import to_json

            _write(to_json(facts, indent=2))
        else:
            _write(text() if callable(text) else text)

    def note(self, text: str) -> None:
        """Something worth knowing beside the answer."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A bar on stderr while a long work runs; nothing when nobody watches. Call it with what was done."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda done: None
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Elapsed(),
        )
        with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.advance(task, done)


def _write(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Rows as aligned columns, plain text."""
    cells = [[str(cell) for cell in row] for row in ([head] if head else []) + list(rows)]
    if not cells:
        return ""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def counted(count: int, what: str) -> str:
    """1 row, 1,200 rows."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began
