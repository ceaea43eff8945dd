"""Settings: merged in order, each with its origin, each mistake with its place."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock import calibrate, config, sources
from foreshock.config import Settings, json_schema, load_preset, resolve
from foreshock.config.document import parse, read_options
from foreshock.errors import ConfigError

PRESETS_FOLDER = Path(config.__file__).parents[1] / "presets"


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """shop(text): the text in shop.yaml, resolved from its own folder."""
    monkeypatch.chdir(tmp_path)

    def write(text, **more):
        (tmp_path / "shop.yaml").write_text(text)
        return resolve("shop.yaml", environment={}, **more)

    return write


def test_defaults_need_nothing():
    """No file, no preset: every value is a default."""
    resolved = resolve(environment={})
    assert resolved.settings == Settings()
    assert {entry["origin"] for entry in resolved.describe().values()} == {"default"}


def test_later_layers_win(shop):
    """default < preset < file < environment < flag, and each value knows its origin."""
    (resolved_preset,) = [shop("window:\n  length: 128\n  stride: 16\n", preset="trainticket-8gb")]
    described = resolved_preset.describe()
    assert described["window.length"] == {"value": 128, "origin": "shop.yaml:2"}
    assert described["memory.budget"]["origin"] == "preset trainticket-8gb"
    resolved = resolve(
        "shop.yaml",
        preset="cpu",
        environment={"FORESHOCK__WINDOW__STRIDE": "8", "FORESHOCK__WINDOW__LENGTH": "96", "OTHER": "1"},
        flags={"window.length": ("--length", 64), "run.seed": ("--seed", None)},
    )
    described = resolved.describe()
    assert described["window.length"] == {"value": 64, "origin": "flag --length"}
    assert described["window.stride"] == {"value": 8, "origin": "environment FORESHOCK__WINDOW__STRIDE"}
    assert described["run.seed"]["origin"] == "default"


def test_a_file_names_its_preset(shop):
    """`preset:` in the file counts below the file's own values; the argument overrides it."""
    assert shop("preset: trainticket-8gb\n").settings.memory.budget == "7GiB"
    assert shop("preset: trainticket-8gb\nmemory:\n  budget: 5GiB\n").settings.memory.budget == "5GiB"
    assert shop("preset: trainticket-8gb\n", preset="cpu").settings.memory.budget == "auto"


@pytest.mark.parametrize("name", config.PRESETS)
def test_presets_are_valid(name):
    """Every preset that ships resolves and sets something."""
    assert load_preset(name).values
    assert resolve(preset=name, environment={}).settings


MISTAKES = [
    (
        "window:\n  strid: 3\n",
        "shop.yaml:2: there is no setting 'window.strid'; did you mean 'window.stride'?",
    ),
    ("\nwindw:\n\n  stride: 3\n", "shop.yaml:2: there is no section 'windw'; did you mean 'window'?"),
    ("windw: {}\n", "shop.yaml:1: there is no section 'windw'; did you mean 'window'?"),
    (
        "window:\n  length: 256\n\n\n\n\n  stride: 512\n",
        "shop.yaml:7: window.stride is 512; it can't be longer than window.length (256)",
    ),
    ("window:\n  stride: fast\n", 'shop.yaml:2: window.stride is "fast"; it must be a whole number'),
    ("window:\n  stride: 0\n", "shop.yaml:2: window.stride is 0; it must be 8 or more"),
    (
        "window:\n stride: 1\n stride: 2\n",
        "shop.yaml:3: window.stride stands in line 2 already; keep one of them.",
    ),
    ("window: 3\n", "shop.yaml:1: window is a section; it holds length, stride."),
    ("stride: 5\n", "shop.yaml:1: there is no section 'stride'; did you mean 'window.stride'?"),
    ("rules:\n  merge_s: -1\n", "shop.yaml:2: rules.merge_s is -1.0; it must be 0 or more."),
    ("preset: cpuu\n", "shop.yaml:1: there is no preset 'cpuu'; did you mean 'cpu'?"),
    ("memory: {budget: 8Gx}\n", 'shop.yaml:1: memory.budget is "8Gx"; it must be auto or an amount'),
    (
        "detector: {precision: fp8}\n",
        "shop.yaml:1: detector.precision is \"fp8\"; it must be 'auto', 'fp32' or 'bf16'",
    ),
    ("- 1\n", "shop.yaml:1: the file must hold sections"),
    ("a: [\n", "shop.yaml:2: this is no YAML"),
    ("run:\n\tseed: 1\n", "shop.yaml:2: this is no YAML"),
    ("run:\n  seed: !!python/object:os.system 3\n", "shop.yaml:2: could not determine a constructor"),
    ("run: &a\n  seed: 1\nrules: *a\n", "shop.yaml:3: `*a` repeats another value; write it out."),
    ("x: \x00\n", "shop.yaml:1: this is no YAML"),
    ("? [a]\n: 3\n", "shop.yaml:1: a key must be a word."),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_has_its_place(shop, text, message):
    """File and line, what came, what was needed."""
    with pytest.raises(ConfigError) as caught:
        shop(text)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_mistakes_outside_of_files():
    """The environment's variable and the flag are named like a line."""
    with pytest.raises(ConfigError, match=r"^environment FORESHOCK__WINDOW__STRID: there is no setting"):
        resolve(environment={"FORESHOCK__WINDOW__STRID": "3"})
    with pytest.raises(
        ConfigError, match=r"^flag --false-alarms: threshold.false_alarms_per_day is -1.0; it must"
    ):
        resolve(flags={"threshold.false_alarms_per_day": ("--false-alarms", -1.0)}, environment={})


def test_a_file_that_is_not_there(tmp_path):
    """A missing file, a folder and a file that is no text are config errors."""
    with pytest.raises(ConfigError, match="can't be read"):
        resolve(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="can't be read"):
        resolve(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"run:\n  log: \xff\n")
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        resolve(tmp_path / "b.yaml")


def test_deep_nesting_is_refused():
    """A file made to exhaust the reader is an error like another."""
    with pytest.raises(ConfigError):
        parse("a: " + "[" * 5000, "deep.yaml")


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text):
    """No text makes anything else than settings or a ConfigError."""
    with contextlib.suppress(ConfigError):
        parse(text, "any.yaml")


