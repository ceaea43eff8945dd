"""CSV and Parquet tables as frames: wide and long, whole or in pieces of bounded memory.

Wide: a time stamp and one column a KPI. Long: a row a value (`timestamp, [service], metric, value`), or
a row a service (`timestamp, service, cpu, memory, …`); both are turned wide.
Not here: opening files (files), what stamps, names and labels mean (clock, naming, labels).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foreshock.errors import SourceError
from foreshock.frame import Frame, Kpi, Labels
from foreshock.sources.clock import Clock, step_of
from foreshock.sources.files import Table, numbers_of, open_table
from foreshock.sources.labels import Labeller, is_label_name, join_labels, label_columns
from foreshock.sources.naming import ServiceRules, guess_unit, kpis_of, names_shown

STAMP_NAMES = (
    "timestamp",
    "time",
    "datetime",
    "date_time",
    "ts",
    "_time",
    "@timestamp",
    "date",
    "epoch",
    "t",
)
OTHER_STAMPS = ("timestamp", "datetime", "date_time", "@timestamp", "epoch")  # beside another one: no KPI
METRIC_NAMES = ("metric", "kpi", "metric_name", "kpi_name", "__name__", "name", "variable")
VALUE_NAMES = ("value", "values", "val", "metric_value", "kpi_value", "_value")
SERVICE_NAMES = ("service", "service_name", "cmdb_id", "component", "pod", "podname", "container", "entity",
                 "host", "instance", "node", "job")  # fmt: skip
PIECE_ROWS = 65_536
_TURN_ROWS = 1024  # columns become rows in blocks that fit the cache: 2.5 times as fast as column by column
_HEAD_CELLS = 8_000_000  # step and units are told from about so many cells, in pieces and whole alike


@dataclass(frozen=True, slots=True)
class Options:
    """How to read a table; every default fits an ordinary one.

    `services` are rules, see `naming.parse_rules`. `timestamp` names the time column. `where` keeps the
    rows whose text columns hold these words. `day` picks one day of a folder that holds several.
    """

    services: ServiceRules | None = None
    timestamp: str | None = None
    where: Mapping[str, str] | None = None
    day: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column is what."""

    stamp: str
    values: tuple[str, ...]  # KPI columns; of a long table its one value column
    labels: dict[str, str]  # role → column
    words: tuple[str, ...]  # every column read as text: stamp, labels, filters, metric and service names
    metric: str = ""  # long: the column with the names of metrics
    service: str = ""  # long: the column with the names of services

    @property
    def is_long(self) -> bool:
        return bool(self.metric or self.service)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some consecutive rows, before they become a Frame."""

    time_ns: np.ndarray  # (t,) int64
    values: np.ndarray  # (t, K) float64
    labels: Labels | None


def read_table(path: str | Path, options: Options | None = None) -> Frame:
    """The whole table as one frame; of a long table, sorted by time.

    Raises:
        SourceError: no table, a damaged one, or a cell that isn't what its column needs.
    """
    options = options or Options()
    table = open_table(Path(path))
    layout = find_layout(table, options)
    if layout.is_long:
        series = _series(table, layout, options)
        pieces = list(_pivot(table, layout, options, series, sort=True))
    else:
        series = {}
        pieces = list(_wide(table, layout, options, PIECE_ROWS))
    whole = _join(_some(table, pieces, options))
    kpis, step_s = _describe(layout, series, options, whole)
    return Frame(whole.time_ns, whole.values, kpis, step_s, whole.labels, str(path))


def table_frames(path: str | Path, rows: int = PIECE_ROWS, options: Options | None = None) -> Iterator[Frame]:
    """The same table in pieces of `rows` rows (the last may be shorter), never all in memory.

    Raises:
        SourceError: as `read_table`, when the piece with the trouble is asked for; also for a long
            table whose stamps fall back in time, which only the whole could sort out.
    """
    if rows < 1:
        raise SourceError(f"pieces of {rows} rows were asked for; a piece needs at least 1.")
    options = options or Options()
    table = open_table(Path(path))
    layout = find_layout(table, options)
    series = _series(table, layout, options) if layout.is_long else {}

    def pieces() -> Iterator[Piece]:
        if layout.is_long:
            return _pivot(table, layout, options, series, sort=False)
        return _wide(table, layout, options, min(rows, PIECE_ROWS))

    head = _join(_some(table, _take(pieces(), _head_rows(len(series) or len(layout.values))), options))
    kpis, step_s = _describe(layout, series, options, head)
    del head
    for piece in _rechunk(pieces(), rows):
        yield Frame(piece.time_ns, piece.values, kpis, step_s, piece.labels, str(path))


# ---- what is in the table


def find_layout(table: Table, options: Options) -> Layout:
    """Tell stamp, KPI, label and name columns apart.

    Raises:
        SourceError: no time column, no KPI column, or a text column nobody can use.
    """
    stamp = _find_stamp(table, options.timestamp)
    where = dict(options.where or {})
    for name in where:
        if name not in table.columns:
            raise SourceError(f"{table.path} has no column {name!r} to filter on; {_has(table)}")
    labels = label_columns(table.columns, table.text.__contains__)
    skip = {stamp, *where, *(c for c in table.columns if is_label_name(c) and labels)}
    skip |= {c for c in table.columns if _is_row_number(c) or _plain(c) in OTHER_STAMPS}
    skip |= {c for c in table.text | table.stamped if _plain(c) in STAMP_NAMES}
    rest = [c for c in table.columns if c not in skip]
    words = [c for c in rest if c in table.text]
    numbers = [c for c in rest if c not in table.text]
    metric = _named(METRIC_NAMES, words)
    value = _named(VALUE_NAMES, numbers)
    service = _named(SERVICE_NAMES, [w for w in words if w != metric])
    if metric and value:
        numbers = [value]
    else:
        metric = ""
        spare = [w for w in words if w != service]
        if spare:
            raise SourceError(
                f"{table.path}: column {spare[0]!r} holds text ({table.samples.get(spare[0], '')!r}), "
                f"a KPI holds numbers. Remove it, or keep the rows of one value: where={{{spare[0]!r}: …}}."
            )
    if not numbers:
        raise SourceError(f"{table.path} has no KPI column beside {stamp!r}; {_has(table)}")
    names = [n for n in (metric, service) if n]
    text = tuple(dict.fromkeys([stamp, *names, *labels.values(), *where]))
    return Layout(stamp, tuple(numbers), labels, text, metric, service)


def _find_stamp(table: Table, wanted: str | None) -> str:
    if wanted is not None:
        if wanted in table.columns:
            return wanted
        raise SourceError(f"{table.path} has no column {wanted!r} for the time stamp; {_has(table)}")
    named = [c for c in table.columns if _plain(c) in STAMP_NAMES]
    written = [c for c in named if c in table.text or c in table.stamped]
    found = _named(STAMP_NAMES, written) or _named(STAMP_NAMES, named)
    if found:
        return found
    if len(table.stamped) == 1:
        return next(iter(table.stamped))
    if _is_row_number(table.columns[0]) and table.columns[0] in table.text:
        return table.columns[0]
    if all(c.replace(".", "").replace("-", "").isdigit() for c in table.columns):
        raise SourceError(
            f"{table.path}:1: the first line holds numbers; a header with column names must come first."
        )
    raise SourceError(
        f"{table.path} has no time stamp column (such as 'timestamp', 'time' or 'datetime'); {_has(table)} "
        "Name it: timestamp='…'."
    )


def _has(table: Table) -> str:
    return f"its columns are {names_shown(table.columns)}."


def _named(candidates: tuple[str, ...], columns: tuple[str, ...] | list[str]) -> str:
    plain = {_plain(c): c for c in reversed(columns)}
    return next((plain[c] for c in candidates if c in plain), "")


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _is_row_number(name: str) -> bool:
    """Is this how pandas calls an index without a name?"""
    return name in ("", "index", "__index_level_0__") or name.startswith("Unnamed:")


def _describe(
    layout: Layout, series: dict[tuple[str, str], int], options: Options, piece: Piece
) -> tuple[tuple[Kpi, ...], float]:
    """KPIs with units, and the step, from the table's first rows."""
    if not layout.is_long:
        kpis = kpis_of(layout.values, options.services)
    elif layout.service:
        kpis = tuple(
            replace(kpis_of([f"{s}__{m}"])[0], service=s, metric=m) if s else kpis_of([m])[0]
            for s, m in series
        )
    else:
        kpis = kpis_of([m for _, m in series], options.services)
    head = slice(0, _head_rows(len(kpis)))
    values = piece.values[head]
    kpis = tuple(replace(k, unit=guess_unit(k, values[:, i])) for i, k in enumerate(kpis))
    return kpis, step_of(piece.time_ns[head])


