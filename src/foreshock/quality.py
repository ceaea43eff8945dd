"""Is this recording fit to be scored? `inspect` tells what is odd about it, `repair` mends what is safe.

Not here: filling gaps. What nobody observed stays NaN to the end; no repair makes up a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from foreshock.frame import Frame, Kpi

SEVERITIES = ("problem", "warning", "note")  # scoring refuses or suffers; look at it; good to know
_BLOCK_CELLS = 4_000_000  # columns are looked at in blocks of about so many cells
_MIN_COUNTER_ROWS = 20
_OLDEST_NS = 10 * 365 * 86_400 * 10**9  # no recording is from before 1980; row numbers are
_COUNTER_NAME = re.compile(r"(?:^|[_.\-])(?:total|count|counter|sum|bucket|cumulative)$", re.IGNORECASE)
_GAUGE_NAME = re.compile(r"mem|heap|disk|usage|util|size|limit|temp|pct|percent|ratio", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about the recording, and how much it matters."""

    severity: str  # of SEVERITIES
    kind: str  # clock, gap, duplicate, conflict, unsorted, off-grid, dead, stopped, missing, infinite, …
    text: str
    kpis: tuple[str, ...] = ()  # the columns it is about; empty: the whole recording


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch without rows."""

    start_ns: int  # the last row before
    end_ns: int  # the first row after
    rows: int  # about so many are missing


@dataclass(frozen=True, slots=True)
class KpiQuality:
    """What is known about one column."""

    name: str
    service: str
    unit: str  # as guessed on reading, "" where nothing told
    missing: float  # share of rows without a value, 0..1
    infinite: int  # values
    constant: bool  # the same value wherever it was observed
    first_row: int  # with a value; -1: never observed
    last_row: int  # with a value; -1: never observed
    stopped: bool  # observed at first, not in the last tenth of the recording
    counter: bool  # only ever grows, except for resets
    resets: int  # falls back to near 0 of a counter

    @property
    def dead(self) -> bool:
        """Never observed, or stopped."""
        return self.first_row < 0 or self.stopped


@dataclass(frozen=True, slots=True)
class Quality:
    """The whole report. Row numbers count from 0 as the rows stand in the frame."""

    source: str
    rows: int
    start_ns: int | None  # earliest stamp; None without rows
    end_ns: int | None
    step_s: float
    jitter_s: float  # 95th percentile of how far a distance is off a whole number of steps
    off_grid: float  # share of distances that are off by more than a tenth of a step
    unsorted: int  # rows earlier than the row before
    duplicates: int  # rows that repeat another one exactly
    conflicts: int  # rows with the stamp of another one but different values
    gaps: tuple[Gap, ...]
    missing: float  # share of all cells, 0..1
    kpis: tuple[KpiQuality, ...]
    findings: tuple[Finding, ...]

    @property
    def is_scorable(self) -> bool:
        """Nothing stands in the way of scoring; `repair` may well make it so."""
        return not any(f.severity == "problem" for f in self.findings)

    def to_dict(self) -> dict[str, object]:
        """For JSON: plain numbers, strings and lists."""
        return {**asdict(self), "is_scorable": self.is_scorable}


def inspect(frame: Frame) -> Quality:
    """Look at a frame's clock and columns; nothing is changed.

    Returns:
        Findings in order of severity. A clean recording has none of severity problem or warning.

    Example:
        >>> import numpy as np
        >>> stamps = (1_700_000_000 + np.array([0, 60, 120, 120])) * 10**9
        >>> values = np.array([[1.0], [2.0], [3.0], [3.0]])
        >>> f = Frame(stamps, values, (Kpi("a"),), step_s=60)
        >>> [x.kind for x in inspect(f).findings]
        ['duplicate', 'short', 'unit']
    """
    rows = len(frame)
    order = np.argsort(frame.time_ns, kind="stable")
    stamps = frame.time_ns[order]
    distances = np.diff(stamps)
    exact, conflicting = _doubles(frame, order)
    step_ns = frame.step_s * 1e9
    rising = distances[distances > 0]
    steps = np.maximum(np.round(rising / step_ns), 1)
    off = np.abs(rising - steps * step_ns)
    wide = np.flatnonzero(distances > 1.5 * step_ns)
    gaps = tuple(
        Gap(int(stamps[i]), int(stamps[i + 1]), max(1, round(float(distances[i]) / step_ns) - 1))
        for i in wide
    )
    kpis = tuple(_columns(frame, order))
    quality = Quality(
        source=frame.source,
        rows=rows,
        start_ns=int(stamps[0]) if rows else None,
        end_ns=int(stamps[-1]) if rows else None,
        step_s=frame.step_s,
        jitter_s=float(np.quantile(off, 0.95)) / 1e9 if len(off) else 0.0,
        off_grid=float(np.mean(off > 0.1 * step_ns)) if len(off) else 0.0,
        unsorted=int(np.sum(np.diff(frame.time_ns) < 0)),
        duplicates=len(exact),
        conflicts=len(conflicting),
        gaps=gaps,
        missing=float(np.mean([k.missing for k in kpis])) if rows else 0.0,
        kpis=kpis,
        findings=(),
    )
    found = [*_clock_findings(quality), *_kpi_findings(quality, frame)]
    return replace(quality, findings=tuple(sorted(found, key=lambda f: SEVERITIES.index(f.severity))))


def repair(frame: Frame, *, rates: bool = False) -> tuple[Frame, tuple[str, ...]]:
    """Mend what can be mended without making anything up.

    Sorts rows by time; of rows with the same stamp keeps the last; makes infinite values NaN.

    Args:
        rates: turn counters into per-second rates. After a reset the counter is taken to have started
            at 0; the first row, and the first after nothing was observed, has no rate (NaN).

    Returns:
        The mended frame (the frame itself if it was fine) and what was done, a sentence each.
    """
    done: list[str] = []
    order = np.argsort(frame.time_ns, kind="stable")
    exact, conflicting = _doubles(frame, order)
    fallen = int(np.sum(np.diff(frame.time_ns) < 0))
    if fallen:
        done.append(f"Sorted the rows by time; {_count(fallen, 'row')} stood later than a later stamp.")
    drop = np.concatenate([exact, conflicting])
    if len(exact):
        done.append(f"Dropped {_count(len(exact), 'row')} that repeated another exactly.")
    if len(conflicting):
        done.append(
            f"Of rows with the same stamp but different values kept the last; dropped {len(conflicting)}."
        )
    if fallen or len(drop):
        frame = frame.rows(order[~np.isin(order, drop)])
    endless = np.isinf(frame.values)
    if endless.any():
        names = [k.name for k, hit in zip(frame.kpis, endless.any(axis=0), strict=True) if hit]
        done.append(f"Made {_count(int(endless.sum()), 'infinite value')} missing, in {_some(names)}.")
        frame = replace(frame, values=np.where(endless, np.nan, frame.values))
    if rates:
        frame, changed = _to_rates(frame)
        if changed:
            done.append(f"Turned {_count(len(changed), 'counter')} into rates per second: {_some(changed)}.")
    return frame, tuple(done)


# ---- the clock


def _doubles(frame: Frame, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows to drop: (exact repeats of a later row, other rows whose stamp a later one has too)."""
    stamps = frame.time_ns[order]
    same = np.flatnonzero(np.diff(stamps) == 0)  # places in `order` that the next one doubles
    rows, later = order[same], order[same + 1]
    one, two = frame.values[rows], frame.values[later]
    equal = ((one == two) | (np.isnan(one) & np.isnan(two))).all(axis=1)
    if frame.labels is not None:
        first, second = frame.labels.take(rows), frame.labels.take(later)
        equal &= (first.anomaly == second.anomaly) & (first.fault_type == second.fault_type)
    return rows[equal], rows[~equal]


