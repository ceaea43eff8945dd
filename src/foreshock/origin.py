"""Which service an event began with, judged by how faults travel.

Callers of a broken service slow down, services behind it starve. So a change of a service's own
resources weighs more than its latency, its latency more than the time it waits for others, and a slow
call between two services is shared out to both: the one all of whose calls are slow is to blame.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from foreshock.changes import Changes, harmless_direction, words
from foreshock.decide import Event
from foreshock.findings import KpiFinding, ServiceFinding
from foreshock.frame import Frame, Kpi

FADE_S = 600.0  # a service whose change comes so much later than the first one counts a third
# How far a change of each kind, upwards and downwards, points at its own service: 1 is the strongest.
WEIGHT_UP = {"resource": 1.0, "latency": 0.6, "errors": 0.5, "other": 0.5, "workload": 0.3,
             "shared": 0.2, "waiting": 0.15}  # fmt: skip
WEIGHT_DOWN = {"resource": 0.3, "latency": 0.3, "errors": 0.5, "other": 0.4, "workload": 0.2,
               "shared": 0.1, "waiting": 0.05}  # fmt: skip
HARMLESS = 0.2  # of its weight is left where a KPI moved the harmless way: fewer errors, shorter waits
FALLEN_MEMORY = 0.8  # memory does not fall because nobody calls: the service has started afresh
LINK_WEIGHT = 0.8  # all calls of a service slow
BYSTANDER = 0.3  # of its evidence is left to a service that shows no resources of its own where others do


MEMORY = frozenset(("mem", "memory", "rss", "heap"))
BYTES = frozenset(("net", "network", "rx", "tx", "bytes", "packets"))


def _weight(finding: KpiFinding) -> float:
    """How far this change points at its own service, 0..1, whatever its strength."""
    kpi = Kpi(finding.name, finding.service, finding.metric, finding.unit)
    if finding.direction != "up" and finding.kind == "resource" and words(kpi) & MEMORY:
        return FALLEN_MEMORY
    weights = WEIGHT_UP if finding.direction == "up" else WEIGHT_DOWN
    return weights[finding.kind] * (HARMLESS if finding.direction == harmless_direction(kpi) else 1.0)


def like_with_like(findings: list[KpiFinding]) -> list[KpiFinding]:
    """Compare errors of services by size: an error share is thinned out on its way up to the callers."""
    most: dict[str, tuple[float, float]] = {}
    for f in findings:
        if f.kind == "errors" and f.direction != "gone":
            strength, size = most.get(f.metric, (0.0, 0.0))
            most[f.metric] = max(strength, f.strength), max(size, abs(f.during - f.before))
    out = []
    for f in findings:
        strength, size = most.get(f.metric, (0.0, 0.0)) if f.kind == "errors" else (0.0, 0.0)
        share = abs(f.during - f.before) / size if size > 0 else math.nan
        out.append(replace(f, strength=strength * share) if math.isfinite(share) else f)
    return sorted(out, key=lambda f: -f.strength)


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


def rank_services(
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
    slow, waits = _slow_calls(links, findings), _waits(links, findings)
    clear = [f.since_ns for f in findings if f.strength > 0.2]
    first_ns = min(clear, default=event.start_ns)
    out = []
    for service, shows_resources in has_resources.items():
        mine, calls = own.get(service, []), slow.get(service, (0.0, event.start, event.start_ns))
        score = _own_evidence(mine, waits.get(service, 0.0)) + LINK_WEIGHT * calls[0]
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


def _own_evidence(findings: Sequence[KpiFinding], waits: float) -> float:
    """Evidence for a service from its own KPIs: the best of each kind, kinds added.

    `waits`: how slow the calls that it makes have become, 0..1.
    """
    best: dict[str, float] = {}
    calls = max(
        (f.factor or 1.0 for f in findings if f.kind == "workload" and f.direction == "up"), default=1.0
    )
    for f in findings:
        evidence = _weight(f) * f.strength
        if f.kind == "resource" and f.direction == "up" and calls > 1 and (f.factor or 0) > 1:
            # More calls cost more: only what they don't explain counts.
            evidence *= max(0.0, 1 - math.log(calls) / math.log(f.factor or 1))
        best[f.kind] = max(best.get(f.kind, 0.0), evidence)
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


def _waits(links: Mapping[str, tuple[str, str]], findings: Sequence[KpiFinding]) -> dict[str, float]:
    """Service → 0..1, how slow the calls that it makes have become."""
    out: dict[str, float] = {}
    for f in findings:
        if f.direction == "up" and f.name in links:
            caller = links[f.name][0]
            out[caller] = max(out.get(caller, 0.0), f.strength)
    return out


def _why(own: Sequence[KpiFinding], calls: tuple[float, int, int]) -> str:
    def says_most(f: KpiFinding) -> tuple[float, bool]:
        return round(_weight(f) * f.strength * (1 if f.excess > 1 else 0.1), 3), f.unit == "%"

    best = max(own, key=says_most, default=None)
    if best is None or LINK_WEIGHT * calls[0] > 2 * _weight(best) * best.strength:
        return "calls to and from it slow"
    return best.text


def is_own(service: str, frame: Frame, findings: Sequence[KpiFinding], kinds: Sequence[str]) -> bool:
    """Whether something tells that the trouble is the service's own, not that of what it calls.

    Its resources changed, or all its calls are slow, or it shows how long it waits for others and does
    not wait longer. Latencies and errors alone travel up from anywhere.
    """
    links = links_of(frame.kpis)
    slow = _slow_calls(links, findings)
    mine = [f for f in findings if f.service == service and f.name not in links]
    if service not in slow and not any(f.excess > 1 or f.direction == "gone" for f in mine):
        return False  # odd scores, but no value left its usual range
    own = max((_weight(f) * f.strength for f in mine if f.kind in ("resource", "other")), default=0.0)
    travels = max((_weight(f) * f.strength for f in mine if f.kind in ("latency", "errors")), default=0.0)
    if own >= 0.5 * travels or (service in slow and LINK_WEIGHT * slow[service][0] >= 0.5 * travels):
        return True
    shows = any(caller == service for caller, _ in links.values()) or any(
        k.service == service and name == "waiting" for k, name in zip(frame.kpis, kinds, strict=True)
    )
    waits = max((f.strength for f in mine if f.kind == "waiting" and f.direction == "up"), default=0.0)
    return shows and max(waits, _waits(links, findings).get(service, 0.0)) <= 0.2


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the calls to most services did together."""

    factor: float  # 1 when they did nothing together
    usual: Mapping[str, float]  # calls of each service before

    def is_news(self, evidence: float) -> bool:
        """Whether to tell of traffic first. Less of it is news only alone: users leave a broken shop."""
        return (self.factor > 1 and evidence < 0.5) or (self.factor < 1 and evidence < 0.2)

    @property
    def text(self) -> str:
        amount = f"×{self.factor:.2g}" if self.factor > 1 else f"{1 - self.factor:.0%} less"
        return f"traffic {amount} across {len(self.usual)} services"


def traffic_of(frame: Frame, changes: Changes, kinds: Sequence[str]) -> Traffic:
    usual: dict[str, float] = {}
    factors: dict[str, float] = {}
    for k, kpi in enumerate(frame.kpis):
        before, during = float(changes.before[k]), float(changes.during[k])
        if kinds[k] == "workload" and before > 0 and during >= 0 and not words(kpi) & BYTES:
            usual.setdefault(kpi.service, before)
            factors.setdefault(kpi.service, during / before)
    if len(factors) < 3:
        return Traffic(1.0, usual)
    middle = float(np.median(list(factors.values())))
    agree = np.mean([f >= 1.3 if middle > 1 else f <= 0.7 for f in factors.values()])
    return Traffic(middle if agree >= 0.7 else 1.0, usual)


def door_first(services: Sequence[ServiceFinding], usual: Mapping[str, float]) -> list[ServiceFinding]:
    """A surge common to all comes in at the door: the service that takes the most calls."""
    most = max(usual.values())
    lifted = [replace(s, score=s.score + 0.2 * usual.get(s.name, 0.0) / most) for s in services]
    return sorted(lifted, key=lambda s: -s.score)
