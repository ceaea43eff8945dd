"""From written time stamps to UTC nanoseconds: ISO 8601, Unix seconds to nanoseconds, Arrow stamps.

Stamps without a zone are UTC. A table in which some stamps carry a zone and some none is refused:
nobody can tell where the bare ones belong.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from foreshock.errors import SourceError
from foreshock.sources.naming import shown

DAY_NS = 86_400_000_000_000
LATEST_NS = 84_006 * DAY_NS  # 2200-01-01: later than that, the unit was guessed wrongly
UNKNOWN_STEP_S = 60.0  # the step of a table with a single stamp

_ZONED = r"[T ]\d{2}.*?\s*(?:[Zz]|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$"
_NO_STAMP = "is empty; every row needs a time stamp. Drop the row or fill it in."
_DATED = r"^\d{4}-\d{2}-\d{2}|^\d{8}T"
_NS_PER_UNIX = {"s": 1_000_000_000, "ms": 1_000_000, "µs": 1_000, "ns": 1}


class Clock:
    """Reads the stamps of one table, piece by piece, and holds every piece to the first one's style."""

    def __init__(self, place: Callable[[int], str], column: str) -> None:
        self.place = place  # row → "file:line", for messages
        self.column = column
        self.style = ""  # "", "unix s|ms|µs|ns", "zoned" or "naive"
        self.first = ""  # the first stamp as written
        self.row = 0  # of the piece being read

    def read(self, stamps: pa.Array, row: int = 0) -> np.ndarray:
        """(t,) int64 nanoseconds UTC.

        Args:
            row: of the first stamp in the table, for messages.

        Raises:
            SourceError: a stamp is missing, not readable, out of range, or of another style than the first.
        """
        if pa.types.is_dictionary(stamps.type):
            stamps = stamps.dictionary_decode()
        self.row = row
        if stamps.null_count:
            row = int(np.argmax(np.asarray(stamps.is_null())))
            raise self._error(row, _NO_STAMP)
        kind = stamps.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            out = self._arrow(stamps)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            out = self._unix(stamps)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            out = self._text(stamps)
        else:
            raise SourceError(
                f"{self.place(0)}: the time column {self.column!r} has type {kind}; "
                "it must hold ISO 8601 text, Unix numbers or time stamps."
            )
        return out

    def _error(self, row: int, what: str) -> SourceError:
        return SourceError(f"{self.place(self.row + row)}: {self.column} {what}")

    def _arrow(self, stamps: pa.Array) -> np.ndarray:
        zone = getattr(stamps.type, "tz", None)
        try:
            out: np.ndarray = np.asarray(stamps.cast(pa.timestamp("ns", tz=zone)).cast(pa.int64()))
        except pa.ArrowInvalid as e:
            raise self._error(0, "or after lies outside the years 1678..2261.") from e
        return out

    def _unix(self, stamps: pa.Array) -> np.ndarray:
        raw = np.asarray(stamps.cast(pa.float64()) if not pa.types.is_integer(stamps.type) else stamps)
        finite = np.isfinite(raw) if raw.dtype.kind == "f" else np.ones(len(raw), dtype=bool)
        if not finite.all():
            row = int(np.argmin(finite))
            raise self._error(row, f"({raw[row]}) is not a time stamp.")
        if len(raw):
            self._one_unit(raw)
        factor = _NS_PER_UNIX[(self.style or "unix s").removeprefix("unix ")]
        out_of_range = (raw.astype(np.float64) * factor > LATEST_NS) | (raw.astype(np.float64) < 0)
        if out_of_range.any():
            row = int(np.argmax(out_of_range))
            raise self._error(
                row,
                f"({raw[row]}) is not a {self.style} stamp between 1970 and 2200; write ISO 8601 instead.",
            )
        if raw.dtype.kind != "f":
            exact: np.ndarray = raw.astype(np.int64) * factor
            return exact
        whole = np.floor(raw)
        # To the microsecond: a float64 of Unix seconds holds no more.
        step = max(1, 1000 if factor > 1000 else 1)
        part = np.round((raw - whole) * factor / step).astype(np.int64) * step
        nanoseconds: np.ndarray = whole.astype(np.int64) * factor + part
        return nanoseconds

    def _one_unit(self, raw: np.ndarray) -> None:
        """Seconds and milliseconds in one column would put rows decades apart."""
        sizes = np.abs(raw.astype(np.float64))
        units = [_unix_unit(s) for s in (sizes[0], sizes.min(), sizes.max())]
        self.style = self.style or f"unix {units[0] if sizes[0] else units[2]}"
        self.first = self.first or str(raw[0])
        for unit, row in zip(units[1:], (int(sizes.argmin()), int(sizes.argmax())), strict=True):
            if f"unix {unit}" != self.style and sizes[row]:
                raise self._error(
                    row,
                    f"({raw[row]}) looks like Unix {unit}, the first stamp ({self.first}) like "
                    f"{self.style.removeprefix('unix ')}; write all in one unit.",
                )

    def _text(self, stamps: pa.Array) -> np.ndarray:
        stamps = pc.utf8_trim_whitespace(stamps)
        if self.style.startswith("unix") or (not self.style and _looks_numeric(stamps)):
            return self._unix(self._numbers(stamps))
        empty = np.asarray(pc.equal(stamps, ""))
        if empty.any():
            raise self._error(int(np.argmax(empty)), _NO_STAMP)
        dated = np.asarray(pc.match_substring_regex(stamps, _DATED))
        if not dated.all():
            raise self._unreadable(stamps, int(np.argmin(dated)))
        zoned = np.asarray(pc.match_substring_regex(stamps, _ZONED))
        if len(zoned):
            self._same_zones(stamps, zoned)
        return self._parse(stamps)

    def _numbers(self, stamps: pa.Array) -> pa.Array:
        for kind in (pa.int64(), pa.float64()):
            try:
                return stamps.cast(kind)
            except pa.ArrowInvalid:
                continue
        numeric = pd.to_numeric(pd.Series(stamps.to_pylist(), dtype=object), errors="coerce")
        row = int(np.argmax(numeric.isna().to_numpy()))
        raise self._unreadable(stamps, row) if stamps[row].as_py() else self._error(row, _NO_STAMP)

    def _unreadable(self, stamps: pa.Array, row: int) -> SourceError:
        return self._error(
            row,
            f"is {shown(stamps[row].as_py())}; a time stamp is ISO 8601 such as 2026-05-02T14:00:00Z, "
            "or Unix seconds, milli-, micro- or nanoseconds.",
        )

    def _same_zones(self, stamps: pa.Array, zoned: np.ndarray) -> None:
        expected = self.style or ("zoned" if zoned[0] else "naive")
        other = zoned != (expected == "zoned")
        first = self.first or stamps[0].as_py()
        if other.any():
            row = int(np.argmax(other))
            has, had = ("a zone", "none") if zoned[row] else ("no zone", "one")
            raise self._error(
                row,
                f"({stamps[row].as_py()!r}) has {has}, the first stamp ({first!r}) has {had}; "
                "write an offset or Z on every stamp, or on none (then all are UTC).",
            )
        self.style, self.first = expected, first

    def _parse(self, stamps: pa.Array) -> np.ndarray:
        text = pd.Series(stamps.to_pandas(), dtype="str")
        got = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
        if got.isna().any():
            # Go prints `2022-08-22 03:51:19.6 +0000 UTC m=+0.1`; ISO knows neither the name nor the counter.
            plain = text.str.replace(r"\s*m=[+-][\d.]+$", "", regex=True)
            plain = plain.str.replace(r"\s*[+-]0000 (?:UTC|GMT)$|\s*(?:UTC|GMT)$", "Z", regex=True)
            got = pd.to_datetime(plain, format="ISO8601", utc=True, errors="coerce")
        bad = got.isna().to_numpy()
        if bad.any():
            raise self._unreadable(stamps, int(np.argmax(bad)))
        years = got.dt.year.to_numpy()
        if len(years) and (years.min() < 1700 or years.max() > 2200):
            row = int(np.argmax((years < 1700) | (years > 2200)))
            raise self._error(row, f"is {stamps[row].as_py()!r}; stamps must lie between 1700 and 2200.")
        out: np.ndarray = got.dt.tz_localize(None).to_numpy().astype("datetime64[ns]").view(np.int64)
        return out


def _looks_numeric(stamps: pa.Array) -> bool:
    if not len(stamps):
        return False
    return bool(pc.match_substring_regex(stamps[:1], r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$")[0].as_py())


def _unix_unit(size: float) -> str:
    """Told by size: today is 1.8e9 s, 1.8e12 ms, 1.8e15 µs, 1.8e18 ns."""
    return "s" if size < 1e11 else "ms" if size < 1e14 else "µs" if size < 1e17 else "ns"


def step_of(time_ns: np.ndarray) -> float:
    """The usual distance of two rows, seconds: the median positive one, so gaps and jitter don't move it.

    A median within 2 % of a whole second (below one second: of a whole millisecond) is that number.
    A single stamp tells nothing: 60 s.
    """
    gaps = np.diff(np.unique(time_ns))
    if not len(gaps):
        return UNKNOWN_STEP_S
    step = float(np.median(gaps)) / 1e9
    unit = 1.0 if step >= 1 else 1e-3
    near = round(step / unit) * unit
    return near if near > 0 and abs(step - near) <= 0.02 * step else step
