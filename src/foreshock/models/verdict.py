"""From the evidence of all KPIs to one probability a row, and to the kind of fault.

Each row becomes a fixed number of figures that don't depend on the order or the number of KPIs and services:
how loud the loudest are, how many join in, and which quantities (processor, memory, latency, ...) go up or
down. A logistic regression on them is learned from labels; what it learned on one deployment says something
on another.

Not here: the evidence itself (vigil), choosing what to learn from (finetune), files (lora).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from foreshock.errors import WeightsError
from foreshock.frame import Kpi
from foreshock.scores import Layout, pool

UNKNOWN = "unknown"
SURE = 0.5  # probability of a kind below which it is not named
NEWEST = (0.6, 0.15)  # what a row counts in the two running means of each figure
RIDGE, KIND_RIDGE = 3.0, 3.0  # pull towards the prior, in rows of evidence
FEW = 4  # faulty windows at which a threshold from them counts half
# Where a threshold is pulled, and the lowest there may be. On another recording than the labelled one
# (simulated, seeds 1001 and 2001) all of 11 faults were found up to 0.95, with 10 false alarms at 0.3, 6 at
# 0.5 to 0.7, 5 at 0.85 and 2 at 0.95; 2026-11-26.
CAREFUL, LOWEST = 0.85, 0.5
PLATT_RIDGE = 8.0  # the same for the correction on the validation part
# Words in a metric's name, the first that fits; what fits none is a kind of its own.
QUANTITIES: dict[str, str] = {
    "error": r"err|fail|5xx|4xx|exception|abort",
    "success": r"success|availab|ready|healthy",
    "restart": r"restart|oom|kill",
    "latency": r"lat|duration|response|p\d\d|delay|rtt|wait",
    "processor": r"cpu|core|throttl|load",
    "memory": r"mem|heap|rss|swap|gc",
    "disk": r"disk|fs|io|read|write|storage",
    "network": r"net|receive|transmit|rx|tx|packet|tcp|socket",
    "queue": r"queue|pool|conn|thread|pending|backlog",
    "traffic": r"rps|qps|ops|request|workload|rate|count|calls|total",
}
OTHER = "other"
_POOLED = ("loudest", "twentieth", "fifth", "mean", "chance_loudest", "chance_fifth", "fine_fifth",
           "coarse_fifth", "system", "service_first", "service_gap", "services_loud")  # fmt: skip
SYSTEM = _POOLED.index("system")


def figure_names() -> tuple[str, ...]:
    """What the figures of a row are called, in their order."""
    kinds = [f"{name}_{way}" for name in (*QUANTITIES, OTHER) for way in ("up", "down")]
    return tuple(f"{name}@{newest}" for newest in NEWEST for name in (*_POOLED, *kinds))


def quantity(kpi: Kpi) -> str:
    """Which quantity a KPI measures, by its name.

    Example:
        >>> quantity(Kpi("cart__latency_p99", "cart", "latency_p99"))
        'latency'
    """
    words = (kpi.metric or kpi.name).lower()
    return next((name for name, pattern in QUANTITIES.items() if re.search(pattern, words)), OTHER)


def quantities(kpis: Sequence[Kpi]) -> np.ndarray:
    """(K,) place of each KPI's quantity."""
    places = {name: i for i, name in enumerate((*QUANTITIES, OTHER))}
    return np.array([places[quantity(kpi)] for kpi in kpis])


