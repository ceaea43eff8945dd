"""The incident cards: since when, where from, what changed first, how sure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from foreshock import plots
from foreshock.decide import Event
from foreshock.explain import Cause, KpiFinding
from foreshock.plots import quantity
from foreshock.report.source import Source, clock, duration, more, share
from foreshock.scores import UNKNOWN

MOST_CARDS = 200  # incidents told one by one
MOST_PICTURED = 12  # of these, with pictures of their KPIs
MOST_PANELS = 6  # KPIs drawn for an incident
MOST_KPIS = 12  # KPIs listed for an incident
OPEN_ALL = 2  # up to so many incidents are shown unfolded, else the strongest one
ROLES = {"origin": ("the origin's own", "origin"), "symptom": ("symptom", "")}  # words and style


def cards(source: Source) -> list[dict[str, Any]]:
    """The strongest MOST_CARDS incidents, in time order."""
    events = source.events
    strongest = sorted(range(len(events)), key=lambda i: (-_weight(events[i], source.causes[i]), i))
    shown = sorted(strongest[:MOST_CARDS])
    pictured = set(strongest[:MOST_PICTURED])
    unfolded = set(strongest if len(events) <= OPEN_ALL else strongest[:1])
    return [_card(source, i, i in pictured, i in unfolded) for i in shown]


def _weight(event: Event, cause: Cause) -> float:
    """How much an incident deserves the first look: sure, high, long, and with an origin to act on."""
    height = event.peak_score / event.threshold if event.threshold > 0 else 1.0
    strength = event.confidence * min(height, 100.0) * float(np.log1p(event.rows_high))
    return strength * (2 if cause.is_known else 1)


def _noticed(source: Source, event: Event) -> list[tuple[str, str]]:
    """When it was noticed; rows that later ones helped to judge tell nothing of that."""
    if event.detected < source.scores.rows_in_hindsight:
        return []
    return [("Noticed", f"{clock(source, event.detected_ns)}, {after(event.detected_ns - event.start_ns)}")]


def _card(source: Source, place: int, is_pictured: bool, is_open: bool) -> dict[str, Any]:
    event, cause = source.events[place], source.causes[place]
    step_ns = source.frame.step_s * 1e9
    last_ns = int(source.frame.time_ns[event.end - 1])
    lasted = duration((last_ns - event.start_ns + step_ns) / 1e9)
    since, until = clock(source, event.start_ns), clock(source, last_ns)
    state = f"still running after {lasted}" if event.is_open else f"lasted {lasted}"
    facts = [
        ("Since", since),
        ("Until", "still running" if event.is_open else until),
        *_noticed(source, event),
        ("Highest score", f"{event.peak_score:.3g} at {clock(source, event.peak_ns)}"),
        ("Threshold then", f"{event.threshold:.3g}"),
    ]
    if event.sequel_of is not None:
        facts.append(("Soon after", f"incident {event.sequel_of + 1}"))
    named = source.kinds[place] if source.kinds else {}
    if named:
        facts.append(("Kind of fault", kind_of_fault(named)))
    findings = _listed(cause)
    panels = _panels(source, place) if is_pictured else []
    return {
        "number": place + 1,
        "is_open": is_open,
        "is_known": cause.is_known,
        "origin": origin(cause),
        "when": f"since {since}, {state}",
        "change": cause.services[0].why if cause.services else "",
        "sure": share(event.confidence),
        "headline": _headline(cause),
        "facts": facts,
        "services_title": "Most likely origin" if cause.is_known else "Where it may come from",
        "services": [
            {"name": s.name, "percent": round(100 * s.confidence), "why": s.why}
            for s in cause.services[:3]
            if s is cause.services[0] or s.confidence >= 0.01
        ],
        "kind_from": f"The kind of fault was learned from {named['fault_type_from']}."
        if named.get("fault_type_from")
        else "",
        "kpis": [_kpi_row(event, f) for f in findings],
        "has_roles": any(f.role in ROLES for f in findings),
        "more_kpis": more(max(cause.changed, len(findings)), len(findings), "KPI") if findings else "",
        "panels": panels,
        "has_expected": any(p["has_expected"] for p in panels),
    }


def _headline(cause: Cause) -> str:
    """The cause in one sentence; a service's name keeps its first letter as it is."""
    starts_with_name = any(cause.headline.startswith(s.name) for s in cause.services)
    return cause.headline if starts_with_name else cause.headline[:1].upper() + cause.headline[1:]


def origin(cause: Cause) -> str:
    if cause.is_known:
        return cause.services[0].name
    names = [s.name for s in cause.services[:3]]
    if not names:
        return "Origin unknown"
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return f"Origin unclear: {listed}"