def _clock_findings(q: Quality) -> Iterator[Finding]:
    if q.rows == 0:
        yield Finding("problem", "empty", "The recording has no rows.")
        return
    if q.end_ns is not None and q.end_ns < _OLDEST_NS:
        yield Finding(
            "warning",
            "clock",
            f"The time stamps end in {_stamp(q.end_ns)[:4]}: they look like row numbers, and are read as "
            "seconds since 1970. So are false alarms a day and merge times; real stamps make them real.",
        )
    if q.unsorted:
        yield Finding(
            "problem",
            "unsorted",
            f"{_count(q.unsorted, 'row')} standing later than a later stamp; repair sorts them.",
        )
    if q.duplicates:
        yield Finding(
            "problem",
            "duplicate",
            f"{_count(q.duplicates, 'row')} repeating another exactly; repair drops them.",
        )
    if q.conflicts:
        yield Finding(
            "problem",
            "conflict",
            f"{_count(q.conflicts, 'row')} sharing a stamp with another but not its values; "
            "repair keeps the last.",
        )
    if q.gaps:
        widest = max(q.gaps, key=lambda g: g.end_ns - g.start_ns)
        rows = sum(g.rows for g in q.gaps)
        yield Finding(
            "warning",
            "gap",
            f"{_count(len(q.gaps), 'gap')} in time, about {_count(rows, 'row')} missing; the widest lasts "
            f"{_span((widest.end_ns - widest.start_ns) / 1e9)} from {_stamp(widest.start_ns)}.",
        )
    if q.off_grid > 0.05:
        yield Finding(
            "note",
            "off-grid",
            f"{q.off_grid:.0%} of the rows come off the {_span(q.step_s)} grid "
            f"(95 % within {_span(q.jitter_s)}); scoring takes them as they come.",
        )
    if q.rows == 1:
        yield Finding(
            "warning", "short", f"There is a single row; its step is unknown, {q.step_s:g} s is assumed."
        )
    elif q.rows < 256:
        yield Finding(
            "note", "short", f"{q.rows} rows ({_span(q.rows * q.step_s)}) give scoring little past."
        )


# ---- the columns


