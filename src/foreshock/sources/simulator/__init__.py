"""Seeded recordings of microservices with planted faults: Train Ticket, and a small shop for the demo.

Load enters at the front door and travels down the call graph; waiting travels back up. A fault only
changes a cause (stolen cores, a slow network, a slow query, ...), and one queueing model decides what
every KPI shows. Nothing is drawn on a column.

The quiet statistics follow recordings of real systems: CPU close to white and lognormal, memory a slow
ramp that a deploy resets, latencies quantised by histogram buckets and missing when nobody called, lost
scrapes, deploys and changes of the traffic that nobody labelled. benchmarks/simulator_likeness.py says how
far that goes.

Any number of rows comes in blocks, each seeded by its own number: a longer recording begins with the
shorter one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.errors import InputError
from foreshock.frame import Frame, Labels
from foreshock.sources.simulator.faults import FAULTS, RAMPS, Deploy, Fault, Regime, State, strike
from foreshock.sources.simulator.flow import Flow, flow
from foreshock.sources.simulator.labels import label, planted, write
from foreshock.sources.simulator.observe import observe
from foreshock.sources.simulator.plan import (
    DEMO_START_NS,
    Plan,
    describe,
    draw_deploys,
    draw_faults,
    draw_regimes,
    make_plan,
)
from foreshock.sources.simulator.quiet import quiet_state
from foreshock.sources.simulator.scrape import scrape
from foreshock.sources.simulator.system import SHOP, Call, Service, System
from foreshock.sources.simulator.tracing import trace
from foreshock.sources.simulator.trainticket import TRAINTICKET, TRAINTICKET_ALL

BLOCK_ROWS = 2048  # rows made at once; part of the seed's meaning, so never change it lightly

__all__ = [
    "BLOCK_ROWS",
    "DEMO_START_NS",
    "FAULTS",
    "RAMPS",
    "SHOP",
    "SYSTEMS",
    "TRAINTICKET",
    "TRAINTICKET_ALL",
    "Call",
    "Deploy",
    "Fault",
    "Plan",
    "Regime",
    "Service",
    "System",
    "Usual",
    "blocks",
    "demo",
    "describe",
    "draw_deploys",
    "draw_faults",
    "draw_regimes",
    "join",
    "make_plan",
    "planted",
    "simulate",
    "usual",
    "write",
]


@dataclass(frozen=True, slots=True)
class Usual:
    """A system, and how much of it one usually wants."""

    system: System
    rows: int
    step_s: float
    says: str


# 48 hours hold all 14 kinds of fault, however they are drawn.
SYSTEMS = {
    "trainticket": Usual(TRAINTICKET, 11_520, 15.0, "88 KPIs: 21 services and the front door"),
    "trainticket-all": Usual(TRAINTICKET_ALL, 11_520, 15.0, "168 KPIs: all 41 services, idle ones too"),
    "shop": Usual(SHOP, 2880, 30.0, "50 KPIs: the ten services of the demo"),
}


def usual(name: str) -> Usual:
    """A system by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in SYSTEMS:
        near = difflib.get_close_matches(name, SYSTEMS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        told = ", ".join(f"{n} ({u.says})" for n, u in SYSTEMS.items())
        raise InputError(f"there is no system {name!r}; {hint}There are {told}.")
    return SYSTEMS[name]


# What each system's monitoring shows of the settled world.
_MONITORING: dict[str, Callable[[Plan, State, Flow, np.ndarray, np.random.Generator], np.ndarray]] = {
    "shop": observe,
    "trainticket": scrape,
}


def simulate(
    seed: int = 0,
    rows: int = 1440,
    step_s: float = 30.0,
    faults: Sequence[Fault] | None = None,
    *,
    deploys: Sequence[Deploy] | None = None,
    system: System = SHOP,
    start_ns: int = DEMO_START_NS,
    regimes: Sequence[Regime] | None = None,
    steady: bool = False,
) -> Frame:
    """A recording of `rows` rows, with its labels.

    Args:
        faults: what to plant; None draws some (`draw_faults`), an empty sequence plants none.
        deploys: unlabelled level shifts; None draws about three a day.
        regimes: unlabelled changes of the traffic; None draws about one a day for Train Ticket.
        steady: the same load all day, instead of a day's curve.

    Example:
        >>> simulate(seed=1, rows=300, faults=()).values.shape
        (300, 50)
    """
    plan = make_plan(seed, rows, step_s, faults, deploys, system, start_ns, regimes, steady)
    return join(list(blocks(plan)))


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


def blocks(plan: Plan) -> Iterator[Frame]:
    """The recording in pieces of BLOCK_ROWS rows, in bounded memory."""
    for number, first in enumerate(range(0, plan.rows, BLOCK_ROWS)):
        keep = min(BLOCK_ROWS, plan.rows - first)
        middle_s = (first + np.arange(BLOCK_ROWS) + 0.5) * plan.step_s
        rng = np.random.default_rng([plan.seed, 3, number])
        state = quiet_state(plan, middle_s, rng)
        for _, fault in plan.faults_between(middle_s[0], middle_s[-1]):
            strike(state, plan.system.index[fault.service], fault, middle_s)
        settled = flow(plan.system, state)
        values = _MONITORING[plan.system.name](plan, state, settled, middle_s, rng)
        if plan.system.traced:
            own = np.random.default_rng([plan.seed, 17, number])  # the other columns don't hang on these
            values = np.concatenate([values, trace(plan, state, settled, own)], axis=1)
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
