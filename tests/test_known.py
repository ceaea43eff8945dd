"""What simulated systems taught: incidents are named without labels, more are found, labels correct it."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreshock.alerts.alert import fault_type
from foreshock.cli import run
from foreshock.errors import ConfigError, OutputError, WeightsError
from foreshock.frame import Frame, Kpi
from foreshock.metrics import fault_spans
from foreshock.models import copy_of, load_detector, weights
from foreshock.models.figures import figure_names, quantity, service_figure_names
from foreshock.models.judging import judge, look, suspicion
from foreshock.models.known import FILE_NAME, knowing, load_known, save_known
from foreshock.models.shots import FAULTY, QUIET, draw_shots
from foreshock.models.verdict import (
    LEARNED_ROWS,
    SURELY,
    TAUGHT,
    Hidden,
    Kinds,
    Origins,
    Roots,
    Seldom,
    Verdict,
    learn_roots,
    score_of,
    untaught,
)
from foreshock.models.vigil import USUAL, VigilDetector
from foreshock.pretrain.simulated import HELD_BACK, KINDS, SimulatedPlan, judged, macro_f1, recording, teach
from foreshock.scores import Scores
from foreshock.sources import simulator
from foreshock.sources.simulator.faults import Fault
from foreshock.sources.simulator.invented import draw_dense, invent, monitored
from foreshock.sources.simulator.tracing import TOOK, WAITED, WAITED_ALL
from foreshock.stream.incident import likely_kinds

QUICK = SimulatedPlan(systems=2, unruly=1, rows=600)


@pytest.fixture(scope="module")
def demo() -> Frame:
    return simulator.demo()


@pytest.fixture(scope="module")
def told(demo: Frame) -> Scores:
    return load_detector().score(demo.without_labels())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of nano, which may be damaged."""
    return Path(shutil.copytree(weights.find("nano"), tmp_path / "copy"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, Any]]]:
    """A verdict learned of two small systems, the cache, and what was told."""
    folder, cache = (tmp_path_factory.mktemp(name) for name in ("built", "cache"))
    lines: list[dict[str, Any]] = []
    teach(QUICK, "nano", folder, cache, 1, lines.append)
    return folder, cache, lines


# ------------------------------------------------------------------------------------------------- in use


def test_incidents_are_named_without_labels(demo: Frame, told: Scores):
    """Most of the demo's faults are named, none wrongly; a delay seen by its callers alone is unknown."""
    known = load_known("nano")
    assert known is not None
    labels = demo.labels
    assert labels is not None
    named = {
        str(labels.fault_type[first]): known.verdict.name(told.kinds[first:last])
        for first, last in fault_spans(labels.fault_id)
    }
    right = {kind for kind, name in named.items() if kind == name}
    assert right >= {"memory_leak", "slow_query", "service_crash"}
    assert {named[kind] for kind in named.keys() - right} <= {"unknown"}
    assert told.kinds_from == "simulated systems"
    assert told.kind_names == tuple(sorted(simulator.FAULTS))


def test_it_counts_in_the_score_of_a_system(demo: Frame, told: Scores):
    """Half of the system's score in the end, nothing at first; those of KPIs and services stay."""
    plain = load_detector(known=False)
    scores = plain.score(demo.without_labels())
    for name in ("services", "kpis"):
        np.testing.assert_array_equal(getattr(scores, name), getattr(told, name), err_msg=name)
    assert scores.kinds is None
    assert getattr(knowing(plain), "threshold", None) is None
    assert told.taught is None
    known = load_known("nano")
    assert known is not None
    assert isinstance(plain, VigilDetector)
    odds = Seldom().push(suspicion(look(demo, plain.recogniser, plain.options), known.finder))
    share = np.arange(len(demo)) / (np.arange(len(demo)) + LEARNED_ROWS) / 2
    taught = USUAL.over(len(demo.kpis)).high * np.minimum(score_of(odds), SURELY)
    np.testing.assert_allclose(
        told.system, (1 - share) * scores.system + share * taught, rtol=1e-3, atol=1e-3
    )


