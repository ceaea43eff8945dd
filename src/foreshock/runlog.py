"""One folder a run: what was asked, with what, on which machine, and what came out, line by line.

    runs/20260502T101500Z-detect-3f2a/
        run.json            id, command, started, finished, status
        config.json         every setting with its origin
        environment.json    python, platform, processor, packages, git commit
        model.json          parameters, bytes, SHA-256 of the files
        metrics.jsonl       facts, append only; a killed run leaves valid lines

Low layers know nothing of this: they report through a callable, such as `RunLog.write`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import secrets
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TextIO

from foreshock.errors import InputError, OutputError

PACKAGES = ("foreshock", "numpy", "pandas", "pyarrow", "torch", "safetensors", "pydantic", "matplotlib")


def default_root() -> Path:
    """Where runs lie unless told otherwise: `runs` in the working folder."""
    return Path("runs")


class RunLog:
    """A run being written. Use it as a context manager: it notes how the run ended."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.id = folder.name
        self._facts = dict(facts)
        self._metrics: TextIO = _open_lines(folder / "metrics.jsonl")
        self._save()

    @classmethod
    def start(
        cls,
        root: str | Path,
        command: str,
        config: Mapping[str, Any] | None = None,
        arguments: Iterable[str] = (),
        packages: Iterable[str] = PACKAGES,
    ) -> RunLog:
        """Make the run's folder below `root` and write what is known at the start.

        Raises:
            OutputError: the folder can't be made.
        """
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%SZ}-{command}-{secrets.token_hex(2)}"
        folder = Path(root) / name
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise OutputError(
                f"the run folder {folder} can't be made ({error.strerror}); choose another with --log."
            ) from error
        _write_json(folder / "environment.json", environment(packages))
        if config is not None:
            _write_json(folder / "config.json", config)
        facts = {
            "id": name,
            "command": command,
            "arguments": list(arguments),
            "started": _stamp(now),
            "finished": None,
            "status": "running",
            "process": os.getpid(),
            "host": platform.node(),
        }
        return cls(folder, facts)

    def write(self, kind: str, **facts: Any) -> None:
        """Add one line to metrics.jsonl; it is on its way to the disk when this returns."""
        line = {"kind": kind, "at": _stamp(datetime.now(UTC)), **facts}
        self._metrics.write(json.dumps(_plain(line), separators=(", ", ": ")) + "\n")
        self._metrics.flush()

    def model(self, **facts: Any) -> None:
        """Write the model's summary, as `model_summary` makes it."""
        _write_json(self.folder / "model.json", facts)

    def finish(self, status: str = "done", **facts: Any) -> None:
        """Say how the run ended. Later calls change nothing."""
        if self._metrics.closed:
            return
        self._metrics.close()
        self._facts |= {"status": status, "finished": _stamp(datetime.now(UTC)), **facts}
        self._save()

    def _save(self) -> None:
        _write_json(self.folder / "run.json", self._facts)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, KeyboardInterrupt):
            self.finish("interrupted")
        else:
            self.finish("failed", error=f"{type(error).__name__}: {error}")


# ------------------------------------------------------------------------------------- what is written down


