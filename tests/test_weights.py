"""Checkpoints: found where they should be, and never believed when damaged."""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path

import pytest
import torch

from foreshock.errors import OutputError, WeightsError
from foreshock.models import weights
from foreshock.models.moment import Moment, MomentConfig, load_moment

SMALL = MomentConfig(d_model=16, d_kv=4, d_ff=24, num_heads=2, num_layers=1, seq_len=64)


@pytest.fixture
def folder(tmp_path) -> Path:
    torch.manual_seed(0)
    return Moment(SMALL).save_pretrained(tmp_path / "small")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path) -> Path:
    """No test reads or writes the user's cache, nor the network."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def flip(path: Path, position: int) -> None:
    """Turn one byte of a file upside down."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.3, 0.999])
def test_a_flipped_byte_is_found(share, folder):
    """In the length, the header or the numbers: the checksum or the header says no."""
    path = folder / weights.FILE_NAME
    flip(path, int(share * path.stat().st_size))
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_moment(folder)


@pytest.mark.parametrize("keep", [0, 4, 300, 0.5, 0.99])
@pytest.mark.parametrize("has_digest", [True, False])
def test_a_cut_file_is_found(keep, has_digest, folder):
    """Cut anywhere, with or without a checksum beside it."""
    path = folder / weights.FILE_NAME
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if isinstance(keep, int) else keep * len(data))])
    if not has_digest:
        (folder / weights.SUMS_NAME).unlink()
    with pytest.raises(WeightsError, match="again"):
        load_moment(folder)


def test_numbers_that_are_none_are_found_without_a_digest(folder):
    """Without a checksum, at least NaN and infinity are told."""
    model = Moment.from_pretrained(folder)
    with torch.no_grad():
        model.head.linear.bias[3] = torch.inf
    weights.save(folder, SMALL.to_dict(), model.state_dict())
    (folder / weights.SUMS_NAME).unlink()
    with pytest.raises(WeightsError, match=r"not finite in head\.linear\.bias"):
        load_moment(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_ff": 32}, r"wi_0\.weight has shape \(24, 16\), needed is \(32, 16\)"),
        ({"num_layers": 2}, r"block\.1\.[\w.]+ is missing"),
    ],
)
def test_a_file_of_another_geometry_is_told(change, message, folder):
    """With the tensor's name and both shapes."""
    config = json.loads((folder / weights.CONFIG_NAME).read_text())
    config["t5_config"] |= change
    (folder / weights.CONFIG_NAME).write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        load_moment(folder)


def test_a_hostile_header_is_refused(folder):
    """A length beyond the file, or ranges that overlap, are no reason to read on."""
    path = folder / weights.FILE_NAME
    (folder / weights.SUMS_NAME).unlink()
    whole = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 1 << 60) + whole[8:])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_moment(folder)
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    name = next(n for n in header if n.endswith("wo.weight"))
    header[name]["data_offsets"] = [0, header[name]["data_offsets"][1] - header[name]["data_offsets"][0]]
    text = json.dumps(header).encode().ljust(size)
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + size :])
    with pytest.raises(WeightsError, match="damaged header"):
        load_moment(folder)


def test_missing_pieces_are_told(folder, tmp_path):
    """A folder without a file, a file instead of a folder, a pickle, a broken config, no such thing."""
    (folder / weights.FILE_NAME).rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"no model\.safetensors \(a \.bin file is a pickle"):
        load_moment(folder)
    with pytest.raises(WeightsError, match="is a file; needed is a folder"):
        load_moment(folder / "pytorch_model.bin")
    (folder / weights.FILE_NAME).write_bytes(b"")
    (folder / weights.CONFIG_NAME).write_text("{")
    with pytest.raises(WeightsError, match="is not JSON"):
        load_moment(folder)
    for name in ("nanoo", str(tmp_path / "none"), "a/b/c", "../up"):
        with pytest.raises(WeightsError, match="there is no checkpoint"):
            load_moment(name)


def test_hub_name_without_hub_or_network(monkeypatch):
    """One error that says why and what to do, at once."""
    start = time.monotonic()
    with pytest.raises(WeightsError, match="downloads are off"):
        load_moment("AutonLab/MOMENT-1-small")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(WeightsError, match=r"pip install 'foreshock\[hub\]'"):
            load_moment("AutonLab/MOMENT-1-small")
    monkeypatch.setattr(weights, "answers", lambda endpoint: False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", object())
    with pytest.raises(WeightsError, match="the hub can't be reached"):
        load_moment("AutonLab/MOMENT-1-small")
    assert time.monotonic() - start < 1


def test_a_closed_port_answers_no():
    """The look whether anybody listens takes no longer than its limit."""
    start = time.monotonic()
    assert not weights.answers("http://127.0.0.1:9")
    assert time.monotonic() - start < 2.5


def test_local_hub_cache_is_used(folder, own_cache):
    """A checkpoint that other tools downloaded is found by its name, offline."""
    snapshot = own_cache / "models--AutonLab--MOMENT-1-small" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in (weights.CONFIG_NAME, weights.FILE_NAME):
        (snapshot / name).symlink_to(folder / name)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    assert load_moment("AutonLab/MOMENT-1-small").config == SMALL
    assert weights.find("AutonLab/MOMENT-1-small", revision="abc") == snapshot
    assert "AutonLab/MOMENT-1-small" in [c.name for c in weights.installed()]


def test_half_precision_files_load(folder, tmp_path):
    """A file in half the bytes is read back as float32; the table of positions may be left out."""
    model = Moment.from_pretrained(folder)
    for dtype in (torch.float16, torch.bfloat16):
        tensors = {n: t.to(dtype) for n, t in model.state_dict().items() if not n.endswith(".pe")}
        weights.save(tmp_path / "half", SMALL.to_dict(), tensors)
        again = Moment.from_pretrained(tmp_path / "half")
        for name, tensor in again.state_dict().items():
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0.01, atol=0.01)


def test_verify_and_export(folder, tmp_path):
    """A copy carries its checksum, and nothing is overwritten unasked."""
    digest = weights.verify(folder)
    copy = weights.export(folder, tmp_path / "copy")
    assert weights.verify(copy) == digest == weights.known_digest(copy / weights.FILE_NAME)
    with pytest.raises(OutputError, match="--force"):
        weights.export(folder, copy)
    flip(copy / weights.FILE_NAME, -1)
    with pytest.raises(WeightsError, match="sha256"):
        weights.verify(copy)
    weights.export(folder, copy, force=True)
    assert weights.verify(copy) == digest
    occupied = tmp_path / "occupied"
    occupied.write_text("")
    with pytest.raises(OutputError):
        weights.export(folder, occupied)


def test_saving_over_itself(folder):
    """The folder a model came from can be written again."""
    model = Moment.from_pretrained(folder)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    model.save_pretrained(folder)
    for name, tensor in Moment.from_pretrained(folder).state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not list(folder.glob("*.part"))
