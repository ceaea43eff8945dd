"""A seeded shop of microservices with planted faults, for the demo and for tests.

Load enters at the front door and travels down the call graph; waiting travels back up. A fault only
changes a cause (stolen cores, a slow network, a slow query, ...), and one queueing model decides what
every KPI shows. Nothing is drawn on a column.

The quiet statistics follow recordings of real shops: CPU close to white and lognormal, memory a slow
ramp that a deploy resets, latencies quantised by histogram buckets and missing when nobody called,
counts that are mostly 0, lost scrapes, and deploys that nobody labelled.

Any number of rows comes in blocks, each seeded by its own number: a longer recording begins with the
shorter one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.errors import InputError, OutputError
from foreshock.frame import Frame, Kpi, Labels

BLOCK_ROWS = 2048  # rows made at once; part of the seed's meaning, so never change it lightly
KNOT_S = 600.0  # slow drifts are straight between knots this far apart
DEMO_START_NS = 1_772_438_400_000_000_000  # 2026-03-02T08:00:00Z, a Monday
LATENCY_SPREAD = 0.55  # sigma of the lognormal latencies of single calls
BUCKETS_S = np.array([0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
METRICS = (
    ("cpu_pct", "%"),
    ("memory_mi", "MiB"),
    ("workload_ops", "1/s"),
    ("latency_p90_s", "s"),
    ("error_share", ""),
)


@dataclass(frozen=True, slots=True)
class Service:
    """One service: what a call costs it, and what it owns."""

    name: str
    work_s: float  # CPU seconds of one call
    idle_s: float  # seconds of one call that are spent waiting for nothing in the graph (disk, sleep)
    cores: float = 1.0  # its CPU limit
    memory_mi: float = 200.0  # resident memory right after a start
    memory_limit_mi: float = 1024.0


@dataclass(frozen=True, slots=True)
class Call:
    """`caller` asks `callee`, on average `per_op` times for each call it serves."""

    caller: str
    callee: str
    per_op: float = 1.0


@dataclass(frozen=True, slots=True)
class System:
    """A call graph without cycles. `services[0]` is the front door; callers stand before callees."""

    services: tuple[Service, ...]
    calls: tuple[Call, ...]
    peak_ops: float = 26.0  # calls a second at the front door in the busiest hour
    think_s: float = 4.0  # how long a user waits between two answers
    timeout_s: float = 5.0  # callers give up on one call after this
    retries: float = 1.0  # and ask again this often

    @property
    def index(self) -> dict[str, int]:
        return {s.name: i for i, s in enumerate(self.services)}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is planted: a kind of FAULTS at a service, in seconds since the recording's start."""

    kind: str
    service: str
    start_s: float
    duration_s: float
    size: float = 1.0  # 1 is a fault an operator would call clear; 0.3 a faint one
    onset_s: float = 40.0  # from nothing to full effect
    recovery_s: float = 90.0  # from the fault's end back to normal


@dataclass(frozen=True, slots=True)
class Deploy:
    """A new version nobody labelled: memory starts afresh, the costs of a call shift for good."""

    service: str
    at_s: float
    work: float = 1.0  # factor on work_s
    memory: float = 1.0  # factor on memory_mi


@dataclass(slots=True)
class State:
    """What the world does to each service, (R, S) each; faults write here, the queueing model reads."""

    cores: np.ndarray  # the CPU limit in force
    stolen: np.ndarray  # cores taken by somebody else in the container
    work_s: np.ndarray
    idle_s: np.ndarray
    net_s: np.ndarray  # added to each answer on its way back to the caller
    refused: np.ndarray  # share of calls that find nobody listening
    errors: np.ndarray  # share of calls the service itself gets wrong
    memory_mi: np.ndarray
    load: np.ndarray  # (R,) calls a second users want
    timeout_s: float = 5.0


def _cpu_contention(s: State, i: int, x: np.ndarray, size: float) -> None:
    s.stolen[:, i] += x * (1 - 0.08 / size) * s.cores[:, i] if size > 0.08 else 0.0


def _cpu_throttling(s: State, i: int, x: np.ndarray, size: float) -> None:
    s.cores[:, i] /= 1 + 14 * size * x


def _memory_leak(s: State, i: int, x: np.ndarray, size: float) -> None:
    s.memory_mi[:, i] *= 1 + 1.4 * size * x
    s.work_s[:, i] *= 1 + 1.5 * size * x**3  # the collector runs ever more often


