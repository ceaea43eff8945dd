"""runs: what was run, with what, and how two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, table

app = typer.Typer(help="The log of runs: list, show, compare.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--log", "--run-dir", metavar="DIR", help="The folder of runs.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="An id, its beginning or end, or `latest`.")]


@app.command("list")
def list_(log: Folder = Path("runs"), json: options.Json = False) -> None:
    """All runs, oldest first."""
    from foreshock import runlog

    runs = runlog.list_runs(log)
    facts = [
        {"id": r.id, "command": r.command, "status": r.status, "started": r.started, "seconds": r.seconds}
        for r in runs
    ]
    rows = [(r.id, r.command, r.status, _seconds(r.seconds)) for r in runs]
    text = table(rows, ("run", "command", "status", "took")) if rows else f"no runs in {log}"
    Console(json).result(facts, text)


@app.command()
def show(run: RunId = "latest", log: Folder = Path("runs"), json: options.Json = False) -> None:
    """Everything about one run."""
    from foreshock import runlog

    found = runlog.show(log, run)
    facts = {
        "id": found.id,
        "folder": str(found.folder),
        "command": found.command,
        "status": found.status,
        "error": found.error or None,
        "started": found.started,
        "finished": found.finished,
        "config": found.config,
        "environment": found.environment,
        "model": found.model,
        "metrics": found.metrics(),
    }
    Console(json).result(facts, lambda: _describe(facts))


@app.command()
def compare(a: RunId, b: RunId, log: Folder = Path("runs"), json: options.Json = False) -> None:
    """What differs between two runs: settings, environment, model, last metrics."""
    from foreshock import runlog

    left, right = runlog.show(log, a), runlog.show(log, b)
    facts = {"a": left.id, "b": right.id, **runlog.compare(left, right)}
    rows = [
        (f"{part}: {key}", _short(values[0]), _short(values[1]))
        for part, differences in facts.items()
        if isinstance(differences, Mapping)
        for key, values in differences.items()
    ]
    text = table(rows, ("", left.id, right.id)) if rows else "no difference"
    Console(json).result(facts, text)


def _describe(facts: Mapping[str, Any]) -> str:
    lines = [f"{key}: {facts[key]}" for key in ("id", "folder", "command", "status", "started", "finished")]
    if facts["error"]:
        lines.append(f"error: {facts['error']}")
    for part in ("model", "environment"):
        if facts[part]:
            lines += ["", f"{part}:"]
            lines += [f"  {key}: {_short(value)}" for key, value in facts[part].items()]
    changed = {
        k: v for k, v in facts["config"].items() if isinstance(v, Mapping) and v.get("origin") != "default"
    }
    if changed:
        lines += ["", "settings (others by default):"]
        lines += [f"  {key}: {_short(entry['value'])}  ({entry['origin']})" for key, entry in changed.items()]
    if facts["metrics"]:
        lines += ["", "metrics:"]
        for line in facts["metrics"][-20:]:
            shown = ", ".join(f"{k} {_short(v)}" for k, v in line.items() if k not in ("kind", "at"))
            lines.append(f"  {line.get('kind')}: {shown}")
    return "\n".join(lines)


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
