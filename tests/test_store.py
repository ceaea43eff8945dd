"""The store: nothing said is lost, whatever happens to the process or the version."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from foreshock.errors import ConfigError, InputError, NotFoundError, OutputError, SourceError
from foreshock.store import Evidence, Scored, Store, schema

MINUTE_NS = 60 * 10**9
NOON = 1_790_000_000 * 10**9


def incident(id, start_ns=NOON, closed_ns=None, **more):
    start = f"{np.datetime64(start_ns, 'ns').astype('datetime64[s]')}Z"
    return {"id": id, "event": {"start_time": start}, "found_ns": start_ns, "closed_ns": closed_ns, **more}


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as made:
        yield made


def evidence_of(frame):
    rng = np.random.default_rng(3)
    expected = np.full(frame.values.shape, np.nan, np.float32)
    expected[:, 1] = frame.values[:, 1] + 1
    rows = len(frame)
    return Evidence(frame, rng.random(rows).astype(np.float32), np.full(rows, np.inf), expected)


def test_incidents_are_found_by_time_and_state(store):
    """Newest first, touching the range; saving again replaces what was known."""
    for i in range(4):
        at = NOON + i * 10 * MINUTE_NS
        store.save_incident(incident(f"i{i}", at, at + 5 * MINUTE_NS if i < 3 else None, severity="info"))
    assert [i["id"] for i in store.incidents()] == ["i3", "i2", "i1", "i0"]
    assert [i["id"] for i in store.incidents(limit=2)] == ["i3", "i2"]
    assert [i["id"] for i in store.incidents(state="open")] == ["i3"]
    assert [i["id"] for i in store.incidents(state="closed")] == ["i2", "i1", "i0"]
    touching = store.incidents(since_ns=NOON + 12 * MINUTE_NS, until_ns=NOON + 21 * MINUTE_NS)
    assert [i["id"] for i in touching] == ["i2", "i1"]
    store.save_incident(incident("i3", NOON + 30 * MINUTE_NS, NOON + 40 * MINUTE_NS, severity="critical"))
    assert store.incident("i3")["severity"] == "critical"
    assert store.incidents(state="open") == []
    assert store.incident("none") is None
    with pytest.raises(ConfigError, match="'shut'; known: open, closed"):
        store.incidents(state="shut")


def test_every_verdict_is_kept_and_the_newest_counts(store):
    """A changed mind leaves both verdicts; labels take the last."""
    store.save_incident(incident("a"))
    store.save_incident(incident("b"))
    store.add_verdict("a", "false_alarm", author="night shift")
    store.add_verdict("b", "confirmed", "memory_leak", "cart", note="  deploy\nat noon ")
    store.add_verdict("a", "confirmed", "memory_leak", "orders")
    assert [v["verdict"] for v in store.verdicts("a")] == ["false_alarm", "confirmed"]
    assert [(v["incident"], v["service"]) for v in store.verdicts(newest=True)] == [
        ("b", "cart"),
        ("a", "orders"),
    ]
    assert store.verdicts("b")[0]["note"] == "deploy\nat noon"
    assert store.fault_types() == ["memory_leak"]


def test_a_verdict_that_means_nothing_is_refused(store):
    """An unknown incident, word or an endless text changes nothing."""
    store.save_incident(incident("a"))
    with pytest.raises(NotFoundError, match="no incident 'z'"):
        store.add_verdict("z", "confirmed")
    with pytest.raises(ConfigError, match="no verdict 'perhaps'; known: confirmed, false_alarm"):
        store.add_verdict("a", "perhaps")
    with pytest.raises(ConfigError, match="note has 2,001 characters; it may have 2,000"):
        store.add_verdict("a", "confirmed", note="x" * 2001)
    assert store.verdicts() == []


def test_an_older_file_is_brought_up_to_date(tmp_path):
    """What the first version wrote is all there after the migration, and the new tables work."""
    path = tmp_path / "old.sqlite"
    old = sqlite3.connect(path)
    old.executescript(schema.STEPS[0])
    old.execute("PRAGMA user_version = 1")
    old.execute("INSERT INTO incidents VALUES ('a', 1, 2, NULL, '{\"id\": \"a\"}')")
    old.execute("INSERT INTO verdicts VALUES (7, 'a', 'confirmed', 'leak', 'cart', '', 'me', 5)")
    old.execute("INSERT INTO state VALUES ('last', '12')")
    old.commit()
    old.close()
    with Store(path) as store:
        assert store.incident("a") == {"id": "a"}
        assert store.verdicts("a")[0] == {
            "number": 7, "incident": "a", "verdict": "confirmed", "fault_type": "leak", "service": "cart",
            "note": "", "author": "me", "given_ns": 5,
        }  # fmt: skip
        assert store.get("last") == "12"
        assert store.evidence_ids() == []
        store.add_adapter("one", tmp_path, {})
        assert store.add_verdict("a", "false_alarm")["number"] == 8
    again = sqlite3.connect(path)
    assert again.execute("PRAGMA user_version").fetchone() == (len(schema.STEPS),)
    again.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    """A step is whole or not there."""
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.put("key", "value")
    broken = (*schema.STEPS, "CREATE TABLE extra (x TEXT); CREATE TABLE nonsense (")
    monkeypatch.setattr(schema, "STEPS", broken)
    with pytest.raises(OutputError, match="can't be used"):
        Store(path)
    monkeypatch.undo()
    with Store(path) as store:
        assert store.get("key") == "value"
        assert not store._read("SELECT 1 FROM sqlite_master WHERE name = 'extra'")


def test_files_of_others_are_left_alone(tmp_path):
    """A newer version's file, some other file and a place that can't be written are named."""
    newer = tmp_path / "newer.sqlite"
    db = sqlite3.connect(newer)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigError, match="newer version"):
        Store(newer)
    other = tmp_path / "other.txt"
    other.write_text("not a database, but long enough to be looked at " * 40)
    with pytest.raises(InputError, match="is no store of ours"):
        Store(other)
    with pytest.raises(OutputError, match="can't be opened"):
        Store(tmp_path)


def test_scores_outlast_the_process_and_another_detector_does_not_inherit_them(store):
    times = 1_790_000_000_000_000_000 + np.arange(6) * 15_000_000_000
    first = np.array([0.5, math.nan, 2.0, 1.0], np.float32)
    assert store.scored("a") is None
    store.put_many({"k": "v"}, scored=Scored("a", times[:4], first))
    store.put_many({}, scored=Scored("a", times[3:], np.array([3.0, 4.0, 5.0])))
    kept = store.scored("a")
    np.testing.assert_array_equal(kept.time_ns, times)
    np.testing.assert_array_equal(kept.system, [0.5, math.nan, 2, 3, 4, 5])
    assert store.scored("b") is None
    store.forget_scores(int(times[3]))
    assert len(store.scored("a").system) == 4
    store.put_many({}, scored=Scored("b", times[5:], np.array([7.0])))
    assert store.scored("a") is None
    assert store.scored("b").system.tolist() == [7.0]


def test_only_the_newest_scores_are_kept(store, monkeypatch):
    monkeypatch.setattr("foreshock.store.MOST_SCORES", 50)
    for at in range(0, 200, 40):
        store.put_many({}, scored=Scored("a", np.arange(at, at + 40), np.ones(40)))
    np.testing.assert_array_equal(store.scored("a").time_ns, np.arange(150, 200))


def test_rows_come_back_as_they_were(store, make_frame):
    """Values, gaps, units, thresholds and expectations survive to the last bit."""
    frame = make_frame(50)
    frame.values[3:9, 0] = np.nan
    kept = evidence_of(frame)
    store.save_evidence("a", kept)
    got = store.evidence("a")
    np.testing.assert_array_equal(got.frame.values, frame.values)
    np.testing.assert_array_equal(got.frame.time_ns, frame.time_ns)
    assert (got.frame.kpis, got.frame.step_s) == (frame.kpis, frame.step_s)
    np.testing.assert_array_equal(got.system, kept.system)
    np.testing.assert_array_equal(got.high, kept.high)
    np.testing.assert_array_equal(got.expected, kept.expected)
    assert store.evidence("b") is None


def test_rows_of_judged_incidents_outlast_others(tmp_path, make_frame):
    """When the room is used up the oldest without a verdict go first."""
    one = evidence_of(make_frame(64))
    with Store(":memory:") as store:
        size = store.save_evidence("probe", one)
    with Store(tmp_path / "s.sqlite", evidence_bytes=int(size * 2.5)) as store:
        for i in range(3):
            store.save_incident(incident(f"i{i}", NOON + i))
        store.save_evidence("i0", one)
        store.add_verdict("i0", "confirmed")
        store.save_evidence("i1", one)
        store.save_evidence("i2", one)
        assert sorted(store.evidence_ids()) == ["i0", "i2"]


def test_damaged_rows_are_named(store):
    """A blob that is no table is an error that says whose."""
    with store._write() as db:
        db.execute("INSERT INTO evidence VALUES ('a', 0, 1, 3, X'010203')")
    with pytest.raises(SourceError, match="kept for a are damaged"):
        store.evidence("a")


def test_promotion_and_roll_back_keep_every_adapter(store, tmp_path):
    """Promoting a second replaces the first, rolling back brings it again, then zero-shot."""
    assert store.promoted() is None
    for id in ("one", "two"):
        store.add_adapter(id, tmp_path / id, {"found": 3})
    store.note_trial("one", {"recent_incidents": 2})
    assert store.adapter("one")["state"] == "shadow"
    assert store.adapter("one")["facts"] == {"found": 3, "recent_incidents": 2}
    store.promote("one", "better")
    store.promote("two")
    assert store.promoted()["id"] == "two"
    assert store.adapter("one")["state"] == "replaced"
    assert store.roll_back("worse at night")["id"] == "one"
    assert store.adapter("two")["state"] == "rolled_back"
    assert store.roll_back() is None
    assert {a["id"]: a["state"] for a in store.adapters()} == {"one": "rolled_back", "two": "rolled_back"}
    assert [c["state"] for c in store.adapter("one")["changes"]] == [
        "candidate", "shadow", "promoted", "replaced", "promoted", "rolled_back",
    ]  # fmt: skip
    with pytest.raises(NotFoundError, match="nothing to roll back"):
        store.roll_back()
    with pytest.raises(NotFoundError, match="no adapter 'three'"):
        store.promote("three")


def test_many_tasks_and_a_second_process_write_at_once(store):
    """Threads from asyncio and another connection wait for one another; nothing is lost."""

    async def all_at_once():
        with Store(store.path) as other:
            jobs = [
                asyncio.to_thread((store, other)[i % 2].put_many, {f"k{i}": str(i)}, [incident(f"i{i}")])
                for i in range(40)
            ]
            await asyncio.gather(*jobs)

    asyncio.run(all_at_once())
    assert all(store.get(f"k{i}") == str(i) for i in range(40))
    assert len(store.incidents()) == 40


def test_a_kill_leaves_whole_transactions(tmp_path):
    """After kill -9 in the middle of writing, each incident that is there has its key beside it."""
    path = tmp_path / "s.sqlite"
    code = (
        "import sys, itertools\n"
        "from foreshock.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "for i in itertools.count():\n"
        "    event = {'start_time': '2026-05-02T10:00:00Z'}\n"
        "    one = {'id': f'i{i}', 'event': event, 'found_ns': 1, 'closed_ns': None}\n"
        "    store.put_many({'last': str(i)}, [one])\n"
        "    print(i, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    told = [int(child.stdout.readline()) for _ in range(20)]
    child.kill()
    child.wait()
    child.stdout.close()
    with Store(path) as store:
        last = int(store.get("last"))
        assert last >= told[-1]
        assert len(store.incidents(limit=1000)) == last + 1


def test_nothing_is_left_half_done_by_what_cannot_be_json(store):
    """A NaN in an incident is our own mistake: refused whole, with the key that came along."""
    with pytest.raises(ValueError, match="JSON"):
        store.put_many({"last": "1"}, [incident("a", score=float("nan"))])
    assert store.get("last") is None
    store.put("last", "2")
    assert store.get("last") == "2"
