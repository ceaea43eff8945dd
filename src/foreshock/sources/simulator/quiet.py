"""What the world does in quiet: the day's load, drifts, deploys, and users who come and go.

Every noise that lasts is made of knots, counted from the recording's start and seeded in runs of KNOTS, so
that any block sees the same noise, however far from the start it lies.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from foreshock.sources.simulator.faults import State
from foreshock.sources.simulator.plan import Plan
from foreshock.sources.simulator.system import FOUND

KNOT_S = 600.0  # slow drifts are straight between knots this far apart
KNOTS = 4096  # knots drawn at once; part of the seed's meaning
RESTART_MARK_S = 60.0  # scrapes lost at a deploy


def day_curve(at_s: np.ndarray, start_ns: int) -> np.ndarray:
    """Share of the busiest hour's load, by the UTC time of day: low at night, peaks at 11 and 19 h."""
    return 0.22 + 0.6 * _hump(at_s, start_ns, 11.5, 2.6) + 0.72 * _hump(at_s, start_ns, 18.5, 2.8)


def commuter_curve(at_s: np.ndarray, start_ns: int) -> np.ndarray:
    """The same for train tickets: few at night, two rush hours, later and lower at the weekend.

    The shape (peaks at 7 and 18 h, a shoulder between, 2 h later and lower at weekends) is that of the load
    curves of github.com/ketaiq/train-ticket-traffic-generator; the formula is ours.
    """
    day = np.floor(start_ns / 8.64e13 + at_s / 86_400).astype(np.int64)
    weekend = (day + 3) % 7 >= 5  # day 0, 1970-01-01, was a Thursday

    def shape(morning: float, evening: float, height: float) -> np.ndarray:
        return (
            0.15
            + 0.55 * height * _hump(at_s, start_ns, morning, 1.3)
            + 0.33 * height * _hump(at_s, start_ns, 11.0, 3.0)
            + 0.78 * height * _hump(at_s, start_ns, evening, 2.3)
        )

    return np.where(weekend, shape(9.0, 17.0, 0.7), shape(7.2, 17.8, 1.0))


def _hump(at_s: np.ndarray, start_ns: int, centre: float, width: float) -> np.ndarray:
    """A bell over the hour of the day."""
    hour = (start_ns / 3.6e12 + at_s / 3600) % 24
    return np.asarray(np.exp(-0.5 * (((hour - centre + 12) % 24 - 12) / width) ** 2))


@lru_cache(maxsize=16)
def _knots(key: tuple[int, ...], width: int) -> np.ndarray:
    """(KNOTS, width) unit noise."""
    return np.random.default_rng(list(key)).standard_normal((KNOTS, width))


