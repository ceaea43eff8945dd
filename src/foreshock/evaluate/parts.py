"""What is judged: one series or recording each, with the rows to learn from and the rows that count.

Rows stand in time order: training part, gap, validation part, gap, judged part. Nothing is shuffled.

- a folder of `.npz` files, each with `value` (T,), `label` (T,), `train_end` and, if known, `timestamp`:
  one part a file; the judged rows begin after `train_end`;
- a table with `entity` and `split` columns: one part an entity, its split for training;
- any other table or Nezha folder, as `foreshock.read` takes it: one part;
- PetShop's table: the run without issues for training, the issues behind it;
- `simulate:` recordings made on the spot: of Train Ticket, or `simulate:shop` and the like.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foreshock.errors import ConfigError, FrameError, SourceError
from foreshock.frame import Frame, Kpi, Labels
from foreshock.metrics import fault_spans, spans
from foreshock.split import split

TRAIN_SHARE = 0.3  # of a series that is cut to `rows`, at least
VALIDATION_SHARE = 0.15 / 0.85  # of a given training part, so that the three stand as 70 to 15 to 15
PETSHOP_APART_S = 3600  # between two issues once they stand behind the normal run
START_NS = 1_700_000_000_000_000_000  # the clock of series without one


@dataclass(frozen=True, slots=True)
class DataSet:
    """One family of data, as the configuration names it."""

    name: str
    path: str  # below `folder`; or `simulate:` with a system's name
    kind: Literal["series", "entities", "table", "petshop", "simulator"] = "table"
    origin: str = ""  # what contamination knows it by; the name in lower case unless given
    limit: int | None = None  # so many series, evenly over those that have an event to find
    rows: int | None = None  # at most so many rows of each, around an event
    split: Literal["own", "time", "none"] = "own"  # as the data say, else in time; none: nothing held back
    until: str = ""  # rows from this stamp on are not judged
    step_s: float | None = None  # seconds between rows, where the stamps don't say
    timestamp: str = ""  # the time column, if it has an unusual name
    ignore: tuple[str, ...] = ()  # columns that are no KPIs
    ranges: bool = True  # false: snippets, on which slopes around events (VUS) mean nothing

    def __post_init__(self) -> None:
        for word, number in (("limit", self.limit), ("rows", self.rows)):
            if number is not None and number < 1:
                raise ConfigError(f"{self.name}: {word} is {number}; it must be 1 or more.")
        if self.until:
            try:
                np.datetime64(self.until.removesuffix("Z"), "ns")
            except ValueError:
                raise ConfigError(
                    f"{self.name}: until is {self.until!r}; it must be a time such as 2023-01-29T15:50."
                ) from None


@dataclass(frozen=True, slots=True)
class Part:
    """One series or recording and what its rows are for."""

    data: str
    series: str
    frame: Frame  # with labels; whoever scores it takes them away
    train: slice | None  # rows to fit on
    validation: slice | None  # rows whose unlabelled scores may set thresholds
    gap_rows: int
    judged: np.ndarray  # (T,) bool: rows after the parts above and before `until`
    truth: np.ndarray  # (T,) bool: a fault that metrics can show
    ignore: np.ndarray  # (T,) bool: not judged, recovery, suspects, faults that no metric shows
    sha256: str  # of stamps, values, labels and rows judged

    @property
    def faults(self) -> list[tuple[int, int]]:
        """Rows of each fault that counts."""
        labels = self.frame.labels
        counted = self.truth & ~self.ignore
        if labels is None:
            return spans(counted)
        return fault_spans(np.where(counted, labels.fault_id, -1))

    @property
    def fault_types(self) -> list[str]:
        """The kind of each fault that counts; empty where no label names one."""
        labels = self.frame.labels
        kinds = [] if labels is None else [str(labels.fault_type[first]) for first, _ in self.faults]
        return kinds if any(kinds) else []

    def facts(self) -> dict[str, Any]:
        """For the record."""
        rows = {
            f"{name}_rows": 0 if part is None else part.stop - part.start
            for name, part in (("train", self.train), ("validation", self.validation))
        }
        return {
            **rows,
            "gap_rows": self.gap_rows,
            "first_judged_row": int(np.argmax(self.judged)) if self.judged.any() else None,
            "judged_rows": int((self.judged & ~self.ignore).sum()),
            "positive_rows": int((self.truth & ~self.ignore).sum()),
            "faults": len(self.faults),
        }


def named_parts(
    data: DataSet, folder: str | Path, gap_rows: int, limit: int | None = None, rows: int | None = None
) -> dict[str, Callable[[], Part]]:
    """The parts of a data set by name, each read when called.

    Args:
        limit, rows: no more than these, whatever the data set says.

    Raises:
        SourceError: nothing is there.
        FrameError: labels are missing or are not 0 and 1, when a part is read.
    """
    data = replace(data, limit=_least(data.limit, limit), rows=_least(data.rows, rows))
    if data.kind == "simulator":
        return {
            f"seed {seed}": lambda seed=seed: _simulated(data, seed, gap_rows)  # type: ignore[misc]
            for seed in range(data.limit or 3)
        }
    path = Path(folder) / data.path
    if not path.exists():
        raise SourceError(
            f"{data.name}: {path} is not there; docs/data.md tells where it comes from, "
            "--data names another folder."
        )
    if data.kind == "series":
        return _series_of(data, path, gap_rows)
    if data.kind == "entities":
        entities = _spread(sorted(set(_column(path, "entity"))), data.limit)
        return {e: lambda e=e: _entity(data, path, e, gap_rows) for e in entities}  # type: ignore[misc]
    if data.kind == "petshop":
        return {path.stem: lambda: _petshop(data, path)}
    return {path.name.partition(".")[0]: lambda: _table(data, path, gap_rows)}


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _spread(names: list[str], limit: int | None) -> list[str]:
    """At most `limit` of the names, evenly from the first to the last."""
    if limit is None or limit >= len(names):
        return names
    return [names[i] for i in np.linspace(0, len(names) - 1, limit).round().astype(int)]


# -------------------------------------------------------------------------------------------- single series


def _series_of(data: DataSet, path: Path, gap_rows: int) -> dict[str, Callable[[], Part]]:
    files = sorted(path.glob("*.npz")) if path.is_dir() else []
    if not files:
        raise SourceError(f"{data.name}: {path} holds no .npz file; a folder of single series is needed.")
    by_name = {file.stem: file for file in files}
    names = list(by_name)
    if data.limit is not None and data.limit < len(names):
        with_event = [name for name in names if _has_event(by_name[name], gap_rows)]
        names = _spread(with_event or names, data.limit)
    return {n: lambda n=n: _one_series(data, by_name[n], gap_rows) for n in names}  # type: ignore[misc]


def _has_event(file: Path, gap_rows: int) -> bool:
    """Whether something is to be found after the training part."""
    stored = _stored(file, ("label", "train_end"))
    end = int(stored["train_end"])
    return bool((stored["label"][end + _gap(len(stored["label"]), end, gap_rows) :] != 0).any())


def _stored(file: Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of a series file; `timestamp` if it is there.

    Raises:
        SourceError: it can't be read.
        FrameError: an array is missing or of another shape.
    """
    try:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("a single array")
        with archive:
            there = set(archive.files)
            out = {name: archive[name] for name in (*wanted, "timestamp") if name in there}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise SourceError(f"{file} can't be read as .npz ({error}); get it anew.") from error
    missing = [name for name in wanted if name not in out]
    if missing:
        held = ", ".join(sorted(there)) or "nothing"
        raise FrameError(
            f"{file} has no `{missing[0]}` (it holds {held}); a series needs value, label and train_end."
        )
    end = out["train_end"]
    if end.ndim or end.dtype.kind not in "iuf" or not np.isfinite(end):
        raise FrameError(f"{file}: train_end is {end}; it must be one number, the first row to be judged.")
    return out


