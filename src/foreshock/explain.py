"""Where an event most likely comes from: which services and KPIs changed, by how much, since when.

Faults travel: callers of a broken service slow down, services behind it starve. So a change of a
service's own resources weighs more than its latency, its latency more than the time it waits for others,
and a symptom is told as a symptom. The answer may be "unknown".

Not here: finding the event (decide), naming the type of fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from foreshock.decide import Event, iso
from foreshock.frame import Frame, Kpi
from foreshock.scores import Scores

FEWEST_ROWS = 5  # quiet rows before the event; with fewer nothing can be said
STRONGEST = 5.0  # doublings beyond a KPI's own limit after which more is no stronger evidence
CLEAR = 0.5  # confidence from which an origin is named


@dataclass(frozen=True, slots=True)
class KpiFinding:
    """What one KPI did."""

    name: str
    service: str
    metric: str
    unit: str
    kind: str  # "resource", "shared", "latency", "waiting", "workload", "errors", "other"
    before: float  # median before the event
    limit: float  # the KPI's own limit on the side where it left
    during: float  # typical value in the event, from its onset on
    extreme: float  # farthest value in the event
    factor: float | None  # during / before; None where that has no meaning
    direction: str  # "up", "down"
    excess: float  # distance from `before` in units of the distance of the limit; above 1 is unusual
    strength: float  # 0..1
    since: int  # row of its onset: the first one beyond its own limit
    since_ns: int
    order: int  # 0 for the KPIs that changed first, 1 for the next ...
    role: str  # "origin" evidence, or "symptom"


@dataclass(frozen=True, slots=True)
class ServiceFinding:
    """How much speaks for a service as the origin."""

    name: str
    score: float  # 0..1, strength of the evidence
    confidence: float  # 0..1, share of the evidence that is its own
    since: int
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
    rows_before: int  # quiet rows that the event was compared with
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


_WORDS = {
    "errors": "error errors err fail failed failure failures success exception exceptions timeout timeouts "
    "retry retries dropped 4xx 5xx availability",
    "latency": "lat latency duration response rt p50 p75 p90 p95 p99 p999 percentile",
    "resource": "cpu mem memory rss heap gc disk io fs thread threads syscall net network rx tx bytes socket "
    "sockets fd fds pool swap load",
    "workload": "workload ops qps rps tps req requests request rate throughput calls count traffic volume",
}
_KNOWN = {name: frozenset(words.split()) for name, words in _WORDS.items()}
_WAITING = frozenset(("client", "src", "source", "outbound", "upstream", "egress"))
_SHARED = frozenset(("node", "host", "machine", "cluster"))
_LATENCY_UNITS = frozenset(("s", "ms", "us", "ns", "seconds", "milliseconds"))

# How far a change of each kind, upwards and downwards, points at its own service: 1 is the strongest.
_WEIGHT_UP = {"resource": 1.0, "latency": 0.6, "errors": 0.5, "other": 0.5, "workload": 0.3,
              "shared": 0.2, "waiting": 0.15}  # fmt: skip
_WEIGHT_DOWN = {"resource": 0.3, "latency": 0.1, "errors": 0.5, "other": 0.4, "workload": 0.2,
                "shared": 0.1, "waiting": 0.05}  # fmt: skip
_LINK_WEIGHT = 0.8


def kind(kpi: Kpi) -> str:
    """What a KPI measures, told softly from its metric's name and unit.

    Example:
        >>> kind(Kpi("cart__cpu_pct", "cart", "cpu_pct"))
        'resource'
        >>> kind(Kpi("cart__client_lat_p90_s", "cart", "client_lat_p90_s"))
        'waiting'
    """
    words = set(
        re.findall(r"[a-z]+\d*|\d+xx", re.sub(r"([a-z])([A-Z])", r"\1 \2", kpi.metric or kpi.name).lower())
    )
    found = next((name for name, known in _KNOWN.items() if words & known), "other")
    if found == "other" and kpi.unit.lower() in _LATENCY_UNITS:
        found = "latency"
    if found == "latency" and words & _WAITING:
        return "waiting"
    if found == "resource" and words & _SHARED:
        return "shared"
    return found


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
        scores: KPI scores add to the evidence where they exist; None or NaN is fine.
        context_rows: rows before the event to compare with; never later ones.
        others: other events; their rows are left out of the comparison.
        most_kpis: how many KPI findings to give back; `changed` counts all.

    Each KPI is measured against its own limit before the event: the median plus or minus the larger of
    four robust spreads and its usual extremes. Compare: BARO (Pham et al. 2024), which takes median and
    inter-quartile range and the largest deviation; we ask for a lasting one.
    """
    before = _rows_before(frame, event, context_rows, others)
    if len(before) < FEWEST_ROWS:
        words = (
            f"unknown: only {len(before)} quiet rows before the event; {FEWEST_ROWS} are needed to compare"
        )
        return Cause((), (), words, 0.0, len(before), 0)
    lead = max(0, event.start - _lead_rows(frame))
    window = slice(lead, max(event.end, event.start + 1))
    change = _measure(frame.values[before], frame.values[window], event.start - lead)
    strength = np.maximum(change.strength, _score_strength(frame, scores, before, window) * 0.5)
    kinds = [kind(k) for k in frame.kpis]
    findings = _kpi_findings(frame, change, strength, kinds, lead)
    services = _rank_services(frame, findings, kinds)
    return _conclude(frame, findings, services, len(before), most_kpis)


