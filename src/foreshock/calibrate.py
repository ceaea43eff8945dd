"""From quiet scores to a threshold with a promise: about so many false alarms a day.

The scores need no labels and may hold some incidents: rows far above what the body of the scores
explains are set aside first. An alarm is a cluster of rows above the threshold, not a row.

Not here: which rows make an event (decide), how scores are made (models).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from foreshock.errors import ConfigError

DAY_S = 86_400.0
TAIL_SHARE = 0.02  # Siffer et al. 2017 keep the initial quantile at 0.98
FEWEST_PEAKS = 15  # fewer cluster peaks than this do not carry a tail fit
LEAVE = 0.6  # where `low` lies between the usual score (0) and `high` (1)
SOURCE = {
    "tail": "peaks over threshold: Siffer et al. 2017 (SPOT); generalised Pareto by Zhang and Stephens 2009",
    "conformal": "split conformal: Vovk et al. 2005; Laxhammar and Falkman 2010",
    "extrapolated": "exponential tail above the upper quarter (Pickands 1975 with shape 0)",
    "none": "no score was observed",
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where an event begins (`high`) and ends (`low`), and what that promises."""

    high: float  # a row at or above may begin an event
    low: float  # an event lasts while its rows stay at or above
    method: str  # "tail", "conformal", "extrapolated", "none"
    reason: str  # for the person who asks why
    false_alarms_per_day: float  # what was asked for
    promised_per_day: float  # what the rows can carry; above the former when they are too few
    rows: int  # finite scores read
    rows_set_aside: int  # of these, taken for incidents and left out
    rows_needed: int  # quiet rows at which the promise needs no extrapolation
    scale: float  # spread of the tail at `high`, in units of the score
    usual: float  # median of the quiet scores
    step_s: float
    limits: str  # when the promise fails
    source: str  # where the method comes from

    @property
    def is_kept(self) -> bool:
        """Whether the rows are enough for the promise as asked."""
        return self.promised_per_day <= self.false_alarms_per_day * (1 + 1e-9)

    def to_dict(self) -> dict[str, object]:
        """JSON-safe: infinities and NaN become None."""
        values = {n: getattr(self, n) for n in self.__dataclass_fields__}
        return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in values.items()}


@dataclass(frozen=True, slots=True)
class _Tail:
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


def calibrate(
    scores: np.ndarray,
    step_s: float,
    false_alarms_per_day: float = 1.0,
    *,
    merge_s: float = 120.0,
    contamination: float = 0.25,
) -> Threshold:
    """A threshold that quiet scores pass about `false_alarms_per_day` times a day.

    Args:
        scores: (T,) in time order, higher is more anomalous; NaN is left out.
        step_s: seconds between two rows.
        merge_s: rows above the threshold closer than this count as one alarm; the same as
            `decide.Rules.merge_s`.
        contamination: the largest share of rows that may be set aside as incidents.

    With 15 peaks or more the tail is fitted and reaches beyond the data; with fewer rows a conformal
    quantile is taken where it can carry the promise, and an exponential guess where nothing can.

    Raises:
        ConfigError: a step or a promise of zero or less.

    Example:
        >>> quiet = np.random.default_rng(0).gamma(4, 0.25, 4320)  # three days, a row a minute
        >>> threshold = calibrate(quiet, step_s=60)
        >>> threshold.method, 2.5 < threshold.high < 4
        ('tail', True)
    """
    _check(step_s, false_alarms_per_day)
    values = np.asarray(scores, dtype=np.float64).ravel()
    rows = np.flatnonzero(np.isfinite(values))
    values = values[rows]
    target = false_alarms_per_day * step_s / DAY_S  # alarms a row
    if not len(values):
        return _describe("none", math.inf, math.inf, math.nan, values, 0, step_s, false_alarms_per_day, 0.0)
    quiet = values <= incident_limit(values, contamination)
    aside = int(len(values) - quiet.sum())
    gap_rows = max(1, round(merge_s / step_s))
    kept, kept_rows = values[quiet], rows[quiet]
    tail, share = _fit_tail(kept, kept_rows, gap_rows)
    if tail is not None:
        method, high, scale = "tail", tail.level(target), 0.0
        scale = tail.scale_at(high)
        if target >= tail.rate:  # many alarms allowed: the data themselves know the level
            high = _empirical_level(kept, kept_rows, gap_rows, target)
    else:
        method, high, scale = _from_few(kept, target)
    return _describe(
        method, high, scale, float(np.median(kept)), values, aside, step_s, false_alarms_per_day, share
    )


