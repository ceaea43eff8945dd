"""What a row's evidence looks like in figures that do not depend on the order or the number of KPIs.

Of the system: how loud the loudest KPIs are, how many join in, which quantities (processor, memory, latency,
...) go up or down. Of each service: how loud each of its quantities is, how far it stands from its usual
level, on which side of its past it stays by rank, whether it fell silent, and how rough it is. What is
learned from such figures on one deployment says something on another, and of a service something of every
other.

Not here: the evidence itself (vigil), what is told of single KPIs (signals), what is learned from the figures
(verdict).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.frame import Kpi
from foreshock.models.signals import NEWEST, WAYS
from foreshock.scores import Layout, pool

# Words in a metric's name, the first that fits; what fits none is a kind of its own.
QUANTITIES: dict[str, str] = {
    "error": r"err|fail|5xx|4xx|exception|abort",
    "success": r"success|availab|ready|healthy",
    "restart": r"restart|oom|kill",
    "awaited": r"(?=.*(?<![a-z])(src|source|caller)).*(p\d\d|lat|dur)",
    "outgoing": r"(client|outgoing|egress|upstream).*(p\d\d|lat|dur)",
    "latency": r"lat|duration|response|p\d\d|delay|rtt|wait",
    "processor": r"cpu|core|throttl|(?<!work)load",
    "memory": r"mem|heap|rss|swap|gc",
    "disk": r"disk|fs|io|read|write|storage",
    "network": r"net|receive|transmit|rx|tx|packet|tcp|socket",
    "queue": r"queue|pool|conn|thread|pending|backlog",
    "traffic": r"rps|qps|ops|request|workload|rate|count|calls|total",
}
OTHER = "other"
DRIFTING = ("memory", "disk")  # quantities that wander in good health
_POOLED = ("loudest", "twentieth", "fifth", "mean", "chance_loudest", "chance_fifth", "fine_fifth",
           "coarse_fifth", "system", "service_first", "service_gap", "services_loud")  # fmt: skip
SYSTEM = _POOLED.index("system")


def figure_names() -> tuple[str, ...]:
    """What the figures of a row are called, in their order: those of the system."""
    kinds = [f"{name}_{way}" for name in (*QUANTITIES, OTHER) for way in ("up", "down")]
    return tuple(f"{name}@{newest}" for newest in NEWEST for name in (*_POOLED, *kinds))


def service_figure_names() -> tuple[str, ...]:
    """The same for those of a service."""
    kinds = [f"{name}_{way}" for name in (*QUANTITIES, OTHER) for way in WAYS]
    return tuple(f"{name}@{newest}" for newest in NEWEST for name in kinds)


def quantity(kpi: Kpi) -> str:
    """Which quantity a KPI measures, by its name.

    Example:
        >>> quantity(Kpi("cart__latency_p99", "cart", "latency_p99"))
        'latency'
    """
    words = (kpi.metric or kpi.name).lower()
    return next((name for name, pattern in QUANTITIES.items() if re.search(pattern, words)), OTHER)


@dataclass(frozen=True, slots=True)
class Groups:
    """Which KPIs measure one quantity of one service; sorted so that each group is a run."""

    order: np.ndarray  # (K,) KPIs sorted by service, then quantity
    starts: np.ndarray  # (P,) where each group starts in `order`
    service: np.ndarray  # (P,)
    quantity: np.ndarray  # (P,) place among the quantities that there are here
    services: int
    kinds: np.ndarray  # (K,) quantity of each KPI
    drifts: np.ndarray  # (K,) bool, whether it is one of DRIFTING
    columns: np.ndarray  # (G',) which of a service's figures there are here, by `service_figure_names`


def groups_of(kpis: Sequence[Kpi]) -> Groups:
    """The groups of a frame's KPIs; services in order of first appearance."""
    place = {name: i for i, name in enumerate((*QUANTITIES, OTHER))}
    rank = {s: i for i, s in enumerate(dict.fromkeys(k.service for k in kpis))}
    keys = [(rank[kpi.service], place[quantity(kpi)]) for kpi in kpis]
    order = sorted(range(len(kpis)), key=lambda i: keys[i])
    starts = [i for i, k in enumerate(order) if i == 0 or keys[k] != keys[order[i - 1]]]
    found = np.array([keys[order[i]] for i in starts]).reshape(-1, 2)
    present, column = np.unique(found[:, 1], return_inverse=True)
    own = (present[:, None] * len(WAYS) + np.arange(len(WAYS))).ravel()
    every = (len(QUANTITIES) + 1) * len(WAYS)
    columns = np.concatenate([own + i * every for i in range(len(NEWEST))])
    kinds = np.array([q for _, q in keys], int)
    return Groups(
        np.array(order, int), np.array(starts, int), found[:, 0], column, len(rank),
        kinds, np.isin(kinds, [place[name] for name in DRIFTING]), columns,
    )  # fmt: skip


def figures(
    evidence: np.ndarray, chances: np.ndarray, is_up: np.ndarray, kinds: np.ndarray, plan: Layout
) -> np.ndarray:
    """The system's figures of some rows: (n, F).

    Args:
        evidence: (n, K), 0 where not observed.
        chances: (scales, n, K), NaN where a scale has too little past.
        is_up: (n, K) bool, whether the value lies above what was expected.
        kinds: (K,) as in `Groups`.
    """
    told = np.isfinite(chances)
    chance = np.where(told, chances, 0)
    mean = chance.sum(0) / np.maximum(told.sum(0), 1)
    services, system = pool(evidence, plan)
    ranked = -np.sort(-np.nan_to_num(services), axis=1)
    second = ranked[:, 1] if ranked.shape[1] > 1 else np.zeros(len(ranked))
    loud = (np.nan_to_num(services) > 0.5 * ranked[:, :1]).mean(1)
    pooled = [
        evidence.max(1), _top(evidence, 0.05), _top(evidence, 0.2), evidence.mean(1),
        10 * mean.max(1), 10 * _top(mean, 0.2), 10 * _top(chance[0], 0.2), 10 * _top(chance[-1], 0.2),
        np.nan_to_num(system), ranked[:, 0], ranked[:, 0] - second, loud,
    ]  # fmt: skip
    for kind in range(len(QUANTITIES) + 1):
        own = kinds == kind
        for way in (is_up, ~is_up):
            part = np.where(way[:, own], evidence[:, own], 0)
            pooled.append(part.max(1) if own.any() else np.zeros(len(evidence)))
    return np.asarray(np.log1p(np.maximum(np.stack(pooled, 1), 0)))


def _top(values: np.ndarray, share: float) -> np.ndarray:
    """Mean of the largest share of each row, at least one value."""
    count = max(1, int(np.ceil(share * values.shape[1])))
    return np.asarray(-np.partition(-values, count - 1, axis=1)[:, :count].mean(1))


def service_figures(told: np.ndarray, groups: Groups) -> np.ndarray:
    """The figures of each service in some rows, those that there are here: (n, S, G') float32.

    Args:
        told: (n, len(NEWEST), len(WAYS), K) of each KPI, as `Signals` gives it.
    """
    most = np.maximum.reduceat(told[..., groups.order], groups.starts, axis=3)  # (n, newest, ways, P)
    here = len(groups.columns) // len(NEWEST) // len(WAYS)
    out = np.zeros((len(told), groups.services, len(NEWEST), here, len(WAYS)), np.float32)
    out[:, groups.service, :, groups.quantity] = np.moveaxis(most, 3, 0)
    return out.reshape(len(told), groups.services, -1)
