"""Slow twins: the same promise in the plainest loop, to hold the fast code against."""

from __future__ import annotations

import math

import numpy as np


def quantile(column: np.ndarray, level: float) -> float:
    """Linear interpolation between order statistics, NaN left out."""
    known = sorted(float(v) for v in column if math.isfinite(v))
    if not known:
        return math.nan
    place = (len(known) - 1) * level
    low, high = math.floor(place), math.ceil(place)
    return known[low] + (known[high] - known[low]) * (place - low)


def stitch(per_step: np.ndarray, mask: np.ndarray, starts: np.ndarray, rows: int) -> np.ndarray:
    """Mean over the windows that observed a value."""
    n, kpis, length = per_step.shape
    out = np.full((rows, kpis), np.nan)
    for row in range(rows):
        for kpi in range(kpis):
            found = [
                per_step[w, kpi, row - starts[w]]
                for w in range(n)
                if 0 <= row - starts[w] < length and mask[w, kpi, row - starts[w]]
            ]
            if found:
                out[row, kpi] = float(np.mean(found))
    return out


def rolling_variance(column: np.ndarray, window: int) -> np.ndarray:
    """Biased variance of what was observed in the last `window` rows; 0 where nothing was."""
    out = np.zeros(len(column))
    for row in range(len(column)):
        seen = [v for v in column[max(0, row - window + 1) : row + 1] if math.isfinite(v)]
        out[row] = float(np.var(seen)) if seen else 0.0
    return out


def pool(evidence: np.ndarray, service_index: np.ndarray, services: int, share: float) -> tuple:
    """Services: root mean square of what was observed. System: mean of the loudest share."""
    rows, kpis = evidence.shape
    by_service, system = np.full((rows, services), np.nan), np.full(rows, np.nan)
    loud = max(1, math.ceil(share * kpis))
    for row in range(rows):
        for service in range(services):
            seen = [evidence[row, k] for k in range(kpis) if service_index[k] == service]
            seen = [v for v in seen if math.isfinite(v)]
            if seen:
                by_service[row, service] = math.sqrt(sum(v * v for v in seen) / len(seen))
        known = [v if math.isfinite(v) else 0.0 for v in evidence[row]]
        if any(math.isfinite(v) for v in evidence[row]):
            system[row] = sum(sorted(known, reverse=True)[:loud]) / loud
    return by_service, system
