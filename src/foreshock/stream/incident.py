"""One thing that went wrong, from its first row to its last, under a name that outlasts the process."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from foreshock.decide import Event, iso
from foreshock.findings import Cause
from foreshock.scores import SURE

LATEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Incident:
    """An event with what was found out about it."""

    id: str  # such as "2026-11-26T10-45-12Z", when it began
    event: Event  # its rows are counted from the monitor's first one; see Monitor.rows_of
    cause: Cause
    first_cause: Mapping[str, Any]  # Cause.to_dict() as it was told when found
    kinds: tuple[tuple[str, float], ...]  # likely fault types with their chance, best first; () is unknown
    severity: str  # "info", "warning", "critical"; only rises
    found_ns: int  # stamp of the row at which it was found
    closed_ns: int | None  # stamp of the row at which it was known to be over; None while it runs
    kinds_from: str = ""  # who taught the kinds: "labels", or "simulated systems"

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, times as ISO 8601 in UTC and `_ns` as numbers."""
        return {
            "id": self.id,
            "severity": self.severity,
            "state": "open" if self.closed_ns is None else "closed",
            "found_ns": self.found_ns,
            "found_time": iso(self.found_ns),
            "closed_ns": self.closed_ns,
            "closed_time": iso(self.closed_ns),
            "kinds": [[name, chance] for name, chance in self.kinds],
            "kinds_from": self.kinds_from,
            "event": _safe(self.event.to_dict()),
            "cause": self.cause.to_dict(),
            "first_cause": dict(self.first_cause),
        }


@dataclass(frozen=True, slots=True)
class Change:
    """What the last rows changed."""

    kind: Literal["opened", "updated", "closed"]
    incident: Incident


@dataclass(frozen=True, slots=True)
class Known:
    """What an earlier process told of an incident."""

    id: str
    start_ns: int
    closed_ns: int | None
    found_ns: int
    severity: str
    first_cause: Mapping[str, Any]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Known:
        """From `Incident.to_dict`."""
        start = np.datetime64(str(told["event"]["start_time"]).rstrip("Z"), "ns").astype(np.int64)
        return cls(
            told["id"], int(start), told["closed_ns"], told["found_ns"], told["severity"], told["first_cause"]
        )

    @classmethod
    def now(cls, incident: Incident) -> Known:
        """An incident of this process, before its scores are made anew."""
        i = incident
        return cls(i.id, i.event.start_ns, i.closed_ns, i.found_ns, i.severity, i.first_cause)

    def apart_ns(self, incident: Incident) -> int:
        """How far the two lie apart in time; 0 where they overlap."""
        stop, end = self.closed_ns or LATEST, incident.closed_ns or LATEST
        return max(0, incident.event.start_ns - stop, self.start_ns - end)


def matched(found: Sequence[Incident], told: Sequence[Known], slack_ns: int) -> dict[str, Known]:
    """Which incident was told under which name: each once, those that overlap and begin closest first.

    Args:
        slack_ns: what lies further apart is not the same.
    """
    pairs = sorted(
        (apart, abs(known.start_ns - incident.event.start_ns), i, k)
        for i, incident in enumerate(found)
        for k, known in enumerate(told)
        if (apart := known.apart_ns(incident)) <= slack_ns
    )
    out: dict[str, Known] = {}
    used: set[int] = set()
    for _, _, i, k in pairs:
        if found[i].id not in out and k not in used:
            out[found[i].id] = told[k]
            used.add(k)
    return out


def ended(told: Mapping[str, Any], at_ns: int) -> dict[str, Any]:
    """An open incident as `Incident.to_dict` gave it, closed: nothing of it is seen any more."""
    event = {**told["event"], "is_open": False, "end_time": told["event"]["end_time"] or iso(at_ns)}
    return {**told, "event": event, "state": "closed", "closed_ns": at_ns, "closed_time": iso(at_ns)}


def name_of(start_ns: int, taken: Container[str]) -> str:
    """A name for an incident that began then.

    Example:
        >>> name_of(0, {"1970-01-01T00-00-00Z"})
        '1970-01-01T00-00-00Z-2'
    """
    name = base = str(iso(start_ns)).replace(":", "-")
    number = 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def likely_kinds(kinds: np.ndarray | None, names: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """Fault types by their mean chance over an incident's rows (n, C), best first; () if none is SURE."""
    if kinds is None or not names or not np.isfinite(kinds).any(0).all():
        return ()
    chances = np.nanmean(kinds, axis=0)
    order = np.argsort(-chances, kind="stable")
    if chances[order[0]] < SURE:
        return ()
    return tuple((names[i], round(float(chances[i]), 4)) for i in order.tolist())


def reopened(incident: Incident, known: Known, severity: str) -> Incident:
    """An incident under the name it already had."""
    return replace(
        incident, id=known.id, found_ns=known.found_ns, first_cause=known.first_cause, severity=severity
    )


def _safe(values: Mapping[str, Any]) -> dict[str, Any]:
    return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in values.items()}
