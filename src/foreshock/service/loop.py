"""The cycle: read the rows that are due, score them in a thread, keep what changed, tell whom it concerns.

At the start (and after a change of step or detector) it reads back, so that the first answer is a good one,
and gives incidents the names under which an earlier process told them. What a row did is kept in one
transaction with its stamp: a kill at any moment loses nothing and tells nothing twice.

Not here: scoring (stream), HTTP and signals (process).
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from foreshock.alerts import Outbox
from foreshock.errors import ConfigError, ForeshockError, SourceError
from foreshock.frame import Frame
from foreshock.service import measures
from foreshock.service.learn import keep_evidence
from foreshock.service.live import Live
from foreshock.service.settings import ServeSettings, read_settings
from foreshock.service.writer import Writer
from foreshock.sources.prometheus import PrometheusClient
from foreshock.store import Scored
from foreshock.stream import Change, Known, Monitor, ended
from foreshock.telemetry import Histogram, Metric, write

log = logging.getLogger("foreshock")
SCORED = "scored_ns"  # key in the store: stamp of the last row whose changes are kept
PIECE_CELLS = 100_000  # values scored while nobody else can look
KNOWN = 1_000  # incidents of an earlier process that are matched
PARTIAL_ROWS = 3  # so many rows late, a query that keeps failing is left out
BACK_S = 60.0  # a clock that goes back further, and by four rows, is believed: its rows are read anew
HOLD_ROWS = 3  # a row without a single value is asked for again until so many more are due
PAUSE_S = (1.0, 30.0)  # first and longest pause while the source is away
SOURCE = "prometheus"


class Loop:
    """Keeps one Live up to date."""

    def __init__(
        self,
        live: Live,
        client: PrometheusClient,
        outbox: Outbox,
        load: Callable[[ServeSettings], Any],
        connect: Callable[[ServeSettings], PrometheusClient],
        writer: Writer | None = None,
    ) -> None:
        """`load` gives the detector of some settings, `connect` a client; `writer` gets all scores."""
        self.live, self.client, self.outbox = live, client, outbox
        self.stopping = asyncio.Event()
        self.cycles = Histogram()
        self.found: dict[str, int] = {}  # incidents by severity, since the start
        self.writer = Writer(live.settings.remote_write, live.store) if writer is None else writer
        self._load, self._connect = load, connect
        self._last: int | None = None  # slot of the newest row scored; None: read back first
        self._unsaved: dict[str, dict[str, Any]] = {}
        self._kept = ("", -1)  # whose scores the store has, and up to which row
        self._told: list[Metric] = measures.of_monitor(live.monitor)
        self._waiting: asyncio.Task[Any] | None = None  # what a reload or a stop interrupts
        self._turn = asyncio.Lock()
        live.on_reload = self.reload
        live.write_metrics = lambda _: self.metrics_text()
        live.on_changes = self._keep

    def metrics_text(self) -> str:
        self._note_lag()
        return write(
            [
                *self._told,
                *measures.of_service(self.live, self.cycles, self.found, self.outbox),
                *measures.of_writer(self.writer),
            ]
        )

    async def run(self) -> None:
        """Until `stopping` is set."""
        pause = PAUSE_S[0]
        while not self.stopping.is_set():
            try:
                async with self._turn:
                    wait = await (self._start() if self._last is None else self._cycle())
                pause = PAUSE_S[0]
                wait = await self._prepare(wait)
            except SourceError as error:
                if self.live.health.sources.get(SOURCE) is not False:
                    note("source_down", source=SOURCE, reason=str(error))
                self.live.health.fail(SOURCE, error)
                wait, pause = min(pause, self._step_s), min(PAUSE_S[1], 2 * pause)
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                wait = 0.0  # a reload or a stop interrupted the reading
            except Exception as error:  # whatever it is, the next step is another try
                log.exception("a cycle failed")
                self.live.health.last_error = f"{type(error).__name__}: {error}"
                self.live.health.last_error_ns = time.time_ns()
                wait = self._step_s
            await self._sleep(wait)

    def stop(self) -> None:
        self.stopping.set()
        if self._waiting is not None:
            self._waiting.cancel()

    async def _sleep(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                await self.stopping.wait()
        except TimeoutError:
            pass

    async def _prepare(self, wait_s: float) -> float:
        """Use a wait for what the next row will need; gives what is left of it."""
        until = time.monotonic() + wait_s
        while not self.stopping.is_set() and time.monotonic() < until:
            async with self.live.lock:
                if not await asyncio.to_thread(self.live.monitor.prepare):
                    break
        return max(0.0, until - time.monotonic())

    async def _interruptible(self, work: Any) -> Any:
        self._waiting = asyncio.ensure_future(work)
        try:
            return await self._waiting
        finally:
            self._waiting.cancel()
            self._waiting = None

    # ------------------------------------------------------------------------------------------ the start

    @property
    def _step_s(self) -> float:
        return self.live.settings.prometheus.step_s

    def _stamp_ns(self, slot: int) -> int:
        return round(slot * self._step_s * 1000) * 1_000_000

    def _due(self) -> int:
        """The newest slot that can be read now."""
        return math.floor((self.client.now_s() - self.live.settings.prometheus.wait_s) / self._step_s)

    async def _start(self) -> float:
        """Read back, match what an earlier process told."""
        live, began = self.live, time.perf_counter()
        live.health.phase = "back-filling"
        await self._interruptible(self.client.ask_time())
        scored = await asyncio.to_thread(live.store.get, SCORED)
        earlier = await asyncio.to_thread(live.store.scored, live.monitor.scored_by)
        opened = await asyncio.to_thread(live.store.incidents, None, None, "open", KNOWN)
        due = self._due()
        rows = min(round(live.settings.serve.backfill_s / self._step_s), live.settings.keep_rows)
        first = due - max(1, rows) + 1
        slots = range(first, due + 1)
        frame = await self._read(slots, partial=True)
        if frame is None:
            raise SourceError(
                "no query gave a series; `foreshock serve CONFIG --dry-run` tells which is asked what."
            )
        seen = np.flatnonzero(np.isfinite(frame.values).any(1))
        frame = frame.rows(slice(int(seen[0]), None)) if len(seen) else frame
        held = self._held(frame)
        frame = frame.rows(slice(0, len(frame) - held))
        if not len(frame):
            raise SourceError("no series has a value yet; asking again.")
        if earlier is not None:
            live.monitor.remember(earlier.time_ns, earlier.system)
        await self._push(frame)
        told = await asyncio.to_thread(live.store.incidents, int(frame.time_ns[0]), None, None, KNOWN)
        known = {one["id"]: one for one in (*told, *opened)}
        async with live.lock:
            changes, over = live.monitor.resume(
                [Known.of(one) for one in known.values()], None if scored is None else int(scored)
            )
        last_ns = int(frame.time_ns[-1])
        # What was kept may not have come to the outbox before the kill.
        for one in known.values():
            self.outbox.take(one, time.time())
        await self._keep(changes, [ended(known[id], last_ns) for id in over])
        self._last = due - held
        live.health.phase = "watching"
        note(
            "back_filled",
            rows=len(frame),
            kpis=len(frame.kpis),
            seconds=round(time.perf_counter() - began, 2),
        )
        self._finish(began)
        return 0.0

    # ------------------------------------------------------------------------------------------- one step

    async def _cycle(self) -> float:
        """Score what is due; gives how long to wait then."""
        live, due = self.live, self._due()
        assert self._last is not None
        live.health.queue_rows = max(0, due - self._last)
        self._note_lag()
        if (self._last - due) * self._step_s > max(BACK_S, 4 * self._step_s):
            await self._begin_anew((self._last - due) * self._step_s)
            return 0.0
        if due <= self._last:
            nap = (self._last + 1) * self._step_s + live.settings.prometheus.wait_s - self.client.now_s()
            return min(max(0.02, nap), self._step_s)  # the clock may have gone back far
        began = time.perf_counter()
        backlog = max(1, round(live.settings.serve.backlog_s / self._step_s))
        if due - self._last > backlog:
            lost = due - backlog - self._last
            live.health.dropped_points += lost * max(1, live.health.series)
            note("dropped", rows=lost, reason="scoring fell behind")
            self._last += lost
        many = max(1, PIECE_CELLS // max(1, live.health.series))
        slots = range(self._last + 1, min(due, self._last + many) + 1)
        frame = await self._read(slots, partial=due - self._last > PARTIAL_ROWS)
        frame = self._blank(slots) if frame is None else frame
        held = self._held(frame, due - slots[-1])
        slots = slots[: len(slots) - held]
        if len(slots):
            changes = await self._push(frame.rows(slice(0, len(slots))))
            await self._keep(changes)
        self._last += len(slots)
        if len(slots):
            self._finish(began)
        return 0.0 if len(slots) and due > self._last + held else min(1.0, self._step_s / 4)

    async def _begin_anew(self, back_s: float) -> None:
        """Prometheus's clock was set back: rows that it will give once more are read back and scored anew."""
        live = self.live
        note("clock_went_back", seconds=round(back_s, 1))
        async with live.lock:
            settings = live.settings
            live.monitor = Monitor(
                live.monitor.detector, settings.prometheus.step_s, settings.score, settings.keep_rows
            )
            self._last, self._kept = None, ("", -1)
        await asyncio.to_thread(live.store.forget_scores, self._stamp_ns(self._due()))

    def _blank(self, slots: range) -> Frame:
        """Rows in which nothing at all was observed."""
        frame = self.live.monitor.frame
        assert frame is not None
        stamps = np.array([self._stamp_ns(slot) for slot in slots], dtype=np.int64)
        return replace(frame, time_ns=stamps, values=np.full((len(slots), len(frame.kpis)), np.nan))

    def _held(self, frame: Frame, after: int = 0) -> int:
        """How many of the newest rows have no value at all and may still come; `after` them, rows are due."""
        seen = np.flatnonzero(np.isfinite(frame.values).any(1))
        blank = len(frame) - (int(seen[-1]) + 1 if len(seen) else 0)
        return min(blank, max(0, HOLD_ROWS - after))

    async def _read(self, slots: range, partial: bool) -> Frame | None:
        read = await self._interruptible(self.client.read(slots, partial))
        health = self.live.health
        if not health.sources.get(SOURCE):
            note("source_up", source=SOURCE, address=self.live.settings.prometheus.shown)
        health.sources[SOURCE] = True
        for problem in read.problems:
            if problem != health.last_error:
                note("query_failed", reason=problem)
            health.last_error, health.last_error_ns = problem, time.time_ns()
        return None if read.frame is None else self._limited(read.frame)

    def _limited(self, frame: Frame) -> Frame:
        """Without new series beyond the most that are watched."""
        held = self.live.monitor.frame
        known = set() if held is None else set(held.names)
        new = [name for name in frame.names if name not in known]
        room = self.live.settings.prometheus.most_series - len(known)
        if len(new) <= room:
            return frame
        left_out = set(new[max(0, room) :])
        self.live.health.dropped_points += len(left_out) * len(frame)
        return frame.select([name for name in frame.names if name not in left_out])

    async def _push(self, frame: Frame) -> list[Change]:
        """Score rows in a thread, a piece at a time, so that others can look in between."""
        out: list[Change] = []
        rows = max(1, PIECE_CELLS // max(1, len(frame.kpis)))
        for at in range(0, len(frame), rows):
            async with self.live.lock:
                out += await asyncio.to_thread(self.live.monitor.push, frame.rows(slice(at, at + rows)))
            if self.stopping.is_set():
                break
        return out

    async def _keep(self, changes: Any, closed: list[dict[str, Any]] | None = None) -> None:
        """Into the store, then to the outbox."""
        live, monitor = self.live, self.live.monitor
        told = {change.incident.id: change.incident.to_dict() for change in changes}
        told |= {one["id"]: one for one in closed or ()}
        self._unsaved |= told
        async with live.lock:
            stamp = {} if monitor.last_ns is None else {SCORED: str(monitor.last_ns)}
            scored = self._newly_scored()
        await asyncio.to_thread(live.store.put_many, stamp, list(self._unsaved.values()), scored)
        self._unsaved = {}
        self._kept = self._kept if scored is None else (scored.by, int(scored.time_ns[-1]))
        now = time.time()
        for incident in told.values():
            self.outbox.take(incident, now)
        for change in changes:
            one = change.incident
            if change.kind == "opened":
                self.found[one.severity] = self.found.get(one.severity, 0) + 1
            if change.kind != "updated":
                note(f"incident_{change.kind}", id=one.id, severity=one.severity, headline=one.cause.headline)
            if change.kind == "closed":
                async with live.lock:
                    await asyncio.to_thread(keep_evidence, live.store, monitor, one)

    def _newly_scored(self) -> Scored | None:
        """Rows whose scores the store doesn't have; all that are kept after another detector came."""
        monitor = self.live.monitor
        scores, by = monitor.scores, monitor.scored_by
        if scores is None or not len(scores):
            return None
        new = scores.time_ns > (self._kept[1] if self._kept[0] == by else -1)
        return Scored(by, scores.time_ns[new], scores.system[new]) if new.any() else None

    def _finish(self, began: float) -> None:
        """Renew what others see."""
        live, monitor = self.live, self.live.monitor
        health = live.health
        health.last_cycle_s = time.perf_counter() - began
        health.last_cycle_ns, health.cycles = time.time_ns(), health.cycles + 1
        health.late_rows = monitor.late_rows
        health.queue_rows = max(0, self._due() - (self._last or 0))
        frame, scores = monitor.frame, monitor.scores
        health.series = 0 if frame is None else len(frame.kpis)
        self.cycles.add(health.last_cycle_s)
        self._told = measures.of_monitor(monitor)
        self.writer.take(scores, monitor.high)
        self._note_lag()
        system = float("nan") if scores is None or not len(scores) else float(scores.system[-1])
        high = float("nan") if monitor.level is None else monitor.level.high
        live.publish(
            {
                "kind": "cycle",
                "time_ns": monitor.last_ns,
                "score": system if math.isfinite(system) else None,
                "threshold": high if math.isfinite(high) else None,
                "incidents_open": [incident.id for incident in monitor.open_incidents],
                "cycle_s": round(health.last_cycle_s, 4),
            }
        )

    def _note_lag(self) -> None:
        last = self.live.monitor.last_ns
        if last is not None:
            self.live.health.lag_s = max(0.0, self.client.now_s() - last / 1e9)

    # ---------------------------------------------------------------------------------------------- reload

    async def reload(self) -> dict[str, Any]:
        """Read the configuration anew; on any error everything stays as it was.

        Raises:
            ConfigError, SourceError: what is wrong with it.
        """
        health = self.live.health
        try:
            changed = await self._reload()
        except ForeshockError as error:
            health.reload_ok, health.reload_error = False, str(error)
            note("reload_refused", reason=str(error))
            raise
        health.reload_ok, health.reload_error = True, ""
        note("reloaded", changed=sorted(changed))
        return changed

    async def _reload(self) -> dict[str, Any]:
        live, old = self.live, self.live.settings
        new = await asyncio.to_thread(read_settings, old.path)
        fixed = [
            n for n in ("host", "port", "data", "hosts") if getattr(new.serve, n) != getattr(old.serve, n)
        ]
        fixed += [] if new.token == old.token else ["token"]
        fixed = [f"serve.{name}" for name in fixed]
        fixed += [] if new.remote_write == old.remote_write else ["remote_write"]
        if fixed:
            raise ConfigError(f"{fixed[0]} has changed, which takes a restart; everything stays as it was.")
        parts = {n: getattr(new, n) for n in ("prometheus", "serve", "alerts", "score")}
        changed = {name for name, value in parts.items() if value != getattr(old, name)}
        client = self._connect(new)
        try:
            await client.ask_time()
            begins_anew = "score" in changed or new.prometheus.step_s != old.prometheus.step_s
            begins_anew = begins_anew or new.keep_rows != old.keep_rows
            detector = await asyncio.to_thread(self._load, new) if begins_anew else live.monitor.detector
        except BaseException:
            await client.close()
            raise
        if self._waiting is not None:
            self._waiting.cancel()
        async with self._turn:
            self.client, before = client, self.client
            await before.close()
            async with live.lock:
                live.settings = new
                if begins_anew:
                    live.monitor = Monitor(detector, new.prometheus.step_s, new.score, new.keep_rows)
                    self._last = None
            if "alerts" in changed or new.external_url != old.external_url:
                from foreshock.alerts import make_outbox

                await self.outbox.close()
                self.outbox = make_outbox(new.alerts, live.store, new.external_url)
        return dict.fromkeys(sorted(changed), True)


def note(kind: str, **facts: Any) -> None:
    """One line for the log, for machines first."""
    log.info("%s", json.dumps({"kind": kind, **facts}, default=str, ensure_ascii=False))
