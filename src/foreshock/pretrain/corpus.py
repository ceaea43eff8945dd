"""Real series for pretraining: which sources, under which licences, and the proof of what is not in them.

A corpus is a folder of ragged `.npz` files (`values` float32, `offsets`, `names`) and wide Parquet tables
(`entity`, `split`, KPI columns; only rows of split "train" are read). Each source is named in the config
with the licence we judged it to have; one that is not on the allow-list is refused, and so is a series
that shares a stretch with held-out data.

Not here: made-up series (synthetic), what is hidden (masking).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.random import Generator

from foreshock.errors import ConfigError, SourceError

NOT_SERIES = ("entity", "split", "t", "timestamp", "time", "label", "fault_type", "root_cause_service")
SHINGLE = 32  # consecutive values that make one fingerprint
ONE_IN = np.uint64(512)  # share of fingerprints kept, chosen by content, so that any cut is recognised
LEAST_DISTINCT = 12  # distinct values in a shingle below which it tells nothing about its origin
SHORTEST = 64  # steps; shorter series are left out
HELD_BACK = 0.1  # the last tenth of each series is for validation
DOWNSAMPLE = (1, 1, 1, 1, 2, 4, 8, 16)  # how many steps become one; 1 half of the time


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the corpus folder."""

    path: str  # inside the folder
    licence: str  # as judged; the model card repeats it
    weight: float = 1.0  # share of the windows, against the other sources
    leave_out: tuple[str, ...] = ()  # patterns of series names


