"""read(uri): which source an address means, and what every source promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import foreshock
from foreshock.errors import SourceError
from foreshock.sources import SOURCES, frames, read

TABLE = "timestamp,cart__cpu,label\n0,1,0\n60,2,1\n120,3,0\n"


@pytest.fixture
def shop(tmp_path) -> Path:
    path = tmp_path / "shop table.csv"
    path.write_text(TABLE)
    return path


def test_public_names():
    """`foreshock.read` is this one."""
    assert foreshock.read is read
    assert {"file", "demo"} <= SOURCES.keys()


def test_one_file_many_addresses(shop, monkeypatch):
    """Text, path object, file address, and relative: the same frame."""
    monkeypatch.chdir(shop.parent)
    quoted = str(shop).replace(" ", "%20")
    for uri in (str(shop), shop, f"file://{quoted}", f"file:{quoted}", "shop table.csv", "./shop table.csv"):
        assert read(uri).values.tolist() == [[1], [2], [3]]


def test_colon_in_a_file_name(tmp_path):
    path = tmp_path / "metrics:v1.csv"
    path.write_text(TABLE)
    assert len(read(path)) == 3


@pytest.mark.parametrize("uri", ["", "nope:x", "a\0b", "x" * 5000, "~", "."])
def test_odd_addresses(uri, tmp_path, monkeypatch):
    """No address makes anything but an error of ours."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError):
        read(uri)
    with pytest.raises(SourceError):
        list(frames(uri))


def test_unknown_scheme_names_the_known(shop):
    with pytest.raises(SourceError, match=r"unknown source 'prom'.*demo, file"):
        read("prom:http://x")


def test_demo_recording():
    """The demo recording has faults, services and units, and comes in pieces too."""
    whole = read("demo:").require_clock()
    assert whole.labels is not None
    assert whole.labels.anomaly.any()
    assert len(whole.services) > 5
    pieces = list(frames("demo:", rows=500))
    np.testing.assert_array_equal(np.concatenate([p.values for p in pieces]), whole.values)
    with pytest.raises(SourceError, match="takes no"):
        read("demo:", timestamp="t")


def test_pieces_need_a_row(shop):
    with pytest.raises(SourceError, match="at least 1"):
        frames(shop, 0)


def test_pieces_are_lazy_but_the_address_is_not(tmp_path):
    """A wrong scheme is told at once, a missing file when the first piece is asked for."""
    with pytest.raises(SourceError):
        frames("nope:x")
    pieces = frames(tmp_path / "none.csv")
    with pytest.raises(SourceError, match="no such file"):
        next(pieces)


def test_bounded_memory(tmp_path):
    """Walking a Parquet file takes memory for some pieces, not for the table."""
    script = """
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq, psutil
from foreshock.sources import frames
path, columns = sys.argv[1], 12
rng = np.random.default_rng(0)
schema = pa.schema([("timestamp", pa.int64()), *((f"a__k{i}", pa.float64()) for i in range(columns))])
with pq.ParquetWriter(path, schema, compression="none") as w:
    for start in range(0, 900_000, 100_000):
        stamps = 1_700_000_000 + np.arange(start, start + 100_000)
        w.write_table(pa.table([stamps, *rng.normal(0, 1, (columns, 100_000))], schema=schema))
next(frames(path, 1000))  # imports and pools are paid for
process, peak, rows = psutil.Process(), 0, 0
before = process.memory_info().rss
for piece in frames(path, 20_000):
    rows += len(piece)
    peak = max(peak, process.memory_info().rss - before)
print(rows, peak)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "t.parquet")],
        capture_output=True,
        text=True,
        check=True,
    )
    rows, peak = map(int, done.stdout.split())
    table = 900_000 * 13 * 8
    assert rows == 900_000
    assert peak < 0.6 * table
