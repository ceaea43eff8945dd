"""The protocol: nothing leaks, nothing is lost, every figure can be traced."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock import models
from foreshock.cli import run
from foreshock.errors import ConfigError, FrameError, InputError, OutputError, SourceError
from foreshock.evaluate import (
    RECALLS,
    DataSet,
    DetectorChoice,
    Evaluation,
    audit_table,
    compare_records,
    evaluate,
    held_by,
    holm,
    interval,
    leaderboard,
    named_parts,
    paired_rows,
    plan,
    report,
    wilcoxon,
)
from foreshock.evaluate.audit import forest_rows, regime_rows
from foreshock.evaluate.parts import stretch
from foreshock.evaluate.tables import event_table, latest
from foreshock.metrics import spans
from foreshock.report.evaluation import html as page_of
from foreshock.runlog import Records
from foreshock.sources import simulator

SERIES = DataSet("made", "made", "series")


def write_series(folder: Path, name: str = "a", rows: int = 600, **arrays) -> Path:
    """A noisy series with a jump at four fifths, and its labels."""
    rng = np.random.default_rng(len(name))
    value = rng.normal(size=rows).astype(np.float32)
    label = np.zeros(rows, np.uint8)
    event = slice(rows * 4 // 5, rows * 4 // 5 + rows // 40)
    value[event] += 8
    label[event] = 1
    made = {"value": value, "label": label, "train_end": np.int64(rows // 2)} | arrays
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **{k: v for k, v in made.items() if v is not None})
    return folder / f"{name}.npz"


@pytest.fixture
def data(tmp_path):
    """A folder with two series."""
    for name in ("a", "bb"):
        write_series(tmp_path / "data" / "made", name)
    return tmp_path / "data"


def setup(data, *detectors, sets=(SERIES,), **options):
    choices = tuple(DetectorChoice(d) if isinstance(d, str) else d for d in detectors)
    return Evaluation(choices, tuple(sets), str(data), gap_rows=20, seeds=(0, 1), **options)


def only_part(data_set, folder, gap_rows=20, **limits):
    (load,) = named_parts(data_set, folder, gap_rows, **limits).values()
    return load()


# --------------------------------------------------------------------------------------------------- parts


def test_parts_stand_in_time_with_gaps(data):
    """Training, validation and judged rows follow one another, and the gaps belong to none."""
    part = named_parts(SERIES, data, 20)["a"]()
    assert part.train.start == 0
    assert part.validation.start == part.train.stop + 20
    assert part.validation.stop == 300
    assert np.flatnonzero(part.judged)[0] == 320
    assert part.judged[320:].all()
    assert part.ignore[:320].all()


def test_a_table_is_split_seventy_fifteen_fifteen(tmp_path):
    """A recording without a training part is split in time; labels say which rows count nowhere."""
    import pandas as pd

    rows = 400
    table = pd.DataFrame(
        {
            "timestamp": pd.date_range("2026-03-02", periods=rows, freq="min", tz="UTC"),
            "web__cpu": np.random.default_rng(0).gamma(4, 1, rows),
            "label": (np.arange(rows) // 10 == 37).astype(int),
            "recovery": (np.arange(rows) // 10 == 38).astype(int),
        }
    )
    table.to_csv(tmp_path / "shop.csv", index=False)
    part = only_part(DataSet("shop", "shop.csv"), tmp_path)
    facts = part.facts()
    assert (facts["train_rows"], facts["validation_rows"]) == (251, 54)  # 400 rows less two gaps of 20
    assert part.ignore[380:390].all()
    assert part.faults == [(370, 380)]
    cut = only_part(DataSet("shop", "shop.csv", until="2026-03-02T06:15"), tmp_path)
    assert not cut.judged[375:].any()
    assert cut.judged[374]
    whole = only_part(DataSet("shop", "shop.csv", split="none"), tmp_path)
    assert whole.train is None
    assert whole.judged.all()


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(200, 2000),
    keep=st.integers(64, 199),
    share=st.floats(0.02, 0.7),
    at=st.floats(0, 0.99),
    name=st.text(max_size=3),
)
def test_a_cut_keeps_its_event_and_never_judges_training_rows(rows, keep, share, at, name):
    """The stretch lies within the series, holds an event to find, and no row before train_end is judged."""
    end, gap = int(rows * share), 5
    truth = np.zeros(rows, bool)
    first = min(rows - 1, end + gap + int((rows - end - gap) * at))
    truth[first : first + 4] = True
    start, learned = stretch(truth, end, keep, gap, name)
    assert 0 <= start <= rows - keep
    assert learned >= end
    assert start < learned < start + keep or learned == end
    reachable = first - int(0.3 * keep) - gap >= min(max(0, end - int(0.3 * keep)), rows - keep)
    if reachable:
        assert learned + gap <= first < start + keep


def test_a_cut_is_the_same_for_everybody(data):
    """It depends on the series' name alone."""
    write_series(data / "long", "c", 5000)
    long = DataSet("long", "long", "series", rows=400)
    assert only_part(long, data).sha256 == only_part(long, data).sha256
    assert len(only_part(long, data).frame) == 400
    assert only_part(long, data).faults


def test_a_limit_prefers_series_with_something_to_find(data):
    """A series without an event after its training part is taken only when nothing is limited."""
    for name in ("c", "d", "e"):
        write_series(data / "made", name, label=np.zeros(600, np.uint8))
    assert set(named_parts(SERIES, data, 20, limit=2)) == {"a", "bb"}
    assert len(named_parts(SERIES, data, 20)) == 5


def test_entities_have_their_own_training_part(tmp_path):
    """Train and test rows of a machine stand behind one another, on one clock with the step that was told."""
    import pandas as pd

    rows = 300
    parts = [
        pd.DataFrame(
            {
                "entity": entity,
                "split": split,
                "t": np.arange(rows) + (rows if split == "test" else 0),
                "m0": np.random.default_rng(1).normal(size=rows),
                "label": (np.arange(rows) // 20 == 9) & (split == "test"),
            }
        )
        for entity in ("one", "two")
        for split in ("train", "test")
    ]
    table = pd.concat(parts)
    table["label"] = table["label"].astype(int)
    table.to_parquet(tmp_path / "machines.parquet")
    machines = DataSet("machines", "machines.parquet", "entities", timestamp="t", step_s=60)
    found = named_parts(machines, tmp_path, 20)
    assert list(found) == ["one", "two"]
    part = found["two"]()
    assert part.frame.step_s == 60
    assert (np.diff(part.frame.time_ns) == 60e9).all()
    assert part.validation.stop == 300
    assert part.faults == [(480, 500)]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"label": None}, r"a.npz has no `label` \(it holds train_end, value\)"),
        ({"label": np.arange(600) % 3}, "labels hold 2; they must be 0 or 1"),
        ({"label": np.zeros(5)}, r"label \(5,\)"),
        ({"train_end": np.int64(600)}, "train_end is 600, the series has 600 rows"),
        ({"train_end": np.array([1, 2])}, r"train_end is \[1 2\]; it must be one number"),
        ({"train_end": np.float64("nan")}, "train_end is nan; it must be one number"),
        ({"value": np.array(["high"] * 600)}, "value holds str128, such as high; numbers are needed"),
        ({"value": np.zeros(0), "label": np.zeros(0), "train_end": np.int64(0)}, r"value has shape \(0,\)"),
        ({"timestamp": np.arange(5)}, r"timestamp has shape \(5,\), value \(600,\)"),
    ],
)
def test_a_bad_series_is_named(tmp_path, arrays, words):
    """Missing labels, other labels than 0 and 1, shapes that differ: an error with the file's name."""
    write_series(tmp_path / "made", "a", **arrays)
    with pytest.raises(FrameError, match=words):
        only_part(SERIES, tmp_path)


def test_a_table_without_labels_is_refused(tmp_path):
    """Nothing can be judged without labels; the message says which column is needed."""
    (tmp_path / "t.csv").write_text(
        "timestamp,web__cpu\n" + "".join(f"{60 * i},{i % 7}\n" for i in range(99))
    )
    with pytest.raises(FrameError, match="no label column; evaluation needs one of 0 and 1"):
        only_part(DataSet("t", "t.csv"), tmp_path)


@pytest.mark.parametrize(
    ("path", "kpis"), [("simulate:trainticket", 88), ("simulate:", 88), ("simulate:shop", 50)]
)
def test_recordings_are_simulated_on_the_spot(tmp_path, path, kpis):
    """The system is named behind the colon, Train Ticket without; each series is a seed, split in time."""
    parts = named_parts(DataSet("s", path, "simulator", limit=2, rows=400, step_s=60), tmp_path, 20)
    assert list(parts) == ["seed 0", "seed 1"]
    part = parts["seed 1"]()
    assert part.frame.values.shape == (400, kpis)
    assert part.validation.start == part.train.stop + 20
    assert len(part.fault_types) in (0, len(part.faults))


def test_an_unknown_system_is_named(tmp_path):
    """A typing mistake behind `simulate:` is told with what there is."""
    with pytest.raises(InputError, match="did you mean 'trainticket'"):
        only_part(DataSet("s", "simulate:trainticke", "simulator", limit=1), tmp_path)


def test_a_missing_data_set_is_named(tmp_path):
    """A path that is not there, a folder without series, a file that is no archive."""
    with pytest.raises(SourceError, match="nowhere is not there"):
        named_parts(DataSet("x", "nowhere"), tmp_path, 20)
    with pytest.raises(SourceError, match=r"holds no \.npz file"):
        named_parts(DataSet("x", ".", "series"), tmp_path, 20)
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 half an archive")
    with pytest.raises(SourceError, match="can't be read as"):
        only_part(DataSet("x", ".", "series"), tmp_path)


# ---------------------------------------------------------------------------------------------- protocol