@dataclass(frozen=True, slots=True)
class Corpus:
    """All series one after the other, in training part and validation part."""

    values: np.ndarray  # (N,) float32, NaN where not observed
    starts: np.ndarray  # (S,) int64, first step of each series
    stops: np.ndarray  # (S,) int64, end of the training part
    ends: np.ndarray  # (S,) int64, end of the series
    names: tuple[str, ...]  # source:series
    shares: np.ndarray  # (S,) probability of being drawn; sums to 1

    def __len__(self) -> int:
        return len(self.names)

    def draw(self, rng: Generator, rows: int, steps: int) -> np.ndarray:
        """`rows` windows of up to `steps` steps from training parts, right aligned; NaN where unseen.

        Series are drawn by their source's weight, then by the square root of their length. Half of the
        windows are averaged over 2 to 16 steps when the series is long enough.

        Returns:
            (rows, steps) float32.
        """
        return self._cut(rng, rows, steps, self.starts, self.stops)

    def held_back(self, seed: int, rows: int, steps: int) -> np.ndarray:
        """Windows from the validation parts, the same for the same seed: (rows, steps) float32."""
        return self._cut(np.random.default_rng([seed, 0x7E57]), rows, steps, self.stops, self.ends)

    def _cut(self, rng: Generator, rows: int, steps: int, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        out = np.full((rows, steps), np.nan, dtype=np.float32)
        chosen = rng.choice(len(self), size=rows, p=self.shares)
        for row, one in enumerate(chosen):
            for _ in range(4):  # a flat stretch teaches nothing: look elsewhere a few times
                window = _window(rng, self.values[first[one] : last[one]], steps)
                if len(window) and np.nanmax(window) > np.nanmin(window):
                    break
                one = rng.choice(len(self), p=self.shares)
            out[row, steps - len(window) :] = window
        return out


def _window(rng: Generator, series: np.ndarray, steps: int) -> np.ndarray:
    """A random stretch, averaged over a random number of steps; empty when nothing was observed."""
    factor = int(rng.choice(DOWNSAMPLE))
    while factor > 1 and len(series) < 2 * factor * steps:
        factor //= 2
    span = min(len(series), factor * steps)
    start = int(rng.integers(0, len(series) - span + 1))
    window = series[start : start + span]
    if factor > 1:
        window = window[: span // factor * factor].reshape(-1, factor).mean(1)
    return window if np.isfinite(window).any() else window[:0]


def open_corpus(
    folder: Path,
    sources: Sequence[Source],
    licences: Sequence[str],
    deny: np.ndarray | None = None,
) -> Corpus:
    """Read the named sources, check licences and fingerprints.

    Args:
        deny: sorted fingerprints of held-out data, from `read_deny`; None checks nothing.

    Raises:
        ConfigError: a source's licence is not on the allow-list.
        SourceError: a file can't be read, or a series shares a stretch with held-out data.
    """
    parts: list[np.ndarray] = []
    names: list[str] = []
    shares: list[float] = []
    for source in sources:
        _require_licence(source, licences)
        read = [(n, v) for n, v in _series(folder / source.path) if not _matches(n, source.leave_out)]
        kept = [(n, v) for n, v in read if len(v) >= SHORTEST and _moves(v)]
        if deny is not None:
            _refuse_denied(source, kept, deny)
        weights = np.sqrt([float(len(v)) for _, v in kept])
        shares.extend(source.weight * weights / weights.sum())
        names.extend(f"{source.path}:{n}" for n, _ in kept)
        parts.extend(v for _, v in kept)
    if not parts:
        raise ConfigError("the corpus holds no series that moves; name at least one source with such series.")
    lengths = np.array([len(v) for v in parts])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    # Series too short to give a tenth away give nothing: their validation part is their whole.
    tail = np.maximum((lengths * HELD_BACK).astype(int), SHORTEST)
    stops = np.where(lengths >= 4 * SHORTEST, ends - tail, ends - SHORTEST // 2)
    p = np.array(shares) / sum(shares)
    return Corpus(np.concatenate(parts), starts, stops, ends, tuple(names), p)


def _require_licence(source: Source, licences: Sequence[str]) -> None:
    if source.licence not in licences:
        raise ConfigError(
            f"corpus source {source.path} has the licence {source.licence!r}; allowed are "
            f"{', '.join(licences)}. Leave it out, or add the licence to `licences` if you may use it."
        )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _moves(values: np.ndarray) -> bool:
    seen = values[np.isfinite(values)]
    return len(seen) > 0 and bool(seen.max() > seen.min())


def _refuse_denied(source: Source, series: Iterable[tuple[str, np.ndarray]], deny: np.ndarray) -> None:
    for name, values in series:
        own = fingerprints(values)
        place = np.minimum(np.searchsorted(deny, own), len(deny) - 1)
        found = int((deny[place] == own).sum()) if len(deny) else 0
        if found:
            raise SourceError(
                f"{source.path}: series {name!r} shares {found} stretch(es) of {SHINGLE} values with "
                "held-out data; training must not see it. Add the series to the source's leave_out."
            )


def _series(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of each series of a file: ragged npz, single series npz, or wide Parquet."""
    if not path.exists():
        raise SourceError(f"{path} does not exist; check corpus.folder and the source's path.")
    if path.suffix == ".npz":
        yield from _from_npz(path)
    elif path.suffix == ".parquet":
        yield from _from_parquet(path)
    else:
        raise SourceError(f"{path} ends in {path.suffix!r}; a corpus file is .npz or .parquet.")


def _from_npz(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as stored:
        if "offsets" in stored.files:
            values, offsets = stored["values"].astype(np.float32), stored["offsets"]
            names = stored["names"] if "names" in stored.files else np.arange(len(offsets) - 1)
            for name, start, end in zip(names, offsets[:-1], offsets[1:], strict=True):
                yield str(name), _finite(values[start:end])
            return
        for key in stored.files:  # held-out recordings: one series a file, or channels side by side
            array = stored[key]
            if key in ("label", "labels", "timestamp") or array.ndim == 0 or array.dtype.kind != "f":
                continue
            table = array.astype(np.float32).reshape(len(array), -1)
            for column in range(table.shape[1]):
                yield f"{path.stem}/{key}{column}", _finite(table[:, column])


def _from_parquet(path: Path, splits: Sequence[str] | None = ("train",)) -> Iterator[tuple[str, np.ndarray]]:
    """Series of the wanted splits; a table without a `split` column is read whole."""
    table = pq.read_table(path)
    columns = table.column_names
    entity = table["entity"].to_numpy() if "entity" in columns else np.zeros(len(table))
    wanted = np.ones(len(table), bool)
    if splits is not None and "split" in columns:
        wanted = np.isin(table["split"].to_numpy(), list(splits))
    kpis = [c for c in columns if c not in NOT_SERIES and _is_number(table.schema.field(c).type)]
    for column in kpis:
        values = table[column].to_numpy().astype(np.float32)
        for name in dict.fromkeys(entity[wanted]):
            yield f"{name}/{column}", _finite(values[wanted & (entity == name)])


def _is_number(kind: object) -> bool:
    return str(kind).startswith(("float", "double", "int"))


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)


# --- fingerprints of held-out data -------------------------------------------------------------------


def fingerprints(values: np.ndarray) -> np.ndarray:
    """Sorted, unique fingerprints of some stretches of a series, the same wherever the series is cut.

    Each is a polynomial hash of 32 consecutive values at four significant digits; those divisible by 512
    are kept (so the choice depends on content, not on position), and stretches with fewer than 12 changes
    of value are passed over. A series of 10,000 steps leaves about 20. Rescaled or averaged copies are
    not recognised.

    Returns:
        uint64; empty when the series is shorter than 32 steps.
    """
    seen = values[np.isfinite(values)].astype(np.float32)
    if len(seen) < SHINGLE:
        return np.empty(0, dtype=np.uint64)
    with np.errstate(over="ignore"):
        return _fingerprints(seen)


def _fingerprints(seen: np.ndarray) -> np.ndarray:
    digits = _mixed(_four_digits(seen).view(np.uint32).astype(np.uint64))
    total = np.zeros(len(seen) - SHINGLE + 1, dtype=np.uint64)
    for j in range(SHINGLE):
        total = total * np.uint64(0x100000001B3) + digits[j : j + len(total)]
    total = _mixed(total)
    changes = np.concatenate([[0], np.cumsum(digits[1:] != digits[:-1])])
    lively = changes[SHINGLE - 1 :] - changes[: len(total)] >= LEAST_DISTINCT
    kept = total[lively & (total % ONE_IN == 0)]
    return np.unique(kept)


def _four_digits(values: np.ndarray) -> np.ndarray:
    """float32 rounded to four significant digits, the same for float32 and float64 originals."""
    wide = values.astype(np.float64)
    size = np.floor(np.log10(np.maximum(np.abs(wide), 1e-30)))
    unit = 10.0 ** (size - 3)
    return (np.round(wide / unit) * unit).astype(np.float32) + np.float32(0)


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def build_deny(folders: Sequence[Path]) -> np.ndarray:
    """Fingerprints of everything under some folders of held-out data, test splits only where split.

    CSV files are left out: their Parquet or npz twin is read.
    """
    found: list[np.ndarray] = []
    for path in sorted(p for folder in folders for p in folder.rglob("*")):
        if path.suffix == ".npz":
            found.extend(fingerprints(v) for _, v in _from_npz(path))
        elif path.suffix == ".parquet":
            schema = pq.read_schema(path).names
            splits = ("test",) if "split" in schema else None
            found.extend(fingerprints(v) for _, v in _from_parquet(path, splits))
    if not found:
        raise SourceError(f"no .npz or .parquet under {', '.join(map(str, folders))}; nothing to deny.")
    return np.unique(np.concatenate(found))


def write_deny(fingerprints_: np.ndarray, path: Path) -> None:
    """Save as `.npy`, written beside and renamed."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, fingerprints_, allow_pickle=False)
    part.replace(path)


def read_deny(path: Path) -> np.ndarray:
    """The fingerprints saved by `write_deny`.

    Raises:
        SourceError: the file is missing or not such a list.
    """
    try:
        stored: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} can't be read as a deny list ({error}); build it again.") from error
    if stored.dtype != np.uint64 or stored.ndim != 1:
        raise SourceError(f"{path} holds {stored.dtype} of {stored.ndim} axes; a deny list is uint64 in one.")
    return stored
