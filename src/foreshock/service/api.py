"""The HTTP face of the living service: /api/v1 for machines, the page for people.

Reading is open to whoever reaches the port (loopback by default); writing needs the token. See guard.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from foreshock import __version__
from foreshock.decide import iso
from foreshock.errors import ForeshockError, NotFoundError
from foreshock.service import learn, promotion, shapes, views
from foreshock.service.backtest import MINUTES_EACH, backtest
from foreshock.service.guard import LOOPBACK, Gate, Guard, Rate, host_of, problem
from foreshock.service.views import Alive

STREAMS = 32  # pages that listen at once
BEAT_S = 15.0  # a comment line so often, so that proxies keep a stream open
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
LATEST_NS = 2**63 - 1
SAFE_NAME = r"^[A-Za-z0-9._:\-]+$"

log = logging.getLogger("foreshock.service")

Id = Annotated[str, Path(min_length=1, max_length=80, pattern=SAFE_NAME)]
Moment = Annotated[datetime | None, Query(description="ISO 8601; without a zone it is UTC.")]
Text = Literal["json", "csv"]
Positive = Annotated[float, Query(ge=0.001, le=1000, allow_inf_nan=False)]


def _errors(*status: int) -> dict[int | str, dict[str, Any]]:
    words = {400: "Not understood", 401: "No or wrong token", 403: "Refused", 404: "Not there",
             409: "Not possible as things are", 413: "Too long", 415: "Not JSON", 422: "Not valid",
             429: "Too many", 503: "Not now"}  # fmt: skip
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {s: {"description": words[s], "content": content} for s in status}


READ = _errors(400, 403, 404, 413, 422)
WRITE = _errors(400, 401, 403, 404, 409, 413, 415, 422, 429, 503)


class WriteRoute(APIRoute):
    """A route that asks the gate before it reads the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            request.app.state.gate.check_write(request)
            return await inner(request)

        return guarded


def live_of(request: Request) -> Alive:
    live: Alive = request.app.state.live
    return live


Live = Annotated[Any, Depends(live_of)]
read = APIRouter(prefix="/api/v1", responses=READ)
write = APIRouter(
    prefix="/api/v1", responses=WRITE, route_class=WriteRoute,
    dependencies=[Depends(HTTPBearer(auto_error=False, description="The token that the settings name."))],
)  # fmt: skip


def make_app(live: Alive, writes: Rate | None = None) -> FastAPI:
    """The application on a living service.

    Args:
        writes: how many writes are let through; 60 at once and one a second by default.
    """
    app = FastAPI(
        title="foreshock", version=__version__, openapi_url="/api/v1/openapi.json", docs_url=None,
        redoc_url=None, description=(__doc__ or "").strip(),
    )  # fmt: skip
    gate = Gate(live.settings.token, frozenset(_names(live.settings)))
    if writes is not None:
        gate.writes = writes
    app.state.live, app.state.gate, app.state.streams = live, gate, 0
    app.include_router(read)
    app.include_router(write)
    app.include_router(_page())
    app.add_api_route("/metrics", _metrics, include_in_schema=False)
    app.add_api_route("/-/healthy", _healthy, include_in_schema=False)
    for path in ("/-/ready", "/healthz"):
        app.add_api_route(path, _ready, include_in_schema=False)
    app.add_exception_handler(ForeshockError, _foreshock_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    app.add_middleware(Guard, gate=gate)
    app.openapi = _described(app)  # type: ignore[method-assign]
    return app


def _names(settings: Any) -> set[str]:
    names = {*LOOPBACK, settings.host.lower(), *(host_of(name) for name in settings.hosts)}
    if settings.external_url:
        names.add(host_of(settings.external_url.partition("//")[2].partition("/")[0]))
    return names - {""}


def _described(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """OpenAPI with the one shape that all errors have."""
    inner = app.openapi

    def openapi() -> dict[str, Any]:
        document = inner()
        document["components"]["schemas"]["Problem"] = shapes.Problem.model_json_schema()
        for operations in document["paths"].values():
            for operation in operations.values():
                told = operation["responses"].get("422", {})
                if "application/json" in told.get("content", {}):
                    told["content"] = _errors(422)[422]["content"]
        return document

    return openapi


# -------------------------------------------------------------------------------------------- errors


async def _foreshock_error(request: Request, error: Any) -> Response:
    return problem(error.http_status, str(error))


async def _http_error(request: Request, error: Any) -> Response:
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


async def _invalid(request: Request, error: Any) -> Response:
    told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]]
    return problem(422, "; ".join(told))


