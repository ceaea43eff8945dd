"""simulate and pretrain: make recordings with known faults, make checkpoints."""

from __future__ import annotations

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
    seed: Annotated[int, typer.Option(help="The same seed gives the same recording.", min=0)] = 0,
    rows: Annotated[int, typer.Option(help="How many rows.", min=1, max=10_000_000)] = 2880,
    step: Annotated[float, typer.Option(metavar="SECONDS", help="Time between two rows.", min=0.001)] = 30.0,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Make a recording of a simulated system with planted faults and their labels."""
    from foreshock.sources import simulator

    plan = simulator.make_plan(seed=seed, rows=rows, step_s=step)
    paths = simulator.write(simulator.blocks(plan), out, force=force)
    files = [str(path) for path in paths]
    facts = {
        "files": files,
        "rows": rows,
        "kpis": len(plan.kpis),
        "seed": seed,
        "faults": loads(paths[2].read_text("utf-8")),
    }
    Console(json).result(facts, "\n".join(files))


def pretrain(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML: out, steps, model, corpus, …")],
    steps: Annotated[int | None, typer.Option(help="Instead of the file's.", min=1)] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Instead of the file's.")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a checkpoint from scratch, or go on where the last run stopped."""
    from foreshock.config.document import read_options
    from foreshock.pretrain import PretrainConfig
    from foreshock.pretrain import pretrain as train

    console = Console(json, quiet)
    plan = read_options(config, PretrainConfig, "pretrain")
    plan = replace(plan, steps=steps or plan.steps, out=out or plan.out)
    if Path(plan.out).exists() and not Path(plan.out).is_dir():
        raise OutputError(f"{plan.out} is a file; choose a folder with --out.")
    done = 0
    with console.progress("steps", plan.steps) as advance:

        def on_step(line: dict[str, Any]) -> None:
            nonlocal done
            step = int(line.get("step", done))
            advance(step - done)
            done = step

        folder = train(plan, on_step=on_step)
    console.result({"folder": str(folder), "steps": plan.steps}, str(folder))