def test_what_is_often_so_is_no_incident():
    """Odds are as they are while one row in ten is high, and lowered to nothing where half of them are."""
    rng = np.random.default_rng(4)
    calm = rng.normal(-3.3, 0.6, 4000)
    few = np.where(rng.random(4000) < 0.1, 5.0, calm)
    half = np.where(rng.random(4000) < 0.5, 5.0, calm)
    assert (few - Seldom().push(few))[500:].max() < 0.8
    assert np.median(Seldom().push(half)[500:][half[500:] == 5.0]) < -1
    parts = Seldom()
    pieces = [parts.push(half[a:b]) for a, b in ((0, 1), (1, 700), (700, 4000))]
    np.testing.assert_array_equal(np.concatenate(pieces), Seldom().push(half))


@pytest.mark.parametrize("count", [15, 436])
def test_other_tables_are_scored_without(demo: Frame, count: int):
    """A table of fewer or more KPIs than it ever learned from has the scores it would have without."""
    f = demo.without_labels().rows(slice(0, 100))
    some = np.arange(count) % len(f.kpis)
    kpis = tuple(replace(f.kpis[c], name=f"{f.kpis[c].name}_{i}") for i, c in enumerate(some))
    table = replace(f, values=f.values[:, some], kpis=kpis)
    want = load_detector(known=False).score(table).system
    found = load_detector().score(table)
    np.testing.assert_array_equal(found.system, want)
    assert found.kinds is not None


