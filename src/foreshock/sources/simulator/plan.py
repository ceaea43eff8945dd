"""What a recording follows from: a system, a seed, faults and deploys, drawn where left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from foreshock.errors import InputError
from foreshock.frame import Kpi
from foreshock.sources.simulator.faults import FAULTS, RAMPS, Deploy, Fault, Regime
from foreshock.sources.simulator.system import SHOP, System

DEMO_START_NS = 1_772_438_400_000_000_000  # 2026-03-02T08:00:00Z, a Monday
METRICS = {
    "shop": (
        ("cpu_pct", "%"),
        ("memory_mi", "MiB"),
        ("workload_ops", "1/s"),
        ("latency_p90_s", "s"),
        ("error_share", "ratio"),
    ),
    "trainticket": (
        ("cpu_pct", "%"),
        ("mem_mi", "MiB"),
        ("workload_ops", "1/s"),
        ("server_lat_p90_s", "s"),
    ),
}
FRONT_QUANTILES = {"shop": (), "trainticket": (0.5, 0.9, 0.95, 0.99)}  # of the answers users see


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
    regimes: tuple[Regime, ...] = ()
    steady: bool = False  # the same load all day, as a load generator makes it
    kpis: tuple[Kpi, ...] = field(init=False)
    spans_s: np.ndarray = field(init=False, repr=False, compare=False)  # (F, 2) start and end of each trace
    history: dict[str, np.ndarray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.rows < 1 or not self.step_s > 0 or self.seed < 0:
            raise InputError(
                f"rows {self.rows}, step {self.step_s} s, seed {self.seed}: "
                "a simulation needs at least one row, a step above 0 and a seed of 0 or more."
            )
        known = set(self.system.index)
        for service in (*(f.service for f in self.faults), *(d.service for d in self.deploys)):
            if service not in known:
                raise InputError(f"there is no service {service!r}; there are {', '.join(known)}.")
        for fault in self.faults:
            if fault.kind not in FAULTS:
                raise InputError(f"there is no fault {fault.kind!r}; there are {', '.join(FAULTS)}.")
        spans = [(f.start_s, f.over_s) for f in self.faults]
        history: dict[str, list[tuple[float, float, float]]] = {}
        for deploy in sorted(self.deploys, key=lambda d: d.at_s):
            history.setdefault(deploy.service, []).append((deploy.at_s, deploy.work, deploy.memory))
        object.__setattr__(self, "kpis", _kpis(self.system))
        object.__setattr__(self, "spans_s", np.array(spans, dtype=float).reshape(-1, 2))
        object.__setattr__(self, "history", {name: np.array(rows) for name, rows in history.items()})

    def faults_between(self, start_s: float, end_s: float) -> list[tuple[int, Fault]]:
        """Number and fault of those that leave a trace between two moments."""
        found = np.flatnonzero((self.spans_s[:, 0] < end_s) & (self.spans_s[:, 1] + self.step_s > start_s))
        return [(int(n), self.faults[n]) for n in found]


def _kpis(system: System) -> tuple[Kpi, ...]:
    """The columns of its monitoring."""
    names = system.watched or tuple(s.name for s in system.services)
    front = [f"lat_p{round(100 * q)}_s" for q in FRONT_QUANTILES[system.name]]
    return (
        *(Kpi(f"{n}__{m}", n, m, unit) for n in names for m, unit in METRICS[system.name]),
        *(Kpi(f"frontdoor__{m}", "frontdoor", m, "s") for m in front),
        *map(_traced, system.traced),
    )


def _traced(call: tuple[str, str, str]) -> Kpi:
    """A column of the calls from one service to another, called as a recording's are."""
    metric, caller, callee = call
    if not callee:  # of all calls that a service makes
        return Kpi(f"{caller}__{metric}", caller, metric, "s")
    return Kpi(f"{caller}_{callee}__{metric}", callee, f"{metric} of calls from {caller}", "s")


def make_plan(
    seed: int = 0,
    rows: int = 1440,
    step_s: float = 30.0,
    faults: Sequence[Fault] | None = None,
    deploys: Sequence[Deploy] | None = None,
    system: System = SHOP,
    start_ns: int = DEMO_START_NS,
    regimes: Sequence[Regime] | None = None,
    steady: bool = False,
) -> Plan:
    """Settle what is left open, and refuse what can't be."""
    length_s = rows * step_s
    faults = draw_faults(seed, length_s, system) if faults is None else faults
    deploys = draw_deploys(seed, length_s, system) if deploys is None else deploys
    regimes = draw_regimes(seed, length_s, system) if regimes is None else regimes
    return Plan(seed, rows, step_s, system, tuple(faults), tuple(deploys), start_ns, tuple(regimes), steady)


def draw_faults(seed: int, length_s: float, system: System = SHOP) -> tuple[Fault, ...]:
    """About one fault in two hours, none in the first two, each kind in turn before any comes again."""
    rng = np.random.default_rng([seed, 1])
    faults: list[Fault] = []
    kinds: list[str] = []
    anywhere = tuple(s.name for s in system.services[1:])
    front = system.entrance or system.services[0].name
    at = 7200 + rng.uniform(0, 3600)
    while True:
        kinds = kinds or [str(k) for k in rng.permutation(sorted(system.kinds or FAULTS))]
        kind = kinds.pop()
        places = (front,) if kind == "traffic_surge" else system.roots.get(kind, anywhere)
        service = places[int(rng.integers(len(places)))]
        lasts = rng.uniform(2400, 4800) if kind in RAMPS else rng.uniform(300, 1200)
        if at + lasts + 300 > length_s:
            return tuple(faults)
        onset, recovery, size = rng.uniform(20, 80), rng.uniform(60, 120), rng.uniform(0.6, 1.1)
        faults.append(Fault(kind, service, at, lasts, size, onset, recovery))
        at += lasts + rng.uniform(3600, 9000)


def draw_deploys(seed: int, length_s: float, system: System = SHOP) -> tuple[Deploy, ...]:
    """About three deploys a day, of services drawn at random."""
    rng = np.random.default_rng([seed, 2])
    names = system.watched or tuple(s.name for s in system.services)
    deploys: list[Deploy] = []
    at = rng.exponential(28_800)
    while at < length_s:
        name = names[int(rng.integers(len(names)))]
        deploys.append(Deploy(name, at, work=rng.uniform(0.8, 1.3), memory=rng.uniform(0.9, 1.15)))
        at += 1800 + rng.exponential(28_800)
    return tuple(deploys)


def draw_regimes(seed: int, length_s: float, system: System) -> tuple[Regime, ...]:
    """About one lasting change of the users' number a day; none in the shop."""
    if system.name == "shop":
        return ()
    rng = np.random.default_rng([seed, 6])
    regimes: list[Regime] = []
    at = 3600 + rng.exponential(64_800)
    while at < length_s:
        regimes.append(Regime(at, load=float(np.exp(rng.uniform(np.log(0.45), np.log(1.6))))))
        at += 7200 + rng.exponential(79_200)
    return tuple(regimes)


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON: what a second run needs to give the same recording."""
    return {
        "system": plan.system.name,
        "seed": plan.seed,
        "rows": plan.rows,
        "step_s": plan.step_s,
        "steady": plan.steady,
        "faults": [asdict(f) for f in plan.faults],
        "deploys": [asdict(d) for d in plan.deploys],
        "regimes": [asdict(r) for r in plan.regimes],
    }