def test_empty_files_and_sections_say_nothing(shop):
    """An empty file, comments and a section without keys change nothing."""
    for text in ("", "# nothing\n", "window:\n", "---\n"):
        assert shop(text).settings == Settings()


def test_the_schema_knows_every_setting():
    """Each dotted name is in the schema, and unknown keys are refused by it."""
    schema = json_schema()
    json.dumps(schema)
    for key in Settings().flat():
        section, _, name = key.partition(".")
        reference = schema["properties"][section]["$ref"].rsplit("/", 1)[-1]
        assert name in schema["$defs"][reference]["properties"]
        assert schema["$defs"][reference]["additionalProperties"] is False
    assert schema["additionalProperties"] is False


def test_thresholds_agree_with_their_function():
    """Settings are arguments of the functions that use them, with the same defaults."""
    theirs = {f.name: f.default for f in dataclasses.fields(calibrate.CausalCalibrator)}
    ours = {f.name: f.default for f in dataclasses.fields(config.ThresholdOptions)}
    assert ours.items() <= theirs.items()
    read = inspect.signature(sources.read).parameters
    assert {f.name for f in dataclasses.fields(config.InputOptions)} - {"repair"} <= set(read)


@dataclasses.dataclass(frozen=True)
class Inner:
    path: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Outer:
    steps: int = 10
    inner: Inner = Inner("a")
    many: tuple[Inner, ...] = ()


def test_options_from_a_file(tmp_path):
    """Any options dataclass reads from a file, nested ones and lists of them too."""
    path = tmp_path / "o.yaml"
    path.write_text("steps: 3\ninner: {path: b}\nmany:\n  - path: c\n    weight: 2\n  - {path: d}\n")
    assert read_options(path, Outer) == Outer(3, Inner("b"), (Inner("c", 2.0), Inner("d")))
    path.write_text("outer:\n  steps: 4\n")
    assert read_options(path, Outer, "outer") == Outer(4)
    path.write_text("outer:\n  step: 4\n")
    with pytest.raises(ConfigError, match=r"yaml:2: there is no setting 'step'; did you mean 'steps'"):
        read_options(path, Outer, "outer")


def test_presets_of_one_command_are_valid():
    """The presets that are no settings read as the options of the command they belong to."""
    pretrain, evaluate = (importlib.import_module(f"foreshock.{name}") for name in ("pretrain", "evaluate"))
    kinds = {"nano": (pretrain.PretrainConfig, "pretrain"), "evaluate": (evaluate.Evaluation, "evaluate")}
    live = {"prometheus", "prometheus-trainticket"}  # queries of `serve`: test_presets_prometheus
    assert {p.stem for p in PRESETS_FOLDER.glob("*.yaml")} == {*config.PRESETS, *kinds, *live}
    for name, (kind, command) in kinds.items():
        read_options(PRESETS_FOLDER / f"{name}.yaml", kind, command)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xyz: 3\n", ":1: there is no setting 'xyz'; there are steps, inner, many"),
        ("step: 3\n", ":1: there is no setting 'step'; did you mean 'steps'?"),
        (
            "many:\n  - path: c\n    wait: 2\n",
            ":3: there is no setting 'many.0.wait'; did you mean 'weight'?",
        ),
        ("many:\n  - weight: 2\n", ":2: many.0.path is missing; it has no default."),
        ("inner:\n  path: a\n  weight: much\n", ':3: inner.weight is "much"; it must be a number'),
        ("inner: 3\n", ":1: inner is 3; "),
    ],
)
def test_mistakes_in_options_have_their_place(tmp_path, text, message):
    """Also deep inside, the line is named."""
    path = tmp_path / "o.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_options(path, Outer)
    assert message in str(caught.value)
