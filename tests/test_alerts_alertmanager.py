"""Alerts at a real Alertmanager: fired, repeated, ended, heard by whoever listens behind it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
web = pytest.importorskip("aiohttp.web", reason="aiohttp is not installed")

from foreshock.alerts import AlertOptions, make_outbox  # noqa: E402
from foreshock.alerts.alert import seconds  # noqa: E402
from foreshock.alerts.options import Access  # noqa: E402
from test_alerts import Memory, incident  # noqa: E402
from testbed.monitors import alertmanager  # noqa: E402
from testbed.processes import free_ports  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")),
    reason="Alertmanager is not installed",
)


@contextlib.asynccontextmanager
async def receiving(folder):
    """A real Alertmanager with a listener behind it: (its process, address, what was heard)."""
    heard = []

    async def take(request):
        heard.extend((await request.json())["alerts"])
        return web.Response()

    at_alertmanager, at_listener = free_ports(2)
    app = web.Application()
    app.router.add_post("/notes", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", at_listener).start()
    child = alertmanager(folder, at_alertmanager, f"http://127.0.0.1:{at_listener}/notes")
    async with aiohttp.ClientSession() as http:
        await child.start()
        try:
            await child.ready(http)
            yield child, http, f"http://127.0.0.1:{at_alertmanager}", heard
        finally:
            await child.stop()
            await runner.cleanup()


async def open_alerts(http, url):
    async with http.get(f"{url}/api/v2/alerts", params={"active": "true"}) as answer:
        return await answer.json()


async def until(is_so, within_s=20.0):
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.1)


def now_incident(**changes):
    """One that was found this second."""
    return incident(time.time() - seconds("2026-11-26T10:00:00Z"), **changes)


def test_alertmanager_fires_once_and_resolves_once(tmp_path):
    """One notification for the beginning, none for the repeats, one for the end; the link leads back."""

    async def work():
        async with receiving(tmp_path) as (_, http, url, heard):
            options = AlertOptions(alertmanager=Access(url=url), resend_s=0.5)
            box = make_outbox(options, Memory(), "http://foreshock.example")
            told = now_incident()
            box.take(told, time.time())
            for _ in range(6):
                await box.deliver(time.time())
                await asyncio.sleep(0.5)
            await until(lambda: heard)
            (alert,) = await open_alerts(http, url)
            assert alert["labels"] == {
                "alertname": "ForeshockIncident", "severity": "warning", "service": "cart",
                "incident": told["id"],
            }  # fmt: skip
            assert alert["generatorURL"] == f"http://foreshock.example/#/incident/{told['id']}"
            assert alert["annotations"]["summary"] == "cart: CPU up"
            box.take({**told, "closed_ns": time.time_ns()}, time.time())
            await box.deliver(time.time())
            await until(lambda: len(heard) == 2)
            assert await open_alerts(http, url) == []
            await asyncio.sleep(1.5)
            assert [a["status"] for a in heard] == ["firing", "resolved"]
            await box.close()

    asyncio.run(work())


def test_an_end_reaches_an_alertmanager_that_was_away(tmp_path):
    """It goes down while the alert fires, the incident ends, we are restarted, it comes back: resolved."""

    async def work():
        async with receiving(tmp_path) as (child, http, url, heard):
            options, store = AlertOptions(alertmanager=Access(url=url), resend_s=60.0), Memory()
            box = make_outbox(options, store, "http://foreshock.example")
            told = now_incident()
            box.take(told, time.time())
            await box.deliver(time.time())
            await until(lambda: heard)
            await child.stop()
            box.take({**told, "closed_ns": time.time_ns()}, time.time())
            await box.deliver(time.time())
            assert box.pending == 1
            again = make_outbox(options, store, "http://foreshock.example")
            await child.start()
            await child.ready(http)
            await again.deliver(time.time() + 5)
            assert again.pending == 0
            await until(lambda: len(heard) >= 2)
            assert heard[-1]["status"] == "resolved"
            await box.close()
            await again.close()

    asyncio.run(work())


def test_an_alert_ends_by_itself_when_we_vanish(tmp_path):
    """Four repeats missed: Alertmanager calls it over, so that nobody is paged for ever."""

    async def work():
        async with receiving(tmp_path) as (_, http, url, heard):
            options = AlertOptions(alertmanager=Access(url=url), resend_s=0.5)
            box = make_outbox(options, Memory(), "http://foreshock.example")
            box.take(now_incident(), time.time())
            await box.deliver(time.time())
            await box.close()
            await until(lambda: [a["status"] for a in heard] == ["firing", "resolved"])
            assert await open_alerts(http, url) == []

    asyncio.run(work())