class Spy:
    """A detector that notes what it was given."""

    name, supervised, needs_fit = "spy", False, True
    fitted: list = []
    scored: list = []

    def fit(self, frame):
        Spy.fitted.append(frame)
        return self

    def score(self, frame):
        Spy.scored.append(frame)
        return models.load_detector("rolling_variance").score(frame)

    def stream(self):
        raise NotImplementedError

    def describe(self):
        return {"detector": "spy", "weights_sha256": "0" * 64, "model": "nano"}


@pytest.fixture
def spy(monkeypatch):
    Spy.fitted, Spy.scored = [], []
    monkeypatch.setitem(models.DETECTORS, "spy", Spy)
    return Spy


def test_a_detector_sees_its_training_part_and_no_label(data, spy):
    """What `fit` gets ends before the gap, and neither it nor `score` has labels."""
    one = setup(data, "spy")
    list(evaluate(one, [job for job in plan(one) if job.choice.name == "spy"]))
    part = named_parts(SERIES, data, 20)["a"]()
    assert len(spy.fitted) == 2
    assert len(spy.fitted[0]) == part.train.stop
    assert all(frame.labels is None for frame in (*spy.fitted, *spy.scored))


def test_thresholds_know_nothing_of_the_judged_rows(data):
    """Other values and labels in the judged rows leave the validation threshold as it was."""
    from foreshock.evaluate.protocol import score, thresholds

    part = named_parts(SERIES, data, 20)["a"]()
    values = part.frame.values.copy()
    values[part.validation.stop :] *= 50
    other = replace(part, frame=replace(part.frame, values=values), truth=~part.truth)
    before, after = (
        thresholds(p, score(models.load_detector("past_median"), p)[0], 1.0)["validation"].high
        for p in (part, other)
    )
    assert before == after


def test_the_floor_stands_in_every_table(data):
    """The three floor rows are run, asked for or not; only what draws is repeated."""
    jobs = plan(setup(data, "past_median"))
    seen = [(job.choice.title, job.seed) for job in jobs if job.series == "a"]
    assert seen == [
        ("past_median", 0),
        ("random", 0),
        ("random", 1),
        ("rolling_variance", 0),
        ("squared_difference", 0),
    ]


def test_a_record_tells_how_it_was_made(data, spy):
    """Hashes, split, metric names, cost and contamination are in each record."""
    smd = replace(SERIES, origin="smd")
    one = setup(data, "spy", sets=(smd,))
    record = next(evaluate(one, plan(one)))
    assert record["status"] == "done"
    assert record["weights_sha256"] == "0" * 64
    assert len(record["data_sha256"]) == 64
    assert record["contamination"] == "train part of the same servers"
    assert record["split"]["gap_rows"] == 20
    assert record["split"]["faults"] == 1
    assert {"vus_pr", "vus_pr_tsb_ad", "average_precision"} <= record["metrics"].keys()
    assert record["thresholds"].keys() == {"validation", "past"}
    assert record["thresholds"]["past"]["found"] in ([0], [1])
    assert {"fit_cpu_s", "score_wall_s", "peak_bytes"} <= record["cost"].keys()
    json.dumps(record, allow_nan=False)


def test_one_class_gives_no_figure_and_no_error(tmp_path):
    """All-normal judged rows: ranking figures are None, false alarms count."""
    write_series(tmp_path / "made", "a", label=np.zeros(600, np.uint8))
    one = setup(tmp_path, "rolling_variance")
    for record in evaluate(one, plan(one)):
        assert record["metrics"]["vus_pr"] is None
        assert record["thresholds"]["past"]["false_alarms_per_day"] is not None
    assert report(evaluate(one, plan(one)))


def test_judged_rows_that_are_all_faulty_give_no_figure(tmp_path):
    """The other class alone: no ranking figure, the fault is counted once, tables and page are written."""
    label = np.zeros(600, np.uint8)
    label[300:] = 1
    write_series(tmp_path / "made", "a", label=label)
    one = setup(tmp_path, "past_median")
    records = list(evaluate(one, plan(one)))
    assert {r["metrics"]["vus_pr"] for r in records} == {None}
    assert {r["split"]["faults"] for r in records} == {1}
    assert report(records)
    assert "foreshock has no figure" in page_of(records, {})


def test_a_table_with_other_labels_is_named(tmp_path):
    """A label of 2 in a table: file, line and what it must be, before anything is scored."""
    rows = "".join(f"{60 * i},{i % 7},{2 if i == 50 else 0}\n" for i in range(99))
    (tmp_path / "t.csv").write_text("timestamp,web__cpu,label\n" + rows)
    with pytest.raises(SourceError, match=r"t\.csv:52: label is '2'; it must be 0 or 1"):
        only_part(DataSet("t", "t.csv"), tmp_path)


def test_half_a_sketch_is_dropped_too(config, tmp_path, capsys):
    """A kill between sketch and record: the half line goes, the record and its curve are made anew."""
    assert run(["evaluate", str(config), "--quiet"]) == 0
    records, sketches = tmp_path / "out.jsonl", tmp_path / "out.sketches.jsonl"
    lines, drawn = records.read_text().splitlines(), sketches.read_text().splitlines()
    records.write_text("\n".join(lines[:9]) + "\n")
    sketches.write_text("\n".join(drawn[:9]) + "\n" + drawn[9][:50])
    assert run(["evaluate", str(config), "--quiet"]) == 0
    assert [json.loads(a) for a in sketches.read_text().splitlines()] == [json.loads(b) for b in drawn]


