"""simulate and pretrain: make recordings with known faults, make checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foreshock.cli import options
from foreshock.cli.console import Console


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

    frame = simulator.simulate(seed=seed, rows=rows, step_s=step)
    files = [str(path) for path in simulator.write(frame, out, force=force)]
    facts = {
        "files": files,
        "rows": len(frame),
        "kpis": len(frame.kpis),
        "seed": seed,
        "faults": simulator.planted(frame),
    }
    Console(json).result(facts, "\n".join(files))


def pretrain(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML: corpus, model, schedule.")],
    quiet: options.Quiet = False,
) -> None:
    """Train a checkpoint from scratch."""
    from foreshock import pretrain as training

    folder = training.pretrain(config)
    Console(quiet=quiet).result(None, str(folder))
