"""A living service on a simulated recording, for tests and pictures of the page and the API.

All is real but Prometheus: rows are pushed into the Monitor, and what it tells goes to the store.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from foreshock.config import resolve
from foreshock.models import load_detector
from foreshock.secret import Secret
from foreshock.service import learn
from foreshock.service.live import Live
from foreshock.service.settings import ServeOptions, ServeSettings
from foreshock.sources import simulator
from foreshock.sources.prometheus import PrometheusOptions
from foreshock.store import Store
from foreshock.stream import Monitor

TOKEN = "a-token-for-tests"
PIECE = 32  # rows pushed at once: a block of the detector, which is looked at once then


def shop(rows=1440, now=None):
    """Twelve hours of the demo shop, or their first rows; `now` (seconds) becomes the newest stamp."""
    frame = simulator.demo().without_labels().rows(slice(0, rows))
    shift = 0 if now is None else int(now) * 10**9 - int(frame.time_ns[-1])
    return replace(frame, time_ns=frame.time_ns + shift)


def settings(step_s=30.0, token=TOKEN, **serve):
    """As a configuration file would give them."""
    prometheus = PrometheusOptions(url="http://127.0.0.1:9090", step_s=step_s)
    secret = None if token is None else Secret(token)
    return ServeSettings(
        prometheus, ServeOptions(**serve), score=resolve(None, None, {}).settings, token=secret
    )


def build(folder: Path | str, frame=None, detector="foreshock"):
    """A Live that has seen a recording, piece after piece, as the loop would feed it."""
    frame = shop() if frame is None else frame
    live = empty(folder, detector, frame.step_s, TOKEN)
    feed(live, frame)
    return live


def feed(live, frame):
    """Push rows; keep incidents, and the rows of those that ended."""
    for at in range(0, len(frame), PIECE):
        for change in live.monitor.push(frame.rows(slice(at, at + PIECE))):
            live.store.save_incident(change.incident.to_dict())
            if change.kind == "closed":
                learn.keep_evidence(live.store, live.monitor, change.incident)
    live.health.lag_s, live.health.phase = 4.0, "watching"
    live.health.sources["prometheus"] = True
    live.health.cycles, live.health.last_cycle_s = len(frame), 0.12


def empty(folder: Path | str, detector="past_median", step_s=30.0, token=None):
    """A service that has not seen a row yet."""
    told = settings(step_s, token)
    monitor = Monitor(load_detector(detector), step_s, told.score, told.keep_rows)
    return Live(monitor, Store(Path(folder) / "foreshock.sqlite"), told)