def _lead_rows(frame: Frame) -> int:
    """A KPI may move a little before the event is seen: two minutes, at least one row."""
    return max(1, round(120 / frame.step_s))


def _rows_before(frame: Frame, event: Event, context_rows: int, others: Iterable[Event]) -> np.ndarray:
    stop = max(0, event.start - _lead_rows(frame))
    start = max(0, stop - context_rows)
    free = np.ones(stop - start, dtype=bool)
    for other in others:
        if other.id != event.id or other.start != event.start:
            free[max(other.start - start, 0) : max(other.end - start, 0)] = False
    rows = start + np.flatnonzero(free)
    # Better a few rows of other events in the comparison than no comparison; medians bear it.
    return rows if len(rows) >= min(4 * FEWEST_ROWS, stop - start) else np.arange(start, stop)


@dataclass(frozen=True, slots=True)
class _Change:
    before: np.ndarray  # (K,)
    limit: np.ndarray  # (K,) on the side where it left
    during: np.ndarray  # (K,)
    extreme: np.ndarray  # (K,)
    excess: np.ndarray  # (K,) signed
    strength: np.ndarray  # (K,) 0..1
    since: np.ndarray  # (K,) row in the window


def _measure(before: np.ndarray, window: np.ndarray, lead: int) -> _Change:
    """How far each KPI left its own past; (N, K) rows before, (M, K) rows from `lead` before the event."""
    kpis = before.shape[1]
    seen = np.isfinite(before).sum(axis=0) >= FEWEST_ROWS
    safe = np.where(seen & np.ones_like(before, bool), before, 0.0)
    middle, low, high = np.nanquantile(safe, [0.5, 0.04, 0.96], axis=0)
    spread = 1.4826 * np.nanmedian(np.abs(safe - middle), axis=0)
    floor = np.maximum(0.05 * np.abs(middle), 0.02 * np.nanmax(np.abs(safe), axis=0))
    floor = np.where(floor > 0, floor, 1e-9)
    up = np.maximum.reduce([4 * spread, 1.5 * (high - middle), floor])
    down = np.maximum.reduce([4 * spread, 1.5 * (middle - low), floor])
    offset = window - middle
    excess = offset / np.where(offset >= 0, up, down)  # (M, K), signed, 1 at the limit
    excess = np.where(seen, excess, np.nan)
    inside = np.where(np.isfinite(excess[lead:]), excess[lead:], 0.0)
    observed = np.isfinite(excess[lead:]).any(axis=0)
    # Lasting, not momentary: the upper quartile of the rows on the side that is farther out.
    rise, fall = np.quantile(inside, [0.75, 0.25], axis=0)
    side = np.where(rise >= -fall, rise, fall)
    typical = np.where(np.abs(inside - side).min(axis=0) >= 0, side, side)
    beyond = np.where(np.isfinite(excess), excess * np.sign(typical), 0.0) > 1
    since = np.where(beyond.any(axis=0), beyond.argmax(axis=0), lead)
    width = np.where(typical >= 0, up, down)
    farthest = np.abs(np.where(np.isfinite(excess[lead:]), excess[lead:], 0.0)).argmax(axis=0)
    extreme = window[lead:][farthest, np.arange(kpis)]
    strength = np.clip(np.log2(np.maximum(np.abs(typical), 1.0)) / STRONGEST, 0.0, 1.0)
    return _Change(
        middle,
        middle + np.sign(typical) * width,
        middle + typical * width,
        extreme,
        typical,
        np.where(observed & seen, strength, 0.0),
        since,
    )


