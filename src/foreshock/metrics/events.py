"""Event by event: faults found, alarms that were false, and how late.

A fault counts once however many alarms touch it, and so does an alarm. An alarm may begin
`tolerance_rows` rows after a fault's end and still find it: symptoms outlast their cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from foreshock.errors import FrameError

TOLERANCE_ROWS = 2


class Span(Protocol):
    """Anything that lasts from row `start` to row `end`, exclusive."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


@dataclass(frozen=True, slots=True)
class EventCounts:
    """Faults found and alarms raised; an event counts once."""

    faults: int
    found: int
    alarms: int
    false_alarms: int  # alarms that touch no fault, no ignored row and no row just after them
    hours: float
    delays_s: tuple[float, ...]  # of the found faults: first alarmed row minus first faulty row, at least 0

    @property
    def recall(self) -> float:
        """NaN where there was no fault."""
        return self.found / self.faults if self.faults else float("nan")

    @property
    def precision(self) -> float:
        """The share of alarms that were not false; NaN where there was no alarm."""
        return 1 - self.false_alarms / self.alarms if self.alarms else float("nan")

    @property
    def f1(self) -> float:
        """0 where faults were there and none was found; NaN where there was no fault."""
        if not self.faults:
            return float("nan")
        if not self.found or self.alarms == self.false_alarms:
            return 0.0
        return 2 * self.precision * self.recall / (self.precision + self.recall)

    @property
    def false_alarms_per_hour(self) -> float:
        return self.false_alarms / self.hours if self.hours else float("nan")

    @property
    def false_alarms_per_day(self) -> float:
        return self.false_alarms_per_hour * 24

    @property
    def delay_median_s(self) -> float:
        """Of the faults found; NaN where none was. Read it beside `never_found`."""
        return float(np.median(self.delays_s)) if self.delays_s else float("nan")

    @property
    def delay_p90_s(self) -> float:
        """Of the faults found, linear between order statistics; NaN where none was."""
        return float(np.quantile(self.delays_s, 0.9)) if self.delays_s else float("nan")

    @property
    def never_found(self) -> float:
        """The share of faults no alarm touched; NaN where there was no fault."""
        return 1 - self.found / self.faults if self.faults else float("nan")


def count_events(
    alarms: Sequence[Span],
    faults: Sequence[tuple[int, int]],
    rows: int,
    step_s: float,
    ignore: np.ndarray | None = None,
    tolerance_rows: int = TOLERANCE_ROWS,
) -> EventCounts:
    """Match alarms with faults by overlap.

    Args:
        faults: (first row, row after the last) of each.
        ignore: (rows,) bool; an alarm that touches such a row is not false, nor does it find anything.
        tolerance_rows: an alarm may begin this many rows after a fault's end and still find it.

    Raises:
        FrameError: a fault or an alarm lies outside the rows, or the tolerance is negative.
    """
    if tolerance_rows < 0:
        raise FrameError(f"the tolerance is {tolerance_rows} rows; it must be 0 or more.")
    for what, start, end in [("fault", *f) for f in faults] + [("alarm", a.start, a.end) for a in alarms]:
        if not 0 <= start <= end <= rows:
            raise FrameError(f"the {what} from row {start} to {end} does not lie within {rows} rows.")
    excused = np.zeros(rows, bool) if ignore is None else np.asarray(ignore, bool).copy()
    delays = []
    for first, last in faults:
        excused[first : last + tolerance_rows] = True
        touching = [a for a in alarms if a.start < last + tolerance_rows and a.end > first]
        if touching:
            delays.append(max(0.0, (min(a.start for a in touching) - first) * step_s))
    false = sum(not excused[a.start : max(a.end, a.start + 1)].any() for a in alarms)
    hours = (rows - int(np.sum(ignore) if ignore is not None else 0)) * step_s / 3600
    return EventCounts(len(faults), len(delays), len(alarms), false, hours, tuple(delays))


def fault_spans(fault_id: np.ndarray, keep: np.ndarray | None = None) -> list[tuple[int, int]]:
    """Rows of each fault from `Labels.fault_id`; -1 is none. `keep` (T,) bool drops faults never covered."""
    fault_id = np.asarray(fault_id)
    spans = []
    for fault in np.unique(fault_id[fault_id >= 0]):
        rows = np.flatnonzero(fault_id == fault)
        if keep is None or keep[rows].any():
            spans.append((int(rows[0]), int(rows[-1]) + 1))
    return spans


def spans(flags: np.ndarray) -> list[tuple[int, int]]:
    """(first row, row after the last) of every run of true rows."""
    edges = np.diff(np.asarray(flags, bool).astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
