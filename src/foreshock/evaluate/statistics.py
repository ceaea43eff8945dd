"""How sure a mean is, and whether two detectors differ: bootstrap intervals and the signed-rank test.

numpy alone; held against scipy in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXACT_UP_TO = 50  # differences; above, the normal approximation is within 1e-3 of the exact p
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over series or events, and where it lies if others like them had been drawn."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def has_width(self) -> bool:
        """False for one value, and for groups of one each: nothing tells how sure the mean is."""
        return self.high > self.low

    @property
    def leaves_0_out(self) -> bool:
        """Whether the mean surely lies on one side of 0; never so without a width."""
        return self.has_width and (self.low > 0 or self.high < 0)


def interval(values: Sequence[float] | np.ndarray, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean over what is finite. One value has no width; none gives NaN.

    Source: Efron 1979; 2,000 draws.
    """
    seen = np.asarray(values, float)
    seen = seen[np.isfinite(seen)]
    if not len(seen):
        return Interval(math.nan, math.nan, math.nan, 0)
    draws = np.random.default_rng(seed).integers(0, len(seen), (DRAWS, len(seen)))
    low, high = np.quantile(seen[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(seen.mean()), float(low), float(high), len(seen))


def grouped_interval(groups: Sequence[np.ndarray], level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of group means, each group drawn anew within itself: families of unequal size count alike."""
    seen = [g[np.isfinite(g)] for g in (np.asarray(group, float) for group in groups)]
    seen = [g for g in seen if len(g)]
    if not seen:
        return Interval(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    means = np.mean([g[rng.integers(0, len(g), (DRAWS, len(g)))].mean(1) for g in seen], axis=0)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean([g.mean() for g in seen])), float(low), float(high), sum(map(len, seen)))


@dataclass(frozen=True, slots=True)
class SignedRank:
    """Wilcoxon's signed-rank test of paired differences against 0, two-sided."""

    n: int  # differences that are not 0
    p: float  # 1 where none differs
    effect: (
        float  # matched-pairs rank-biserial correlation, -1..1: the share of rank sum above 0 less that below
    )
    is_exact: bool


def wilcoxon(differences: Sequence[float] | np.ndarray) -> SignedRank:
    """Are the differences centred on 0?

    Zeros are left out (Wilcoxon's own way), ties share their mean rank. Exact up to 50 differences, with ties
    too; above, the normal approximation with the variance corrected for ties and no continuity correction.

    Sources: Wilcoxon 1945; Kerby 2014 for the effect size.

    Example:
        >>> wilcoxon([1, 2, 3, 4, 5])
        SignedRank(n=5, p=0.0625, effect=1.0, is_exact=True)
    """
    found = np.asarray(differences, float)
    found = found[np.isfinite(found) & (found != 0)]
    n = len(found)
    if not n:
        return SignedRank(0, 1.0, 0.0, True)
    _, place, count = np.unique(np.abs(found), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    above = float(ranks[found > 0].sum())
    total = n * (n + 1) / 2
    effect = 2 * above / total - 1
    if n <= EXACT_UP_TO:
        return SignedRank(n, _exact(ranks, above), effect, True)
    variance = n * (n + 1) * (2 * n + 1) / 24 - float((count**3 - count).sum()) / 48
    z = (above - total / 2) / math.sqrt(variance)
    return SignedRank(n, math.erfc(abs(z) / math.sqrt(2)), effect, False)


def _exact(ranks: np.ndarray, above: float) -> float:
    """Two-sided p over all signs of these ranks; ranks with ties are halves, so they are counted doubled."""
    doubled = np.round(2 * ranks).astype(int)
    chance = np.zeros(int(doubled.sum()) + 1)
    chance[0] = 1.0
    for rank in doubled:
        moved = np.zeros_like(chance)
        moved[rank:] = chance[: len(chance) - rank]
        chance = (chance + moved) / 2
    at = round(2 * above)
    return float(min(1.0, 2 * min(chance[: at + 1].sum(), chance[at:].sum())))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p: the chance of any false claim among all of them. Source: Holm 1979."""
    order = np.argsort(p, kind="stable")
    out = [0.0] * len(p)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        out[i] = highest
    return out
