"""foreshock serve: watch a Prometheus, answer on HTTP, tell of incidents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foreshock.cli.options import Json

Config = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help="YAML: prometheus, serve, alerts; docs/live.md.", show_default=False
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Ask everything once, tell what was found, and end.")]


def serve(config: Config, dry_run: DryRun = False, json: Json = False) -> None:
    """Watch a Prometheus: read, score, keep incidents, tell, and answer on HTTP."""
    from foreshock.service.settings import read_settings

    settings = read_settings(config)
    if not dry_run:
        from foreshock.service.process import serve

        serve(settings)
        return
    from foreshock.service.rehearse import rehearse

    found = rehearse(settings)
    if json:
        import json as format

        print(format.dumps(found))
    else:
        print("\n".join(_describe(found)))


def _describe(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['prometheus']}: answers; its clock is {found['clock_ahead_s']:+.1f} s from ours"]
    for query in found["queries"]:
        lines.append(f"  {query['kpi']}: {query['problem'] or str(query['series']) + ' series'}")
    lines.append(
        f"{found['series']} series of {len(found['services'])} services, a row each {found['step_s']:g} s"
    )
    if not found["can_write"]:
        lines.append(
            "serve.token_env and token_file are not set: the page can be read, nothing can be written"
        )
    return lines
