"""Which faults are injected, in which order, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from testbed.bench import Size


@dataclass(frozen=True)
class Fault:
    """One injection. `amount` in the unit of its kind: see `Faults.start` and `Bench.fault`."""

    service: str
    kind: str
    amount: float

    @property
    def name(self) -> str:
        return f"{self.service} {self.kind}"


@dataclass(frozen=True)
class Plan:
    """A run: settle, stay quiet, then fault by fault. All times are wall-clock seconds."""

    blind_s: float  # before foreshock is started; it then reads back to the first scrape
    settle_s: float  # from the first scrape on; alerts in it are counted, but not judged
    quiet_s: float  # without a fault; every alert in it is false
    fault_s: float  # a fault lasts so long ...
    rest_s: float  # at least so long between two faults
    faults: tuple[Fault, ...]
    least_s: float = math.inf  # ... or only until it is found and its alert has come, but at least so long
    late_s: float = 120.0  # an alert that has not ended so long after its fault is told as not ended
    tries: int = 1  # a fault that is missed, or whose alert is, is injected so often


FAULTS = (
    Fault("payment", "cpu", 0.6),
    Fault("recommend", "memory", 2.0),
    Fault("catalog", "slow_query", 100_000),
    Fault("orders", "pool", 4),
    Fault("shipping", "latency", 0.3),
    Fault("fraud", "errors", 0.4),
    Fault("cart", "crash", 1),
    Fault("front", "surge", 3.0),
    Fault("cache", "latency", 0.05),
    Fault("inventory", "slow_query", 100_000),
)

FULL = Plan(60.0, 300.0, 600.0, 60.0, 45.0, FAULTS), Size()
# A step of 1 s: the detector settles in 64 rows. So short a past tells that something is wrong, not always
# what. Both faults are far from anything usual on a machine of any speed, also after the other one.
BRIEF = (Fault("catalog", "slow_query", 100_000), Fault("cart", "crash", 1))
SMALL = (
    Plan(45.0, 110.0, 0.0, 45.0, 2.0, BRIEF, least_s=10.0, late_s=75.0, tries=2),
    Size(step_s=1.0, window_s=6.0),
)