def figures(
    evidence: np.ndarray, chances: np.ndarray, is_up: np.ndarray, kinds: np.ndarray, plan: Layout
) -> np.ndarray:
    """The pooled figures of some rows: (n, F).

    Args:
        evidence: (n, K), 0 where not observed.
        chances: (scales, n, K), NaN where a scale has too little past.
        is_up: (n, K) bool, whether the value lies above what was expected.
        kinds: (K,) as `quantities` gives them.
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


class Lasting:
    """Running means of the figures, from row to row; pieces of any size give the same."""

    def __init__(self) -> None:
        self.last: np.ndarray | None = None  # (len(NEWEST), F)

    def push(self, rows: np.ndarray) -> np.ndarray:
        """(n, F) → (n, len(NEWEST) * F)."""
        last = np.zeros((len(NEWEST), rows.shape[1])) if self.last is None else self.last
        weight = np.array(NEWEST)[:, None]
        out = np.empty((len(rows), *last.shape))
        for i, row in enumerate(rows):
            last = (1 - weight) * last + weight * row
            out[i] = last
        self.last = last
        return out.reshape(len(rows), -1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was learned from labels; F figures, C kinds of faults."""

    center: np.ndarray  # (F,) of each figure, over quiet rows
    spread: np.ndarray  # (F,) above 0
    weight: np.ndarray  # (F + 1,) of the log odds of an incident, the constant last
    kinds: tuple[str, ...]  # C names, sorted
    kind_weight: np.ndarray  # (C, F + 1)
    threshold: float  # probability from which a row counts as an incident
    sure: float = SURE  # probability below which no kind is named

    def odds(self, rows: np.ndarray) -> np.ndarray:
        """Log odds of an incident, (n,)."""
        return np.asarray(self._scaled(rows) @ self.weight)

    def kinds_of(self, rows: np.ndarray) -> np.ndarray:
        """(n, C) probabilities of the kinds, given that there is an incident; rows sum to 1."""
        return _shares(self._scaled(rows) @ self.kind_weight.T)

    def name(self, chances: np.ndarray) -> str:
        """The kind that rows (n, C) of one incident speak for, or "unknown"."""
        if chances.size == 0:
            return UNKNOWN
        mean = np.nanmean(np.atleast_2d(chances), 0)
        return self.kinds[int(mean.argmax())] if mean.max() >= self.sure else UNKNOWN

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        return scaled(rows, self.center, self.spread)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in values.items()}
        return {"figures": list(figure_names()), **plain, "kinds": list(self.kinds)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], place: str) -> Verdict:
        """The way back.

        Raises:
            WeightsError: something is missing, or the figures are not those of this version.
        """
        try:
            if tuple(raw["figures"]) != figure_names():
                raise WeightsError(
                    f"{place} was learned on other figures than this version computes; adapt again."
                )
            count, kinds = len(figure_names()), tuple(map(str, raw["kinds"]))
            arrays = {n: np.array(raw[n], np.float64) for n in ("center", "spread", "weight", "kind_weight")}
            made = cls(**arrays, kinds=kinds, threshold=float(raw["threshold"]), sure=float(raw["sure"]))
            shapes = {"center": (count,), "spread": (count,), "weight": (count + 1,),
                      "kind_weight": (len(kinds), count + 1)}  # fmt: skip
            for name, shape in shapes.items():
                if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                    raise WeightsError(f"{place}: {name} must be {shape} finite numbers; adapt again.")
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{place} is not a whole adapter ({error!r}); adapt again.") from error
        return made


def score_of(odds: np.ndarray) -> np.ndarray:
    """Log odds as a score: -log2(1 - p), so 0 is calm, 1 is as likely as not, and it grows on."""
    return np.asarray(np.logaddexp(0, odds) / np.log(2))


def probability_of(score: np.ndarray | float) -> np.ndarray:
    """The way back from `score_of`."""
    return np.asarray(1 - np.exp2(-np.asarray(score, np.float64)))


def kind_of_rows(kinds: np.ndarray, names: Sequence[str], inside: np.ndarray) -> list[str | None]:
    """The kind of each row of an incident, "unknown" where unsure; None outside of incidents."""
    if not names:
        return [UNKNOWN if is_inside else None for is_inside in inside]
    best = np.nan_to_num(kinds).argmax(1)
    sure = np.nan_to_num(kinds).max(1) >= SURE
    return [(names[b] if s else UNKNOWN) if i else None for b, s, i in zip(best, sure, inside, strict=True)]


