"""The monitor: rows in, incidents out, whatever comes late, twice, with gaps, or with other KPIs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foreshock import load_detector
from foreshock.config import Settings
from foreshock.frame import Frame, Kpi
from foreshock.stream import Known, Monitor, ended

STEP_S = 15.0
SERVICES = ("cart", "front", "pay")
START_NS = 1_790_000_000_000_000_000


def shop(rows: int, seed: int = 0, fault: slice | None = None) -> Frame:
    """Quiet rows of three services; in `fault` all KPIs of pay jump."""
    random = np.random.default_rng(seed)
    kpis = tuple(
        Kpi(f"{service}__{metric}", service, metric, unit)
        for service in SERVICES
        for metric, unit in (("cpu_cores", "cores"), ("latency_mean_s", "s"), ("memory_bytes", "B"))
    )
    values = 1 + 0.05 * random.normal(size=(rows, len(kpis)))
    if fault is not None:
        values[fault, 6:] *= 8
    stamps = START_NS + np.arange(rows) * round(STEP_S * 1e9)
    return Frame(stamps.astype(np.int64), values, kpis, STEP_S)


def without(f: Frame, front: slice, pay: slice) -> Frame:
    """The rows of `shop` with two services silent for a while."""
    values = f.values.copy()
    values[front, 3:6] = np.nan
    values[pay, 6:] = np.nan
    return replace(f, values=values)


def monitor(**options) -> Monitor:
    return Monitor(load_detector("robust_z"), STEP_S, Settings(), **options)


def test_row_by_row_is_the_batch():
    """Rows pushed one by one, some of them twice or late, give the recording's scores and one incident."""
    f = shop(420, fault=slice(300, 340))
    m, kinds = monitor(), []
    for at in range(len(f)):
        kinds += [change.kind for change in m.push(f.rows(slice(at, at + 1)))]
        if at % 50 == 9:
            assert m.push(f.rows(slice(at - 5, at + 1))) == ()
    assert m.late_rows == 6 * 9
    np.testing.assert_allclose(m.scores.system, load_detector("robust_z").score(f).system, rtol=1e-5)
    assert kinds.count("opened") == kinds.count("closed") == 1
    (incident,) = m.incidents.values()
    assert incident.cause.services[0].name == "pay"
    assert incident.found_ns <= f.time_ns[304]
    assert f.time_ns[m.rows_of(incident.event)][0] >= f.time_ns[290]
    assert incident.to_dict()["state"] == "closed"


def test_pieces_give_the_same_incidents():
    """One push of everything finds what a push a row finds."""
    f = shop(420, fault=slice(300, 340))
    one, other = monitor(), monitor()
    one.push(f)
    for at in range(0, len(f), 7):
        other.push(f.rows(slice(at, at + 7)))
    assert [i.event for i in one.incidents.values()] == [i.event for i in other.incidents.values()]


def test_window_is_bounded_and_events_keep_their_rows():
    """Only the newest rows are kept; an incident's rows are found among them."""
    f = shop(900, fault=slice(700, 730))
    m = monitor(keep_rows=300)
    for at in range(0, len(f), 20):
        m.push(f.rows(slice(at, at + 20)))
    assert len(m.frame) == len(m.scores) == len(m.high) == 300
    np.testing.assert_array_equal(m.frame.values, f.values[-300:])
    (incident,) = m.incidents.values()
    assert m.frame.time_ns[m.rows_of(incident.event)][0] == incident.event.start_ns


def test_kpis_come_and_go():
    """A service that appears is taken in; one that was silent in all rows kept is let go."""
    f = without(shop(1200), slice(0, 400), slice(600, 1200))
    m = monitor(keep_rows=320)
    for at in range(0, len(f), 10):
        piece = f.rows(slice(at, at + 10))
        here = np.isfinite(piece.values).any(0)
        m.push(piece.select([k.name for k, is_here in zip(f.kpis, here, strict=True) if is_here]))
    assert {kpi.service for kpi in m.frame.kpis} == {"cart", "front"}
    assert m.scores.services.shape == (320, 2)


def test_a_new_service_is_no_incident():
    """With the default detector, a service that appears and one that vanishes raise no alarm."""
    f = without(shop(560), slice(0, 400), slice(500, 560))
    m = Monitor(load_detector("foreshock"), STEP_S, Settings())
    m.push(f)
    assert not [i for i in m.incidents.values() if i.event.start >= 380]


def test_silence_is_no_health():
    """Rows in which nobody observed anything have no score, and end no incident early."""
    f = shop(400, fault=slice(380, 400))
    m = monitor()
    m.push(f)
    assert len(m.open_incidents) == 1
    silent = shop(405).rows(slice(400, 405))
    assert not [c for c in m.push(replace(silent, values=silent.values * np.nan)) if c.kind == "closed"]
    assert np.isnan(m.scores.system[-5:]).all()


@pytest.mark.parametrize("later", [0, 5, 200])
def test_restart_keeps_names(later):
    """A new process that reads the past again tells the same incidents, no other, and ends what is over."""
    f = shop(640, fault=slice(300, 340))
    first = monitor()
    first.push(f.rows(slice(0, 320)))
    told = [Known.of(i.to_dict()) for i in first.incidents.values()]
    assert len(told) == 1
    second = monitor()
    second.push(f.rows(slice(100, 320 + later)))
    changes, over = second.resume(told, first.last_ns)
    assert over == ()
    assert [c.incident.id for c in changes] == [told[0].id]
    assert changes[0].kind == ("closed" if later == 200 else "updated")
    closing = [c for c in second.push(f.rows(slice(320 + later, 640))) if c.kind == "closed"]
    assert [c.incident.id for c in closing] == ([] if later == 200 else [told[0].id])


