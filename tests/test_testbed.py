"""The shop, its faults and what asks the service, each alone. The whole bench runs in `make live-test`."""

from __future__ import annotations

import asyncio
import contextlib
import math

import numpy as np
import psutil
import pytest
import yaml

aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

from foreshock.decide import Rules  # noqa: E402
from foreshock.service.settings import read_settings  # noqa: E402
from testbed import document  # noqa: E402
from testbed.kpis import queries  # noqa: E402
from testbed.live import Outcome, shortcomings  # noqa: E402
from testbed.load import DAY_SHARE, Visitors  # noqa: E402
from testbed.plan import FULL, SMALL  # noqa: E402
from testbed.processes import free_ports  # noqa: E402
from testbed.service import Sighting, Watch, configuration  # noqa: E402
from testbed.shop import database  # noqa: E402
from testbed.shop.database import Pool, PoolEmpty, create  # noqa: E402
from testbed.shop.faults import KINDS, Faults  # noqa: E402
from testbed.shop.server import serve  # noqa: E402
from testbed.shop.services import SERVICES  # noqa: E402


@pytest.fixture
def base(tmp_path):
    create(tmp_path / "shop.sqlite")
    return tmp_path / "shop.sqlite"


@contextlib.asynccontextmanager
async def one_service(name, base=None):
    """A service alone: (address, client); who it calls is not there."""
    ports = free_ports(len(SERVICES))
    addresses = {n: f"http://127.0.0.1:{p}" for n, p in zip(SERVICES, ports, strict=True)}
    work = asyncio.ensure_future(serve(name, SERVICES[name], addresses, base, seed=1))
    async with aiohttp.ClientSession() as http:
        for _ in range(100):
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{addresses[name]}/metrics"):
                    break
            await asyncio.sleep(0.02)
        yield addresses[name], http
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


def test_the_plan_breaks_what_is_there():
    """Ten faults of eight kinds, each in a service that has what is to be broken."""
    faults = FULL[0].faults
    assert len(faults) == 10
    assert len({f.kind for f in faults}) == 8
    assert {f.service for f in faults} <= set(SERVICES)
    assert {f.kind for f in (*faults, *SMALL[0].faults)} <= {*KINDS, "surge"}


def test_the_load_follows_a_day():
    """The mean over a day is what was asked for; noon and midnight differ as told; a surge is a factor."""
    visitors = Visitors("http://nobody", 10.0, 200.0)
    rates = [visitors.rate(t) for t in np.arange(0, 200, 0.5)]
    assert math.isclose(np.mean(rates), 10.0)
    assert math.isclose(max(rates), 10 * (1 + DAY_SHARE), rel_tol=1e-3)
    visitors.surge = 3.0
    assert visitors.rate(0) == 30.0


def test_a_pool_without_free_connections_turns_queries_away(base, monkeypatch):
    """Taken connections are missing to others, and are there again when the fault ends."""
    monkeypatch.setattr(database, "TAKE_S", 0.05)

    async def run():
        pool = Pool(base, size=2)
        faults = Faults(pool, seed=1)
        faults.start("pool", 2)
        await asyncio.sleep(0.01)
        with pytest.raises(PoolEmpty):
            await pool.query("SELECT 1")
        faults.stop("pool")
        return await pool.query("SELECT count(*) FROM products")

    assert asyncio.run(run()) == [(database.PRODUCTS,)]


def test_slow_queries_are_slow_and_end(base):
    """Rows read in vain cost time; the answer stays the same."""

    async def run():
        pool, clock = Pool(base), asyncio.get_running_loop().time
        faults = Faults(pool, seed=1)

        async def ask():
            """The answer, and the shortest of some times: others may have the processor for a while."""
            times = []
            for _ in range(5):
                begun = clock()
                told = await pool.query("SELECT * FROM products WHERE id = 5")
                times.append(clock() - begun)
            return told, min(times)

        plain, fast_s = await ask()
        faults.start("slow_query", 100_000)
        slow, slow_s = await ask()
        faults.stop("slow_query")
        return plain == slow, fast_s, slow_s, pool.extra_rows

    same, fast_s, slow_s, left = asyncio.run(run())
    assert same
    assert slow_s > 3 * fast_s
    assert left == 0


def test_memory_grows_and_is_given_back():
    """Held memory is resident, and free again after the fault."""

    async def run():
        me, faults = psutil.Process(), Faults(None, seed=1)
        before = me.memory_info().rss
        faults.start("memory", 160)
        await asyncio.sleep(0.9)
        grown = me.memory_info().rss
        faults.stop("memory")
        await asyncio.sleep(0.4)
        return grown - before, grown - me.memory_info().rss

    grown, freed = asyncio.run(run())
    assert grown > 60 * 2**20
    assert freed > 0.6 * grown


def test_cpu_is_burnt():
    """A third of a core for a while is a third of that time."""

    async def run():
        me, faults = psutil.Process(), Faults(None, seed=1)
        before = sum(me.cpu_times()[:2])
        faults.start("cpu", 0.3)
        await asyncio.sleep(0.8)
        faults.stop("cpu")
        return sum(me.cpu_times()[:2]) - before

    assert asyncio.run(run()) > 0.05


