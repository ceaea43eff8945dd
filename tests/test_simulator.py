"""The simulated shop: seeded, honest about causes, quiet like the real ones."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.errors import InputError, OutputError
from foreshock.sources import simulator
from foreshock.sources.simulator import FAULTS, SHOP, Deploy, Fault, simulate

HOUR = 3600.0


@pytest.fixture(scope="module")
def quiet():
    return simulate(5, 1000, faults=(), deploys=())


def column(frame, name):
    return frame.values[:, frame.names.index(name)]


def around(frame, name, fault_id=0):
    """Medians of a KPI: in the hour before the fault, and while it lasts."""
    rows = np.flatnonzero(frame.labels.fault_id == fault_id)
    x = column(frame, name)
    before = x[max(rows[0] - 120, 0) : rows[0] - 2]
    return np.nanmedian(before), np.nanmedian(x[rows[3] : rows[-1]])


def one_fault(kind, service, size=1.0):
    return simulate(3, 400, faults=(Fault(kind, service, 2 * HOUR, 1200, size),), deploys=())


def test_same_seed_same_recording():
    """A seed names one recording, another seed another one."""
    a, b, c = simulate(1, 200), simulate(1, 200), simulate(2, 200)
    np.testing.assert_array_equal(a.values, b.values)
    assert not np.array_equal(a.values, c.values, equal_nan=True)


def test_longer_recording_begins_with_the_shorter():
    """Blocks are seeded by their number, so length changes nothing that came before."""
    faults = (Fault("slow_query", "orders", HOUR, 600),)
    long = simulate(4, simulator.BLOCK_ROWS + 50, faults=faults, deploys=())
    short = simulate(4, 300, faults=faults, deploys=())
    np.testing.assert_array_equal(long.values[:300], short.values)
    np.testing.assert_array_equal(long.labels.anomaly[:300], short.labels.anomaly)
    assert np.all(np.diff(long.time_ns) == 30 * 10**9)


def test_quiet_statistics(quiet):
    """CPU nearly white and widely spread, memory slow, latencies in range, errors mostly 0."""
    cpu = column(quiet, "notify__cpu_pct")
    assert 0.4 < np.nanstd(cpu) / np.nanmean(cpu) < 0.8
    assert abs(lag1(cpu)) < 0.2
    assert lag1(column(quiet, "search__memory_mi")) > 0.95
    assert np.nanmedian(column(quiet, "catalog__error_share")) == 0
    assert not quiet.labels.anomaly.any()
    assert np.nanmin(quiet.values) >= 0
    assert 0.0003 < np.isnan(quiet.values).mean() < 0.02


def lag1(x):
    x = x[np.isfinite(x)]
    return np.corrcoef(x[1:], x[:-1])[0, 1]


def test_latency_is_missing_when_nobody_called(quiet):
    """NaN where the count is 0, never a latency of 0."""
    night = simulate(
        5, 600, step_s=2.0, faults=(), deploys=(), start_ns=simulator.DEMO_START_NS - 4 * 3600 * 10**9
    )
    calls, took = column(night, "notify__workload_ops"), column(night, "notify__latency_p90_s")
    assert (calls == 0).any()
    assert np.isnan(took[calls == 0]).all()
    assert np.nanmin(took) > 0


def test_contention_shows_at_its_root_and_slows_the_callers():
    """CPU near the limit at the root only; latency up at the root and at each caller above it."""
    f = one_fault("cpu_contention", "payment")
    before, during = around(f, "payment__cpu_pct")
    assert before < 15
    assert during > 80
    assert around(f, "checkout__cpu_pct")[1] < 20
    for service in ("payment", "checkout"):
        before, during = around(f, f"{service}__latency_p90_s")
        assert during > 3 * before
    before, during = around(f, "catalog__latency_p90_s")
    assert during < 1.5 * before


def test_network_delay_leaves_the_root_latency_alone():
    """The delay is on the way back: callers see it, the service's own clock does not."""
    f = one_fault("network_delay", "catalog")
    before, during = around(f, "catalog__latency_p90_s")
    assert during < 1.3 * before
    for caller in ("search", "basket", "web", "gateway"):
        before, during = around(f, f"{caller}__latency_p90_s")
        assert during > 3 * before, caller


def test_crash_starves_the_callees_and_fails_the_callers():
    """Nobody answers at the root; what it would have called is called less; callers count errors."""
    f = one_fault("service_crash", "checkout")
    assert around(f, "checkout__workload_ops")[1] == 0
    before, during = around(f, "payment__workload_ops")
    assert during < 0.1 * before
    assert around(f, "web__error_share")[1] > 0.05


def test_slow_answers_make_users_come_less_often():
    """The load is closed: waiting users do not click."""
    f = one_fault("network_delay", "web", size=3)
    before, during = around(f, "gateway__workload_ops")
    assert during < 0.85 * before


