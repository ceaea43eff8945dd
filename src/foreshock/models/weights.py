"""Checkpoints on disk: find them, check them, read and write them.

A checkpoint is a folder with `config.json` and `model.safetensors`; if a `SHA256SUMS` lies beside them,
the file must match it. Only safetensors and JSON are read, never a pickle. Nothing is downloaded unless
a hub name is asked for, the `hub` extra is installed and nobody said offline.

Not here: what the tensors mean (moment).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.errors import OutputError, WeightsError
from foreshock.network import answers, is_offline

FILE_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
SUMS_NAME = "SHA256SUMS"
HEADS_NAME = "recognition.safetensors"  # heads of our own beside MOMENT's tensors; not in every checkpoint
UNREAD = "encoder.embed_tokens.weight"  # in every checkpoint, up to 132 MB, and nothing reads it
EMBEDDED = ("nano",)  # names of the checkpoints that ship in the package
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CHUNK_BYTES = 1 << 22
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def find(
    folder_or_id: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> Path:
    """The folder of a checkpoint.

    Args:
        folder_or_id: an embedded name (`nano`), a folder, or a hub name such as `AutonLab/MOMENT-1-small`.
            A hub name is looked for in the local hub cache, then downloaded.
        revision: of a hub name; its main branch when left out.
        cache_dir: the hub cache; where Hugging Face's own settings say when left out.
        offline: never download, as with `HF_HUB_OFFLINE=1`.

    Raises:
        WeightsError: not there, and why it was not fetched. Said at once, without retries.
    """
    name = str(folder_or_id)
    if name in EMBEDDED:
        return _complete(Path(__file__).parent / name)
    if Path(folder_or_id).is_dir():
        return _complete(Path(folder_or_id))
    if Path(folder_or_id).exists():
        raise WeightsError(f"{name} is a file; needed is a folder with {CONFIG_NAME} and {FILE_NAME}")
    if isinstance(folder_or_id, Path) or not _HUB_NAME.fullmatch(name):
        raise WeightsError(
            f"there is no checkpoint {name!r}; give a folder with {CONFIG_NAME} and {FILE_NAME}, "
            f"{' or '.join(EMBEDDED)}, or a hub name such as AutonLab/MOMENT-1-small"
        )
    cached = _cached(name, revision, cache_dir)
    return cached or _download(name, revision, cache_dir, offline)


def _complete(folder: Path) -> Path:
    for name in (CONFIG_NAME, FILE_NAME):
        if not (folder / name).is_file():
            pickled = " (a .bin file is a pickle and is never read)" if any(folder.glob("*.bin")) else ""
            raise WeightsError(
                f"{folder} has no {name}{pickled}; a checkpoint is {CONFIG_NAME} and {FILE_NAME}"
            )
    return folder


def hub_cache(cache_dir: str | Path | None = None) -> Path:
    """The folder in which Hugging Face's tools keep what they downloaded."""
    if cache_dir:
        return Path(cache_dir)
    if set_cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(set_cache)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def _cached(name: str, revision: str | None, cache_dir: str | Path | None) -> Path | None:
    repository = hub_cache(cache_dir) / f"models--{name.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision or ""
    snapshot = repository / "snapshots" / commit
    has_both = commit and all((snapshot / n).is_file() for n in (CONFIG_NAME, FILE_NAME))
    return snapshot if has_both else None


