"""The queueing model: where load and waiting settle on the call graph."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from foreshock.sources.simulator.faults import State
from foreshock.sources.simulator.system import System

LATENCY_SPREAD = 0.55  # sigma of the lognormal latencies of single calls, for patience and the shop's p90
SWEEPS = 12
POOL_WAIT_S = 3.0  # a call that finds no free connection gives up after this
NAME_WAIT_S = 5.0  # a resolver gives up after this


@dataclass(frozen=True, slots=True)
class Flow:
    """Where it settled, (R, S) each."""

    calls: np.ndarray  # calls taken on a second
    took: np.ndarray  # mean seconds a call
    failed: np.ndarray  # share of calls that fail, callees included
    turned: np.ndarray  # share of calls turned away because no connection was free
    late: np.ndarray  # share of calls whose callers give up waiting


Rows = TypeVar("Rows", State, Flow)


def flow(system: System, state: State) -> Flow:
    """Where load and waiting settle: calls served, seconds a call, share failed.

    Load goes down the graph, waiting comes back up, and both change each other (slow answers make users
    come less often, timeouts make callers ask again), so the two sweeps are repeated until they agree.
    Rows don't know of each other: those that have settled are left alone.
    """
    out = Flow(*(np.zeros(state.cores.shape, order="F") for _ in fields(Flow)))
    unsettled = np.arange(len(state.load))
    part, now = state, Flow(*(np.zeros_like(getattr(out, f.name)) for f in fields(Flow)))
    for sweep in range(SWEEPS):
        asked = system.think_s / (system.think_s + now.took[:, 0]) * part.load
        target = _arrivals(system, part, asked, now)
        # Damped: overload would swing for ever. A quiet system is nearly there after one sweep.
        at_once = sweep == 0 or (sweep == 1 and system.settled > 0)
        calls = target if at_once else (now.calls + target) / 2
        moved = np.abs(target - now.calls).max(axis=1) > system.settled * target.max(axis=1)
        now = Flow(calls, *_answers(system, part, calls))
        if sweep == SWEEPS - 1 or (sweep > 1 and moved.mean() < 0.7):
            for name in (f.name for f in fields(Flow)):
                getattr(out, name)[unsettled] = getattr(now, name)
            unsettled = unsettled[moved]
            if not len(unsettled):
                break
            part, now = _take(part, moved), _take(now, moved)
    return out


def _take(rows: Rows, which: np.ndarray) -> Rows:
    """Some rows of each array."""
    taken = copy(rows)
    for name, whole in ((f.name, getattr(rows, f.name)) for f in fields(rows)):
        if isinstance(whole, np.ndarray):
            object.__setattr__(taken, name, np.asfortranarray(whole[which]))  # Flow is frozen
    return taken


def _arrivals(system: System, state: State, asked: np.ndarray, last: Flow) -> np.ndarray:
    """(R, S) calls a second that reach each service and are taken on."""
    calls = np.zeros(state.cores.shape, order="F")
    calls[:, 0] = asked
    for i, service in enumerate(system.services):
        if service.name not in system.called:
            continue
        calls[:, i] *= (1 - state.refused[:, i]) * (1 - state.silent[:, i])
        passed_on = calls[:, i] * (1 - state.errors[:, i]) * (1 - last.turned[:, i])
        found = 1 - state.unresolved[:, i]
        for n, j, call in system.asks[i]:
            if call.per_op == 0:
                continue
            wanted = passed_on * call.per_op * state.asks[:, n]
            calls[:, j] += wanted * (1 + system.retries * last.late[:, j]) * found
            if service.router:
                continue  # each call goes to one callee: nothing would have come next
            # A callee that fails ends the request: what the caller would have asked next is never asked.
            passed_on = passed_on * (1 - 0.7 * last.failed[:, j] * min(1.0, call.per_op))
            if system.gives_up:
                gone = 1 - (1 - state.refused[:, j]) * (1 - state.silent[:, j]) * found
                passed_on = passed_on * (1 - system.gives_up * gone * min(1.0, call.per_op))
    return calls


def _answers(system: System, state: State, calls: np.ndarray) -> tuple[np.ndarray, ...]:
    """(R, S) mean seconds of one call, shares that fail, are turned away, and come later than waited for."""
    took, failed, turned, late = (np.zeros(calls.shape, order="F") for _ in range(4))
    name_wait = min(NAME_WAIT_S, state.timeout_s)
    for i in range(len(system.services) - 1, -1, -1):
        service = system.services[i]
        if service.name not in system.called:
            continue
        free = np.maximum(state.cores[:, i] - state.stolen[:, i], 0.02 * state.cores[:, i])
        busy = calls[:, i] * state.work_s[:, i] / free
        # M/M/1 up to 95 % busy; beyond, the queue is bounded by the callers' patience and the rest is shed.
        queue = 1 / (1 - np.minimum(busy, 0.95))
        slower = min(service.cores, 1.0) / np.minimum(free, 1.0)
        own = state.idle_s[:, i] / (1 - np.minimum(state.disk[:, i], 0.99))
        own = own + state.work_s[:, i] * queue * slower
        good = (1 - state.errors[:, i]) * np.minimum(1.0, 1 / np.maximum(busy, 1e-9))
        # Connections: as many as are worked on at once share what the pool has.
        held = calls[:, i] * own / state.pool[:, i]
        own = own + np.minimum(own * held**2 / (1 - np.minimum(held, 0.999)), POOL_WAIT_S)
        turned[:, i] = 1 - np.minimum(1.0, 1 / np.maximum(held, 1e-9))
        good = good * (1 - turned[:, i])
        still = 1.0 - turned[:, i]
        lost_name = state.unresolved[:, i]
        for n, j, call in system.asks[i]:
            if call.per_op == 0:
                continue
            answer = np.minimum(took[:, j] + state.net_s[:, j], state.timeout_s)
            answer = state.silent[:, j] * state.timeout_s + (1 - state.silent[:, j]) * answer
            patience = answer * (1 + system.retries * late[:, j])
            waited = lost_name * name_wait + (1 - lost_name) * (1 - state.refused[:, j]) * patience
            own += still * call.per_op * state.asks[:, n] * waited
            lost = state.refused[:, j] + (1 - state.refused[:, j]) * np.maximum(failed[:, j], late[:, j])
            lost = lost_name + (1 - lost_name) * lost
            good = good * (1 - lost * min(1.0, call.per_op))
            if system.gives_up and not service.router:
                gone = 1 - (1 - state.refused[:, j]) * (1 - state.silent[:, j]) * (1 - lost_name)
                still = still * (1 - system.gives_up * gone * min(1.0, call.per_op))
        if system.gives_up:  # an aborted call comes back at once
            own = own * (1 - 0.97 * state.errors[:, i])
        took[:, i] = np.minimum(own, 4 * state.timeout_s)
        failed[:, i] = 1 - good
        late[:, i] = _late(state, i, took[:, i])
    return took, failed, turned, late


def _late(state: State, i: int, took: np.ndarray) -> np.ndarray:
    """Share of calls to service `i` slower than the callers' patience, for lognormal answers of this mean."""
    if (took + state.net_s[:, i]).max() < state.timeout_s / 60:
        return state.silent[:, i]  # the rest is below 1e-17
    z = (np.log(state.timeout_s) - np.log(np.maximum(took + state.net_s[:, i], 1e-6))) / LATENCY_SPREAD
    return np.asarray(state.silent[:, i] + (1 - state.silent[:, i]) * normal_below(-z))


def normal_below(z: np.ndarray) -> np.ndarray:
    """The normal distribution function, by Page's 1977 formula (error below 2e-4)."""
    return np.asarray(
        1 / (1 + np.exp(np.clip(-2 * np.sqrt(2 / np.pi) * (z + 0.044715 * z * z * z), -60, 60)))
    )
