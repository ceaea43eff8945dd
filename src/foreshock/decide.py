"""From scores to events: enter high, leave low, last long enough, merge neighbours, part what rises anew.

Works row by row on the past alone, so that a stream and a whole recording give the same events.

Not here: choosing the threshold (calibrate), naming the culprit (explain), paging (alerts).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from foreshock.calibrate import (
    CONFIRM_S,
    CONFIRM_SHARE,
    MERGE_S,
    CausalThreshold,
    Threshold,
    confirm_rows,
)
from foreshock.errors import ConfigError
from foreshock.scores import Scores

# What rises anew is an event of its own: after scores below this share of the peak for `merge_s` ...
VALLEY = 1 / 3
RISE = 2.0  # ... to so many times the lowest of them; docs/log.md, 2026-11-26
HEAVIEST_TAIL = 0.2  # shape taken for the tail above `high` when judging confidence: on the heavy side


@dataclass(frozen=True, slots=True)
class Rules:
    """When rows make an event. In seconds, so that they mean the same at every step.

    At a row each 60 s two rows above `high` begin an event, at 15 s four of six, at 5 s twelve of
    eighteen; one row above `at_once` is enough at any step. The first, second and third must be the same
    in calibration, or the promise does not hold.
    """

    confirm_s: float = CONFIRM_S  # look at the rows of so many seconds ...
    confirm_share: float = CONFIRM_SHARE  # ... of which this share must be above `high`
    merge_s: float = MERGE_S  # a return to `high` within this time continues the event
    lead_s: float = 300.0  # the start moves back over rows above `low`, at most so far
    grace_s: float = 300.0  # unobserved time that an event outlasts
    cool_down_s: float = 600.0  # an event so soon after the last one is told as its sequel

    def __post_init__(self) -> None:
        for name in ("confirm_s", "merge_s", "lead_s", "grace_s", "cool_down_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"rules.{name} is {getattr(self, name)}; it must be 0 or more.")
        if not 0 < self.confirm_share <= 1:
            raise ConfigError(f"rules.confirm_share is {self.confirm_share}; it must lie in 0..1.")

    def confirm_rows(self, step_s: float) -> tuple[int, int]:
        """k of n: how many of how many rows must be above `high`."""
        return confirm_rows(step_s, self.confirm_s, self.confirm_share)


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch of rows that belongs together."""

    id: int  # counts from 0 in time order
    start: int  # first row
    end: int  # one past the last row
    start_ns: int
    end_ns: int | None  # stamp of the last row; None while the event runs
    peak: int  # row of the highest score
    peak_ns: int
    peak_score: float
    threshold: float  # `high` at the peak
    confidence: float  # 0..1, see `confidence`
    detected: int  # the row at which the rules were first met
    detected_ns: int  # its stamp: nothing later was needed to tell
    rows_high: int  # rows at or above `high`
    is_open: bool  # still running when the scores ended
    sequel_of: int | None = None  # the event in whose cool-down this one began

    @property
    def rows(self) -> slice:
        return slice(self.start, self.end)

    def to_dict(self) -> dict[str, object]:
        """JSON-safe, times as ISO 8601 in UTC."""
        out: dict[str, object] = {n: getattr(self, n) for n in self.__dataclass_fields__ if n[-3:] != "_ns"}
        for name in ("start", "end", "peak", "detected"):
            out[f"{name}_time"] = iso(getattr(self, f"{name}_ns"))
        return out


@dataclass(frozen=True, slots=True)
class Change:
    """What a stream learned about an event at one row."""

    kind: Literal["opened", "updated", "closed"]
    event: Event


def iso(time_ns: int | None) -> str | None:
    """A stamp as people and machines read it, to the second."""
    return None if time_ns is None else f"{np.datetime64(time_ns, 'ns').astype('datetime64[s]')}Z"


def confidence(score: float, level: float, scale: float, rows_high: int, rows_needed: int) -> float:
    """How likely an event is real, if incidents and false alarms were equally common at the threshold.

    Quiet scores reach `score` r times as rarely as `level` (by the calibrated tail, taken on the heavy
    side), and each row above `high` beyond the needed ones halves r, up to ten times: 1 / (1 + r). At the
    threshold that is 0.5, five tail scales above it 0.97. Below it, or without a tail scale, 0.5.
    """
    if not (math.isfinite(scale) and scale > 0 and math.isfinite(level)):
        return 0.5
    distance = max(score - level, 0.0) / scale
    rarity = math.exp(-math.log1p(HEAVIEST_TAIL * distance) / HEAVIEST_TAIL)
    rarity *= 0.5 ** min(max(rows_high - rows_needed, 0), 10)
    return 1 / (1 + rarity)