@pytest.mark.parametrize("kind", sorted(FAULTS))
def test_each_kind_changes_something_and_nothing_breaks(kind):
    """Finite, in range, and some KPI's median far outside its quiet spread."""
    service = "gateway" if kind == "traffic_surge" else "orders"
    f = one_fault(kind, service)
    assert f.labels.anomaly.sum() == 40
    share = f.values[:, [k.metric == "error_share" for k in f.kpis]]
    assert np.nanmin(share) >= 0
    assert np.nanmax(share) <= 1
    cpu = f.values[:, [k.metric == "cpu_pct" for k in f.kpis]]
    assert np.nanmin(cpu) >= 0
    assert np.nanmax(cpu) < 106
    rows = np.flatnonzero(f.labels.anomaly)
    quiet = f.values[: rows[0] - 2]
    last = np.nanmedian(np.where(np.isnan(f.values), 0, f.values)[rows[20:]], axis=0)
    with np.errstate(invalid="ignore"):
        strange = np.abs(last - np.nanmedian(quiet, axis=0)) / (np.nanstd(quiet, axis=0) + 1e-3)
    assert np.nanmax(strange) > 4


def test_a_deploy_is_a_shift_that_nobody_labelled():
    """Memory starts afresh at the deploy, a scrape is lost, and no label tells."""
    f = simulate(3, 400, faults=(), deploys=(Deploy("web", HOUR, memory=0.8),))
    memory = column(f, "web__memory_mi")
    assert np.nanmedian(memory[130:200]) < 0.9 * np.nanmedian(memory[50:110])
    assert np.isnan(memory[120:122]).all()
    assert not f.labels.anomaly.any()
    assert not f.labels.ignore.any()


def test_labels_cover_the_fault_then_the_recovery():
    """A row stamped t covers (t - step, t]: 10 minutes touch 20 rows, then recovery is ignored."""
    f = simulate(3, 400, faults=(Fault("slow_query", "orders", 2 * HOUR, 600),), deploys=())
    rows = np.flatnonzero(f.labels.anomaly)
    assert (rows[0], len(rows)) == (240, 20)
    assert f.labels.ignore[260:263].all()
    assert not f.labels.ignore[266:].any()
    assert set(f.labels.root_cause[rows]) == {"orders"}
    assert set(f.labels.fault_id[rows]) == {0}
    assert f.labels.metric_visible.all()


def test_demo_is_quick_and_holds_five_faults():
    """The recording of `make demo`: five kinds, five root causes."""
    f = simulator.demo()
    assert f.values.shape == (1440, 50)
    assert f.step_s == 30
    assert len(simulator.planted(f)) == 5
    assert len({p["fault_type"] for p in simulator.planted(f)}) == 5
    f.require_clock()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), step_s=st.sampled_from([5.0, 15.0, 60.0]), rows=st.integers(1, 400))
def test_any_seed_and_step(seed, step_s, rows):
    """Any recording is a sound frame: sorted clock, finite or missing, labels as long as the rows."""
    f = simulate(seed, rows, step_s)
    assert f.values.shape == (rows, 5 * len(SHOP.services))
    assert not np.isinf(f.values).any()
    assert all(len(getattr(f.labels, n.name)) == rows for n in dataclasses.fields(f.labels))
    f.require_clock()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rows": 0}, "at least one row"),
        ({"step_s": 0.0}, "step"),
        ({"faults": (Fault("flood", "web", 0, 60),)}, "flood"),
        ({"faults": (Fault("slow_query", "ghost", 0, 60),)}, "ghost"),
    ],
)
def test_impossible_plans_are_refused(change, word):
    """What can't be simulated is named."""
    with pytest.raises(InputError, match=word):
        simulate(**{"seed": 0, "rows": 10, **change})


def test_written_files_hold_the_same_recording(tmp_path):
    """Parquet and CSV agree with the frame; the faults are listed; nothing is overwritten."""
    import pandas as pd

    f = simulate(3, 60, faults=(Fault("slow_query", "orders", 600, 600, 1.0),))
    parquet, csv, faults = simulator.write(f, tmp_path / "out")
    table, text = pd.read_parquet(parquet), pd.read_csv(csv)
    np.testing.assert_array_equal(table[list(f.names)].to_numpy(), f.values)
    np.testing.assert_allclose(text[list(f.names)].to_numpy(), f.values, rtol=1e-4)
    assert table["label"].sum() == text["label"].sum() == f.labels.anomaly.sum()
    (entry,) = json.loads(faults.read_text())
    assert entry["root_cause_service"] == "orders"
    assert entry["start"] == "2026-03-02T08:10:00Z"
    with pytest.raises(OutputError, match="--force"):
        simulator.write(f, tmp_path / "out")
    simulator.write(f, tmp_path / "out", force=True)


def test_pieces_are_written_like_the_whole(tmp_path):
    """A fault across two blocks is one fault; a fast clock keeps its fractions."""
    import pandas as pd

    rows = simulator.BLOCK_ROWS + 200
    fault = Fault("slow_query", "orders", (simulator.BLOCK_ROWS - 10) * 0.5, 20)
    plan = simulator.make_plan(1, rows, 0.5, (fault,), ())
    parquet, csv, faults = simulator.write(simulator.blocks(plan), tmp_path)
    whole = simulate(1, rows, 0.5, (fault,), deploys=())
    table, text = pd.read_parquet(parquet), pd.read_csv(csv, parse_dates=["timestamp"])
    np.testing.assert_array_equal(table[list(whole.names)].to_numpy(), whole.values)
    assert (text["timestamp"] == table["timestamp"]).all()
    assert text["timestamp"].is_unique
    assert json.loads(faults.read_text()) == simulator.planted(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in (parquet, csv, faults))
