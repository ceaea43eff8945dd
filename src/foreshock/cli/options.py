"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from foreshock.config import Resolved

Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A table (.csv, .csv.gz, .csv.zst, .parquet), a folder of a Nezha recording, or `demo:`.",
        show_default=False,
    ),
]
Detector = Annotated[str | None, typer.Option("--detector", help="Which detector scores. [foreshock]")]
Model = Annotated[str | None, typer.Option("--model", help="Weights: nano, a folder, or a hub name. [nano]")]
Adapter = Annotated[
    str | None, typer.Option("--adapter", metavar="DIR", help="What `foreshock adapt` learned. [none]")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Look both ways in time: for past recordings, never for live data.")
]
FalseAlarms = Annotated[
    float | None, typer.Option("--false-alarms", metavar="N", help="False alarms a day to allow. [1]")
]
Services = Annotated[
    list[str] | None,
    typer.Option(
        "--services",
        metavar="RULE",
        help="Tells a KPI's service: 'node_*=infrastructure', or just 'cart'. May be repeated.",
    ),
]
Timestamp = Annotated[
    str | None, typer.Option("--timestamp", metavar="COLUMN", help="The time column, if oddly named.")
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=WORD", help="Keep these rows only. May be repeated."),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="COLUMN", help="Leave this column out. May be repeated."),
]
Day = Annotated[
    str | None, typer.Option("--day", metavar="DATE", help="Which day of a folder, as 2022-08-22.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML settings.")]
Preset = Annotated[
    str | None, typer.Option("--preset", help="Settings to begin with: cpu or trainticket-8gb.")
]
Log = Annotated[
    Path | None, typer.Option("--log", "--run-dir", metavar="DIR", help="Keep a folder of this run in DIR.")
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER[:PLACE]",
        help="Hand the records to tensorboard, mlflow or trackio, too. May be repeated.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, on stdout alone.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]


def settings_from(
    config: Path | None,
    preset: str | None,
    *,
    detector: str | None = None,
    model: str | None = None,
    adapter: str | None = None,
    offline: bool = False,
    false_alarms: float | None = None,
    services: list[str] | None = None,
    timestamp: str | None = None,
    where: list[str] | None = None,
    ignore: list[str] | None = None,
    day: str | None = None,
    log: Path | None = None,
) -> Resolved:
    """The settings that these flags, the file and the environment add up to."""
    from foreshock.config import resolve

    flags: dict[str, tuple[str, Any]] = {
        "detector.name": ("--detector", detector),
        "detector.model": ("--model", model),
        "detector.adapter": ("--adapter", adapter),
        "detector.causal": ("--offline", False if offline else None),
        "threshold.false_alarms_per_day": ("--false-alarms", false_alarms),
        "input.services": ("--services", services or None),
        "input.timestamp": ("--timestamp", timestamp),
        "input.where": ("--where", where or None),
        "input.ignore": ("--ignore", ignore or None),
        "input.day": ("--day", day),
        "run.log": ("--log", None if log is None else str(log)),
    }
    return resolve(config, preset, flags)
