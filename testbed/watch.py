"""Watches a Prometheus with foreshock's own verbs: read, score, threshold, decide, explain, alert.

A process of its own: `python -m testbed.watch --help`. It shows what the verbs do on live metrics and
nothing more. Not here: what daily use needs (state that survives a crash, feedback, a page).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web

from foreshock import load_detector
from foreshock.calibrate import CausalCalibrator
from foreshock.decide import Decider, Event, Rules
from foreshock.explain import explain
from foreshock.findings import Cause
from foreshock.frame import Frame, Kpi
from foreshock.scores import Scores
from testbed.kpis import queries

RESEND_S = 5.0  # Alertmanager ends an alert that is not told again ...
KEEP_S = 60.0  # ... within so long
FRESH_S = 60.0  # an incident's cause is looked for anew so long after it was found
UNITS = (("_per_s", "1/s"), ("_s", "s"), ("_bytes", "B"), ("_cores", "cores"))
LAG_S = 1.0  # a scrape is in Prometheus so long after its stamp


def pressed(factor: float) -> Rules:
    """The default rules on a clock that runs `factor` times as fast."""
    told = Rules()
    times = ("confirm_s", "merge_s", "lead_s", "grace_s", "cool_down_s")
    return replace(told, **{name: getattr(told, name) / factor for name in times})


@dataclass
class Incident:
    """One event with its cause, as it is told."""

    event: Event
    cause: Cause
    first: Cause  # as told when it was found
    found_at: float  # Unix seconds of the wall clock when it was first told
    ended_at: float | None = None
    sent_at: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.event.id,
            "found_at": self.found_at,
            "ended_at": self.ended_at,
            "event": self.event.to_dict(),
            "cause": self.cause.to_dict(),
            "first_cause": self.first.to_dict(),
        }


class Watch:
    """What is known of one Prometheus."""

    def __init__(self, asked: Mapping[str, str], step_s: float, press: float) -> None:
        self.asked = asked
        self.step_s = step_s
        self.rules = pressed(press)
        self.stream = load_detector("foreshock").stream()
        self.calibrator = CausalCalibrator(step_s, merge_s=self.rules.merge_s, confirm_s=self.rules.confirm_s)
        self.decider = Decider(step_s, self.rules)
        self.frame: Frame | None = None
        self.scores: Scores | None = None
        self.level = float("inf")
        self.incidents: dict[int, Incident] = {}
        self.scoring_s: list[float] = []  # time of each cycle, reading included

    def push(self, piece: Frame) -> None:
        """Score the next rows and renew the incidents."""
        scores = self.stream.push(piece)
        threshold = self.calibrator.push(scores.system)
        self.level = float(threshold.high[-1])
        self.frame = piece if self.frame is None else _joined(self.frame, piece)
        self.scores = scores if self.scores is None else _joined_scores(self.scores, scores)
        now = time.time()
        for change in self.decider.push(scores, threshold):
            known = self.incidents.get(change.event.id)
            if known is None:
                cause = self._explain(change.event)
                self.incidents[change.event.id] = Incident(change.event, cause, cause, now)
            else:
                known.event = change.event
                if change.kind == "closed" or now - known.found_at < FRESH_S:
                    known.cause = self._explain(change.event)
            if change.kind == "closed":
                self.incidents[change.event.id].ended_at = now

    def _explain(self, event: Event) -> Cause:
        assert self.frame is not None
        others = [i.event for i in self.incidents.values()]
        return explain(self.frame, self.scores, event, others=others)


def _joined(a: Frame, b: Frame) -> Frame:
    return replace(
        a, time_ns=np.concatenate([a.time_ns, b.time_ns]), values=np.concatenate([a.values, b.values])
    )


def _joined_scores(a: Scores, b: Scores) -> Scores:
    return replace(
        a,
        time_ns=np.concatenate([a.time_ns, b.time_ns]),
        kpis=np.concatenate([a.kpis, b.kpis]),
        services=np.concatenate([a.services, b.services]),
        system=np.concatenate([a.system, b.system]),
        expected=None,
    )


async def read(
    http: aiohttp.ClientSession, url: str, asked: Mapping[str, str], start: float, end: float, step_s: float
) -> dict[tuple[str, str], dict[int, float]]:
    """(service, KPI) → slot → value, slots counted in steps since 1970."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for kpi, query in asked.items():
        wish = {"query": query, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step_s:g}"}
        async with http.get(f"{url}/api/v1/query_range", params=wish) as answer:
            answer.raise_for_status()
            told = (await answer.json())["data"]["result"]
        for series in told:
            found[(series["metric"]["service"], kpi)] = {
                round(float(at) / step_s): float(value) for at, value in series["values"]
            }
    return found


