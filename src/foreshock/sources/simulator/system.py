"""A system of services: what each call costs, who asks whom, what is watched; the shop of the demo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

FOUND = "found"  # searches that find something: they come and go together, for minutes
SESSION = "session"  # what one user does in one sitting: each sitting makes each such call or not


@dataclass(frozen=True, slots=True)
class Service:
    """One service: what a call costs it, and what it owns."""

    name: str
    work_s: float  # CPU seconds of one call
    idle_s: float  # seconds of one call that are spent waiting for nothing in the graph (disk, sleep)
    cores: float = 1.0  # its CPU limit
    memory_mi: float = 200.0  # resident memory right after a start
    memory_limit_mi: float = 1024.0
    pool: float = math.inf  # calls it can work on at once (threads, database connections)
    router: bool = False  # hands each call on to one callee and adds next to nothing
    spread: float = 0.55  # sigma of the lognormal latencies of single calls
    background: float = 0.004  # share of its CPU limit used when nobody calls
    noise: float = 0.55  # sigma of the lognormal CPU readings when nearly idle
    hiccup: float = 0.03  # share of moments in which half of the calls meet a pause
    together: int = 1  # its calls come in groups of so many
    node: int = 0  # the machine it runs on


@dataclass(frozen=True, slots=True)
class Call:
    """`caller` asks `callee`, on average `per_op` times for each call it serves."""

    caller: str
    callee: str
    per_op: float = 1.0
    journey: str = ""  # FOUND, SESSION, or "" for calls that come on their own


@dataclass(frozen=True)
class System:
    """A call graph without cycles. `services[0]` is the front door; callers stand before callees."""

    services: tuple[Service, ...]
    calls: tuple[Call, ...]
    peak_ops: float = 26.0  # calls a second at the front door in the busiest hour
    think_s: float = 4.0  # how long a user waits between two answers
    timeout_s: float = 5.0  # callers give up on one call after this
    retries: float = 1.0  # and ask again this often
    gives_up: float = 0.0  # share of requests that end when a callee refuses or never answers
    settled: float = 0.0  # a row's load has settled when a sweep changes it by less than this share
    name: str = "shop"
    entrance: str = ""  # the service a surge of traffic is named after; "" is services[0]
    watched: tuple[str, ...] = ()  # services that have KPI columns; () is all
    traced: tuple[tuple[str, str, str], ...] = ()  # calls with columns of their own: metric, caller, callee
    kinds: tuple[str, ...] = ()  # kinds of fault that are drawn; () is all
    roots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # fault kind -> where it is drawn

    @cached_property
    def index(self) -> dict[str, int]:
        """Service name -> its place in `services`."""
        return {s.name: i for i, s in enumerate(self.services)}

    @cached_property
    def asks(self) -> tuple[tuple[tuple[int, int, Call], ...], ...]:
        """For each service (place in `calls`, callee's place in `services`, call) of the calls it makes."""
        return tuple(
            tuple((n, self.index[c.callee], c) for n, c in enumerate(self.calls) if c.caller == s.name)
            for s in self.services
        )

    @cached_property
    def called(self) -> frozenset[str]:
        """Services that calls ever reach."""
        reached = {self.services[0].name}
        for service in self.services:
            if service.name in reached:
                reached |= {c.callee for c in self.calls if c.caller == service.name and c.per_op > 0}
        return frozenset(reached)


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
    kinds=(
        "cpu_contention",
        "cpu_throttling",
        "memory_leak",
        "network_delay",
        "slow_query",
        "service_crash",
        "error_storm",
        "traffic_surge",
    ),
)