def _one_series(data: DataSet, file: Path, gap_rows: int) -> Part:
    stored = _stored(file, ("value", "label", "train_end"))
    value, label, stamps = stored["value"], stored["label"], stored.get("timestamp")
    if value.ndim != 1 or not value.size or label.shape != value.shape:
        raise FrameError(
            f"{file}: value has shape {value.shape}, label {label.shape}; both must be (T,), T at least 1."
        )
    if value.dtype.kind not in "iufb":
        raise FrameError(
            f"{file}: value holds {value.dtype.name}, such as {value[0]!s:.20}; numbers are needed."
        )
    if stamps is not None and stamps.shape != value.shape:
        raise FrameError(
            f"{file}: timestamp has shape {stamps.shape}, value {value.shape}; they must be equal."
        )
    value = value.astype(float)
    strange = label[(label != 0) & (label != 1)]
    if len(strange):
        raise FrameError(f"{file}: labels hold {strange[0]}; they must be 0 or 1.")
    end = int(stored["train_end"])
    if not 0 <= end < max(len(value), 1):
        raise FrameError(
            f"{file}: train_end is {end}, the series has {len(value)} rows; some must follow it."
        )
    truth = label.astype(bool)
    time_ns, step_s = _clock(stamps, len(value), data.step_s)
    if data.rows is not None and len(value) > data.rows:
        start, end = stretch(truth, end, data.rows, gap_rows, file.stem)
        cut = slice(start, start + data.rows)
        value, truth, time_ns, end = value[cut], truth[cut], time_ns[cut], end - start
    frame = Frame(time_ns, value[:, None], (Kpi("value"),), step_s, _labels(truth), str(file))
    return part_of(data, file.stem, frame, end, gap_rows)


