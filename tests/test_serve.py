"""`foreshock serve` as a process: finds, tells, survives its Prometheus and its own death."""

from __future__ import annotations

import time

import pytest

from fake_prometheus import Fake
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
        serve.wait_for(lambda: [i for i in serve.incidents() if i["id"] not in quiet], 20)
        serve.wait_for(lambda: all(i["state"] == "closed" for i in serve.incidents()), 40)
        assert len([i for i in serve.incidents() if i["id"] not in quiet]) == 1
        assert serve.stop() == 0


def test_killed_in_an_incident(tmp_path):
    """After kill -9 in the middle the incident is the same one, and it ends."""
    with Fake() as fake, Serving(tmp_path, fake.url) as serve:
        serve.start()
        quiet = {i["id"] for i in serve.incidents()}
        fault(fake, 12)
        (told,) = serve.wait_for(lambda: [i for i in serve.incidents() if i["id"] not in quiet], 20)
        serve.kill()
        serve.start()
        again = [i for i in serve.incidents() if i["id"] not in quiet]
        assert [i["id"] for i in again] == [told["id"]]
        serve.wait_for(lambda: all(i["state"] == "closed" for i in serve.incidents()), 40)
        assert [i["id"] for i in serve.incidents() if i["id"] not in quiet] == [told["id"]]


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
