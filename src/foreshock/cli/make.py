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
    hours: Annotated[float, typer.Option(help="How long.", min=0.1)] = 24.0,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Make a recording of a simulated system with planted faults and their labels."""
    from foreshock.sources import simulator

    frame = simulator.simulate(hours=hours, seed=seed)
    files = simulator.write(frame, out, force=force)
    facts = {"files": [str(f) for f in files], "rows": len(frame), "kpis": len(frame.kpis), "seed": seed}
    Console(json).result(facts, "\n".join(facts["files"]))


def pretrain(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML: corpus, model, schedule.")],
    quiet: options.Quiet = False,
) -> None:
    """Train a checkpoint from scratch."""
    from foreshock import pretrain as training

    folder = training.pretrain(config)
    Console(quiet=quiet).result(None, str(folder))
