"""The simulated Train Ticket: its graph, its 14 faults, and quiet hours like the recorded ones."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foreshock.errors import InputError
from foreshock.sources import simulator
from foreshock.sources.simulator import FAULTS, TRAINTICKET, Call, Deploy, Fault, Regime, Service, System
from foreshock.sources.simulator.flow import flow
from foreshock.sources.simulator.quiet import KNOTS, commuter_curve, drift, quiet_state

START_S, LASTS_S, STEP_S = 5400.0, 1200.0, 15.0
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def simulate(seed=1, rows=520, step_s=STEP_S, faults=(), **options):
    """Train Ticket with nothing unlabelled and a steady load, unless asked for."""
    quiet = {"deploys": (), "regimes": (), "steady": True, "system": TRAINTICKET}
    return simulator.simulate(seed, rows, step_s, faults, **(quiet | options))


def broken(kind, root, size=1.0, **options):
    return simulate(3, faults=(Fault(kind, f"ts-{root}-service", START_S, LASTS_S, size),), **options)


def around(frame, root, metric):
    """Medians of a KPI before the fault and while it has its full effect; NaN when nobody called."""
    name = f"{root}__{metric}" if root == "frontdoor" else f"ts-{root}-service__{metric}"
    x = frame.values[:, frame.names.index(name)]
    rows = np.flatnonzero(frame.labels.anomaly)
    during = x[rows[len(rows) // 3] : rows[-1]]
    return np.nanmedian(x[: rows[0] - 2]), np.nanmedian(during) if np.isfinite(during).any() else np.nan


@pytest.fixture(scope="module")
def hours():
    """Six quiet hours at the recording's step of a minute."""
    return simulate(2, 360, 60.0)


def test_the_system_is_the_benchmarks():
    """41 services, no call leads back up, 21 of them watched; 14 kinds of fault."""
    index = TRAINTICKET.index
    assert len(index) == 41
    assert len(TRAINTICKET.watched) == 21
    assert all(index[c.caller] < index[c.callee] for c in TRAINTICKET.calls)
    assert {c.callee for c in TRAINTICKET.calls} == set(index) - {TRAINTICKET.services[0].name}
    assert len(FAULTS) == 14
    assert set(TRAINTICKET.roots) <= set(FAULTS)
    assert {r for roots in TRAINTICKET.roots.values() for r in roots} <= set(TRAINTICKET.watched)


def test_columns_are_those_of_the_88_kpi_table(data_dir):
    """The same names in the same order as the recorded table."""
    import foreshock

    real = foreshock.read(str(data_dir / "nezha" / "trainticket88_2023-01-29.csv.gz"))
    assert simulate(rows=1).names == real.names


def test_all_services_have_columns_when_asked_for():
    """168 KPIs; services nobody calls have a workload and a latency that never change."""
    frame = simulate(rows=60, system=simulator.TRAINTICKET_ALL)
    assert len(frame.names) == 41 * 4 + 4
    for metric in ("workload_ops", "server_lat_p90_s"):
        assert set(frame.values[:, frame.names.index(f"ts-rebook-service__{metric}")]) == {0.0}
    dead = [np.ptp(x[np.isfinite(x)]) == 0 for x in frame.values.T if np.isfinite(x).any()]
    assert 0.1 < np.mean(dead) < 0.35


@pytest.mark.parametrize("step_s", [5.0, 15.0, 60.0])
def test_pieces_give_what_the_whole_gives(step_s):
    """Blocks are seeded by their number: length and step change nothing that came before."""
    rows = simulator.BLOCK_ROWS + 40
    faults = (Fault("slow_query", "ts-order-service", (rows - 60) * step_s, 40 * step_s),)
    long, short = simulate(7, rows, step_s, faults), simulate(7, 100, step_s, faults)
    np.testing.assert_array_equal(long.values[:100], short.values)
    np.testing.assert_array_equal(long.values, simulate(7, rows, step_s, faults).values)
    assert not np.array_equal(short.values, simulate(8, 100, step_s, faults).values, equal_nan=True)
    assert np.all(np.diff(long.time_ns) == step_s * 1e9)


