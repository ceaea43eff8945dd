"""Slow twins: the same promise in the plainest loop, to hold the fast code against."""

from __future__ import annotations

import itertools
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


def pool(evidence: np.ndarray, service: list[str], family: list[str], share: float, power: float) -> tuple:
    """Mean of powers over a family, then over a service's families; system: mean of the loudest share."""
    names = list(dict.fromkeys(service))
    by_service, system = np.full((len(evidence), len(names)), np.nan), np.full(len(evidence), np.nan)
    for row, values in enumerate(evidence):
        for column, name in enumerate(names):
            powers = []
            for one in {f for s, f in zip(service, family, strict=True) if s == name}:
                mine = [v for v, s, f in zip(values, service, family, strict=True) if (s, f) == (name, one)]
                seen = [float(v) ** power for v in mine if math.isfinite(v)]
                if seen:
                    powers.append(sum(seen) / len(seen))
            if powers:
                by_service[row, column] = (sum(powers) / len(powers)) ** (1 / power)
        loud = max(1, math.ceil(share * len(names)))
        if any(math.isfinite(v) for v in values):
            system[row] = sum(sorted(np.nan_to_num(by_service[row]), reverse=True)[:loud]) / loud
    return by_service, system


def vus(
    score: np.ndarray, truth: np.ndarray, keep: np.ndarray, window: int, tsb_ad: bool
) -> tuple[float, float]:
    """VUS-PR and VUS-ROC, threshold by threshold, buffer by buffer, row by row."""
    score, rows = np.where(keep, score, -np.inf), range(len(score))
    edges = np.diff(truth.astype(int), prepend=0, append=0)
    runs = zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1, strict=True)
    events = [(int(s), int(e)) for s, e in runs if keep[s : e + 1].any()]
    ordered = sorted((float(v) for v in score[keep]), reverse=True)
    levels = [ordered[int(i)] for i in np.linspace(0, len(ordered) - 1, 250)]
    positive, count = int((truth & keep).sum()), int(keep.sum())
    pr, roc = [], []
    for buffer in range(window + 1):
        before, behind = buffer // 2, buffer // 2 if tsb_ad else max(buffer // 2 - 1, 0)
        label = np.zeros(len(score))
        regions: list[list[int]] = []
        for start, end in events:
            label[start : end + 1] += 1
            for row in range(max(start - before, 0), start):
                label[row] += math.sqrt(1 - (start - row) / buffer)
            for row in range(end + 1, min(end + behind, len(score) - 1) + 1):
                label[row] += math.sqrt(1 - (row - end) / buffer)
            apart = start - before - (0 if tsb_ad else 1)  # overlap in TSB-AD, contact in the original
            if regions and regions[-1][1] >= apart:
                regions[-1][1] = end + behind
            else:
                regions.append([max(start - before, 0), end + behind])
        label = np.where(keep, np.minimum(label, 1), 0)
        recalls, falses, precisions = [0.0], [0.0], [1.0]
        for level in levels:
            told = {r for r in rows if keep[r] and score[r] >= level}
            hits = sum(label[r] for r in told)
            slope = sum(label[r] for r in (told if tsb_ad else rows) if not truth[r])
            half = positive + slope / 2
            seen = [any(r in told for r in range(a, b + 1)) for a, b in regions]
            recalls.append(min(hits / half, 1) * sum(seen) / len(regions))
            false = (len(told) - hits) / (count - half)
            falses.append(false if tsb_ad else min(false, 1))
            precisions.append(hits / len(told))
        height = [a + b for a, b in itertools.pairwise([*recalls, 1.0])]
        width = [b - a for a, b in itertools.pairwise([*falses, 1.0])]
        roc.append(sum(w * h / 2 for w, h in zip(width, height, strict=True)))
        areas = 0.0
        for i in range(1, len(recalls)):
            height = precisions[i] if tsb_ad else (precisions[i] + precisions[i - 1]) / 2
            areas += (recalls[i] - recalls[i - 1]) * height
        pr.append(areas)
    return sum(pr) / len(pr), sum(roc) / len(roc)


def point_adjusted_f1(told: np.ndarray, truth: np.ndarray, share: float) -> float:
    """F1 after every event with more than `share` of its rows told is told as a whole."""
    told, row = told.copy(), 0
    while row < len(truth):
        end = row
        while end < len(truth) and truth[end]:
            end += 1
        if end > row and told[row:end].sum() > share * (end - row) + 1e-9:
            told[row:end] = True
        row = max(end, row + 1)
    return 2 * int((told & truth).sum()) / int(told.sum() + truth.sum())


def rank(values):
    """Place of each value in order, ties as they come."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def ranks(past, scores):
    """Share of lower scores among `past` and the scores before, one by one."""
    known, out = list(past), []
    for score in scores:
        if np.isnan(score):
            out.append(np.nan)
            continue
        out.append(sum(s < score for s in known) / max(len(known), 1))
        known.append(score)
    return np.array(out)


def matrix_profile(x, window):
    """(nearest other stretch, nearest earlier stretch) of each, pair by pair; more than window / 4 apart."""
    stretches = [x[i : i + window] for i in range(len(x) - window + 1)]

    def apart(a, b):
        flat = int(np.ptp(a) == 0) + int(np.ptp(b) == 0)
        if flat:
            return 0.0 if flat == 2 else np.sqrt(window)
        return np.linalg.norm((a - a.mean()) / a.std() - (b - b.mean()) / b.std())

    skip = -(-window // 4)
    both, left = [], []
    for i, a in enumerate(stretches):
        far = [(apart(a, b), j) for j, b in enumerate(stretches) if abs(i - j) > skip]
        both.append(min(d for d, _ in far))
        left.append(min((d for d, j in far if j < i), default=np.nan))
    return np.array(both), np.array(left)


def movement(squared, widths, usual, block, wildest, first=32):
    """foreshock.models.vigil.Movement, row by row: squares (T, K) → (T, K)."""
    rows, kpis = squared.shape
    out = np.zeros((rows, kpis))
    total, count, most = np.zeros(kpis), 0.0, np.full(kpis, np.inf)
    for row in range(rows):
        if row % block == 0:
            if count > usual:
                total, count = total * usual / count, float(usual)
            if count >= first:
                most = np.where(total > 0, wildest * total / count, np.inf)
        total, count = total + np.minimum(squared[row], most), count + 1
        for width in widths:
            recent = squared[max(0, row - width + 1) : row + 1].sum(0) / width
            mean = total / count
            out[row] += np.where(mean > 0, recent / np.where(mean > 0, mean, 1), 0)
    return out
