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
def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A run's id or `latest`, or a JSONL file of evaluate.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another of the same kind.")],
    log: Folder = Path("runs"),
    json: options.Json = False,
) -> None:
    """What differs between two runs (settings, environment, model, last metrics) or two evaluations.

    Evaluations are paired over series: mean difference with its interval, signed-rank test.
    """
    from foreshock import runlog

    if a.endswith(".jsonl") and b.endswith(".jsonl"):
        _compare_evaluations(Path(a), Path(b), Console(json))
        return
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


@app.command()
def report(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="A JSONL file of `foreshock evaluate`.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page (.html) or its tables (.md).")],
    ours: Annotated[str, typer.Option(help="Whom the paired rows are about.")] = "foreshock",
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """One page about an evaluation: leaderboard, curves, timelines, delays, cost."""
    from foreshock.cli.output import check_output

    check_output(out, force=force, suffixes=(".html", ".md"))
    write_report(out, _evaluation(records), records, ours, Console(quiet=quiet))


def write_report(out: Path, records: list[dict[str, Any]], source: Path, ours: str, console: Console) -> None:
    """The page or the Markdown of these records; their sketches lie beside `source`."""
    from foreshock.cli.output import replacing
    from foreshock.evaluate import report as as_markdown
    from foreshock.evaluate import sketches_of
    from foreshock.report import evaluation
    from foreshock.runlog import read_lines

    if out.suffix.lower() == ".md":
        text = "\n".join(as_markdown(records, ours)) + "\n"
    else:
        beside = sketches_of(source)
        sketches = {line["key"]: line for line in read_lines(beside) if "key" in line}
        if not sketches:
            console.note(f"{beside} is not there: the page has tables, but no curves and no timelines")
        text = evaluation.html(records, sketches, ours, title=source.stem)
    with replacing(out) as part:
        part.write_text(text, "utf-8")
    console.note(f"wrote {out}")


def _evaluation(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of records.

    Raises:
        InputError: no such file, or no evaluation in it.
    """
    from foreshock.errors import InputError
    from foreshock.runlog import read_lines

    if not path.is_file():
        raise InputError(f"{path} is not there; give the JSONL file that `foreshock evaluate` wrote.")
    lines = list(read_lines(path))
    if not any(line.get("kind") == "evaluation" for line in lines):
        raise InputError(
            f"{path} holds no evaluation record; `foreshock evaluate --out FILE` writes such files."
        )
    return lines


def _compare_evaluations(a: Path, b: Path, console: Console) -> None:
    from foreshock.evaluate import compare_records

    found = compare_records(_evaluation(a), _evaluation(b))

    def text() -> str:
        lines = [
            f"A  {a}",
            f"B  {b}",
            "B less A, mean of the data sets' means, 95 % interval; paired over series.",
        ]
        for metric in dict.fromkeys(c.metric for c in found.changes):
            rows = [
                (
                    c.detector, c.difference.n, f"{c.a:.3f}", f"{c.b:.3f}",
                    f"{c.difference.mean:+.3f} [{c.difference.low:+.3f}, {c.difference.high:+.3f}]",
                    f"{c.better} / {c.worse}", f"{c.p_holm:.3g}",
                )
                for c in found.changes
                if c.metric == metric
            ]  # fmt: skip
            head = ("detector", "series", "A", "B", "difference", "better / worse", "p (Holm)")
            lines += ["", metric, table(rows, head)]
        for word, names in (("A", found.only_a), ("B", found.only_b)):
            lines += ["", f"only in {word}: {', '.join(names)}"] if names else []
        rest = sum(c.unshared for c in found.changes)
        lines += ["", "Series that only one file has, or judged other rows of, are left out."] if rest else []
        told = [
            (f"{fact}", _short(", ".join(x)), _short(", ".join(y))) for fact, (x, y) in found.facts.items()
        ]
        return "\n".join([*lines, "", table(told, ("", "A", "B"))] if told else lines)

    console.result(found.to_dict(), text)


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
