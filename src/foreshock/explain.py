"""Where an event most likely comes from: which services and KPIs changed, by how much, since when.

Faults travel: callers of a broken service slow down, services behind it starve. So a change of a
service's own resources weighs more than its latency, its latency more than the time it waits for others,
and what is seen at a call between two services is shared out to both. A symptom is told as a symptom,
and the answer may be "unknown".

Not here: finding the event (decide), measuring a KPI's change (changes), naming the type of fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from foreshock.changes import FEWEST_ROWS, kind, measure, score_strength
from foreshock.decide import Event
from foreshock.findings import CLEAR, Cause, KpiFinding, ServiceFinding, kpi_findings
from foreshock.frame import Frame
from foreshock.origin import Traffic, door_first, is_own, like_with_like, rank_services, traffic_of
from foreshock.scores import Scores

__all__ = ["CLEAR", "Cause", "KpiFinding", "ServiceFinding", "explain"]

CALM_SHARE = 0.75  # of the rows before, by their score: incidents nobody told us about may be among them
NOT_OWN = 0.45  # at most so sure when only things that travel, latencies and errors, were seen
LEAD_S = 120.0  # a KPI may move so long before the event is seen
EARLY_S = 900.0  # of a long event so much after its detection is looked at: later there are only followers
UNTOLD, FEWEST_EVIDENCE = 0.02, 0.1  # what a service has for a chance, and for evidence, when labels weigh
FEW_BEFORE = 64  # rows before an event from which later ones are not asked
LIKELIEST, JOINS = 0.5, 0.3  # chance from which a calm service is named, and the evidence it then has
FAINT = 0.1  # a score that rose less is not worth a line


def explain(
    frame: Frame,
    scores: Scores | None,
    event: Event,
    *,
    context_rows: int = 256,
    others: Iterable[Event] = (),
    most_kpis: int = 20,
    later: bool = False,
) -> Cause:
    """Rank services and KPIs by how likely the event began with them.

    Args:
        scores: of the same rows. They tell calm rows from others, and changes of pattern that leave a
            KPI's level as it was. None or NaN is fine.
        context_rows: rows before the event to compare with.
        others: other events; their rows, and two minutes after each, are left out of the comparison.
        most_kpis: how many KPI findings to give back; `changed` counts all.
        later: compare with rows after the event, too, where few come before it; for a recording that lies in
            the past. Otherwise later rows are never read.

    Measured on the 24 labelled faults of Nezha's Online Boutique, told the rows of each: right service
    first in 20 (BARO's scorer: 4), and no wrong one named with confidence; the others lie in the first
    hour, where there is too little calm before them.
    """
    others = tuple(others)
    rows = _rows_before(frame, event, context_rows, others)
    if later and len(rows) < FEW_BEFORE:
        rows = np.concatenate([rows, _rows_after(frame, event, context_rows, others)])
    before = _calm(scores, rows)
    if len(before) < FEWEST_ROWS:
        told = f"unknown: only {len(before)} calm rows before the event; comparing needs {FEWEST_ROWS}"
        return Cause((), (), told, 0.0, len(before), 0)
    lead = min(event.start // 2, _lead_rows(frame))
    last = max(event.start, event.detected) + max(1, round(EARLY_S / frame.step_s))
    window = slice(event.start - lead, max(min(event.end, last), event.start + 1))
    kinds = [kind(k) for k in frame.kpis]
    changes = measure(frame.values[before], frame.values[window], lead, kinds)
    by_score = score_strength(frame, scores, before, window)
    strength = np.maximum(changes.strength, np.where(by_score >= FAINT, by_score, 0.0))
    findings = like_with_like(kpi_findings(frame, changes, strength, kinds, window.start))
    traffic = traffic_of(frame, changes, kinds)
    services = rank_services(frame, findings, kinds, event)
    services = by_labels(services, scores, event)
    if traffic.factor > 1:
        services = door_first(services, traffic.usual)
    certain = not services or is_own(services[0].name, frame, findings, kinds)
    return _conclude(findings, services, certain, traffic, len(before), most_kpis, frame.step_s)


def by_labels(services: list[ServiceFinding], scores: Scores | None, event: Event) -> list[ServiceFinding]:
    """Weighed with what was learned of roots, where the scores hold it: from labels, or simulated systems.

    A service whose own KPIs did not change clearly joins where it is the likeliest by far. Measured with
    what simulated systems taught, told the rows: first in 75 of 94 faults of simulated Train Ticket in place
    of 67, and in 22 of 24 of Online Boutique's real ones in place of 21; docs/log.md, 2026-11-26.
    """
    if not services or scores is None or scores.origins is None or len(scores) < event.end:
        return services
    mean = np.nan_to_num(scores.origins[event.start : event.end].astype(float).mean(0))
    chance = dict(zip(scores.service_names, (mean + UNTOLD) / (mean.max() + UNTOLD), strict=True))
    told = [replace(s, score=(s.score + FEWEST_EVIDENCE) * chance.get(s.name, 0.0)) for s in services]
    likeliest = scores.service_names[int(mean.argmax())]
    if mean.max() >= LIKELIEST and likeliest not in {s.name for s in services}:
        why = "others take it as if it began here"
        told.append(ServiceFinding(likeliest, JOINS, 0.0, event.start, event.start_ns, (), why))
    return sorted(told, key=lambda s: -s.score)


def _lead_rows(frame: Frame) -> int:
    return max(1, round(LEAD_S / frame.step_s))


def _rows_before(frame: Frame, event: Event, context_rows: int, others: Iterable[Event]) -> np.ndarray:
    lead = min(_lead_rows(frame), event.start // 2)  # early on, half of what there is
    stop = max(0, event.start - lead)
    start = max(0, stop - context_rows)
    rows = _free(start, stop, lead, event, others)
    # Better a comparison with rows of other events than none; medians bear it.
    return rows if len(rows) >= FEWEST_ROWS else np.arange(start, stop)


def _rows_after(frame: Frame, event: Event, context_rows: int, others: Iterable[Event]) -> np.ndarray:
    lead = _lead_rows(frame)
    start = min(event.end + lead, len(frame))
    return _free(start, min(start + context_rows, len(frame)), lead, event, others)


def _free(start: int, stop: int, lead: int, event: Event, others: Iterable[Event]) -> np.ndarray:
    """The rows start..stop but for those of other events and `lead` more after each."""
    free = np.ones(stop - start, dtype=bool)
    for other in others:
        if other.start != event.start:
            free[max(other.start - start, 0) : max(other.end + lead - start, 0)] = False
    return np.asarray(start + np.flatnonzero(free))


def _calm(scores: Scores | None, rows: np.ndarray) -> np.ndarray:
    """The calmer part of some rows."""
    if scores is None or len(rows) < 4 * FEWEST_ROWS or len(scores) <= rows[-1]:
        return rows
    system = scores.system[rows].astype(float)
    told = np.isfinite(system) & (system > 0)
    if not told.any():
        return rows
    return np.asarray(rows[~told | (system <= np.quantile(system[told], CALM_SHARE))])


def _conclude(
    findings: list[KpiFinding],
    services: list[ServiceFinding],
    own: bool,
    traffic: Traffic,
    rows_before: int,
    most: int,
    step_s: float,
) -> Cause:
    changed = len(findings)
    if not services:
        headline = "unknown: no KPI left its usual range for long"
        return Cause((), tuple(findings[:most]), headline, 0.0, rows_before, changed)
    sure = _confidence([s.score for s in services])
    sure = sure if own else min(sure, NOT_OWN)
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
    if traffic.is_news(ranked[0].score):
        headline = f"{traffic.text} since {since}; no service stands out"
    elif not own:
        headline += "; own resources calm: the network or something they call may be slow or failing"
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
