"""Long tables turned wide: rows of equal stamps become one, in any order or in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from foreshock.errors import SourceError
from foreshock.frame import Labels
from foreshock.sources.clock import Clock
from foreshock.sources.files import Table, numbers_of
from foreshock.sources.labels import Labeller, join_labels
from foreshock.sources.layout import Layout, Options
from foreshock.sources.pieces import PIECE_ROWS, Piece, batches, matrix


def find_series(table: Table, layout: Layout, options: Options) -> dict[tuple[str, str], int]:
    """(service, metric) → column, in order of appearance; walks the whole table once."""
    out: dict[tuple[str, str], int] = {}
    for row, batch in batches(table, layout, options, PIECE_ROWS):
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
    for row, batch in batches(table, layout, options, PIECE_ROWS):
        time_ns = clock.read(batch.column(layout.stamp), row)
        labels = labeller.read(batch, row)
        codes, pairs = _pairs(table, layout, batch, row)
        every = np.arange(len(time_ns))
        if layout.metric:
            columns = np.array([series[p] for p in pairs])
            value = numbers_of(batch.column(layout.values[0]), layout.values[0], table, row)
            yield _Cells(time_ns, columns[codes], value, every, labels)
            continue
        cells = matrix(table, layout, batch, row)  # (t, M): one row a service
        columns = np.array([[series[s, m] for m in layout.values] for s, _ in pairs])
        width = len(layout.values)
        yield _Cells(
            np.repeat(time_ns, width), columns[codes].ravel(), cells.ravel(), np.repeat(every, width), labels
        )


def pivot(
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