def test_pieces_do_not_matter(demo: Frame, told: Scores):
    """Rows that come in pieces, or one by one, have the scores of the whole."""
    f, stream = demo.without_labels(), load_detector().stream()
    edges = [0, 100, 101, 102, 300, len(f)]
    parts = [stream.push(f.rows(slice(a, b))).system for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(np.concatenate(parts), told.system, rtol=1e-4, atol=1e-4)


def test_only_the_detector_it_belongs_to_knows():
    """Other detectors, networks in memory and fewer signals stay as they are."""
    fewer = load_detector(signals=["chance"])
    for other in (
        load_detector("robust_z"),
        load_detector("untrained"),
        load_detector(recognise=False),
        fewer,
    ):
        assert knowing(other) is other
    once = load_detector()
    assert knowing(once) is once


def test_new_columns_do_not_confuse_it(demo: Frame):
    """KPIs that come later give what a stream says that had them from its first row on, still empty."""
    f = demo.without_labels().rows(slice(0, 420))
    values = f.values.copy()
    late = [c for c, kpi in enumerate(f.kpis) if kpi.service == "payment" or kpi.metric == "error_share"]
    values[:350, late] = np.nan
    whole = load_detector().score(replace(f, values=values))
    early = [c for c in range(len(f.kpis)) if c not in late]
    stream = load_detector().stream()
    first = Frame(f.time_ns[:350], values[:350, early], tuple(f.kpis[c] for c in early), f.step_s)
    stream.push(first)
    stream.relayout(f.kpis)
    rest = copy_of(stream).push(replace(f, values=values).rows(slice(350, 420)))
    assert rest.kinds is not None
    assert whole.kinds is not None
    np.testing.assert_allclose(rest.origins, whole.origins[350:], atol=0.02)
    np.testing.assert_allclose(rest.kinds, whole.kinds[350:], atol=0.02)


def test_a_kind_is_told_from_a_half_on():
    """Below it is unknown, wherever it is told; who taught it is told as well."""
    rows = np.array([[0.6, 0.1], [0.5, 0.2]])
    assert [name for name, _ in likely_kinds(rows, ("a", "b"))] == ["a", "b"]
    assert likely_kinds(rows - 0.2, ("a", "b")) == ()
    incident = {"kinds": [["a", 0.55]], "kinds_from": "simulated systems"}
    assert fault_type(incident) == "a (0.55, learned from simulated systems)"
    assert (
        fault_type({**incident, "kinds_from": "labels"}) == fault_type({"kinds": [["a", 0.55]]}) == "a (0.55)"
    )


def test_detect_says_so(capsys: pytest.CaptureFixture[str]):
    """The kind, its chance and where that was learned, for people; for machines: test_cli."""
    assert run(["detect", "demo:"]) == 0
    assert "memory_leak, 9" in (words := capsys.readouterr().out)
    assert "(learned from simulated systems)" in words


# ------------------------------------------------------------------------------------------------- on disk


def test_it_ships_and_is_whole():
    """It lies beside nano with its digest, knows nano's weights, and says what it was learned from."""
    known = load_known("nano")
    assert known is not None
    assert weights.known_digest(weights.find("nano") / FILE_NAME) == known.sha256
    assert not known.verdict.detects
    assert not known.finder.detects
    assert "simulated" in known.facts["learned_from"]


def resummed(folder: Path) -> None:
    """SHA256SUMS as if the file had always been so."""
    sums = folder / weights.SUMS_NAME
    kept = [line for line in sums.read_text().splitlines() if not line.endswith(FILE_NAME)]
    digest = hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()
    sums.write_text("\n".join([*kept, f"{digest}  {FILE_NAME}"]) + "\n")


def test_another_base_is_refused(checkpoint: Path):
    """A verdict of other weights is one clear error."""
    raw = json.loads((checkpoint / FILE_NAME).read_text())
    (checkpoint / FILE_NAME).write_text(json.dumps(raw | {"base_sha256": "0" * 64}))
    resummed(checkpoint)
    with pytest.raises(WeightsError, match=r"learned with base weights 000000000000…, those beside it are"):
        load_detector(model=str(checkpoint))


def test_a_damaged_file_is_refused(checkpoint: Path):
    """Cut short: told by its digest; without one, by what is missing."""
    path = checkpoint / FILE_NAME
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="damaged or cut short"):
        load_known(checkpoint)
    resummed(checkpoint)
    with pytest.raises(WeightsError, match="not a whole verdict"):
        load_known(checkpoint)
    for change, words in (({"format": 9}, "format 9"), ({"verdict": {"figures": []}}, "other figures")):
        raw = {"format": 2, "base_sha256": "", "facts": {}, "verdict": {}, "finder": {}, **change}
        if "verdict" in change:
            from foreshock.models.lora import base_sha256

            raw["base_sha256"] = base_sha256(checkpoint)
        path.write_text(json.dumps(raw))
        resummed(checkpoint)
        with pytest.raises(WeightsError, match=words):
            load_known(checkpoint)


def test_without_it_nothing_is_named(checkpoint: Path):
    """A checkpoint that came without a verdict scores as it did."""
    (checkpoint / FILE_NAME).unlink()
    assert load_known(checkpoint) is None
    plain = load_detector(model=str(checkpoint))
    assert knowing(plain) is plain


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    """One clear error."""
    known = load_known("nano")
    assert known is not None
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        save_known(known.verdict, known.finder, "nano", {}, tmp_path / "file")


# ------------------------------------------------------------------------------------------------ learning


def test_it_is_rebuilt(built: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path):
    """From what was seen of the systems it comes out the same, byte for byte; the record says how it does."""
    folder, cache, lines = built
    assert [line["kind"] for line in lines] == ["system"] * 5 + ["simulated_verdict"]
    assert [line["is_unruly"] for line in lines[:5]] == [False, False, True, False, True]
    assert lines[3]["seed"] == lines[4]["seed"] == HELD_BACK
    assert 0 < lines[-1]["root_first"] <= lines[-1]["roots"]
    again: list[dict[str, Any]] = []
    teach(QUICK, "nano", tmp_path / "again", cache, 1, again.append)
    assert [line["kind"] for line in again] == ["simulated_verdict"]
    assert (tmp_path / "again" / FILE_NAME).read_bytes() == (folder / FILE_NAME).read_bytes()
    said = json.loads((folder / FILE_NAME).read_text())
    for name in ("verdict", "finder"):
        assert Verdict.from_dict(said[name], "x").kinds == KINDS


