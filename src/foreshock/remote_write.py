"""Scores written back into Prometheus, back-dated, by its remote-write protocol 1.0.

The receiver must accept old samples: Prometheus with `--web.enable-remote-write-receiver` and
`storage.tsdb.out_of_order_time_window`, or Mimir, VictoriaMetrics and the like.

Source: Prometheus remote-write 1.0 specification. The four messages of its protobuf are written by hand
(field numbers beside them); snappy's block format comes with pyarrow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foreshock.alerts.options import Access
from foreshock.alerts.sinks import open_client, post
from foreshock.scores import Scores

if TYPE_CHECKING:
    import httpx

MOST_SAMPLES = 5_000  # a message; receivers refuse large ones
HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}


@dataclass(frozen=True, slots=True)
class Series:
    """One series with its newest samples, oldest first."""

    labels: Mapping[str, str]  # with __name__
    time_ns: np.ndarray  # (T,) int64
    values: np.ndarray  # (T,) float64; NaN: nothing is written


def series_of(scores: Scores, high: np.ndarray, labels: Mapping[str, str]) -> list[Series]:
    """Scores of the system and of each service, and the threshold of each row.

    Args:
        high: (T,) the level at which incidents begin; inf where there is none yet.
        labels: of all series, such as {"job": "foreshock"}; names as on /metrics, with `_backdated`.
    """
    told = np.where(np.isfinite(high), high, np.nan)
    columns = [
        ({"__name__": "foreshock_score_backdated"}, scores.system),
        ({"__name__": "foreshock_threshold_backdated", "level": "high"}, told),
    ]
    columns += [
        ({"__name__": "foreshock_service_score_backdated", "service": name}, scores.services[:, at])
        for at, name in enumerate(scores.service_names)
    ]
    return [Series({**labels, **own}, scores.time_ns, np.asarray(v, float)) for own, v in columns]


async def write_back(
    series: Sequence[Series], access: Access, client: httpx.AsyncClient | None = None
) -> int:
    """Send everything, in messages of bounded size; how many samples were taken.

    Raises:
        SinkAway: nobody answered, or 408, 429, 5xx: worth another try.
        SinkRefused: the receiver will not take these, such as those too old for it.
    """
    own = open_client(access, "remote_write") if client is None else client
    sent = 0
    try:
        for piece in _pieces(series):
            await post(own, access.url, compress(encode(piece)), HEADERS)
            sent += sum(len(one.time_ns) for one in piece)
    finally:
        if client is None:
            await own.aclose()
    return sent


def _pieces(series: Sequence[Series]) -> Iterator[list[Series]]:
    """Messages of at most MOST_SAMPLES samples, without those that are missing."""
    piece: list[Series] = []
    room = MOST_SAMPLES
    for one in series:
        seen = np.flatnonzero(np.isfinite(one.values))
        while len(seen):
            rows, seen = seen[:room], seen[room:]
            piece.append(Series(one.labels, one.time_ns[rows], one.values[rows]))
            room -= len(rows)
            if room == 0:
                yield piece
                piece, room = [], MOST_SAMPLES
    if piece:
        yield piece


def compress(message: bytes) -> bytes:
    """In snappy's block format."""
    import pyarrow as pa

    return bytes(pa.compress(message, codec="snappy", asbytes=True))


def encode(series: Sequence[Series]) -> bytes:
    """prometheus.WriteRequest: `timeseries` = 1.

    Example:
        >>> encode([Series({"a": "b"}, np.array([2_000_000]), np.array([0.0]))]).hex(" ")
        '0a 15 0a 06 0a 01 61 12 01 62 12 0b 09 00 00 00 00 00 00 00 00 10 02'
    """
    return b"".join(_field(1, _time_series(one)) for one in series)


def _time_series(one: Series) -> bytes:
    """prometheus.TimeSeries: `labels` = 1 (sorted by name, as receivers want), `samples` = 2."""
    labels = b"".join(_field(1, _label(name, one.labels[name])) for name in sorted(one.labels))
    stamps, values = (one.time_ns // 1_000_000).tolist(), one.values.tolist()
    return labels + b"".join(_field(2, _sample(v, at)) for at, v in zip(stamps, values, strict=True))


def _label(name: str, value: str) -> bytes:
    """prometheus.Label: `name` = 1, `value` = 2."""
    return _field(1, name.encode()) + _field(2, value.encode())


def _sample(value: float, at_ms: int) -> bytes:
    """prometheus.Sample: `value` = 1 (double), `timestamp` = 2 (int64, milliseconds)."""
    return b"\x09" + struct.pack("<d", value) + b"\x10" + _varint(at_ms)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
