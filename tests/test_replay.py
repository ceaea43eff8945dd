"""A recording replayed through a real Prometheus gets the scores that `foreshock score` gives its table."""

from __future__ import annotations

import asyncio
import subprocess

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("aiohttp", reason="aiohttp is not installed")

from foreshock import load_detector, read
from foreshock.cli import run
from foreshock.config import Settings
from foreshock.sources.prometheus import PrometheusClient, PrometheusOptions, Query
from foreshock.stream import Monitor
from real_prometheus import needed, running

ROWS = slice(300, 660)  # of the demo: with a fault and missing values
SERVICES = ("accounts", "basket", "catalog", "checkout")
BACKFILL, PIECES = 120, (1, 7, 16, 1, 31, 64, 3)  # rows read back, then rows at a time
# The demo's day is long ago; a value holds for less than a step, so that what is missing stays missing.
FLAGS = ("--storage.tsdb.retention.time=100y", "--query.lookback-delta=29s")


def recording():
    """(360, 20), services and KPIs in order of their names, as Prometheus's answers are arranged."""
    whole = read("demo:")
    names = sorted(k.name for k in whole.kpis if k.service in SERVICES)
    return whole.select(names).rows(ROWS).without_labels()


def openmetrics(frame):
    """One family a KPI, a sample a value; what is missing is left out."""
    families: dict[str, list[str]] = {}
    for column, kpi in enumerate(frame.kpis):
        lines = families.setdefault(kpi.metric, [])
        for row in np.flatnonzero(np.isfinite(frame.values[:, column])):
            value, at = float(frame.values[row, column]), frame.time_ns[row] / 1e9
            lines.append(f'{kpi.metric}{{service="{kpi.service}"}} {value!r} {at:.3f}')
    return "\n".join(f"# TYPE {n} gauge\n" + "\n".join(s) for n, s in families.items()) + "\n# EOF\n"


@pytest.fixture
def prometheus(tmp_path):
    """A real one that holds the recording."""
    needed()
    (tmp_path / "recording.txt").write_text(openmetrics(recording()))
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", "recording.txt", "data"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    with running(tmp_path, *FLAGS) as url:
        yield url


def replayed(url, frame):
    """A monitor that has read all rows as the service does: back-fill, then piece by piece."""
    kpis = dict.fromkeys(kpi.metric for kpi in frame.kpis)
    options = PrometheusOptions(url, frame.step_s, tuple(Query(kpi, kpi, "service") for kpi in kpis))
    monitor = Monitor(load_detector("foreshock"), frame.step_s, Settings())
    first, stop = (round(stamp / 1e9 / frame.step_s) for stamp in frame.time_ns[[0, -1]])
    sizes = iter((BACKFILL, *(PIECES * 10)))

    async def work():
        client = PrometheusClient(options)
        at = first
        while at <= stop:
            slots = range(at, min(stop + 1, at + next(sizes)))
            monitor.push((await client.read(slots)).frame)
            at = slots.stop
        await client.close()

    asyncio.run(work())
    return monitor


@pytest.mark.slow
def test_a_replay_has_the_scores_of_the_table(prometheus, tmp_path):
    """Values as they were; KPIs, services, system and threshold as `foreshock score` has them."""
    frame = recording()
    assert np.isnan(frame.values).any()
    live = replayed(prometheus, frame)
    assert live.frame.names == frame.names
    np.testing.assert_array_equal(live.frame.time_ns, frame.time_ns)
    np.testing.assert_array_equal(live.frame.values, frame.values)

    whole = load_detector("foreshock").score(frame)
    np.testing.assert_allclose(live.scores.kpis, whole.kpis, atol=1e-5, rtol=1e-5)
    assert whole.system.max() > 10  # the fault is there

    table = pd.DataFrame({"timestamp": frame.time, **dict(zip(frame.names, frame.values.T, strict=True))})
    table.to_parquet(tmp_path / "table.parquet")
    words = ["score", str(tmp_path / "table.parquet"), "--out", str(tmp_path / "scores.parquet"), "-q"]
    assert run(words) == 0
    told = pd.read_parquet(tmp_path / "scores.parquet")
    np.testing.assert_allclose(live.scores.system, told["score"], atol=1e-5, rtol=1e-5)
    for at, name in enumerate(live.scores.service_names):
        np.testing.assert_allclose(live.scores.services[:, at], told[f"service:{name}"], atol=1e-5, rtol=1e-5)
    high = np.where(np.isfinite(live.high), live.high, np.nan)
    np.testing.assert_allclose(high, told["threshold"], atol=1e-5, rtol=1e-5)
