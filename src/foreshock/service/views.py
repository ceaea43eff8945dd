"""What the page shows, computed from the kept window, the scores and the store; all of it plain dicts.

Not here: HTTP (api), a look back at another threshold (backtest).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from foreshock.bands import BEFORE, band
from foreshock.calibrate import Guess, usual_of
from foreshock.decide import iso
from foreshock.frame import Frame
from foreshock.scores import Scores
from foreshock.secret import Secret
from foreshock.store import Evidence, Store, start_of

MOST_ROWS = 40  # services a heat map shows
MOST_POINTS = 600  # of a series that is drawn
MOST_KPIS = 8  # panels of an incident
LEAST_MARGIN, MOST_MARGIN = 30, 240  # rows shown before and after an incident
QUIET_PART, FULL_PART = 0.75, 0.998  # of the range's service scores: no colour below, full above
LEAST_FULL = 4.0  # times the quiet level: in a calm range nothing is as dark as an incident


class Watcher(Protocol):
    """What is read of a Monitor."""

    frame: Frame | None
    scores: Scores | None
    high: np.ndarray
    detector: Any

    def replace_detector(self, detector: Any) -> Any: ...


class Alive(Protocol):
    """What is read of the living service, beside its store."""

    monitor: Any
    store: Store
    settings: Any
    health: Any
    lock: asyncio.Lock

    def subscribe(self) -> AsyncIterator[dict[str, Any]]: ...

    def metrics_text(self) -> str: ...

    async def reload(self) -> dict[str, Any]: ...

    async def keep(self, changes: Any) -> None: ...


class ServiceSettings(Protocol):
    """What is read of its settings."""

    token: Secret | None
    host: str
    external_url: str
    hosts: Sequence[str]
    score: Any  # config.Settings


@dataclass(frozen=True, slots=True)
class View:
    """The monitor's window at one moment."""

    frame: Frame | None
    scores: Scores | None
    high: np.ndarray  # (T,)
    guess: Guess | None = None  # where the detector's threshold usually lies


async def look(live: Alive) -> View:
    """The window as it is between two cycles."""
    async with live.lock:
        monitor: Watcher = live.monitor
        kpis = 1 if monitor.frame is None else len(monitor.frame.kpis)
        guess = usual_of(monitor.detector, kpis)
        return View(monitor.frame, monitor.scores, np.asarray(monitor.high, float), guess)


def number(value: Any, digits: int = 4) -> float | None:
    """JSON-safe: a number with so many digits that matter, or None."""
    value = float(value)
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def numbers(values: np.ndarray, digits: int = 4) -> list[float | None]:
    return [number(value, digits) for value in values.tolist()]


