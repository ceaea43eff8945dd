"""Systems nobody built: seeded call graphs with databases, and the tables that monitoring makes of them.

What is learned on many of them must not hang on one graph, one load, one step or one set of columns. The
physics of faults is the simulator's own all the same.

Not here: the queueing model (flow), faults (faults), learning (foreshock.pretrain.simulated).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from foreshock.frame import Frame, Kpi
from foreshock.sources.simulator.faults import FAULTS, RAMPS, Fault
from foreshock.sources.simulator.scrape import WINDOW_S
from foreshock.sources.simulator.system import SESSION, Call, Service, System
from foreshock.sources.simulator.tracing import TOOK, WAITED, WAITED_ALL
from foreshock.sources.simulator.unruly import unruly

FEWEST, MOST = 5, 60  # services
STEPS_S = (5.0, 15.0, 30.0, 60.0)
BUSIEST = 0.35  # share of its cores that a service needs in the busiest hour
TRACED, CLIENTS = 0.4, 0.3  # chances of columns of calls between two services, and of all that one makes
MOST_TRACED = 60  # columns of single calls
CAMPAIGN = 8, 24  # faults of one, at least, and fewer than that
CALLED_ENOUGH = 1.0  # calls a scrape's window from which a fault of calls can be seen
OWN = ("cpu_contention", "cpu_throttling", "memory_leak", "memory_restarts", "service_crash")
STORED = ("disk_pressure", "slow_query", "pool_exhaustion")
INSIDE = ("network_delay", "packet_loss", "network_partition")
# What a quantity may be called, and the factor to its unit; below 0: of what is left of 1.
CALLED: dict[str, tuple[tuple[str, float], ...]] = {
    "cpu": (("cpu_pct", 1.0), ("cpu_usage", 0.01), ("container_cpu_cores", 0.005), ("cpu", 10.0)),
    "memory": (("mem_mi", 1.0), ("memory_bytes", 2.0**20), ("rss_mib", 1.0), ("heap_used", 0.7)),
    "calls": (("workload_ops", 1.0), ("rps", 1.0), ("request_rate", 60.0), ("calls_per_s", 1.0)),
    "latency": (("latency_p90_s", 1.0), ("server_lat_p90_s", 1.0), ("duration_ms", 1e3),
                ("response_p90", 1e3)),
    "errors": (("error_share", 1.0), ("errors_pct", 100.0), ("http_5xx_share", 1.0), ("success_pct", -100.0)),
    "network": (("net_tx_bytes", 1.0), ("network_receive_kib", 1 / 1024), ("rx_tx", 1e-3)),
}  # fmt: skip
LEFT_OUT = {
    "cpu": 0.05,
    "memory": 0.15,
    "calls": 0.15,
    "latency": 0.15,
    "errors": 0.5,
}  # chance, in all of a table


def invent(seed: int) -> System:
    """A system of 5 to 60 services, a third of them databases or so, watched in part.

    Its `roots` hold, for each kind of fault, the services at which metrics can show it.
    """
    rng = np.random.default_rng([seed, 11])
    style = "trainticket" if rng.random() < 0.65 else "shop"
    doors = 2 if style == "trainticket" else 1
    count = max(round(float(np.exp(rng.uniform(np.log(FEWEST), np.log(MOST))))), doors + 3)
    stored = count - max(1, round(count * float(rng.uniform(0.1, 0.4))))  # the first database
    names = _names(rng, count, doors, stored)
    calls = _calls(rng, names, doors, stored, style)
    peak_ops = float(np.exp(rng.uniform(np.log(2.0), np.log(60.0))))
    rate = peak_ops * _reach(names, calls)
    timeout_s = float(rng.choice([2.0, 5.0, 10.0]))
    services = _services(rng, names, rate, doors, stored, style)
    services = _fast_enough(services, calls, timeout_s * float(rng.uniform(0.02, 0.15)))
    watched = tuple(names[i] for i in range(doors - 1, count) if i < doors or rng.random() < 0.92)
    every = style == "shop"
    seen = names if every else list(watched)
    roots = _roots(names, seen, calls, rate, doors, stored)
    traced = _traced(np.random.default_rng([seed, 18]), calls, seen)
    return System(
        services, calls, peak_ops, float(rng.uniform(2, 8)), timeout_s, float(rng.choice([0.0, 0.5, 1.0])),
        0.0 if every else float(rng.choice([0.0, 0.9])), 0.003, style, names[doors - 1],
        () if every else watched, traced, tuple(FAULTS), roots,
    )  # fmt: skip


def _traced(
    rng: np.random.Generator, calls: tuple[Call, ...], seen: list[str]
) -> tuple[tuple[str, str, str], ...]:
    """Calls with columns of their own, in some systems: between two services, and of all that one makes."""
    out: list[tuple[str, str, str]] = []
    if rng.random() < TRACED:
        sides = ((WAITED,), (TOOK,), (WAITED, TOOK))[int(rng.choice(3, p=[0.35, 0.15, 0.5]))]
        known = [call for call in calls if call.callee in seen and call.per_op > 0]
        some = rng.permutation(len(known))[: MOST_TRACED // len(sides)]
        out += [(side, known[i].caller, known[i].callee) for side in sides for i in sorted(some)]
    if rng.random() < CLIENTS:
        callers = dict.fromkeys(call.caller for call in calls if call.per_op > 0)
        out += [(WAITED_ALL, name, "") for name in callers if name in seen]
    return tuple(out)


def _names(rng: np.random.Generator, count: int, doors: int, stored: int) -> list[str]:
    ending = str(rng.choice(["", "-service", "-svc", "-api"]))
    out: list[str] = []
    while len(out) < count:
        word = "".join(
            str(rng.choice(list("bdfgklmnprstvz"))) + str(rng.choice(list("aeiou")))
            for _ in range(int(rng.integers(2, 4)))
        )
        name = f"{word}{'-db' if len(out) >= stored else ending}"
        if name not in out:
            out.append(name)
    return out


def _calls(
    rng: np.random.Generator, names: list[str], doors: int, stored: int, style: str
) -> tuple[Call, ...]:
    """Each service is asked by one to three that stand before it; databases ask nobody."""
    asked: dict[tuple[int, int], float] = {}
    first = max(2, round((stored - doors) * float(rng.uniform(0.2, 0.5))))  # asked by the door itself
    if doors == 2:
        asked[0, 1] = 1.0
    for j in range(doors, len(names)):
        if j < doors + first and j < stored:
            asked[doors - 1, j] = float(rng.gamma(1.0) + 0.1)
            continue
        lowest = doors if doors < min(j, stored) else doors - 1
        for i in rng.integers(lowest, min(j, stored), int(rng.integers(1, 4))):
            asked[int(i), j] = float(rng.uniform(0.2, 1.3) if rng.random() < 0.85 else rng.uniform(0.02, 0.2))
    door = {j: share for (i, j), share in asked.items() if i == doors - 1}
    whole = sum(door.values()) / (1.0 if style == "trainticket" else float(rng.uniform(0.8, 2.0)))
    reached = np.zeros(len(names))
    reached[0] = 1.0
    out = []
    for i, j in sorted(asked, key=lambda pair: pair[1]):
        share = asked[i, j] / whole if i == doors - 1 else asked[i, j]
        share = min(share, max(3.0 - reached[j], 0.02) / max(reached[i], 1e-6))  # no fan-out without end
        reached[j] += reached[i] * share
        sits = style == "trainticket" and i == doors - 1 and rng.random() < 0.4
        out.append(Call(names[i], names[j], round(share, 4), SESSION if sits else ""))
    return tuple(sorted(out, key=lambda call: names.index(call.caller)))


def _reach(names: list[str], calls: tuple[Call, ...]) -> np.ndarray:
    """(S,) calls of each service for one at the front door."""
    out = np.zeros(len(names))
    out[0] = 1.0
    for call in calls:  # callers first
        out[names.index(call.callee)] += out[names.index(call.caller)] * call.per_op
    return out


def _services(
    rng: np.random.Generator, names: list[str], rate: np.ndarray, doors: int, stored: int, style: str
) -> tuple[Service, ...]:
    def between(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    out = []
    for i, name in enumerate(names):
        is_router, is_stored = style == "trainticket" and i < doors, i >= stored
        work, idle = between(0.0008, 0.04), between(0.001, 0.015 if is_stored else 0.08)
        cores = float(rng.choice([0.25, 0.5, 0.5, 1.0, 2.0]))
        while rate[i] * work > BUSIEST * cores and cores < 8:
            cores *= 2
        work = min(work, BUSIEST * cores / max(rate[i], 1e-9))
        memory = between(30, 1500)
        out.append(
            Service(
                name, work, idle, cores, memory, memory * float(rng.uniform(2, 5)),
                float(rng.choice([20.0, 50.0, np.inf])), is_router, float(rng.uniform(0.3, 0.8)),
                between(0.001, 0.012), float(rng.uniform(0.25, 0.65)), float(rng.choice([0.0, 0.03, 0.08])),
                2 if rng.random() < 0.1 else 1, int(rng.integers(12)),
            )
        )  # fmt: skip
    return tuple(out)


def _fast_enough(
    services: tuple[Service, ...], calls: tuple[Call, ...], most_s: float
) -> tuple[Service, ...]:
    """The same, all alike quicker where an answer at the front door would take longer."""
    took = {s.name: s.work_s + s.idle_s for s in services}
    for service in reversed(services):
        took[service.name] += sum(c.per_op * took[c.callee] for c in calls if c.caller == service.name)
    factor = min(1.0, most_s / took[services[0].name])
    return tuple(replace(s, work_s=s.work_s * factor, idle_s=s.idle_s * factor) for s in services)


def _roots(
    names: list[str], watched: list[str], calls: tuple[Call, ...], rate: np.ndarray, doors: int, stored: int
) -> Mapping[str, tuple[str, ...]]:
    own = [name for name in watched if names.index(name) >= doors]
    busy = [name for name in own if rate[names.index(name)] * WINDOW_S / 2 >= CALLED_ENOUGH] or own
    callers = {c.caller for c in calls}
    followed = {c.callee for c in calls if c.caller in own}
    inside = [name for name in busy if name in followed] or busy
    asking = [name for name in busy if name in callers] or busy
    keeps = [name for name in busy if names.index(name) >= stored or name not in callers] or busy
    places = dict.fromkeys(OWN, own) | dict.fromkeys(STORED, keeps) | dict.fromkeys(INSIDE, inside)
    places |= dict.fromkeys(("dns_failure", "error_storm"), asking)
    return {kind: tuple(found) for kind, found in places.items()}


def draw_dense(
    system: System, seed: int, rows: int, step_s: float, first_row: int, campaigns: float = 0.0
) -> tuple[Fault, ...]:
    """Faults close to one another behind a quiet beginning, each kind in turn before any comes again.

    Args:
        first_row: about where the first begins.
        campaigns: share of recordings that begin with a campaign: short faults with hardly a pause, as people
            inject them.
    """
    rng, own = np.random.default_rng([seed, 12]), np.random.default_rng([seed, 20])
    campaign = int(own.integers(*CAMPAIGN)) if own.random() < campaigns else 0
    out: list[Fault] = []
    kinds: list[str] = []
    at = (first_row + float(rng.uniform(0, 40))) * step_s
    while at < (rows - 8) * step_s:
        kinds = kinds or [str(kind) for kind in rng.permutation(sorted(FAULTS))]
        kind = kinds.pop()
        places = system.roots.get(kind, (system.entrance,))
        lasts = float(np.exp(rng.uniform(np.log(4), np.log(40))))
        lasts = float(own.uniform(3, 10)) if len(out) < campaign else lasts
        lasts = max(lasts * step_s, 120.0) * (3.0 if kind in RAMPS else 1.0)
        service = places[int(rng.integers(len(places)))]
        onset, recovery = rng.uniform(5, min(80, lasts / 2)), rng.uniform(20, 120)
        out.append(
            Fault(kind, service, at, lasts, float(rng.uniform(0.4, 1.1)), float(onset), float(recovery))
        )
        pause = float(rng.uniform(30, 90))
        pause = float(own.uniform(4, 16)) if len(out) <= campaign and campaign else pause
        at += lasts + max(pause * step_s, 200.0)
    return tuple(out)


def monitored(frame: Frame, seed: int, is_unruly: bool = False) -> Frame:
    """The recording as other monitoring shows it: names and units, quantities missing, traffic added.

    Args:
        is_unruly: less calm, see `unruly`.
    """
    rng = np.random.default_rng([seed, 13])
    called = {what: names[int(rng.integers(len(names)))] for what, names in CALLED.items()}
    gone = {what for what, chance in LEFT_OUT.items() if rng.random() < chance}
    if len(gone) > 3:
        gone = {"memory", "errors"}
    has_network, bytes_a_call = rng.random() < 0.4, float(rng.uniform(500, 20_000))
    whats = [quantity_of(kpi) for kpi in frame.kpis]
    values, late = frame.values, dict.fromkeys(frame.services, np.ones(len(frame)))
    if is_unruly:
        of = [kpi.service for kpi in frame.kpis]
        values, late = unruly(values, whats, of, np.random.default_rng([seed, 19]))
    columns, kpis = [], []
    for what, kpi, told in zip(whats, frame.kpis, values.T, strict=True):
        if what == "traced":
            columns.append(told)
            kpis.append(kpi)
            continue
        if what == "calls" and has_network:
            noise = np.exp(0.2 * rng.standard_normal(len(told)))
            sent = (told * noise + 0.1) * late[kpi.service]
            columns.append(sent * bytes_a_call * called["network"][1])
            kpis.append(_named(kpi, called["network"][0]))
        if (what in gone and kpi.service != "frontdoor") or rng.random() < 0.04:
            continue
        word, factor = called[what]
        if kpi.service == "frontdoor":
            word = f"{word}_{kpi.metric}"
        columns.append(told * factor if factor > 0 else (told - 1) * factor)
        kpis.append(_named(kpi, word))
    return replace(frame, values=np.stack(columns, 1), kpis=tuple(kpis))


def quantity_of(kpi: Kpi) -> str:
    """Which of CALLED a simulated column is, or "traced"."""
    if kpi.metric.startswith((WAITED, TOOK, WAITED_ALL)):
        return "traced"
    for what, part in (("cpu", "cpu"), ("memory", "mem"), ("calls", "workload"), ("errors", "error")):
        if part in kpi.metric:
            return what
    return "latency"


def _named(kpi: Kpi, metric: str) -> Kpi:
    return Kpi(f"{kpi.service}__{metric}", kpi.service, metric, "")
