"""Can everything that `foreshock serve` needs be reached, and what is there? For `foreshock doctor CONFIG`.

Asks, but changes nothing: no alert is sent, no folder made.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from foreshock.alerts.options import Access, shown
from foreshock.alerts.sinks import open_client
from foreshock.errors import ForeshockError, SourceError
from foreshock.service.settings import ServeSettings
from foreshock.sources.prometheus import PrometheusClient, Query

LOOK_BACK_S = 3_600.0  # queries are tried on the last hour
SKEW_S = 5.0  # clocks further apart are told as broken: rows would be late, or alerts lie in the future
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    ok: bool = True


async def probe(settings: ServeSettings) -> AsyncIterator[Finding]:
    """Look at one thing after the other. Only what keeps `serve` from its work is not ok."""
    queries = f"{len(settings.prometheus.queries)} queries, a row each {settings.prometheus.step_s:g} s"
    yield Finding("config", f"{settings.path}: {queries}")
    async for finding in _prometheus(settings):
        yield finding
    alerts = settings.alerts
    if alerts.alertmanager.url:
        yield await _alertmanager(alerts.alertmanager)
    if alerts.webhook.url:
        yield await _connects("webhook", "alerts.webhook", alerts.webhook)
    if not alerts.alertmanager.url and not alerts.webhook.url:
        yield Finding(
            "alerts", "nobody is told: neither alerts.alertmanager.url nor alerts.webhook.url is set"
        )
    if settings.remote_write.url:
        yield await _connects("remote_write", "remote_write", settings.remote_write)
    yield _folder(Path(settings.serve.data))
    yield _door(settings)
    yield _token(settings)


async def _prometheus(settings: ServeSettings) -> AsyncIterator[Finding]:
    options = settings.prometheus
    try:
        client = PrometheusClient(options)
    except ForeshockError as error:
        yield Finding("prometheus", str(error), ok=False)
        return
    try:
        about = await client.about()
        skew = client.now_s() - time.time()
        yield Finding("prometheus", f"{options.shown} answers{_brackets(about)}")
        if abs(skew) > SKEW_S:
            yield Finding("clock", f"Prometheus's is {skew:+.0f} s from ours; set both by NTP", ok=False)
        step_s = options.step_s
        last = int((client.now_s() - options.wait_s) / step_s)
        slots = range(last - max(1, round(LOOK_BACK_S / step_s)) + 1, last + 1)
        total = 0
        for query in options.queries:
            finding, count = await _query(client, query, slots)
            total += count
            yield finding
        rows = f"{total} in all; {settings.serve.backfill_s / step_s:,.0f} rows are read back at the start"
        yield Finding("series", rows, ok=total > 0)
    except SourceError as error:
        yield Finding("prometheus", str(error), ok=False)
    finally:
        await client.close()


def _brackets(about: dict[str, str]) -> str:
    told = ", ".join(f"{name} {value}" for name, value in about.items() if value)
    return f" ({told})" if told else ""


async def _query(client: PrometheusClient, query: Query, slots: range) -> tuple[Finding, int]:
    what = f"query {query.kpi}"
    try:
        series = await client.series(query, slots)
    except SourceError as error:
        return Finding(what, str(error), ok=False), 0
    if not series:
        return Finding(what, "no series in the last hour"), 0
    services = sorted({service for service, _ in series})
    names = ", ".join(services[:3]) + (f" and {len(services) - 3} more" if len(services) > 3 else "")
    seen = float(np.mean([np.isfinite(values).mean() for values in series.values()]))
    return Finding(what, f"{len(series)} series ({names}), {seen:.0%} of the last hour there"), len(series)


async def _alertmanager(access: Access) -> Finding:
    import httpx

    what, where = "alertmanager", shown(access.url)
    try:
        async with open_client(access, "alerts.alertmanager") as client:
            answer = await client.get(access.url.rstrip("/") + "/api/v2/status")
        if answer.status_code != 200:
            return Finding(what, f"{where} answered {answer.status_code} to /api/v2/status", ok=False)
        return Finding(what, f"{where} answers (version {answer.json()['versionInfo']['version']})")
    except ForeshockError as error:
        return Finding(what, str(error), ok=False)
    except httpx.HTTPError as error:
        return Finding(what, f"{where} can't be reached ({type(error).__name__})", ok=False)
    except (ValueError, KeyError, TypeError):
        return Finding(what, f"{where} is no Alertmanager: its status makes no sense", ok=False)


async def _connects(what: str, section: str, access: Access) -> Finding:
    """A connection only: a message would be taken for an incident, a sample for a score."""
    where, parts = shown(access.url), urlsplit(access.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(access.timeout_s), open_client(access, section):
            _, writer = await asyncio.open_connection(parts.hostname, port)
            writer.close()
        return Finding(what, f"{where} accepts connections; nothing was sent")
    except ForeshockError as error:
        return Finding(what, str(error), ok=False)
    except (OSError, TimeoutError) as error:
        return Finding(what, f"{where} can't be reached ({type(error).__name__})", ok=False)


def _folder(folder: Path) -> Finding:
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding("folder", f"{folder} can't be written; give it to the user who runs this", ok=False)
    stat = os.statvfs(there)
    free = f"{stat.f_bavail * stat.f_frsize / 2**30:.1f} GiB free"
    return Finding("folder", f"{folder}, {free}" + ("" if there == folder.absolute() else "; will be made"))


def _door(settings: ServeSettings) -> Finding:
    host, port = settings.host, settings.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind((host, port))
    except OSError as error:
        return Finding("address", f"{host}:{port} is taken, perhaps by a running service ({error.strerror})")
    tail = "" if host in LOOPBACK else "; others can reach it: is it behind TLS?"
    return Finding("address", f"{host}:{port} is free{tail}")


def _token(settings: ServeSettings) -> Finding:
    if settings.token is not None:
        return Finding("token", "set; verdicts and changes need it")
    return Finding("token", "not set, so nothing can be changed by page or API; see serve.token_file")