@pytest.mark.parametrize("seed", range(20))
def test_the_default_holds_every_kind(seed):
    """Two days are long enough for all 14, however they are drawn; none overlaps the one before."""
    usual = simulator.usual("trainticket")
    assert usual.rows >= 10_000
    plan = simulator.make_plan(seed, usual.rows, usual.step_s, system=usual.system)
    assert Counter(f.kind for f in plan.faults).keys() == FAULTS.keys()
    assert all(a.over_s < b.start_s for a, b in zip(plan.faults, plan.faults[1:], strict=False))
    assert all(20 <= f.onset_s <= 80 for f in plan.faults)


def test_an_unknown_system_is_named():
    """With the ones there are."""
    with pytest.raises(InputError, match="did you mean 'trainticket'"):
        simulator.usual("trainticke")


# kind, root, KPI of the root, during over before: at least, at most
DIRECTIONS = [
    ("cpu_contention", "contacts", "cpu_pct", 30, 200),
    ("cpu_contention", "contacts", "server_lat_p90_s", 4, 60),
    ("cpu_throttling", "order", "cpu_pct", 6, 20),
    ("cpu_throttling", "order", "server_lat_p90_s", 4, 40),
    ("memory_leak", "travel", "mem_mi", 1.5, 2.4),
    ("disk_pressure", "order", "server_lat_p90_s", 3, 40),
    ("disk_pressure", "order", "cpu_pct", 3, 8),
    ("network_delay", "order", "server_lat_p90_s", 0.6, 1.6),
    ("network_partition", "order", "workload_ops", 0, 0),
    ("network_partition", "order", "mem_mi", 0.95, 1.05),
    ("service_crash", "order", "workload_ops", 0, 0),
    ("service_crash", "order", "mem_mi", 0.1, 0.2),
    ("service_crash", "order", "cpu_pct", 0, 0.01),
    ("slow_query", "price", "server_lat_p90_s", 20, 400),
    ("pool_exhaustion", "train", "server_lat_p90_s", 50, 2000),
    ("pool_exhaustion", "train", "workload_ops", 0.3, 1),
    ("dns_failure", "seat", "server_lat_p90_s", 20, 200),
    ("error_storm", "basic", "server_lat_p90_s", 0, 0.5),
    ("error_storm", "basic", "cpu_pct", 0.2, 0.8),
    ("traffic_surge", "gateway", "workload_ops", 2.5, 4.5),
    ("traffic_surge", "gateway", "cpu_pct", 2, 5),
]


@pytest.mark.parametrize(("kind", "root", "metric", "least", "most"), DIRECTIONS)
def test_a_fault_shows_at_its_root(kind, root, metric, least, most):
    """In the stated KPI, in the stated direction, by about as much as stated."""
    before, during = around(broken(kind, root), root, metric)
    assert least * before <= during <= most * before + 1e-9


def test_every_kind_has_a_direction_tested():
    """packet_loss and memory_restarts have tests of their own."""
    assert {d[0] for d in DIRECTIONS} | {"packet_loss", "memory_restarts"} == set(FAULTS)


@pytest.mark.parametrize("kind", ["network_delay", "packet_loss", "network_partition", "slow_query"])
def test_callers_slow_down(kind):
    """Waiting climbs the graph: order's callers and the front door, not a service that never asks it."""
    frame = broken(kind, "order")
    for root, metric, least in [
        ("seat", "server_lat_p90_s", 3),
        ("travel", "server_lat_p90_s", 1.4),
        ("frontdoor", "lat_p90_s", 1.4),
    ]:
        before, during = around(frame, root, metric)
        assert during > least * before, root
    before, during = around(frame, "basic", "server_lat_p90_s")
    assert during < 1.6 * before


@pytest.mark.parametrize(
    ("kind", "root", "callees"),
    [
        ("service_crash", "basic", ("route", "train", "price")),
        ("network_partition", "basic", ("route", "price")),
        ("dns_failure", "basic", ("route", "price")),
        ("error_storm", "basic", ("route", "price")),
        ("pool_exhaustion", "order", ("order",)),
    ],
)
def test_callees_starve(kind, root, callees):
    """What the root can't ask for is not asked for."""
    frame = broken(kind, root)
    for callee in callees:
        before, during = around(frame, callee, "workload_ops")
        assert during < 0.65 * before, callee


def test_a_restart_loop_climbs_and_falls():
    """Memory goes up to about twice and down to a fifth, round after round, and calls are refused."""
    frame = broken("memory_restarts", "station")
    rows = np.flatnonzero(frame.labels.anomaly)[5:]
    memory = frame.values[:, frame.names.index("ts-station-service__mem_mi")]
    before = np.nanmedian(memory[: rows[0] - 10])
    assert np.nanmax(memory[rows]) > 2 * before
    assert np.nanmin(memory[rows]) < 0.3 * before
    falls = np.diff(memory[rows]) < -before
    assert falls.sum() >= 7  # 20 minutes, rounds of two
    calls = frame.values[:, frame.names.index("ts-station-service__workload_ops")]
    assert (calls[rows] == 0).mean() > 0.15


