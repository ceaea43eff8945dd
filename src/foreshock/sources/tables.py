"""CSV and Parquet tables as frames, whole or in pieces of bounded memory.

Not here: opening files (files), what columns are (layout), what stamps, names and labels mean (clock,
naming, labels).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from foreshock.errors import ResourceError, SourceError
from foreshock.frame import Frame, Kpi
from foreshock.sources.clock import step_of
from foreshock.sources.files import Table, open_table
from foreshock.sources.layout import Layout, Options, find_layout
from foreshock.sources.long import find_series, pivot
from foreshock.sources.naming import guess_unit, kpis_of
from foreshock.sources.pieces import PIECE_ROWS, Piece, join_pieces, rechunk, take_rows, wide

_LEFT_BYTES = 256 << 20  # a table is not read on when less memory than this is left
_HEAD_CELLS = 8_000_000  # step and units are told from about so many cells, in pieces and whole alike


def read_table(path: str | Path, options: Options | None = None) -> Frame:
    """The whole table as one frame; of a long table, sorted by time.

    Raises:
        SourceError: no table, a damaged one, or a cell that isn't what its column needs.
        ResourceError: memory runs out; `table_frames` reads tables of any length.
    """
    options = options or Options()
    table = open_table(Path(path))
    layout = find_layout(table, options)
    if layout.is_long:
        series = find_series(table, layout, options)
        pieces = _gather(table, pivot(table, layout, options, series, sort=True))
    else:
        series = {}
        pieces = _gather(table, wide(table, layout, options, PIECE_ROWS))
    whole = join_pieces(_some(table, pieces, options))
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
    series = find_series(table, layout, options) if layout.is_long else {}

    def pieces() -> Iterator[Piece]:
        if layout.is_long:
            return pivot(table, layout, options, series, sort=False)
        return wide(table, layout, options, min(rows, PIECE_ROWS))

    head = join_pieces(
        _some(table, take_rows(pieces(), _head_rows(len(series) or len(layout.values))), options)
    )
    kpis, step_s = _describe(layout, series, options, head)
    del head
    for piece in rechunk(pieces(), rows):
        yield Frame(piece.time_ns, piece.values, kpis, step_s, piece.labels, str(path))


def _gather(table: Table, pieces: Iterator[Piece]) -> list[Piece]:
    """All pieces, as long as memory lasts."""
    out: list[Piece] = []
    held = 0
    for piece in pieces:
        out.append(piece)
        held += piece.values.nbytes
        free = psutil.virtual_memory().available
        if held > _LEFT_BYTES and free < _LEFT_BYTES:
            rows = sum(len(p.time_ns) for p in out)
            raise ResourceError(
                f"{table.path}: {rows:,} rows fill {held / 2**30:.1f} GiB, and only "
                f"{free / 2**30:.1f} GiB of memory are left; read it in pieces "
                "(foreshock.sources.frames), or fewer rows (where=)."
            )
    return out


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


def _some(table: Table, pieces: list[Piece], options: Options) -> list[Piece]:
    if pieces:
        return pieces
    if options.where:
        raise SourceError(f"{table.path}: no row is left where {dict(options.where)}.")
    raise SourceError(f"{table.path} has a header but no rows; a table needs at least one.")