def test_restart_takes_no_new_incident_for_an_old_one():
    """One that began after the kill is news, though another, told and closed, ended minutes before."""
    f = shop(640, fault=slice(300, 310))
    second_fault = shop(640, fault=slice(330, 340))
    f = replace(f, values=np.where(np.arange(640)[:, None] >= 320, second_fault.values, f.values))
    first = monitor()
    first.push(f.rows(slice(0, 325)))
    (known,) = first.incidents.values()
    second = monitor()
    second.push(f.rows(slice(100, 360)))
    changes, over = second.resume([Known.of(known.to_dict())], first.last_ns)
    assert over == ()
    assert known.id in second.incidents
    (news,) = [c.incident for c in changes if c.incident.id != known.id]
    assert second.rows_of(news.event).start >= 225


def test_restart_tells_what_was_not_over_at_the_kill():
    """An incident that had begun, was not found yet, and is over at the restart is told all the same."""
    f = shop(640, fault=slice(300, 310))
    second = monitor()
    second.push(f.rows(slice(100, 360)))
    (found,) = second.incidents.values()
    changes, _ = second.resume([], int(f.time_ns[305]))
    assert [(c.kind, c.incident.id) for c in changes] == [("closed", found.id)]


def test_restart_ends_what_is_gone():
    """An incident that was open and is seen no more is given back to be closed."""
    told = shop(320, fault=slice(300, 320))
    first = monitor()
    first.push(told)
    (incident,) = first.incidents.values()
    second = monitor()
    second.push(shop(400))
    changes, over = second.resume([Known.of(incident.to_dict())], first.last_ns)
    assert (changes, over) == ((), (incident.id,))
    assert ended(incident.to_dict(), second.last_ns)["state"] == "closed"


def after_a_stop(f: Frame, at: int, rows: int) -> Frame:
    """The same rows, those from `at` on so many steps later."""
    later = (np.arange(len(f)) >= at) * round(rows * STEP_S * 1e9)
    return replace(f, time_ns=f.time_ns + later)


@pytest.mark.parametrize("down", [0, 40])
def test_a_restart_goes_on_with_the_threshold(down):
    """What an earlier process scored still teaches, so that the next one judges as if nothing had been."""
    f = after_a_stop(shop(1400, fault=slice(1250, 1280)), 1100, down)
    whole, first, second, fresh = (monitor() for _ in range(4))
    first.push(f.rows(slice(0, 1100)))
    second.remember(first.scores.time_ns, first.scores.system)
    for m in (second, fresh):
        m.push(f.rows(slice(1000, None)))
    whole.push(f)
    rows = slice(-300, None)
    np.testing.assert_allclose(second.high[rows], whole.high[rows], rtol=0.02)
    np.testing.assert_array_equal(second.scores.system[:100], first.scores.system[1000:])
    assert fresh.level.rows < 400 < 1300 < second.level.rows == whole.level.rows
    assert len(second.incidents) == 1


def test_a_threshold_forgets_what_lies_too_far_back():
    f = after_a_stop(shop(600), 300, 30_000)
    first, second = monitor(), monitor()
    first.push(f.rows(slice(0, 300)))
    second.remember(first.scores.time_ns, first.scores.system)
    second.push(f.rows(slice(300, None)))
    assert second.level.rows < 300


def test_scores_of_another_detector_are_told_apart():
    settings = Settings()
    other = [
        Monitor(load_detector("poly"), STEP_S, settings),
        Monitor(load_detector("robust_z"), 30.0, settings),
    ]
    assert len({m.scored_by for m in (monitor(), monitor(), *other)}) == 3


def test_another_detector_keeps_incidents():
    """The rows kept are scored anew; the open incident goes on under its name."""
    f = shop(330, fault=slice(300, 340))
    m = monitor()
    m.push(f)
    (name,) = m.incidents
    m.replace_detector(load_detector("rolling_variance", window=16))
    assert m.scores.detector == "rolling_variance"
    assert name in m.incidents


def test_failure_leaves_all_as_it_was(monkeypatch):
    """A detector that fails half-way loses nothing: the same rows can be pushed again."""
    f = shop(400, fault=slice(300, 340))
    m = monitor()
    m.push(f.rows(slice(0, 290)))
    monkeypatch.setattr(type(m._stream), "push", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        m.push(f.rows(slice(290, 310)))
    monkeypatch.undo()
    m.push(f.rows(slice(290, 400)))
    np.testing.assert_allclose(m.scores.system, load_detector("robust_z").score(f).system, rtol=1e-5)


def test_nano_takes_new_kpis_as_if_they_had_always_been_there():
    """The default detector's stream, widened, gives the scores of one that had the columns all along."""
    f = shop(120)
    values = f.values.copy()
    values[:70, 3:6] = np.nan
    values[90:, 0] = np.nan
    f = replace(f, values=values)
    detector = load_detector("foreshock")
    order = [f.kpis[i].name for i in (0, 1, 2, 6, 7, 8, 3, 4, 5)]
    m = Monitor(detector, STEP_S, Settings())
    m.push(f.rows(slice(0, 70)).select(order[:6]))
    m.push(f.rows(slice(70, 75)))
    m.push(f.rows(slice(75, 120)))
    whole = detector.score(f.select(order))
    assert m.frame.names == tuple(order)
    for name in ("system", "services", "kpis"):
        np.testing.assert_allclose(getattr(m.scores, name), getattr(whole, name), rtol=1e-5, atol=1e-6)
