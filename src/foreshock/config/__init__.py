"""Settings from presets, a YAML file, the environment and flags, each knowing where it came from.

    default < preset < file < environment (FORESHOCK__WINDOW__STRIDE=64) < flag

Every option is a field beside the function that uses it; this module gathers them, and nothing below
the command line ever sees a `Settings`. YAML is read as plain data: no tags, no anchors that run code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as checked

from foreshock.calibrate import CausalCalibrator
from foreshock.config.document import Document, nearest, need, parse, plain, read_document, show
from foreshock.decide import Rules
from foreshock.errors import ConfigError

ENVIRONMENT = "FORESHOCK__"
PRESETS = ("cpu", "trainticket-8gb")

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


@checked(frozen=True)
class InputOptions:
    """How a table is read and mended before it is scored."""

    services: tuple[str, ...] = ()  # rules such as "node_*=infrastructure", for KPI names without a service
    timestamp: str = ""  # the time column, if it has an unusual name
    where: tuple[str, ...] = ()  # keep rows whose text columns hold a word: "entity=machine-1-6"
    ignore: tuple[str, ...] = ()  # columns to leave out, such as notes in words
    day: str = ""  # which day of a folder with several, as 2022-08-22
    repair: bool = True  # sort and de-duplicate rows, infinite values to missing; told when done


@checked(frozen=True)
class WindowOptions:
    """How much of the past the model looks at, and how often."""

    length: Annotated[int, Field(ge=16, le=512)] = 256  # rows a window; MOMENT reads at most 512
    stride: Annotated[int, Field(ge=8)] = 32  # rows judged at once, each by the window that ends with them


@checked(frozen=True)
class DetectorOptions:
    """Which detector, on which weights."""

    name: str = "foreshock"
    model: str = "nano"  # nano, a folder with config.json and model.safetensors, or a hub name
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    causal: bool = True  # a score never reads later rows; false looks both ways, for past recordings only
    adapter: str = ""  # a folder that `foreshock adapt` wrote; empty is zero-shot


@checked(frozen=True)
class ThresholdOptions:
    """The promise about false alarms, and what is learned from."""

    false_alarms_per_day: Positive = CausalCalibrator.false_alarms_per_day
    warmup_rows: Count = CausalCalibrator.warmup_rows  # scores before the first alarm may be raised
    refresh_rows: Count = CausalCalibrator.refresh_rows  # scores between two adjustments, at most
    memory_rows: Count = CausalCalibrator.memory_rows  # scores remembered
    relearn_s: Positive = CausalCalibrator.relearn_s  # seconds after which a lasting change counts as normal


@checked(frozen=True)
class MemoryOptions:
    """How much may be used."""

    budget: str = "auto"  # such as 8GiB; auto is what is held already and 80 % of what is free
    rows: Count = 4_096  # rows read and scored at once, at most


@checked(frozen=True)
class RunOptions:
    """What is kept of a run."""

    log: str = ""  # folder for run folders; empty keeps none
    seed: Annotated[int, Field(ge=0)] = 0


class Settings(BaseModel):
    """Everything that can be set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: InputOptions = Field(default_factory=InputOptions)
    window: WindowOptions = Field(default_factory=WindowOptions)
    detector: DetectorOptions = Field(default_factory=DetectorOptions)
    threshold: ThresholdOptions = Field(default_factory=ThresholdOptions)
    rules: Rules = Field(default_factory=Rules)
    memory: MemoryOptions = Field(default_factory=MemoryOptions)
    run: RunOptions = Field(default_factory=RunOptions)

    def flat(self) -> dict[str, Any]:
        """Every value by its dotted name, such as "window.stride"."""
        return {
            f"{section}.{key}": value
            for section in type(self).model_fields
            for key, value in asdict(getattr(self, section)).items()
        }


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and where each value came from."""

    settings: Settings
    origins: dict[str, str]  # dotted name → "default", "preset cpu", "shop.yaml:7", "environment …", "flag …"

    def describe(self) -> dict[str, dict[str, Any]]:
        """{dotted name: {"value", "origin"}}, for `config show` and the run log."""
        return {
            key: {"value": value, "origin": self.origins.get(key, "default")}
            for key, value in self.settings.flat().items()
        }


@dataclass(frozen=True, slots=True)
class Layer:
    """Values of one origin: dotted name → value, and the words that name the place of each."""

    values: dict[str, Any]
    places: dict[str, str]


# ----------------------------------------------------------------------------------------------- resolving


def resolve(
    file: str | Path | Document | None = None,
    preset: str | None = None,
    flags: Mapping[str, tuple[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Resolved:
    """Merge all layers and check the result.

    Args:
        file: YAML, or what was read from it; it may name its own `preset:`, which the argument
            `preset` overrides.
        flags: {dotted name: (flag, value)}; a value of None is a flag that was not given.
        environment: variables, those of the process unless given.

    Raises:
        ConfigError: with file and line, variable or flag, for the first thing that is wrong.
    """
    layers = []
    if file is not None:
        own, named = _from_document(file if isinstance(file, Document) else read_document(Path(file)))
        preset = preset or named
        layers.append(own)
    if preset:
        layers.insert(0, load_preset(preset))
    layers.append(_from_environment(os.environ if environment is None else environment))
    layers.append(_from_flags(flags or {}))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        _check_names(layer)
        values |= layer.values
        origins |= {key: layer.places[key] for key in layer.values}
    return Resolved(_validate(values, origins), origins)


def load_preset(name: str) -> Layer:
    """The values of a preset that comes with the package.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}{nearest(name, PRESETS)}")
    text = resources.files("foreshock").joinpath("presets", f"{name}.yaml").read_text("utf-8")
    layer, _ = _from_document(parse(text, f"preset {name}"))
    return Layer(layer.values, dict.fromkeys(layer.values, f"preset {name}"))


