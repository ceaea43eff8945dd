"""What a scrape of the shop shows: counts, histograms, rounding, holes."""

from __future__ import annotations

import numpy as np

from foreshock.sources.simulator.faults import State
from foreshock.sources.simulator.flow import LATENCY_SPREAD, Flow, normal_below
from foreshock.sources.simulator.plan import Plan
from foreshock.sources.simulator.quiet import RESTART_MARK_S, versions

BUCKETS_S = np.array([0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])


def observe(
    plan: Plan,
    state: State,
    settled: Flow,
    at_s: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """(R, K) what a scrape would show: counts, histogram quantiles, rounding, holes."""
    calls, took, failed = settled.calls, settled.took, settled.failed
    rows = len(calls)
    count = rng.poisson(calls * plan.step_s)
    used = np.minimum(calls * state.work_s, np.maximum(state.cores - state.stolen, 0)) + 0.004 * state.cores
    share = np.clip((used + state.stolen) / state.cores, 0, 1)
    # CV 0.6 when nearly idle, less the busier the service: an average over more calls.
    spread = 0.55 * np.sqrt(1 - share) / np.sqrt(1 + used * 8)
    own = used * np.exp(spread * rng.standard_normal(used.shape) - spread**2 / 2)
    steady = state.stolen * (1 - 0.03 * np.abs(rng.standard_normal(used.shape)))
    cpu = 100 * np.minimum((own + steady) / state.cores, 1.0 + 0.01 * rng.standard_normal(used.shape))
    limit = np.array([s.memory_limit_mi for s in plan.system.services])
    memory = np.minimum(state.memory_mi * np.exp(0.0006 * rng.standard_normal(used.shape)), limit)
    memory = np.round(memory * 32) / 32  # pages counted, not bytes
    errors = np.where(count > 0, rng.binomial(count, np.clip(failed, 0, 1)) / np.maximum(count, 1), 0.0)
    values = np.stack([cpu, memory, count / plan.step_s, latency_p90(count, took, rng), errors], axis=2)
    values[lost(plan, at_s, rng)] = np.nan
    return values.reshape(rows, -1)


def latency_p90(count: np.ndarray, mean_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The 90th percentile as a Prometheus histogram tells it: straight inside a bucket, NaN without calls."""
    middle = np.log(np.maximum(mean_s, 1e-6)) - LATENCY_SPREAD**2 / 2
    middle = middle + 0.06 * rng.standard_normal(middle.shape)
    below = normal_below((np.log(BUCKETS_S) - middle[..., None]) / LATENCY_SPREAD)  # (R, S, buckets)
    calls = np.maximum(count, 1)[..., None]
    # The share counted below each edge strays from the true one as a finite count must.
    stray = np.sqrt(below * (1 - below) / calls) * rng.standard_normal(middle.shape)[..., None]
    seen = np.round(np.clip(below + stray, 0, 1) * calls) / calls
    seen = np.maximum.accumulate(seen, axis=-1)
    return np.where(count > 0, quantile(seen, BUCKETS_S, 0.9), np.nan)


def quantile(seen: np.ndarray, edges_s: np.ndarray, share: float) -> np.ndarray:
    """(R, S) the quantile as Prometheus reads it from a histogram: straight inside a bucket.

    Args:
        seen: (R, S, edges) share of the calls counted within each edge, rising. A quantile beyond the last
            edge is that edge.
    """
    bucket = np.minimum((seen < share).sum(-1), len(edges_s) - 1)
    edges = np.concatenate([[0.0], edges_s])
    shares = np.concatenate([np.zeros((*seen.shape[:2], 1)), seen], axis=-1)
    low = np.take_along_axis(shares, bucket[..., None], -1)[..., 0]
    high = np.take_along_axis(shares, bucket[..., None] + 1, -1)[..., 0]
    part = np.clip((share - low) / np.maximum(high - low, 1e-9), 0, 1)
    return np.asarray(edges[bucket] + part * (edges[bucket + 1] - edges[bucket]))


def lost(
    plan: Plan, at_s: np.ndarray, rng: np.random.Generator, single: float = 0.002, whole: float = 0.0007
) -> np.ndarray:
    """(R, S) scrapes that failed: single ones, a whole row now and then, the minute of a restart."""
    rows, services = len(at_s), len(plan.system.services)
    gone: np.ndarray = rng.random((rows, services)) < single
    gone |= np.asarray(rng.random(rows) < whole)[:, None]
    return gone | (versions(plan, at_s)[2] < RESTART_MARK_S)
