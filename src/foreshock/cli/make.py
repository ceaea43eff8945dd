"""simulate and pretrain: make recordings with known faults, make checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from json import loads
from pathlib import Path
from typing import Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console
from foreshock.errors import OutputError


def simulate(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder for the recording.")],
    system: Annotated[
        str, typer.Option(help="trainticket (88 KPIs), trainticket-all (168) or shop (50).")
    ] = "trainticket",
    seed: Annotated[int, typer.Option(help="The same seed gives the same recording.", min=0)] = 0,
    rows: Annotated[
        int | None,
        typer.Option(
            help="How many rows; by default 11520 (Train Ticket: every kind of fault) or 2880 (shop).",
            min=1,
            max=100_000_000,
        ),
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Time between two rows; by default 15 (Train Ticket) or 30 (shop).",
            min=0.001,
        ),
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv/--no-csv", help="Write recording.csv beside the Parquet.")
    ] = True,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a recording of a simulated system with planted faults and their labels."""
    from foreshock.sources import simulator

    usual = simulator.usual(system)
    rows = usual.rows if rows is None else rows
    plan = simulator.make_plan(
        seed=seed, rows=rows, step_s=usual.step_s if step is None else step, system=usual.system
    )
    console = Console(json, quiet)
    with console.progress("rows", rows) as advance:

        def counted() -> Iterator[Any]:
            for piece in simulator.blocks(plan):
                yield piece
                advance(len(piece))

        paths = simulator.write(counted(), out, force=force, plan=plan, csv=csv)
    files = [str(path) for path in paths]
    facts = {
        "files": files,
        "system": system,
        "rows": rows,
        "kpis": len(plan.kpis),
        "seed": seed,
        "faults": loads(paths[-2].read_text("utf-8")),
    }
    console.result(facts, "\n".join(files))


def pretrain(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML: out, steps, model, corpus, …")],
    steps: Annotated[int | None, typer.Option(help="Instead of the file's.", min=1)] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Instead of the file's.")] = None,
    track: options.Track = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a checkpoint from scratch, or go on where the last run stopped."""
    from foreshock.config.document import read_options
    from foreshock.pretrain import PretrainConfig
    from foreshock.pretrain import pretrain as train
    from foreshock.tracking import tracking

    console = Console(json, quiet)
    plan = read_options(config, PretrainConfig, "pretrain")
    plan = replace(plan, steps=steps or plan.steps, out=out or plan.out)
    if Path(plan.out).exists() and not Path(plan.out).is_dir():
        raise OutputError(f"{plan.out} is a file; choose a folder with --out.")
    done = 0
    with (
        tracking(track or (), Path(plan.out).name) as handed,
        console.progress("steps", plan.steps) as advance,
    ):

        def on_step(line: dict[str, Any]) -> None:
            nonlocal done
            handed(line)
            step = int(line.get("step", done))
            advance(step - done)
            done = step

        folder = train(plan, on_step=on_step)
    console.result({"folder": str(folder), "steps": plan.steps}, str(folder))