def test_a_service_counts_what_it_answers_and_breaks_on_command():
    """Errors and latency come out of the same handler that a caller meets, and into the metrics."""

    async def run():
        async with one_service("cache") as (address, http):
            await http.post(f"{address}/item/a", json=[1, 2])
            async with http.get(f"{address}/item/a") as answer:
                kept = await answer.json()
            await http.post(f"{address}/fault", json={"kind": "errors", "amount": 1.0})
            async with http.get(f"{address}/item/a") as answer:
                broken = answer.status
            await http.post(f"{address}/fault", json={"kind": "errors", "stop": True})
            async with http.get(f"{address}/item/a") as answer:
                mended = answer.status
            async with http.post(f"{address}/fault", json={"kind": "flood"}) as answer:
                refused = answer.status, (await answer.json())["error"]
            async with http.get(f"{address}/metrics") as answer:
                metrics = await answer.text()
        return kept, broken, mended, refused, metrics

    kept, broken, mended, refused, metrics = asyncio.run(run())
    assert (kept, broken, mended) == ([1, 2], 500, 200)
    assert refused[0] == 400
    assert "there is no fault 'flood'" in refused[1]
    assert 'http_requests_total{code="500"} 1.0' in metrics
    assert "process_resident_memory_bytes" in metrics


def test_a_caller_tells_of_a_service_that_is_gone():
    """No answer from below is a 502, not a crash."""

    async def run():
        wish = {"user": 1, "amount": 5}
        async with (
            one_service("payment") as (address, http),
            http.post(f"{address}/pay", json=wish) as answer,
        ):
            return answer.status

    assert asyncio.run(run()) == 502


def test_a_fault_without_what_it_breaks_is_refused():
    with pytest.raises(ValueError, match="needs a database"):
        Faults(None, seed=1).start("slow_query", 10)


def test_queries_are_one_series_a_service():
    """Every query gives one series a service; rates are over the window that foreshock fills in."""
    for query in queries().values():
        assert "by (service" in query
        assert "rate(" not in query or "$rate" in query


@pytest.mark.parametrize("size", [FULL[1], SMALL[1]])
def test_the_service_takes_its_configuration(size, tmp_path):
    """What the bench writes is valid; pressed by 15, rules and promise are those of a longer step."""
    pytest.importorskip("httpx", reason="httpx is not installed")
    told = configuration(size, tmp_path / "data", 8099, "http://127.0.0.1:1", "http://127.0.0.1:2", 40.0)
    (tmp_path / "foreshock.yaml").write_text(yaml.safe_dump(told))
    settings = read_settings(tmp_path / "foreshock.yaml", {})
    assert len(settings.prometheus.queries) == len(queries())
    assert settings.prometheus.window_s == size.window_s
    rules, per_day = settings.score.rules, settings.score.threshold.false_alarms_per_day
    assert per_day == size.press
    assert rules.confirm_rows(size.step_s) == Rules().confirm_rows(size.step_s * size.press)


def test_an_incident_is_remembered_from_its_first_telling():
    """When it was seen and who was first then stay; the newest page is kept beside them."""
    page = {"state": "open", "services": [{"name": "cart"}], "headline": "", "service": None}

    class Answers(Watch):
        async def _asked(self, path):
            if path.endswith("/status"):
                return {"health": {"cycles": 3, "last_cycle_s": 0.2}}
            return {"incidents": [{"id": "i"}]} if "?" in path else dict(page)

    async def run():
        watch = Answers(None, "")
        await watch.look()
        page.update(state="closed", services=[{"name": "cache"}])
        await watch.look()
        return watch

    watch = asyncio.run(run())
    seen: Sighting = watch.sightings["i"]
    assert (seen.at_once, seen.first, seen.is_open) == ("cart", "cache", False)
    assert watch.cycle_s == {3: 0.2}


def outcome(**told):
    whole = {"begun": 0.0, "found_after_s": 3.0, "alert_after_s": 4.0, "resolved_after_end_s": 9.0}
    return Outcome(SMALL[0].faults[0], **{**whole, **told})


def test_a_whole_outcome_is_found_told_and_over():
    """Each of the three is needed."""
    assert outcome().is_whole
    for missing in ("found_after_s", "alert_after_s", "resolved_after_end_s"):
        assert not outcome(**{missing: None}).is_whole


def test_a_small_run_says_what_it_lacks():
    """Found, alerts and resolved are asked of both faults, the right service of one."""
    whole = {"faults": 2, "found": 2, "alerts": 2, "resolved": 2, "right_first": 1}
    assert shortcomings(whole) == ""
    assert shortcomings({**whole, "resolved": 1, "right_first": 0}) == "resolved is 1, right_first is 0"


def test_the_page_tells_the_last_record():
    """docs/testbed.md is what the record says; run `python -m testbed.document`."""
    assert document.PAGE.read_text() == document.whole()
