"""The queueing model: where load and waiting settle on the call graph."""

from __future__ import annotations

import numpy as np

from foreshock.sources.simulator.faults import State
from foreshock.sources.simulator.system import System

LATENCY_SPREAD = 0.55  # sigma of the lognormal latencies of single calls


def flow(system: System, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(calls served a second, seconds a call, share failed), (R, S) each: where load and waiting settle.

    Load goes down the graph, waiting comes back up, and both change each other (slow answers make users
    come less often, timeouts make callers ask again), so the two sweeps are repeated until they agree.
    """
    shape = state.cores.shape
    took = np.zeros(shape)
    failed = np.zeros(shape)
    calls = np.zeros(shape)
    wait_front = np.zeros(shape[0])
    for sweep in range(12):
        asked = system.think_s / (system.think_s + wait_front) * state.load
        target = _arrivals(system, state, asked, took, failed)
        calls = target if sweep == 0 else (calls + target) / 2  # damped: overload would swing for ever
        took, failed = _answers(system, state, calls)
        wait_front = took[:, 0]
    return calls, took, failed


def _arrivals(
    system: System, state: State, asked: np.ndarray, took: np.ndarray, failed: np.ndarray
) -> np.ndarray:
    """(R, S) calls a second that reach each service and are taken on."""
    calls = np.zeros(state.cores.shape)
    calls[:, 0] = asked
    index = system.index
    for i, service in enumerate(system.services):
        calls[:, i] *= 1 - state.refused[:, i]
        passed_on = calls[:, i] * (1 - state.errors[:, i])
        for call in (c for c in system.calls if c.caller == service.name):
            j = index[call.callee]
            again = system.retries * _late(state, took[:, j] + state.net_s[:, j])
            calls[:, j] += passed_on * call.per_op * (1 + again)
            # A callee that fails ends the request: what the caller would have asked next is never asked.
            passed_on = passed_on * (1 - 0.7 * failed[:, j] * min(1.0, call.per_op))
    return calls


def _answers(system: System, state: State, calls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, S) mean seconds of one call at each service, and the share that fails, callees included."""
    took = np.zeros(calls.shape)
    failed = np.zeros(calls.shape)
    index = system.index
    for i in range(len(system.services) - 1, -1, -1):
        free = np.maximum(state.cores[:, i] - state.stolen[:, i], 0.02 * state.cores[:, i])
        busy = calls[:, i] * state.work_s[:, i] / free
        # M/M/1 up to 95 % busy; beyond, the queue is bounded by the callers' patience and the rest is shed.
        queue = 1 / (1 - np.minimum(busy, 0.95))
        slower = np.minimum(state.cores[:, i], 1.0) / np.minimum(free, 1.0)
        own = state.idle_s[:, i] + state.work_s[:, i] * queue * slower
        good = (1 - state.errors[:, i]) * np.minimum(1.0, 1 / np.maximum(busy, 1e-9))
        for call in (c for c in system.calls if c.caller == system.services[i].name):
            j = index[call.callee]
            answer = took[:, j] + state.net_s[:, j]
            late = _late(state, answer)
            patience = np.minimum(answer, state.timeout_s) * (1 + system.retries * late)
            own += call.per_op * (1 - state.refused[:, j]) * patience
            lost = state.refused[:, j] + (1 - state.refused[:, j]) * np.maximum(failed[:, j], late)
            good = good * (1 - lost * min(1.0, call.per_op))
        took[:, i] = np.minimum(own, 4 * state.timeout_s)
        failed[:, i] = 1 - good
    return took, failed


def _late(state: State, answer_s: np.ndarray) -> np.ndarray:
    """Share of calls slower than the callers' patience, for lognormal answers of this mean."""
    z = (np.log(state.timeout_s) - np.log(np.maximum(answer_s, 1e-6))) / LATENCY_SPREAD
    return np.asarray(normal_below(-z))


def normal_below(z: np.ndarray) -> np.ndarray:
    """The normal distribution function, by Page's 1977 formula (error below 2e-4)."""
    return np.asarray(1 / (1 + np.exp(np.clip(-2 * np.sqrt(2 / np.pi) * (z + 0.044715 * z**3), -60, 60))))
