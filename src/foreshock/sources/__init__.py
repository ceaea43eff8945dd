"""read(uri): any source as a Frame; frames(uri): the same in pieces of bounded memory.

A source is two functions in SOURCES, found by the scheme before the colon; no scheme is a file or folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from urllib.parse import unquote

from foreshock.errors import SourceError
from foreshock.frame import Frame
from foreshock.sources.layout import Options
from foreshock.sources.naming import ServiceRules
from foreshock.sources.nezha import read_recording
from foreshock.sources.pieces import PIECE_ROWS
from foreshock.sources.tables import read_table, table_frames

__all__ = ["SOURCES", "Options", "Source", "frames", "read"]


@dataclass(frozen=True, slots=True)
class Source:
    """How one scheme is read. Without `frames`, pieces are cut from the whole."""

    read: Callable[[str, Options], Frame]
    frames: Callable[[str, int, Options], Iterator[Frame]] | None = None


def read(
    uri: str | PathLike[str],
    *,
    services: ServiceRules | None = None,
    timestamp: str | None = None,
    where: Mapping[str, str] | None = None,
    ignore: Sequence[str] | None = None,
    day: str | None = None,
) -> Frame:
    """Read a metrics table.

    Args:
        uri: a CSV (plain, gzip, zstd) or Parquet file, a Nezha folder, or `demo:`.
        services: which service a column belongs to, where its name doesn't tell: `{"cart_*": "cart"}`,
            `["cart_*=cart", "re:^(ts-\\w+)_=\\1", "payment"]`, or one such string with commas.
        timestamp: the time column, if it has an unusual name. Stamps without a zone are UTC.
        where: keep the rows whose text columns hold these words: `{"entity": "machine-1-6"}`.
        ignore: columns to leave out, such as notes in words.
        day: which day of a folder with several, as `2022-08-22`.

    Returns:
        Rows and stamps as they stand in the source, unsorted and doubled ones too: see `quality.inspect`.
        Label columns are in `Frame.labels` and never among the values. NaN: nobody observed it.

    Raises:
        SourceError: not there, not a metrics table, or damaged; with file and line where one is to blame.
    """
    source, rest = _find(uri)
    return source.read(rest, Options(services, timestamp, where, day, ignore))


def frames(
    uri: str | PathLike[str],
    rows: int = PIECE_ROWS,
    *,
    services: ServiceRules | None = None,
    timestamp: str | None = None,
    where: Mapping[str, str] | None = None,
    ignore: Sequence[str] | None = None,
    day: str | None = None,
) -> Iterator[Frame]:
    """The same table as `read` gives, in pieces of `rows` rows (the last may be shorter), in bounded memory.

    Every piece has the same KPIs, units and step. Arguments and errors as `read`.
    """
    source, rest = _find(uri)
    options = Options(services, timestamp, where, day, ignore)
    if rows < 1:
        raise SourceError(f"pieces of {rows} rows were asked for; a piece needs at least 1.")
    if source.frames is not None:
        return source.frames(rest, rows, options)
    return _cut(source.read(rest, options), rows)


def _cut(frame: Frame, rows: int) -> Iterator[Frame]:
    for start in range(0, len(frame), rows):
        yield frame.rows(slice(start, start + rows))


def _find(uri: str | PathLike[str]) -> tuple[Source, str]:
    text = fspath(uri)
    if not text:
        raise SourceError("the address is empty; give a file, a folder or `demo:`.")
    if "\0" in text:
        raise SourceError("the address holds a NUL character; no file is called so.")
    scheme, colon, rest = text.partition(":")
    # One letter is a Windows drive; an existing file may have a colon in its name.
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.\-]+", scheme) or _exists(text):
        return SOURCES["file"], text
    if scheme not in SOURCES:
        raise SourceError(f"{text}: unknown source {scheme!r}; known are {', '.join(sorted(SOURCES))}.")
    return SOURCES[scheme], unquote(rest.removeprefix("//")) if scheme == "file" else rest


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:
        return False


def _read_path(path: str, options: Options) -> Frame:
    _refuse_unused(path, options)
    return read_recording(path, options) if _is_folder(path) else read_table(path, options)


def _path_frames(path: str, rows: int, options: Options) -> Iterator[Frame]:
    _refuse_unused(path, options)
    if _is_folder(path):
        return _cut(read_recording(path, options), rows)
    return table_frames(path, rows, options)


def _refuse_unused(path: str, options: Options) -> None:
    """What somebody asked for is done or refused, never dropped."""
    if not _is_folder(path):
        if options.day:
            raise SourceError(f"{path} is a file; day picks one of a folder's days, so leave it out.")
        return
    for name in ("timestamp", "where", "ignore"):
        if getattr(options, name):
            raise SourceError(f"{path} is a folder; {name} is for tables, so leave it out.")


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _read_demo(_: str, options: Options) -> Frame:
    if options != Options():
        raise SourceError(
            "demo: takes no services, timestamp, where, ignore or day; it is always the same recording."
        )
    try:
        from foreshock.sources import simulator
    except ImportError as e:
        raise SourceError("this build has no demo recording; give a file or folder.") from e
    frame: Frame = simulator.demo()
    return frame


# Add a source: one file with a read function, one line here.
SOURCES: dict[str, Source] = {
    "file": Source(_read_path, _path_frames),
    "demo": Source(_read_demo),
}
