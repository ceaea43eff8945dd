"""Sees to it that receivers hear of each incident: once when it opens, again if it must, once when it ends.

What is still to be told is kept in the store before it is tried, so a crash loses nothing; a receiver that
is away is tried again, ever more rarely, until it has heard. A crash between a receiver's answer and our
note of it sends that one message twice: Alertmanager does not mind, webhooks carry a message id.

Not here: what an alert says (alert), how it is sent (sinks).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Protocol

from foreshock.alerts.alert import Alert, alert_of, first_service, summary_of
from foreshock.alerts.budget import Budget
from foreshock.alerts.entry import Entry, Pause
from foreshock.alerts.options import AlertOptions
from foreshock.alerts.severity import louder
from foreshock.alerts.sinks import Sink, SinkAway, SinkRefused, open_client, sinks_of
from foreshock.errors import ForeshockError

if TYPE_CHECKING:
    import httpx

STATE = "alerts.outbox"  # key in the store
SUMMARY_S = 600.0  # a webhook hears of further held incidents so often at most
REMEMBERED = 2_000  # ids of incidents that are done with


class Keeper(Protocol):
    """Keeps small texts over restarts."""

    def get(self, key: str) -> str | None: ...
    def put(self, key: str, value: str) -> None: ...


class Outbox:
    """Takes changes of incidents, tells the sinks. One event loop; `take` never waits."""

    def __init__(
        self,
        options: AlertOptions,
        sinks: Sequence[Sink],
        store: Keeper,
        link: Callable[[str], str],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`link` gives the page of an incident's id; `chance` 0..1 spreads the pauses."""
        self.options = options
        self.sinks = tuple(sinks)
        self.problems: dict[str, str] = {}  # sink → what went wrong last, until it works again
        self._store = store
        self._link = link
        self._chance = chance
        self._entries: dict[str, Entry] = {}
        self._finished: dict[str, str] = {}  # incident id → name of its alert
        self._last: Entry | None = None  # the newest alert, open or not: a sequel joins it
        self._counts = {"pages_total": 0.0, "pages_held_total": 0.0, "alerts_dropped_total": 0.0}
        self._sent = {sink.name: 0.0 for sink in self.sinks}
        self._failed = {sink.name: 0.0 for sink in self.sinks}
        self._pauses = {sink.name: Pause() for sink in self.sinks}
        self._refusals: dict[tuple[str, str], Pause] = {}
        self._again: dict[tuple[str, str], float] = {}  # when an open alert is to be told again
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._lock = asyncio.Lock()
        self._budget = Budget(options.pages_per_day)
        self._load()

    # ------------------------------------------------------------------------------------------ what is new

    def take(self, incident: Mapping[str, Any], now: float) -> None:
        """An incident opened, changed or ended. Hearing the same twice changes nothing.

        Args:
            incident: its JSON form.
            now: Unix seconds.
        """
        told = dict(incident)
        if told["id"] in self._finished:
            return
        entry = self._entry_of(told["id"]) or self._joined(told, now) or self._begun(told, now)
        entry.incident = told
        loudest = louder(entry.severities[-1], told["severity"])
        if loudest != entry.severities[-1]:
            entry.severities.append(loudest)
            entry.version += 1
        if entry.is_over and not entry.told and entry.held is None and entry.is_late:
            self._finish(entry)
        self._bound()
        self._save()

    def _entry_of(self, incident: str) -> Entry | None:
        return next((e for e in self._entries.values() if incident in e.members and not e.is_summary), None)

    def _joined(self, told: dict[str, Any], now: float) -> Entry | None:
        """The alert that this incident continues, if it is a sequel."""
        last = self._last
        if told["event"]["sequel_of"] is None or last is None:
            return None
        entry = self._entries.get(last.name)
        if entry is None:
            entry = replace(
                last, severities=last.severities[-1:], members=[], told={}, version=1, first_seen=now
            )
            self._entries[entry.name] = entry
        entry.members.append(told["id"])
        entry.told = {sink: heard for sink, heard in entry.told.items() if heard != "resolved"}
        self._last = entry
        return entry

    def _begun(self, told: dict[str, Any], now: float) -> Entry:
        entry = Entry(
            told["id"], told, [told["id"]], first_service(told["cause"]), [told["severity"]], first_seen=now
        )
        self._entries[entry.name] = entry
        self._last = entry
        return entry

    def _bound(self) -> None:
        """Drop the oldest when there are too many: those that are over first. Counted."""
        while len(self._entries) > self.options.limit:
            over = [e for e in self._entries.values() if e.is_over]
            self._finish(over[0] if over else next(iter(self._entries.values())))
            self._counts["alerts_dropped_total"] += 1

    # ------------------------------------------------------------------------------------------ the budget

    def _decide(self, now: float) -> bool:
        """Page for each new alert while the budget lasts; hold the others for the summary."""
        new = [e for e in self._entries.values() if e.held is None]
        for entry in new:
            entry.held = not self._budget.allows(now)
            if entry.held:
                self._counts["pages_held_total"] += 1
            else:
                self._budget.spend(now)
                self._counts["pages_total"] += 1
        return self._summarise(now) or bool(new)

    def _summarise(self, now: float) -> bool:
        """Bring the summary up to date; whether it has changed for those it is told to."""
        held = [e for e in self._entries.values() if e.held]
        summary = next((e for e in self._entries.values() if e.is_summary), None)
        if not held:
            if summary is not None:
                self._finish(summary)
            return summary is not None
        incidents = [e.incident for e in held]
        # It lasts until there is room for a page again: beginning and ending with each would page each time.
        is_over = all(e.is_over for e in held) and self._budget.allows(now)
        about: dict[str, Any] = {
            "id": "",
            "closed_ns": max(i["closed_ns"] for i in incidents) if is_over else None,
        }
        if summary is None:
            name = f"over-budget-{held[0].name}"
            summary = Entry(name, about, [name], "", [held[0].severities[-1]], now, False, bumped_at=now)
            self._entries[name] = summary
        worst = summary.severities[-1]
        for entry in held:
            worst = louder(worst, entry.severities[-1])
        is_louder = worst != summary.severities[-1]
        is_more = len(held) != len(summary.held_incidents) and now - summary.bumped_at >= SUMMARY_S
        if is_louder:
            summary.severities.append(worst)
        if is_louder or is_more:
            summary.version, summary.bumped_at = summary.version + 1, now
        is_new = is_louder or is_more or not summary.held_incidents or summary.is_over != is_over
        summary.incident, summary.held_incidents = about, incidents
        return is_new

    # ---------------------------------------------------------------------------------------------- sending

    async def deliver(self, now: float) -> None:
        """Tell what is due. A receiver's failure is noted, never raised; each request has its time-out."""
        async with self._lock:
            if self._decide(now):
                self._save()
            due = [sink for sink in self.sinks if not self._pauses[sink.name].lasts(now)]
            await asyncio.gather(*[self._tell(sink, now) for sink in due])
            self._clear()

    async def _tell(self, sink: Sink, now: float) -> None:
        """Everything that one receiver has to hear, until it fails."""
        pause = self._pauses[sink.name]
        for entry in list(self._entries.values()):
            if entry.held:
                continue
            while (wanted := self._due(entry, sink, now)) is not None:
                refusal = self._refusals.setdefault((sink.name, entry.name), Pause())
                try:
                    await self._send(sink, entry, wanted)
                except SinkAway as error:
                    self._note_failure(sink, str(error), pause, now)
                    return
                except (
                    SinkRefused,
                    ForeshockError,
                    ValueError,
                ) as error:  # or a secret is not there
                    self._note_failure(sink, str(error), refusal, now)
                    await self._hang_up(sink)  # the next connection reads its secrets anew
                    break
                pause.over()
                del self._refusals[(sink.name, entry.name)]
                self.problems.pop(sink.name, None)
                self._sent[sink.name] += 1
                self._again[(sink.name, entry.name)] = now + self.options.resend_s
                if entry.told.get(sink.name) != wanted:
                    entry.told[sink.name] = wanted
                    self._save()

    def _due(self, entry: Entry, sink: Sink, now: float) -> str | None:
        wanted, key = entry.wanted(sink.name), (sink.name, entry.name)
        refusal = self._refusals.get(key)
        if refusal is not None and refusal.lasts(now):
            return None
        if entry.told.get(sink.name) != wanted:
            return wanted
        # As soon after the last time as it should be, and no later for a clock that was set back.
        is_time = not now < self._again.get(key, 0.0) <= now + self.options.resend_s
        is_again = sink.repeats and wanted != "resolved" and is_time
        return wanted if is_again else None

    async def _send(self, sink: Sink, entry: Entry, wanted: str) -> None:
        client = self._clients.get(sink.name)
        if client is None:
            client = self._clients[sink.name] = open_client(sink.access, f"alerts.{sink.name}")
        await sink.send(self._alerts(entry, wanted == "resolved"), client)

    def _alerts(self, entry: Entry, is_over: bool) -> list[Alert]:
        link = self._link("" if entry.is_summary else entry.incident["id"])
        alerts = []
        for severity in entry.severities:
            if entry.is_summary:
                alert = summary_of(entry.held_incidents, self.options.pages_per_day, link, entry.name)
            else:
                alert = alert_of(entry.incident, link, name=entry.name)
            labels = {**alert.labels, "severity": severity}
            if not entry.is_summary:
                labels["service"] = entry.service
            closed = entry.incident["closed_ns"]
            ends = closed / 1e9 if is_over and closed is not None else None
            alerts.append(replace(alert, labels=labels, ends_at=ends))
        return alerts

    def _note_failure(self, sink: Sink, problem: str, pause: Pause, now: float) -> None:
        pause.longer(now, self._chance())
        self._failed[sink.name] += 1
        self.problems[sink.name] = problem

    async def _hang_up(self, sink: Sink) -> None:
        client = self._clients.pop(sink.name, None)
        if client is not None:
            await client.aclose()

    def _clear(self) -> None:
        """Forget what every receiver has heard the end of."""
        done = [e for e in self._entries.values() if e.is_done(self.sinks)]
        for entry in done:
            if entry.is_summary:
                for member in [e for e in self._entries.values() if e.held and e.is_over]:
                    self._finish(member)
            self._finish(entry)
        if done:
            self._save()

    def _finish(self, entry: Entry) -> None:
        self._entries.pop(entry.name, None)
        for member in entry.members:
            self._finished[member] = entry.name
        while len(self._finished) > REMEMBERED:
            del self._finished[next(iter(self._finished))]
        for sink in self.sinks:
            self._refusals.pop((sink.name, entry.name), None)
            self._again.pop((sink.name, entry.name), None)

    async def close(self) -> None:
        """Close connections. What is untold is told after the next start."""
        async with self._lock:  # a delivery that runs ends first, so that its answer is noted
            for sink in self.sinks:
                await self._hang_up(sink)

    # ------------------------------------------------------------------------------------ numbers and state

    @property
    def pending(self) -> int:
        """Messages that some receiver has not heard yet."""
        return sum(self._pending(sink) for sink in self.sinks)

    def _pending(self, sink: Sink) -> int:
        entries = [e for e in self._entries.values() if not e.held]
        return sum(e.told.get(sink.name) != e.wanted(sink.name) for e in entries)

    @property
    def counts(self) -> tuple[tuple[str, dict[str, str], float], ...]:
        """For telemetry: names without `foreshock_`, their labels, the value."""
        out: list[tuple[str, dict[str, str], float]] = [(n, {}, v) for n, v in self._counts.items()]
        for sink in self.sinks:
            label = {"sink": sink.name}
            out.append(("alerts_sent_total", label, float(self._sent[sink.name])))
            out.append(("alerts_failed_total", label, float(self._failed[sink.name])))
            out.append(("alerts_pending", label, float(self._pending(sink))))
        return tuple(out)

    def _state(self) -> str:
        return json.dumps(
            {
                "entries": [asdict(entry) for entry in self._entries.values()],
                "finished": self._finished,
                "last": None if self._last is None else asdict(self._last),
                "pages": self._budget.pages,
            }
        )

    def _save(self) -> None:
        """Keep what is to be told. A full disk must not silence us: it is noted, and told once more later."""
        try:
            self._store.put(STATE, self._state())
        except Exception as error:
            self.problems["store"] = f"{type(error).__name__}: alerts may come again after a restart"
        else:
            self.problems.pop("store", None)

    def _load(self) -> None:
        text = self._store.get(STATE)
        if text is None:
            return
        state = json.loads(text)
        self._entries = {kept["name"]: Entry(**kept) for kept in state["entries"]}
        self._finished = state["finished"]
        self._budget.pages = state["pages"]
        if state["last"] is not None:
            last = Entry(**state["last"])
            self._last = self._entries.get(last.name, last)


def make_outbox(options: AlertOptions, store: Keeper, external_url: str) -> Outbox:
    """An outbox for the receivers that have an address.

    Args:
        external_url: where people reach the page, for links back.
    """
    page = external_url.rstrip("/")
    return Outbox(
        options, sinks_of(options), store, lambda name: f"{page}/#/incident/{name}" if name else f"{page}/"
    )
