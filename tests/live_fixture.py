"""A living service on a simulated recording, for tests and pictures of the page and the API."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from foreshock.calibrate import CausalCalibrator
from foreshock.config import resolve
from foreshock.decide import Decider, iso
from foreshock.explain import explain
from foreshock.models import load_detector
from foreshock.secret import Secret
from foreshock.service import learn
from foreshock.sources import simulator
from foreshock.store import Store

TOKEN = "a-token-for-tests"


@dataclass
class Health:
    facts: dict[str, Any] = field(default_factory=lambda: {"lag_s": 4.0, "dropped_points": 0})

    def to_dict(self):
        return dict(self.facts)


class Replay:
    """The window after a recording went through detector, calibrator, decider and explain, row after row."""

    def __init__(self, frame, detector):
        self.frame, self.detector = frame, detector
        self.replace_detector(detector)

    def replace_detector(self, detector):
        self.detector = detector
        self.scores = detector.score(self.frame)
        self.levels = CausalCalibrator(self.frame.step_s).push(self.scores.system)
        self.high = self.levels.high

    def told(self):
        decider = Decider(self.frame.step_s)
        events = {}
        for change in decider.push(self.scores, self.levels):
            events[change.event.id] = change.event
        out = []
        for event in events.values():
            cause = explain(self.frame, self.scores, event, others=events.values()).to_dict()
            sure = 0.7 if event.id % 2 else 0.0
            out.append(
                {
                    "id": str(iso(event.start_ns)).replace(":", "-"), "event": event.to_dict(),
                    "cause": cause, "first_cause": cause, "kinds": [["cpu_contention", sure]] if sure else [],
                    "severity": "critical" if event.confidence > 0.9 else "warning",
                    "found_ns": event.detected_ns, "closed_ns": event.end_ns,
                }
            )  # fmt: skip
        return out


@dataclass
class LiveReplay:
    monitor: Any
    store: Store
    settings: Any
    health: Health = field(default_factory=Health)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    reloads: int = 0
    waiting: list[asyncio.Queue] = field(default_factory=list)

    async def reload(self):
        self.reloads += 1
        return {"alerts.pages_per_day": 3}

    async def subscribe(self):
        queue = asyncio.Queue()
        self.waiting.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.waiting.remove(queue)


def shop(rows=1440, now=None):
    """Twelve hours of the demo shop, or their first rows; `now` (seconds) becomes the newest stamp."""
    frame = simulator.demo().without_labels().rows(slice(0, rows))
    shift = 0 if now is None else int(now) * 10**9 - int(frame.time_ns[-1])
    return replace(frame, time_ns=frame.time_ns + shift)


def build(folder: Path | str, frame=None, detector="foreshock", token=TOKEN):
    """A Live whose store holds the recording's incidents, with their rows."""
    frame = shop() if frame is None else frame
    monitor = Replay(frame, load_detector(detector))
    store = Store(Path(folder) / "foreshock.sqlite")
    for incident in monitor.told():
        store.save_incident(incident)
        learn.keep_evidence(store, monitor, incident)
    settings = SimpleNamespace(
        token=None if token is None else Secret(token), host="127.0.0.1", external_url="", hosts=(),
        score=resolve(None, None, {}).settings,
    )  # fmt: skip
    return LiveReplay(monitor, store, settings)


def empty(folder: Path | str):
    """A service that has not seen a row yet."""
    settings = SimpleNamespace(
        token=None, host="127.0.0.1", external_url="", hosts=(), score=resolve(None, None, {}).settings
    )
    monitor = SimpleNamespace(frame=None, scores=None, high=np.zeros(0), replace_detector=lambda d: None)
    return LiveReplay(monitor, Store(Path(folder) / "foreshock.sqlite"), settings)
