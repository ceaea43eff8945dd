"""Run folders: written as they go, readable after a kill, comparable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from foreshock import runlog
from foreshock.errors import InputError, OutputError
from foreshock.runlog import RunLog, compare, list_runs, read_lines, show, to_json


def test_a_run_leaves_everything(tmp_path):
    """Config, environment, model and metrics are there, and the status is done."""
    with RunLog.start(
        tmp_path, "score", {"window.stride": {"value": 64, "origin": "default"}}, ["a.csv"]
    ) as log:
        log.model(parameters=12)
        log.write("step", step=1, loss=0.5)
        log.write("step", step=2, loss=0.25)
    (run,) = list_runs(tmp_path)
    assert run.id == log.id
    assert run.status == "done"
    assert run.seconds is not None
    assert run.seconds >= 0
    assert run.config["window.stride"]["value"] == 64
    assert run.environment["packages"]["numpy"] == np.__version__
    assert run.model == {"parameters": 12}
    assert [line["loss"] for line in run.metrics()] == [0.5, 0.25]


def test_the_id_tells_time_and_command(tmp_path):
    """Ids sort by time and never collide."""
    ids = {RunLog.start(tmp_path, "detect").id for _ in range(20)}
    assert len(ids) == 20
    assert all("-detect-" in name and name[8] == "T" for name in ids)


def test_numbers_stay_valid_json(tmp_path):
    """NaN and infinity become null, numpy numbers become numbers."""
    with RunLog.start(tmp_path, "x") as log:
        log.write(
            "step", nan=float("nan"), inf=np.float32("inf"), n=np.int64(3), a=np.arange(2), b=np.bool_(True)
        )
    (line,) = show(tmp_path, "latest").metrics()
    assert (line["nan"], line["inf"], line["n"], line["a"], line["b"]) == (None, None, 3, [0, 1], True)
    assert to_json({"x": float("nan")}) == '{"x": null}'


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_how_it_ended(tmp_path, error, status):
    """An error is noted and passed on."""
    with pytest.raises(type(error)), RunLog.start(tmp_path, "x"):
        raise error
    run = show(tmp_path, "latest")
    assert run.status == status
    assert run.error == ("ValueError: bad" if status == "failed" else "")


def test_a_killed_run_leaves_valid_lines(tmp_path):
    """SIGKILL in the middle of writing: every whole line is readable, and the run is called killed."""
    code = f"""
from foreshock.runlog import RunLog
log = RunLog.start({str(tmp_path)!r}, "train")
i = 0
while True:
    log.write("step", step=i, text="x" * 200)
    i += 1
"""
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(path.stat().st_size > 20_000 for path in tmp_path.glob("*/metrics.jsonl")):
            break
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    (run,) = list_runs(tmp_path)
    assert run.status == "killed"
    steps = [line["step"] for line in run.metrics()]
    assert len(steps) > 20
    assert steps == list(range(len(steps)))


def test_half_a_line_is_left_out(tmp_path):
    """A line cut by a kill is skipped, at the end and, after going on, in the middle."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert read_lines(path) == ({"a": 1}, {"a": 2})
    with runlog._open_lines(path) as file:
        file.write('{"a": 4}\n')
    assert read_lines(path) == ({"a": 1}, {"a": 2}, {"a": 4})


def test_a_run_is_found_by_part_of_its_id(tmp_path):
    """Beginning, end, latest; several or none are told apart."""
    first, second = RunLog.start(tmp_path, "a"), RunLog.start(tmp_path, "b")
    assert show(tmp_path, first.id[-6:]).id == first.id
    assert show(tmp_path, "latest").id in (first.id, second.id)
    with pytest.raises(InputError, match="2 runs fit"):
        show(tmp_path, first.id[:4])
    with pytest.raises(InputError, match="no run fits"):
        show(tmp_path, "zzz")
    with pytest.raises(InputError, match="no run lies in"):
        show(tmp_path / "none", "latest")


def test_compare_names_what_differs(tmp_path):
    """Only differences, with both values; the last metric counts."""
    for stride, loss in ((64, 0.5), (32, 0.4)):
        with RunLog.start(tmp_path, "x", {"window.stride": {"value": stride, "origin": "default"}}) as log:
            log.write("step", loss=9.0)
            log.write("step", loss=loss)
            log.write("phase", phase="read", peak_bytes=7)
    a, b = sorted(list_runs(tmp_path), key=lambda run: run.config["window.stride"]["value"])
    found = compare(a, b)
    assert found["config"] == {"window.stride.value": (32, 64)}
    assert found["metrics"] == {"step.loss": (0.4, 0.5)}
    assert found["model"] == {}


def test_a_folder_that_cannot_be_made(tmp_path):
    """A file where the folder of runs should be is an output error."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(OutputError, match="--log"):
        RunLog.start(tmp_path / "runs", "x")


def test_a_foreign_folder_is_no_run(tmp_path):
    """Folders without a readable run.json are passed over."""
    for name, text in (("a", "{"), ("b", "[]"), ("c", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    (tmp_path / "d").mkdir()
    assert list_runs(tmp_path) == ()
    assert list_runs(tmp_path / "none") == ()


def test_model_summary_counts(tmp_path):
    """Parameters, bytes and hashes, for anything with parameters()."""

    def tensor(count, size, grad):
        return SimpleNamespace(
            numel=lambda: count, element_size=lambda: size, requires_grad=grad, dtype="torch.float32"
        )

    model = SimpleNamespace(parameters=lambda: [tensor(10, 4, True), tensor(5, 2, False)])
    file = tmp_path / "w.bin"
    file.write_bytes(b"abc")
    facts = runlog.model_summary(model, [file])
    assert (facts["parameters"], facts["trainable"], facts["bytes"]) == (15, 10, 50)
    assert facts["formats"] == ["float32"]
    assert facts["sha256"]["w.bin"].startswith("ba7816bf")
    assert runlog.model_summary(None)["parameters"] == 0


def test_git_commit_or_nothing(tmp_path):
    """Outside of a repository there is no commit; inside there is."""
    assert runlog.git_commit(tmp_path) is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "f").write_text("1")
    subprocess.run([*git, "add", "f"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], cwd=tmp_path, check=True)
    facts = runlog.git_commit(tmp_path)
    assert facts is not None
    assert len(facts["commit"]) == 40
    assert facts["dirty"] is False


def test_files_are_strict_json(tmp_path):
    """Every file of a run parses without Python's extensions."""

    def refuse(word):
        raise AssertionError(word)

    with RunLog.start(tmp_path, "x", {"a": float("inf")}) as log:
        log.model(size=float("nan"))
    for path in log.folder.glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)
