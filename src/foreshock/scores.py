"""How anomalous each row is, for each KPI, each service and the whole system.

Not here: what makes a KPI's error (models), which score is too high (calibrate).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foreshock.frame import Kpi

# Of Scores, a row each; all but the first four may be missing.
ARRAYS = ("time_ns", "kpis", "services", "system", "expected", "kinds", "origins", "taught")
SURE, UNKNOWN = 0.5, "unknown"  # chance of a kind of fault from which it is told, and what is told below


@dataclass(frozen=True, slots=True)
class Scores:
    """Higher is more anomalous; NaN where nothing was observed."""

    time_ns: np.ndarray  # (T,) int64, as in the frame
    kpis: np.ndarray  # (T, K) float32
    services: np.ndarray  # (T, S) float32
    system: np.ndarray  # (T,) float32
    kpi_meta: tuple[Kpi, ...]
    service_names: tuple[str, ...]
    step_s: float
    detector: str = ""
    causal: bool = True  # whether no row was judged by later ones, but for `settled`
    settled: int = 0  # so many of the first rows were judged by later ones, too
    expected: np.ndarray | None = None  # (T, K) float32 in the KPI's own units, where the detector has one
    kinds: np.ndarray | None = None  # (T, C) float32, 0..1: of each kind of fault, if there is one at all
    kind_names: tuple[str, ...] = ()  # C of them
    origins: np.ndarray | None = None  # (T, S) float32, 0..1: of each service to be the root, likewise
    kinds_from: str = ""  # who taught the kinds: "labels", or "simulated systems"
    taught: np.ndarray | None = None  # (T,) float32: -log2(1 - p) of an incident, as labels alone taught

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def time(self) -> np.ndarray:
        """(T,) datetime64[ns], UTC."""
        return self.time_ns.view("datetime64[ns]")

    @property
    def rows_in_hindsight(self) -> int:
        """How many of the first rows later ones helped to judge."""
        return self.settled if self.causal else len(self)

    def rows(self, which: slice) -> Scores:
        """Some rows, as views."""
        held: dict[str, Any] = {n: a[which] for n in ARRAYS if (a := getattr(self, n)) is not None}
        return replace(self, **held)


LOUDEST = 0.2  # share of services that speak for the system
# Exponent of the means over a service's KPIs: below 1, many KPIs that stir say more than one that shouts.
# 2 / 1 / 0.7 / 0.3: VUS-PR 0.60, 0.65, 0.68, 0.71 and AP 0.67, 0.69, 0.70, 0.67 over seven families of
# recordings; docs/log.md, 2026-11-26.
POWER = 0.6
# Words of a metric's name that tell which quantile or unit, not which quantity.
_VARIANT = re.compile(
    r"(?<![a-z0-9])"
    r"(p\d+|avg|mean|median|min|max|total|rate|pct|percent|perc|m|mi|mib|gib|ms|us|s|seconds|bytes)"
    r"(?![a-z0-9])"
)


def family(kpi: Kpi) -> str:
    """What a KPI measures, without quantile and unit: several columns of one quantity count once.

    Example:
        >>> family(Kpi("cart__client_lat_p99_s", "cart", "client_lat_p99_s"))
        'client_lat'
    """
    words = (kpi.metric or kpi.name).lower().replace("_", " ").replace(".", " ")
    return "_".join(_VARIANT.sub(" ", words).split()) or words


@dataclass(frozen=True, slots=True)
class Layout:
    """Which KPIs form a family, which families a service; sorted so that both are runs."""

    order: np.ndarray  # (K,) KPIs sorted by service, then family
    families: np.ndarray  # (F,) where each family starts in `order`
    services: np.ndarray  # (S,) where each service starts among the families


def layout(kpis: tuple[Kpi, ...]) -> Layout:
    """How the KPIs of a frame are pooled; services in order of first appearance, as in Frame.services."""
    service_rank = {s: i for i, s in enumerate(dict.fromkeys(k.service for k in kpis))}
    keys = [(service_rank[k.service], family(k)) for k in kpis]
    order = sorted(range(len(kpis)), key=lambda i: keys[i])
    ordered = [keys[i] for i in order]
    first = [i for i in range(len(ordered)) if i == 0 or ordered[i] != ordered[i - 1]]
    owners = [ordered[i][0] for i in first]
    services = [i for i in range(len(owners)) if i == 0 or owners[i] != owners[i - 1]]
    return Layout(np.array(order), np.array(first), np.array(services))


def pool(evidence: np.ndarray, plan: Layout) -> tuple[np.ndarray, np.ndarray]:
    """KPI evidence (T, K) → services (T, S) and system (T,), float32.

    A mean of powers (`POWER`), first over a family (p90, p95 and p99 of one latency speak once), then over a
    service's families. The system is the mean of its loudest fifth of services, at least one. Dead or
    missing KPIs count as if they were not there; NaN where nothing was observed.
    """
    evidence = evidence[:, plan.order].astype(np.float64)
    observed = np.isfinite(evidence)
    powers, seen = _mean_over(np.abs(np.where(observed, evidence, 0)) ** POWER, observed, plan.families)
    powers, seen = _mean_over(powers, seen, plan.services)
    by_service = powers ** (1 / POWER)
    loud = max(1, int(np.ceil(LOUDEST * by_service.shape[1])))
    top = -np.partition(-by_service, loud - 1, axis=1)[:, :loud]
    system = np.where(seen.any(1), top.mean(1), np.nan)
    return np.where(seen, by_service, np.nan).astype(np.float32), system.astype(np.float32)


def _mean_over(values: np.ndarray, seen: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of what was seen, over runs of columns that begin at `starts`; 0 where nothing was."""
    count = np.add.reduceat(seen.astype(np.int64), starts, axis=1)
    total = np.add.reduceat(np.where(seen, values, 0), starts, axis=1)
    return total / np.maximum(count, 1), count > 0


def smooth(evidence: np.ndarray, last: np.ndarray, weight: float) -> np.ndarray:
    """Running mean of evidence (T, K), from `last` (K,) on: each row counts `weight`, the past the rest.

    What nobody observed counts as no evidence, so the result (T, K) has no NaN.
    """
    filled = np.nan_to_num(evidence)
    out: np.ndarray = np.empty_like(filled)
    for row in range(len(filled)):
        last = (1 - weight) * last + weight * filled[row]
        out[row] = last
    return out


def join(pieces: Sequence[Scores]) -> Scores:
    """Scores of consecutive rows as one; at least one piece, of the same KPIs."""
    if len(pieces) == 1:
        return pieces[0]
    joined: dict[str, Any] = {}
    for name in ARRAYS:
        parts = [getattr(piece, name) for piece in pieces]
        joined[name] = None if any(part is None for part in parts) else np.concatenate(parts)
    return replace(pieces[0], **joined)