def _score_strength(frame: Frame, scores: Scores | None, before: np.ndarray, window: slice) -> np.ndarray:
    """(K,) 0..1: how far each KPI's score left its own past; 0 where there is no score."""
    out = np.zeros(len(frame.kpis))
    if scores is None or not len(scores) or scores.kpis.shape[1] == 0:
        return out
    where = {k.name: i for i, k in enumerate(scores.kpi_meta)}
    ours = [i for i, k in enumerate(frame.kpis) if k.name in where]
    theirs = [where[frame.kpis[i].name] for i in ours]
    past = scores.kpis[before][:, theirs].astype(float)
    now = scores.kpis[window][:, theirs].astype(float)
    enough = (np.isfinite(past).sum(axis=0) >= FEWEST_ROWS) & np.isfinite(now).any(axis=0)
    if not enough.any():
        return out
    usual, high = np.nanquantile(past[:, enough], [0.5, 0.96], axis=0)
    width = np.maximum(1.5 * (high - usual), 0.25 * np.abs(usual) + 1e-9)
    excess = (np.nanquantile(now[:, enough], 0.75, axis=0) - usual) / width
    out[np.array(ours)[enough]] = np.clip(np.log2(np.maximum(excess, 1.0)) / STRONGEST, 0.0, 1.0)
    return out


def _kpi_findings(
    frame: Frame, change: _Change, strength: np.ndarray, kinds: Sequence[str], lead: int
) -> list[KpiFinding]:
    rows = np.flatnonzero(strength > 0)
    rows = rows[np.argsort(-strength[rows], kind="stable")]
    onsets = {row: i for i, row in enumerate(sorted({int(change.since[k]) for k in rows}))}
    out = []
    for k in rows.tolist():
        kpi, before, during = frame.kpis[k], float(change.before[k]), float(change.during[k])
        since = lead + int(change.since[k])
        has_factor = before > 0 and during > 0
        out.append(
            KpiFinding(
                kpi.name,
                kpi.service,
                kpi.metric or kpi.name,
                kpi.unit,
                kinds[k],
                before,
                float(change.limit[k]),
                during,
                float(change.extreme[k]),
                during / before if has_factor else None,
                "up" if during >= before else "down",
                abs(float(change.excess[k])),
                float(strength[k]),
                since,
                int(frame.time_ns[since]),
                onsets[int(change.since[k])],
                "symptom",
            )
        )
    return out