def environment(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Python, machine, package versions and, inside a repository, the commit."""
    import psutil

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "packages": {name: version for name in packages if (version := _version(name))},
        "threads": {k: os.environ[k] for k in sorted(os.environ) if k.startswith(("OMP_", "MKL_NUM"))},
        "git": git_commit(),
    }


def processor() -> str:
    """The processor's name as the machine tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    from importlib import metadata  # slow to import, and seldom needed

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit(folder: Path | None = None) -> dict[str, Any] | None:
    """{"commit", "dirty"} of the repository around `folder`; None outside of one, or without git."""

    def ask(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=5, check=True
        )
        return done.stdout.strip()

    try:
        commit = ask("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def model_summary(model: Any, files: Iterable[Path] = ()) -> dict[str, Any]:
    """Parameters, bytes and number formats of a network, and the SHA-256 of its files.

    Args:
        model: anything with `parameters()`, such as an `nn.Module`; anything else counts as 0 parameters.
    """
    parameters = list(model.parameters()) if hasattr(model, "parameters") else []
    return {
        "class": type(model).__name__,
        "parameters": sum(int(p.numel()) for p in parameters),
        "trainable": sum(int(p.numel()) for p in parameters if p.requires_grad),
        "bytes": sum(int(p.numel()) * int(p.element_size()) for p in parameters),
        "formats": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
        "sha256": {path.name: sha256(path) for path in files},
    }


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------------------------------------- reading again


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it lies on disk."""

    folder: Path
    id: str
    command: str
    started: str
    finished: str | None
    status: str  # running, done, failed, interrupted, killed
    error: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def metrics(self) -> tuple[dict[str, Any], ...]:
        """Every whole line of metrics.jsonl; what a kill cut in half is left out."""
        return read_lines(self.folder / "metrics.jsonl")

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it runs or when it was killed."""
        if self.finished is None:
            return None
        return (datetime.fromisoformat(self.finished) - datetime.fromisoformat(self.started)).total_seconds()


def read_lines(path: Path) -> tuple[dict[str, Any], ...]:
    """The valid lines of a JSONL file; none when it isn't there."""
    if not path.is_file():
        return ()
    lines = []
    for raw in path.read_bytes().splitlines():
        try:
            line = json.loads(raw)
        except ValueError:  # half a line of a killed run
            continue
        if isinstance(line, dict):
            lines.append(line)
    return tuple(lines)


def list_runs(root: str | Path) -> tuple[Run, ...]:
    """All runs below `root`, oldest first; a folder without a readable run.json is none."""
    folders = sorted(Path(root).glob("*/run.json")) if Path(root).is_dir() else []
    return tuple(run for path in folders if (run := _load(path.parent)) is not None)


def show(root: str | Path, run_id: str) -> Run:
    """The run whose id is, begins with, or ends with `run_id`; "latest" is the newest.

    Raises:
        InputError: none or several fit.
    """
    runs = list_runs(root)
    if not runs:
        raise InputError(f"no run lies in {root}; name another folder with --log.")
    if run_id == "latest":
        return runs[-1]
    exact = [run for run in runs if run.id == run_id]
    found = exact or [run for run in runs if run.id.startswith(run_id) or run.id.endswith(run_id)]
    if len(found) != 1:
        what = f"{len(found)} runs fit" if found else "no run fits"
        some = ", ".join(run.id for run in (found or runs)[-3:])
        raise InputError(f"{what} {run_id!r} in {root}; there are {some}. See `foreshock runs list`.")
    return found[0]


def compare(a: Run, b: Run) -> dict[str, dict[str, tuple[Any, Any]]]:
    """What differs between two runs: {"config": {key: (a, b)}, "environment": …, "model": …, "metrics": …}.

    Of the metrics, the last value of each fact counts, as `kind.fact`.
    """
    parts = {
        "config": (_flat(a.config), _flat(b.config)),
        "environment": (_flat(a.environment), _flat(b.environment)),
        "model": (_flat(a.model), _flat(b.model)),
        "metrics": (_last_values(a), _last_values(b)),
    }
    return {
        part: {
            key: (left.get(key), right.get(key))
            for key in sorted({*left, *right})
            if left.get(key) != right.get(key)
        }
        for part, (left, right) in parts.items()
    }


def _load(folder: Path) -> Run | None:
    facts = _read_json(folder / "run.json")
    if not facts.get("id"):
        return None
    status = str(facts.get("status", "running"))
    if status == "running" and _is_gone(facts):
        status = "killed"
    return Run(
        folder=folder,
        id=str(facts["id"]),
        command=str(facts.get("command", "")),
        started=str(facts.get("started", "")),
        finished=facts.get("finished"),
        status=status,
        error=str(facts.get("error", "")),
        config=_read_json(folder / "config.json"),
        environment=_read_json(folder / "environment.json"),
        model=_read_json(folder / "model.json"),
    )


def _is_gone(facts: Mapping[str, Any]) -> bool:
    """Whether the run's process has ended on this machine; on another one nobody can tell."""
    import psutil

    if facts.get("host") != platform.node() or not isinstance(facts.get("process"), int):
        return False
    try:
        began = psutil.Process(facts["process"]).create_time()
    except psutil.NoSuchProcess:
        return True
    # A process number is used again: one that began after the run did is somebody else's.
    return began > datetime.fromisoformat(facts["started"]).timestamp() + 1


def _last_values(run: Run) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for line in run.metrics():
        kind = line.get("phase") or line.get("kind", "")
        last |= {f"{kind}.{key}": value for key, value in line.items() if key not in ("kind", "at", "phase")}
    return last


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat


class Records:
    """A file of records, a line each, that outlasts a kill: opened again, it goes on after the last line.

    A last line that was cut in half is taken away; a broken line before it is no work of ours and is refused.

    Raises:
        InputError: a line before the last is no JSON object.
        OutputError: the file can't be written, or another run writes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            _lock(self._file, self.path)
            self._file.seek(0)
            raw = self._file.read()
            self.lines, whole, self.dropped_bytes = _whole_lines(raw, self.path)
            self._file.truncate(whole)
            if whole and raw[whole - 1 : whole] != b"\n":
                self._file.write(b"\n")
        except OSError as error:
            raise OutputError(
                f"{self.path} can't be written ({error.strerror}); choose another place with --out."
            ) from error

    def append(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Add one record; it is on its way to the disk when this returns. As it will be read again."""
        text = to_json(record)
        try:
            self._file.write(text.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{self.path} can't be written ({error.strerror}); is the disk full?"
            ) from error
        line: dict[str, Any] = json.loads(text)
        self.lines.append(line)
        return line

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep a second run off the file; where the system has no such locks, nobody does."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OutputError(f"{path} is being written by another run; wait, or choose another --out.") from None


def _whole_lines(raw: bytes, path: Path) -> tuple[list[dict[str, Any]], int, int]:
    """The records, how many bytes hold them, and how many bytes of half a line follow."""
    lines: list[dict[str, Any]] = []
    at = 0
    pieces = raw.splitlines(keepends=True)
    for number, piece in enumerate(pieces, 1):
        try:
            line = json.loads(piece) if piece.strip() else None
            if line is not None and not isinstance(line, dict):
                raise ValueError
        except ValueError:
            if number == len(pieces) and not piece.endswith(b"\n"):
                return lines, at, len(raw) - at
            raise InputError(
                f"{path}:{number}: this line is no record (a JSON object); mend or remove it, "
                "or choose another file with --out."
            ) from None
        if line is not None:
            lines.append(line)
        at += len(piece)
    return lines, at, 0


# --------------------------------------------------------------------------------------------------- writing


def _stamp(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    """What JSON can hold: numpy numbers as numbers, NaN and infinity as null, dataclasses as objects."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, bool | str | None):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, int | float):
        return value if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON of facts: no NaN, no infinity, numpy welcome."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(to_json(value, indent=2) + "\n", encoding="utf-8")
    part.replace(path)  # whole or not at all, also when killed


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _open_lines(path: Path) -> TextIO:
    """Open for appending; a half line left by a killed run is ended first, so that the next one is whole."""
    broken = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    file = path.open("a", encoding="utf-8")
    if broken:
        file.write("\n")
    return file