def incident_limit(scores: np.ndarray, contamination: float = 0.25) -> float:
    """The score above which a row is no quiet row any more, judged by the body of the scores alone.

    A Tukey g-and-h distribution is fitted to quantiles (skew from the quartiles, weight of the tail from
    the lower side, which incidents don't touch); the limit is its 4.75-sigma point. Never sets aside more
    than `contamination` of the rows. Source: Hoaglin 1985.
    """
    values = scores[np.isfinite(scores)]
    if len(values) < 20:
        return math.inf
    limit = math.inf
    for _ in range(4):  # incidents bend the quartiles; without them the limit is sharper
        kept = values[values <= limit]
        nearer = _g_and_h_limit(kept)
        nearer = max(nearer, float(np.quantile(values, 1 - contamination)))
        if nearer >= limit:
            break
        limit = nearer
    return limit


def _g_and_h_limit(values: np.ndarray, sigmas: float = 4.75) -> float:
    q05, q25, q50, q75 = np.quantile(values, [0.05, 0.25, 0.5, 0.75])
    down, up = q50 - q25, q75 - q50
    if down <= 0 or up <= 0:  # ties: half of the scores are one value
        spread = float(np.quantile(values, 0.9) - np.quantile(values, 0.1))
        return math.inf if spread <= 0 else float(q50 + 10 * spread)
    z25, z05 = 0.6745, 1.6449
    g = float(np.clip(math.log(up / down) / z25, 0.0, 1.5))

    def bend(z: float) -> float:
        return z if g < 1e-6 else math.expm1(g * z) / g

    lower = (q50 - q05) / down / (bend(-z05) / bend(-z25))
    h = float(np.clip(2 * math.log(max(lower, 1e-9)) / (z05**2 - z25**2), 0.0, 0.4))
    width = up / (bend(z25) * math.exp(h * z25**2 / 2))
    return float(q50 + width * bend(sigmas) * math.exp(h * sigmas**2 / 2))


def _clusters(rows: np.ndarray, gap_rows: int) -> np.ndarray:
    """(N,) which cluster each of some sorted rows belongs to; a new one after more than `gap_rows`."""
    return np.concatenate([[0], np.cumsum(np.diff(rows) > gap_rows)]) if len(rows) else np.zeros(0, int)


def _fit_tail(values: np.ndarray, rows: np.ndarray, gap_rows: int) -> tuple[_Tail | None, float]:
    """The tail above the 98 % point, or above a lower one when that leaves too few cluster peaks."""
    for share in (TAIL_SHARE, 0.05, 0.1):
        start = float(np.quantile(values, 1 - share))
        above = np.flatnonzero(values > start)
        if len(above) < FEWEST_PEAKS:
            continue
        cluster = _clusters(rows[above], gap_rows)
        peaks = np.full(int(cluster[-1]) + 1, -math.inf)
        np.maximum.at(peaks, cluster, values[above])
        if len(peaks) >= FEWEST_PEAKS:
            shape, scale = fit_pareto(peaks - start)
            return _Tail(start, len(peaks) / len(values), shape, scale), share
    return None, 0.0


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


def _empirical_level(values: np.ndarray, rows: np.ndarray, gap_rows: int, target: float) -> float:
    """The score that clusters passed `target` times a row, read off the data."""
    low, high = float(np.median(values)), float(values.max())
    for _ in range(40):
        middle = (low + high) / 2
        above = rows[values > middle]
        if len(above) and (_clusters(above, gap_rows)[-1] + 1) / len(values) > target:
            low = middle
        else:
            high = middle
    return high