def test_a_series_shorter_than_a_window_is_told(tmp_path):
    """A detector that needs more rows than there are gives a record with its reason; others go on."""
    write_series(tmp_path / "made", "a", rows=60)
    one = setup(tmp_path, "sub_pca", "rolling_variance")
    by_name = {r["detector"]: r for r in evaluate(one, plan(one))}
    assert by_name["sub_pca"]["status"] == "refused"
    assert "needs at least" in by_name["sub_pca"]["reason"]
    assert by_name["rolling_variance"]["status"] == "done"
    text = "\n".join(report(by_name.values()))
    assert "sub_pca on made, 1 series (a): the training part has" in text


def test_unknown_names_are_told_before_any_work(data):
    """A detector, an option, a metric or an --only that does not exist."""
    with pytest.raises(ConfigError, match="did you mean 'rolling_variance'"):
        plan(setup(data, "rolling_varianz"))
    with pytest.raises(ConfigError, match="has no option 'windows'"):
        plan(setup(data, DetectorChoice("robust_z", {"windows": 3})))
    with pytest.raises(ConfigError, match="there is no metric 'vus'"):
        setup(data, "random", metrics=("vus",))
    with pytest.raises(ConfigError, match="has no detector 'foo'"):
        plan(setup(data, "random"), only=["foo"])
    with pytest.raises(ConfigError, match="'random' stands twice"):
        setup(data, "random", "random")


def test_done_means_equal_work(data):
    """A limit changes no key; a cut, an option, a gap or other weights do."""
    keys = lambda one, **limits: {job.key for job in plan(one, **limits)}  # noqa: E731
    base = setup(data, "rolling_variance")
    assert keys(base, limit=1) < keys(base)
    assert not keys(base, rows=100) & keys(base)
    assert not keys(replace(base, gap_rows=21)) & keys(base)
    wide = setup(data, DetectorChoice("rolling_variance", {"window": 9}))
    assert len(keys(wide) & keys(base)) == len(keys(base)) - 2


def test_other_heads_are_other_work(data, spy, monkeypatch):
    """Heads of recognition are a file beside the network: both hashes make a key and stand in a record."""
    key = lambda: plan(setup(data, "spy"), only=["spy"])[0].key  # noqa: E731
    bare = key()
    monkeypatch.setattr(spy, "describe", lambda self: {"weights_sha256": "0" * 64, "heads_sha256": "1" * 64})
    assert key() != bare
    assert next(evaluate(setup(data, "spy"), plan(setup(data, "spy"))))["heads_sha256"] == "1" * 64


# ------------------------------------------------------------------------------------------------ records


def test_half_a_line_is_dropped_and_no_record_lost(tmp_path):
    """After a kill the file goes on behind its last whole line; a whole line without its end is kept."""
    path = tmp_path / "r.jsonl"
    path.write_text('{"key": "a"}\n{"key": "b"}\n{"key": "c", "me')
    with Records(path) as file:
        assert [line["key"] for line in file.lines] == ["a", "b"]
        assert file.dropped_bytes == len('{"key": "c", "me')
        file.append({"key": "c", "value": float("nan")})
    path.write_text(path.read_text().removesuffix("\n"))
    with Records(path) as file:
        assert [line["key"] for line in file.lines] == ["a", "b", "c"]
        file.append({"key": "d"})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b", "c", "d"]


def test_a_broken_line_in_the_middle_is_refused(tmp_path):
    """It is no work of a kill: nothing is thrown away unasked."""
    path = tmp_path / "r.jsonl"
    path.write_text('{"key": "a"}\nnot json\n{"key": "b"}\n')
    with pytest.raises(InputError, match=r"r\.jsonl:2: this line is no record"):
        Records(path)
    assert path.read_text().count("\n") == 3


def test_two_runs_never_write_one_file(tmp_path):
    """The second is refused while the first writes, and not afterwards."""
    pytest.importorskip("fcntl")
    with Records(tmp_path / "r.jsonl"), pytest.raises(OutputError, match="being written by another run"):
        Records(tmp_path / "r.jsonl")
    with Records(tmp_path / "r.jsonl") as file:
        assert file.lines == []


