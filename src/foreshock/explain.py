"""Where an event most likely comes from: which services and KPIs changed, by how much, since when.

Faults travel: callers of a broken service slow down, services behind it starve. So a change of a
service's own resources weighs more than its latency, its latency more than the time it waits for others,
and what is seen at a call between two services is shared out to both. A symptom is told as a symptom,
and the answer may be "unknown".

Not here: finding the event (decide), measuring a KPI's change (changes), naming the type of fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from foreshock.changes import FEWEST_ROWS, Changes, harmless_direction, kind, measure, score_strength
from foreshock.decide import Event, iso
from foreshock.frame import Frame, Kpi
from foreshock.scores import Scores

CALM_SHARE = 0.75  # of the rows before, by their score: incidents nobody told us about may be among them
CLEAR = 0.5  # confidence from which an origin is named
LEAD_S = 120.0  # a KPI may move so long before the event is seen
FADE_S = 600.0  # a service whose change comes so much later than the first one counts a third

# How far a change of each kind, upwards and downwards, points at its own service: 1 is the strongest.
WEIGHT_UP = {"resource": 1.0, "latency": 0.6, "errors": 0.5, "other": 0.5, "workload": 0.3,
             "shared": 0.2, "waiting": 0.15}  # fmt: skip
WEIGHT_DOWN = {"resource": 0.3, "latency": 0.3, "errors": 0.5, "other": 0.4, "workload": 0.2,
               "shared": 0.1, "waiting": 0.05}  # fmt: skip
HARMLESS = 0.2  # of its weight is left where a KPI moved the harmless way: fewer errors, shorter waits
LINK_WEIGHT = 0.8  # all calls of a service slow
BYSTANDER = 0.3  # of its evidence is left to a service that shows no resources of its own where others do


@dataclass(frozen=True, slots=True)
class KpiFinding:
    """What one KPI did."""

    name: str
    service: str
    metric: str
    unit: str
    kind: str  # "resource", "shared", "latency", "waiting", "workload", "errors", "other"
    before: float  # median of the calm rows before the event
    limit: float  # the KPI's own limit on the side where it left
    during: float  # typical value in the event; NaN where it went silent
    extreme: float  # farthest value in the event
    factor: float | None  # during / before; None where that has no meaning
    direction: str  # "up", "down", "gone"
    excess: float  # distance from `before` in units of the distance of the limit; above 1 is unusual
    strength: float  # 0..1
    since: int  # row of its onset: the first one beyond its own limit
    since_ns: int
    order: int  # 0 for the KPIs that changed first, 1 for the next ...
    role: str  # "origin" for evidence of the named origin, "symptom" for the rest, "unknown" without one
    text: str  # "CPU 1.1 % → 94 %"


@dataclass(frozen=True, slots=True)
class ServiceFinding:
    """How much speaks for a service as the origin."""

    name: str
    score: float  # 0..1, strength of the evidence
    confidence: float  # 0..1, how clearly it stands out; those of all services add up to 1 at most
    since: int  # row of its first clear change
    since_ns: int
    kpis: tuple[str, ...]  # its changed KPIs, strongest first
    why: str  # one clause


@dataclass(frozen=True, slots=True)
class Cause:
    """The most likely origin of an event, with its evidence. `services` is empty when nothing is known."""

    services: tuple[ServiceFinding, ...]  # best first
    kpis: tuple[KpiFinding, ...]  # strongest first
    headline: str
    confidence: float  # 0..1, of the first service; below 0.5 the headline says "unknown"
    rows_before: int  # calm rows that the event was compared with
    changed: int  # KPIs beyond their own limit

    @property
    def is_known(self) -> bool:
        return bool(self.services) and self.confidence >= CLEAR

    def to_dict(self) -> dict[str, object]:
        """JSON-safe: no NaN, times as ISO 8601 in UTC."""
        out = asdict(self) | {"is_known": self.is_known}
        for finding in (*out["services"], *out["kpis"]):
            finding["since_time"] = iso(finding.pop("since_ns"))
        safe = _json_safe(out)
        assert isinstance(safe, dict)
        return safe


def _json_safe(value: object) -> object:
    if isinstance(value, dict):
        return {k: _json_safe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def explain(
    frame: Frame,
    scores: Scores | None,
    event: Event,
    *,
    context_rows: int = 256,
    others: Iterable[Event] = (),
    most_kpis: int = 20,
) -> Cause:
    """Rank services and KPIs by how likely the event began with them.

    Args:
        scores: of the same rows. They tell calm rows from others, and changes of pattern that leave a
            KPI's level as it was. None or NaN is fine.
        context_rows: rows before the event to compare with; later ones are never read.
        others: other events; their rows, and two minutes after each, are left out of the comparison.
        most_kpis: how many KPI findings to give back; `changed` counts all.

    Measured on the 24 labelled faults of Nezha's Online Boutique, told the rows of each: right service
    first in 20 (BARO's scorer: 4), and no wrong one named with confidence; the others lie in the first
    hour, where there is too little calm before them.
    """
    before = _calm(scores, _rows_before(frame, event, context_rows, others))
    if len(before) < FEWEST_ROWS:
        words = f"unknown: only {len(before)} calm rows before the event; comparing needs {FEWEST_ROWS}"
        return Cause((), (), words, 0.0, len(before), 0)
    lead = min(event.start, _lead_rows(frame))
    window = slice(event.start - lead, max(event.end, event.start + 1))
    kinds = [kind(k) for k in frame.kpis]
    changes = measure(frame.values[before], frame.values[window], lead, kinds)
    strength = np.maximum(changes.strength, score_strength(frame, scores, before, window))
    findings = _kpi_findings(frame, changes, strength, kinds, window.start)
    services = _rank_services(frame, findings, kinds, event)
    return _conclude(findings, services, len(before), most_kpis, frame.step_s)


def _lead_rows(frame: Frame) -> int:
    return max(1, round(LEAD_S / frame.step_s))


def _rows_before(frame: Frame, event: Event, context_rows: int, others: Iterable[Event]) -> np.ndarray:
    lead = _lead_rows(frame)
    stop = max(0, event.start - lead)
    start = max(0, stop - context_rows)
    free = np.ones(stop - start, dtype=bool)
    for other in others:
        if other.start != event.start:
            free[max(other.start - start, 0) : max(other.end + lead - start, 0)] = False
    rows = start + np.flatnonzero(free)
    # Better a comparison with rows of other events than none; medians bear it.
    return rows if len(rows) >= FEWEST_ROWS else np.arange(start, stop)


def _calm(scores: Scores | None, rows: np.ndarray) -> np.ndarray:
    """The calmer part of some rows."""
    if scores is None or len(rows) < 4 * FEWEST_ROWS or len(scores) <= rows[-1]:
        return rows
    system = scores.system[rows].astype(float)
    told = np.isfinite(system) & (system > 0)
    if not told.any():
        return rows
    return np.asarray(rows[~told | (system <= np.quantile(system[told], CALM_SHARE))])


def _kpi_findings(
    frame: Frame, changes: Changes, strength: np.ndarray, kinds: Sequence[str], first: int
) -> list[KpiFinding]:
    """The KPIs that changed, strongest first; `first` is the row of the window's first row."""
    changed = np.flatnonzero(strength > 0)
    changed = changed[np.argsort(-strength[changed], kind="stable")]
    order = {since: i for i, since in enumerate(sorted({int(changes.since[k]) for k in changed}))}
    out = []
    for k in changed.tolist():
        kpi, before, during = frame.kpis[k], float(changes.before[k]), float(changes.during[k])
        since = first + int(changes.since[k])
        direction = "gone" if changes.is_gone[k] else "up" if changes.excess[k] >= 0 else "down"
        factor = during / before if before > 0 and during > 0 else None
        out.append(
            KpiFinding(
                name=kpi.name,
                service=kpi.service,
                metric=kpi.metric or kpi.name,
                unit=kpi.unit,
                kind=kinds[k],
                before=before,
                limit=float(changes.limit[k]),
                during=during,
                extreme=float(changes.extreme[k]),
                factor=factor,
                direction=direction,
                excess=abs(float(changes.excess[k])),
                strength=float(strength[k]),
                since=since,
                since_ns=int(frame.time_ns[since]),
                order=order[int(changes.since[k])],
                role="unknown",
                text=_text(kpi, before, during, abs(float(changes.excess[k])) > 1 or direction == "gone"),
            )
        )
    return out


# --- which service -----------------------------------------------------------------------------------


def _weight(finding: KpiFinding) -> float:
    """How far this change points at its own service, 0..1, whatever its strength."""
    weights = WEIGHT_UP if finding.direction == "up" else WEIGHT_DOWN
    harmless = finding.direction == harmless_direction(
        Kpi(finding.name, finding.service, finding.metric, finding.unit)
    )
    return weights[finding.kind] * (HARMLESS if harmless else 1.0)


def links_of(kpis: Iterable[Kpi]) -> dict[str, tuple[str, str]]:
    """KPI name → (caller, callee) for KPIs of a call between two services.

    Told by the metric ("src_p50 of calls from frontend") or by a service that joins two others'
    names ("frontend_cart", "frontend->cart").
    """
    kpis = list(kpis)
    known = {k.service for k in kpis}
    ends: dict[str, tuple[str, str] | None] = {}
    out = {}
    for kpi in kpis:
        caller = kpi.metric.rpartition(" of calls from ")[2] if " of calls from " in kpi.metric else ""
        if caller in known:
            out[kpi.name] = (caller, kpi.service)
            continue
        if kpi.service not in ends:
            ends[kpi.service] = _ends(kpi.service, known)
        if (found := ends[kpi.service]) is not None:
            out[kpi.name] = found
    return out


def _ends(name: str, known: set[str]) -> tuple[str, str] | None:
    for match in re.finditer(r"\s*(?:->|=>|→|__|[_|/>:~])\s*", name):
        caller, callee = name[: match.start()], name[match.end() :]
        if caller in known and callee in known and name not in (caller, callee):
            return caller, callee
    return None


def _rank_services(
    frame: Frame, findings: Sequence[KpiFinding], kinds: Sequence[str], event: Event
) -> list[ServiceFinding]:
    links = links_of(frame.kpis)
    has_resources: dict[str, bool] = {}
    for kpi, name in zip(frame.kpis, kinds, strict=True):
        if kpi.name not in links:
            has_resources[kpi.service] = has_resources.get(kpi.service, False) or name == "resource"
    own: dict[str, list[KpiFinding]] = {}
    for finding in findings:
        if finding.name not in links:
            own.setdefault(finding.service, []).append(finding)
    slow = _slow_calls(links, findings)
    clear = [f.since_ns for f in findings if f.strength > 0.2]
    first_ns = min(clear, default=event.start_ns)
    out = []
    for service, shows_resources in has_resources.items():
        mine, calls = own.get(service, []), slow.get(service, (0.0, event.start, event.start_ns))
        score = _own_evidence(mine) + LINK_WEIGHT * calls[0]
        if score <= 0:
            continue
        if any(has_resources.values()) and not shows_resources:
            score *= BYSTANDER
        best = max((f.strength * _weight(f) for f in mine), default=0.0)
        onsets = [(f.since, f.since_ns) for f in mine if f.strength * _weight(f) >= 0.5 * best]
        since, since_ns = min(onsets, default=calls[1:])
        score *= math.exp(-max(since_ns - first_ns, 0) / (FADE_S * 1e9))
        out.append(
            ServiceFinding(
                service, score, 0.0, since, since_ns, tuple(f.name for f in mine), _why(mine, calls)
            )
        )
    return sorted(out, key=lambda s: -s.score)


def _own_evidence(findings: Sequence[KpiFinding]) -> float:
    """Evidence for a service from its own KPIs: the best of each kind, kinds added."""
    best: dict[str, float] = {}
    waits = 0.0
    for f in findings:
        best[f.kind] = max(best.get(f.kind, 0.0), _weight(f) * f.strength)
        if f.kind == "waiting" and f.direction == "up":
            waits = max(waits, f.strength)
    if "latency" in best:  # slow because it waits for others: not its own slowness
        best["latency"] = max(best["latency"] - 0.5 * WEIGHT_UP["latency"] * waits, 0.2 * best["latency"])
    return sum(best.values())


def _slow_calls(
    links: Mapping[str, tuple[str, str]], findings: Sequence[KpiFinding]
) -> dict[str, tuple[float, int, int]]:
    """Service → share of its calls, both ways, that became slow, and the first such row and stamp.

    The share is near 1 when all are slow and there are several. A service that only one slow call
    touches keeps a small share: the other end is to blame.
    """
    slow: dict[tuple[str, str], KpiFinding] = {}
    for f in findings:
        pair = links.get(f.name)
        if pair and f.direction == "up" and (pair not in slow or f.strength > slow[pair].strength):
            slow[pair] = f
    calls: dict[str, list[KpiFinding | None]] = {}
    for pair in sorted(set(links.values())):
        for service in pair:
            calls.setdefault(service, []).append(slow.get(pair))
    out = {}
    for service, seen in calls.items():
        told = [f for f in seen if f is not None]
        if told:
            first = min(told, key=lambda f: f.since)
            out[service] = (sum(f.strength for f in told) / (len(seen) + 1), first.since, first.since_ns)
    return out


def _why(own: Sequence[KpiFinding], calls: tuple[float, int, int]) -> str:
    def says_most(f: KpiFinding) -> tuple[float, bool]:
        return round(_weight(f) * f.strength * (1 if f.excess > 1 else 0.1), 3), f.unit == "%"

    best = max(own, key=says_most, default=None)
    if best is None or LINK_WEIGHT * calls[0] > 2 * _weight(best) * best.strength:
        return "calls to and from it slow"
    return best.text


# --- words -------------------------------------------------------------------------------------------


def _conclude(
    findings: list[KpiFinding], services: list[ServiceFinding], rows_before: int, most: int, step_s: float
) -> Cause:
    changed = len(findings)
    if not services:
        words = "unknown: no KPI left its usual range for long"
        return Cause((), tuple(findings[:most]), words, 0.0, rows_before, changed)
    sure = _confidence([s.score for s in services])
    best = services[0]
    rest = sum(s.score for s in services[1:])
    ranked = tuple(
        replace(s, score=min(s.score, 1.0), confidence=sure if s is best else (1 - sure) * s.score / rest)
        for s in services
    )
    told = sure >= CLEAR
    kpis = tuple(replace(f, role=_role(f, best.name if told else None)) for f in findings[:most])
    since = str(np.datetime64(best.since_ns, "ns"))[11 : 16 if step_s >= 60 else 19]
    if told:
        after = sum(f.since >= best.since for f in findings if f.name not in best.kpis)
        tail = f", {_count(after, 'other KPI')} followed" if after else ""
        return Cause(ranked, kpis, f"{best.name}: {best.why} since {since}{tail}", sure, rows_before, changed)
    names = " or ".join(s.name for s in ranked[:3])
    headline = f"unknown origin since {since}: {_count(changed, 'KPI')} changed, most in {names}"
    return Cause(ranked, kpis, headline, sure, rows_before, changed)


def _confidence(evidence: Sequence[float]) -> float:
    """How clearly the first service stands out: its lead over the second, and enough evidence at all.

    Half as much again as the second, and the evidence of a lasting change of a resource beyond five
    times its limit, give 0.5.
    """
    first, second = evidence[0], evidence[1] if len(evidence) > 1 else 0.0
    lead = (first - second) / (first + second)
    return float(np.clip(lead + 0.3, 0.0, 1.0) * min(first / 0.5, 1.0) * 0.99)


def _role(finding: KpiFinding, origin: str | None) -> str:
    if origin is None:
        return "unknown"
    return "origin" if finding.service == origin and finding.kind != "waiting" else "symptom"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


_UNITS = "pct percent s sec seconds ms us ns m mi mib mb gi gib gb bytes ops"
_UNIT_WORDS = frozenset(_UNITS.split())
_SPOKEN = {"cpu": "CPU", "mem": "memory", "lat": "latency", "net": "network", "gc": "GC", "io": "I/O"}
_STEPS = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "MiB": ((1024, "GiB"), (1, "MiB")),
    "millicores": ((1000, "cores"), (1, "millicores")),
}


def _text(kpi: Kpi, before: float, during: float, has_moved: bool) -> str:
    """`CPU 1.1 % → 94 %`."""
    metric, of, caller = (kpi.metric or kpi.name).partition(" of calls from ")
    words = [w for w in re.split(r"[\s_./:]+", metric) if w]
    if kpi.unit and len(words) > 1 and words[-1].lower() in _UNIT_WORDS:
        words = words[:-1]
    name = " ".join(_SPOKEN.get(w.lower(), w) for w in words) + of + caller
    if not has_moved:
        return f"{name} in an unusual pattern around {_number(before, kpi.unit)}"
    if not math.isfinite(during):
        return f"{name} no longer reported"
    return f"{name} {_number(before, kpi.unit)} → {_number(during, kpi.unit)}"


def _number(value: float, unit: str) -> str:
    for size, name in _STEPS.get(unit, ()):
        if abs(value) >= size:
            return f"{_digits(value / size)} {name}"
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    """Two to three digits that matter, no exponent where people would not write one."""
    if value == 0 or not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2g}"
    places = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"