def _from_few(values: np.ndarray, target: float) -> tuple[str, float, float]:
    """Method, level and tail scale when there is no tail to fit."""
    n = len(values)
    upper = float(np.quantile(values, 0.75))
    above = values[values > upper]
    scale = float((above - upper).mean()) if len(above) else 0.0
    if scale <= 0:  # a constant score: anything clearly above it is news
        scale = max(0.05 * abs(float(values.max())), 1e-6)
    rank = math.floor((n + 1) * target)  # how many rows may lie above
    if rank >= 1:
        return "conformal", float(np.sort(values)[n - rank]), scale
    return "extrapolated", float(max(values.max(), upper + scale * math.log(0.25 / target))), scale


def _check(step_s: float, false_alarms_per_day: float) -> None:
    if not step_s > 0:
        raise ConfigError(f"the step is {step_s} s; it must be above 0.")
    if not false_alarms_per_day > 0:
        raise ConfigError(
            f"{false_alarms_per_day} false alarms a day can't be promised; ask for more than 0."
        )


def _describe(
    method: str,
    high: float,
    scale: float,
    usual: float,
    values: np.ndarray,
    aside: int,
    step_s: float,
    per_day: float,
    share: float,
) -> Threshold:
    """Put the promise and its limits into words."""
    day_rows = DAY_S / step_s
    needed = math.ceil(2 * day_rows / per_day)
    rows = len(values)
    quiet = rows - aside
    # Conformal counts rows one by one: n quiet rows can vouch for no less than one alarm in n + 1 rows.
    promised = (
        per_day if method == "tail" or (quiet + 1) * per_day / day_rows >= 1 else day_rows / (quiet + 1)
    )
    if method == "none":
        promised = 0.0
    low = usual + LEAVE * (high - usual) if math.isfinite(high) else high
    reason = _reason(method, quiet, aside, rows, share, per_day, promised, needed, day_rows)
    limits = {
        "tail": "holds for scores that stay like the quiet ones read; a new regime (deploy, load) breaks it "
        "until it is learned again",
        "conformal": "holds for rows that could be exchanged with those read; slow drifts break it",
        "extrapolated": "a guess from few rows; read more to get a promise",
        "none": "nothing can be promised without scores",
    }[method]
    return Threshold(
        high, low, method, reason, per_day, promised, rows, aside, needed, scale, usual, step_s, limits,
        SOURCE[method],
    )  # fmt: skip


def _reason(
    method: str,
    quiet: int,
    aside: int,
    rows: int,
    share: float,
    per_day: float,
    promised: float,
    needed: int,
    day_rows: float,
) -> str:
    if method == "none":
        return "no score was observed yet; no row can raise an alarm"
    words = [f"{quiet:,} quiet scores ({quiet / day_rows:.2g} days)"]
    if aside:
        words.append(f"{aside:,} rows set aside as incidents")
    if method == "tail":
        words.append(f"tail fitted on the top {share:.0%}")
    elif method == "conformal":
        words.append("rank among the scores themselves (conformal)")
    else:
        words.append("too few for the promise: exponential guess above the upper quarter")
    words.append(f"{_times(per_day)} expected")
    if quiet < needed:
        words.append(
            f"the rows alone vouch for {_times(max(promised, day_rows / (quiet + 1)))}; needs {needed:,} rows"
        )
    return "; ".join(words)


def _times(per_day: float) -> str:
    if per_day >= 0.95:
        return f"{per_day:.3g} false alarm{'s' if per_day >= 1.05 else ''} a day"
    return f"one false alarm in {1 / per_day:.3g} days"


@dataclass(frozen=True, slots=True)
class CausalThreshold:
    """A threshold for each row, known before the row came. Unpacks as `high, low = threshold`."""

    high: np.ndarray  # (T,) float64; +inf during warm-up: no alarm without a basis
    low: np.ndarray  # (T,) float64
    scale: np.ndarray  # (T,) float64, spread of the tail at `high`; NaN during warm-up
    history: tuple[tuple[int, Threshold], ...]  # (row from which it holds, threshold), in order
    step_s: float

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.high, self.low))

    def __len__(self) -> int:
        return len(self.high)

    @property
    def last(self) -> Threshold | None:
        """The newest threshold learned, if any."""
        return self.history[-1][1] if self.history else None


