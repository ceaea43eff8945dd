"""Writes the reference pages from the code itself: commands, settings, the settings' JSON schema."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import typing
from pathlib import Path
from typing import Any

import foreshock.config as config
from foreshock.cli import app

HERE = Path(__file__).parent
WRITTEN = "<!-- Written by `make docs`; change the code instead. -->"


def pages() -> dict[str, str]:
    """{file name: text} of every generated page."""
    schema = json.dumps(config.json_schema(), indent=2) + "\n"
    return {"reference.md": f"{WRITTEN}\n\n{_commands()}\n{_settings()}", "settings.schema.json": schema}


def _commands() -> str:
    lines = [
        "# Reference",
        "",
        "## Commands",
        "",
        "Exit codes: 0 fine, 2 bad input or usage, 3 memory or time ran",
    ]
    lines += ["out, 130 interrupted, 1 anything else. `--debug` shows where an error comes from.", ""]
    named = [(_name(one), one.callback) for one in app.registered_commands]
    for group in app.registered_groups:
        inner = group.typer_instance.registered_commands if group.typer_instance else []
        named += [(f"{group.name} {_name(one)}", one.callback) for one in inner]
    for name, function in sorted(named):
        lines += _command(f"foreshock {name}", function)
    return "\n".join(lines)


def _name(command: Any) -> str:
    return str(command.name or command.callback.__name__)


def _command(name: str, function: Any) -> list[str]:
    places, options = [], []
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind, told = typing.get_args(hints[parameter.name])[:2]
        is_required = parameter.default is parameter.empty
        words = (told.metavar or parameter.name.upper()).strip("[]")
        if type(told).__name__ == "ArgumentInfo":
            places.append(words if is_required else f"[{words}]")
            options.append(f"- `{words}`: {told.help}")
            continue
        first = [told.default] if isinstance(told.default, str) else []  # typer takes the first name for it
        names = ", ".join([*first, *(told.param_decls or ())] or [f"--{parameter.name.replace('_', '-')}"])
        options.append(f"- `{names}{'' if kind is bool else f' {words}'}`: {told.help}")
    usage = " ".join([name, *places])
    told = " ".join((function.__doc__ or "").split())
    return [f"### `{usage}`", "", told, *([""] if options else []), *options, ""]


def _settings() -> str:
    lines = [
        "## Settings",
        "",
        "default < preset < file < environment (`FORESHOCK__WINDOW__STRIDE=64`) < flag.",
        "",
    ]
    lines += [
        "`foreshock config show` tells each value and where it comes from. Editors check a file against",
        "",
    ]
    lines[-1:] = ["[settings.schema.json](settings.schema.json).", ""]
    defaults = config.Settings().flat()
    comments = _comments()
    lines += ["| setting | default | |", "|---|---|---|"]
    for key, value in defaults.items():
        lines.append(f"| `{key}` | `{json.dumps(value)}` | {comments.get(key.partition('.')[2], '')} |")
    return "\n".join(lines) + "\n"


def _comments() -> dict[str, str]:
    """What stands beside each field in the code."""
    import foreshock.decide as decide

    found: dict[str, str] = {}
    for module in (config, decide):
        source = Path(str(module.__file__)).read_text("utf-8")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                _, mark, words = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")
                if mark:
                    found.setdefault(node.target.id, words.replace("|", "\\|"))
    return found


if __name__ == "__main__":
    for file_name, text in pages().items():
        (HERE / file_name).write_text(text, "utf-8")
        sys.stdout.write(f"docs/{file_name}\n")
