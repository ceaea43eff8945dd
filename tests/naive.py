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


def pool(evidence: np.ndarray, service: list[str], family: list[str], share: float) -> tuple:
    """Root mean square over a family, then over a service's families; system: mean of the loudest share."""
    names = list(dict.fromkeys(service))
    by_service, system = np.full((len(evidence), len(names)), np.nan), np.full(len(evidence), np.nan)
    for row, values in enumerate(evidence):
        for column, name in enumerate(names):
            squares = []
            for one in {f for s, f in zip(service, family, strict=True) if s == name}:
                mine = [v for v, s, f in zip(values, service, family, strict=True) if (s, f) == (name, one)]
                seen = [float(v) ** 2 for v in mine if math.isfinite(v)]
                if seen:
                    squares.append(sum(seen) / len(seen))
            if squares:
                by_service[row, column] = math.sqrt(sum(squares) / len(squares))
        loud = max(1, math.ceil(share * len(names)))
        if any(math.isfinite(v) for v in values):
            system[row] = sum(sorted(np.nan_to_num(by_service[row]), reverse=True)[:loud]) / loud
    return by_service, system