def test_plans_and_networks_that_cannot_teach(tmp_path: Path):
    """No system, too few rows, or a network without recognition."""
    for wrong in ({"systems": 0}, {"unruly": 0}, {"rows": 10}, {"seed": HELD_BACK}):
        with pytest.raises(ConfigError, match="needed are at least one of each"):
            SimulatedPlan(**wrong)
    bare = Path(shutil.copytree(weights.find("nano"), tmp_path / "bare"))
    (bare / weights.HEADS_NAME).unlink()
    with pytest.raises(ConfigError, match="no heads of recognition"):
        teach(QUICK, str(bare), tmp_path, tmp_path)


def test_hidden_units_narrow_and_come_back():
    """For a deployment with fewer quantities they say what they say of zeros; through JSON the same."""
    rng = np.random.default_rng(0)
    count, wide = len(figure_names()), len(service_figure_names())
    hidden = Hidden(rng.normal(0, 1, (5, 3 * wide + 1)), rng.normal(0, 1, (2, 5)))
    roots = Roots(np.ones(wide), rng.normal(0, 1, 2 * wide), rng.normal(0, 1, (2, 3 * wide + 1)), hidden)
    kinds = Kinds(("a", "b"), np.zeros((2, 3 * wide)), np.ones(2) * 1e6)
    flat = np.zeros(count + 3 * wide)
    made = Verdict(flat, flat + 1, np.append(flat, 0), roots, kinds, 0.5)
    columns, services = np.arange(5, 25), np.zeros((7, 3, wide))
    services[:, :, columns] = rng.uniform(0, 1, (7, 3, 20))
    want = made.read(np.zeros((7, count)), services)
    again = Verdict.from_dict(json.loads(json.dumps(made.to_dict())), "x").narrow(columns)
    for a, b in zip(again.read(np.zeros((7, count)), services[:, :, columns]), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_labels_pull_away_from_what_is_known_slowly():
    """One incident hardly moves the weights, hundreds that say otherwise do; what is hidden stays."""
    rng = np.random.default_rng(1)
    wide, start = len(service_figure_names()), untaught(2, np.ones(len(service_figure_names())))
    by_kind = start.by_kind.copy()
    by_kind[0, 9], by_kind[1, 9] = 1.0, -1.0  # the tenth figure speaks for the first kind
    hidden = Hidden(rng.normal(0, 0.01, (4, 3 * wide + 1)), rng.normal(0, 0.01, (2, 4)))
    start = replace(start, by_kind=by_kind, hidden=hidden)

    def learned(count: int) -> Roots:
        services = rng.uniform(0, 0.2, (count + 1, 3, wide))
        services[:count, 0, 9] += 5
        none = np.append(np.full(count, 0), -1)  # root 0, and one calm row
        told = Origins(
            tuple(services), none, np.append(np.full(count, 1), -1), np.append(np.arange(count), -1),
            np.zeros(count + 1, int), np.ones(count + 1),
        )  # fmt: skip
        return learn_roots(told, start, TAUGHT)

    few, many = learned(1), learned(400)
    assert np.abs(few.by_kind[:, :-1] - start.by_kind[:, :-1]).max() < 0.2
    assert many.by_kind[1, 9] > many.by_kind[0, 9]
    assert many.hidden is hidden


def test_kinds_that_no_label_names_stay_known(demo: Frame):
    """Labels of a few kinds leave the others known, and a kind of their own is learned beside them."""
    known = load_known("nano")
    assert known is not None
    base = load_detector()
    labels = demo.labels
    assert labels is not None
    own = np.where(labels.fault_type == "slow_query", "our_own", labels.fault_type)
    f = replace(demo, labels=replace(labels, fault_type=own))
    lesson = look(f, base.recogniser, base.options)
    shots = draw_shots([lesson], 20, 32)
    verdict, facts = judge([lesson], shots, known=known.verdict)
    assert verdict.kinds == tuple(sorted({*KINDS, "our_own"}))
    assert facts["incidents"] == 5
    assert not verdict.detects
    first, last = next(span for span in fault_spans(labels.fault_id) if own[span[0]] == "service_crash")
    _, kinds, _ = verdict.narrow(lesson.columns).read(lesson.figures[first:last], lesson.services[first:last])
    assert verdict.name(kinds) == "service_crash"


def test_quiet_windows_to_label_are_those_that_look_bad(demo: Frame):
    """Four in five of them come from the fifth that the shipped verdict suspects most."""
    known = load_known("nano")
    assert known is not None
    base = load_detector()
    lesson = look(demo, base.recogniser, base.options)
    looks_bad = suspicion(lesson, known.verdict)
    assert looks_bad.shape == (len(demo),)
    assert looks_bad[lesson.truth == FAULTY].mean() > looks_bad[lesson.truth == QUIET].mean() + 2
    shots = draw_shots([lesson], 12, 16, suspicion=[looks_bad])
    every = draw_shots([lesson], 10_000, 16, suspicion=[looks_bad])
    highest = sorted((looks_bad[s.start : s.end].max() for s in every if not s.is_faulty), reverse=True)
    level = highest[round(0.2 * len(highest)) - 1]
    quiet = [s for s in shots if not s.is_faulty]
    assert sum(looks_bad[s.start : s.end].max() >= level for s in quiet) == round(0.8 * len(quiet))
    assert len(shots) == 12


def test_held_back_faults_are_counted():
    """Nothing judged is no figure, and macro F1 is over the kinds that occur."""
    assert macro_f1([], []) == 0
    assert macro_f1([0, 0, 1], [0, 1, 1]) == pytest.approx(2 / 3)
    known = load_known("nano")
    assert known is not None
    assert judged(known.verdict, [])["judged_faults"] == 0


# ------------------------------------------------------------------------------------------------- systems


@pytest.mark.parametrize("seed", range(6))
def test_invented_systems_are_sound(seed: int):
    """A call graph without cycles, callers first; every service reached, few busy in quiet; repeatable."""
    system = invent(seed)
    assert system == invent(seed)
    names = [service.name for service in system.services]
    assert 4 <= len(names) <= 60
    assert not {*names} & {s.name for s in (*simulator.SHOP.services, *simulator.TRAINTICKET.services)}
    assert all(names.index(call.caller) < names.index(call.callee) for call in system.calls)
    assert system.called == set(names)
    f = recording(seed, 300)
    assert f.values.shape == recording(seed, 300).values.shape
    quiet = simulator.simulate(seed, 120, 30.0, (), system=system, deploys=())
    busy = [c for c, kpi in enumerate(quiet.kpis) if kpi.metric == "cpu_pct"]
    assert np.nanmedian(quiet.values[:, busy]) < 60


def test_dense_faults_and_other_monitoring():
    """Each kind comes before any comes again; columns have other names, and some are missing."""
    system = invent(3)
    faults = draw_dense(system, 3, 3000, 30.0, 256)
    assert len({fault.kind for fault in faults[: len(KINDS)]}) == min(len(faults), len(KINDS))
    f = simulator.simulate(3, 300, 30.0, faults, system=system)
    assert min(fault.start_s for fault in draw_dense(system, 3, 3000, 30.0, 10)) < 60 * 30
    campaign = draw_dense(system, 3, 3000, 30.0, 256, campaigns=1.0)
    assert [fault.kind for fault in campaign[:8]] == [fault.kind for fault in faults[:8]]
    gaps = [b.start_s - a.start_s - a.duration_s for a, b in itertools.pairwise(campaign[:8])]
    assert max(gaps) <= 16 * 30
    tables = [monitored(f, seed) for seed in range(8)]
    assert len({tuple(kpi.metric for kpi in one.kpis) for one in tables}) > 4
    assert all(len(one) == 300 for one in tables)


def test_unruly_rows_are_odd_but_sound():
    """Values change here and there, within what can be: no processor above its limit, no share above one."""
    system = invent(3)
    f = simulator.simulate(3, 2000, 30.0, (), system=system)
    changed = []
    for seed in range(12):
        calm, wild = monitored(f, seed), monitored(f, seed, is_unruly=True)
        assert calm.names == wild.names
        np.testing.assert_array_equal(np.isnan(calm.values), np.isnan(wild.values))
        changed.append(np.nanmean(~np.isclose(calm.values, wild.values, equal_nan=True)))
        for kpi, values in zip(wild.kpis, wild.values.T, strict=True):
            if kpi.metric == "cpu_pct":
                assert np.nanmax(values) <= 103
            if kpi.metric == "error_share":
                assert 0 <= np.nanmin(values) <= np.nanmax(values) <= 1
        memory = [c for c, kpi in enumerate(calm.kpis) if quantity(kpi) == "memory"]
        np.testing.assert_array_equal(calm.values[:, memory], wild.values[:, memory])
    assert 0.003 < np.mean(changed) < 0.1
    assert min(changed) < 0.5 * max(changed)  # systems differ


def test_a_delay_shows_where_it_is_waited_for():
    """Between two services: the caller waits, the callee takes what it takes; other columns don't change."""
    plain = simulator.TRAINTICKET
    sides = [(metric, "ts-travel-service", "ts-basic-service") for metric in (WAITED, TOOK)]
    traced = replace(plain, traced=(*sides, (WAITED_ALL, "ts-travel-service", "")))
    faults = (Fault("network_delay", "ts-basic-service", 3600.0, 1800.0, 1.0),)
    f, without = (
        simulator.simulate(1, 240, 30.0, faults, system=s, deploys=(), steady=True) for s in (traced, plain)
    )
    np.testing.assert_array_equal(f.values[:, : len(without.kpis)], without.values)
    assert [kpi.service for kpi in f.kpis[-3:]] == ["ts-basic-service"] * 2 + ["ts-travel-service"]
    assert f.kpis[-3].metric == f"{WAITED} of calls from ts-travel-service"
    assert [quantity(kpi) for kpi in f.kpis[-3:]] == ["awaited", "latency", "outgoing"]
    calm, during = (np.nanmedian(f.values[some, -3:], 0) for some in (slice(0, 120), slice(125, 175)))
    waited, took, every = during / calm
    assert waited > 3
    assert every > 1.5
    assert 0.6 < took < 1.6


def test_quantities_are_told_by_words():
    """What callers wait for, what a service waits for, and what it takes itself are three things."""
    told = {
        "src_p50": "awaited", "istio_request_duration_p90_source": "awaited", "dst_p50": "latency",
        "client_lat_p90_s": "outgoing", "server_lat_p90_s": "latency", "resource_wait_duration": "latency",
        "cpu_pct": "processor", "client_requests": "traffic",
    }  # fmt: skip
    assert {name: quantity(Kpi(name, "a", name)) for name in told} == told


def test_what_never_arrives_takes_no_time():
    """In a partition callers wait in vain, and the callee has nothing to time."""
    sides = tuple((metric, "ts-travel-service", "ts-basic-service") for metric in (WAITED, TOOK))
    faults = (Fault("network_partition", "ts-basic-service", 3600.0, 1800.0, 1.0),)
    system = replace(simulator.TRAINTICKET, traced=sides)
    f = simulator.simulate(1, 240, 30.0, faults, system=system, deploys=(), steady=True)
    waited, took = f.values[125:175, -2:].T
    assert np.nanmedian(waited) >= 5
    assert np.isnan(took).mean() > 0.9