def frame_of(
    found: Mapping[tuple[str, str], Mapping[int, float]],
    names: list[tuple[str, str]],
    slots: range,
    step_s: float,
) -> Frame:
    """A row for each slot; NaN where nothing was told."""
    values = np.array([[found.get(n, {}).get(s, np.nan) for n in names] for s in slots], dtype=float)
    kpis = tuple(Kpi(f"{service}__{kpi}", service, kpi, _unit(kpi)) for service, kpi in names)
    stamps = np.array([round(s * step_s * 1e9) for s in slots], dtype=np.int64)
    return Frame(stamps, values, kpis, step_s, source="prometheus")


def _unit(kpi: str) -> str:
    return next((unit for end, unit in UNITS if kpi.endswith(end)), "")


async def watch(told: argparse.Namespace) -> None:
    """Score each step as it comes, until cancelled."""
    state = Watch(queries(told.window_s), told.step_s, told.press)
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        server = await _serve(state, told.port)
        try:
            names: list[tuple[str, str]] = []
            last = round(told.since / told.step_s)
            while True:
                due = int((time.time() - LAG_S) / told.step_s)
                if due <= last:
                    await asyncio.sleep(max(0.02, (due + 1) * told.step_s + LAG_S - time.time()))
                    continue
                begun = time.perf_counter()
                slots = range(last + 1, due + 1)
                edge = (slots[0] * told.step_s, slots[-1] * told.step_s)
                found = await read(http, told.prometheus, state.asked, *edge, told.step_s)
                names = names or sorted(
                    n for n, values in found.items() if np.isfinite(list(values.values())).any()
                )
                state.push(frame_of(found, names, slots, told.step_s))
                last = due
                await _send(http, told.alertmanager, state)
                state.scoring_s.append(time.perf_counter() - begun)
        finally:
            await server.cleanup()


async def _serve(state: Watch, port: int) -> web.AppRunner:
    async def answer(_: web.Request) -> web.Response:
        system = state.scores.system[-1] if state.scores is not None else np.nan
        return web.json_response(
            {
                "rows": 0 if state.frame is None else len(state.frame),
                "kpis": 0 if state.frame is None else len(state.frame.kpis),
                "score": None if np.isnan(system) else float(system),
                "threshold": state.level if np.isfinite(state.level) else None,
                "cycle_s": state.scoring_s[1:],
                "incidents": [i.to_dict() for i in state.incidents.values()],
            }
        )

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def _send(http: aiohttp.ClientSession, url: str, state: Watch) -> None:
    """One alert an incident, told again until it ends."""
    now = time.time()
    alerts = []
    for incident in state.incidents.values():
        ended = incident.ended_at
        if incident.sent_at > (now - RESEND_S if ended is None else ended):
            continue
        incident.sent_at = now
        alerts.append(
            {
                "labels": {"alertname": "foreshock", "incident": str(incident.event.id)},
                "annotations": {"summary": incident.cause.headline},
                "startsAt": _iso(incident.found_at),
                "endsAt": _iso(now + KEEP_S if ended is None else now),
            }
        )
    if alerts:
        async with http.post(f"{url}/api/v2/alerts", json=alerts) as answer:
            answer.raise_for_status()


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def main() -> None:
    parser = argparse.ArgumentParser(prog="testbed.watch", description=__doc__)
    parser.add_argument("--prometheus", required=True, metavar="URL")
    parser.add_argument("--alertmanager", required=True, metavar="URL")
    parser.add_argument("--port", type=int, required=True, help="of its own little page, JSON")
    parser.add_argument("--since", type=float, required=True, help="read back to here, Unix seconds")
    parser.add_argument("--step-s", type=float, default=2.0)
    parser.add_argument("--window-s", type=float, default=10.0, help="rates are taken over so long")
    parser.add_argument("--press", type=float, default=15.0, help="rules run so many times as fast")
    told = parser.parse_args()
    print(json.dumps(vars(told)), flush=True)
    asyncio.run(watch(told))


if __name__ == "__main__":
    main()
