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
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foreshock.errors import WeightsError

FILE_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
SUMS_NAME = "SHA256SUMS"
EMBEDDED = ("nano",)  # names of the checkpoints that ship in the package
_CHUNK_BYTES = 1 << 22
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def find(folder_or_id: str | Path) -> Path:
    """The folder of a checkpoint."""
    name = str(folder_or_id)
    if name in EMBEDDED:
        return _complete(Path(__file__).parent / name)
    return _complete(Path(folder_or_id))


def _complete(folder: Path) -> Path:
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder with {CONFIG_NAME} and {FILE_NAME}")
    for name in (CONFIG_NAME, FILE_NAME):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder} has no {name}; a checkpoint is {CONFIG_NAME} and {FILE_NAME}")
    return folder


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
        index, start = _read_index(file, path, digest)
        tensors = {}
        for name, dtype, shape, begin, end in index:
            file.seek(start + begin)
            buffer = torch.empty(end - begin, dtype=torch.uint8)
            view = memoryview(buffer.numpy())  # type: ignore[arg-type]
            if file.readinto(view) != end - begin:
                raise WeightsError(f"{path} ends inside {name}; copy or download it again")
            digest.update(view)
            tensors[name] = buffer.view(dtype).reshape(shape)
    if expected and digest.hexdigest() != expected:
        raise _damaged(path, digest.hexdigest(), expected)
    return tensors


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
) -> tuple[list[tuple[str, torch.dtype, tuple[int, ...], int, int]], int]:
    """Name, type, shape and byte range of each tensor, in the file's order, and where the bytes start."""
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
    return index, 8 + length


def save(folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write a checkpoint; each file appears whole or not at all."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    partial = folder / (FILE_NAME + ".part")
    save_file(plain, partial, metadata={"format": "pt"})
    digest = sha256(partial)
    _replace_text(folder / CONFIG_NAME, json.dumps(dict(config), indent=1) + "\n")
    os.replace(partial, folder / FILE_NAME)
    _replace_text(folder / SUMS_NAME, f"{digest}  {FILE_NAME}\n")
    return folder


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
