"""What every service of the shop is made of: an HTTP server, a client, metrics and a door for faults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import Counter, Gauge, Histogram, generate_latest

from testbed.shop.buckets import BUCKETS_S
from testbed.shop.database import Pool, PoolEmpty
from testbed.shop.faults import Faults

CALL_S = 2.0  # a caller waits no longer

SERVED = Counter("http_requests_total", "Requests answered", ["code"])
SERVING = Gauge("http_requests_in_flight", "Requests being answered")
LATENCY = Histogram("http_request_duration_seconds", "Time until the answer", buckets=BUCKETS_S)
CALLED = Histogram("http_client_duration_seconds", "Time of calls made", ["to"], buckets=BUCKETS_S)
CALL_FAILED = Counter("http_client_errors_total", "Calls made that failed", ["to"])

Handler = Callable[["Service", web.Request], Awaitable[Any]]


class CallFailed(Exception):
    """Another service answered with an error, or not in time."""


@dataclass
class Service:
    """One running service."""

    name: str
    addresses: Mapping[str, str]  # of all services: name → http://host:port
    pool: Pool | None
    faults: Faults
    session: aiohttp.ClientSession
    cache: dict[str, tuple[float, Any]]  # used by the cache service alone

    async def call(self, to: str, path: str, body: Any = None) -> Any:
        """Ask another service; JSON in, JSON out.

        Raises:
            CallFailed: no answer within two seconds, or an error.
        """
        begun = time.perf_counter()
        method = "GET" if body is None else "POST"
        try:
            async with self.session.request(method, self.addresses[to] + path, json=body) as answer:
                if answer.status >= 500:
                    raise CallFailed(f"{to} answered {answer.status}")
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError, CallFailed) as err:
            CALL_FAILED.labels(to).inc()
            raise CallFailed(str(err)) from err
        finally:
            CALLED.labels(to).observe(time.perf_counter() - begun)

    async def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        assert self.pool is not None
        return await self.pool.query(sql, *values)


async def serve(
    name: str, routes: Mapping[str, Handler], addresses: Mapping[str, str], base: Path | None, seed: int
) -> None:
    """Answer on this service's address until cancelled."""
    pool = Pool(base) if base else None
    timeout = aiohttp.ClientTimeout(total=CALL_S)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=5)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        service = Service(name, addresses, pool, Faults(pool, seed), session, {})
        app = web.Application()
        app.router.add_get("/metrics", _metrics)
        app.router.add_post("/fault", _door_for_faults(service))
        for path, handler in routes.items():
            app.router.add_route("*", path, _measured(service, handler))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        host, port = addresses[name].removeprefix("http://").split(":")
        await web.TCPSite(runner, host, int(port), reuse_address=True).start()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


def _measured(service: Service, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        begun, code = time.perf_counter(), 200
        SERVING.inc()
        try:
            if await service.faults.before_answer():
                code = 500
                return web.json_response({"error": "broken on command"}, status=code)
            return web.json_response(await handler(service, request))
        except CallFailed as err:
            code = 502
            return web.json_response({"error": str(err)}, status=code)
        except PoolEmpty:
            code = 503
            return web.json_response({"error": "no free database connection"}, status=code)
        except Exception:
            code = 500
            raise
        finally:
            SERVING.dec()
            SERVED.labels(str(code)).inc()
            LATENCY.observe(time.perf_counter() - begun)

    return answer


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), content_type="text/plain", charset="utf-8")


def _door_for_faults(service: Service) -> Callable[[web.Request], Awaitable[web.Response]]:
    """POST {"kind": …, "amount": …} begins a fault, {"kind": …, "stop": true} ends it."""

    async def take(request: web.Request) -> web.Response:
        wish = await request.json()
        try:
            if wish.get("stop"):
                service.faults.stop(wish["kind"])
            else:
                service.faults.start(wish["kind"], float(wish.get("amount", 0)))
        except ValueError as err:
            return web.json_response({"error": str(err)}, status=400)
        return web.json_response({"running": service.faults.names})

    return take
