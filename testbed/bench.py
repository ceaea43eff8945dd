"""The whole bench: shop, visitors, Prometheus, Alertmanager and whatever watches them, up and down again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from testbed.load import Visitors
from testbed.monitors import alertmanager, prometheus
from testbed.processes import Child, free_ports
from testbed.shop.database import create
from testbed.shop.services import SERVICES

SPARE = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Size:
    """How large, how fast."""

    scrape_s: float = 1.0
    visits_per_s: float = 16.0
    day_s: float = 1_200.0  # a day's curve in so many seconds
    step_s: float = 2.0  # a row each
    window_s: float = 10.0  # rates are taken over so long
    press: float = 15.0  # the rules' times are divided by this: a step of 2 s stands for one of 30 s


@dataclass(frozen=True)
class Note:
    """What Alertmanager told, and when."""

    at: float  # Unix seconds
    status: str  # "firing", "resolved"
    labels: dict[str, str]
    annotations: dict[str, str]
    fingerprint: str

    @property
    def incident(self) -> str:
        """The incident that it links to."""
        return self.annotations.get("dashboard", "").rpartition("/")[2]


@dataclass
class Bench:
    """A running test bed."""

    folder: Path
    addresses: dict[str, str]  # service → URL
    prometheus_url: str
    alertmanager_url: str
    children: dict[str, Child]
    visitors: Visitors
    http: aiohttp.ClientSession
    notes: list[Note] = field(default_factory=list)

    async def fault(self, service: str, kind: str, amount: float) -> None:
        """Begin a fault: see `Faults.start`; also "surge", a factor on the visitors."""
        if kind == "surge":
            self.visitors.surge = amount
        elif kind == "crash":
            with contextlib.suppress(aiohttp.ClientError):  # it does not live to answer
                await self._tell(service, {"kind": kind, "amount": 1})
        else:
            await self._tell(service, {"kind": kind, "amount": amount})

    async def end(self, service: str, kind: str) -> None:
        if kind == "surge":
            self.visitors.surge = 1.0
        elif kind == "crash":
            child = self.children[service]
            await child.stop()
            await child.start()
            await child.ready(self.http)
        else:
            await self._tell(service, {"kind": kind, "stop": True})

    async def _tell(self, service: str, wish: dict[str, Any]) -> None:
        timeout = aiohttp.ClientTimeout(total=10)
        async with self.http.post(f"{self.addresses[service]}/fault", json=wish, timeout=timeout) as answer:
            if answer.status != 200:
                raise ValueError((await answer.json())["error"])

    async def add(self, child: Child, within_s: float = 60.0) -> None:
        """Start one more process, stopped with the rest."""
        self.children[child.name] = child
        await child.start()
        await child.ready(self.http, within_s)


@contextlib.asynccontextmanager
async def running(folder: Path, size: Size) -> AsyncIterator[Bench]:
    """Start everything, wait until it answers, stop it all at the end, whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(len(SERVICES) + 3)
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in zip(SERVICES, ports, strict=False)}
    at_prometheus, at_alertmanager, at_webhook = ports[-3:]
    (folder / "addresses.json").write_text(json.dumps(addresses, indent=1))
    create(folder / "shop.sqlite")
    children = {name: _service(name, folder, addresses[name]) for name in SERVICES}
    children["prometheus"] = prometheus(
        folder, at_prometheus, size.scrape_s, {n: a.removeprefix("http://") for n, a in addresses.items()}
    )
    children["alertmanager"] = alertmanager(folder, at_alertmanager, f"http://127.0.0.1:{at_webhook}/notes")
    visitors = Visitors(addresses["front"], size.visits_per_s, size.day_s)
    async with aiohttp.ClientSession() as http:
        bench = Bench(
            folder, addresses, f"http://127.0.0.1:{at_prometheus}", f"http://127.0.0.1:{at_alertmanager}",
            children, visitors, http,
        )  # fmt: skip
        webhook = await _listen(bench, at_webhook)
        load: asyncio.Task[None] | None = None
        try:
            for child in children.values():
                await child.start()
            await asyncio.gather(*[child.ready(http) for child in children.values()])
            load = asyncio.ensure_future(visitors.run())
            yield bench
        finally:
            if load is not None:
                load.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await load
            await asyncio.gather(*[child.stop() for child in bench.children.values()])
            await webhook.cleanup()


def _service(name: str, folder: Path, address: str) -> Child:
    command = [
        sys.executable, "-m", "testbed.shop", name,
        "--addresses", str(folder / "addresses.json"), "--database", str(folder / "shop.sqlite"),
    ]  # fmt: skip
    return Child(name, command, folder / f"{name}.log", f"{address}/metrics", SPARE)


async def _listen(bench: Bench, port: int) -> web.AppRunner:
    """The pager: takes what Alertmanager sends."""

    async def take(request: web.Request) -> web.Response:
        for alert in (await request.json())["alerts"]:
            bench.notes.append(
                Note(
                    time.time(),
                    alert["status"],
                    alert["labels"],
                    alert.get("annotations", {}),
                    alert["fingerprint"],
                )
            )
        return web.Response()

    app = web.Application()
    app.router.add_post("/notes", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner
