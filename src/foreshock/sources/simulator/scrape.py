"""What Train Ticket's monitoring shows, as Nezha recorded it: pods' CPU and memory, the mesh's calls.

Calls and latencies are those of the last WINDOW_S of each step, CPU is the whole step's: so a quiet service
has no call to time and its latency is missing, while its CPU went on.
"""

from __future__ import annotations

import numpy as np

from foreshock.sources.simulator.faults import State
from foreshock.sources.simulator.flow import Flow, normal_below
from foreshock.sources.simulator.observe import lost, quantile
from foreshock.sources.simulator.plan import FRONT_QUANTILES, Plan
from foreshock.sources.simulator.quiet import versions
from foreshock.sources.simulator.system import SESSION

# Istio's histogram (telemetry v2); the recorded latencies lie on its edges.
EDGES_S = np.array([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
WINDOW_S = 15.0  # recorded rates are whole fifteenths of a second
PAGE_MI = 1 / 256
PAUSE_S, PAUSE_SPREAD = 0.13, 0.8  # a collector's pause, a lock, a cold cache
PASSED_ON = 0.7  # share of a caller's surplus that its callees see: the rest falls into other spans
ABORT_S = 0.0015  # an aborted call comes back after this
REFUSED_S = 0.005  # one that nobody takes is known to be lost within this
WOBBLE = 0.35  # how much the mean of a row's answers strays, in spreads of single ones


def scrape(plan: Plan, state: State, settled: Flow, at_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(R, K) the KPIs of the watched services, then the front door's latencies."""
    system, rows = plan.system, len(at_s)
    names = system.watched or tuple(s.name for s in system.services)
    seen = [system.index[name] for name in names]
    window_s = min(WINDOW_S, plan.step_s)
    count = _counts(plan, state, settled, window_s, rng)
    made = count + (
        _counts(plan, state, settled, plan.step_s - window_s, rng) if plan.step_s > window_s else 0
    )
    cpu = _cpu(plan, state, seen, made[:, seen], at_s, rng)
    memory = _memory(plan, state, seen, at_s, rng)
    within = {i: _within(plan, state, settled, count, i, rng) for i in sorted({*seen, 1})}
    (p90,) = quantiles(count[:, seen], np.stack([within[i] for i in seen], axis=1), (0.9,), rng)
    p90[:, [name not in system.called for name in names]] = 0.0
    rate = count[:, seen] / window_s
    ragged = rng.random(rate.shape) < 0.1  # a scrape that came a little late
    rate = rate * np.where(ragged, 1 - 0.001 * rng.random(rate.shape), 1.0)
    values = np.stack([cpu, memory, rate, p90], axis=2)
    values[lost(plan, at_s, rng, single=0.0003, whole=0.0003)[:, seen]] = np.nan
    front = quantiles(count[:, :1], within[1][:, None], FRONT_QUANTILES[system.name], rng)
    return np.concatenate([values.reshape(rows, -1), *front], axis=1)


def _counts(plan: Plan, state: State, settled: Flow, span_s: float, rng: np.random.Generator) -> np.ndarray:
    """(R, S) calls counted in a span of each row: a caller that happens to be busy makes its callees busy."""
    system = plan.system
    count = np.zeros(settled.calls.shape, dtype=np.int64)
    busier = np.zeros(settled.calls.shape, order="F")  # what the callers would ask, over what is expected
    expected = np.zeros(settled.calls.shape, order="F")
    sittings: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # drawn and expected
    for i, service in enumerate(system.services):
        if service.name not in system.called:
            continue
        mean = settled.calls[:, i] * span_s
        if i:
            mean = mean * np.where(expected[:, i] > 0, busier[:, i] / np.maximum(expected[:, i], 1e-12), 1)
        groups = service.together
        if i in sittings:
            sat, usual = sittings[i]
            count[:, i] = groups * rng.binomial(sat, np.clip(mean / groups / usual, 0, 1))
        else:
            count[:, i] = groups * rng.poisson(mean / groups)
        if groups > 1:  # the span's edge cuts some groups in two
            count[:, i] -= rng.binomial(count[:, i], 0.06)
        # What a router hands on is split at random, and parts of a random stream don't know of each other.
        happened = count[:, i] / np.maximum(settled.calls[:, i] * span_s, 1e-12)
        surprise = 1.0 if service.router else 1 + PASSED_ON * (happened - 1)
        sitting = [j for _, j, call in system.asks[i] if call.journey == SESSION]
        if sitting:
            alone = settled.calls[:, sitting] / np.array([system.services[j].together for j in sitting])
            usual = 1.25 * alone.max(axis=1) * span_s + 1e-9
            sittings |= dict.fromkeys(sitting, (rng.poisson(usual), usual))
        for n, j, call in system.asks[i]:
            usual = settled.calls[:, i] * call.per_op * state.asks[:, n]
            expected[:, j] += usual
            busier[:, j] += usual * surprise
    return count


def _cpu(
    plan: Plan, state: State, seen: list[int], made: np.ndarray, at_s: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(R, W) per cent of the limit: nearly white, lognormal, with bursts; machines share a little of it."""
    services = [plan.system.services[i] for i in seen]
    cores, stolen = state.cores[:, seen], state.stolen[:, seen]
    work = made / plan.step_s * state.work_s[:, seen] * (1 - 0.9 * state.errors[:, seen])
    rest = np.array([s.background * s.cores for s in services]) * (1 - state.refused[:, seen])
    used = np.minimum(work + rest, np.maximum(cores - stolen, 0))
    share = np.clip((used + stolen) / cores, 0, 1)
    spread = np.array([s.noise for s in services]) * np.sqrt(1 - share)
    nodes = sorted({s.node for s in services})
    machine = rng.standard_normal((len(made), len(nodes)))[:, [nodes.index(s.node) for s in services]]
    everywhere = rng.standard_normal((len(made), 1))
    noise = spread * (0.9 * rng.standard_normal(used.shape) + 0.28 * machine + 0.33 * everywhere)
    own = used * np.exp(noise - spread**2 / 2)
    burst = rng.random(used.shape) < 0.007  # the compiler, a collection of everything
    own += burst * rest * np.exp(1.6 + 1.0 * rng.standard_normal(used.shape))
    own *= 1 + 4 * np.exp(-versions(plan, at_s)[2][:, seen] / 60)  # a new version compiles itself
    own *= rng.random(used.shape) > 0.0025  # a reading of nothing
    steady = stolen * (1 - 0.06 * np.abs(rng.standard_normal(used.shape)))
    return np.asarray(100 * np.minimum((own + steady) / cores, 1.0 + 0.001 * rng.standard_normal(used.shape)))


def _memory(
    plan: Plan, state: State, seen: list[int], at_s: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(R, W) MiB: a slow walk in small steps, a third of the readings like the one before, whole pages."""
    services = [plan.system.services[i] for i in seen]
    quiet = state.memory_mi[:, seen]
    noise = np.clip(0.2 * rng.standard_t(2.2, quiet.shape), -12, 12)
    small = np.minimum(1, np.array([s.memory_mi for s in services]) / 100)
    moves = (rng.random(quiet.shape) > 0.3) | (np.arange(len(at_s)) == 0)[:, None]
    last = np.maximum.accumulate(np.where(moves, np.arange(len(at_s))[:, None], 0), axis=0)
    walked = np.take_along_axis(noise, last, axis=0) * small
    walked += 6.0 * np.clip(state.stolen[:, seen] / state.cores[:, seen], 0, 1)  # what steals needs some
    # Memory that stands still is read as exactly the same; what a fault or a restart moves is read at once.
    held = np.take_along_axis(quiet, last, axis=0)
    near = np.abs(held / quiet - 1) < 0.005
    limit = np.array([s.memory_limit_mi for s in services])
    return np.asarray(np.round(np.clip(np.where(near, held, quiet) + walked, 0, limit) / PAGE_MI) * PAGE_MI)


def _within(
    plan: Plan, state: State, settled: Flow, count: np.ndarray, i: int, rng: np.random.Generator
) -> np.ndarray:
    """(R, edges) share of the calls to service `i` that are answered within each edge.

    A router's calls are as slow as the callees that were asked just then.
    """
    system, service = plan.system, plan.system.services[i]
    rows = len(state.load)
    if service.name not in system.called:
        return np.ones((rows, len(EDGES_S)))
    wobble = np.exp(WOBBLE * service.spread * rng.standard_normal(rows))
    if not service.router:
        worked = settled.took[:, i] * wobble
        return answered(worked, state.errors[:, i], service.spread, rng.random(rows) < service.hiccup)
    own, window_s = state.idle_s[:, i] + state.work_s[:, i], min(WINDOW_S, plan.step_s)
    total, weight = np.zeros((rows, len(EDGES_S))), np.zeros((rows, 1))
    for n, j, call in (c for c in system.asks[i] if c[2].per_op > 0):
        if system.services[j].router:
            over = _within(plan, state, settled, count, j, rng)
        else:
            mean_s = (settled.took[:, j] + state.net_s[:, j] + own) * wobble
            pauses = rng.random(rows) < system.services[j].hiccup
            over = answered(mean_s, state.errors[:, j], system.services[j].spread, pauses)
        heard = (1 - state.silent[:, j, None]) * (1 - state.unresolved[:, i, None])
        usual = call.per_op * state.asks[:, n] * settled.calls[:, i]
        reached = (1 - state.refused[:, j]) * (1 - state.silent[:, j])
        happened = np.where(reached > 0.5, count[:, j] / np.maximum(settled.calls[:, j] * window_s, 1e-12), 1)
        part = (usual * (0.05 + 0.95 * happened))[:, None]
        total += part * heard * or_refused(over, state.refused[:, j])
        weight += part
    return np.asarray(total / np.maximum(weight, 1e-12))


def or_refused(over: np.ndarray, refused: np.ndarray) -> np.ndarray:
    """(R, edges) share within each edge, where some (R,) are refused at once, the rest over as told."""
    return np.asarray(refused[:, None] * (EDGES_S >= REFUSED_S) + (1 - refused[:, None]) * over)


def answered(mean_s: np.ndarray, aborted: np.ndarray, spread: float, pauses: np.ndarray) -> np.ndarray:
    """(R, edges) share within each edge, of lognormal answers; half of them late in moments of pauses."""
    middle = np.log(np.maximum(mean_s / (1 - 0.97 * aborted), 1e-6)) - spread**2 / 2
    log = np.log(EDGES_S)
    share = np.asarray(normal_below((log - middle[:, None]) / spread))
    if pauses.any():
        late = np.logaddexp(middle[pauses] + np.log(2), np.log(PAUSE_S))[:, None]
        share[pauses] = (share[pauses] + normal_below((log - late) / PAUSE_SPREAD)) / 2
    if aborted.max() > 0.01:
        share = aborted[:, None] * (EDGES_S > ABORT_S) + (1 - aborted[:, None]) * share
    return share


def quantiles(
    count: np.ndarray, below: np.ndarray, wanted: tuple[float, ...], rng: np.random.Generator
) -> list[np.ndarray]:
    """For each wanted share (R, W) seconds, of `count` calls drawn into the buckets; NaN without calls.

    Args:
        count: (R, W) calls.
        below: (R, W, edges) the share expected within each edge.
    """
    edge = np.concatenate([np.zeros((*count.shape, 1)), below, np.ones((*count.shape, 1))], axis=-1)
    chance = np.maximum(np.diff(np.maximum.accumulate(edge, axis=-1), axis=-1), 0)
    drawn = rng.multinomial(count, chance / chance.sum(-1, keepdims=True))
    seen = np.cumsum(drawn, axis=-1)[..., :-1] / np.maximum(count, 1)[..., None]
    return [np.where(count > 0, quantile(seen, EDGES_S, q), np.nan) for q in wanted]