@pytest.fixture
def config(data, tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(
        f"folder: {data}\nout: {tmp_path / 'out.jsonl'}\nseeds: [0]\ngap_rows: 20\nours: past_median\n"
        "detectors:\n  - {name: past_median}\n  - {name: robust_z, options: {window: 64}, label: z 64}\n"
        "data:\n  - {name: made, path: made, kind: series}\n"
    )
    return path


def test_the_command_goes_on_where_it_was_killed(config, tmp_path, capsys):
    """What is done is skipped, half a line is said and replaced, and the tables come at the end."""
    out = tmp_path / "out.jsonl"
    assert run(["evaluate", str(config)]) == 0
    first = capsys.readouterr()
    lines = out.read_text().splitlines()
    assert len(lines) == 2 * 5 + 1  # the last tells what the run took
    took = json.loads(lines[-1])
    assert (took["kind"], took["records"], took["of"]) == ("run", 10, 10)
    assert took["peak_bytes"] > 0
    lines = lines[:-1]
    assert "| *random* |" in first.out
    assert "past_median against each, paired" in first.out
    out.write_text("\n".join(lines[:6]) + "\n" + lines[6][:40])
    assert run(["evaluate", str(config)]) == 0
    second = capsys.readouterr()
    assert "half a line of a killed run was taken away (40 bytes)" in second.err
    assert "6 records of 10" in second.err
    again = out.read_text().splitlines()
    assert again[:6] == lines[:6]
    assert [json.loads(a)["key"] for a in again[:-1]] == [json.loads(b)["key"] for b in lines]
    assert json.loads(again[-1])["records"] == 4
    record = json.loads(again[-2])
    assert {"commit", "packages", "threads", "at"} <= record.keys()
    assert run(["evaluate", str(config), "--redo", "z 64", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 12
    assert len(latest(json.loads(line) for line in out.read_text().splitlines())) == 10


def test_a_run_killed_outright_loses_nothing(config, tmp_path, capsys):
    """SIGKILL after the first records: they stay as they are, and the same command does the rest."""
    out = tmp_path / "out.jsonl"
    words = [sys.executable, "-m", "foreshock", "evaluate", str(config), "--quiet"]
    config.write_text(config.read_text().replace("seeds: [0]", f"seeds: {list(range(40))}"))
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    give_up = time.monotonic() + 60
    while (not out.exists() or out.read_text().count("\n") < 3) and time.monotonic() < give_up:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = [line for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert len(before) >= 3
    assert run(words[3:]) == 0
    lines = out.read_text().splitlines(keepends=True)
    assert lines[: len(before)] == before
    keys = [json.loads(line)["key"] for line in lines[:-1]]
    assert len(keys) == len(set(keys)) == 2 * (4 + 40)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": None}, "bb.npz has no `label`"),
        ({"label": np.arange(600) % 3}, "bb.npz: labels hold 2"),
        ({"value": np.zeros(5)}, r"bb.npz: value has shape (5,)"),
    ],
)
def test_bad_data_stop_the_command_and_no_record_is_lost(config, data, tmp_path, capsys, arrays, message):
    """One line and exit code 2; what was measured before stands, and mended data go on from there."""
    write_series(data / "made", "bb", **arrays)
    assert run(["evaluate", str(config), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    before = (tmp_path / "out.jsonl").read_text().splitlines()
    assert {json.loads(line)["series"] for line in before} == {"a"}
    write_series(data / "made", "bb")
    assert run(["evaluate", str(config), "--quiet"]) == 0
    after = (tmp_path / "out.jsonl").read_text().splitlines()
    assert after[: len(before)] == before
    assert len(after) == 2 * 5 + 1


def test_an_unknown_detector_stops_the_command_before_any_work(config, tmp_path, capsys):
    """A typing mistake in the configuration: the nearest name, no file."""
    config.write_text(config.read_text().replace("name: past_median", "name: past_medain"))
    assert run(["evaluate", str(config)]) == 2
    assert "did you mean 'past_median'" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_through_the_command(config, data, capsys, label):
    """All normal or all faulty: exit code 0, a table without ranking figures."""
    for name in ("a", "bb"):
        write_series(data / "made", name, label=np.full(600, label, np.uint8))
    assert run(["evaluate", str(config), "--json", "--quiet"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {r["metrics"]["vus_pr"] for r in records} == {None}
    assert {r["status"] for r in records} == {"done"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "foo"], "has no detector 'foo'"),
        (["--redo", "foo"], "has no detector 'foo'"),
        (["--data", "nowhere"], "is not there"),
        (["--figure", "x.png"], "add --audit"),
    ],
)
def test_wrong_words_are_told(config, capsys, words, message):
    """One line, exit code 2."""
    assert run(["evaluate", str(config), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_preset_is_sound():
    """Every detector of it loads, and every kind of data is known."""
    from foreshock.cli.evaluate import _setup

    preset = _setup(None, None)
    left_out = {"moment_published", "last_value"}  # the first wants MOMENT-1's weights
    assert {d.name for d in preset.with_floor} == models.DETECTORS.keys() - left_out
    assert len(preset.data) == 12
    assert preset.seeds == (0, 1, 2)


# --------------------------------------------------------------------------------------------- statistics


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=40))
def test_signed_rank_is_scipys(numbers):
    """Without ties exact as scipy's; with ties the exact p, which scipy's approximation comes near."""
    stats = pytest.importorskip("scipy.stats")
    found = wilcoxon(numbers)
    kept = [n for n in numbers if n]
    if not kept:
        assert found.p == 1
        return
    if len({abs(n) for n in kept}) == len(kept):
        assert found.p == pytest.approx(stats.wilcoxon(kept, mode="exact").pvalue, abs=1e-12)
    elif len(kept) > 15:
        near = stats.wilcoxon(kept, mode="approx", correction=False).pvalue
        assert found.p == pytest.approx(near, abs=0.05)
    assert -1 <= found.effect <= 1


def test_signed_rank_of_many_is_scipys_approximation():
    """Above 50 differences, ties and all."""
    stats = pytest.importorskip("scipy.stats")
    numbers = np.round(np.random.default_rng(0).normal(0.2, 1, 200), 1)
    found = wilcoxon(numbers)
    assert not found.is_exact
    expected = stats.wilcoxon(numbers, mode="approx", correction=False).pvalue
    assert found.p == pytest.approx(expected, rel=1e-9)


def test_signed_rank_counts_every_sign():
    """The exact p of ranks with ties is that of all 2^n signs."""
    numbers = np.array([1.0, 1, -2, 3, 3, -3])
    ranks = np.array([1.5, 1.5, 3, 5, 5, 5])
    above = ranks[numbers > 0].sum()
    sums = [ranks[np.array([bool(i >> k & 1) for k in range(6)])].sum() for i in range(64)]
    low, high = np.mean([s <= above for s in sums]), np.mean([s >= above for s in sums])
    assert wilcoxon(numbers).p == pytest.approx(min(1, 2 * min(low, high)))


def test_an_interval_holds_its_mean_and_shrinks():
    """More series, less width; one value has none; none is NaN; NaN is left out."""
    rng = np.random.default_rng(0)
    few, many = interval(rng.random(8)), interval(rng.random(800))
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert interval([0.3, np.nan]) == interval([0.3])
    assert np.isnan(interval([]).mean)


def test_holm_is_never_below_p_and_keeps_order():
    """Adjusted p of three claims, by hand."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


# ------------------------------------------------------------------------------------------------- tables


def made_record(detector, series, value, data="made", seed=0, **more):
    figures = {"found": [1], "hours": 24.0, "false_alarms": 1, "alarms": 2, "delays_s": [60.0]}
    figures |= {"false_alarms_asked_per_day": 1.0}
    return {
        "kind": "evaluation", "status": "done", "data": data, "data_kind": "series", "series": series,
        "detector": detector, "seed": seed, "metrics": {"vus_pr": value}, "rows": 100, "kpis": 1,
        "thresholds": {"validation": figures, "past": figures}, "contamination": "", "supervised": False,
        "cost": {"fit_cpu_s": 0, "score_cpu_s": 1, "fit_wall_s": 0, "score_wall_s": 1, "peak_bytes": 2**20},
    } | more  # fmt: skip


def test_seeds_count_once_and_families_alike():
    """Seeds are averaged; a family of one series weighs as much as one of three."""
    records = [made_record("random", "a", v, seed=s) for s, v in enumerate((0.0, 0.2))]
    records += [made_record("random", n, 0.1) for n in ("b", "c")]
    records += [made_record("random", "x", 0.5, data="other")]
    (row,) = [line for line in leaderboard(records, "vus_pr") if line.startswith("| *random*")]
    assert "| 0.100 | 0.500 | 0.300" in row


def test_a_detector_that_lacks_series_is_marked():
    """Its mean stands in brackets, with how many series it has, below those that have all."""
    records = [made_record("random", n, 0.1) for n in "abc"] + [made_record("good", "a", 0.9)]
    lines = [line for line in leaderboard(records, "vus_pr") if "random" in line or "good" in line]
    assert "random" in lines[0]
    assert "0.900 (1)" in lines[1]
    assert "(0.900)" in lines[1]


def test_paired_rows_compare_the_same_series():
    """Series that only one of them has are left out."""
    records = [made_record("foreshock", n, v) for n, v in zip("abcd", (0.5, 0.6, 0.7, 0.8), strict=True)]
    records += [made_record("random", n, v) for n, v in zip("abce", (0.1, 0.2, 0.3, 0.9), strict=True)]
    whole = [row for row in paired_rows(records, "vus_pr", "foreshock") if row.data == "all"]
    assert len(whole) == 1
    row = whole[0]
    assert (row.better, row.worse, row.test.n) == (3, 0, 3)
    assert row.difference.mean == pytest.approx(0.4)
    assert row.test.p == pytest.approx(0.25)
    assert "+0.400" in "\n".join(report(records))


def test_what_was_measured_anew_replaces_the_old():
    """The last record of a detector, series and seed counts."""
    records = [made_record("random", "a", 0.1), made_record("random", "a", 0.7)]
    assert [r["metrics"]["vus_pr"] for r in latest(records)] == [0.7]


def test_a_fault_counts_once_however_many_seeds():
    """Three seeds on two faults are two faults, and the interval is that of two."""
    records = []
    for seed, found in enumerate(([1, 0], [1, 0], [1, 1])):
        record = made_record("random", "a", 0.1, seed=seed)
        figures = record["thresholds"]["past"] | {"found": found}
        records.append(record | {"thresholds": {"validation": figures, "past": figures}})
    (row,) = [line for line in event_table(records, "x") if line.startswith("| *random*")]
    assert row.startswith("| *random* | 2 | 0.67 [0.33, 1.00] |")


def test_a_series_cut_elsewhere_is_never_paired():
    """The same name with other rows is another series."""
    records = [made_record("foreshock", "a", 0.5, data_sha256="1" * 64)]
    records += [made_record("random", "a", 0.1, data_sha256="2" * 64)]
    assert paired_rows(records, "vus_pr", "foreshock") == []


def test_contaminated_cells_are_marked():
    """† beside the figure, and the words once."""
    text = "\n".join(report([made_record("foreshock", "a", 0.5, contamination="its train part")]))
    assert "0.500†" in text
    assert "- † foreshock on made: its train part." in text


def test_weights_that_saw_the_data_are_flagged():
    """By model and origin; an untrained network saw nothing."""
    assert held_by("AutonLab/MOMENT-1-large", "ucr")
    assert not held_by("nano's shape, random weights", "smd")


# -------------------------------------------------------------------------------------------------- audit


def test_a_forest_remembers_across_a_shuffled_split():
    """On the same rows the shuffled split looks far better than the split in time."""
    pytest.importorskip("sklearn")
    rows = list(forest_rows("shop", simulator.simulate(seed=0, rows=1440), 0))
    shuffled, later = rows
    assert shuffled.f1_oracle > 0.8
    assert later.f1_oracle < shuffled.f1_oracle - 0.2
    assert shuffled.positive > 0
    assert later.positive > 0
    table = audit_table([row.record() for row in rows])
    assert "| shop | random forest, faults | shuffled rows |" in table[2]


def test_a_fault_that_no_metric_shows_is_found_only_by_leaking():
    """Labels on rows of pure noise: a shuffled split finds them, a split in time does not."""
    pytest.importorskip("sklearn")
    frame = simulator.simulate(seed=1, rows=900, faults=(), deploys=())
    walk = np.cumsum(np.random.default_rng(0).normal(size=(900, 6)), axis=0)
    labels = frame.labels
    at = np.arange(900)
    anomaly = (at % 60) < 12
    fault = np.where(anomaly, at // 60, -1)
    hidden = replace(labels, anomaly=anomaly, fault_id=fault, metric_visible=~anomaly)
    frame = replace(frame.select(frame.names[:6]), values=walk, labels=hidden)
    by_how = {row.how: row for row in forest_rows("noise", frame, 0) if "no metric" in row.scorer}
    assert by_how["shuffled rows"].auc > 0.85
    assert by_how["in time, with a gap"].auc < 0.65


def test_regime_rows_need_a_workload():
    """A recording without one is refused with what is missing."""
    frame = simulator.simulate(seed=1, rows=200)
    with pytest.raises(FrameError, match="no workload KPI"):
        list(regime_rows("shop", frame.select(frame.names[:1]), frame.time[100], ()))


@pytest.mark.data
def test_the_audit_on_train_ticket(request):
    """The number of calls alone ranks listed faults well on the whole day, and much less before 15:50 UTC."""
    import os

    from foreshock import sources
    from foreshock.evaluate.audit import RECORDINGS, UNTIL

    folder = os.environ.get("FORESHOCK_TEST_DATA", "")
    path = Path(folder) / RECORDINGS["Train Ticket"]
    if not folder or not path.is_file():
        pytest.skip("needs the development recordings (FORESHOCK_TEST_DATA)")
    whole, before = regime_rows("Train Ticket", sources.read(path), UNTIL, ())
    assert whole.auc > 0.85
    assert before.auc < 0.7


def test_spans_of_a_series_are_its_faults(data):
    """A run of ones is one fault."""
    part = named_parts(SERIES, data, 20)["a"]()
    assert part.faults == spans(part.frame.labels.anomaly)


# -------------------------------------------------------------------------------- sketches, side by side


def test_a_sketch_is_small_and_true(data):
    """Precision falls from 1, the highest score keeps its column, faults and alarms are told in columns."""
    one = setup(data, "robust_z", ours="robust_z")
    (job,) = [j for j in plan(one) if j.choice.name == "robust_z" and j.series == "a"]
    found = next(evaluate(one, [job]))["sketch"]
    assert len(found["precision"]) == len(RECALLS)
    assert found["precision"][0] == 1.0
    assert found["precision"] == sorted(found["precision"], reverse=True)
    line = found["timeline"]
    assert (line["rows"], len(line["score"])) == (280, 240)
    assert line["faults"] == [[137, 150]]  # rows 480 to 494 of those from 320 on, in 240 columns
    assert max(v for v in line["score"] if v is not None) == max(line["score"][137:150])
    assert len(json.dumps(found)) < 4000


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2000), st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 300)), max_size=300))
def test_a_sketch_has_a_bound_whatever_happens(rows, events):
    """However many events there are, their columns rise, never overlap and end with the last one."""
    from foreshock.evaluate.sketch import COLUMNS, _in_columns

    columns = min(COLUMNS, rows)
    found = _in_columns([(a, a + n) for a, n in events], 0, rows, columns)
    edges = [edge for span in found for edge in span]
    assert edges == sorted(edges)
    assert all(0 <= left < right <= columns for left, right in found)
    assert len(found) <= columns


def test_only_the_first_seed_is_sketched(data):
    """A page draws one seed; the others would only fill the disk."""
    one = setup(data, "random")
    drawn = [(r["seed"], "sketch" in r) for r in evaluate(one, plan(one, only=["random"]))]
    assert drawn == [(0, True), (1, False)] * 2


def test_only_ours_is_sketched_in_time(data):
    """Every detector has its curve; the score in time, most of the bytes, is kept of the one in question."""
    one = setup(data, "past_median", "random", ours="past_median")
    drawn = {r["detector"]: r["sketch"].keys() for r in evaluate(one, plan(one)) if "sketch" in r}
    assert drawn.pop("past_median") == {"precision", "timeline"}
    assert drawn
    assert all(keys == {"precision"} for keys in drawn.values())


def test_the_command_keeps_sketches_beside_the_records(config, tmp_path, capsys):
    """A line for each record of the first seed, with the record's key; records hold none."""
    assert run(["evaluate", str(config), "--quiet"]) == 0
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    sketches = [json.loads(line) for line in (tmp_path / "out.sketches.jsonl").read_text().splitlines()]
    assert [s["key"] for s in sketches] == [r["key"] for r in records if "key" in r]
    assert not any("sketch" in r for r in records)


def test_the_command_hands_records_to_trackers(config, tmp_path, capsys):
    """`--track tensorboard:DIR` writes event files beside the JSONL; an unknown tracker stops before work."""
    pytest.importorskip("tensorboard")
    assert run(["evaluate", str(config), "--track", f"tensorboard:{tmp_path / 'tb'}", "--quiet"]) == 0
    assert list((tmp_path / "tb" / "out").glob("events*"))
    assert run(["evaluate", str(config), "--redo", "z 64", "--track", "nothing"]) == 2
    assert "no tracker 'nothing'" in capsys.readouterr().err


def test_two_files_are_laid_side_by_side():
    """Paired over series with the same rows; what only one file has is told and left out."""
    a = [made_record("x", s, v) for s, v in zip("abcde", (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)]
    b = [made_record("x", s, v + 0.1) for s, v in zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True)]
    found = compare_records(
        [*a, made_record("old", "a", 0.5)], [*b, made_record("new", "a", 0.5)], metrics=["vus_pr"]
    )
    (change,) = found.changes
    assert change.difference.mean == pytest.approx(0.1)
    assert (change.difference.n, change.better, change.worse, change.unshared) == (4, 4, 0, 1)
    assert (found.only_a, found.only_b) == (("old",), ("new",))


def test_files_that_share_nothing_are_refused():
    """Other rows of a series are another series."""
    a, b = made_record("x", "a", 0.5), made_record("x", "a", 0.5) | {"data_sha256": "f" * 64}
    with pytest.raises(InputError, match="share no detector"):
        compare_records([a], [b])
    with pytest.raises(InputError, match="the second file holds no evaluation"):
        compare_records([a], [])


def test_the_command_compares_files(config, tmp_path, capsys):
    """`runs compare A.jsonl B.jsonl` shows every shared detector; a file that isn't there is told."""
    assert run(["evaluate", str(config), "--quiet"]) == 0
    capsys.readouterr()
    out = str(tmp_path / "out.jsonl")
    assert run(["runs", "compare", out, out]) == 0
    shown = capsys.readouterr().out
    assert "z 64" in shown
    assert "+0.000 [+0.000, +0.000]" in shown
    assert run(["runs", "compare", out, out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"][0]["difference"]["mean"] == 0
    assert run(["runs", "compare", out, "nothing.jsonl"]) == 2
    assert "nothing.jsonl is not there" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text('{"kind": "run"}\n')
    assert run(["runs", "compare", out, str(other)]) == 2
    assert "holds no evaluation record" in capsys.readouterr().err


def test_the_command_writes_a_page_and_its_tables(config, tmp_path, capsys):
    """`--report` by its ending; `runs report` makes the same page of the file, and overwrites none."""
    page, tables = tmp_path / "page.html", tmp_path / "page.md"
    assert run(["evaluate", str(config), "--report", str(page), "--quiet"]) == 0
    assert 'class="draw strip' in page.read_text()
    records = str(tmp_path / "out.jsonl")
    assert run(["runs", "report", records, "--out", str(tables), "--ours", "past_median", "--quiet"]) == 0
    assert "### past_median against each" in tables.read_text()
    first = page.read_text()
    words = ["runs", "report", records, "--out", str(page), "--ours", "past_median", "--quiet"]
    capsys.readouterr()
    assert run(words) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*words, "--force"]) == 0
    assert page.read_text() == first
    (tmp_path / "out.sketches.jsonl").unlink()
    assert run([*words[:-1], "--force"]) == 0
    assert "out.sketches.jsonl is not there" in capsys.readouterr().err
    assert "out.sketches.jsonl, which `foreshock evaluate` writes" in page.read_text()
    assert run(["evaluate", str(config), "--report", str(tmp_path / "page.pdf")]) == 2
