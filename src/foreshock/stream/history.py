"""The newest rows of a table that grows, with their scores: at most `keep` rows, columns may come and go.

Not here: scoring (stream), what outlasts the process (store).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from foreshock.frame import Frame, Kpi
from foreshock.scores import ARRAYS, Scores
from foreshock.windows import rearranged

SLACK = 4  # a quarter more rows than are kept, so that they move once in so many steps and not at each


class History:
    """Rows `first` … `first + len`, counted from the first row ever appended."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.first = 0
        self._start = self._stop = self._capacity = 0
        self._held: dict[str, np.ndarray] = {}  # (capacity, …) each
        self._frame: Frame | None = None  # the last piece, for what is no array
        self._scores: Scores | None = None

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def kpis(self) -> tuple[Kpi, ...]:
        return () if self._frame is None else self._frame.kpis

    @property
    def frame(self) -> Frame | None:
        """The rows kept; a view that later rows do not change."""
        if self._frame is None:
            return None
        return replace(self._frame, time_ns=self._rows("time_ns"), values=self._rows("values"))

    @property
    def scores(self) -> Scores | None:
        if self._scores is None:
            return None
        held: dict[str, Any] = {name: self._rows(name) for name in ARRAYS if name in self._held}
        return replace(self._scores, **held)

    @property
    def high(self) -> np.ndarray:
        """(T,) threshold of each row."""
        return self._rows("high") if self._held else np.zeros(0)

    def _rows(self, name: str) -> np.ndarray:
        return self._held[name][self._start : self._stop]

    def append(self, frame: Frame, scores: Scores, high: np.ndarray) -> None:
        """The next rows, of the same KPIs as before; the oldest beyond `keep` are forgotten."""
        skipped = max(0, len(frame) - self.keep)
        new = {n: a for n in ARRAYS if (a := getattr(scores, n)) is not None}
        new |= {"time_ns": frame.time_ns, "values": frame.values, "high": high}
        rows = len(frame) - skipped
        self.first += max(0, len(self) + len(frame) - self.keep)
        self._start = max(self._start, self._stop + rows - self.keep)
        self._make_room(new, rows)
        for name, values in new.items():
            self._held[name][self._stop : self._stop + rows] = values[skipped:]
        self._stop += rows
        self._frame, self._scores = frame.rows(slice(0, 0)), scores.rows(slice(0, 0))

    def _make_room(self, new: dict[str, np.ndarray], rows: int) -> None:
        kept = len(self)
        if not self._held:
            self._capacity = self.keep + max(1, self.keep // SLACK)
        moves = self._stop + rows > self._capacity
        for name, values in new.items():
            if name not in self._held or self._held[name].shape[1:] != values.shape[1:]:
                # Pages of `empty` take no memory before they are written.
                self._held[name] = np.empty((self._capacity, *values.shape[1:]), values.dtype)
                self._held[name][: self._stop] = np.nan if values.dtype.kind == "f" else 0
            if moves:  # into a new array: somebody may still read the rows in the old one
                moved = np.empty((self._capacity, *values.shape[1:]), values.dtype)
                moved[:kept] = self._rows(name)
                self._held[name] = moved
        if moves:
            self._start, self._stop = 0, kept

    def relayout(self, kpis: tuple[Kpi, ...], keep: int) -> None:
        """Go on with other KPIs and another number of rows; what a new KPI did before is not known."""
        self.keep = keep
        if self._frame is None or self._scores is None:
            return
        services = tuple(dict.fromkeys(kpi.service for kpi in kpis))
        columns = _places(self.kpis, kpis)
        order = dict.fromkeys(("values", "kpis", "expected"), columns)
        order["services"] = order["origins"] = _places(self._scores.service_names, services)
        start, rows = max(self._start, self._stop - keep), min(len(self), keep)
        self.first += start - self._start
        self._capacity = keep + max(1, keep // SLACK)
        for name in list(self._held):
            old = self._held[name][start : self._stop]
            old = rearranged(old, order[name], np.nan) if name in order else old
            self._held[name] = np.empty((self._capacity, *old.shape[1:]), old.dtype)
            self._held[name][:rows] = old
        self._start, self._stop = 0, rows
        self._frame = replace(self._frame, kpis=kpis, values=np.zeros((0, len(kpis))))
        self._scores = replace(
            self._scores, kpi_meta=kpis, service_names=services,
            kpis=np.zeros((0, len(kpis)), np.float32), services=np.zeros((0, len(services)), np.float32),
        )  # fmt: skip

    def silent(self) -> np.ndarray:
        """(K,) bool: KPIs without a value in all rows kept."""
        values = self._rows("values")
        out = np.ones(values.shape[1], dtype=bool)
        for at in range(0, len(values), 256):  # no second table of the same size
            out &= ~np.isfinite(values[at : at + 256]).any(0)
        return out


def _places(old: tuple[object, ...], new: tuple[object, ...]) -> np.ndarray:
    """Where each of `new` stands in `old`, -1 where it doesn't."""
    known = {one: place for place, one in enumerate(old)}
    return np.array([known.get(one, -1) for one in new], dtype=np.int64)
