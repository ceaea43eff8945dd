"""What another threshold would have told, from the scores that are kept: one threshold for the whole range.

Thresholds come from the range's own scores, unlabelled, as `foreshock detect` takes them for a finished
recording. The live service holds each row against what it knew before, so its incidents may differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from foreshock.calibrate import DAY_S, LEAVE, Guess, Threshold, calibrate_finished
from foreshock.decide import Event, Rules, decide, iso
from foreshock.explain import explain
from foreshock.scores import Scores
from foreshock.service.views import View, milliseconds, number, numbers, stamp
from foreshock.store import start_of

BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
MOST_NAMED = 20  # incidents whose origin is looked for
COLUMNS = 240
MINUTES_EACH = 15.0  # of somebody's time for a page


def backtest(
    view: View, known: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Mapping[str, Any]], rules: Rules,
    *, since_ns: int, until_ns: int, per_day: float, level: float | None = None,
    minutes_each: float = MINUTES_EACH,
) -> dict[str, Any]:  # fmt: skip
    """Incidents and their cost at a false-alarm budget, or at a threshold `level`.

    Args:
        known: incidents that were told. verdicts: the one that counts of each, by incident.
    """
    frame, scores = view.frame, view.scores
    rows = slice(0, 0)
    if scores is not None:
        rows = slice(*np.searchsorted(scores.time_ns, [since_ns, until_ns + 1]).tolist())
    if frame is None or scores is None or rows.stop - rows.start < 2:
        return _nothing(per_day, minutes_each)
    part, piece = scores.rows(rows), frame.rows(rows)
    threshold = _threshold(part, rules, per_day, view.guess)
    if level is not None:
        low = min(level, threshold.usual + LEAVE * (level - threshold.usual))
        at_once = max(threshold.at_once, level)
        threshold = replace(threshold, high=level, low=low, at_once=at_once, reason="the threshold you chose")
    events = decide(part, threshold, rules)
    days = (float(part.time_ns[-1] - part.time_ns[0]) / 1e9 + part.step_s) / DAY_S
    matched = [_matched(event, part, known) for event in events]
    told = {id for ids in matched for id in ids}
    here = [str(i["id"]) for i in known if _touches(i, int(part.time_ns[0]), int(part.time_ns[-1]))]
    confirmed = [i for i in here if _said(verdicts, i) == "confirmed"]
    again = [i for i in here if _said(verdicts, i) == "false_alarm" and i in told]
    latest = list(zip(events, matched, strict=True))[-MOST_NAMED:]
    seconds = sum((e.end - e.start) * part.step_s for e in events)
    width = max(1, -(-len(part) // COLUMNS))
    starts = np.arange(0, len(part), width)
    tops = np.fmax.reduceat(part.system.astype(float), starts)
    return {
        "since": iso(int(part.time_ns[0])),
        "until": iso(int(part.time_ns[-1])),
        "days": days,
        "false_alarms_per_day": per_day,
        "high": number(threshold.high),
        "at_once": number(threshold.at_once),
        "reason": threshold.reason,
        "incidents": [
            _replayed(event, ids, explain(piece, part, event, others=events), verdicts)
            for event, ids in reversed(latest)
        ],
        "count": len(events),
        "incidents_per_day": len(events) / days,
        "hours_in_incidents": seconds / 3600,
        "confirmed_found": sum(i in told for i in confirmed),
        "confirmed_missed": [i for i in confirmed if i not in told],
        "false_alarms_again": again,
        "minutes_a_day": minutes_each * len(events) / days,
        "minutes_each": minutes_each,
        "budgets": [_budget(part, rules, one, view.guess) for one in BUDGETS],
        "starts_ms": milliseconds(part.time_ns[starts]),
        "system": numbers(tops),
    }


def _nothing(per_day: float, minutes_each: float) -> dict[str, Any]:
    return {
        "since": None, "until": None, "days": 0.0, "false_alarms_per_day": per_day, "high": None,
        "at_once": None, "reason": "no scored row lies in this range", "incidents": [], "count": 0,
        "incidents_per_day": 0.0, "hours_in_incidents": 0.0, "confirmed_found": 0, "confirmed_missed": [],
        "false_alarms_again": [], "minutes_a_day": 0.0, "minutes_each": minutes_each, "budgets": [],
        "starts_ms": [], "system": [],
    }  # fmt: skip


def _threshold(scores: Scores, rules: Rules, per_day: float, guess: Guess | None) -> Threshold:
    return calibrate_finished(
        scores.system, scores.step_s, per_day, merge_s=rules.merge_s, confirm_s=rules.confirm_s,
        confirm_share=rules.confirm_share, guess=guess,
    )  # fmt: skip


def _budget(scores: Scores, rules: Rules, per_day: float, guess: Guess | None) -> dict[str, Any]:
    threshold = _threshold(scores, rules, per_day, guess)
    found = decide(scores, threshold, rules)
    return {"false_alarms_per_day": per_day, "high": number(threshold.high), "incidents": len(found)}


def _touches(incident: Mapping[str, Any], first_ns: int, last_ns: int) -> bool:
    end = incident["event"].get("end_time")
    return start_of(incident) <= last_ns and (end is None or stamp(end) >= first_ns)


def _matched(event: Event, scores: Scores, known: Sequence[Mapping[str, Any]]) -> list[str]:
    last_ns = int(scores.time_ns[event.end - 1])
    return [str(i["id"]) for i in known if _touches(i, event.start_ns, last_ns)]


def _said(verdicts: Mapping[str, Mapping[str, Any]], id: str) -> str | None:
    verdict = verdicts.get(id)
    return None if verdict is None else str(verdict["verdict"])


def _replayed(
    event: Event, known: Sequence[str], cause: Any, verdicts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    said = [word for word in (_said(verdicts, id) for id in known) if word]
    return {
        "start": iso(event.start_ns),
        "end": iso(event.end_ns),
        "peak_score": number(event.peak_score),
        "confidence": number(event.confidence),
        "service": cause.services[0].name if cause.is_known else None,
        "headline": cause.headline,
        "known": known[0] if known else None,
        "verdict": said[0] if said else None,
    }
