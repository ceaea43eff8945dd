"""What can go wrong: each fault changes one cause, never a column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


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


def strength(fault: Fault, at_s: np.ndarray) -> np.ndarray:
    """0..1 at each moment: rises over the onset (a ramp: the whole time), falls over the recovery."""
    rise = fault.duration_s if fault.kind in RAMPS else max(fault.onset_s, 1e-9)
    x = np.clip((at_s - fault.start_s) / rise, 0, 1)
    after = at_s - fault.start_s - fault.duration_s
    return np.asarray(x * np.clip(1 - after / max(fault.recovery_s, 1e-9), 0, 1))
