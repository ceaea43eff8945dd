"""What the world looks like in quiet, and what a scrape shows of it: counts, histograms, rounding, holes."""

from __future__ import annotations

import numpy as np

from foreshock.sources.simulator.faults import State
from foreshock.sources.simulator.flow import LATENCY_SPREAD, normal_below
from foreshock.sources.simulator.plan import METRICS, Plan

KNOT_S = 600.0  # slow drifts are straight between knots this far apart
BUCKETS_S = np.array([0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])


def day_curve(at_s: np.ndarray, start_ns: int) -> np.ndarray:
    """Share of the busiest hour's load, by the UTC time of day: low at night, peaks at 11 and 19 h."""
    hour = (start_ns / 3.6e12 + at_s / 3600) % 24

    def hump(centre: float, width: float) -> np.ndarray:
        return np.asarray(np.exp(-0.5 * (((hour - centre + 12) % 24 - 12) / width) ** 2))

    return 0.22 + 0.6 * hump(11.5, 2.6) + 0.72 * hump(18.5, 2.8)


def drift(rng: np.random.Generator, at_s: np.ndarray, width: int) -> np.ndarray:
    """(R, width) slow unit noise: straight lines between knots, smoothed over three of them.

    The knots run from the recording's start, so that any block of it sees the same drift.
    """
    knots = rng.standard_normal((int(at_s[-1] // KNOT_S) + 4, width))
    smooth = (knots[:-2] + knots[1:-1] + knots[2:]) / np.sqrt(3)
    place = at_s / KNOT_S
    left = place.astype(int)
    part = (place - left)[:, None]
    return np.asarray(smooth[left] * (1 - part) + smooth[left + 1] * part)


def quiet_state(plan: Plan, at_s: np.ndarray, rng: np.random.Generator) -> State:
    """The world without faults: the day's load, drifts, deploys."""
    services, rows = plan.system.services, len(at_s)

    def per(name: str) -> np.ndarray:
        return np.tile([float(getattr(s, name)) for s in services], (rows, 1))

    slow = drift(np.random.default_rng([plan.seed, 4]), at_s, 1 + 2 * len(services))
    work = per("work_s") * np.exp(0.04 * slow[:, 1 : 1 + len(services)])
    memory, age_s = per("memory_mi"), np.tile(at_s[:, None] + 20_000, (1, len(services)))
    for deploy in plan.deploys:
        i, later = plan.system.index[deploy.service], at_s >= deploy.at_s
        work[later, i] *= deploy.work
        memory[later, i] *= deploy.memory
        age_s[later, i] = at_s[later] - deploy.at_s
    memory *= 1 + 0.18 * (1 - np.exp(-age_s / 30_000)) + 0.008 * slow[:, 1 + len(services) :]
    load = plan.system.peak_ops * day_curve(at_s, plan.start_ns) * np.exp(0.07 * slow[:, 0])
    load = load * np.exp(0.05 * rng.standard_normal(rows))
    zero = np.zeros((rows, len(services)))
    return State(
        cores=per("cores"),
        stolen=zero.copy(),
        work_s=work,
        idle_s=per("idle_s") * np.exp(0.03 * rng.standard_normal(zero.shape)),
        net_s=zero + 0.0008,
        refused=zero.copy(),
        errors=zero + 2e-5,
        memory_mi=memory,
        load=load,
        timeout_s=plan.system.timeout_s,
    )


def observe(
    plan: Plan,
    state: State,
    calls: np.ndarray,
    took: np.ndarray,
    failed: np.ndarray,
    at_s: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """(R, K) what a scrape would show: counts, histogram quantiles, rounding, holes."""
    rows, services = calls.shape
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
    values[_lost(plan, at_s, state, rng)] = np.nan
    return values.reshape(rows, services * len(METRICS))


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
    bucket = np.minimum((seen < 0.9).sum(-1), len(BUCKETS_S) - 1)
    edges = np.concatenate([[0.0], BUCKETS_S])
    shares = np.concatenate([np.zeros((*count.shape, 1)), seen], axis=-1)
    low = np.take_along_axis(shares, bucket[..., None], -1)[..., 0]
    high = np.take_along_axis(shares, bucket[..., None] + 1, -1)[..., 0]
    part = np.clip((0.9 - low) / np.maximum(high - low, 1e-9), 0, 1)
    return np.where(count > 0, edges[bucket] + part * (edges[bucket + 1] - edges[bucket]), np.nan)


def _lost(plan: Plan, at_s: np.ndarray, state: State, rng: np.random.Generator) -> np.ndarray:
    """(R, S) scrapes that failed: single ones, a whole row now and then, the minute of a restart."""
    rows, services = state.cores.shape
    lost: np.ndarray = rng.random((rows, services)) < 0.002
    lost |= np.asarray(rng.random(rows) < 0.0007)[:, None]
    for deploy in plan.deploys:
        lost[(at_s >= deploy.at_s) & (at_s < deploy.at_s + 60), plan.system.index[deploy.service]] = True
    return lost