def milliseconds(time_ns: np.ndarray) -> list[int]:
    return [int(t) // 1_000_000 for t in time_ns.tolist()]


# ------------------------------------------------------------------------------------------ overview


def overview(
    view: View, incidents: Sequence[Mapping[str, Any]], span_s: float, columns: int
) -> dict[str, Any]:
    """Services against time over the last `span_s` seconds in at most `columns` buckets; peaks are kept."""
    empty = {
        "starts_ms": [],
        "bucket_s": 0.0,
        "system": [],
        "high": [],
        "rows": [],
        "hidden": 0,
        "incidents": [],
    }
    scores = view.scores
    if scores is None or not len(scores):
        return empty
    newest, step_ns = int(scores.time_ns[-1]), round(scores.step_s * 1e9)
    rows = np.flatnonzero(scores.time_ns > newest - round(span_s * 1e9))
    wide = (
        max(1, math.ceil(span_s * 1e9 / step_ns / columns)) * step_ns
    )  # whole steps: no bucket without a row
    place = (newest - scores.time_ns[rows]) // wide
    count = int(place.max()) + 1
    place = count - 1 - place  # the newest bucket is whole, the oldest perhaps not
    starts = newest - (np.arange(count)[::-1] + 1) * wide + step_ns
    peaks = _peaks(scores.services[rows].astype(float), place, count)
    finite = peaks[np.isfinite(peaks)]
    quiet, full = np.quantile(finite, [QUIET_PART, FULL_PART]) if len(finite) else (0.0, 1.0)
    full = max(float(full), LEAST_FULL * float(quiet), 1e-9)
    loud = np.argsort(-np.nanmax(np.where(np.isfinite(peaks), peaks, -np.inf), axis=0), kind="stable")
    shown = sorted(loud[:MOST_ROWS].tolist(), key=lambda s: scores.service_names[s])
    strength = np.clip((peaks - quiet) / max(full - quiet, 1e-9), 0, 1)
    return {
        "starts_ms": milliseconds(starts),
        "bucket_s": wide / 1e9,
        "system": numbers(_peaks(scores.system[rows].astype(float)[:, None], place, count)[:, 0]),
        "high": numbers(_last(view.high[rows], place, count)),
        "rows": [
            {"service": scores.service_names[s], "strength": numbers(strength[:, s], 3),
             "score": numbers(peaks[:, s], 3)}
            for s in shown
        ],
        "hidden": len(loud) - len(shown),
        "incidents": [span_of(one) for one in incidents if (_end(one) or newest) >= int(starts[0])],
    }  # fmt: skip


def _peaks(values: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """(T, S) → (count, S) highest of each bucket, NaN where nothing was observed."""
    out = np.full((count, values.shape[1]), -np.inf)
    np.maximum.at(out, place, np.where(np.isfinite(values), values, -np.inf))
    return np.where(np.isfinite(out), out, np.nan)


def _last(values: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    out = np.full(count, np.nan)
    out[place] = values
    return out


def span_of(incident: Mapping[str, Any]) -> dict[str, Any]:
    event = incident["event"]
    return {"id": incident["id"], "start": event["start_time"], "end": event.get("end_time"),
            "severity": incident.get("severity", "")}  # fmt: skip


def _end(incident: Mapping[str, Any]) -> int | None:
    told = incident["event"].get("end_time")
    return None if told is None else stamp(told)


def stamp(text: str) -> int:
    """ISO 8601 as it stands in an incident → nanoseconds since 1970 UTC."""
    return int(np.datetime64(text.rstrip("Z"), "ns").astype(np.int64))


# ----------------------------------------------------------------------------------------- incidents


def summary(incident: Mapping[str, Any], verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    """An incident in a list."""
    event, cause = incident["event"], incident["cause"]
    services = cause.get("services") or []
    return {
        "id": incident["id"],
        "state": "open" if incident.get("closed_ns") is None else "closed",
        "severity": incident.get("severity", ""),
        "start": event["start_time"],
        "end": event.get("end_time"),
        "found": iso(incident["found_ns"]),
        "closed": iso(incident.get("closed_ns")),
        "confidence": event.get("confidence"),
        "peak_score": event.get("peak_score"),
        "threshold": event.get("threshold"),
        "headline": cause.get("headline", ""),
        "service": services[0]["name"] if services and cause.get("is_known") else None,
        "kinds": [{"name": name, "probability": p} for name, p in incident.get("kinds") or ()],
        "kinds_from": incident.get("kinds_from") or "",
        "verdict": None if verdict is None else told_verdict(verdict),
    }


def told_verdict(verdict: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in verdict.items() if name != "given_ns"}
    return {**told, "given": iso(verdict["given_ns"])}


def incident_page(
    incident: Mapping[str, Any], verdicts: Sequence[Mapping[str, Any]], kept: Evidence | None
) -> dict[str, Any]:
    """All about one incident; `kept` are the rows around it."""
    cause = incident["cause"]
    first = incident.get("first_cause") or cause
    kpis = [_kpi_rank(kpi) for kpi in cause.get("kpis", ())]
    dated = [kpi for kpi in kpis if kpi["since"]]
    return {
        **summary(incident, verdicts[-1] if verdicts else None),
        "services": [
            {"name": one["name"], "score": one["score"], "confidence": one["confidence"],
             "since": one.get("since_time"), "why": one["why"], "kpis": list(one["kpis"])}
            for one in cause.get("services", ())
        ],
        "kpis": kpis,
        "changed": cause.get("changed", len(kpis)),
        "rows_before": cause.get("rows_before", 0),
        "first_headline": first.get("headline", ""),
        "first": sorted(dated, key=lambda kpi: (kpi["since"], kpi["order"])),
        "timeline": None if kept is None else timeline(incident, kept, [k["name"] for k in kpis[:MOST_KPIS]]),
        "verdicts": [told_verdict(one) for one in verdicts],
    }  # fmt: skip


def _kpi_rank(kpi: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "service", "metric", "unit", "text", "role", "direction", "strength", "order")
    return {**{name: kpi[name] for name in names}, "since": kpi.get("since_time")}


def rows_of(incident: Mapping[str, Any], view: View, margin: int) -> Evidence | None:
    """The rows around an incident from the living window; None if it begins before the window does."""
    frame, scores = view.frame, view.scores
    if frame is None or scores is None or not len(frame):
        return None
    start, end = start_of(incident), _end(incident) or int(frame.time_ns[-1])
    if start < frame.time_ns[0]:
        return None
    first = max(0, int(np.searchsorted(frame.time_ns, start)) - margin)
    last = int(np.searchsorted(frame.time_ns, end, "right")) + min(margin, MOST_MARGIN)
    rows = slice(first, min(last, len(frame)))
    expected = scores.expected
    if expected is None or scores.kpi_meta != frame.kpis:
        expected = np.full(frame.values.shape, np.nan, np.float32)
    return Evidence(frame.rows(rows), scores.system[rows], view.high[rows], expected[rows])


def timeline(incident: Mapping[str, Any], kept: Evidence, names: Sequence[str]) -> dict[str, Any]:
    """The incident's KPIs with their bands, from a little before it to a little after."""
    frame = kept.frame
    first = int(np.searchsorted(frame.time_ns, start_of(incident)))
    end = _end(incident)
    last = len(frame) if end is None else int(np.searchsorted(frame.time_ns, end, "right"))
    margin = int(np.clip(last - first, LEAST_MARGIN, MOST_MARGIN))
    rows = slice(max(0, first - margin), min(len(frame), last + margin))
    scores = Scores(
        frame.time_ns, kept.expected, kept.expected, kept.system, frame.kpis, frame.services, frame.step_s,
        expected=kept.expected,
    )  # fmt: skip
    where = {kpi.name: i for i, kpi in enumerate(frame.kpis)}
    calm = slice(max(0, first - BEFORE), first)
    count = rows.stop - rows.start
    keep = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))
    return {
        "times_ms": milliseconds(frame.time_ns[rows][keep]),
        "step_s": frame.step_s,
        "system": numbers(_tops(kept.system[rows].astype(float), keep)),
        "high": numbers(kept.high[rows][keep]),
        "kpis": [
            _series(frame, scores, where[name], rows, keep, calm) for name in names if name in where
        ],
    }  # fmt: skip


def _series(
    frame: Frame, scores: Scores | None, k: int, rows: slice, keep: np.ndarray, calm: slice | None = None
) -> dict[str, Any]:
    """One KPI at the rows that are drawn."""
    kpi, told = frame.kpis[k], band(frame, scores, k, rows, calm)
    return {
        "name": kpi.name, "service": kpi.service, "metric": kpi.metric or kpi.name, "unit": kpi.unit,
        "values": numbers(_tops(frame.values[rows, k], keep), 6),
        "expected": numbers(told.expected[keep], 6), "low": numbers(told.low[keep], 6),
        "high": numbers(told.high[keep], 6),
    }  # fmt: skip


def _tops(values: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """At each kept row the value farthest from the median since the row kept before: no peak is lost."""
    if len(keep) == len(values):
        return values
    seen = values[np.isfinite(values)]
    middle = float(np.median(seen)) if len(seen) else 0.0
    out = np.full(len(keep), np.nan)
    for i, (start, stop) in enumerate(zip([-1, *keep[:-1]], keep, strict=True)):
        piece = values[start + 1 : stop + 1]
        finite = piece[np.isfinite(piece)]
        if len(finite):
            out[i] = finite[np.abs(finite - middle).argmax()]
    return out


def series(view: View, name: str, since_ns: int, until_ns: int, points: int) -> dict[str, Any] | None:
    """One KPI of the window in a range; None if there is no such KPI."""
    frame = view.frame
    where = {} if frame is None else {kpi.name: i for i, kpi in enumerate(frame.kpis)}
    if frame is None or name not in where:
        return None
    first, last = np.searchsorted(frame.time_ns, [since_ns, until_ns + 1]).tolist()
    rows = slice(first, max(first, last))
    count = rows.stop - rows.start
    keep = np.unique(np.linspace(0, max(count - 1, 0), min(count, points)).round().astype(int))[:count]
    system = np.full(count, np.nan) if view.scores is None else view.scores.system[rows].astype(float)
    one = _series(frame, view.scores, where[name], rows, keep)
    return {
        "times_ms": milliseconds(frame.time_ns[rows][keep]), "step_s": frame.step_s,
        "system": numbers(_tops(system, keep)), "high": numbers(view.high[rows][keep]), "kpis": [one],
    }  # fmt: skip
