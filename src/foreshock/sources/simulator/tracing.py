"""What a mesh tells of calls from one service to another: how long the caller waited, and the callee took.

The callee takes what it takes; the caller waits for the network, too, and in vain for what gets lost. A delay
on the network shows here, and nowhere else at the service it is at.
"""

from __future__ import annotations

import numpy as np

from foreshock.sources.simulator.faults import State
from foreshock.sources.simulator.flow import Flow
from foreshock.sources.simulator.plan import Plan
from foreshock.sources.simulator.scrape import WINDOW_S, WOBBLE, answered, or_refused, quantiles

WAITED, TOOK = "src_p50", "dst_p50"
WAITED_ALL = "client_lat_p90_s"  # of all calls that a service makes
SHARE = {WAITED: 0.5, TOOK: 0.5, WAITED_ALL: 0.9}


def trace(plan: Plan, state: State, settled: Flow, rng: np.random.Generator) -> np.ndarray:
    """(R, C) seconds, NaN without calls: a column for each of the system's traced calls."""
    columns = []
    for metric, caller, callee in plan.system.traced:
        calls = _made(plan, state, settled, caller, callee, metric)
        rates = np.stack([rate for rate, _ in calls])  # (callees, R)
        within = np.stack([_within(plan, state, settled, j, metric, rng) for _, j in calls])
        share = (rates[..., None] * within).sum(0) / np.maximum(rates.sum(0), 1e-12)[:, None]
        count = rng.poisson(rates.sum(0) * min(WINDOW_S, plan.step_s))
        columns.append(quantiles(count[:, None], share[:, None], (SHARE[metric],), rng)[0][:, 0])
    return np.stack(columns, 1)


def _made(
    plan: Plan, state: State, settled: Flow, caller: str, callee: str, metric: str
) -> list[tuple[np.ndarray, int]]:
    """Calls a second (R,) and the callee's place, for one callee or all; what never arrives takes no time."""
    i, out = plan.system.index[caller], []
    for n, j, call in plan.system.asks[i]:
        if callee and call.callee != callee:
            continue
        rate = settled.calls[:, i] * call.per_op * state.asks[:, n] * (1 - state.unresolved[:, i])
        arrived = (1 - state.refused[:, j]) * (1 - state.silent[:, j]) if metric == TOOK else 1.0
        out.append((rate * arrived, j))
    return out


def _within(
    plan: Plan, state: State, settled: Flow, j: int, metric: str, rng: np.random.Generator
) -> np.ndarray:
    """(R, edges) share of the calls to service `j` that are over within each edge."""
    service = plan.system.services[j]
    mean_s = settled.took[:, j] + (0 if metric == TOOK else state.net_s[:, j])
    mean_s = mean_s * np.exp(WOBBLE * service.spread * rng.standard_normal(len(mean_s)))
    share = answered(mean_s, state.errors[:, j], service.spread, rng.random(len(mean_s)) < service.hiccup)
    if metric == TOOK:
        return share
    return np.asarray((1 - state.silent[:, j, None]) * or_refused(share, state.refused[:, j]))