def _head_rows(kpis: int) -> int:
    return max(256, min(PIECE_ROWS, _HEAD_CELLS // max(1, kpis)))


# ---- wide


def _batches(
    table: Table, layout: Layout, options: Options, rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(row of the first, batch), after the filter."""
    row = 0
    for batch in table.walk(layout.values, layout.words, rows):
        start, row = row, row + batch.num_rows
        for name, word in (options.where or {}).items():
            batch = batch.filter(pc.equal(batch.column(name).cast(pa.string()), str(word)))
        if batch.num_rows:
            yield start, batch


def _wide(table: Table, layout: Layout, options: Options, rows: int) -> Iterator[Piece]:
    clock = Clock(table.place, layout.stamp)
    labeller = Labeller(layout.labels, table.place)
    for row, batch in _batches(table, layout, options, rows):
        time_ns = clock.read(batch.column(layout.stamp), row)
        labels = labeller.read(batch, row)
        yield Piece(time_ns, _matrix(table, layout, batch, row), labels)


def _matrix(table: Table, layout: Layout, batch: pa.RecordBatch, row: int) -> np.ndarray:
    """(t, K) float64, NaN where null."""
    columns = [numbers_of(batch.column(c), c, table, row) for c in layout.values]
    out = np.empty((batch.num_rows, len(columns)))
    for start in range(0, len(out), _TURN_ROWS):
        rows = slice(start, start + _TURN_ROWS)
        out[rows] = np.stack([c[rows] for c in columns], axis=1)
    return out


# ---- long


def _series(table: Table, layout: Layout, options: Options) -> dict[tuple[str, str], int]:
    """(service, metric) → column, in order of appearance; walks the whole table once."""
    out: dict[tuple[str, str], int] = {}
    for row, batch in _batches(table, layout, options, PIECE_ROWS):
        for service, metric in _pairs(table, layout, batch, row)[1]:
            for name in [metric] if layout.metric else layout.values:
                out.setdefault((service, name), len(out))
    return out


def _pairs(
    table: Table, layout: Layout, batch: pa.RecordBatch, row: int
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """((t,) which of the pairs each row is about, the distinct (service, metric) pairs)."""
    codes, words = np.zeros(batch.num_rows, dtype=np.int64), [[""], [""]]
    for part, name in enumerate((layout.service, layout.metric)):
        if not name:
            continue
        column = batch.column(name).cast(pa.string())
        if column.null_count:
            empty = row + int(np.argmax(np.asarray(column.is_null())))
            raise SourceError(f"{table.place(empty)}: {name} is empty; every row of a long table names one.")
        coded = column.dictionary_encode()
        words[part] = coded.dictionary.to_pylist()
        codes = codes * len(words[part]) + np.asarray(coded.indices)
    distinct, codes = np.unique(codes, return_inverse=True)
    # In order of first appearance, so that KPIs stand as in the file.
    first = np.full(len(distinct), len(codes))
    np.minimum.at(first, codes, np.arange(len(codes)))
    rank = np.argsort(first)
    place = np.empty_like(rank)
    place[rank] = np.arange(len(rank))
    width = len(words[1])
    return place[codes], [(words[0][d // width], words[1][d % width]) for d in distinct[rank]]


@dataclass(frozen=True, slots=True)
class _Cells:
    """Cells of a long table: one entry a value."""

    time_ns: np.ndarray  # (n,)
    column: np.ndarray  # (n,)
    value: np.ndarray  # (n,)
    label: np.ndarray  # (n,) which row of labels tells about it
    labels: Labels | None


def _cells(
    table: Table, layout: Layout, options: Options, series: dict[tuple[str, str], int]
) -> Iterator[_Cells]:
    clock = Clock(table.place, layout.stamp)
    labeller = Labeller(layout.labels, table.place)
    for row, batch in _batches(table, layout, options, PIECE_ROWS):
        time_ns = clock.read(batch.column(layout.stamp), row)
        labels = labeller.read(batch, row)
        codes, pairs = _pairs(table, layout, batch, row)
        every = np.arange(len(time_ns))
        if layout.metric:
            columns = np.array([series[p] for p in pairs])
            value = numbers_of(batch.column(layout.values[0]), layout.values[0], table, row)
            yield _Cells(time_ns, columns[codes], value, every, labels)
            continue
        matrix = _matrix(table, layout, batch, row)  # (t, M): one row a service
        columns = np.array([[series[s, m] for m in layout.values] for s, _ in pairs])
        wide = len(layout.values)
        yield _Cells(
            np.repeat(time_ns, wide), columns[codes].ravel(), matrix.ravel(), np.repeat(every, wide), labels
        )


def _pivot(
    table: Table, layout: Layout, options: Options, series: dict[tuple[str, str], int], sort: bool
) -> Iterator[Piece]:
    """Rows of equal stamps become one; with `sort` the whole table at once, in any order."""
    held: list[_Cells] = []
    names = [f"{s}__{m}" if s else m for s, m in series]
    for cells in _cells(table, layout, options, series):
        held.append(cells)
        if sort:
            continue
        joined = _join_cells(held)
        latest = joined.time_ns.max()
        fallen = np.diff(joined.time_ns) < 0
        if fallen.any():
            stamp = np.datetime64(int(joined.time_ns[np.argmax(fallen) + 1]), "ns")
            raise SourceError(
                f"{table.path}: the stamps of this long table fall back at {stamp}Z; "
                "sort it by time, or read it whole."
            )
        done = joined.time_ns < latest  # more rows of the last stamp may follow
        if done.any():
            yield _turn(table, _pick(joined, done), names)
        held = [_pick(joined, ~done)]
    if held:
        yield _turn(table, _join_cells(held), names)


def _join_cells(parts: list[_Cells]) -> _Cells:
    if len(parts) == 1:
        return parts[0]
    labels = [p.labels for p in parts if p.labels is not None]
    starts = (
        np.cumsum([0, *(len(lab.anomaly) for lab in labels)]) if labels else np.zeros(len(parts), dtype=int)
    )
    return _Cells(
        np.concatenate([p.time_ns for p in parts]),
        np.concatenate([p.column for p in parts]),
        np.concatenate([p.value for p in parts]),
        np.concatenate([p.label + starts[i] for i, p in enumerate(parts)]),
        join_labels(labels) if labels else None,
    )


def _pick(cells: _Cells, rows: np.ndarray) -> _Cells:
    label = cells.label[rows]
    labels = cells.labels
    if labels is not None and len(label):
        kept, label = np.unique(label, return_inverse=True)
        labels = labels.take(kept)
    return _Cells(cells.time_ns[rows], cells.column[rows], cells.value[rows], label, labels)


def _turn(table: Table, cells: _Cells, names: list[str]) -> Piece:
    """Cells to rows.

    Raises:
        SourceError: the same KPI at the same stamp twice, with different values.
    """
    time_ns, row = np.unique(cells.time_ns, return_inverse=True)
    values = np.full((len(time_ns), len(names)), np.nan)
    told = ~np.isnan(cells.value)
    row, column, value = row[told], cells.column[told], cells.value[told]
    values[row, column] = value
    clash = values[row, column] != value
    if clash.any():
        i = int(np.argmax(clash))
        stamp = np.datetime64(int(time_ns[row[i]]), "ns")
        raise SourceError(
            f"{table.path}: {names[column[i]]!r} stands twice at {stamp}Z, as "
            f"{value[i]:g} and {values[row[i], column[i]]:g}; keep one, or tell the series apart with where=."
        )
    return Piece(time_ns, values, _row_labels(cells, len(time_ns)))


def _row_labels(cells: _Cells, rows: int) -> Labels | None:
    """Of each stamp the label row that is anomalous, else the first."""
    if cells.labels is None:
        return None
    _, row = np.unique(cells.time_ns, return_inverse=True)
    order = np.argsort(~cells.labels.anomaly[cells.label], kind="stable")[::-1]
    pick = np.zeros(rows, dtype=np.int64)
    pick[row[order]] = cells.label[order]  # the last written wins: anomalous first in `order` reversed
    return cells.labels.take(pick)


# ---- pieces


def _some(table: Table, pieces: list[Piece], options: Options) -> list[Piece]:
    if pieces:
        return pieces
    if options.where:
        raise SourceError(f"{table.path}: no row is left where {dict(options.where)}.")
    raise SourceError(f"{table.path} has a header but no rows; a table needs at least one.")


def _join(pieces: list[Piece]) -> Piece:
    """All rows as one piece. Empties the list: each piece is let go once copied, so memory holds one table."""
    if len(pieces) == 1:
        return pieces.pop()
    time_ns = np.concatenate([p.time_ns for p in pieces])
    labels = [p.labels for p in pieces if p.labels is not None]
    values = np.empty((len(time_ns), pieces[0].values.shape[1]))
    stop = len(values)
    while pieces:
        part = pieces.pop().values
        values[stop - len(part) : stop] = part
        stop -= len(part)
    return Piece(time_ns, values, join_labels(labels) if labels else None)


def _cut(piece: Piece, start: int, stop: int) -> Piece:
    rows = slice(start, stop)
    return Piece(piece.time_ns[rows], piece.values[rows], piece.labels.take(rows) if piece.labels else None)


def _take(pieces: Iterator[Piece], most: int) -> list[Piece]:
    """The first `most` rows, reading no further than needed."""
    out: list[Piece] = []
    count = 0
    for piece in pieces:
        out.append(_cut(piece, 0, most - count))
        count += len(out[-1].time_ns)
        if count >= most:
            break
    return out


def _rechunk(pieces: Iterator[Piece], rows: int) -> Iterator[Piece]:
    held: list[Piece] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece.time_ns)
        if count < rows:
            continue
        whole, start = _join(held), 0
        while count - start >= rows:
            yield _cut(whole, start, start + rows)
            start += rows
        held = [_cut(whole, start, count)] if start < count else []
        count -= start
    if count:
        yield _join(held)