def stretch(truth: np.ndarray, train_end: int, rows: int, gap_rows: int, name: str) -> tuple[int, int]:
    """Where to cut a long series, and where its training part ends then: (first row, row in the series).

    One event after the training part is drawn, and a stretch of `rows` rows that holds its first row among
    the judged ones: both by the name alone, so that every detector gets the same. A cut at the end would
    lose the only event of many series. At least three tenths are for training, and no row before
    `train_end` is ever judged.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    least = int(TRAIN_SHARE * rows)
    last = len(truth) - rows
    earliest = min(max(0, train_end - least), last)
    first, latest = earliest, last
    beginnings = [start for start, _ in spans(truth) if start >= train_end + gap_rows]
    if beginnings:
        event = beginnings[int(rng.integers(len(beginnings)))]
        latest = min(latest, max(earliest, event - least - gap_rows))
        first = max(earliest, event - rows + 1)
    start = int(rng.integers(min(first, latest), latest + 1))
    return start, max(start + least, train_end)


def _clock(stamps: np.ndarray | None, rows: int, step_s: float | None) -> tuple[np.ndarray, float]:
    """Stamps in ns and the usual step; a made-up clock where stamps are missing or fall back."""
    if stamps is not None and len(stamps) > 1 and (np.diff(stamps) > 0).all():
        size = float(abs(stamps[-1]))
        unit = next(
            u for most, u in ((1e11, 10**9), (1e14, 10**6), (1e17, 10**3), (np.inf, 1)) if size < most
        )
        time_ns = stamps.astype(np.int64) * unit
        return time_ns, step_s or float(np.median(np.diff(time_ns))) / 1e9
    step_s = step_s or 60.0
    return START_NS + np.arange(rows) * round(step_s * 1e9), step_s


def _labels(truth: np.ndarray) -> Labels:
    """Labels of a series where nothing but 0 and 1 is known."""
    fault = np.full(len(truth), -1, np.int64)
    for number, (start, end) in enumerate(spans(truth)):
        fault[start:end] = number
    words, no = np.full(len(truth), ""), np.zeros(len(truth), bool)
    return Labels(truth, words, words, no, fault, ~no)


# ------------------------------------------------------------------------------------------------- tables


def _read(data: DataSet, path: Path, **where: str) -> Frame:
    from foreshock import quality, sources

    frame = sources.read(
        path, timestamp=data.timestamp or None, where=where or None, ignore=data.ignore or None
    )
    if frame.labels is None:
        raise FrameError(f"{path} has no label column; evaluation needs one of 0 and 1, called `label`.")
    return quality.repair(frame)[0].require_clock()


def _column(path: Path, column: str) -> list[str]:
    """A text column, row by row."""
    from pyarrow import lib, parquet

    try:
        found = parquet.read_table(path, columns=[column]).column(0).to_pylist()
    except (OSError, lib.ArrowException, IndexError) as error:
        raise SourceError(
            f"{path} has no column `{column}` ({error}); Parquet with one is needed."
        ) from error
    return [str(word) for word in found]


def _entity(data: DataSet, path: Path, entity: str, gap_rows: int) -> Part:
    """Training and test rows of one machine, one behind the other."""
    train, test = (_read(data, path, entity=entity, split=word) for word in ("train", "test"))
    frame, end = _behind(train, test, data.step_s), len(train)
    assert frame.labels is not None
    if data.rows is not None and len(frame) > data.rows:
        start, end = stretch(frame.labels.anomaly, end, data.rows, gap_rows, entity)
        frame, end = frame.rows(slice(start, start + data.rows)), end - start
    return part_of(data, entity, frame, end, gap_rows)


def _behind(first: Frame, second: Frame, step_s: float | None, apart_s: float | None = None) -> Frame:
    """Two frames of the same KPIs as one; stamps that don't follow, or a given step, make a new clock."""
    step_s = step_s or first.step_s
    step_ns = round(step_s * 1e9)
    time_ns = np.concatenate([first.time_ns, second.time_ns])
    if step_s != first.step_s or (np.diff(time_ns) <= 0).any():
        time_ns = START_NS + np.arange(len(time_ns)) * step_ns
    if apart_s is not None:
        shift = first.time_ns[-1] + round(apart_s * 1e9) - second.time_ns[0]
        time_ns = np.concatenate([first.time_ns, second.time_ns + shift])
    a, b = first.labels, second.labels
    assert a is not None
    assert b is not None
    joined = [np.concatenate([getattr(a, name), getattr(b, name)]) for name in Labels.__dataclass_fields__]
    labels = Labels(*joined)
    later = np.where(b.fault_id >= 0, b.fault_id + max(int(a.fault_id.max()), -1) + 1, -1)
    labels = replace(labels, fault_id=np.concatenate([a.fault_id, later]))
    values = np.concatenate([first.values, second.select(first.names).values])
    return replace(first, time_ns=time_ns, values=values, step_s=step_s, labels=labels)


