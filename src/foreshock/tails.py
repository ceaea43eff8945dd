"""The upper tail of quiet scores: what is quiet, how often a level is reached, how far a rise must last.

Not here: the promise made from it (calibrate).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TAIL_SHARE = 0.02  # Siffer et al. 2017 keep the initial quantile at 0.98
FEWEST_PEAKS = 15  # fewer cluster peaks than this do not carry a tail fit
FEWEST_BODY = 20  # rows from which incidents can be told from the body
FEWEST_HILL = 6  # incidents that are no tail by their number
SHORT_RISE, LONG_RISE = 4, 16  # lengths of a lasting rise
# 3.7 sigma and skew, weight and belief below: kept the promise within a factor of two on eight shapes of
# quiet scores while setting aside the most labelled rows of 19 recordings (SMD, ASD, Nezha).
SIGMAS, MOST_SKEW, MOST_WEIGHT, BELIEF = 3.7, 0.8, 0.2, 0.7


@dataclass(frozen=True, slots=True)
class Tail:
    """Generalised Pareto above `start`: clusters reaching z come `rate` times a row."""

    start: float
    rate: float  # clusters above `start`, a row
    shape: float
    scale: float

    def level(self, rate: float) -> float:
        """The score that clusters reach `rate` times a row."""
        if rate >= self.rate:
            return self.start
        if abs(self.shape) < 1e-6:
            return self.start + self.scale * math.log(self.rate / rate)
        return self.start + self.scale / self.shape * math.expm1(self.shape * math.log(self.rate / rate))

    def scale_at(self, score: float) -> float:
        return max(self.scale + self.shape * (score - self.start), self.scale * 0.05)


def lasting(scores: np.ndarray, need: int, window: int) -> np.ndarray:
    """(T,) the level that `need` of the last `window` rows reach; NaN with fewer finite rows than that.

    A k-of-n rule on scores is a plain threshold on this.
    """
    if window == 1 or not len(scores):
        return scores
    padded = np.concatenate([np.full(window - 1, math.nan), scores])
    views = np.lib.stride_tricks.sliding_window_view(padded, window)
    filled = np.where(np.isfinite(views), views, -math.inf)
    level = np.partition(filled, window - need, axis=1)[:, window - need]
    level[~np.isfinite(level)] = math.nan
    return np.asarray(level)


def quiet_rows(scores: np.ndarray, contamination: float = 0.4) -> np.ndarray:
    """(T,) bool: rows that the body of the scores explains; False for incidents and NaN.

    Incidents last: rows are set aside only where neighbours are high, too. A lone high row is noise that
    a threshold has to live with. Looks at single rows, at what three of four rows reach and at means over
    16, as a lasting rise is unusual long before a single row is; each has a limit from its own body, so
    that slow scores don't make every rise an incident.
    """
    quiet: np.ndarray = np.isfinite(scores)
    values = scores[quiet]
    if len(values) < FEWEST_BODY:
        return quiet
    limit = incident_limit(values, contamination)
    above = values > limit
    calm = ~(above & (np.convolve(above, np.ones(5), mode="same") > 1.5))
    usual, raised = np.quantile(values[calm], [0.5, 0.75])
    for length in (SHORT_RISE, LONG_RISE):
        if len(values) < 4 * max(length, FEWEST_BODY):
            break
        # One wild row is no lasting rise, and what is already set aside has had its say.
        tame = np.where(calm, np.minimum(values, limit), usual)
        if length == SHORT_RISE:
            rises = lasting(tame, 3, length)[length - 1 :]  # three of four rows: a spike is no rise
        else:
            total = np.concatenate([[0.0], np.cumsum(tame)])
            rises = (total[length:] - total[:-length]) / length
        loud = rises > min(incident_limit(rises, contamination), _hill_limit(rises, contamination, length))
        covered = np.convolve(loud, np.ones(length))[: len(values)] > 0.5
        calm &= ~(covered & (values > raised))
    # An incident's edges are part of it: raised rows beside a row set aside.
    beside = np.convolve(~calm, np.ones(5), mode="same") > 0.5
    calm &= ~(beside & (values > raised))
    quiet[quiet] = calm
    return quiet


def incident_limit(values: np.ndarray, contamination: float = 0.4) -> float:
    """The score above which a row is no quiet row any more, judged by the body of the scores alone.

    A Tukey g-and-h distribution is fitted to quantiles (skew from the quartiles, weight of the tail from
    the lower side, which incidents don't touch); the limit is its 3.7-sigma point. Incidents raise the
    quartiles, so shares of incidents up to `contamination` are tried, and the least is believed whose
    limit really leaves about so many rows above it. Source for the distribution: Hoaglin 1985.
    """
    ordered = np.sort(values)
    limits = []
    for share in np.arange(0, contamination + 1e-9, 0.05):
        body = ordered[: max(FEWEST_BODY // 2, math.ceil(len(ordered) * (1 - share)))]
        limits.append(_g_and_h_limit(body))
        beyond = 1 - np.searchsorted(ordered, limits[-1], side="right") / len(ordered)
        if share and beyond >= BELIEF * share:
            return limits[-1]
    return limits[0]


def _hill_limit(values: np.ndarray, contamination: float, gap_rows: int) -> float:
    """The lowest score from which rises form a hill of their own, with hardly any halfway there; or infinity.

    In a tail that only falls, more peaks lie between half a height and the height than above it. So six
    peaks above with at most one in four of their number in the valley are no tail.
    """
    usual, start = np.quantile(values, [0.5, max(0.75, 1 - contamination)])
    above = np.flatnonzero(values > start)
    if len(above) < FEWEST_HILL:
        return math.inf
    peaks = np.sort(_peaks(values[above], above, gap_rows))
    beyond = np.arange(len(peaks), 0, -1)  # at or above each peak
    valley = np.arange(len(peaks)) - np.searchsorted(peaks, (usual + peaks) / 2)
    hills = (beyond >= FEWEST_HILL) & (valley <= 0.25 * beyond) & (peaks > usual + 3 * (start - usual))
    return float(np.nextafter(peaks[hills][0], -math.inf)) if hills.any() else math.inf


def _peaks(values: np.ndarray, rows: np.ndarray, gap_rows: int) -> np.ndarray:
    """The highest value of each cluster of rows."""
    cluster = _clusters(rows, gap_rows)
    peaks = np.full(int(cluster[-1]) + 1, -math.inf)
    np.maximum.at(peaks, cluster, values)
    return peaks


def _sorted_quantiles(ordered: np.ndarray, levels: tuple[float, ...]) -> list[float]:
    """Quantiles of sorted values, without sorting again."""
    place = np.array(levels) * (len(ordered) - 1)
    low = place.astype(int)
    high = np.minimum(low + 1, len(ordered) - 1)
    found: list[float] = (ordered[low] + (place - low) * (ordered[high] - ordered[low])).tolist()
    return found


def _g_and_h_limit(ordered: np.ndarray, sigmas: float = SIGMAS) -> float:
    q05, q10, q25, q50, q75, q90 = _sorted_quantiles(ordered, (0.05, 0.1, 0.25, 0.5, 0.75, 0.9))
    down, up = q50 - q25, q75 - q50
    if down <= 0 or up <= 0:  # ties: half of the scores are one value
        return math.inf if q90 <= q10 else q50 + 10 * (q90 - q10)
    z25, z05 = 0.6745, 1.6449
    g = float(np.clip(math.log(up / down) / z25, 0.0, MOST_SKEW))

    def bend(z: float) -> float:
        return z if g < 1e-6 else math.expm1(g * z) / g

    lower = (q50 - q05) / down / (bend(-z05) / bend(-z25))
    h = float(np.clip(2 * math.log(max(lower, 1e-9)) / (z05**2 - z25**2), 0.0, MOST_WEIGHT))
    width = up / (bend(z25) * math.exp(h * z25**2 / 2))
    return q50 + width * bend(sigmas) * math.exp(h * sigmas**2 / 2)


def fit_tail(scores: np.ndarray, gap_rows: int) -> tuple[Tail | None, float]:
    """The tail above the 98 % point, or above a lower one when that leaves too few cluster peaks.

    (T,) scores with NaN where nothing is to be learned; also the share of rows it was fitted on.
    """
    rows = np.flatnonzero(np.isfinite(scores))
    values = scores[rows]
    for share in (TAIL_SHARE, 0.05, 0.1) if len(values) else ():
        start = float(np.quantile(values, 1 - share))
        above = np.flatnonzero(values > start)
        if len(above) < FEWEST_PEAKS:
            continue
        peaks = _peaks(values[above], rows[above], gap_rows)
        if len(peaks) >= FEWEST_PEAKS:
            shape, scale = fit_pareto(peaks - start)
            return Tail(start, len(peaks) / len(values), shape, scale), share
    return None, 0.0


def empirical_level(scores: np.ndarray, gap_rows: int, target: float) -> float:
    """The score that clusters of rows passed `target` times a row, read off the data."""
    rows = np.flatnonzero(np.isfinite(scores))
    values = scores[rows]
    low, high = float(np.median(values)), float(values.max())
    for _ in range(40):
        middle = (low + high) / 2
        above = rows[values > middle]
        if len(above) and (_clusters(above, gap_rows)[-1] + 1) / len(values) > target:
            low = middle
        else:
            high = middle
    return high


def _clusters(rows: np.ndarray, gap_rows: int) -> np.ndarray:
    """(N,) which cluster each of some sorted rows belongs to; a new one after more than `gap_rows`."""
    return np.concatenate([[0], np.cumsum(np.diff(rows) > gap_rows)]) if len(rows) else np.zeros(0, int)


def fit_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution; shape above 0 means a heavy tail.

    Source: Zhang and Stephens 2009, the quasi-Bayesian estimator; the shape is drawn towards 0.1 with the
    weight of ten observations (as Vehtari et al. 2015 do towards 0.5) and kept in -0.5..0.5.
    """
    x = np.sort(excess[excess > 0])
    n = len(x)
    if n == 0:
        return 0.0, 0.0
    if n < 5 or x[-1] <= x[0]:
        return 0.0, float(x.mean())
    grid = 20 + int(math.sqrt(n))
    quarter = x[max(int(n / 4 + 0.5) - 1, 0)]
    theta = 1 / x[-1] + (1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3 * quarter)
    theta = theta[theta != 0]
    shapes = np.log1p(-theta[:, None] * x).mean(axis=1)  # (G,), sign as in Pickands' heavy tail
    likelihood = n * (np.log(-theta / shapes) - shapes - 1)
    weight = np.exp(likelihood - likelihood.max())
    best = float((theta * weight).sum() / weight.sum())
    shape = float(np.log1p(-best * x).mean()) if best else 0.0
    shape = float(np.clip((n * shape + 10 * 0.1) / (n + 10), -0.5, 0.5))
    return shape, float(x.mean() * (1 - shape))  # the scale that keeps the mean excess


def before_evidence(scores: np.ndarray) -> int:
    """How many rows come before the first score that is not exactly 0.

    A detector that has no past to compare with yet finds no evidence; that is no basis for a threshold.
    """
    told = np.isfinite(scores) & (scores != 0)
    return int(told.argmax()) if told.any() else len(scores)
