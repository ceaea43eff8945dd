"""`foreshock serve` as the bench runs it: its configuration, its process, and what its API told when.

Everything is asked over HTTP, as a user would. Not here: what the answers are held against (live).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from foreshock.calibrate import CausalCalibrator
from foreshock.decide import Rules
from testbed.bench import SPARE, Size
from testbed.kpis import queries
from testbed.processes import Child

ASK_S = 0.5  # its API is asked so often
DELAY_S = 1.0  # a scrape is in Prometheus so long after its stamp
PRESSED = ("confirm_s", "merge_s", "lead_s", "grace_s", "cool_down_s")
UNITS = (("_per_s", "1/s"), ("_s", "s"), ("_bytes", "B"), ("_cores", "cores"))


def configuration(
    size: Size, data: Path, port: int, prometheus: str, alertmanager: str, backfill_s: float
) -> dict[str, Any]:
    """What `foreshock serve` is told: the rules' times and the promise pressed, everything else a default."""
    asked = [
        {"kpi": kpi, "query": query, "service": "service", "unit": _unit(kpi)}
        for kpi, query in queries().items()
    ]
    rules = asdict(Rules())
    return {
        "prometheus": {
            "url": prometheus,
            "step_s": size.step_s,
            "rate_s": size.window_s,
            "delay_s": DELAY_S,
            "timeout_s": 10.0,
            "queries": asked,
        },
        "serve": {"port": port, "data": str(data), "backfill_s": round(backfill_s, 1), "keep_s": 7_200},
        "rules": {name: rules[name] / size.press for name in PRESSED},
        # One false alarm a pressed day, whatever may page: ten faults in half an hour are no usual day.
        "threshold": {
            "false_alarms_per_day": size.press,
            "relearn_s": CausalCalibrator.relearn_s / size.press,
        },
        "alerts": {"pages_per_day": 100, "resend_s": 5, "alertmanager": {"url": alertmanager}},
    }


def _unit(kpi: str) -> str:
    return next((unit for end, unit in UNITS if kpi.endswith(end)), "")


def service(folder: Path, port: int, told: dict[str, Any]) -> Child:
    """The process, with its configuration written."""
    config = folder / "foreshock.yaml"
    config.write_text(yaml.safe_dump(told, sort_keys=False))
    command = [sys.executable, "-m", "foreshock", "serve", str(config)]
    return Child("foreshock", command, folder / "foreshock.log", f"http://127.0.0.1:{port}/-/ready", SPARE)


@dataclass
class Sighting:
    """An incident as its API told it."""

    seen_at: float  # Unix seconds when it was first told
    at_once: str | None  # service ranked first then
    page: dict[str, Any]  # as told last

    @property
    def is_open(self) -> bool:
        return bool(self.page["state"] == "open")

    @property
    def first(self) -> str | None:
        """The service ranked first, as told last."""
        return _first(self.page)


def _first(page: dict[str, Any]) -> str | None:
    return page["services"][0]["name"] if page["services"] else None


@dataclass
class Watch:
    """Asks the service again and again, and remembers when it told what."""

    http: aiohttp.ClientSession
    url: str
    sightings: dict[str, Sighting] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    cycle_s: dict[int, float] = field(default_factory=dict)  # number of the cycle → what it took
    misses: int = 0  # times that it did not answer

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except (aiohttp.ClientError, TimeoutError):
                self.misses += 1
            await asyncio.sleep(ASK_S)

    async def look(self) -> None:
        """Ask once: how it is, and which incidents there are."""
        self.status = await self._asked("/api/v1/status")
        health = self.status["health"]
        if health["cycles"] and health["last_cycle_s"] is not None:
            self.cycle_s.setdefault(health["cycles"], health["last_cycle_s"])
        for one in (await self._asked("/api/v1/incidents?limit=200"))["incidents"]:
            known = self.sightings.get(one["id"])
            if known is not None and not known.is_open:
                continue
            at, page = time.time(), await self._asked(f"/api/v1/incidents/{one['id']}")
            if known is None:
                self.sightings[one["id"]] = Sighting(at, _first(page), page)
            else:
                known.page = page

    async def metrics(self) -> dict[str, float]:
        """What `/metrics` counts, as `name{labels}` → value."""
        timeout = aiohttp.ClientTimeout(total=10)
        async with self.http.get(f"{self.url}/metrics", timeout=timeout) as answer:
            lines = (await answer.text()).splitlines()
        pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        out = {}
        for name, _, value in pairs:
            with contextlib.suppress(ValueError):
                out[name] = float(value)
        return out

    async def _asked(self, path: str) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=10)
        async with self.http.get(self.url + path, timeout=timeout) as answer:
            answer.raise_for_status()
            told: dict[str, Any] = await answer.json()
        return told
