"""config: what is set, by whom, and what could be."""

from __future__ import annotations

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, table

app = typer.Typer(help="Settings: show, schema.", no_args_is_help=True)


@app.command()
def show(
    detector: options.Detector = None,
    model: options.Model = None,
    offline: options.Offline = False,
    false_alarms: options.FalseAlarms = None,
    services: options.Services = None,
    timestamp: options.Timestamp = None,
    where: options.Where = None,
    ignore: options.Ignore = None,
    day: options.Day = None,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    log: options.Log = None,
    json: options.Json = False,
) -> None:
    """Every setting, its value and where it comes from.

    default < preset < file < environment (FORESHOCK__WINDOW__STRIDE=64) < flag
    """
    from foreshock.runlog import to_json

    resolved = options.settings_from(
        config, preset, detector=detector, model=model, offline=offline,
        false_alarms=false_alarms, services=services, timestamp=timestamp, where=where, ignore=ignore,
        day=day, log=log,
    )  # fmt: skip
    facts = resolved.describe()
    rows = [(key, to_json(entry["value"]), entry["origin"]) for key, entry in facts.items()]
    Console(json).result(facts, table(rows, ("setting", "value", "origin")))


@app.command()
def schema() -> None:
    """The JSON schema of a settings file, for editors."""
    from foreshock.config import json_schema

    Console(json=True).result(json_schema())