def decide(
    scores: Scores, threshold: Threshold | CausalThreshold, rules: Rules = Rules()
) -> tuple[Event, ...]:
    """The events of a recording, in time order, disjoint.

    Uses `scores.system`. Rows without a score neither begin nor end an event until `rules.grace_s`.
    """
    decider = Decider(scores.step_s, rules)
    changes = decider.push(scores, threshold)
    closed = [c.event for c in changes if c.kind == "closed"]
    return (*closed, decider.running) if decider.running else tuple(closed)


class _Row(NamedTuple):
    """One scored row and the levels it is judged by."""

    row: int
    time_ns: int
    score: float
    high: float
    at_once: float
    low: float
    scale: float


class _Rows:
    """The rows of a piece with their levels, counted from `first`."""

    def __init__(self, scores: Scores, threshold: Threshold | CausalThreshold, first: int) -> None:
        if isinstance(threshold, CausalThreshold) and len(threshold) != len(scores):
            raise ConfigError(
                f"the threshold holds {len(threshold)} rows, the scores {len(scores)}; "
                "push the same rows to the calibrator and to the decider."
            )
        self.first = first
        system = scores.system.astype(float)
        levels = (threshold.high, threshold.at_once, threshold.low, threshold.scale)
        with np.errstate(invalid="ignore"):
            self.raised = np.flatnonzero(system >= threshold.low).tolist()  # rows that reach `low`
        whole = [np.broadcast_to(level, system.shape).tolist() for level in levels]
        self.columns = (scores.time_ns.tolist(), system.tolist(), *whole)  # lists: many times as fast by row

    def __getitem__(self, at: int) -> _Row:
        return _Row(self.first + at, *[column[at] for column in self.columns])

    def next_raised(self, at: int) -> int:
        place = bisect_left(self.raised, at)
        return self.raised[place] if place < len(self.raised) else len(self.columns[0])


