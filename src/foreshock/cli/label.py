"""label: say what an incident was, into the store or to a running service; list what was said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, counted, table
from foreshock.errors import ConfigError, NotFoundError, SourceError

DEFAULT = Path("foreshock-data/foreshock.sqlite")

File = Annotated[
    Path, typer.Option("--store", metavar="FILE", help="The service's store; it may be running.")
]
Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="A running service, in place of the store.")
]
TokenEnv = Annotated[
    str, typer.Option("--token-env", metavar="NAME", help="The variable that holds the service's token.")
]


def label(
    incident: Annotated[
        str, typer.Argument(metavar="INCIDENT", help="Its id, or `list`.", show_default=False)
    ],
    verdict: Annotated[
        str | None, typer.Option("--verdict", metavar="WORD", help="confirmed or false_alarm.")
    ] = None,
    fault_type: Annotated[str, typer.Option("--fault-type", help="What it was, such as memory_leak.")] = "",
    service: Annotated[str, typer.Option("--service", help="Where it began.")] = "",
    note: Annotated[str, typer.Option("--note", help="For whoever reads it later.")] = "",
    author: Annotated[str, typer.Option("--author", help="Who says so.")] = "",
    store: File = DEFAULT,
    url: Url = None,
    token_env: TokenEnv = "FORESHOCK_TOKEN",
    json: options.Json = False,
) -> None:
    """Say whether an incident was real; `label list` shows incidents and what was said of them.

    Every verdict is kept, the newest counts. Works on the store's file, with or without a running service.
    """
    console = Console(json)
    if incident == "list":
        rows = _ask(url, "incidents?limit=1000")["incidents"] if url else _listed(store)
        console.result({"incidents": rows}, lambda: _table(rows))
        return
    if verdict is None:
        raise ConfigError("say what it was with --verdict confirmed or --verdict false_alarm.")
    said = {"verdict": verdict, "fault_type": fault_type, "service": service, "note": note, "author": author}
    if url:
        kept = _ask(url, f"incidents/{incident}/verdict", said, token_env)
    else:
        from foreshock.store import Store

        with Store(_there(store)) as opened:
            kept = opened.add_verdict(incident, **said)
    words = " ".join(word for word in (verdict, fault_type, service) if word)
    console.result(kept, f"{incident}: {words}")


def _there(store: Path) -> Path:
    if not store.is_file():
        raise NotFoundError(
            f"{store} is not there; name the file with --store (in the folder serve.data), or "
            "a running service with --url."
        )
    return store


def _listed(store: Path) -> list[dict[str, Any]]:
    """Incidents as the API's list has them, newest first."""
    from foreshock.service.views import summary
    from foreshock.store import Store

    with Store(_there(store)) as opened:
        said = {verdict["incident"]: verdict for verdict in opened.verdicts(newest=True)}
        return [summary(one, said.get(one["id"])) for one in opened.incidents(limit=1000)]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "no incident yet"
    lines = []
    for row in rows:
        said = row["verdict"] or {}
        told = " ".join(word for word in (said.get("verdict"), said.get("fault_type")) if word)
        lines.append(
            (row["id"], row["state"], row["service"] or "unknown", told or "-", row["headline"][:70])
        )
    judged = sum(row["verdict"] is not None for row in rows)
    head = ("incident", "state", "service", "verdict", "what")
    return f"{table(lines, head)}\n{counted(len(rows), 'incident')}, {judged} judged"


def _ask(url: str, path: str, body: dict[str, Any] | None = None, token_env: str = "") -> Any:
    """One answer of a running service."""
    from foreshock.service.client import ask

    if not url.startswith(("http://", "https://")):
        raise SourceError(f"{url!r} is no address; write it as http://127.0.0.1:8099.")
    return ask(url, path, body, token_env)