def _columns(frame: Frame, order: np.ndarray) -> Iterator[KpiQuality]:
    rows = len(frame)
    width = max(1, _BLOCK_CELLS // max(1, rows))
    for start in range(0, len(frame.kpis), width):
        block = frame.values[order, start : start + width]
        seen = ~np.isnan(block)
        endless = np.isinf(block)
        for i, kpi in enumerate(frame.kpis[start : start + width]):
            yield _column(kpi, block[:, i], seen[:, i], int(endless[:, i].sum()))


def _column(kpi: Kpi, values: np.ndarray, seen: np.ndarray, infinite: int) -> KpiQuality:
    rows = len(values)
    where = np.flatnonzero(seen)
    first, last = (int(where[0]), int(where[-1])) if len(where) else (-1, -1)
    present = values[where]
    counter, resets = _counter(kpi, present)
    return KpiQuality(
        name=kpi.name,
        service=kpi.service,
        unit=kpi.unit,
        missing=1.0 - len(where) / rows if rows else 0.0,
        infinite=infinite,
        constant=len(present) > 1 and bool(np.all(present == present[0])),
        first_row=first,
        last_row=last,
        stopped=first >= 0 and rows >= 20 and last < rows - max(2, rows // 10),
        counter=counter,
        resets=resets,
    )


def _counter(kpi: Kpi, present: np.ndarray) -> tuple[bool, int]:
    """(clearly a counter, how often it was reset).

    Clearly: never negative, grows in at least a third of the steps, falls only to near nothing, and either
    is called a total or a count, or holds whole numbers and is not called memory or the like.
    A gauge that happens to drift upwards is therefore none.
    """
    if len(present) < _MIN_COUNTER_ROWS or not np.isfinite(present).all() or present.min() < 0:
        return False, 0
    change = np.diff(present)
    falls = np.flatnonzero(change < 0)
    if np.mean(change > 0) < 1 / 3 or len(falls) > max(1, len(present) // 50):
        return False, 0
    typical = float(np.median(change[change > 0]))
    if np.any(present[falls + 1] > np.maximum(0.1 * present[falls], 3 * typical)):
        return False, 0
    named = bool(_COUNTER_NAME.search(kpi.metric or kpi.name))
    whole = bool(np.all(present == np.floor(present))) and not _GAUGE_NAME.search(kpi.name)
    return named or whole, len(falls)


def _kpi_findings(q: Quality, frame: Frame) -> Iterator[Finding]:
    if q.rows == 0:
        return

    def about(hit: list[KpiQuality], severity: str, kind: str, what: str) -> Iterator[Finding]:
        if hit:
            names = tuple(k.name for k in hit)
            yield Finding(severity, kind, f"{_count(len(hit), 'KPI')} {what}: {_some(names)}.", names)

    alive = [k for k in q.kpis if k.first_row >= 0]
    yield from about(
        [k for k in q.kpis if k.infinite],
        "problem",
        "infinite",
        "with infinite values; repair makes them missing",
    )
    if not alive:
        yield Finding("problem", "dead", "No KPI has a single value.", frame.names)
        return
    yield from about([k for k in q.kpis if k.first_row < 0], "warning", "dead", "never observed")
    yield from about([k for k in alive if k.stopped], "warning", "stopped", "observed at first, then no more")
    holey = [k for k in alive if not k.stopped and k.missing > 0.05]
    yield from about(holey, "warning", "missing", "with more than 5 % of the rows missing")
    if q.missing > 0 and not holey:
        yield Finding("note", "missing", f"{q.missing:.2%} of all values are missing.")
    yield from about([k for k in q.kpis if k.constant], "note", "constant", "of one constant value")
    yield from about(
        [k for k in q.kpis if k.counter],
        "note",
        "counter",
        "counting up like counters; repair(rates=True) makes rates of them",
    )
    yield from about([k for k in q.kpis if not k.unit], "note", "unit", "of unknown unit")


def _to_rates(frame: Frame) -> tuple[Frame, list[str]]:
    counters = [i for i, k in enumerate(_columns(frame, np.arange(len(frame)))) if k.counter]
    if not counters:
        return frame, []
    values = frame.values.copy()
    kpis = list(frame.kpis)
    for i in counters:
        values[:, i] = _rate(frame.time_ns, frame.values[:, i])
        unit = kpis[i].unit
        kpis[i] = replace(kpis[i], unit="1/s" if unit in ("", "count") else f"{unit}/s")
    return replace(frame, values=values, kpis=tuple(kpis)), [frame.kpis[i].name for i in counters]


def _rate(time_ns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(T,) growth a second between two neighbouring rows that were both observed."""
    out = np.full(len(counts), np.nan)
    grown = np.diff(counts)
    grown = np.where(grown < 0, counts[1:], grown)  # reset: counted up from 0 since
    out[1:] = grown / (np.diff(time_ns) / 1e9)
    return out


# ---- words


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _some(names: list[str] | tuple[str, ...], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _stamp(time_ns: int) -> str:
    return f"{np.datetime64(time_ns, 'ns').astype('datetime64[s]')}Z"