def drift(key: tuple[int, ...], at_s: np.ndarray, width: int, knot_s: float = KNOT_S) -> np.ndarray:
    """(R, width) slow unit noise: straight lines between knots, smoothed over three of them."""
    place = at_s / knot_s
    left = place.astype(np.int64)
    first, last = int(left[0]), int(left[-1]) + 4
    runs = []
    for run in range(first // KNOTS, (last - 1) // KNOTS + 1):
        knots = _knots(key if run == 0 else (*key, run), width)
        runs.append(knots[max(first - run * KNOTS, 0) : last - run * KNOTS])
    knots = np.concatenate(runs)
    smooth = (knots[:-2] + knots[1:-1] + knots[2:]) / np.sqrt(3)
    part, left = (place - left)[:, None], left - first
    return np.asarray(smooth[left] * (1 - part) + smooth[left + 1] * part)


def versions(plan: Plan, at_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(R, S) each: factors on work and memory of the version that runs, and its age in seconds."""
    shape = (len(at_s), len(plan.system.services))
    work, memory = np.ones(shape, order="F"), np.ones(shape, order="F")
    age_s = np.tile(at_s[:, None] + 20_000, (1, shape[1]))
    for name, rows in plan.history.items():
        i = plan.system.index[name]
        last = np.searchsorted(rows[:, 0], at_s, side="right") - 1
        new = last >= 0
        work[new, i] = rows[last[new], 1]
        memory[new, i] = rows[last[new], 2]
        age_s[new, i] = at_s[new] - rows[last[new], 0]
    return work, memory, age_s


def quiet_state(plan: Plan, at_s: np.ndarray, rng: np.random.Generator) -> State:
    """The world without faults."""
    system, rows = plan.system, len(at_s)
    services = system.services
    shape = (rows, len(services))

    def per(name: str) -> np.ndarray:
        line = np.array([float(getattr(s, name)) for s in services])
        return np.asfortranarray(np.broadcast_to(line, shape))

    slow = drift((plan.seed, 4), at_s, 1 + 2 * len(services))
    version_work, version_memory, age_s = versions(plan, at_s)
    work = per("work_s") * np.exp(0.04 * slow[:, 1 : 1 + len(services)]) * version_work
    memory = per("memory_mi") * version_memory
    wander, growth = 0.008 * slow[:, 1 + len(services) :], 0.18
    asks = np.ones((rows, len(system.calls)), order="F")
    if system.name == "shop":
        load = system.peak_ops * (1.0 if plan.steady else day_curve(at_s, plan.start_ns))
        load = load * np.exp(0.07 * slow[:, 0])
    else:
        load = system.peak_ops * (0.5 if plan.steady else commuter_curve(at_s, plan.start_ns))
        load = load * np.exp(0.05 * slow[:, 0]) * _regime(plan, at_s)
        growth = 0.08  # the table has the memory of a pod that has run for some hours
        wander = 0.003 * slow[:, 1 + len(services) :] + _long_wander(plan, at_s) - 0.63 * growth
        found = _found(plan, at_s)
        for n, call in enumerate(system.calls):
            if call.journey == FOUND:
                asks[:, n] = found
    memory *= 1 + growth * (1 - np.exp(-age_s / 30_000)) + wander
    load = load * np.exp(0.05 * rng.standard_normal(rows))
    zero = np.zeros(shape, order="F")
    return State(
        cores=per("cores"),
        stolen=zero.copy(order="F"),
        work_s=np.asfortranarray(work),
        idle_s=np.asfortranarray(per("idle_s") * np.exp(0.03 * rng.standard_normal(shape))),
        net_s=zero + 0.0008,
        refused=zero.copy(order="F"),
        errors=zero + 2e-5,
        memory_mi=np.asfortranarray(memory),
        silent=zero.copy(order="F"),
        unresolved=zero.copy(order="F"),
        disk=zero.copy(order="F"),
        pool=per("pool"),
        asks=asks,
        load=load,
        timeout_s=system.timeout_s,
    )


def _regime(plan: Plan, at_s: np.ndarray) -> np.ndarray:
    """(R,) factor on the load."""
    times = np.array([r.at_s for r in plan.regimes])
    loads = np.array([1.0, *(r.load for r in plan.regimes)])
    return np.asarray(loads[np.searchsorted(times, at_s, side="right")])


def _found(plan: Plan, at_s: np.ndarray) -> np.ndarray:
    """(R,) factor on the journeys that end early when users ask for what is not there: minutes to a quarter
    of an hour without, the rest of the time a little more. Means 1."""
    short = drift((plan.seed, 5), at_s, 1, 25.0)[:, 0] < -1.5
    long = drift((plan.seed, 7), at_s, 1, 400.0)[:, 0] < -1.75
    return np.where(short | long, 0.0, 1.12)


def _long_wander(plan: Plan, at_s: np.ndarray) -> np.ndarray:
    """(R, S) share by which memory wanders over hours; some services hardly, some a lot."""
    width = len(plan.system.services)
    size = np.random.default_rng([plan.seed, 8]).lognormal(np.log(0.012), 0.8, width)
    return np.asarray(np.minimum(size, 0.06) * drift((plan.seed, 9), at_s, width, 5400.0))
