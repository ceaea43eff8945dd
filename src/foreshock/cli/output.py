"""Result files: looked at before the work, written beside their place, moved there when whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from foreshock.errors import OutputError

if TYPE_CHECKING:
    import numpy as np

    from foreshock.scores import Scores

TABLES = (".parquet", ".csv")


def check_output(path: Path, *, force: bool, suffixes: tuple[str, ...] = (), flag: str = "--out") -> None:
    """Refuse now what would fail after the work.

    Raises:
        OutputError: the path exists (without `force`), is a folder, can't be written, or has a wrong ending.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise OutputError(
            f"{path} ends in {path.suffix or 'nothing'!r}; {flag} needs {' or '.join(suffixes)}."
        )
    if path.is_dir():
        raise OutputError(f"{path} is a folder; {flag} needs a file name.")
    if path.exists() and not force:
        raise OutputError(f"{path} exists; overwrite it with --force or choose another name with {flag}.")
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink()
    except OSError as error:
        raise OutputError(
            f"{path} can't be written ({error.strerror}); choose another place with {flag}."
        ) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end, or disappears after an error."""
    part = _part(path)
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} can't be written ({error.strerror or error}); is the disk full?"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.part")


class ScoreWriter:
    """Appends scores to a Parquet or CSV file, a piece at a time.

    Columns: timestamp (UTC), score, threshold, anomaly, then service:<name>. Empty means not observed,
    and for a threshold that there is none yet. `anomaly` is true while an incident is known to run.
    With an adapter also probability and fault_type, before the services.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._replacing = replacing(path)
        self._part = self._replacing.__enter__()
        self._writer: Any = None
        self.rows = 0

    def append(self, scores: Scores, high: np.ndarray | float, inside: np.ndarray) -> int:
        """Write these rows; says how many of them are anomalous."""
        table = score_table(scores, high, inside)
        if self._writer is None:
            self._writer = self._open(table.schema)
        self._writer.write_table(table)
        self.rows += len(scores)
        return int(inside.sum())

    def _open(self, schema: Any) -> Any:
        if self._path.suffix.lower() == ".csv":
            from pyarrow import csv

            return csv.CSVWriter(self._part, schema, write_options=csv.WriteOptions(quoting_style="needed"))
        from pyarrow import parquet

        return parquet.ParquetWriter(self._part, schema, compression="zstd")

    def __enter__(self) -> ScoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        self._replacing.__exit__(kind, error, trace)


def score_table(scores: Scores, high: np.ndarray | float, inside: np.ndarray) -> Any:
    """An Arrow table of scores."""
    import numpy as np
    import pyarrow as pa

    def column(values: np.ndarray) -> pa.Array:
        return pa.array(values, mask=~np.isfinite(values))

    columns = {
        "timestamp": pa.array(scores.time_ns, pa.timestamp("ns", tz="UTC")),
        "score": column(scores.system),
        "threshold": column(np.broadcast_to(np.asarray(high, np.float64), scores.system.shape).copy()),
        "anomaly": pa.array(inside),
    }
    if scores.kinds is not None:
        from foreshock.models.verdict import kind_of_rows, probability_of

        if scores.taught is not None:
            columns["probability"] = column(probability_of(scores.taught))
        kinds = kind_of_rows(scores.kinds, scores.kind_names, inside)
        columns["fault_type"] = pa.array(kinds, pa.string())
    for i, name in enumerate(scores.service_names):
        columns[f"service:{name}"] = column(np.ascontiguousarray(scores.services[:, i]))
    return pa.table(columns)
