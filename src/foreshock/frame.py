"""A table of metrics on a UTC clock: the noun that everything starts from.

Not here: reading files (sources), judging quality (quality), scaling (windows).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from foreshock.errors import FrameError

NO_SERVICE = "system"  # the service of a KPI whose name tells none


@dataclass(frozen=True, slots=True)
class Kpi:
    """One metric of one service.

    `name` is the column as it came, unique in a frame; `unit` is "" when unknown.
    """

    name: str
    service: str = NO_SERVICE
    metric: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known afterwards about each row. Detectors never see this."""

    anomaly: np.ndarray  # (T,) bool
    fault_type: np.ndarray  # (T,) str, "" where normal or not told
    root_cause: np.ndarray  # (T,) str, service, "" where normal or not told
    ignore: np.ndarray  # (T,) bool: recovery, suspects; left out of every metric
    fault_id: np.ndarray  # (T,) int64, -1 where normal; consecutive positives share one
    metric_visible: np.ndarray  # (T,) bool: False where a fault leaves no trace in metrics

    def take(self, rows: slice | np.ndarray) -> Labels:
        """The labels of some rows."""
        return Labels(
            self.anomaly[rows],
            self.fault_type[rows],
            self.root_cause[rows],
            self.ignore[rows],
            self.fault_id[rows],
            self.metric_visible[rows],
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """T rows of K KPIs.

    `time_ns` may be unsorted or doubled as read; `quality.inspect` tells, `quality.repair` mends,
    and `require_clock` refuses. Rows missing in time are simply not there: scoring sees the gap.
    """

    time_ns: np.ndarray  # (T,) int64, nanoseconds since 1970 UTC
    values: np.ndarray  # (T, K) float64; NaN: nobody observed it
    kpis: tuple[Kpi, ...]
    step_s: float  # the usual distance of two rows, seconds
    labels: Labels | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape != (len(self.time_ns), len(self.kpis)):
            raise FrameError(
                f"values have shape {self.values.shape}; {len(self.time_ns)} time stamps and "
                f"{len(self.kpis)} KPIs need ({len(self.time_ns)}, {len(self.kpis)})."
            )
        if not self.kpis:
            raise FrameError("the table has no KPI column; it needs at least one beside the time stamp.")
        if len({k.name for k in self.kpis}) != len(self.kpis):
            seen: set[str] = set()
            twice = next(k.name for k in self.kpis if k.name in seen or seen.add(k.name))  # type: ignore[func-returns-value]
            raise FrameError(f"the KPI name {twice!r} stands twice; rename one of the columns.")
        if not self.step_s > 0:
            raise FrameError(f"the step is {self.step_s} s; it must be above 0.")

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def time(self) -> np.ndarray:
        """(T,) datetime64[ns], UTC."""
        return self.time_ns.view("datetime64[ns]")

    @property
    def services(self) -> tuple[str, ...]:
        """Services in order of first appearance; S of them."""
        return tuple(dict.fromkeys(k.service for k in self.kpis))

    @property
    def service_index(self) -> np.ndarray:
        """(K,) which of `services` each KPI belongs to."""
        order = {s: i for i, s in enumerate(self.services)}
        return np.array([order[k.service] for k in self.kpis])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(k.name for k in self.kpis)

    def rows(self, rows: slice | np.ndarray) -> Frame:
        """The same KPIs at some rows (a slice is a view, not a copy)."""
        labels = None if self.labels is None else self.labels.take(rows)
        return replace(self, time_ns=self.time_ns[rows], values=self.values[rows], labels=labels)

    def select(self, names: Iterable[str]) -> Frame:
        """Some KPIs, in the order given.

        Raises:
            FrameError: a name is not in the frame.
        """
        where = {k.name: i for i, k in enumerate(self.kpis)}
        names = list(names)
        missing = [n for n in names if n not in where]
        if missing:
            raise FrameError(f"the frame has no KPI {missing[0]!r}; it has {', '.join(list(where)[:5])} …")
        index = [where[n] for n in names]
        return replace(self, values=self.values[:, index], kpis=tuple(self.kpis[i] for i in index))

    def without_labels(self) -> Frame:
        return replace(self, labels=None)

    def require_clock(self) -> Frame:
        """The frame itself, if its stamps rise strictly.

        Raises:
            FrameError: unsorted or doubled stamps, or no row at all.
        """
        if len(self) == 0:
            raise FrameError("the frame has no rows; scoring needs at least one.")
        if np.any(np.diff(self.time_ns) <= 0):
            row = int(np.argmax(np.diff(self.time_ns) <= 0)) + 1
            raise FrameError(
                f"row {row} ({self.time[row]}Z) is not later than the row before it; "
                "sort and de-duplicate first: foreshock.quality.repair(frame)."
            )
        return self