def _network_delay(s: State, i: int, x: np.ndarray, size: float) -> None:
    s.net_s[:, i] += 0.8 * size * x


def _slow_query(s: State, i: int, x: np.ndarray, size: float) -> None:
    s.idle_s[:, i] += 0.6 * size * x


def _service_crash(s: State, i: int, x: np.ndarray, size: float) -> None:
    s.refused[:, i] = np.maximum(s.refused[:, i], np.clip(size * x, 0, 1))
    s.memory_mi[:, i] *= 1 - 0.85 * np.clip(size * x, 0, 1)


def _error_storm(s: State, i: int, x: np.ndarray, size: float) -> None:
    s.errors[:, i] = np.maximum(s.errors[:, i], np.clip(0.5 * size * x, 0, 1))


def _traffic_surge(s: State, i: int, x: np.ndarray, size: float) -> None:
    s.load *= 1 + 2.5 * size * x


# kind -> what it does to the state, given its strength 0..1 at each row
FAULTS: dict[str, Callable[[State, int, np.ndarray, float], None]] = {
    "cpu_contention": _cpu_contention,
    "cpu_throttling": _cpu_throttling,
    "memory_leak": _memory_leak,
    "network_delay": _network_delay,
    "slow_query": _slow_query,
    "service_crash": _service_crash,
    "error_storm": _error_storm,
    "traffic_surge": _traffic_surge,
}
RAMPS = ("memory_leak",)  # grow over their whole duration instead of an onset