def _links(services: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Services that are really a call between two others ("cart_payment"): caller and callee of each."""
    known = set(services)
    out = {}
    for name in known:
        for match in re.finditer(r"\s*(?:->|=>|__|[_|/>:~])\s*", name):
            ends = (name[: match.start()], name[match.end() :])
            if ends[0] in known and ends[1] in known:
                out[name] = ends
                break
    return out


def _rank_services(
    frame: Frame, findings: Sequence[KpiFinding], kinds: Sequence[str]
) -> list[ServiceFinding]:
    links = _links(frame.services)
    has_own: dict[str, bool] = {}
    for kpi, name in zip(frame.kpis, kinds, strict=True):
        has_own[kpi.service] = has_own.get(kpi.service, False) or name in ("resource", "other")
    some_have = any(has_own.values())
    by_service: dict[str, list[KpiFinding]] = {}
    for finding in findings:
        by_service.setdefault(finding.service, []).append(finding)
    link_share = _link_share(links, by_service)
    first_ns = min((f.since_ns for f in findings if f.strength > 0.2), default=0)
    out = []
    for service in frame.services:
        own = by_service.get(service, [])
        if service in links or not (own or link_share.get(service)):
            continue
        score = _own_evidence(own) + _LINK_WEIGHT * link_share.get(service, 0.0)
        if some_have and not has_own[service]:
            score *= 0.3  # it has no resources of its own here: a place where symptoms are seen
        since = min((f for f in own if f.strength > 0.2), key=lambda f: f.since_ns, default=None)
        since_row, since_ns = (since.since, since.since_ns) if since else (0, first_ns)
        score *= math.exp(-max(since_ns - first_ns, 0) / 600e9)
        out.append(
            ServiceFinding(service, score, 0.0, since_row, since_ns, tuple(f.name for f in own), _why(own))
        )
    return sorted(out, key=lambda s: -s.score)


def _own_evidence(findings: Sequence[KpiFinding]) -> float:
    """Evidence for a service from its own KPIs: the best of each kind, kinds added."""
    best: dict[str, float] = {}
    for f in findings:
        weight = (_WEIGHT_UP if f.direction == "up" else _WEIGHT_DOWN)[f.kind]
        best[f.kind] = max(best.get(f.kind, 0.0), weight * f.strength)
    waiting = best.get("waiting", 0.0) / _WEIGHT_UP["waiting"]
    if "latency" in best:  # slow because it waits for others: not its own slowness
        best["latency"] = max(best["latency"] - 0.5 * _WEIGHT_UP["latency"] * waiting, 0.2 * best["latency"])
    return sum(best.values())


def _link_share(
    links: dict[str, tuple[str, str]], by_service: dict[str, list[KpiFinding]]
) -> dict[str, float]:
    """How much of a service's calls, both ways, became slow: near 1 when all did, and there are several."""
    total: dict[str, float] = {}
    count: dict[str, int] = {}
    for name, ends in links.items():
        slow = max((f.strength for f in by_service.get(name, []) if f.direction == "up"), default=0.0)
        for service in ends:
            total[service] = total.get(service, 0.0) + slow
            count[service] = count.get(service, 0) + 1
    return {s: total[s] / (count[s] + 1) for s in total if total[s] > 0}


def _why(own: Sequence[KpiFinding]) -> str:
    if not own:
        return "the calls to and from it became slow"
    best = max(own, key=lambda f: (_WEIGHT_UP if f.direction == "up" else _WEIGHT_DOWN)[f.kind] * f.strength)
    return _phrase(best)


def _phrase(f: KpiFinding) -> str:
    return f"{f.metric} {_number(f.before, f.unit)} → {_number(f.during, f.unit)}"


def _number(value: float, unit: str) -> str:
    return f"{value:.3g}{' ' + unit if unit else ''}"


def _conclude(
    frame: Frame, findings: list[KpiFinding], services: list[ServiceFinding], rows_before: int, most: int
) -> Cause:
    changed = len(findings)
    if not services or services[0].score <= 0:
        return Cause(
            (),
            tuple(findings[:most]),
            "unknown: no KPI left its usual range for long",
            0.0,
            rows_before,
            changed,
        )
    first, second = services[0].score, services[1].score if len(services) > 1 else 0.0
    lead = first / (first + second) if first else 0.0  # 0.5 when two are alike
    sure = float(np.clip(2 * lead - 1 + 0.3, 0, 1) * min(first / 0.5, 1.0))
    total = sum(s.score for s in services)
    ranked = tuple(
        ServiceFinding(
            s.name,
            min(s.score, 1.0),
            sure if i == 0 else (1 - sure) * s.score / max(total - first, 1e-12),
            s.since,
            s.since_ns,
            s.kpis,
            s.why,
        )
        for i, s in enumerate(services)
    )
    best = ranked[0]
    top = tuple(
        KpiFinding(
            **{**asdict(f), "role": "origin" if f.service == best.name and sure >= CLEAR else "symptom"}
        )
        for f in findings[:most]
    )
    since = str(np.datetime64(best.since_ns, "ns"))[11:16]
    followed = changed - len(best.kpis)
    tail = f", {followed} other KPI{'s' if followed != 1 else ''} followed" if followed > 0 else ""
    if sure >= CLEAR:
        headline = f"{best.name}: {best.why} since {since}{tail}"
    else:
        names = " or ".join(s.name for s in ranked[:3])
        headline = f"unknown origin since {since}; {changed} KPIs changed, most in {names}"
    return Cause(ranked, top, headline, sure, rows_before, changed)
