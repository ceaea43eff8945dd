"""Recordings that foreshock is developed on: where they come from, and how to get a copy.

`pull` fetches what can be checked: files at a fixed commit of their original repository, whose SHA-256 is
known. The others are told with their origin and the reason why they are not fetched.

Not here: reading them (nezha, tables).
"""

from __future__ import annotations

import csv
import difflib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlsplit

from foreshock.errors import ConfigError, OutputError, SourceError
from foreshock.network import answers, is_offline

HOST = "https://raw.githubusercontent.com"  # a mirror keeps owner/repository/commit/path below it
MIRROR = "FORESHOCK_MIRROR"
TRIES = 3  # a file is asked for so often before it counts as failed
_INDEX = Path(__file__).with_name("catalogue.csv")
_CHUNK_BYTES = 1 << 20
_DISK_ERRORS = {errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a recording."""

    path: str  # below the folder of recordings, in the layout that foreshock reads
    address: str  # below HOST or a mirror: owner/repository/commit/path
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A public recording, and what may be done with it."""

    name: str
    what: str
    licence: str
    origin: str  # the page of those who made it
    reads: str = ""  # what to give to foreshock once it is here, below the folder of recordings
    why_not: str = ""  # why `pull` doesn't fetch it, and what to do; "" where it does

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """What `pull` fetches; none where it can't."""
        return _files().get(self.name, ())

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


_NO_SUM = "the original files' checksums are not known here"
_PICKLED = "the original files are Python pickles, which foreshock never opens"

CATALOGUE = (
    Recording(
        "nezha-2022-08-22",
        "Online Boutique: 10 services, a row a minute, 1,209 rows, 24 faults of 5 types",
        "MIT",
        "https://github.com/IntelligentDDS/Nezha",
        "nezha/raw/rca_data/2022-08-22",
    ),
    Recording(
        "nezha-2023-01-29",
        "Train Ticket: 46 services, a row a minute, 919 rows, 28 faults, 4 of them visible in metrics",
        "MIT",
        "https://github.com/IntelligentDDS/Nezha",
        "nezha/raw/rca_data/2023-01-29",
    ),
    Recording(
        "petshop",
        "41 AWS components, a row each 5 min, a normal run and 68 injected issues with their cause",
        "CC-BY-4.0",
        "https://github.com/amazon-science/petshop-root-cause-analysis",
        why_not=f"{_NO_SUM}; clone the repository (commit 1c5992dc46a0): dataset/<load>/<run>/metrics.csv, "
        "whose header lines (microservice, metric, statistic) have to be joined into one",
    ),
    Recording(
        "smd",
        "28 servers, 38 metrics, a row a minute, labelled test halves",
        "MIT",
        "https://github.com/NetManAIOps/OmniAnomaly",
        why_not=f"{_NO_SUM}; clone the repository: ServerMachineDataset/ holds values and labels without "
        "header or stamps",
    ),
    Recording(
        "asd",
        "12 application servers, 19 metrics, a row each 5 min, labelled test halves",
        "MIT",
        "https://github.com/zhhlee/InterFusion",
        why_not=f"{_PICKLED}; they lie in data/processed of the repository (commit 4d6e3fc6d635)",
    ),
    Recording(
        "smap-msl",
        "spacecraft telemetry, 81 series of 25 or 55 channels",
        "BSD-style",
        "https://github.com/khundman/telemanom",
        why_not=f"{_NO_SUM}; the repository's README gives the address of an archive of .npy files",
    ),
    Recording(
        "nab",
        "58 single series, real and made",
        "MIT",
        "https://github.com/numenta/NAB",
        why_not=f"{_NO_SUM}; clone the repository: data/*/*.csv (timestamp,value) read as they are",
    ),
    Recording(
        "ms-cloud",
        "67 single series of cloud services",
        "MIT",
        "https://github.com/microsoft/cloud-monitoring-dataset",
        why_not=f"{_NO_SUM}; clone the repository: data/*/*.csv (TimeStamp,Value,Label) read as they are",
    ),
    Recording(
        "iops",
        "single series of web services, from the AIOps challenge of 2018",
        "MIT",
        "https://github.com/NetManAIOps/KPI-Anomaly-Detection",
        why_not=f"{_NO_SUM}, nor the files' exact addresses; see the repository",
    ),
    Recording(
        "tods",
        "15 made series with planted anomalies",
        "Apache-2.0",
        "https://github.com/datamllab/tods",
        why_not=f"{_NO_SUM}, nor the files' exact addresses; see the repository",
    ),
    Recording(
        "ucr",
        "250 single series with one anomaly each",
        "none stated: for evaluation only",
        "UCR Time Series Anomaly Archive (Wu and Keogh 2021)",
        why_not="no licence is stated, and its address could not be checked",
    ),
    Recording(
        "wsd",
        "single series of web services",
        "none stated: for evaluation only",
        "https://github.com/TheDatumOrg/TSB-AD",
        why_not="no licence is stated; TSB-AD holds a copy",
    ),
)


def find(name: str) -> Recording:
    """A recording by its name.

    Raises:
        ConfigError: there is none.
    """
    names = [recording.name for recording in CATALOGUE]
    if name in names:
        return CATALOGUE[names.index(name)]
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"there is no recording {name!r}; {hint}known: {', '.join(names)}.")


