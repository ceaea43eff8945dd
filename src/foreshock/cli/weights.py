"""weights: which checkpoints are here, whether they are whole, and how to get or copy one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, table

app = typer.Typer(help="Checkpoints: list, verify, pull, export, path.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="nano, a folder, or a hub name.")]


@app.command("list")
def list_(json: options.Json = False) -> None:
    """The checkpoints that are here: in the package and in the hub's cache."""
    from foreshock.models import weights

    facts: list[dict[str, Any]] = [
        {
            "name": one.name,
            "folder": str(one.folder),
            "bytes": one.size_bytes,
            "parameters": parameters(one.folder / weights.FILE_NAME),
            "has_sha256": one.has_digest,
        }
        for one in weights.installed()
    ]
    rows = [
        (f["name"], _count(f["parameters"]), "yes" if f["has_sha256"] else "no", f["folder"]) for f in facts
    ]
    Console(json).result(facts, table(rows, ("name", "parameters", "sums", "folder")))


@app.command()
def verify(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="nano, a folder, or a hub name.")] = "nano",
    json: options.Json = False,
) -> None:
    """Check a checkpoint against its SHA-256 sums; exit code 2 when it is damaged."""
    from foreshock.models import weights

    digest = weights.verify(name)
    folder = weights.find(name)
    is_compared = weights.known_digest(folder / weights.FILE_NAME) is not None
    facts = {"name": name, "folder": str(folder), "sha256": digest, "compared": is_compared}
    against = "as in SHA256SUMS" if is_compared else "whole, but no SHA256SUMS lies beside it to compare with"
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
    from foreshock.models import weights

    folder = weights.export(name, to, force=force)
    Console(json).result({"name": name, "folder": str(folder)}, str(folder))


@app.command("path")
def path_(name: Name = "nano") -> None:
    """Print the folder of a checkpoint."""
    from foreshock.models import weights

    Console().result(None, str(weights.find(name)))


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
