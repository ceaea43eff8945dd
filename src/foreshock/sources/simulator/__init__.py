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

from collections.abc import Iterator, Sequence

import numpy as np

from foreshock.frame import Frame, Labels
from foreshock.sources.simulator.faults import FAULTS, Deploy, Fault, strength
from foreshock.sources.simulator.flow import flow
from foreshock.sources.simulator.labels import label, planted, write
from foreshock.sources.simulator.observe import observe, quiet_state
from foreshock.sources.simulator.plan import (
    DEMO_START_NS,
    Plan,
    describe,
    draw_deploys,
    draw_faults,
    make_plan,
)
from foreshock.sources.simulator.system import SHOP, Call, Service, System

BLOCK_ROWS = 2048  # rows made at once; part of the seed's meaning, so never change it lightly

__all__ = [
    "BLOCK_ROWS",
    "DEMO_START_NS",
    "FAULTS",
    "SHOP",
    "Call",
    "Deploy",
    "Fault",
    "Plan",
    "Service",
    "System",
    "blocks",
    "demo",
    "describe",
    "draw_deploys",
    "draw_faults",
    "join",
    "make_plan",
    "planted",
    "simulate",
    "write",
]


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