async def _bug(request: Request, error: Any) -> Response:
    log.exception("a request failed", exc_info=error)
    return problem(500, "this is our bug; the log of the service tells more.")


# ------------------------------------------------------------------------------------------- reading


@read.get("/status")
async def status(live: Live) -> shapes.Status:
    """How the service is, and how late."""
    view = await views.look(live)
    scores, frame = view.scores, view.frame
    newest = frame.time_ns[-1] if frame is not None and len(frame) else None
    high = view.high[-1] if len(view.high) else float("nan")
    store = live.store
    promoted = await asyncio.to_thread(store.promoted)
    seen = await asyncio.to_thread(store.fault_types)
    kinds = list(scores.kind_names) if scores is not None else []
    opened = await asyncio.to_thread(store.incidents, None, None, "open", 1000)
    health = live.health.to_dict()
    return shapes.Status(
        state=_state(view, health), version=__version__,
        detector=scores.detector if scores is not None else "",
        adapter=promoted["id"] if promoted else None,
        step_s=frame.step_s if frame is not None else None,
        newest=None if newest is None else iso(int(newest)),
        score=views.number(scores.system[-1]) if scores is not None and len(scores) else None,
        high=views.number(high),
        services=len(frame.services) if frame is not None else 0,
        kpis=len(frame.kpis) if frame is not None else 0,
        rows=len(frame) if frame is not None else 0,
        incidents_open=len(opened), can_write=live.settings.token is not None,
        fault_types=list(dict.fromkeys([*seen, *kinds, *learn.COMMON_FAULTS])),
        service_names=list(frame.services) if frame is not None else [], health=health,
    )  # fmt: skip


def _state(view: views.View, health: dict[str, Any]) -> Literal["waiting", "warming", "ok", "late"]:
    if view.frame is None or not len(view.frame):
        return "waiting"
    if health.get("lag_s") is not None and health["lag_s"] > 5 * view.frame.step_s + 30:
        return "late"
    return "ok" if len(view.high) and views.number(view.high[-1]) is not None else "warming"


@read.get("/overview")
async def overview(
    live: Live,
    hours: Annotated[float, Query(ge=0.05, le=24 * 31, allow_inf_nan=False)] = 6.0,
    columns: Annotated[int, Query(ge=10, le=720)] = 180,
) -> shapes.Overview:
    """Services against time, and the incidents there."""
    view = await views.look(live)
    known = await asyncio.to_thread(live.store.incidents, None, None, None, 200)
    told = await asyncio.to_thread(views.overview, view, known, hours * 3600, columns)
    return shapes.Overview.model_validate(told)


