"""From verdicts to an adapter: what is learned from, what is held back, the way into use and out again."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import numpy as np
import pytest

import live_fixture as fixture
from foreshock.cli import run
from foreshock.errors import NotFoundError, StateError
from foreshock.service import learn, promotion
from foreshock.service.learn import Exam, Judged
from foreshock.store import Evidence, Store

STEP_NS = 60 * 10**9


def judge(id, start, end, is_real=True, kind="leak", service="svc0"):
    return Judged(id, start, end, is_real, kind, service)


def incident_of(id, start_ns, end_ns):
    at = {name: f"{np.datetime64(ns, 'ns').astype('datetime64[s]')}Z" for name, ns in
          (("start_time", start_ns), ("end_time", end_ns))}  # fmt: skip
    cause = {"headline": "", "services": [], "kpis": [], "is_known": False}
    return {"id": id, "event": at, "found_ns": start_ns, "closed_ns": end_ns, "cause": cause, "kinds": []}


def test_the_latest_third_is_held_back_with_a_real_one_on_each_side():
    """Split by incident in time; fewer than two real ones can't be split."""
    known = [judge(f"i{i}", i, i, is_real=i in (0, 1, 5)) for i in range(6)]
    learned, held = learn.divide(known)
    assert [one.id for one in held] == ["i4", "i5"]
    assert len(learned) == 4
    late = [judge("a", 0, 0), judge("b", 1, 1), judge("c", 2, 2, False)]
    assert [one.id for one in learn.divide(late)[1]] == ["b", "c"]
    with pytest.raises(StateError, match="1 confirmed incident of 2"):
        learn.divide([judge("a", 0, 0), judge("b", 1, 1, False)])


def test_rows_are_labelled_as_people_judged(tmp_path, make_frame):
    """Real ones are faults with kind and service, false alarms quiet, recovery and unjudged ones ignored."""
    frame = make_frame(200)
    at = lambda row: int(frame.time_ns[row])  # noqa: E731
    with Store(tmp_path / "s.sqlite") as store:
        for id, first, last in (("real", 50, 59), ("false", 100, 109), ("open question", 150, 159)):
            store.save_incident(incident_of(id, at(first), at(last)))
        for id, rows in (("real", slice(0, 120)), ("false", slice(80, 200))):  # they overlap
            part = frame.rows(rows)
            nothing = np.full(part.values.shape, np.nan, np.float32)
            store.save_evidence(id, Evidence(part, np.zeros(len(part)), np.ones(len(part)), nothing))
        store.add_verdict("real", "confirmed", "leak", "svc1")
        store.add_verdict("false", "false_alarm")
        (told,) = learn.recordings(store, learn.judged(store))
    np.testing.assert_array_equal(told.values, frame.values)
    labels = told.labels
    assert np.flatnonzero(labels.anomaly).tolist() == list(range(50, 60))
    assert set(labels.fault_type[50:60]) == {"leak"}
    assert set(labels.root_cause[50:60]) == {"svc1"}
    assert np.flatnonzero(labels.ignore).tolist() == [*range(60, 65), *range(150, 165)]


def test_better_is_never_bought():
    """More found for more false alarms is not better; fault types decide only where all else is equal."""
    base = Exam(4, 3, 2, 0)
    assert learn.is_better(Exam(4, 4, 2, 0), base)
    assert learn.is_better(Exam(4, 3, 1, 0), base)
    assert learn.is_better(Exam(4, 3, 2, 1), base)
    assert not learn.is_better(base, base)
    assert not learn.is_better(Exam(4, 4, 3, 4), base)
    assert not learn.is_better(Exam(4, 2, 0, 4), base)


def test_the_command_line_labels_and_lists(tmp_path, capsys):
    """Without a service; an unknown incident and a missing file are exit code 2."""
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        store.save_incident(incident_of("one", STEP_NS, 2 * STEP_NS))
    told = ["--store", str(path)]
    said = ["--verdict", "confirmed", "--fault-type", "leak", "--service", "cart"]
    assert run(["label", "one", *said, *told]) == 0
    assert run(["label", "list", *told]) == 0
    assert "confirmed leak" in capsys.readouterr().out
    assert run(["label", "two", "--verdict", "confirmed", *told]) == 2
    assert "no incident 'two'" in capsys.readouterr().err
    assert run(["label", "one", "--store", str(tmp_path / "none.sqlite"), "--verdict", "confirmed"]) == 2
    assert run(["adapt", "--from-labels", str(path)]) == 2
    assert "needs two" in capsys.readouterr().err
    assert not list(tmp_path.glob("none*"))


def test_what_another_detector_changes_is_told(tmp_path, monkeypatch):
    """Incidents that it does not find any more are closed where people hear of it, too."""
    live = fixture.build(tmp_path, fixture.shop(1102), detector="past_median")
    monkeypatch.setattr(promotion, "detector_with", lambda *_: fixture.load_detector("last_value"))
    heard = []

    async def keep(changes):
        heard.extend(changes)

    live.on_changes = keep
    changed = []
    exchange = live.monitor.replace_detector
    monkeypatch.setattr(
        live.monitor, "replace_detector", lambda d: changed.extend(told := exchange(d)) or told
    )
    asyncio.run(promotion._exchange(live, ""))
    assert heard == changed
    assert heard


def test_promotion_needs_a_better_adapter_and_can_be_taken_back(tmp_path, monkeypatch):
    """Refused unless better; then the monitor's detector changes at once, and roll-back restores it."""
    live = fixture.build(tmp_path, fixture.shop(400), detector="past_median")
    known = [i["id"] for i in live.store.incidents()]
    built = []

    def detector_with(score, path):
        built.append(path)
        return fixture.load_detector("past_median")

    monkeypatch.setattr(promotion, "detector_with", detector_with)
    exam = {"candidate": asdict(Exam(1, 1, 0, 0)), "in_use": asdict(Exam(1, 1, 0, 0))}
    live.store.add_adapter("worse", tmp_path / "worse", {"exam": exam, "is_better": False})
    live.store.add_adapter("better", tmp_path / "better", {"exam": exam, "is_better": True})

    async def course():
        with pytest.raises(StateError, match="was not better"):
            await promotion.promote(live, "worse")
        before = live.monitor.detector
        told = await promotion.promote(live, "better")
        assert told["state"] == "promoted"
        assert told["facts"]["trial"]["is_passed"]
        assert live.monitor.detector is not before
        with pytest.raises(StateError, match="in use already"):
            await promotion.promote(live, "better")
        assert await promotion.roll_back(live) is None
        with pytest.raises(NotFoundError, match="nothing to roll back"):
            await promotion.roll_back(live)

    asyncio.run(course())
    assert built[-1] == ""  # zero-shot again
    assert len(live.monitor.frame) == 400
    assert [i["id"] for i in live.store.incidents()] == known
    states = {one["id"]: one["state"] for one in live.store.adapters()}
    assert states == {"worse": "shadow", "better": "rolled_back"}
