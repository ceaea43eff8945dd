"""evaluate: detectors × data sets × seeds, a record each, and the tables they make; the leakage audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, counted
from foreshock.errors import OutputError

if TYPE_CHECKING:
    from foreshock.evaluate import Evaluation

PACKAGES = ("foreshock", "numpy", "torch", "scikit-learn", "pyod")
QUICK_SERIES, QUICK_ROWS = 2, 4000


def evaluate(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", help="YAML: detectors, data, seeds, …; without, the preset's."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", help="Where the data sets lie.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The JSONL file of records, gone on with.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="DETECTOR", help="This one only. May be repeated.")
    ] = None,
    redo: Annotated[
        list[str] | None,
        typer.Option("--redo", metavar="DETECTOR", help="Measure it anew, records or not. May be repeated."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Series of each data set, at most.", min=1)] = None,
    rows: Annotated[int | None, typer.Option(help="Rows of each series, at most.", min=64)] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two series of 4,000 rows each, one seed, a file of its own.")
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Show what leaks make of a random forest; nothing else.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="PNG", help="With --audit: draw it too.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write a page (.html), or its tables (.md), too."),
    ] = None,
    track: options.Track = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure detectors on labelled data by one protocol; go on where the last run stopped."""
    from foreshock.runlog import to_json

    console = Console(json, quiet)
    setup = _setup(config, data)
    if audit:
        _audit(setup, out, figure, force, console)
        return
    if figure is not None:
        raise OutputError("--figure draws the audit; add --audit.")
    if report is not None:
        from foreshock.cli.output import check_output

        check_output(report, force=force, suffixes=(".html", ".md"), flag="--report")
    if quick:
        limit, rows = limit or QUICK_SERIES, rows or QUICK_ROWS
        setup = replace(setup, seeds=setup.seeds[:1])
    path = out or Path(setup.out)
    if quick and out is None:
        path = path.with_name(f"{path.stem}-quick{path.suffix}")
    records = _run(setup, path, only or (), redo or (), limit, rows, track or (), console)
    if report is not None:
        from foreshock.cli.runs import write_report

        write_report(report, records, path, setup.ours, console)

    def text() -> str:
        from foreshock.evaluate import report

        return "\n".join(report(records, setup.ours)) or "no figure yet"

    console.result([_plain(to_json(r)) for r in records] if json else None, text)


def _plain(text: str) -> Any:
    from json import loads

    return loads(text)


def _setup(config: Path | None, folder: str | None) -> Evaluation:
    from foreshock.config.document import read_options
    from foreshock.evaluate import Evaluation

    if config is None:
        with resources.as_file(resources.files("foreshock").joinpath("presets", "evaluate.yaml")) as preset:
            setup = read_options(preset, Evaluation, "evaluate")
    else:
        setup = read_options(config, Evaluation, "evaluate")
    return replace(setup, folder=folder or setup.folder)


def _run(
    setup: Evaluation,
    path: Path,
    only: Sequence[str],
    redo: Sequence[str],
    limit: int | None,
    rows: int | None,
    track: Sequence[str],
    console: Console,
) -> list[dict[str, Any]]:
    """Do what is not done yet; the records of everything that was asked for."""
    from foreshock.evaluate import evaluate as run
    from foreshock.evaluate import plan, sketches_of
    from foreshock.memory import watch
    from foreshock.runlog import Records
    from foreshock.tracking import tracking

    jobs = plan(setup, only=[*only, *redo], limit=limit, rows=rows) if only else plan(
        setup, limit=limit, rows=rows
    )  # fmt: skip
    wrong = set(redo) - {job.choice.title for job in jobs}
    if wrong:
        plan(setup, only=sorted(wrong))  # says which there are
    facts = _made_with()
    keys = {job.key for job in jobs}
    with Records(path) as file, Records(sketches_of(path)) as sketches:
        if file.dropped_bytes:
            console.note(f"{path}: half a line of a killed run was taken away ({file.dropped_bytes} bytes)")
        anew = {job.key for job in jobs if job.choice.title in redo}
        done = {line["key"] for line in file.lines if "key" in line} - anew
        there = sum(job.key in done for job in jobs)
        if there:
            console.note(f"{counted(there, 'record')} of {len(jobs):,} are in {path} already")
        began, began_cpu = perf_counter(), process_time()
        with (
            tracking(track, path.stem) as handed,
            watch("evaluate") as seen,
            console.progress("records", len(jobs)) as advance,
        ):
            for record in run(setup, jobs, done, on_job=lambda job: advance(1)):
                sketch = record.pop("sketch", None)
                if sketch is not None:
                    sketches.append({"kind": "sketch", "key": record["key"], **sketch})
                handed(file.append({**record, **facts, "at": _now()}))
        if keys - done:
            took = {
                "kind": "run",
                "records": len(keys - done),
                "of": len(keys),
                "wall_s": round(perf_counter() - began, 1),
                "cpu_s": round(process_time() - began_cpu, 1),
                "peak_bytes": seen.peak.resident_bytes,
            }
            file.append({**took, **facts, "at": _now()})
        return [line for line in file.lines if line.get("key") in keys]


def _made_with() -> dict[str, Any]:
    """Commit, packages, machine: what every record carries."""
    from foreshock.runlog import environment, git_commit

    made = environment(PACKAGES)
    git = git_commit(Path(__file__).parent) or {}
    about = {name: made[name] for name in ("python", "processor", "cores", "packages", "threads")}
    return {"commit": git.get("commit"), "dirty": git.get("dirty"), **about}


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _audit(setup: Evaluation, out: Path | None, figure: Path | None, force: bool, console: Console) -> None:
    """The audit's records, its table, and its figure if asked for."""
    from foreshock.cli.output import check_output, replacing
    from foreshock.evaluate import audit, audit_table
    from foreshock.evaluate.audit import RECORDINGS
    from foreshock.runlog import to_json

    for path, suffixes, flag in ((out, (".jsonl",), "--out"), (figure, (".png",), "--figure")):
        if path is not None:
            check_output(path, force=force, suffixes=suffixes, flag=flag)
    missing = [name for name, path in RECORDINGS.items() if not (Path(setup.folder) / path).is_file()]
    if missing:
        console.note(
            f"{' and '.join(missing)} not in {setup.folder}: their rows are left out; "
            "docs/data.md tells where they come from, --data another folder"
        )
    facts = {**_made_with(), "at": _now()}
    rows = []
    with console.progress("rows") as advance:
        for row in audit(setup.folder):
            rows.append(_plain(to_json({**row.record(), **facts})))
            advance(1)
    if out is not None:
        with replacing(out) as part:
            part.write_text("".join(to_json(row) + "\n" for row in rows), "utf-8")
    if figure is not None:
        from foreshock import plots

        with replacing(figure) as part:
            part.write_bytes(plots.to_png(plots.audit_dots(rows)))
    console.result(rows, lambda: "\n".join(audit_table(rows)))