def json_schema() -> dict[str, Any]:
    """JSON schema of a configuration file, for editors and checks."""
    schema = Settings.model_json_schema()
    schema["properties"]["preset"] = {"enum": list(PRESETS), "description": "values to begin with"}
    for section in schema.get("$defs", {}).values():
        section["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _from_document(document: Document) -> tuple[Layer, str | None]:
    """The values of a file, and the preset it names."""
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for section, content in document.tree.items():
        is_known = section in Settings.model_fields
        inside = content if isinstance(content, dict) and is_known else {}
        for name, value in inside.items():
            values[f"{section}.{name}"] = value
            places[f"{section}.{name}"] = document.at(section, name)
        is_empty = content is None and is_known
        if not (isinstance(content, dict) and is_known) and not is_empty:
            values[section] = content
            places[section] = document.at(section)
    preset = values.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        near = nearest(str(preset), PRESETS)
        raise ConfigError(f"{places['preset']}: there is no preset {preset!r}{near}")
    return Layer(values, places), preset


def _from_environment(environment: Mapping[str, str]) -> Layer:
    names = sorted(name for name in environment if name.startswith(ENVIRONMENT))
    values, places = {}, {}
    for name in names:
        key = ".".join(name.removeprefix(ENVIRONMENT).lower().split("__"))
        values[key] = plain(environment[name])
        places[key] = f"environment {name}"
    return Layer(values, places)


def _from_flags(flags: Mapping[str, tuple[str, Any]]) -> Layer:
    given = {key: pair for key, pair in flags.items() if pair[1] is not None}
    return Layer(
        {key: value for key, (_, value) in given.items()},
        {key: f"flag {flag}" for key, (flag, _) in given.items()},
    )


# ------------------------------------------------------------------------------------------------- checking


def _known() -> tuple[str, ...]:
    return tuple(Settings().flat())


def _check_names(layer: Layer) -> None:
    known = _known()
    sections = tuple(Settings.model_fields)
    for key in layer.values:
        if key in known:
            continue
        section, _, name = key.partition(".")
        if section not in sections:
            near = nearest(section if name else key, sections if name else (*sections, *known))
            raise ConfigError(f"{layer.places[key]}: there is no section {section!r}{near}")
        if not name:
            keys = ", ".join(k.partition(".")[2] for k in known if k.startswith(f"{section}."))
            raise ConfigError(f"{layer.places[key]}: {section} is a section; it holds {keys}.")
        raise ConfigError(f"{layer.places[key]}: there is no setting {key!r}{nearest(key, known)}")


def _validate(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    tree: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:2])
        place = f"{origins[key]}: " if key in origins else ""
        shown = values.get(key, first["input"])
        raise ConfigError(f"{place}{key} is {show(shown)}; {need(first)}") from None
    except (
        ConfigError
    ) as error:  # from the options themselves, such as `Rules`: they know the key, not the line
        key = str(error).split(" ", 1)[0]
        raise ConfigError(f"{origins[key]}: {error}" if key in origins else str(error)) from None
    for key, demand in _together(settings):
        place = f"{origins[key]}: " if key in origins else ""
        raise ConfigError(f"{place}{key} is {show(settings.flat()[key])}; {demand}")
    return settings


def _together(settings: Settings) -> Iterator[tuple[str, str]]:
    """What no field can know alone: (the key to name, what it needs)."""
    from foreshock.memory import Budget

    if settings.window.stride > settings.window.length:
        yield "window.stride", f"it can't be longer than window.length ({settings.window.length})"
    if settings.window.stride == settings.window.length:
        yield "window.stride", "it must be shorter than window.length, so that something lies before it"
    for key, rows in (("window.length", settings.window.length), ("window.stride", settings.window.stride)):
        if rows % 8:
            yield key, "it must be a multiple of 8, the rows that the model reads as one patch"
    try:
        Budget.parse(settings.memory.budget)
    except ConfigError:
        yield "memory.budget", "it must be auto or an amount such as 8GiB or 500MB"