def _download(name: str, revision: str | None, cache_dir: str | Path | None, offline: bool) -> Path:
    otherwise = f"put {CONFIG_NAME} and {FILE_NAME} into a folder and give its path, or use nano"
    if offline or is_offline():
        raise WeightsError(f"{name} is not in {hub_cache(cache_dir)} and downloads are off; {otherwise}")
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise WeightsError(
            f"{name} is not in {hub_cache(cache_dir)}, and without huggingface-hub it can't be downloaded; "
            f"pip install 'foreshock[hub]', or {otherwise}"
        ) from error
    if not answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        raise WeightsError(
            f"{name} is not in {hub_cache(cache_dir)} and the hub can't be reached; {otherwise}"
        )
    try:
        paths = [
            hub.hf_hub_download(name, n, revision=revision, cache_dir=cache_dir, etag_timeout=5)
            for n in (CONFIG_NAME, FILE_NAME)
        ]
    except Exception as error:  # the hub's own tree of errors changes between its versions
        raise WeightsError(f"{name} could not be downloaded ({error}); {otherwise}") from error
    return Path(paths[-1]).parent


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint that can be loaded without a network."""

    name: str
    folder: Path
    size_bytes: int
    has_digest: bool  # a SHA256SUMS lies beside it


def installed(cache_dir: str | Path | None = None) -> tuple[Checkpoint, ...]:
    """The embedded checkpoints, then those of the local hub cache that are MOMENTs."""
    found = []
    for name in EMBEDDED:
        folder = Path(__file__).parent / name
        if (folder / FILE_NAME).is_file():
            found.append(_describe(name, folder))
    for repository in sorted(hub_cache(cache_dir).glob("models--*")):
        name = repository.name.removeprefix("models--").replace("--", "/")
        snapshot = _cached(name, None, cache_dir)
        if snapshot and str(read_config(snapshot).get("model_name", "")).upper() == "MOMENT":
            found.append(_describe(name, snapshot))
    return tuple(found)


def _describe(name: str, folder: Path) -> Checkpoint:
    path = folder / FILE_NAME
    return Checkpoint(name, folder, path.stat().st_size, known_digest(path) is not None)


def pull(name: str, *, revision: str | None = None, cache_dir: str | Path | None = None) -> Path:
    """Download a hub checkpoint if it is not here yet, check that it is whole, and tell its folder."""
    folder = find(name, revision=revision, cache_dir=cache_dir)
    verify(folder)
    return folder


def verify(folder_or_id: str | Path) -> str:
    """The SHA-256 of a checkpoint's tensors, after a look at every byte.

    Raises:
        WeightsError: cut short, damaged, or other than `SHA256SUMS` says.
    """
    folder = find(folder_or_id, offline=True)
    read_config(folder)
    path = folder / FILE_NAME
    with path.open("rb") as file:
        _read_index(file, path, hashlib.sha256())
    found = _checked_digest(path)
    if (folder / HEADS_NAME).is_file():
        _checked_digest(folder / HEADS_NAME)
    return found


def _checked_digest(path: Path) -> str:
    found, expected = sha256(path), known_digest(path)
    if expected and found != expected:
        raise _damaged(path, found, expected)
    return found


def export(folder_or_id: str | Path, destination: str | Path, *, force: bool = False) -> Path:
    """Copy a checkpoint with its checksums, to carry it where there is no network.

    Raises:
        OutputError: something is there already and `force` was not given.
    """
    folder, destination = find(folder_or_id), Path(destination)
    digest = verify(folder)
    if destination.exists() and not force and any(destination.iterdir() if destination.is_dir() else [1]):
        raise OutputError(f"{destination} exists and is not an empty folder; choose another or give --force")
    try:
        destination.mkdir(parents=True, exist_ok=True)
        sums = f"{digest}  {FILE_NAME}\n"
        if (folder / HEADS_NAME).is_file():
            sums += f"{sha256(folder / HEADS_NAME)}  {HEADS_NAME}\n"
        for name in (FILE_NAME, CONFIG_NAME, HEADS_NAME):
            if not (folder / name).is_file():
                continue
            partial = destination / (name + ".part")
            shutil.copyfile(folder / name, partial)
            os.replace(partial, destination / name)
        _replace_text(destination / SUMS_NAME, sums)
    except OSError as error:
        raise OutputError(f"{destination} can't be written: {error}") from error
    return destination


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `config.json`."""
    path = folder / CONFIG_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{path} holds a {type(raw).__name__}; needed is an object of options")
    return raw


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, checked against `SHA256SUMS` where there is one."""
    path = folder / FILE_NAME
    expected = known_digest(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        index = _read_index(file, path, digest)
        tensors = {}
        for name, dtype, shape, begin, end in index:
            if name == UNREAD and dtype == torch.float32:
                tensors[name] = _mapped(file, path, shape, end - begin, digest)
                continue
            buffer = torch.empty(end - begin, dtype=torch.uint8)
            view = memoryview(buffer.numpy())  # type: ignore[arg-type]
            if file.readinto(view) != end - begin:
                raise WeightsError(f"{path} ends inside {name}; copy or download it again")
            digest.update(view)
            tensors[name] = buffer.view(dtype).reshape(shape)
    if expected and digest.hexdigest() != expected:
        raise _damaged(path, digest.hexdigest(), expected)
    if not expected:
        for name, tensor in tensors.items():
            if name != UNREAD and not bool(tensor.sum(dtype=torch.float64).isfinite()):
                raise WeightsError(f"{path} has numbers that are not finite in {name}; get it again")
    return tensors


def _mapped(
    file: io.BufferedReader, path: Path, shape: tuple[int, ...], size_bytes: int, digest: Any
) -> Tensor:
    """The next tensor, checked but not kept: it takes memory only if somebody should read it."""
    offset = file.tell()
    for begin in range(0, size_bytes, _CHUNK_BYTES):
        digest.update(file.read(min(_CHUNK_BYTES, size_bytes - begin)))
    return torch.from_numpy(np.memmap(path, np.float32, "c", offset, shape))


def _damaged(path: Path, found: str, expected: str) -> WeightsError:
    return WeightsError(
        f"{path} has sha256 {found[:12]}…, expected {expected[:12]}…; it is damaged, get it again"
    )


def known_digest(path: Path) -> str | None:
    """The SHA-256 that `SHA256SUMS` beside the file tells for it."""
    sums = path.parent / SUMS_NAME
    if not sums.is_file():
        return None
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition(" ")
        if name.strip().lstrip("*") == path.name:
            return digest.lower()
    return None


def _read_index(
    file: io.BufferedReader, path: Path, digest: Any
) -> list[tuple[str, torch.dtype, tuple[int, ...], int, int]]:
    """Name, type, shape and byte range of each tensor, in the file's order; then the bytes follow at once."""
    size = path.stat().st_size
    head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
    if length > size - 8:
        raise WeightsError(f"{path} is not a whole safetensors file; copy or download it again")
    text = file.read(length)
    digest.update(head + text)
    try:
        header = json.loads(text)
        index = [
            (name, _DTYPES[e["dtype"]], tuple(map(int, e["shape"])), *map(int, e["data_offsets"]))
            for name, e in header.items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} has a damaged header ({error}); copy or download it again") from error
    index.sort(key=lambda entry: entry[3])
    position = 0
    for name, dtype, shape, begin, end in index:
        count = 1
        for n in shape:
            count *= n
        if begin != position or end - begin != count * dtype.itemsize or count < 0:
            raise WeightsError(f"{path} has a damaged header at {name}; copy or download it again")
        position = end
    if position != size - 8 - length:
        raise WeightsError(
            f"{path} has {size - 8 - length} bytes of tensors, its header tells of {position}; "
            "copy or download it again"
        )
    return index


def save(
    folder: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    heads: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint; each file appears whole or not at all.

    Args:
        heads: of recognition, for a file of their own that the original package does not look at.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} can't be written: {error}") from error
    files = {FILE_NAME: tensors, **({HEADS_NAME: heads} if heads else {})}
    digests = {name: _write_part(folder / name, content) for name, content in files.items()}
    _replace_text(folder / CONFIG_NAME, json.dumps(dict(config), indent=1) + "\n")
    for name in files:
        os.replace(folder / f"{name}.part", folder / name)
    _replace_text(folder / SUMS_NAME, "".join(f"{d}  {name}\n" for name, d in digests.items()))
    return folder


def _write_part(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors beside their place; gives the digest."""
    from safetensors.torch import save_file

    partial = path.with_name(path.name + ".part")
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    save_file(plain, partial, metadata={"format": "pt"})
    return sha256(partial)


def read_heads(folder: Path) -> dict[str, Tensor] | None:
    """The tensors of the heads of recognition, checked as `read_tensors` does; None where there are none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / HEADS_NAME
    if not path.is_file():
        return None
    _checked_digest(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} can't be read ({error}); get it again") from error


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def sha256(path: Path) -> str:
    """The digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
