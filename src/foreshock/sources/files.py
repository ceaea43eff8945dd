"""Files on disk as batches of columns: CSV (plain, gzip, zstd) and Parquet, told by content, not by name.

Every way in which a file can be broken ends here in one `SourceError` that names file and line.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from foreshock.errors import SourceError
from foreshock.sources.naming import shown

_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHER = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet); unpack it, or save the sheet as CSV",
    b"ARROW1": "an Arrow file; save it as Parquet",
    b"FEA1": "a Feather file; save it as Parquet",
    b"\x89HDF": "an HDF5 file; save the table as Parquet",
    b"\x93NUMPY": "a NumPy array; save it as CSV or Parquet with a time stamp column",
    b"BZh": "compressed with bzip2; use gzip or zstd",
    b"\xfd7zXZ": "compressed with xz; use gzip or zstd",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"%PDF": "a PDF; export the table as CSV",
    b"SQLite format": "an SQLite database; export the table as CSV",
}
_SAMPLE_BYTES = 1 << 18
_HEADER_BYTES = 1 << 26  # a longer first line is no header
_BLOCK_BYTES = 1 << 22
NULLS = ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A",
         "NA", "NULL", "NaN", "n/a", "nan", "null", "None", "none", "-")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """A file that can be walked through more than once, batch by batch."""

    path: str
    columns: tuple[str, ...]
    text: frozenset[str]  # columns whose first values are words, not numbers
    samples: dict[str, str]  # a first value of each column, for messages
    stamped: frozenset[str] = frozenset()  # columns of a time type (Parquet)
    compression: str | None = None  # of a CSV
    delimiter: str = ","
    decimal: str = "."
    is_parquet: bool = False

    def place(self, row: int) -> str:
        """Where a row stands, as an editor counts: `shop.csv:9`; `shop.parquet: row 7`."""
        return f"{self.path}: row {row}" if self.is_parquet else f"{self.path}:{row + 2}"

    def may_be_text(self, column: str) -> bool:
        """Words, as far as the first rows tell; after a CSV's empty first cells anything may follow."""
        return column in self.text or (not self.is_parquet and column not in self.samples)

    def walk(self, numbers: Sequence[str], words: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Batches with these columns; of about `rows` rows (Parquet) or some megabytes (CSV).

        Number columns of a CSV come as float64, or as text if a cell has blanks around it; `numbers_of`
        takes either.
        """
        if self.is_parquet:
            return _walk_parquet(self, [*words, *numbers], rows)
        return _walk_csv(self, list(numbers), list(words))


def open_table(path: Path) -> Table:
    """Look at a file's first bytes and header.

    Raises:
        SourceError: missing, a folder, empty, of another format, cut short, or with an unusable header.
    """
    with _reading(path):
        if path.is_dir():
            raise SourceError(f"{path} is a folder; a table is a CSV or Parquet file.")
        with path.open("rb") as f:
            magic = f.read(16)
    if not magic:
        raise SourceError(f"{path} is empty; a table needs a header line and rows.")
    for start, what in _OTHER.items():
        if magic.startswith(start):
            raise SourceError(f"{path} is {what}.")
    if magic.startswith(b"PAR1"):
        return _open_parquet(path)
    compression = next((c for start, c in _COMPRESSED.items() if magic.startswith(start)), None)
    return _open_csv(path, compression)


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError as e:
        raise SourceError(f"{path}: no such file.") from e
    except PermissionError as e:
        raise SourceError(f"{path}: no permission to read it.") from e
    except (OSError, ValueError, EOFError, pa.ArrowException) as e:
        text = str(e).splitlines()[0] if str(e) else type(e).__name__
        if "runcated" in text or "magic bytes" in text or "footer" in text or "EOF" in text:
            raise SourceError(f"{path} is cut short or damaged ({text}); copy or download it again.") from e
        raise SourceError(f"{path} can't be read: {text}") from e


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    seen: set[str] = set()
    for i, name in enumerate(columns):
        if name in seen:
            raise SourceError(f"{path}: the column {shown(name)} stands twice; rename one of the two.")
        if not name and i:
            raise SourceError(f"{path}: column {i + 1} of {len(columns)} has no name; name or remove it.")
        seen.add(name)


# ---- Parquet


def _open_parquet(path: Path) -> Table:
    with _reading(path), pq.ParquetFile(path) as f:
        schema = f.schema_arrow
        columns = tuple(schema.names)
        _check_columns(path, columns)
        words = [c for c, t in zip(columns, schema.types, strict=True) if _is_text(t)]
        text, samples = set(), {}
        if words and f.metadata.num_rows:
            head = next(f.iter_batches(256, columns=words))
            for name in words:
                values = [v for v in head.column(name).to_pylist() if v is not None]
                samples[name] = str(values[0]) if values else ""
                if not values or not all(_is_number(str(v)) for v in values):
                    text.add(name)
        typed = zip(columns, schema.types, strict=True)
        stamped = frozenset(c for c, t in typed if pa.types.is_timestamp(t) or pa.types.is_date(t))
    return Table(str(path), columns, frozenset(text), samples, stamped, is_parquet=True)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _walk_parquet(table: Table, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    # Buffered and not read ahead: a row group of a million rows must not come into memory whole.
    with _reading(table.path), pq.ParquetFile(table.path, buffer_size=1 << 20, pre_buffer=False) as f:
        yield from f.iter_batches(rows, columns=columns)


# ---- CSV


def _stream(table_path: Path | str, compression: str | None) -> pa.NativeFile:
    return pa.input_stream(str(table_path), compression=compression)


def _open_csv(path: Path, compression: str | None) -> Table:
    with _reading(path), _stream(path, compression) as f:
        start = f.read(_SAMPLE_BYTES)
        while b"\n" not in start and b"\r" not in start and len(start) < _HEADER_BYTES:
            more = f.read(len(start) or 1)
            if not more:
                break
            start += more
    if not start.strip():
        raise SourceError(f"{path} is empty; a table needs a header line and rows.")
    for magic, what in _OTHER.items():
        if start.startswith(magic):
            raise SourceError(f"{path} holds {what}.")
    if start.startswith(b"PAR1"):
        raise SourceError(f"{path} is a compressed Parquet file; unpack it first.")
    text = _decode(path, start)
    if text.lstrip()[:1] in ("{", "[", "<"):
        kind = "HTML or XML" if text.lstrip()[0] == "<" else "JSON"
        raise SourceError(f"{path} holds {kind}; save the table as CSV or Parquet.")
    header = text.splitlines()[0]
    delimiter = max(",;\t|", key=header.count) if any(d in header for d in ",;\t|") else ","
    rows = _sample_rows(path, text, delimiter)
    columns = tuple(rows[0])
    _check_columns(path, columns)
    cells = {c: [r[i].strip() for r in rows[1:] if i < len(r)] for i, c in enumerate(columns)}
    filled = {c: [v for v in vs if v not in NULLS] for c, vs in cells.items()}
    decimal = "," if delimiter != "," and _has_decimal_comma(filled.values()) else "."
    words = {c for c, vs in filled.items() if vs and not any(_is_number(v, decimal) for v in vs)}
    samples = {c: vs[0] for c, vs in filled.items() if vs}
    return Table(str(path), columns, frozenset(words), samples, frozenset(), compression, delimiter, decimal)


def _decode(path: Path, start: bytes) -> str:
    if b"\0" in start:
        line = start[: start.index(b"\0")].count(b"\n") + 1
        raise SourceError(f"{path}:{line}: a NUL byte; this is no CSV, or a damaged one.")
    # Whole lines only, so that the sample doesn't end inside a character or a cell.
    lines = start[: start.rfind(b"\n") + 1] or start
    try:
        return lines.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = lines[: e.start].count(b"\n") + 1
        raise SourceError(
            f"{path}:{line}: the byte 0x{lines[e.start]:02x} is not UTF-8; save the file as UTF-8."
        ) from e


def _sample_rows(path: Path, text: str, delimiter: str) -> list[list[str]]:
    try:
        rows = list(
            itertools.islice((r for r in csv.reader(io.StringIO(text), delimiter=delimiter) if r), 64)
        )
    except csv.Error as e:
        raise SourceError(f"{path}:1: not a line of CSV ({e}).") from e
    if not rows:
        raise SourceError(f"{path} is empty; a table needs a header line and rows.")
    if any("\n" in c or "\r" in c for c in rows[0]):
        raise SourceError(f"{path}:1: a column name runs over two lines, or a quote is not closed.")
    return rows


def _has_decimal_comma(columns: Any) -> bool:
    cells = [v for vs in columns for v in vs]
    return any(re.fullmatch(r"[+-]?\d+,\d+", v) for v in cells) and not any(
        re.fullmatch(r"[+-]?\d+\.\d+", v) for v in cells
    )


def _is_number(text: str, decimal: str = ".") -> bool:
    try:
        float(text.replace(decimal, "."))
    except ValueError:
        return text.lower() in ("true", "false")
    return "_" not in text


def _csv_batches(
    table: Table, numbers: list[str], words: list[str], as_text: bool
) -> Iterator[pa.RecordBatch]:
    types = dict.fromkeys(words, pa.string()) | dict.fromkeys(
        numbers, pa.string() if as_text else pa.float64()
    )
    convert = pyarrow.csv.ConvertOptions(
        column_types=types,
        include_columns=[*words, *numbers],
        null_values=list(NULLS),
        decimal_point=table.decimal if not as_text else ".",
    )
    # A row must fit a block; values are seldom eight times as long as their names.
    block = max(_BLOCK_BYTES, 8 * sum(len(c) + 20 for c in table.columns))
    read = pyarrow.csv.ReadOptions(block_size=min(block, 1 << 30))
    parse = pyarrow.csv.ParseOptions(delimiter=table.delimiter)
    with _stream(table.path, table.compression) as f, pyarrow.csv.open_csv(f, read, parse, convert) as reader:
        yield from reader


def _walk_csv(table: Table, numbers: list[str], words: list[str]) -> Iterator[pa.RecordBatch]:
    done = 0
    with _reading(table.path):
        try:
            for batch in _csv_batches(table, numbers, words, as_text=False):
                _check_lines(table, batch, words, done)
                yield batch
                done += batch.num_rows
            return
        except (pa.ArrowInvalid, UnicodeDecodeError) as e:
            _find_problem(table, numbers, words, done, str(e))
        # Nothing is wrong but blanks around numbers: go on from there, slower.
        seen = 0
        for batch in _csv_batches(table, numbers, words, as_text=True):
            if seen + batch.num_rows > done:
                _check_lines(table, batch, words, seen)
                yield batch.slice(max(0, done - seen))
            seen += batch.num_rows


def _check_lines(table: Table, batch: pa.RecordBatch, words: list[str], row: int) -> None:
    """An open quote would swallow the rows after it without a trace."""
    for name in words:
        broken = pc.match_substring(batch.column(name), "\n").fill_null(False)
        if broken.true_count:
            where = table.place(row + int(np.argmax(np.asarray(broken))))
            raise SourceError(f"{where}: {name} runs over several lines; a quote is not closed.")


def _find_problem(table: Table, numbers: list[str], words: list[str], rows_fine: int, told: str) -> None:
    """Walk the lines after the `rows_fine` good ones and raise at the first that is wrong."""
    index = [(table.columns.index(c), c) for c in numbers]
    width = len(table.columns)
    with _stream(table.path, table.compression) as raw:
        lines = io.BufferedReader(raw)
        for _ in itertools.islice(lines, 1 + rows_fine):
            pass
        for number, line in enumerate(lines, 2 + rows_fine):
            place = f"{table.path}:{number}"
            if b"\0" in line:
                raise SourceError(f"{place}: a NUL byte; the file is damaged.")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as e:
                raise SourceError(
                    f"{place}: the byte 0x{line[e.start]:02x} is not UTF-8; save the file as UTF-8."
                ) from e
            if not text.strip():
                continue
            try:
                cells = next(csv.reader([text], delimiter=table.delimiter))
            except csv.Error as e:
                raise SourceError(f"{place}: not a line of CSV ({e}).") from e
            if len(cells) != width:
                raise SourceError(f"{place}: {len(cells)} cells where the header has {width}.")
            for i, name in index:
                cell = cells[i].strip()
                if cell not in NULLS and not _is_number(cell, table.decimal):
                    raise SourceError(f"{place}: {name} is {shown(cell)}; {advice(cell)}")
    if "conversion error" not in told:
        raise SourceError(f"{table.path} can't be read as CSV: {told.splitlines()[0]}")


def advice(cell: str) -> str:
    """What to do about a cell that is no number."""
    if re.fullmatch(r"[+-]?\d{1,3}([,' ]\d{3})+(\.\d+)?", cell):
        return "write numbers without a thousands separator."
    if re.fullmatch(r"[+-]?\d+,\d+", cell):
        return "write a decimal point, not a comma."
    if re.fullmatch(r"[+-]?[\d.]+\s*[%a-zA-Z]+", cell):
        return "write the number without its unit."
    return "it must be a number, or empty where nobody observed it."


def numbers_of(column: pa.Array, name: str, table: Table, row: int) -> np.ndarray:
    """(t,) float64 of a column, NaN where it is null.

    Args:
        row: of the column's first value in the table, for messages.

    Raises:
        SourceError: the column holds something that is no number.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if (
        pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_float16(kind)
    ):
        column = column.cast(pa.float64())
    elif _is_text(kind):
        return _parse_numbers(column, name, table, row)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise SourceError(f"{table.path}: column {name!r} has type {kind}; a KPI holds numbers.")
    out: np.ndarray = column.to_numpy(zero_copy_only=False)
    return out.astype(np.float64, copy=False)


def _parse_numbers(column: pa.Array, name: str, table: Table, row: int) -> np.ndarray:
    words = pc.utf8_trim_whitespace(column.cast(pa.string()))
    if table.decimal == ",":
        words = pc.replace_substring(words, ",", ".")
    words = pc.if_else(pc.is_in(words, value_set=pa.array(NULLS)), pa.scalar(None, pa.string()), words)
    for word, number in (("true", "1"), ("false", "0")):
        words = pc.if_else(pc.equal(pc.utf8_lower(words), word), number, words)
    try:
        out: np.ndarray = words.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return out
    except pa.ArrowInvalid:
        pass
    out = np.full(len(words), np.nan)
    for i, word in enumerate(words.to_pylist()):
        if word is None:
            continue
        if not _is_number(word):
            raise SourceError(f"{table.place(row + i)}: {name} is {shown(word)}; {advice(word)}")
        out[i] = float(word)
    return out
