"""Scores written back: the bytes, and what a real Prometheus makes of them."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest

pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("aiohttp", reason="aiohttp is not installed")

from foreshock.alerts.options import Access
from foreshock.alerts.sinks import SinkAway, SinkRefused
from foreshock.frame import Kpi
from foreshock.remote_write import MOST_SAMPLES, Series, compress, encode, series_of, write_back
from foreshock.scores import Scores
from real_prometheus import running


def scores(rows=6_000, step_s=15, end=None):
    """A ramp for the system, two services, one row unobserved; ends at `end`, Unix seconds."""
    end = 1_700_000_000 if end is None else end
    stamps = (end - np.arange(rows)[::-1] * step_s).astype(np.int64) * 1_000_000_000
    system = np.arange(rows, dtype=np.float32)
    system[1] = np.nan
    services = np.stack([system * 2, system * 3], axis=1)
    meta = (Kpi("a__x", "a"), Kpi("b__x", "b"))
    return Scores(stamps, services, services, system, meta, ("a", "b"), float(step_s))


def test_the_message_is_that_of_the_protocol():
    """Labels sorted by name, milliseconds, numbers of several bytes: read back by an independent reader."""
    one = Series({"z": "ä", "__name__": "m"}, np.array([1_700_000_000_123_000_000]), np.array([2.5]))
    fields = list(read(encode([one])))
    assert [number for number, _ in fields] == [1]
    inside = list(read(fields[0][1]))
    labels = [tuple(content.decode() for _, content in read(c)) for number, c in inside if number == 1]
    assert labels == [("__name__", "m"), ("z", "ä")]
    (sample,) = [list(read(c)) for number, c in inside if number == 2]
    assert np.frombuffer(sample[0][1], "<f8")[0] == 2.5
    assert sample[1] == (2, 1_700_000_000_123)


def read(message):
    """(field number, content) of a protobuf message: bytes, or an int for numbers."""
    at = 0

    def number():
        nonlocal at
        out = shift = 0
        while True:
            byte = message[at]
            at += 1
            out |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return out

    while at < len(message):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        else:
            size = 8 if key & 7 == 1 else number()
            yield key >> 3, message[at : at + size]
            at += size


def test_compression_can_be_undone():
    """Snappy's block format: the length first, as receivers expect."""
    pa = pytest.importorskip("pyarrow")
    told = compress(b"foreshock" * 1000)
    assert len(told) < 1000
    assert (
        bytes(pa.decompress(told, decompressed_size=9000, codec="snappy", asbytes=True))
        == b"foreshock" * 1000
    )
    assert next(iter(read(b"\x08" + told))) == (1, 9000)


@pytest.fixture
def prometheus(tmp_path):
    """A real Prometheus that takes remote writes up to two days old."""
    config = "storage:\n  tsdb:\n    out_of_order_time_window: 2d\n"
    with running(tmp_path, "--web.enable-remote-write-receiver", config=config) as url:
        yield url


def test_prometheus_takes_scores_of_the_past(prometheus):
    """A day and more of rows, newest part first: all there, at their own times, none invented."""
    end = int(time.time()) // 15 * 15
    told = scores(end=end)
    series = series_of(told, np.full(len(told), 2.0), {"job": "foreshock"})
    late = [Series(s.labels, s.time_ns[3000:], s.values[3000:]) for s in series]
    early = [Series(s.labels, s.time_ns[:3000], s.values[:3000]) for s in series]
    access = Access(url=f"{prometheus}/api/v1/write")

    async def work():
        return await write_back(late, access) + await write_back(early, access)

    sent = asyncio.run(work())
    assert sent == 4 * 6000 - 3 > MOST_SAMPLES
    wish = {"query": 'foreshock_service_score_backdated{service="b",job="foreshock"}[2d]', "time": end}
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?{urllib.parse.urlencode(wish)}") as answer:
        (found,) = json.load(answer)["data"]["result"]
    stamps, values = np.array(found["values"], dtype=float).T
    seen = np.isfinite(told.services[:, 1])
    np.testing.assert_array_equal(stamps, told.time_ns[seen] / 1e9)
    np.testing.assert_array_equal(values, told.services[seen, 1])


def test_what_is_too_old_is_refused_and_told(prometheus):
    """Beyond the receiver's window: 400, or 500 of Prometheus before 2.43; never taken in silence."""
    old = series_of(scores(rows=3, end=1_000_000_000), np.full(3, 2.0), {})
    new = series_of(scores(rows=3, end=int(time.time())), np.full(3, 2.0), {})
    access = Access(url=f"{prometheus}/api/v1/write")
    asyncio.run(write_back(new, access))
    with pytest.raises((SinkRefused, SinkAway), match=r"answered [45]00"):
        asyncio.run(write_back(old, access))


def test_a_receiver_that_is_away_is_worth_another_try():
    """The difference is in the error."""
    with pytest.raises(SinkAway, match=r"127\.0\.0\.1:1"):
        asyncio.run(
            write_back(series_of(scores(rows=3), np.zeros(3), {}), Access(url="http://127.0.0.1:1/w"))
        )