def kind_of_fault(named: Mapping[str, Any]) -> str:
    """In words.

    Example:
        >>> kind_of_fault({"fault_type": "memory_leak", "fault_chance": 0.87})
        'memory leak, 87 %'
        >>> kind_of_fault({"fault_type": "unknown", "fault_chance": 0.3})
        'unknown'
    """
    name = str(named["fault_type"]).replace("_", " ")
    chance = named.get("fault_chance")
    return name if chance is None or name == UNKNOWN else f"{name}, {share(chance)}"


def after(delay_ns: float) -> str:
    return "at once" if delay_ns <= 0 else f"after {duration(delay_ns / 1e9)}"


def _listed(cause: Cause) -> list[KpiFinding]:
    """The origin's own KPIs and the strongest others, in the order in which they changed."""
    return sorted(_clear(cause, 3)[:MOST_KPIS], key=lambda f: (f.since_ns, f.role != "origin", -f.strength))


def _clear(cause: Cause, least: int) -> list[KpiFinding]:
    """KPIs beyond their own limit, the origin's own first, then by strength."""
    clear = [f for f in cause.kpis if f.excess > 1 or f.direction == "gone"] or cause.kpis[:least]
    return sorted(clear, key=lambda f: (f.role != "origin", -f.strength))


def _drawn(cause: Cause) -> list[KpiFinding]:
    """Which KPIs get a picture: of each service the best of each kind first, p90, p95 and p99 look alike."""
    clear = _clear(cause, 2)
    best = {(f.service, f.kind): f for f in reversed(clear)}
    distinct = [f for f in clear if best[f.service, f.kind] is f]
    return (distinct + [f for f in clear if best[f.service, f.kind] is not f])[:MOST_PANELS]


def _kpi_row(event: Event, finding: KpiFinding) -> dict[str, str]:
    delta_s = (finding.since_ns - event.start_ns) / 1e9
    sign = "+" if delta_s >= 0 else "−"
    role, css = ROLES.get(finding.role, ("", ""))
    during = "silent" if finding.direction == "gone" else quantity(finding.during, finding.unit)
    return {
        "when": f"{sign}{duration(abs(delta_s))}",
        "service": finding.service,
        "metric": finding.metric,
        "before": quantity(finding.before, finding.unit),
        "during": during,
        "factor": "" if finding.factor is None else f"×{_factor(finding.factor)}",
        "role": role,
        "role_class": css,
    }


def _factor(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def _panels(source: Source, place: int) -> list[dict[str, Any]]:
    """Pictures of the incident's clearest KPIs."""
    from markupsafe import Markup

    event, cause = source.events[place], source.causes[place]
    rows = _around(source, event)
    columns = {name: k for k, name in enumerate(source.frame.names)}
    found = []
    for number, finding in enumerate(_drawn(cause)):
        k = columns[finding.name]
        expected, spread = _expected(source, k, event, rows)
        row = _kpi_row(event, finding)
        change = f"{row['before']} → {row['during']}"
        time = source.frame.time
        figure = plots.kpi_panel(
            time[rows],
            source.frame.values[rows, k],
            expected=expected,
            spread=spread,
            during=(
                time[event.start],
                time[event.end - 1] + np.timedelta64(int(source.frame.step_s * 1e9), "ns"),
            ),
            onset=np.datetime64(finding.since_ns, "ns"),
            unit=finding.unit,
        )
        described = f"{finding.service} {finding.metric} around incident {place + 1}: {change}"
        svg = plots.to_svg(figure, f"i{place + 1}k{number}", described=described)
        found.append(
            {
                "service": finding.service,
                "metric": finding.metric,
                "change": change,
                "svg": Markup(svg),  # made by plots, which escapes what it writes
                "has_expected": expected is not None,
            }
        )
    return found


def _around(source: Source, event: Event) -> slice:
    """The rows of a panel: the incident, twice its length before, once after; an hour at least."""
    hour = round(3600 / source.frame.step_s)
    least = min(max(hour, 30), 240)
    length = event.end - event.start
    return slice(max(0, event.start - max(2 * length, least)), event.end + max(length, least // 2))


def _expected(source: Source, k: int, event: Event, rows: slice) -> tuple[np.ndarray | None, float]:
    """What the detector expected of a KPI, and how far off it usually is: nine in ten errors before."""
    expected = source.scores.expected
    if expected is None or not np.isfinite(expected[rows, k]).any():
        return None, 0.0
    before = slice(max(0, event.start - 512), event.start)
    error = np.abs(source.frame.values[before, k] - expected[before, k])
    error = error[np.isfinite(error)]
    return expected[rows, k].astype(float), float(np.quantile(error, 0.9)) if len(error) else 0.0