SHOP = System(
    services=(
        Service("gateway", 0.004, 0.002, cores=2.0, memory_mi=310),
        Service("web", 0.009, 0.004, cores=2.0, memory_mi=420),
        Service("search", 0.012, 0.006, memory_mi=690, memory_limit_mi=2048),
        Service("basket", 0.005, 0.003, memory_mi=180),
        Service("checkout", 0.010, 0.005, memory_mi=260),
        Service("payment", 0.014, 0.020, cores=0.5, memory_mi=240),
        Service("orders", 0.009, 0.012, memory_mi=380),
        Service("accounts", 0.004, 0.004, cores=0.5, memory_mi=210),
        Service("catalog", 0.006, 0.009, memory_mi=540),
        Service("notify", 0.006, 0.030, cores=0.5, memory_mi=120),
    ),
    calls=(
        Call("gateway", "web", 0.9),
        Call("gateway", "accounts", 0.25),
        Call("web", "search", 0.35),
        Call("web", "catalog", 0.5),
        Call("web", "basket", 0.4),
        Call("web", "checkout", 0.12),
        Call("search", "catalog", 1.0),
        Call("basket", "catalog", 0.6),
        Call("checkout", "basket", 1.0),
        Call("checkout", "payment", 1.0),
        Call("checkout", "orders", 1.0),
        Call("orders", "accounts", 1.0),
        Call("orders", "notify", 0.15),
    ),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a recording follows from."""

    seed: int
    rows: int
    step_s: float
    system: System
    faults: tuple[Fault, ...]
    deploys: tuple[Deploy, ...]
    start_ns: int
    kpis: tuple[Kpi, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = [s.name for s in self.system.services]
        kpis = tuple(Kpi(f"{n}__{m}", n, m, unit) for n in names for m, unit in METRICS)
        object.__setattr__(self, "kpis", kpis)
        if self.rows < 1 or not self.step_s > 0 or self.seed < 0:
            raise InputError(
                f"rows {self.rows}, step {self.step_s} s, seed {self.seed}: "
                "a simulation needs at least one row, a step above 0 and a seed of 0 or more."
            )
        for service in (*(f.service for f in self.faults), *(d.service for d in self.deploys)):
            if service not in names:
                raise InputError(f"there is no service {service!r}; there are {', '.join(names)}.")
        for fault in self.faults:
            if fault.kind not in FAULTS:
                raise InputError(f"there is no fault {fault.kind!r}; there are {', '.join(FAULTS)}.")


def simulate(
    seed: int = 0,
    rows: int = 1440,
    step_s: float = 30.0,
    faults: Sequence[Fault] | None = None,
    *,
    deploys: Sequence[Deploy] | None = None,
    system: System = SHOP,
    start_ns: int = DEMO_START_NS,
) -> Frame:
    """A recording of `rows` rows, with its labels.

    Args:
        faults: what to plant; None draws some (`draw_faults`), an empty sequence plants none.
        deploys: unlabelled level shifts; None draws about three a day.

    Example:
        >>> simulate(seed=1, rows=300, faults=()).values.shape
        (300, 50)
    """
    return join(list(blocks(make_plan(seed, rows, step_s, faults, deploys, system, start_ns))))


def demo() -> Frame:
    """The recording of `make demo`: 12 hours at 30 s, five faults, two unlabelled deploys."""
    h = 3600.0
    faults = (
        Fault("cpu_contention", "payment", 3.1 * h, 12 * 60),
        Fault("network_delay", "catalog", 5.05 * h, 10 * 60, size=0.7),
        Fault("memory_leak", "search", 6.6 * h, 50 * 60),
        Fault("slow_query", "orders", 9.0 * h, 15 * 60),
        Fault("service_crash", "accounts", 10.8 * h, 6 * 60, onset_s=5),
    )
    deploys = (
        Deploy("basket", 4.2 * h, work=1.25, memory=1.1),
        Deploy("web", 8.2 * h, work=0.85, memory=0.95),
    )
    return simulate(2026, 1440, 30.0, faults, deploys=deploys)


def make_plan(
    seed: int = 0,
    rows: int = 1440,
    step_s: float = 30.0,
    faults: Sequence[Fault] | None = None,
    deploys: Sequence[Deploy] | None = None,
    system: System = SHOP,
    start_ns: int = DEMO_START_NS,
) -> Plan:
    """Settle what is left open, and refuse what can't be."""
    faults = draw_faults(seed, rows * step_s, system) if faults is None else faults
    deploys = draw_deploys(seed, rows * step_s, system) if deploys is None else deploys
    return Plan(seed, rows, step_s, system, tuple(faults), tuple(deploys), start_ns)


def draw_faults(seed: int, length_s: float, system: System = SHOP) -> tuple[Fault, ...]:
    """About one fault in two hours, none in the first two, each kind in turn before any comes again."""
    rng = np.random.default_rng([seed, 1])
    faults: list[Fault] = []
    kinds: list[str] = []
    at = 7200 + rng.uniform(0, 3600)
    while True:
        kinds = kinds or [str(k) for k in rng.permutation(sorted(FAULTS))]
        kind = kinds.pop()
        service = 0 if kind == "traffic_surge" else int(rng.integers(1, len(system.services)))
        lasts = rng.uniform(2400, 4800) if kind in RAMPS else rng.uniform(300, 1200)
        if at + lasts + 300 > length_s:
            return tuple(faults)
        onset, recovery, size = rng.uniform(20, 80), rng.uniform(60, 120), rng.uniform(0.6, 1.1)
        faults.append(Fault(kind, system.services[service].name, at, lasts, size, onset, recovery))
        at += lasts + rng.uniform(3600, 9000)


def draw_deploys(seed: int, length_s: float, system: System = SHOP) -> tuple[Deploy, ...]:
    """About three deploys a day, of services drawn at random."""
    rng = np.random.default_rng([seed, 2])
    deploys: list[Deploy] = []
    at = rng.exponential(28_800)
    while at < length_s:
        name = system.services[int(rng.integers(len(system.services)))].name
        deploys.append(Deploy(name, at, work=rng.uniform(0.8, 1.3), memory=rng.uniform(0.9, 1.15)))
        at += 1800 + rng.exponential(28_800)
    return tuple(deploys)


def blocks(plan: Plan) -> Iterator[Frame]:
    """The recording in pieces of BLOCK_ROWS rows, in bounded memory."""
    for number, first in enumerate(range(0, plan.rows, BLOCK_ROWS)):
        keep = min(BLOCK_ROWS, plan.rows - first)
        middle_s = (first + np.arange(BLOCK_ROWS) + 0.5) * plan.step_s
        rng = np.random.default_rng([plan.seed, 3, number])
        state = quiet_state(plan, middle_s, rng)
        for fault in plan.faults:
            x = strength(fault, middle_s)
            if x.any():
                FAULTS[fault.kind](state, plan.system.index[fault.service], x, fault.size)
        values = observe(plan, state, *flow(plan.system, state), middle_s, rng)
        # A row is stamped with its end, as a scrape is: the row at t covers (t - step, t].
        stamps = plan.start_ns + np.round((first + 1 + np.arange(keep)) * plan.step_s * 1e9).astype(np.int64)
        labels = label(plan, middle_s[:keep])
        yield Frame(stamps, values[:keep], plan.kpis, plan.step_s, labels, f"simulated, seed {plan.seed}")


def join(pieces: Sequence[Frame]) -> Frame:
    """Consecutive pieces of one recording as one frame."""
    first = pieces[0]
    labels = [p.labels for p in pieces if p.labels is not None]
    columns = [[getattr(piece, n) for piece in labels] for n in Labels.__slots__]
    return Frame(
        np.concatenate([p.time_ns for p in pieces]),
        np.concatenate([p.values for p in pieces]),
        first.kpis,
        first.step_s,
        Labels(*(np.concatenate(c) for c in columns)) if labels else None,
        first.source,
    )


def strength(fault: Fault, at_s: np.ndarray) -> np.ndarray:
    """0..1 at each moment: rises over the onset (a ramp: the whole time), falls over the recovery."""
    rise = fault.duration_s if fault.kind in RAMPS else max(fault.onset_s, 1e-9)
    x = np.clip((at_s - fault.start_s) / rise, 0, 1)
    after = at_s - fault.start_s - fault.duration_s
    return np.asarray(x * np.clip(1 - after / max(fault.recovery_s, 1e-9), 0, 1))


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


def flow(system: System, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(calls served a second, seconds a call, share failed), (R, S) each: where load and waiting settle.

    Load goes down the graph, waiting comes back up, and both change each other (slow answers make users
    come less often, timeouts make callers ask again), so the two sweeps are repeated until they agree.
    """
    shape = state.cores.shape
    took = np.zeros(shape)
    failed = np.zeros(shape)
    calls = np.zeros(shape)
    wait_front = np.zeros(shape[0])
    for sweep in range(12):
        asked = system.think_s / (system.think_s + wait_front) * state.load
        target = _arrivals(system, state, asked, took, failed)
        calls = target if sweep == 0 else (calls + target) / 2  # damped: overload would swing for ever
        took, failed = _answers(system, state, calls)
        wait_front = took[:, 0]
    return calls, took, failed


def _arrivals(
    system: System, state: State, asked: np.ndarray, took: np.ndarray, failed: np.ndarray
) -> np.ndarray:
    """(R, S) calls a second that reach each service and are taken on."""
    calls = np.zeros(state.cores.shape)
    calls[:, 0] = asked
    index = system.index
    for i, service in enumerate(system.services):
        calls[:, i] *= 1 - state.refused[:, i]
        passed_on = calls[:, i] * (1 - state.errors[:, i])
        for call in (c for c in system.calls if c.caller == service.name):
            j = index[call.callee]
            again = system.retries * _late(state, took[:, j] + state.net_s[:, j])
            calls[:, j] += passed_on * call.per_op * (1 + again)
            # A callee that fails ends the request: what the caller would have asked next is never asked.
            passed_on = passed_on * (1 - 0.7 * failed[:, j] * min(1.0, call.per_op))
    return calls


def _answers(system: System, state: State, calls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, S) mean seconds of one call at each service, and the share that fails, callees included."""
    took = np.zeros(calls.shape)
    failed = np.zeros(calls.shape)
    index = system.index
    for i in range(len(system.services) - 1, -1, -1):
        free = np.maximum(state.cores[:, i] - state.stolen[:, i], 0.02 * state.cores[:, i])
        busy = calls[:, i] * state.work_s[:, i] / free
        # M/M/1 up to 95 % busy; beyond, the queue is bounded by the callers' patience and the rest is shed.
        queue = 1 / (1 - np.minimum(busy, 0.95))
        slower = np.minimum(state.cores[:, i], 1.0) / np.minimum(free, 1.0)
        own = state.idle_s[:, i] + state.work_s[:, i] * queue * slower
        good = (1 - state.errors[:, i]) * np.minimum(1.0, 1 / np.maximum(busy, 1e-9))
        for call in (c for c in system.calls if c.caller == system.services[i].name):
            j = index[call.callee]
            answer = took[:, j] + state.net_s[:, j]
            late = _late(state, answer)
            patience = np.minimum(answer, state.timeout_s) * (1 + system.retries * late)
            own += call.per_op * (1 - state.refused[:, j]) * patience
            lost = state.refused[:, j] + (1 - state.refused[:, j]) * np.maximum(failed[:, j], late)
            good = good * (1 - lost * min(1.0, call.per_op))
        took[:, i] = np.minimum(own, 4 * state.timeout_s)
        failed[:, i] = 1 - good
    return took, failed


def _late(state: State, answer_s: np.ndarray) -> np.ndarray:
    """Share of calls slower than the callers' patience, for lognormal answers of this mean."""
    z = (np.log(state.timeout_s) - np.log(np.maximum(answer_s, 1e-6))) / LATENCY_SPREAD
    return np.asarray(_normal_below(-z))


def _normal_below(z: np.ndarray) -> np.ndarray:
    """The normal distribution function, by Page's 1977 formula (error below 2e-4)."""
    return np.asarray(1 / (1 + np.exp(np.clip(-2 * np.sqrt(2 / np.pi) * (z + 0.044715 * z**3), -60, 60))))


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
    below = _normal_below((np.log(BUCKETS_S) - middle[..., None]) / LATENCY_SPREAD)  # (R, S, buckets)
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


def label(plan: Plan, at_s: np.ndarray) -> Labels:
    """What is known afterwards: a row is positive if its span overlaps a fault; recovery is ignored."""
    rows = len(at_s)
    kind = np.full(rows, "", dtype="<U20")
    cause = np.full(rows, "", dtype="<U40")
    fault_id = np.full(rows, -1, dtype=np.int64)
    ignore = np.zeros(rows, dtype=bool)
    half = plan.step_s / 2
    for number, fault in enumerate(plan.faults):
        end = fault.start_s + fault.duration_s
        during = (at_s + half > fault.start_s) & (at_s - half < end)
        ignore |= (at_s - half >= end) & (at_s - half < end + fault.recovery_s + plan.step_s)
        kind[during], cause[during], fault_id[during] = fault.kind, fault.service, number
    anomaly = fault_id >= 0
    return Labels(anomaly, kind, cause, ignore & ~anomaly, fault_id, np.ones(rows, dtype=bool))


def write(frame: Frame, folder: str | Path, *, force: bool = False) -> tuple[Path, ...]:
    """The recording as `recording.parquet`, `recording.csv` (both with label columns) and `faults.json`.

    Raises:
        OutputError: one of the files exists and `force` is False, or the folder can't be written.
    """
    import pandas as pd

    folder = Path(folder)
    paths = tuple(folder / n for n in ("recording.parquet", "recording.csv", "faults.json"))
    for path in paths:
        if path.exists() and not force:
            raise OutputError(f"{path} exists; choose another folder, or overwrite it with --force.")
    stamps = pd.Series(pd.to_datetime(frame.time_ns, utc=True), name="timestamp")
    table = pd.concat([stamps, pd.DataFrame(frame.values, columns=list(frame.names))], axis=1)
    if frame.labels is not None:
        table["label"] = frame.labels.anomaly.astype(int)
        table["fault_type"] = frame.labels.fault_type
        table["root_cause_service"] = frame.labels.root_cause
        table["fault_id"] = frame.labels.fault_id
        table["recovery"] = frame.labels.ignore.astype(int)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(paths[0], index=False)
        text = table.assign(timestamp=table["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        text.to_csv(paths[1], index=False, float_format="%.6g")
        paths[2].write_text(json.dumps(planted(frame), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror}); choose another folder.") from error
    return paths


def planted(frame: Frame) -> list[dict[str, Any]]:
    """One entry a labelled fault: kind, root cause, first and last moment."""
    if frame.labels is None:
        return []
    found = []
    for number in sorted(set(frame.labels.fault_id.tolist()) - {-1}):
        rows = np.flatnonzero(frame.labels.fault_id == number)
        start_ns = int(frame.time_ns[rows[0]]) - round(frame.step_s * 1e9)
        found.append(
            {
                "fault_id": int(number),
                "fault_type": str(frame.labels.fault_type[rows[0]]),
                "root_cause_service": str(frame.labels.root_cause[rows[0]]),
                "start": str(np.datetime64(start_ns, "ns").astype("datetime64[s]")) + "Z",
                "end": str(frame.time[rows[-1]].astype("datetime64[s]")) + "Z",
                "rows": len(rows),
            }
        )
    return found


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON: what a second run needs to give the same recording."""
    return {
        "seed": plan.seed,
        "rows": plan.rows,
        "step_s": plan.step_s,
        "faults": [asdict(f) for f in plan.faults],
        "deploys": [asdict(d) for d in plan.deploys],
    }
