"""What inspect says about odd recordings, and what repair does and leaves alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.frame import Frame, Kpi, Labels
from foreshock.quality import SEVERITIES, inspect, repair

NS = 10**9


def frame_of(stamps_s, columns: dict[str, object], step_s: float = 60.0) -> Frame:
    values = np.column_stack([np.asarray(v, dtype=float) for v in columns.values()])
    kpis = tuple(Kpi(n, "svc", n, "%") for n in columns)
    return Frame(np.asarray(stamps_s, dtype=np.int64) * NS, values, kpis, step_s)


def kinds(frame: Frame) -> set[str]:
    return {f.kind for f in inspect(frame).findings}


def test_a_clean_recording(make_frame):
    """Nothing to say but that the units are unknown, and nothing to repair: the very same frame."""
    f = make_frame(400)
    q = inspect(f)
    assert {x.kind for x in q.findings} == {"unit"}
    assert q.is_scorable
    assert q.missing == q.jitter_s == q.off_grid == 0
    mended, done = repair(f)
    assert mended is f
    assert done == ()


def test_gaps():
    """Stretches without rows, with their ends and about how many rows they miss."""
    q = inspect(frame_of([0, 60, 120, 420, 480, 660], {"a": range(6)}))
    assert [(g.start_ns, g.end_ns, g.rows) for g in q.gaps] == [
        (120 * NS, 420 * NS, 4),
        (480 * NS, 660 * NS, 2),
    ]
    text = next(f.text for f in q.findings if f.kind == "gap")
    assert text == "2 gaps in time, about 6 rows missing; the widest lasts 5 min from 1970-01-01T00:02:00Z."


def test_duplicates_and_conflicts():
    """Exact repeats are dropped; of different values at one stamp the last stays, and repair says so."""
    f = frame_of([0, 60, 60, 120, 120, 120], {"a": [1, 2, 2, 3, 4, 5], "b": [np.nan] * 6})
    q = inspect(f)
    assert (q.duplicates, q.conflicts, q.unsorted) == (1, 2, 0)
    assert not q.is_scorable
    mended, done = repair(f)
    np.testing.assert_array_equal(mended.values[:, 0], [1, 2, 5])
    assert done == (
        "Dropped 1 row that repeated another exactly.",
        "Of rows with the same stamp but different values kept the last; dropped 2.",
    )
    assert {"duplicate", "conflict"}.isdisjoint(kinds(mended))


def test_same_values_with_another_label_conflict():
    f = frame_of([0, 0], {"a": [1, 1]})
    no = np.array(["", ""])
    flags = np.array([False, True])
    labels = Labels(flags, no, no, np.zeros(2, bool), np.array([-1, 0]), np.ones(2, bool))
    assert inspect(replace(f, labels=labels)).conflicts == 1


def test_unsorted():
    f = frame_of([120, 0, 60], {"a": [3, 1, 2]})
    assert inspect(f).unsorted == 1
    mended, done = repair(f)
    np.testing.assert_array_equal(mended.values[:, 0], [1, 2, 3])
    assert done[0].startswith("Sorted the rows by time; 1 row ")
    np.testing.assert_array_equal(f.values[:, 0], [3, 1, 2])  # the caller's frame is as it was


def test_labels_follow_their_rows():
    f = frame_of([60, 0, 0], {"a": [2, 1, 1]})
    types = np.array(["x", "", ""])
    labels = Labels(types == "x", types, types, np.zeros(3, bool), np.array([0, -1, -1]), np.ones(3, bool))
    mended, _ = repair(replace(f, labels=labels))
    np.testing.assert_array_equal(mended.labels.anomaly, [False, True])


def test_infinite_values_become_missing_never_zero():
    f = frame_of([0, 60, 120], {"a": [1, np.inf, 2], "b": [-np.inf, 0, 1]})
    assert {k.name: k.infinite for k in inspect(f).kpis} == {"a": 1, "b": 1}
    mended, done = repair(f)
    np.testing.assert_array_equal(mended.values, [[1, np.nan], [np.nan, 0], [2, 1]])
    assert done == ("Made 2 infinite values missing, in a, b.",)
    assert np.isinf(f.values).any()


def test_constant_dead_stopped_and_missing():
    n = 200
    rng = np.random.default_rng(0)
    noise = rng.normal(size=n)
    f = frame_of(
        60 * np.arange(n),
        {
            "fine": noise,
            "flat": np.full(n, 3.0),
            "dead": np.full(n, np.nan),
            "stopped": np.where(np.arange(n) < 100, noise, np.nan),
            "holey": np.where(rng.random(n) < 0.3, np.nan, noise),
            "late": np.where(np.arange(n) < 100, np.nan, noise),
        },
    )
    found = {x.kind: x.kpis for x in inspect(f).findings if x.kpis}
    assert found["constant"] == ("flat",)
    assert found["dead"] == ("dead",)
    assert found["stopped"] == ("stopped",)
    assert found["missing"] == ("holey", "late")
    facts = {k.name: k for k in inspect(f).kpis}
    assert facts["dead"].dead
    assert facts["stopped"].dead
    assert facts["stopped"].last_row == 99
    assert facts["late"].first_row == 100
    assert not facts["late"].dead


def test_counters_and_what_only_looks_like_one():
    """Totals and whole numbers that only grow are counters; a drifting gauge or growing memory is none."""
    n = 300
    rng = np.random.default_rng(1)
    steps = rng.integers(0, 50, n)
    reset = np.concatenate([np.cumsum(steps[:200]), np.cumsum(steps[200:])])
    f = frame_of(
        60 * np.arange(n),
        {
            "requests_total": np.cumsum(steps) + 0.5,
            "calls": reset,
            "mem_bytes": np.cumsum(steps),
            "drift": np.cumsum(rng.random(n)),
            "noise": rng.integers(0, 100, n),
            "short": np.where(np.arange(n) < 10, np.arange(n), np.nan),
            "negative": np.cumsum(steps) - 50,
        },
    )
    facts = {k.name: k for k in inspect(f).kpis}
    assert {n for n, k in facts.items() if k.counter} == {"requests_total", "calls"}
    assert facts["calls"].resets == 1


def test_rates_only_when_asked():
    """Growth a second, from 0 after a reset; no rate where a neighbour was not observed."""
    counts = np.arange(40.0) * 120
    counts[20:] -= 2400  # reset at row 20: exactly 0
    counts[21:] += 60
    counts[30] = np.nan
    f = frame_of(60 * np.arange(40), {"requests_total": counts})
    assert repair(f) == (f, ())
    mended, done = repair(f, rates=True)
    expected = np.full(40, 2.0)
    expected[[0, 30, 31]] = np.nan
    expected[20] = 0.0
    expected[21] = 3.0
    np.testing.assert_allclose(mended.values[:, 0], expected)
    assert done == ("Turned 1 counter into rates per second: requests_total.",)
    assert mended.names == f.names
    assert mended.kpis[0].unit == "%/s"
    assert repair(mended, rates=True)[1] == ()


def test_jitter_is_no_gap():
    rng = np.random.default_rng(0)
    stamps = np.arange(300) * 60 + rng.integers(-2, 3, 300)
    q = inspect(frame_of(stamps, {"a": rng.normal(size=300)}))
    assert not q.gaps
    assert 1 < q.jitter_s < 5
    assert q.off_grid == 0
    wild = np.sort(np.arange(300) * 60 + rng.integers(-25, 26, 300))
    assert "off-grid" in kinds(frame_of(wild, {"a": rng.normal(size=300)}))


def test_one_row_and_no_row():
    one = frame_of([0], {"a": [1.0]})
    assert "short" in kinds(one)
    assert inspect(one).is_scorable
    none = one.rows(slice(0, 0))
    q = inspect(none)
    assert q.findings[0].kind == "empty"
    assert q.start_ns is None
    assert repair(none) == (none, ())
    json.dumps(q.to_dict())


def test_nothing_observed_is_a_problem():
    q = inspect(frame_of([0, 60], {"a": [np.nan, np.nan]}))
    assert not q.is_scorable
    assert "No KPI has a single value." in [f.text for f in q.findings]


def test_findings_come_by_severity_and_as_json(make_frame):
    f = make_frame(100)
    f.values[3, 0] = np.inf
    f.values[:, 1] = np.nan
    q = inspect(f)
    order = [SEVERITIES.index(x.severity) for x in q.findings]
    assert order == sorted(order)
    told = json.loads(json.dumps(q.to_dict(), allow_nan=False))
    assert told["rows"] == 100
    assert told["kpis"][1]["missing"] == 1.0
    assert told["findings"][0]["severity"] == "problem"


def test_long_lists_are_cut(make_frame):
    text = next(f.text for f in inspect(make_frame(300, kpis=40)).findings if f.kind == "unit")
    assert text.endswith("and 35 more.")


@settings(max_examples=60, deadline=None)
@given(
    stamps=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    seed=st.integers(0, 999),
)
def test_repair_always_gives_a_usable_clock(stamps, seed):
    """Whatever the order and doubling: stamps rise, each comes once with its last row, nothing is made up."""
    rng = np.random.default_rng(seed)
    values = rng.choice([0.0, 1.0, np.nan, np.inf], (len(stamps), 2))
    f = Frame(np.array(stamps) * NS, values, (Kpi("a"), Kpi("b")), 1.0)
    mended, done = repair(f)
    mended.require_clock()
    assert sorted(set(stamps)) == (mended.time_ns // NS).tolist()
    for stamp, row in zip(mended.time_ns // NS, mended.values, strict=True):
        last = values[np.flatnonzero(np.array(stamps) == stamp)[-1]]
        np.testing.assert_array_equal(row, np.where(np.isinf(last), np.nan, last))
    assert bool(done) == (mended is not f)
    again, nothing = repair(mended)
    assert again is mended
    assert nothing == ()
    assert not {"unsorted", "duplicate", "conflict", "infinite"} & kinds(mended)


def test_ten_thousand_kpis():
    """Wide frames are looked at in blocks; it takes seconds at most."""
    rng = np.random.default_rng(0)
    f = Frame(
        np.arange(50) * NS, rng.normal(size=(50, 10_000)), tuple(Kpi(f"k{i}") for i in range(10_000)), 1.0
    )
    assert len(inspect(f).kpis) == 10_000


@pytest.mark.data
@pytest.mark.parametrize("name", ["trainticket_2023-01-29.parquet", "onlineboutique_2022-08-22.parquet"])
def test_real_recordings(data_dir, name):
    """Nothing in the way of scoring, and no gauge taken for a counter."""
    from foreshock.sources import read

    f = read(data_dir / "nezha" / name)
    q = inspect(f)
    assert q.is_scorable
    assert not any(k.counter for k in q.kpis)
    assert repair(f, rates=True) == (f, ())


def test_row_numbers_for_stamps():
    """Stamps that count from 0 are told as a warning; real ones are not."""
    values = np.random.default_rng(0).normal(size=(300, 1))
    for start_s, expected in ((0, True), (1_700_000_000, False)):
        stamps = (start_s + np.arange(300)) * 10**9
        kinds = {f.kind for f in inspect(Frame(stamps, values, (Kpi("a"),), step_s=1)).findings}
        assert ("clock" in kinds) == expected
