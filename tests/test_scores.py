"""Pooling: families, services and system from KPI evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import naive
from foreshock.frame import Kpi
from foreshock.scores import LOUDEST, POWER, family, join, layout, pool, smooth


def kpis(services, metrics) -> tuple[Kpi, ...]:
    return tuple(
        Kpi(f"{i}_{s}__{m}", f"s{s}", m) for i, (s, m) in enumerate(zip(services, metrics, strict=True))
    )


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 7))
def test_pool_agrees_with_the_slow_twin(seed, count, services):
    """Means of powers over families and services, mean of the loudest share; NaN left out."""
    rng = np.random.default_rng(seed)
    evidence = rng.exponential(1, (5, count)).astype(np.float32)
    evidence[rng.random(evidence.shape) < 0.3] = np.nan
    evidence[3] = np.nan
    meta = kpis(
        rng.integers(0, services, count), rng.choice(["cpu_pct", "cpu_m", "lat_p50", "lat_p99"], count)
    )
    by_service, system = pool(evidence, layout(meta))
    want_services, want_system = naive.pool(
        evidence, [k.service for k in meta], [family(k) for k in meta], LOUDEST, POWER
    )
    np.testing.assert_allclose(by_service, want_services, rtol=1e-5)
    np.testing.assert_allclose(system, want_system, rtol=1e-5)


def test_order_of_kpis_does_not_matter():
    """A permuted table gives the same system score."""
    rng = np.random.default_rng(1)
    evidence = rng.exponential(1, (20, 40)).astype(np.float32)
    meta = kpis(np.arange(40) % 4, [f"m{i // 8}" for i in range(40)])
    order = rng.permutation(40)
    mixed = tuple(meta[i] for i in order)
    a, b = pool(evidence, layout(meta))[1], pool(evidence[:, order], layout(mixed))[1]
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_dead_kpis_do_not_calm_a_service():
    """A service with one loud KPI scores the same beside three that were never observed."""
    loud = np.full((5, 1), 8.0, np.float32)
    dead = np.full((5, 3), np.nan, np.float32)
    alone = pool(loud, layout(kpis([0], ["a"])))[0]
    beside = pool(np.concatenate([loud, dead], 1), layout(kpis([0] * 4, "abcd")))[0]
    np.testing.assert_array_equal(alone, beside)


def test_one_quantity_speaks_once():
    """Three quantiles of a loud latency weigh no more than one."""
    once = pool(np.array([[9.0, 0.0]]), layout(kpis([0, 0], ["lat_p99_s", "cpu"])))
    thrice = pool(
        np.array([[9.0, 9.0, 9.0, 0.0]]),
        layout(kpis([0] * 4, ["lat_p90_s", "lat_p95_s", "lat_p99_s", "cpu"])),
    )
    np.testing.assert_allclose(once[1], thrice[1])


@pytest.mark.parametrize(
    ("metric", "want"),
    [("cpu_pct", "cpu"), ("cpu_m", "cpu"), ("server_lat_p95_s", "server_lat"), ("p99", "p99")],
)
def test_family_drops_quantile_and_unit(metric, want):
    """What is left is the quantity; a name that is nothing else stays."""
    assert family(Kpi(f"a__{metric}", "a", metric)) == want


def test_smooth_goes_on_where_it_stopped():
    """Pieces give what the whole gives; a steady level is reached."""
    rng = np.random.default_rng(0)
    evidence = rng.exponential(1, (30, 3))
    evidence[5, 1] = np.nan
    whole = smooth(evidence, np.zeros(3), 0.6)
    first = smooth(evidence[:11], np.zeros(3), 0.6)
    np.testing.assert_array_equal(whole[11:], smooth(evidence[11:], first[-1], 0.6))
    assert smooth(np.full((40, 1), 4.0), np.zeros(1), 0.6)[-1, 0] == pytest.approx(4)


def test_join_gives_back_the_whole(make_frame):
    """Scores of consecutive pieces, joined, are those of the stream; one piece is itself."""
    from foreshock.models import load_detector

    frame = make_frame(90)
    whole = load_detector("past_median").score(frame)
    stream = load_detector("past_median").stream()
    pieces = [stream.push(frame.rows(slice(a, b))) for a, b in ((0, 30), (30, 31), (31, 90))]
    got = join(pieces)
    for name in ("time_ns", "kpis", "services", "system", "expected"):
        np.testing.assert_allclose(getattr(got, name), getattr(whole, name), rtol=1e-5)
    assert join(pieces[:1]) is pieces[0]
    bare = [replace(piece, expected=None) for piece in pieces]
    assert join(bare).expected is None
