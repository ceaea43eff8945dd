"""An incident as a receiver is told of it: labels that stay, annotations in words, since when, a link back.

Not here: when it is sent (outbox), in which form (alertmanager, webhook).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

NAME = "ForeshockIncident"
OVER_BUDGET = "ForeshockOverBudget"
UNKNOWN = "unknown"
MOST_LINES = 8  # services and KPIs told in a description
LONGEST = 1_000  # characters of an annotation


@dataclass(frozen=True, slots=True)
class Alert:
    """What is sent. The labels name the alert: the same ones from its first message to its last."""

    labels: Mapping[str, str]  # alertname, severity, service, incident
    annotations: Mapping[str, str]  # summary, description and what else is known
    starts_at: float  # Unix seconds
    ends_at: float | None  # None while it lasts
    link: str  # to the incident's page
    incident: Mapping[str, Any] = field(default_factory=dict, repr=False)  # as the API tells it

    @property
    def status(self) -> str:
        return "firing" if self.ends_at is None else "resolved"


def alert_of(incident: Mapping[str, Any], link: str, severity: str = "", name: str = "") -> Alert:
    """The alert of an incident's JSON form.

    Args:
        severity: the label; the incident's own unless given.
        name: the label `incident`; the incident's own id unless given (a sequel keeps its first one's).
    """
    cause, event = incident["cause"], incident["event"]
    labels = {
        "alertname": NAME,
        "severity": severity or incident["severity"],
        "service": first_service(cause),
        "incident": name or incident["id"],
    }
    annotations = {
        "summary": cut(cause["headline"]),
        "description": cut(describe(incident)),
        "severity_now": incident["severity"],
        "confidence": f"{event['confidence']:.2f}",
        "fault_type": fault_type(incident),
        "found_at": event["detected_time"],
        "dashboard": link,
    }
    closed = incident["closed_ns"]
    ends = None if closed is None else closed / 1e9
    return Alert(labels, annotations, seconds(event["start_time"]), ends, link, incident)


def first_service(cause: Mapping[str, Any]) -> str:
    """The service that the incident is blamed on; `unknown` where none stands out."""
    if cause["is_known"] and cause["services"]:
        return str(cause["services"][0]["name"])
    return UNKNOWN


def fault_type(incident: Mapping[str, Any]) -> str:
    """`memory leak (0.74)`, `memory leak (0.74, learned from simulated systems)`, or `unknown`."""
    if not incident["kinds"]:
        return UNKNOWN
    name, probability = incident["kinds"][0]
    source = incident.get("kinds_from") or "labels"
    return (
        f"{name} ({probability:.2f})"
        if source == "labels"
        else f"{name} ({probability:.2f}, learned from {source})"
    )


def describe(incident: Mapping[str, Any]) -> str:
    """A few lines for the person who is woken: services ranked, and what their KPIs did."""
    cause, event = incident["cause"], incident["event"]
    lines = [f"Since {event['start_time']}, sure to {event['confidence']:.0%}."]
    if cause["services"]:
        ranked = [f"{s['name']} {s['confidence']:.0%}" for s in cause["services"][:MOST_LINES]]
        lines.append("Most likely: " + ", ".join(ranked) + _more(cause["services"]))
    lines += [f"- {k['service']}: {k['text']}" for k in cause["kpis"][:MOST_LINES]]
    return "\n".join(lines)


def summary_of(held: Sequence[Mapping[str, Any]], allowed: float, link: str, name: str) -> Alert:
    """One alert for all incidents beyond the budget; it ends when the last of them has."""
    worst = max(held, key=lambda i: ("info", "warning", "critical").index(i["severity"]))
    running = [i for i in held if i["closed_ns"] is None]
    plural = "" if len(held) == 1 else "s"
    text = f"{len(held)} more incident{plural} than the {allowed:g} a day that may page"
    lines = [f"- {i['event']['start_time']} {i['cause']['headline']}" for i in held[-MOST_LINES:]]
    ends = None if running else max(i["closed_ns"] for i in held) / 1e9
    return Alert(
        {"alertname": OVER_BUDGET, "severity": worst["severity"], "service": UNKNOWN, "incident": name},
        {"summary": text, "description": cut("\n".join(lines)), "dashboard": link},
        min(seconds(i["event"]["start_time"]) for i in held),
        ends,
        link,
        {"id": name, "incidents": [i["id"] for i in held]},
    )


def seconds(stamp: str) -> float:
    """Unix seconds of an ISO 8601 stamp in UTC."""
    return datetime.fromisoformat(stamp).timestamp()


def iso(at: float) -> str:
    """RFC 3339 in UTC, to the millisecond, as Alertmanager reads it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _more(items: Sequence[object]) -> str:
    return f" and {len(items) - MOST_LINES} more" if len(items) > MOST_LINES else ""