@dataclass
class CausalCalibrator:
    """Learns the threshold while scores arrive; `push` in any pieces gives the same numbers.

    A row is judged by scores before it only. Rows at or above the threshold are remembered but not
    learned from, so an incident can't raise the threshold; when more than half of the last
    `relearn_rows` were such rows, they are the new normal and the older ones are forgotten.
    """

    step_s: float
    false_alarms_per_day: float = 1.0
    warmup_rows: int = 60  # finite scores before the first threshold; +inf until then
    refresh_rows: int = 30  # at most so many rows between two refreshes
    memory_rows: int = 20_000  # scores remembered
    relearn_rows: int = 120  # rows after which a lasting change is normal
    merge_s: float = 120.0
    _scores: np.ndarray = field(default_factory=lambda: np.zeros(0), init=False, repr=False)
    _loud: np.ndarray = field(default_factory=lambda: np.zeros(0, bool), init=False, repr=False)
    _row: int = field(default=0, init=False)
    _finite: int = field(default=0, init=False)
    _due: int = field(default=0, init=False)
    _now: Threshold | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.step_s, self.false_alarms_per_day)
        if self.warmup_rows < 1 or self.refresh_rows < 1:
            raise ConfigError(
                f"warmup_rows is {self.warmup_rows} and refresh_rows {self.refresh_rows}; "
                "both must be 1 or more."
            )
        self._due = self.warmup_rows

    def push(self, scores: np.ndarray) -> CausalThreshold:
        """The thresholds of these rows, the next ones after all pushed so far."""
        scores = np.asarray(scores, dtype=np.float64).ravel()
        high = np.full(len(scores), math.inf)
        low, scale = high.copy(), np.full(len(scores), math.nan)
        history: list[tuple[int, Threshold]] = []
        at = 0
        while at < len(scores):
            if self._finite >= self._due:
                self._refresh()
                assert self._now is not None
                history.append((self._row, self._now))
            stop = at + self._until_due(scores[at:])
            if self._now is not None:
                high[at:stop], low[at:stop], scale[at:stop] = self._now.high, self._now.low, self._now.scale
            self._remember(scores[at:stop], high[at:stop])
            at = stop
        return CausalThreshold(high, low, scale, tuple(history), self.step_s)

    def _until_due(self, scores: np.ndarray) -> int:
        """How many of these rows come before the next refresh."""
        seen = np.cumsum(np.isfinite(scores))
        return min(int(np.searchsorted(seen, self._due - self._finite)) + 1, len(scores))

    def _remember(self, scores: np.ndarray, high: np.ndarray) -> None:
        finite = np.isfinite(scores)
        self._scores = np.concatenate([self._scores, scores])[-self.memory_rows :]
        self._loud = np.concatenate([self._loud, finite & (scores >= high)])[-self.memory_rows :]
        self._row += len(scores)
        self._finite += int(finite.sum())

    def _refresh(self) -> None:
        recent = np.isfinite(self._scores[-self.relearn_rows :])
        loud = self._loud[-self.relearn_rows :] & recent
        if recent.sum() >= self.relearn_rows // 2 and loud.sum() > 0.5 * recent.sum():
            self._scores = self._scores[-self.relearn_rows :]
            self._loud = np.zeros(len(self._scores), bool)
        learned = np.where(self._loud, math.nan, self._scores)
        self._now = calibrate(learned, self.step_s, self.false_alarms_per_day, merge_s=self.merge_s)
        # Early rows teach much each, later rows little: wait an eighth of what is known.
        self._due = self._finite + int(min(self.refresh_rows, max(1, self._finite // 8)))


def calibrate_causal(
    scores: np.ndarray,
    step_s: float,
    false_alarms_per_day: float = 1.0,
    *,
    warmup_rows: int = 60,
    refresh_rows: int = 30,
    memory_rows: int = 20_000,
    relearn_rows: int = 120,
    merge_s: float = 120.0,
) -> CausalThreshold:
    """A threshold for each row from the scores before it; see `CausalCalibrator`."""
    calibrator = CausalCalibrator(
        step_s, false_alarms_per_day, warmup_rows, refresh_rows, memory_rows, relearn_rows, merge_s
    )
    return calibrator.push(scores)
