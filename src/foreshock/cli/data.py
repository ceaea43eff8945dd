"""data: the public recordings that foreshock is developed on, and how to get a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, table

app = typer.Typer(help="Public recordings: list, pull.", no_args_is_help=True)

To = Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder of recordings.")]


@app.command("list")
def list_(to: To = Path("data"), json: options.Json = False) -> None:
    """The recordings, their licences, and whether they are here, can be pulled, or why not."""
    from foreshock.sources import catalogue

    facts = [
        {
            "name": one.name,
            "what": one.what,
            "licence": one.licence,
            "origin": one.origin,
            "files": len(one.files),
            "bytes": one.size_bytes,
            "is_here": catalogue.is_here(one, to),
            "why_not_pulled": one.why_not or None,
        }
        for one in catalogue.CATALOGUE
    ]
    rows = []
    for fact in facts:
        by_hand = "by hand" if fact["why_not_pulled"] else f"pull: {int(str(fact['bytes'])) / 1e6:.0f} MB"
        rows.append((fact["name"], "here" if fact["is_here"] else by_hand, fact["licence"], fact["what"]))
    notes = [f"{one.name}: {one.origin}\n    {one.why_not}." for one in catalogue.CATALOGUE if one.why_not]
    text = table(rows, ("recording", "copy", "licence", "what")) + "\n\nby hand:\n" + "\n".join(notes)
    Console(json).result(facts, text)


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `foreshock data list` tells.")],
    to: To = Path("data"),
    mirror: Annotated[
        str | None,
        typer.Option("--mirror", metavar="URL", help="Instead of GitHub. [environment FORESHOCK_MIRROR]"),
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Download recordings from where their authors put them, checked against SHA-256 sums.

    Needs the extra `foreshock[data]` and a network. Files that are here already are kept.
    """
    from foreshock.sources import catalogue

    console = Console(json, quiet)
    recordings = [catalogue.find(name) for name in names]
    facts = []
    for one in recordings:
        with console.progress(f"pulling {one.name}", len(one.files)) as advance:
            folder = catalogue.pull(one, to, mirror=mirror, force=force, on_file=lambda _: advance(1))
        facts.append({"name": one.name, "folder": str(folder), "files": len(one.files)})
    console.result(facts, "\n".join(f"{fact['name']}: {fact['folder']}" for fact in facts))