class Decider:
    """Turns scores into events while they arrive; pieces give the same events as the whole."""

    def __init__(self, step_s: float, rules: Rules = Rules()) -> None:
        self.rules = rules
        self.inside = np.zeros(0, dtype=bool)  # (T,) of the last push: an event was known to run at this row
        self._step_ns = round(step_s * 1e9)
        self._need, window = rules.confirm_rows(step_s)
        self._window_ns = window * self._step_ns
        # Rows that could confirm an event together can't be two events.
        self._merge_s = max(rules.merge_s, (window - 2) * step_s)
        self._row = 0
        self._count = 0
        self._event: Event | None = None
        self._closed: Event | None = None
        self._last: tuple[int, int] = (-1, 0)  # row and stamp of the last row that belongs to the event
        self._left = False  # a row below `low` was seen since
        self._valley: tuple[int, _Row] | None = None  # stamp of its first row, its lowest row
        self._run: deque[_Row] = deque()  # the present run of rows above `low`, as far back as lead_s
        self._hits: deque[_Row] = deque()  # rows above `high` within the window

    @property
    def running(self) -> Event | None:
        """The event that is open now."""
        return self._event

    def push(self, scores: Scores, threshold: Threshold | CausalThreshold) -> tuple[Change, ...]:
        """What these next rows change: events opened, updated (once a push), closed, in order.

        A CausalThreshold must hold the rows of this piece.
        """
        changes: list[Change] = []
        inside = np.zeros(len(scores), dtype=bool)
        rows = _Rows(scores, threshold, self._row)
        touched = False
        at = self._next(rows, 0)
        while at < len(scores):
            row = rows[at]
            closed = self._expire(row.time_ns) or self._relapse(row)
            if closed:
                changes.append(Change("closed", closed))
                touched = False
            before = self._event
            if not math.isnan(row.score):
                self._take(row)
            if self._event is not None and before is None:
                changes.append(Change("opened", self._event))
            touched = touched or (before is not None and self._event is not before)
            inside[at] = self._event is not None and self._event.end == row.row + 1
            at = self._next(rows, at + 1)
        if touched and self._event is not None:
            changes.append(Change("updated", self._event))
        self._row += len(scores)
        self.inside = inside
        return tuple(changes)

    def _next(self, rows: _Rows, at: int) -> int:
        """The next row to look at: while nothing is going on, the next one that reaches `low`."""
        idle = self._event is None and not self._hits and not self._run
        return rows.next_raised(at) if idle else at

    def _expire(self, time_ns: int) -> Event | None:
        """Close the event when this row can't belong to it any more."""
        if self._event is None:
            return None
        limit_s = self._merge_s if self._left else max(self.rules.grace_s, self._merge_s)
        if time_ns - self._last[1] - self._step_ns < limit_s * 1e9 + self._step_ns * 1e-6:
            return None
        row, last_ns = self._last
        self._closed = replace(self._event, end=row + 1, end_ns=last_ns, is_open=False)
        self._event = None
        self._hits.clear()
        return self._closed

    def _relapse(self, row: _Row) -> Event | None:
        """End the event in its valley when something new rises from there."""
        event = self._event
        if event is None or math.isnan(row.score):
            return None
        if row.score < VALLEY * event.peak_score:
            begun_ns, dip = self._valley or (row.time_ns, row)
            self._valley = (begun_ns, row if row.score < dip.score else dip)
        if self._valley is None or self._valley[1] is row:
            return None
        begun_ns, dip = self._valley
        fresh = self._risen_from(dip, row)
        is_new = len(fresh) >= self._need and fresh[-1] is row
        if is_new and fresh[0].time_ns - begun_ns >= self.rules.merge_s * 1e9:
            return self._part(event, dip, fresh)
        if is_new or (row.score >= VALLEY * event.peak_score and not fresh):
            self._valley = None  # too short, or the same thing again
        return None

    def _risen_from(self, dip: _Row, row: _Row) -> list[_Row]:
        """The rows since the dip, this one included, that could confirm an event and rise out of it."""
        return [
            hit
            for hit in (*self._hits, row)
            if hit.row > dip.row
            and row.time_ns - hit.time_ns < self._window_ns
            and hit.score >= max(hit.high, RISE * dip.score)
        ]

    def _part(self, event: Event, dip: _Row, fresh: list[_Row]) -> Event:
        """Close the event at the dip; the last of the fresh rows will open another."""
        self._hits = deque(fresh[:-1])
        self._run = deque(r for r in self._run if r.row > dip.row)
        high = event.rows_high - len(self._hits)
        self._closed = replace(event, end=dip.row + 1, end_ns=dip.time_ns, rows_high=high, is_open=False)
        self._event = None
        return self._closed

    def _take(self, row: _Row) -> None:
        if row.score < row.low:
            self._run.clear()
            self._left = True
        else:
            self._lead(row)
        while self._hits and row.time_ns - self._hits[0].time_ns >= self._window_ns:
            self._hits.popleft()
        is_high = row.score >= row.high
        if is_high:
            self._hits.append(row)
        if self._event is None:
            if row.score >= row.at_once or (is_high and len(self._hits) >= self._need):
                self._open(row)
        elif is_high or (row.score >= row.low and not self._left):
            self._extend(row, is_high)

    def _lead(self, row: _Row) -> None:
        """Remember the rows that an event beginning here would start with."""
        if self._run and row.time_ns - self._run[-1].time_ns - self._step_ns > self.rules.grace_s * 1e9:
            self._run.clear()
        self._run.append(row)
        while row.time_ns - self._run[0].time_ns > self.rules.lead_s * 1e9:
            self._run.popleft()

    def _open(self, row: _Row) -> None:
        first = min(self._hits[0], self._run[0])  # a row above `high` is in both
        peak = max(self._hits, key=lambda r: r.score)
        sequel = None
        if self._closed is not None and self._closed.end_ns is not None:
            near = first.time_ns - self._closed.end_ns <= self.rules.cool_down_s * 1e9
            sequel = self._closed.id if near else None
        self._event = Event(
            self._count, first.row, row.row + 1, first.time_ns, None, peak.row, peak.time_ns, peak.score,
            peak.high, self._confidence(row, len(self._hits)), row.row, row.time_ns, len(self._hits), True,
            sequel,
        )  # fmt: skip
        self._count += 1
        self._last, self._left = (row.row, row.time_ns), False
        self._valley = None

    def _extend(self, row: _Row, is_high: bool) -> None:
        event = self._event
        assert event is not None
        event = replace(event, end=row.row + 1, rows_high=event.rows_high + is_high)
        if is_high:
            sure = self._confidence(row, event.rows_high)
            event = replace(event, confidence=max(event.confidence, sure))
        if row.score > event.peak_score:
            event = replace(
                event, peak=row.row, peak_ns=row.time_ns, peak_score=row.score, threshold=row.high
            )
            self._valley = None
        self._event = event
        self._last, self._left = (row.row, row.time_ns), False

    def _confidence(self, row: _Row, rows_high: int) -> float:
        sure = confidence(row.score, row.at_once, row.scale, rows_high, self._need)
        if len(self._hits) < self._need:
            return sure
        level = sorted((r.score for r in self._hits), reverse=True)[self._need - 1]
        return max(sure, confidence(level, row.high, row.scale, rows_high, self._need))


def anomalous_rows(events: Iterable[Event], rows: int) -> np.ndarray:
    """(rows,) bool: True inside an event."""
    out = np.zeros(rows, dtype=bool)
    for event in events:
        out[event.start : event.end] = True
    return out