def test_quiet_hours_look_like_the_recorded_ones(hours):
    """Medians over KPIs, as recorded: CPU CV 0.6 to 0.9 and white, memory lag-1 0.98, latency missing
    without calls and on a few values, workloads correlated by about 0.3."""
    classes = {
        m: hours.values[:, [k.metric == m for k in hours.kpis]]
        for m in ("cpu_pct", "mem_mi", "workload_ops", "server_lat_p90_s")
    }
    cpu, memory, calls, took = classes.values()
    assert 0.5 < np.median(np.nanstd(cpu, 0) / np.nanmean(cpu, 0)) < 0.9
    assert abs(np.median([lag1(x) for x in cpu.T])) < 0.1
    assert np.median([lag1(x) for x in memory.T]) > 0.97
    assert np.median(np.nanstd(memory, 0) / np.nanmean(memory, 0)) < 0.04
    np.testing.assert_array_equal(np.isnan(took), (calls == 0) | np.isnan(calls))
    assert 0.1 < np.isnan(took).mean() < 0.3
    common = [
        np.unique(x[np.isfinite(x)], return_counts=True)[1].max() / np.isfinite(x).sum() for x in took.T
    ]
    assert 0.1 < np.median(common) < 0.6
    seen = np.corrcoef(calls[np.isfinite(calls).all(1)].T)[np.triu_indices(calls.shape[1], 1)]
    assert 0.15 < np.median(seen) < 0.45
    assert not hours.labels.anomaly.any()


def lag1(x):
    x = x[np.isfinite(x)]
    return np.corrcoef(x[1:], x[:-1])[0, 1]


def test_memory_is_whole_pages(hours):
    """As the kernel counts it, and a third of the readings stand still."""
    memory = hours.values[:, hours.names.index("ts-order-service__mem_mi")]
    assert np.all(memory * 256 % 1 == 0)
    assert 0.15 < (np.diff(memory) == 0).mean() < 0.5


def test_what_nobody_labelled():
    """A deploy and a change of the traffic are shifts without a label."""
    frame = simulate(
        4,
        400,
        deploys=(Deploy("ts-seat-service", 3000.0, memory=0.85),),
        regimes=(Regime(4500.0, load=0.4),),
    )
    memory = frame.values[:, frame.names.index("ts-seat-service__mem_mi")]
    assert np.nanmedian(memory[220:]) < 0.93 * np.nanmedian(memory[:190])
    assert np.isnan(memory[200:203]).any()
    calls = frame.values[:, frame.names.index("ts-gateway-service__workload_ops")]
    assert np.nanmean(calls[305:]) < 0.6 * np.nanmean(calls[:295])
    assert not (frame.labels.anomaly | frame.labels.ignore).any()


def test_the_days_curve():
    """Two rush hours, few users at night, fewer and later at the weekend."""
    start_ns = simulator.DEMO_START_NS - 8 * 3600 * 10**9  # a Monday, midnight
    day = commuter_curve(np.arange(7 * 96) * 900.0, start_ns).reshape(7, 24, 4).mean(-1)
    assert 7 <= day[0][:12].argmax() <= 8
    assert 17 <= day[0].argmax() <= 18
    assert day[0].min() < 0.25 * day[0].max()
    assert day[5].max() < 0.85 * day[4].max()
    assert day.max() <= 1


def test_drift_is_the_same_from_any_block():
    """Far from the start, over the seam of two runs of knots, a block sees what the whole sees."""
    at_s = np.arange(60_000) * 40.0 + 0.5
    whole = drift((1, 2), at_s, 2, 25.0)
    seam = int(KNOTS * 25 / 40)
    for first in (0, seam - 3, seam + 1000, 50_000):
        np.testing.assert_array_equal(
            drift((1, 2), at_s[first : first + 50], 2, 25.0), whole[first : first + 50]
        )
    assert abs(whole.std() - 1) < 0.25


