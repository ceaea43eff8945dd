"""Reading a Prometheus: pieces, missing values, odd answers, secrets."""

from __future__ import annotations

import asyncio
import itertools
import time

import numpy as np
import pytest

from fake_prometheus import KPIS, SERVICES, Fake, value
from foreshock.errors import ConfigError, SourceError
from foreshock.sources.prometheus import AwayError, PrometheusClient, PrometheusOptions, Query

QUERIES = tuple(Query(query=kpi, kpi=kpi, service="service") for kpi in KPIS)


def read(fake: Fake, slots: range, partial: bool = False, **options):
    async def work():
        told = {"url": fake.url, "step_s": 1.0, "queries": QUERIES, "tries": 1, "timeout_s": 1.0}
        client = PrometheusClient(PrometheusOptions(**{**told, **options}))
        try:
            return await client.read(slots, partial)
        finally:
            await client.close()

    return asyncio.run(work())


def now() -> int:
    return int(time.time())


def test_a_range_becomes_a_frame():
    """A row for each slot, a KPI for each service and query, values as told."""
    slots = range(now() - 60, now() - 10)
    with Fake() as fake:
        frame = read(fake, slots).frame
    assert frame.values.shape == (50, 9)
    assert sorted(frame.services) == list(SERVICES)
    np.testing.assert_array_equal(frame.time_ns, np.array(slots) * 10**9)
    for i, kpi in enumerate(frame.kpis):
        want = [value(kpi.service, kpi.metric, float(at) - fake.began_s) for at in slots]
        np.testing.assert_allclose(frame.values[:, i], want, rtol=1e-6)


def test_long_ranges_come_in_pieces():
    """25,000 rows are asked for in pieces below 11,000 points, each slot once."""
    slots = range(now() - 25_100, now() - 100)
    with Fake() as fake:
        frame = read(fake, slots, queries=QUERIES[:1], timeout_s=20.0).frame
        ranges = sorted(
            (float(a["start"]), float(a["end"])) for a in fake.asked if a["path"].endswith("query_range")
        )
    assert len(frame) == 25_000
    assert np.isfinite(frame.values).all()
    assert all(end - start < 11_000 for start, end in ranges)
    assert all(b[0] - a[1] == 1 for a, b in itertools.pairwise(ranges))


def test_a_series_that_ended_is_missing():
    """No value is carried on, and one that begins later is missing before."""
    slots = range(now() - 60, now() - 10)
    with Fake() as fake:
        fake.gone["cart"], fake.born["pay"] = slots[20], slots[30]
        frame = read(fake, slots).frame
    cart = [k.service == "cart" for k in frame.kpis]
    pay = [k.service == "pay" for k in frame.kpis]
    assert np.isnan(frame.values[25:, cart]).all()
    assert np.isfinite(frame.values[:20, cart]).all()
    assert np.isnan(frame.values[:30, pay]).all()
    assert np.isfinite(frame.values[30:, pay]).all()


def test_doubled_samples_count_once():
    slots = range(now() - 30, now() - 10)
    with Fake() as once, Fake(twice=True) as twice:
        np.testing.assert_array_equal(read(once, slots).frame.values, read(twice, slots).frame.values)


@pytest.mark.parametrize("mode", ["500", "503", "malformed", "html", "slow", "cut"])
def test_trouble_is_told_as_away(mode):
    """What may pass is to be asked again, and says what came."""
    with Fake(mode=mode) as fake, pytest.raises(AwayError):
        read(fake, range(now() - 20, now() - 10))


def test_nobody_listens():
    with Fake() as fake:
        pass
    with pytest.raises(AwayError):
        read(fake, range(now() - 20, now() - 10))


def test_a_refused_query_is_no_trouble_to_wait_for():
    """A mistake in PromQL is told with Prometheus's own words."""
    with Fake(mode="refuse") as fake, pytest.raises(SourceError, match="parse error") as caught:
        read(fake, range(now() - 20, now() - 10))
    assert not isinstance(caught.value, AwayError)


@pytest.mark.parametrize(("rate_s", "told"), [(60.0, "60s"), (2.5, "2500ms"), (1_000_000.0, "1000000s")])
def test_windows_are_whole_numbers(rate_s, told):
    """Prometheus reads no fractions of a second, and no exponents."""
    assert Query("rate(x[$rate])", "x").promql(rate_s) == f"rate(x[{told}])"
    assert Query("x", "x", "job", counter=True).promql(rate_s) == f"sum by (job) (rate(x[{told}]))"


def test_trouble_that_passes_is_asked_again():
    """The second try finds Prometheus back."""
    with Fake(mode="503") as fake:

        async def work():
            options = PrometheusOptions(url=fake.url, step_s=1.0, queries=QUERIES, tries=5, timeout_s=1.0)
            client = PrometheusClient(options)

            async def mend():
                await asyncio.sleep(0.2)
                fake.mode = "ok"

            task = asyncio.create_task(mend())
            try:
                return await client.read(range(now() - 20, now() - 10))
            finally:
                await task
                await client.close()

        assert asyncio.run(work()).frame is not None


def test_a_token_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("SHOP_TOKEN", "s3cret-token")
    with Fake(mode="500") as fake, pytest.raises(AwayError) as caught:
        read(fake, range(now() - 20, now() - 10), token_env="SHOP_TOKEN")
    assert set(fake.auth) == {"Bearer s3cret-token"}
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "prometheus:9090"},
        {"url": "http://u:p@host"},
        {"step_s": 0},
        {"rate_s": -1},
        {"step_s": 0.0001},
    ],
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ConfigError):
        PrometheusOptions(**wrong)
