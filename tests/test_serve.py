"""`foreshock serve` as a process: finds, tells, survives its Prometheus and its own death."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed")

import real_prometheus
from fake_prometheus import Fake
from foreshock.service.process import STORE
from serving import Serving

pytestmark = pytest.mark.slow


def fault(fake: Fake, seconds: float = 6.0) -> float:
    """Let pay jump from now on; when it ends."""
    began = time.time()
    fake.faults.append((began, began + seconds))
    return began + seconds


def test_a_fault_is_found_told_and_ended(tmp_path):
    """From the back-fill on: quiet, then one incident, then it closes, and the process ends in order."""
    with Fake() as fake, Serving(tmp_path, fake.url) as serve:
        serve.start()
        quiet = [i["id"] for i in serve.incidents()]
        fault(fake)
        serve.wait_for(lambda: serve.new_incidents(quiet), 40)
        serve.wait_for(lambda: all(i["state"] == "closed" for i in serve.incidents()), 90)
        assert len(serve.new_incidents(quiet)) == 1
        assert serve.stop() == 0


def scored(folder):
    """Times of the rows whose scores the store holds, and the scores, NaN where there is none."""
    with contextlib.closing(sqlite3.connect(folder / "data" / STORE)) as db:
        rows = db.execute("SELECT time_ns, score FROM scores ORDER BY time_ns").fetchall()
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)


def test_killed_in_an_incident(tmp_path):
    """After kill -9 in the middle the incident is the same one, it ends, and no score was lost."""
    with Fake() as fake, Serving(tmp_path, fake.url) as serve:
        serve.start()
        quiet = {i["id"] for i in serve.incidents()}
        fault(fake, 12)
        (told,) = serve.wait_for(lambda: serve.new_incidents(quiet), 40)
        serve.kill()
        before, _ = scored(tmp_path)
        serve.start()
        again = serve.new_incidents(quiet)
        assert [i["id"] for i in again] == [told["id"]]
        serve.wait_for(lambda: all(i["state"] == "closed" for i in serve.incidents()), 90)
        assert [i["id"] for i in serve.new_incidents(quiet)] == [told["id"]]
    after, _ = scored(tmp_path)
    assert after[0] == before[0]
    assert after[-1] > before[-1]
    assert set(before) <= set(after)


@pytest.mark.parametrize("mode", ["500", "malformed", "slow"])
def test_a_prometheus_in_trouble_raises_no_alarm(tmp_path, mode):
    """What was missed is read when it is back: nothing lost, no incident made of silence."""
    with Fake() as fake, Serving(tmp_path, fake.url) as serve:
        serve.start()
        quiet = {i["id"] for i in serve.incidents()}
        fake.mode = mode
        time.sleep(4)
        fake.mode = "ok"
        serve.wait_for(lambda: serve.metric("foreshock_lag_seconds") < 3, 30)
        assert {i["id"] for i in serve.incidents()} == quiet
        assert serve.metric("foreshock_dropped_points_total") == 0
        assert serve.stop() == 0


def test_rows_that_come_late_after_a_pause_are_waited_for(tmp_path):
    """Many rows behind, the newest of them not there yet: none is taken for one without values."""
    with Fake() as fake, Serving(tmp_path, fake.url) as serve:
        serve.start()
        serve.wait_for(lambda: serve.metric("foreshock_cycles_total") > 12)  # it knows its clock by now
        fake.behind_s = 0.5
        for _ in range(3):
            fake.mode = "500"
            time.sleep(2)
            fake.mode = "ok"
            serve.wait_for(lambda: serve.metric("foreshock_lag_seconds") < 1.5, 30)
        assert serve.stop() == 0
    stamps, scores = scored(tmp_path)
    np.testing.assert_array_equal(np.diff(stamps), 250_000_000)
    assert np.isfinite(scores[64:]).all()


def test_a_wrong_configuration_changes_nothing_and_a_right_one_loses_nothing(tmp_path):
    """Read in the middle of an incident: refused, told, gone on; then other rules, and the same incident."""
    with Fake() as fake, Serving(tmp_path, fake.url) as serve:
        serve.start()
        quiet = {i["id"] for i in serve.incidents()}
        fault(fake, 12)
        (told,) = serve.wait_for(lambda: serve.new_incidents(quiet), 40)
        text, address = serve.config.read_text(), serve.address
        serve.config.write_text(text.replace("step_s: 0.25", "step_s: -1"))
        serve.reload()
        serve.wait_for(lambda: serve.metric("foreshock_config_reload_success") == 0)
        assert "serve.yaml:4" in serve.get("/api/v1/status")["health"]["reload_error"]
        cycles = serve.metric("foreshock_cycles_total")
        serve.wait_for(lambda: serve.metric("foreshock_cycles_total") > cycles + 2)

        serve.config.write_text(text.replace("lead_s: 5", "lead_s: 4"))
        at = serve.log.stat().st_size
        serve.reload()
        serve.wait_for(lambda: serve.notes("back_filled", at))
        assert serve.metric("foreshock_config_reload_success") == 1
        assert serve.notes("reloaded", at)[-1]["changed"] == ["score"]
        serve.wait_for(lambda: all(i["state"] == "closed" for i in serve.incidents()), 90)
        new = serve.new_incidents(quiet)
        assert told["id"] in [i["id"] for i in new]
        # On a busy machine rows are late and the fault may come apart; its parts are told as one.
        assert all(i["id"] == told["id"] or i["event"]["sequel_of"] is not None for i in new)
        assert serve.address == address


def test_what_is_older_than_the_backlog_is_dropped_and_counted(tmp_path):
    """Away for longer: the oldest rows are lost, in numbers, and the newest are scored."""
    with Fake() as fake, Serving(tmp_path, fake.url, serve=", backlog_s: 5") as serve:
        serve.start()
        fake.leave()
        time.sleep(9)
        fake.come_back()
        serve.wait_for(lambda: serve.metric("foreshock_dropped_points_total") > 0, 30)
        serve.wait_for(lambda: serve.metric("foreshock_lag_seconds") < 1.5, 30)
        points = serve.metric("foreshock_dropped_points_total")
        dropped = serve.notes("dropped")
        assert points == 9 * sum(note["rows"] for note in dropped)
        assert 9 * 4 <= points <= 9 * 4 * 12


def test_a_clock_that_jumps_ahead_and_back(tmp_path):
    """A gap without samples is no incident; set back, it goes on at once and finds what comes then."""
    with Fake() as fake, Serving(tmp_path, fake.url) as serve:
        serve.start()
        quiet = {i["id"] for i in serve.incidents()}
        fake.holes.append((time.time() + 0.5, time.time() + 600))
        time.sleep(0.5)
        fake.clock_s = 600
        serve.wait_for(lambda: serve.metric("foreshock_dropped_points_total") > 0)
        time.sleep(3)
        assert {i["id"] for i in serve.incidents()} == quiet
        fake.holes.clear()
        fake.clock_s = 0
        serve.wait_for(lambda: serve.notes("clock_went_back"))
        fault(fake)
        serve.wait_for(lambda: serve.new_incidents(quiet), 40)
        assert serve.stop() == 0


def test_scores_are_written_back_each_once(tmp_path):
    """Into a real Prometheus, at their own times, over a kill: no gap, no row twice."""
    config = "storage:\n  tsdb:\n    out_of_order_time_window: 1h\n"
    (tmp_path / "receiver").mkdir()
    with (
        Fake() as fake,
        real_prometheus.running(
            tmp_path / "receiver", "--web.enable-remote-write-receiver", config=config
        ) as receiver,
        Serving(tmp_path, fake.url, more=f"remote_write: {{url: {receiver}/api/v1/write}}\n") as serve,
    ):
        serve.start()
        written = 'foreshock_remote_write_total{outcome="written"}'
        serve.wait_for(lambda: serve.metric(written) > 1000)
        # What is on its way at a kill is sent once more, and refused where the receiver has it.
        serve.wait_for(lambda: serve.metric("foreshock_remote_write_pending") == 0)
        serve.kill()
        time.sleep(1)
        serve.start()
        serve.wait_for(lambda: serve.metric(written) > 20)
        assert serve.metric('foreshock_remote_write_total{outcome="refused"}') == 0
        assert serve.stop() == 0
        wish = {"query": 'foreshock_service_score_backdated{service="pay"}[10m]', "time": time.time()}
        address = f"{receiver}/api/v1/query?{urllib.parse.urlencode(wish)}"
        with urllib.request.urlopen(address) as answer:
            (found,) = json.load(answer)["data"]["result"]
        stamps = np.array(found["values"], dtype=float)[:, 0]
        assert len(stamps) > 480
        np.testing.assert_allclose(np.diff(stamps), 0.25)