def _table(data: DataSet, path: Path, gap_rows: int) -> Part:
    frame = _read(data, path)
    if data.rows is not None:
        frame = frame.rows(slice(max(0, len(frame) - data.rows), len(frame)))
    return part_of(data, path.name.partition(".")[0], frame, None, gap_rows)


def _simulated(data: DataSet, seed: int, gap_rows: int) -> Part:
    from foreshock.sources import simulator

    name = data.path.removeprefix("simulate:") or "trainticket"
    usual = simulator.usual(name)
    frame = simulator.simulate(
        seed, data.rows or usual.rows, data.step_s or usual.step_s, system=usual.system
    )
    return part_of(data, f"seed {seed}", frame, None, gap_rows)


def _petshop(data: DataSet, path: Path) -> Part:
    """The run without issues, then each issue's five rows an hour apart: their own stamps lie before it."""
    from foreshock import sources

    issues, parts = (_column(path, name) for name in ("issue_id", "orig_split"))
    frame = sources.read(path, ignore=("issue_id", "orig_split", "scenario"))
    issue = np.array([f"{part} {name}" if name else "" for part, name in zip(parts, issues, strict=True)])
    if (issue == "").all() or (issue != "").all():
        raise FrameError(f"{path} has no rows with and without `issue_id`; PetShop's table has both.")
    whole: Frame | None = None
    for name in np.unique(issue):  # "" comes first: the run without issues
        rows = np.flatnonzero(issue == name)
        one = frame.rows(rows[np.argsort(frame.time_ns[rows], kind="stable")])
        whole = one if whole is None else _behind(whole, one, None, PETSHOP_APART_S)
    assert whole is not None
    return part_of(data, path.stem, whole, int((issue == "").sum()), 0)


# -------------------------------------------------------------------------------------------------- splits


def part_of(data: DataSet, series: str, frame: Frame, train_end: int | None, gap_rows: int) -> Part:
    """Which rows are for what.

    Args:
        train_end: the row after the training part where the data come with one; its last 15 of 85 rows are
            for validation. Otherwise `data.split` decides: 70, 15 and 15 in time, or nothing held back.
    """
    frame = frame.require_clock()
    labels = frame.labels
    if labels is None:
        raise FrameError(f"{frame.source or series} has no labels; evaluation needs a column of 0 and 1.")
    rows = len(frame)
    train: slice | None = None
    validation: slice | None = None
    first = 0
    if data.split == "none":
        gap_rows = 0
    elif train_end is None or data.split == "time":
        gap_rows = min(gap_rows, rows // 20)
        parts = split(frame, gap_rows=gap_rows)
        train = slice(0, len(parts.train))
        validation = slice(train.stop + gap_rows, train.stop + gap_rows + len(parts.validation))
        first = validation.stop + gap_rows
    elif train_end > 0:
        gap_rows = _gap(rows, train_end, gap_rows)
        train, validation, first = _before(train_end, gap_rows)
    judged = np.arange(rows) >= first
    if data.until:
        judged &= frame.time < np.datetime64(data.until.removesuffix("Z"), "ns")
    truth = labels.anomaly & labels.metric_visible
    ignore = ~judged | labels.ignore | (labels.anomaly & ~truth)
    digest = hashlib.sha256()
    for array in (frame.time_ns, frame.values, labels.anomaly, ignore):
        digest.update(np.ascontiguousarray(array).tobytes())
    return Part(
        data.name, series, frame, train, validation, gap_rows, judged, truth, ignore, digest.hexdigest()
    )


def _gap(rows: int, train_end: int, gap_rows: int) -> int:
    """Never more than a tenth of a short training part or of what follows it."""
    return min(gap_rows, train_end // 10, (rows - train_end) // 10)


def _before(train_end: int, gap_rows: int) -> tuple[slice, slice, int]:
    usable = train_end - gap_rows
    learned = max(1, usable - round(usable * VALIDATION_SHARE))
    return slice(0, learned), slice(learned + gap_rows, train_end), train_end + gap_rows