def is_here(recording: Recording, folder: str | Path) -> bool:
    """Whether all its files lie in `folder`, by their sizes."""
    paths = [(Path(folder) / file.path, file.size_bytes) for file in recording.files]
    return bool(paths) and all(path.is_file() and path.stat().st_size == size for path, size in paths)


def pull(
    recording: Recording,
    folder: str | Path,
    *,
    mirror: str | None = None,
    force: bool = False,
    on_file: Callable[[RemoteFile], None] | None = None,
) -> Path:
    """Fetch a recording's files, each checked against its SHA-256; files that are here already are kept.

    Args:
        folder: of recordings; made if it isn't there.
        mirror: an http(s) address in place of HOST; `FORESHOCK_MIRROR` where left out.
        force: replace files that are here but differ from the original.
        on_file: told each file once it is here.

    Returns:
        What to give to `foreshock.read`.

    Raises:
        SourceError: it can't be fetched, at all or now; said at once when there is no network.
        OutputError: a file is here already and differs, or the folder can't be written.
        ConfigError: the mirror is no http(s) address.
    """
    if recording.why_not:
        raise SourceError(
            f"{recording.name} ({recording.licence}, {recording.origin}) is not fetched: {recording.why_not}."
        )
    folder = Path(folder)
    missing = _missing(recording.files, folder, force)
    if missing:
        base = _base(mirror)
        _require_network(recording, base)
        _require_writable(folder)
        _fetch(missing, recording.files, folder, base, on_file)
    else:
        _tell(recording.files, on_file)
    return folder / recording.reads


def _missing(files: Iterable[RemoteFile], folder: Path, force: bool) -> list[RemoteFile]:
    """The files that are not here yet, or may be replaced."""
    out = []
    for file in files:
        path = folder / file.path
        if path.is_file() and path.stat().st_size == file.size_bytes and _sha256(path) == file.sha256:
            continue
        if path.is_dir():
            raise OutputError(f"{path} is a folder; a file belongs there. Choose another place with --to.")
        if path.exists() and not force:
            raise OutputError(
                f"{path} exists and differs from the original; replace it with --force, or choose another "
                "place with --to."
            )
        out.append(file)
    return out


def _base(mirror: str | None) -> str:
    base = (mirror or os.environ.get(MIRROR) or HOST).rstrip("/")
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).hostname:
        raise ConfigError(f"the mirror is {base!r}; it must be an address such as {HOST}.")
    return base


def _require_network(recording: Recording, base: str) -> None:
    otherwise = f"clone {recording.origin} where there is a network, or name a mirror (--mirror, {MIRROR})"
    if is_offline():
        raise SourceError(f"{recording.name} is not here and downloads are off; {otherwise}.")
    try:
        import pooch  # noqa: F401
    except ImportError as error:
        raise SourceError(
            f"{recording.name} can't be downloaded without pooch; "
            f"pip install 'foreshock[data]', or {otherwise}."
        ) from error
    if not answers(base):
        raise SourceError(f"{recording.name}: {urlsplit(base).netloc} can't be reached; {otherwise}.")


def _require_writable(folder: Path) -> None:
    probe = folder / f".{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder} can't be written ({error.strerror}); choose another place with --to."
        ) from None


def _fetch(
    missing: list[RemoteFile],
    files: tuple[RemoteFile, ...],
    folder: Path,
    base: str,
    on_file: Callable[[RemoteFile], None] | None,
) -> None:
    import pooch

    pooch.get_logger().setLevel("WARNING")  # the library never prints
    store = pooch.create(
        path=folder,
        base_url=f"{base}/",
        registry={file.path: f"sha256:{file.sha256}" for file in missing},
        urls={file.path: f"{base}/{quote(file.address)}" for file in missing},
        retry_if_failed=TRIES - 1,
    )
    _tell((file for file in files if file not in missing), on_file)
    for file in missing:
        try:
            # Written beside its place and moved there once the sum is right.
            store.fetch(file.path, downloader=pooch.HTTPDownloader(timeout=30))
        except Exception as error:  # pooch's and its client's own trees
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise OutputError(f"{folder / file.path} can't be written ({error.strerror}).") from error
            why = "its SHA-256 is not the original's" if "hash" in str(error).lower() else str(error)
            raise SourceError(
                f"{base}/{file.address} could not be downloaded in {TRIES} tries ({why}); what came before "
                "it is kept, so try again later or name a mirror (--mirror)."
            ) from error
        _tell([file], on_file)


def _tell(files: Iterable[RemoteFile], on_file: Callable[[RemoteFile], None] | None) -> None:
    for file in files if on_file is not None else ():
        assert on_file is not None
        on_file(file)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@cache
def _files() -> dict[str, tuple[RemoteFile, ...]]:
    """Files by recording.

    Their addresses were looked up in an index of the repository; a file that stands there twice with the
    same content is taken from either place. The sums are those of the files that foreshock is tested on.
    """
    found: dict[str, list[RemoteFile]] = {}
    with _INDEX.open(encoding="utf-8", newline="") as index:
        for row in csv.DictReader(index):
            file = RemoteFile(row["path"], row["address"], int(row["bytes"]), row["sha256"])
            found.setdefault(row["recording"], []).append(file)
    return {name: tuple(files) for name, files in found.items()}
