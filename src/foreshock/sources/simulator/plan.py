"""What a recording follows from: a system, a seed, faults and deploys, drawn where left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from foreshock.errors import InputError
from foreshock.frame import Kpi
from foreshock.sources.simulator.faults import FAULTS, RAMPS, Deploy, Fault
from foreshock.sources.simulator.system import SHOP, System

DEMO_START_NS = 1_772_438_400_000_000_000  # 2026-03-02T08:00:00Z, a Monday
METRICS = (
    ("cpu_pct", "%"),
    ("memory_mi", "MiB"),
    ("workload_ops", "1/s"),
    ("latency_p90_s", "s"),
    ("error_share", "ratio"),
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


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON: what a second run needs to give the same recording."""
    return {
        "seed": plan.seed,
        "rows": plan.rows,
        "step_s": plan.step_s,
        "faults": [asdict(f) for f in plan.faults],
        "deploys": [asdict(d) for d in plan.deploys],
    }
