"""weights: which checkpoints are here, whether they are whole, and how to get or copy one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, table
from foreshock.errors import OutputError, WeightsError

app = typer.Typer(help="Checkpoints: list, verify, pull, export, path.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="nano, a folder, or a hub name.")]


@app.command("list")
def list_(json: options.Json = False) -> None:
    """The checkpoints that load by name, and whether they are here."""
    from foreshock.models import weights

    rows = [_look(name, weights) for name in (*weights.EMBEDDED, *weights.HUB_NAMES)]
    head = ("name", "here", "parameters", "folder")
    text = table(
        [
            (r["name"], "yes" if r["here"] else "no", _count(r["parameters"]), r["folder"] or "-")
            for r in rows
        ],
        head,
    )
    Console(json).result(rows, text)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="nano, a folder, or a hub name.")] = "nano",
    json: options.Json = False,
) -> None:
    """Check a checkpoint against its SHA-256 sums; exit code 2 when it is damaged."""
    from foreshock.models import weights

    folder = weights.find(name)
    weights.read_config(folder)
    weights.read_tensors(folder)  # refuses what is cut short or changed
    path = folder / weights.FILE_NAME
    known, digest = weights.known_digest(path), weights.sha256(path)
    facts = {"name": name, "folder": str(folder), "sha256": digest, "compared": known is not None}
    against = "as in SHA256SUMS" if known else "whole, but no SHA256SUMS lies beside it to compare with"
    Console(json).result(facts, f"{name}: {against} ({digest[:16]}…)")


@app.command()
def pull(name: Name, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Download a checkpoint from the hub (needs the extra `foreshock[hub]` and a network)."""
    from foreshock.models import weights

    console = Console(json, quiet)
    with console.progress(f"pulling {name}"):
        folder = weights.pull(name)
    console.result({"name": name, "folder": str(folder)}, f"{name}: {folder}")


@app.command()
def export(
    name: Name,
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Copy a checkpoint into a folder, in the format that the original package reads."""
    import shutil

    from foreshock.models import weights

    folder = weights.find(name)
    files = [folder / weights.CONFIG_NAME, folder / weights.FILE_NAME]
    files += [f for f in (folder / weights.SUMS_NAME, folder / "MODEL_CARD.md") if f.is_file()]
    taken = [to / file.name for file in files if (to / file.name).exists()]
    if taken and not force:
        raise OutputError(f"{taken[0]} exists; overwrite it with --force or choose another folder.")
    try:
        to.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, to / file.name)
    except OSError as error:
        raise OutputError(f"{to} can't be written ({error.strerror}); choose another folder.") from error
    names = [file.name for file in files]
    Console(json).result({"name": name, "folder": str(to), "files": names}, f"{to}: {', '.join(names)}")


@app.command("path")
def path_(name: Name = "nano") -> None:
    """Print the folder of a checkpoint."""
    from foreshock.models import weights

    Console().result(None, str(weights.find(name)))


def _look(name: str, weights: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": name, "here": False, "folder": None, "parameters": None}
    try:
        folder = weights.find(name)
    except WeightsError:
        return facts
    return facts | {"here": True, "folder": str(folder), "parameters": parameters(folder / weights.FILE_NAME)}


def parameters(file: Path) -> int | None:
    """How many numbers a safetensors file holds, from its header alone."""
    import json
    import math
    import struct

    try:
        with file.open("rb") as opened:
            length = struct.unpack("<Q", opened.read(8))[0]
            header = json.loads(opened.read(min(length, 1 << 24)))
    except (OSError, ValueError, struct.error):
        return None
    return sum(int(math.prod(entry["shape"])) for key, entry in header.items() if key != "__metadata__")


def _count(parameters: int | None) -> str:
    if parameters is None:
        return "-"
    return f"{parameters / 1e6:.2f} M"
