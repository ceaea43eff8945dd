"""What a row's evidence looks like in figures that do not depend on the order or the number of KPIs.

Of the system: how loud the loudest KPIs are, how many join in, which quantities (processor, memory, latency,
...) go up or down. Of each service: how loud each of its quantities is, how far it stands from its usual
level, and whether it fell silent. What is learned from such figures on one deployment says something on
another, and of a service something of every other.

Not here: the evidence itself (vigil), what is learned from the figures (verdict).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.frame import Kpi
from foreshock.scores import Layout, pool

NEWEST = (0.6, 0.15)  # what a row counts in the two running means of each figure; a slower one adds nothing
# Words in a metric's name, the first that fits; what fits none is a kind of its own.
QUANTITIES: dict[str, str] = {
    "error": r"err|fail|5xx|4xx|exception|abort",
    "success": r"success|availab|ready|healthy",
    "restart": r"restart|oom|kill",
    "latency": r"lat|duration|response|p\d\d|delay|rtt|wait",
    "processor": r"cpu|core|throttl|(?<!work)load",
    "memory": r"mem|heap|rss|swap|gc",
    "disk": r"disk|fs|io|read|write|storage",
    "network": r"net|receive|transmit|rx|tx|packet|tcp|socket",
    "queue": r"queue|pool|conn|thread|pending|backlog",
    "traffic": r"rps|qps|ops|request|workload|rate|count|calls|total",
}
OTHER = "other"
WAYS = ("louder_up", "louder_down", "higher", "lower", "silent")  # what is told of a service's quantity
_POOLED = ("loudest", "twentieth", "fifth", "mean", "chance_loudest", "chance_fifth", "fine_fifth",
           "coarse_fifth", "system", "service_first", "service_gap", "services_loud")  # fmt: skip
SYSTEM = _POOLED.index("system")
FORGET = 0.01  # what a row counts in the usual share of rows in which a KPI is observed


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
    return Groups(
        np.array(order, int), np.array(starts, int), found[:, 0], column, len(rank),
        np.array([q for _, q in keys], int), columns,
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


def service_figures(
    evidence: np.ndarray, is_up: np.ndarray, off: np.ndarray, silent: np.ndarray, groups: Groups
) -> np.ndarray:
    """The figures of each service in some rows, those that there are here: (n, S, G' / len(NEWEST)) float32.

    Args:
        evidence, is_up: as for `figures`.
        off: (n, K) how far above (or below) its usual level each value is, as `distance` gives it.
        silent: (n, K) 0..1, how unusual it is that nothing was observed.
    """
    parts = (np.where(is_up, evidence, 0), np.where(is_up, 0, evidence))
    loud = [np.log1p(np.maximum(part, 0)) for part in parts]
    ways = np.stack([*loud, np.maximum(off, 0), np.maximum(-off, 0), silent])
    most = np.maximum.reduceat(ways[:, :, groups.order], groups.starts, axis=2)  # (ways, n, P)
    here = len(groups.columns) // len(NEWEST) // len(WAYS)
    out = np.zeros((len(evidence), groups.services, here, len(WAYS)), np.float32)
    out[:, groups.service, groups.quantity] = np.moveaxis(most, 0, 2)
    return out.reshape(len(evidence), groups.services, -1)


def distance(values: np.ndarray, level: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """How far values stand from their usual level, signed, in doublings or so; 0 where not observed.

    In units of level and spread together: processors at 90 % in place of 1 % are farther off than at 20 %,
    and what is nearly 0 but noisy is not far off at all.
    """
    apart = values - level
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        size = np.log1p(np.abs(apart) / (np.abs(level) + spread))
    return np.asarray(np.nan_to_num(np.sign(apart) * size, posinf=0, neginf=0))


class Silence:
    """How unusual it is that a KPI was not observed, by how often it was so far; pieces don't matter."""

    def __init__(self) -> None:
        self.usual: np.ndarray | None = None  # (K,) share of rows observed, the newest counting most

    def push(self, seen: np.ndarray) -> np.ndarray:
        """(n, K) bool → (n, K) 0..1."""
        usual = np.zeros(seen.shape[1]) if self.usual is None else self.usual
        out = np.empty(seen.shape)
        for i, row in enumerate(seen):
            out[i] = np.where(row, 0.0, usual)
            usual = usual + FORGET * (row - usual)
        self.usual = usual
        return out


class Lasting:
    """Running means of figures, from row to row; pieces of any size give the same."""

    def __init__(self) -> None:
        self.last: np.ndarray | None = None  # (len(NEWEST), ...)

    def push(self, rows: np.ndarray) -> np.ndarray:
        """(n, F) → (n, len(NEWEST) * F); figures of services (n, S, F) likewise."""
        shape = rows.shape[1:]
        last = np.zeros((len(NEWEST), *shape), rows.dtype) if self.last is None else self.last
        weight = np.array(NEWEST, rows.dtype).reshape(-1, *([1] * len(shape)))
        out = np.empty((len(rows), *last.shape), rows.dtype)
        for i, row in enumerate(rows):
            last = (1 - weight) * last + weight * row
            out[i] = last
        self.last = last
        return np.moveaxis(out, 1, -2).reshape(*rows.shape[:-1], -1)


def regrouped(last: np.ndarray, before: Sequence[Kpi], after: Sequence[Kpi]) -> np.ndarray:
    """Running means (len(NEWEST), S, G') of services' figures for other KPIs; what is new begins with 0."""
    services = [list(dict.fromkeys(kpi.service for kpi in kpis)) for kpis in (before, after)]
    columns = [
        list(groups.columns[: len(groups.columns) // len(NEWEST)])
        for groups in map(groups_of, (before, after))
    ]
    out = np.zeros((len(last), len(services[1]), len(columns[1])), last.dtype)
    rows, cells = (
        np.array([(new.index(one), old.index(one)) for one in new if one in old], int).reshape(-1, 2)
        for old, new in (services, columns)
    )
    out[:, rows[:, :1], cells[:, 0]] = last[:, rows[:, 1:], cells[:, 1]]
    return out