def scaled(rows: np.ndarray, center: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(n, F) → (n, F + 1), in spreads, within ±10, a constant last."""
    x = np.clip((rows - center) / spread, -10, 10)
    return np.concatenate([x, np.ones((len(x), 1))], 1)


def logistic(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, prior: np.ndarray, ridge: float | np.ndarray
) -> np.ndarray:
    """Coefficients (F,) of a weighted logistic regression, pulled towards `prior`; Newton's method.

    Args:
        x: (n, F). y: (n,) 0 or 1. weight: (n,) of each row. ridge: strength, one or (F,).
    """
    w = prior.astype(np.float64).copy()
    pull = np.broadcast_to(np.asarray(ridge, np.float64), w.shape)

    def loss(at: np.ndarray) -> float:
        z = x @ at
        return float((weight * (np.logaddexp(0, z) - y * z)).sum() + (pull * (at - prior) ** 2).sum() / 2)

    now = loss(w)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -40, 40)))
        slope = x.T @ (weight * (p - y)) + pull * (w - prior)
        curve = (x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(pull)
        step, share = np.linalg.solve(curve, slope), 1.0
        while share > 1e-4 and (there := loss(w - share * step)) > now:
            share /= 2
        if share <= 1e-4 or now - there < 1e-9 * (1 + abs(now)):
            break
        w, now = w - share * step, there
    return w


def learn(
    rows: np.ndarray, is_faulty: np.ndarray, kind: np.ndarray, quiet: np.ndarray, weight: np.ndarray
) -> Verdict:
    """Learn a verdict from labelled rows.

    Few labels move it little from the zero-shot score: the log odds begin as that score in its own
    spreads, and everything is pulled there.

    Args:
        rows: (n, F) figures. is_faulty: (n,) bool. kind: (n,) str, "" where not told.
        quiet: (m, F) figures of rows taken for quiet; they only set the scaling.
        weight: (n,) of each row; the sum is how much evidence they are.
    """
    center = np.median(quiet, 0)
    spread = np.maximum(quiet.std(0), 0.05)
    x = scaled(rows, center, spread)
    prior = np.zeros(x.shape[1])
    prior[SYSTEM], prior[-1] = 0.7, -3.0
    ridge = np.full(x.shape[1], RIDGE)
    ridge[-1] = 0.05
    found = logistic(x, is_faulty.astype(float), weight, prior, ridge)
    told = is_faulty & (kind != "")
    kinds = tuple(sorted({str(k) for k in kind[told]}))
    kind_weight = np.zeros((len(kinds), x.shape[1]))
    ridge = np.full(x.shape[1], KIND_RIDGE)
    ridge[-1] = 0.05
    for i, one in enumerate(kinds):
        own = (kind[told] == one).astype(float)
        if len(kinds) > 1:
            balance = np.where(own > 0, 0.5 / max(own.mean(), 1e-9), 0.5 / max(1 - own.mean(), 1e-9))
            kind_weight[i] = logistic(x[told], own, balance * weight[told], 0 * prior, ridge)
    return Verdict(center, spread, found, kinds, kind_weight, CAREFUL)


def correct(odds: np.ndarray, is_faulty: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Slope (above 0) and shift of log odds, after rows that were not learned from (Platt 1999)."""
    x = np.stack([odds, np.ones_like(odds)], 1)
    slope, shift = logistic(x, is_faulty.astype(float), weight, np.array([1.0, 0.0]), PLATT_RIDGE)
    return float(np.clip(slope, 0.2, 3.0)), float(np.clip(shift, -3, 3))


def best_threshold(chance: np.ndarray, is_faulty: np.ndarray, weight: np.ndarray) -> float:
    """The probability from which windows had best be called faulty, by F1; near CAREFUL while they are few.

    Args:
        chance: (n,) of each window. is_faulty: (n,) bool. weight: (n,) how many windows each stands for.
    """
    if not is_faulty.any() or is_faulty.all():
        return CAREFUL
    order = np.argsort(-chance, kind="stable")
    hits = np.cumsum((weight * is_faulty)[order])
    f1 = 2 * hits / (np.cumsum(weight[order]) + hits[-1])
    best = int(f1.argmax())
    odds = np.clip(chance[order], 1e-4, 1 - 1e-4)
    odds = np.log(odds / (1 - odds))
    trust = int(is_faulty.sum()) / (int(is_faulty.sum()) + FEW)
    pulled = trust * odds[best] + (1 - trust) * np.log(CAREFUL / (1 - CAREFUL))
    return float(np.clip(1 / (1 + np.exp(-pulled)), LOWEST, 0.99))


def _shares(odds: np.ndarray) -> np.ndarray:
    if odds.shape[1] == 0:
        return odds
    grown = np.exp(odds - odds.max(1, keepdims=True))
    return np.asarray(grown / grown.sum(1, keepdims=True))
