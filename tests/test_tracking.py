"""Records in trackers: the real libraries where they are installed, one clear error where they are not."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from foreshock import tracking
from foreshock.errors import ConfigError
from foreshock.tracking import numbers_of
from foreshock.tracking import tracking as tracked

RECORD = {
    "kind": "evaluation",
    "key": "0a",
    "detector": "z 64",
    "rows": 600,
    "supervised": False,
    "metrics": {"vus_pr": 0.5, "roc_auc": None},
    "thresholds": {"past": {"f1": 0.25, "found": [1, 0]}},
}


def test_numbers_alone_are_handed_on():
    """Nested figures get dotted names; words, lists, truth values and what is not finite stay out."""
    assert numbers_of(RECORD, "a/") == {"a/rows": 600, "a/metrics.vus_pr": 0.5, "a/thresholds.past.f1": 0.25}
    assert numbers_of({"loss": float("nan"), "step": 4}) == {}


def test_records_without_a_step_are_counted(monkeypatch):
    """Each detector counts for itself; a record that tells its step keeps it; every tracker is closed."""
    seen, closed = [], []

    def fake(place, run):
        tracker = SimpleNamespace(write=lambda n, step: seen.append((place, run, sorted(n), step)))
        tracker.close = lambda: closed.append(place)
        return tracker

    monkeypatch.setitem(tracking.TRACKERS, "fake", fake)
    with tracked(["fake:here", "fake"], "night") as write:
        write({"detector": "a", "x": 1})
        write({"detector": "b", "x": 1})
        write({"detector": "a", "x": 1})
        write({"step": 40, "loss": 0.5})
        write({"kind": "words alone"})
    here = [(names, step) for place, run, names, step in seen if place == "here"]
    assert here == [(["a/x"], 0), (["b/x"], 0), (["a/x"], 1), (["loss"], 40)]
    assert closed == ["here", ""]


@pytest.mark.parametrize(
    ("told", "words"), [("tensorbord", "did you mean 'tensorboard'"), ("x:y", "There are")]
)
def test_an_unknown_tracker_is_named(told, words):
    """A typing mistake is told with what there is."""
    with pytest.raises(ConfigError, match=words), tracked([told], "run"):
        pass


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_missing_library_names_its_extra(name, monkeypatch, tmp_path):
    """Without the package: one sentence with the command that installs it."""
    monkeypatch.chdir(tmp_path)
    for module in ("tensorboard.summary", "mlflow.tracking", "trackio"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'pip install "foreshock\[{name}\]"'), tracked([name], "run"):
        pass


def test_tensorboard_reads_what_was_written(tmp_path):
    """The event files hold every number at its step."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tracked([f"tensorboard:{tmp_path}"], "night") as write:
        write(RECORD)
        write(RECORD)
    found = events.EventAccumulator(str(tmp_path / "night"))
    found.Reload()
    steps = [(one.step, one.tensor_proto.float_val[0]) for one in found.Tensors("z 64/metrics.vus_pr")]
    assert steps == [(0, 0.5), (1, 0.5)]


@pytest.mark.slow
def test_mlflow_reads_what_was_written(tmp_path):
    """A run of the experiment `foreshock` holds every number at its step, and has ended."""
    client_of = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed").MlflowClient
    pytest.importorskip("sqlalchemy")
    place = f"sqlite:///{tmp_path / 'm.db'}"
    with tracked([f"mlflow:{place}"], "night") as write:
        write(RECORD)
    client = client_of(tracking_uri=place)
    number = client.get_experiment_by_name("foreshock").experiment_id
    (run,) = client.search_runs([number])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["z 64/metrics.vus_pr"] == 0.5


@pytest.mark.slow
def test_trackio_reads_what_was_written(tmp_path, monkeypatch):
    """The project's local store holds the run and its numbers."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    library = pytest.importorskip("trackio", reason="trackio is not installed")
    with tracked(["trackio:shop"], "night") as write:
        write(RECORD)
    (run,) = library.Api().runs("shop")
    assert run.name == "night"