@read.get("/incidents")
async def incidents(
    live: Live,
    state: Annotated[Literal["open", "closed"] | None, Query()] = None,
    since: Moment = None,
    until: Moment = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> shapes.Incidents:
    """Incidents that touch a range, newest first."""
    found = await asyncio.to_thread(live.store.incidents, stamp_of(since), stamp_of(until), state, limit)
    counted = await asyncio.to_thread(_counting, live)
    told = [views.summary(one, counted.get(one["id"])) for one in found]
    return shapes.Incidents.model_validate({"incidents": told})


def _counting(live: Any) -> dict[str, Any]:
    """The verdict that counts of each incident."""
    return {verdict["incident"]: verdict for verdict in live.store.verdicts(newest=True)}


def stamp_of(moment: datetime | None) -> int | None:
    """Nanoseconds since 1970 UTC, as far as they can be told."""
    if moment is None:
        return None
    whole = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    since = whole - datetime(1970, 1, 1, tzinfo=UTC)
    exact = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    return max(-LATEST_NS, min(LATEST_NS, exact))


@read.get("/incidents/{id}")
async def incident(live: Live, id: Id) -> shapes.IncidentPage:
    """All about one incident."""
    known = await asyncio.to_thread(live.store.incident, id)
    if known is None:
        raise NotFoundError(f"there is no incident {id!r}.")
    view = await views.look(live)
    kept = views.rows_of(known, view, 2 * views.MOST_MARGIN)
    if kept is None:
        kept = await asyncio.to_thread(live.store.evidence, id)
    verdicts = await asyncio.to_thread(live.store.verdicts, id)
    told = await asyncio.to_thread(views.incident_page, known, verdicts, kept)
    return shapes.IncidentPage.model_validate(told)


@read.get("/series")
async def series(
    live: Live,
    kpi: Annotated[str, Query(max_length=1000)],
    since: Moment = None,
    until: Moment = None,
    points: Annotated[int, Query(ge=2, le=2000)] = 600,
) -> shapes.Timeline:
    """One KPI of the kept window with what was expected of it."""
    view = await views.look(live)
    first, last = stamp_of(since), stamp_of(until)
    told = await asyncio.to_thread(
        views.series, view, kpi, -LATEST_NS if first is None else first,
        LATEST_NS - 1 if last is None else min(last, LATEST_NS - 1), points,
    )  # fmt: skip
    if told is None:
        raise NotFoundError(f"there is no KPI {kpi!r} in the window.")
    return shapes.Timeline.model_validate(told)


@read.get("/backtest")
async def look_back(
    live: Live,
    since: Moment = None,
    until: Moment = None,
    false_alarms_per_day: Positive = 1.0,
    threshold: Annotated[float | None, Query(ge=0, le=1e9, allow_inf_nan=False)] = None,
    minutes_each: Annotated[float, Query(ge=0, le=1440, allow_inf_nan=False)] = MINUTES_EACH,
) -> shapes.Backtest:
    """What another budget or threshold would have told in the kept window, and what that costs."""
    view = await views.look(live)
    known = await asyncio.to_thread(live.store.incidents, None, None, None, 1000)
    counted = await asyncio.to_thread(_counting, live)
    first, last = stamp_of(since), stamp_of(until)
    told = await asyncio.to_thread(
        backtest, view, known, counted, live.settings.score.rules,
        since_ns=-LATEST_NS if first is None else first,
        until_ns=LATEST_NS - 1 if last is None else min(last, LATEST_NS - 1),
        per_day=false_alarms_per_day, level=threshold, minutes_each=minutes_each,
    )  # fmt: skip
    return shapes.Backtest.model_validate(told)


@read.get(
    "/labels", response_model=shapes.Labels,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)  # fmt: skip
async def labels(live: Live, format: Annotated[Text, Query()] = "json") -> Any:
    """The verdicts that count, as labels; CSV is what `foreshock adapt --labels` reads."""
    rows = await asyncio.to_thread(learn.labels, live.store)
    if format == "json":
        return {"labels": rows}
    out = io.StringIO()
    writer = csv.DictWriter(out, learn.LABEL_COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(row for row in rows if row["verdict"] == "confirmed")
    return PlainTextResponse(out.getvalue(), media_type="text/csv")


@read.get("/adapters")
async def adapters(live: Live) -> shapes.Adapters:
    """What was learned from verdicts, newest first."""
    known = await asyncio.to_thread(live.store.adapters)
    return shapes.Adapters.model_validate(
        {"adapters": [_adapter(one) for one in known],
         "in_use": next((one["id"] for one in known if one["state"] == "promoted"), None)}
    )  # fmt: skip


def _adapter(one: dict[str, Any]) -> dict[str, Any]:
    changes = [
        {"state": c["state"], "note": c["note"], "changed": iso(c["changed_ns"])} for c in one["changes"]
    ]
    return {"id": one["id"], "state": one["state"], "made": iso(one["made_ns"]), "facts": one["facts"],
            "changes": changes}  # fmt: skip


@read.get("/events", include_in_schema=False)
async def events(request: Request, live: Live) -> Response:
    """Server-sent events: one message a cycle, so that a page knows when to look again."""
    state = request.app.state
    if state.streams >= STREAMS:
        return problem(503, f"{STREAMS} pages listen already; ask again later.", {"retry-after": "30"})
    state.streams += 1
    return StreamingResponse(
        _messages(live, state), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


async def _messages(live: Any, state: Any) -> AsyncIterator[str]:
    source = live.subscribe()
    waiting: asyncio.Task[dict[str, Any]] | None = None
    try:
        yield "retry: 3000\n\n"
        while True:
            waiting = waiting or asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait({waiting}, timeout=BEAT_S)
            if not done:
                yield ": still here\n\n"
                continue
            try:
                message = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield f"data: {json.dumps(message, default=str)}\n\n"
    finally:
        state.streams -= 1
        if waiting is not None:
            waiting.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await waiting
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


# ------------------------------------------------------------------------------------------- writing


@write.post("/incidents/{id}/verdict", status_code=201)
async def give_verdict(live: Live, id: Id, said: shapes.NewVerdict) -> shapes.Verdict:
    """Say that an incident was real, and what it was, or a false alarm; the newest verdict counts."""
    given = await asyncio.to_thread(live.store.add_verdict, id, **said.model_dump())
    known = await asyncio.to_thread(live.store.incident, id)
    view = await views.look(live)
    await asyncio.to_thread(learn.keep_rows, live.store, view, known)
    return shapes.Verdict.model_validate(views.told_verdict(given))


@write.post("/adapters/{id}/trial")
async def try_adapter(live: Live, id: Id, said: shapes.Nothing) -> shapes.AdapterInfo:
    """Score the kept window with an adapter, beside the detector in use; nothing changes for anybody."""
    return shapes.AdapterInfo.model_validate(_adapter(await promotion.trial(live, id)))


@write.post("/adapters/{id}/promote")
async def promote(live: Live, id: Id, said: shapes.Promotion) -> shapes.AdapterInfo:
    """Put an adapter into use. One that was not better on held-back incidents needs `force`."""
    told = await promotion.promote(live, id, said.note, said.force)
    return shapes.AdapterInfo.model_validate(_adapter(told))


@write.post("/adapters/roll-back")
async def roll_back(live: Live, said: shapes.Promotion) -> shapes.Adapters:
    """Take the adapter in use out again; the one before it comes back, or zero-shot."""
    await promotion.roll_back(live, said.note)
    return await adapters(live)


@write.post("/reload")
async def reload(live: Live, said: shapes.Nothing) -> shapes.Reloaded:
    """Read the settings anew; when they are wrong, the old ones stay."""
    return shapes.Reloaded(changed=dict(await live.reload() or {}))


# ------------------------------------------------------------------------------------------- the page


def _page() -> APIRouter:
    """The page's files, read once."""
    import hashlib

    router = APIRouter(include_in_schema=False)
    for file in sorted(resources.files("foreshock.service").joinpath("page").iterdir(), key=lambda f: f.name):
        kind = KINDS.get(file.name.rpartition(".")[2])
        if kind is None:
            continue
        content = file.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        paths = ("/", "/index.html") if file.name == "index.html" else (f"/page/{file.name}",)
        for path in paths:
            router.add_api_route(path, _served(content, kind, tag), methods=["GET", "HEAD"])
    return router


def _served(content: bytes, kind: str, tag: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def serve(request: Request) -> Response:
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return serve


async def _metrics(live: Live) -> Response:
    return PlainTextResponse(live.metrics_text(), media_type="text/plain; version=0.0.4")


async def _healthy() -> Response:
    """The loop runs, whatever Prometheus does."""
    return PlainTextResponse("alive")


async def _ready(live: Live) -> Response:
    """Rows are scored, and they are not old."""
    view = await views.look(live)
    state = _state(view, live.health.to_dict())
    return PlainTextResponse(state, 200 if state in ("ok", "warming") else 503)