def test_faults_are_found_by_their_span():
    """Looking them up gives those that a look at each would give."""
    plan = simulator.make_plan(3, 40_000, 15.0, system=TRAINTICKET)
    for start in (0.0, 100_000.0, 333_333.0):
        wanted = [
            (n, f) for n, f in enumerate(plan.faults) if f.start_s < start + 30_000 and f.over_s + 15 > start
        ]
        assert plan.faults_between(start, start + 30_000) == wanted


def test_one_queue_alone_is_textbook():
    """An M/M/1 queue 80 % busy takes 1 / (1 - 0.8) times the work, and nothing fails."""
    system = System((Service("door", 0.08, 0.0, cores=1.0),), (), think_s=1e9, settled=1e-6)
    plan = simulator.make_plan(0, 4, 60.0, (), (), system)
    state = quiet_state(plan, np.arange(4) * 60.0, np.random.default_rng(0))
    state.work_s[:], state.load[:] = 0.08, 10.0
    settled = flow(system, state)
    np.testing.assert_allclose(settled.calls[:, 0], 10.0, rtol=1e-6)
    np.testing.assert_allclose(settled.took[:, 0], 0.08 / (1 - 0.8), rtol=1e-3)
    assert settled.failed.max() < 1e-4


def test_rows_that_settled_early_are_where_the_others_end():
    """Leaving calm rows alone changes their load by less than the share allowed, a few times over."""
    plan = simulator.make_plan(5, 300, 15.0, (), (), TRAINTICKET, regimes=())
    at_s = np.arange(300) * 15.0
    early = flow(TRAINTICKET, quiet_state(plan, at_s, np.random.default_rng(1)))
    late = flow(replace(TRAINTICKET, settled=0.0), quiet_state(plan, at_s, np.random.default_rng(1)))
    np.testing.assert_allclose(early.calls, late.calls, rtol=0.02, atol=1e-6)


def test_retries_and_giving_up_add_load_and_bound_the_wait():
    """A silent callee is asked again, and nobody waits longer than the time-out times the tries."""
    system = System(
        (Service("door", 0.001, 0.0), Service("back", 0.001, 0.01)),
        (Call("door", "back"),),
        peak_ops=5.0,
        timeout_s=2.0,
        retries=1.0,
    )
    plan = simulator.make_plan(0, 3, 60.0, (), (), system)
    state = quiet_state(plan, np.arange(3) * 60.0, np.random.default_rng(0))
    calm = flow(system, state)
    state.silent[:, 1] = 0.5
    half = flow(system, state)
    assert np.all(half.took[:, 0] > 0.5 * 2.0)
    assert np.all(half.took[:, 0] < 2 * 2.0)
    per_call = half.calls[:, 1] / half.calls[:, 0]
    np.testing.assert_allclose(per_call, 0.5 * 1.5, rtol=0.05)  # half is lost, half of the calls ask again
    assert np.all(calm.took[:, 0] < 0.1)


def test_the_plan_is_written_beside_the_recording(tmp_path):
    """Faults with their course, what nobody labelled in plan.json, and no CSV when none is wanted."""
    fault = Fault("slow_query", "ts-order-service", 600.0, 600.0, 0.8, onset_s=30.0, recovery_s=90.0)
    deploy = Deploy("ts-seat-service", 1500.0)
    plan = simulator.make_plan(3, 150, 15.0, (fault,), (deploy,), TRAINTICKET)
    parquet, faults, told = simulator.write(simulator.blocks(plan), tmp_path, plan=plan, csv=False)
    assert [p.name for p in (parquet, faults, told)] == ["recording.parquet", "faults.json", "plan.json"]
    assert not (tmp_path / "recording.csv").exists()
    (entry,) = json.loads(faults.read_text())
    assert (entry["start"], entry["end"]) == ("2026-03-02T08:10:00Z", "2026-03-02T08:20:00Z")
    assert (entry["full_effect"], entry["recovered"]) == ("2026-03-02T08:10:30Z", "2026-03-02T08:21:30Z")
    assert entry["size"] == 0.8
    (kept,) = json.loads(told.read_text())["deploys"]
    assert kept["service"] == "ts-seat-service"


def test_the_simulator_page_is_what_the_records_say():
    """Its tables were written after the last measurement."""
    spec = importlib.util.spec_from_file_location("likeness", BENCHMARKS / "simulator_likeness.py")
    assert spec is not None
    assert spec.loader is not None
    likeness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(likeness)
    text = likeness.PAGE.read_text("utf-8")
    assert text == likeness.page(text, likeness.read())
