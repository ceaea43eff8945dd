"""Consecutive rows of a table: read batch by batch, cut and joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foreshock.frame import Labels
from foreshock.sources.clock import Clock
from foreshock.sources.files import Table, numbers_of
from foreshock.sources.labels import Labeller, join_labels
from foreshock.sources.layout import Layout, Options

PIECE_ROWS = 65_536
_TURN_ROWS = 1024  # columns become rows in blocks that fit the cache: 2.5 times as fast as column by column


@dataclass(frozen=True, slots=True)
class Piece:
    """Some consecutive rows, before they become a Frame."""

    time_ns: np.ndarray  # (t,) int64
    values: np.ndarray  # (t, K) float64
    labels: Labels | None


def batches(
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


def wide(table: Table, layout: Layout, options: Options, rows: int) -> Iterator[Piece]:
    """The rows of a wide table as they stand."""
    clock = Clock(table.place, layout.stamp)
    labeller = Labeller(layout.labels, table.place)
    for row, batch in batches(table, layout, options, rows):
        time_ns = clock.read(batch.column(layout.stamp), row)
        labels = labeller.read(batch, row)
        yield Piece(time_ns, matrix(table, layout, batch, row), labels)


def matrix(table: Table, layout: Layout, batch: pa.RecordBatch, row: int) -> np.ndarray:
    """(t, K) float64, NaN where null."""
    columns = [numbers_of(batch.column(c), c, table, row) for c in layout.values]
    out = np.empty((batch.num_rows, len(columns)))
    for start in range(0, len(out), _TURN_ROWS):
        rows = slice(start, start + _TURN_ROWS)
        out[rows] = np.stack([c[rows] for c in columns], axis=1)
    return out


def join_pieces(pieces: list[Piece]) -> Piece:
    """All rows as one piece. Empties the list: pieces are let go once copied, so memory holds one table."""
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


def cut_piece(piece: Piece, start: int, stop: int) -> Piece:
    rows = slice(start, stop)
    return Piece(piece.time_ns[rows], piece.values[rows], piece.labels.take(rows) if piece.labels else None)


def take_rows(pieces: Iterator[Piece], most: int) -> list[Piece]:
    """The first `most` rows, reading no further than needed."""
    out: list[Piece] = []
    count = 0
    for piece in pieces:
        out.append(cut_piece(piece, 0, most - count))
        count += len(out[-1].time_ns)
        if count >= most:
            break
    return out


def rechunk(pieces: Iterator[Piece], rows: int) -> Iterator[Piece]:
    """Pieces of exactly `rows` rows; the last may be shorter."""
    held: list[Piece] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece.time_ns)
        if count < rows:
            continue
        whole, start = join_pieces(held), 0
        while count - start >= rows:
            yield cut_piece(whole, start, start + rows)
            start += rows
        held = [cut_piece(whole, start, count)] if start < count else []
        count -= start
    if count:
        yield join_pieces(held)
