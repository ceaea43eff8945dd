"""What can go wrong: each fault changes one cause, never a column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESTART_S = 120.0  # one round of a restart loop: memory climbs to the limit, the kernel kills, it starts anew
RESEND_S = 0.2  # the first retransmission of a lost packet comes after this (Linux's smallest time-out)
PACKETS = 6  # packets of one call that are waited for, there and back


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

    @property
    def full_s(self) -> float:
        """When it has its full effect: a ramp at its end, the others after their onset."""
        return self.start_s + (self.duration_s if self.kind in RAMPS else min(self.onset_s, self.duration_s))

    @property
    def over_s(self) -> float:
        """When all is back to normal."""
        return self.start_s + self.duration_s + self.recovery_s


@dataclass(frozen=True, slots=True)
class Deploy:
    """A new version nobody labelled: memory starts afresh, a call costs otherwise until the next deploy."""

    service: str
    at_s: float
    work: float = 1.0  # factor on work_s
    memory: float = 1.0  # factor on memory_mi


@dataclass(frozen=True, slots=True)
class Regime:
    """Users that come more or less often from now on, until the next regime. Nobody labelled it."""

    at_s: float
    load: float = 1.0  # factor on the day's load


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
    silent: np.ndarray  # share of calls lost on the way: the caller waits until it gives up
    unresolved: np.ndarray  # share of the calls it makes whose callee's name is not found
    disk: np.ndarray  # share of the disk's time taken by somebody else
    pool: np.ndarray  # calls it can work on at once
    asks: np.ndarray  # (R, C) factor on each call's per_op
    load: np.ndarray  # (R,) calls a second users want
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Course:
    """How a fault runs at each row, (R,) each."""

    x: np.ndarray  # strength, 0..1
    age_s: np.ndarray  # since its start
    size: float


def _cpu_contention(s: State, i: int, run: Course) -> None:
    if run.size > 0.08:
        s.stolen[:, i] += run.x * (1 - 0.08 / run.size) * s.cores[:, i]


def _cpu_throttling(s: State, i: int, run: Course) -> None:
    s.cores[:, i] /= 1 + 14 * run.size * run.x


def _memory_leak(s: State, i: int, run: Course) -> None:
    s.memory_mi[:, i] *= 1 + 1.4 * run.size * run.x
    s.work_s[:, i] *= 1 + 1.5 * run.size * run.x**3  # the collector runs ever more often


def _memory_restarts(s: State, i: int, run: Course) -> None:
    """Memory climbs over 3/4 of a round, then it is killed and starts anew, busy with loading itself."""
    part = run.age_s % RESTART_S / RESTART_S
    share = np.clip(run.size * run.x, 0, 1)
    dead = (part > 0.75) & (run.x > 0)
    s.memory_mi[:, i] *= 1 + share * np.where(dead, -0.8, 2.5 * part)
    s.refused[:, i] = np.maximum(s.refused[:, i], np.where(dead, np.ceil(share), 0.0))
    s.stolen[:, i] += 0.6 * share * s.cores[:, i] * (part > 0.85)


def _disk_pressure(s: State, i: int, run: Course) -> None:
    s.disk[:, i] = np.maximum(s.disk[:, i], run.x * (1 - 0.04 / max(run.size, 0.05)))
    s.stolen[:, i] += 0.12 * run.size * run.x * s.cores[:, i]  # who writes that much needs some CPU


def _network_delay(s: State, i: int, run: Course) -> None:
    s.net_s[:, i] += 0.8 * run.size * run.x


def _packet_loss(s: State, i: int, run: Course) -> None:
    lost = np.clip(0.35 * run.size * run.x, 0, 0.9)
    s.net_s[:, i] += PACKETS * RESEND_S * lost / (1 - lost)
    s.silent[:, i] = np.maximum(s.silent[:, i], PACKETS * lost**5)  # five losses of one packet in a row


def _network_partition(s: State, i: int, run: Course) -> None:
    s.silent[:, i] = np.maximum(s.silent[:, i], np.clip(1.2 * run.size * run.x, 0, 1))


def _service_crash(s: State, i: int, run: Course) -> None:
    s.refused[:, i] = np.maximum(s.refused[:, i], np.clip(run.size * run.x, 0, 1))
    s.memory_mi[:, i] *= 1 - 0.85 * np.clip(run.size * run.x, 0, 1)


def _slow_query(s: State, i: int, run: Course) -> None:
    s.idle_s[:, i] += 0.6 * run.size * run.x


def _pool_exhaustion(s: State, i: int, run: Course) -> None:
    """Connections leak away until next to none is left for those who wait."""
    left = np.minimum(s.pool[:, i], 20.0) * (1 - run.x) + 0.0003 / max(run.size, 0.05)
    s.pool[:, i] = np.where(run.x > 0, left, s.pool[:, i])


def _dns_failure(s: State, i: int, run: Course) -> None:
    s.unresolved[:, i] = np.maximum(s.unresolved[:, i], np.clip(0.9 * run.size * run.x, 0, 1))


def _error_storm(s: State, i: int, run: Course) -> None:
    s.errors[:, i] = np.maximum(s.errors[:, i], np.clip(0.9 * run.size * run.x, 0, 1))


def _traffic_surge(s: State, i: int, run: Course) -> None:
    s.load *= 1 + 2.5 * run.size * run.x


# kind -> what it does to the state of service i
FAULTS: dict[str, Callable[[State, int, Course], None]] = {
    "cpu_contention": _cpu_contention,
    "cpu_throttling": _cpu_throttling,
    "memory_leak": _memory_leak,
    "memory_restarts": _memory_restarts,
    "disk_pressure": _disk_pressure,
    "network_delay": _network_delay,
    "packet_loss": _packet_loss,
    "network_partition": _network_partition,
    "service_crash": _service_crash,
    "slow_query": _slow_query,
    "pool_exhaustion": _pool_exhaustion,
    "dns_failure": _dns_failure,
    "error_storm": _error_storm,
    "traffic_surge": _traffic_surge,
}
RAMPS = ("memory_leak",)  # grow over their whole duration instead of an onset


def strength(fault: Fault, at_s: np.ndarray) -> np.ndarray:
    """0..1 at each moment: rises over the onset (a ramp: the whole time), falls over the recovery."""
    rise = fault.duration_s if fault.kind in RAMPS else max(fault.onset_s, 1e-9)
    x = np.clip((at_s - fault.start_s) / rise, 0, 1)
    after = at_s - fault.start_s - fault.duration_s
    return np.asarray(x * np.clip(1 - after / max(fault.recovery_s, 1e-9), 0, 1))


def strike(state: State, place: int, fault: Fault, at_s: np.ndarray) -> None:
    """Do to the state what `fault` does at these moments."""
    x = strength(fault, at_s)
    if x.any():
        FAULTS[fault.kind](state, place, Course(x, at_s - fault.start_s, fault.size))
