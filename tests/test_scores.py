"""Pooling: services and system from KPI evidence."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import naive
from foreshock.scores import TOP_SHARE, pool


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 5))
def test_pool_agrees_with_the_slow_twin(seed, kpis, services):
    """Root mean square a service, mean of the loudest share for the system; NaN left out."""
    rng = np.random.default_rng(seed)
    evidence = rng.exponential(1, (7, kpis)).astype(np.float32)
    evidence[rng.random(evidence.shape) < 0.3] = np.nan
    evidence[3] = np.nan
    index = rng.integers(0, services, kpis)
    by_service, system = pool(evidence, index, services)
    want_services, want_system = naive.pool(evidence, index, services, TOP_SHARE)
    np.testing.assert_allclose(by_service, want_services, rtol=1e-5)
    np.testing.assert_allclose(system, want_system, rtol=1e-5)


def test_order_of_kpis_does_not_matter():
    """A permuted table gives the same system score."""
    rng = np.random.default_rng(1)
    evidence = rng.exponential(1, (20, 40)).astype(np.float32)
    index = np.arange(40) % 4
    order = rng.permutation(40)
    a, b = pool(evidence, index, 4), pool(evidence[:, order], index[order], 4)
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    np.testing.assert_allclose(a[1], b[1], rtol=1e-5)


def test_dead_kpis_do_not_calm_a_service():
    """A service with one loud KPI scores the same beside three that were never observed."""
    loud = np.full((5, 1), 8.0, np.float32)
    dead = np.full((5, 3), np.nan, np.float32)
    alone = pool(loud, np.zeros(1, int), 1)[0]
    beside = pool(np.concatenate([loud, dead], 1), np.zeros(4, int), 1)[0]
    np.testing.assert_array_equal(alone, beside)
