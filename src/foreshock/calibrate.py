"""From quiet scores to a threshold with a promise: about so many false alarms a day.

The scores need no labels and may hold some incidents: rows that the body of the scores doesn't explain
are set aside first. An alarm is a cluster of rows, not a row, and it is raised in one of two ways: a
row far above everything (`at_once`), or several rows above a lower level (`high`). Each way gets its
part of the promise, so that strong faults are seen within a row and weaker ones when they last.

Not here: which rows make an event (decide), the tail's mathematics (tails), scores (models).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from foreshock.errors import ConfigError
from foreshock.tails import before_evidence, empirical_level, fit_tail, lasting, quiet_rows

DAY_S = 86_400.0
FLOOR, RARE = 4.0, 0.002  # lowest threshold in quartile widths; alarms a row from which it does not hold
LEAVE = 0.6  # where `low` lies between the usual score (0) and `high` (1)
AT_ONCE_SHARE = 0.25  # of the promised false alarms, for single rows
CONFIRM_S = 90.0  # two rows at a row a minute, six at 15 s, eighteen at 5 s ...
CONFIRM_SHARE = 2 / 3  # ... of which two, four, twelve must be above `high`
MERGE_S = 120.0
# Normal is what nine rows in ten of two hours hold, or of 120 rows. Incidents that come and go are not, even
# where they fill most of the time.
RELEARN_SHARE, RELEARN_S, RELEARN_LEAST = 0.9, 7200.0, 120
WARMUP_ROWS = 24  # 0.1 to 1.4 false alarms in the first 4 hours on six shapes of quiet scores
FAR = 2.0  # tail scales above `at_once` from which a row is no quiet one; docs/log.md, 2026-11-26
LONG = 2  # confirmation windows from which a rise in a finished recording is an incident
# KPIs from which a guess falls with their number, how fast, and how far; docs/log.md, 2026-11-26.
CROWD, CROWD_SLOPE, CROWD_LEAST = 100, 0.4, 0.3
SETTLING_ROWS = 64  # Online Boutique: 15 of 24 faults found with it, 3 without; docs/log.md, 2026-11-24
SOURCE = {
    "tail": "peaks over threshold: Siffer et al. 2017 (SPOT); generalised Pareto by Zhang and Stephens 2009",
    "conformal": "split conformal: Vovk et al. 2005; Laxhammar and Falkman 2010",
    "extrapolated": "exponential tail above the upper quarter (Pickands 1975 with shape 0)",
    "labels": "labelled rows that the adapter did not learn from: best F1",
    "none": "no score was observed",
}
LIMITS = {
    "tail": "holds while scores stay like the quiet ones read; a new regime (a deploy, the first morning "
    "peak) breaks it until it is learned",
    "conformal": "holds for rows that could be exchanged with those read; slow drifts break it",
    "extrapolated": "a guess from few rows; read more to get a promise",
    "labels": "holds on systems and faults like the labelled ones; says nothing about false alarms a day",
    "none": "nothing can be promised without scores",
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where an event begins and ends, and what that promises."""

    high: float  # several rows at or above begin an event: `confirm_rows`
    at_once: float  # a single row at or above begins one, too; never below `high`
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
    confirm_rows: tuple[int, int]  # k of n rows that must reach `high`
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
class Guess:
    """Where a detector's thresholds usually lie, before any score was read.

    Only for scores that mean the same everywhere. A threshold from few rows is drawn towards it (logarithms,
    weighted), and stands on its own in the end. The guess is for one alarm in 960 confirmation windows,
    which is one a day as long as a window lasts 90 s.
    """

    high: float
    at_once: float
    rows: float = 2000.0  # quiet rows that count as much as the guess
    slope: float = 0.25  # a level falls with this power of how often it may be reached

    def __post_init__(self) -> None:
        if not 0 < self.high <= self.at_once or not self.rows > 0:
            raise ConfigError(
                f"a guess of {self.high} and {self.at_once} worth {self.rows} rows makes no threshold; "
                "give levels above 0, the second not below the first, and rows above 0."
            )

    def over(self, kpis: int) -> Guess:
        """For a table of so many KPIs: many together stir less than a few.

        Example:
            >>> [round(Guess(2.5, 5.0).over(kpis).high, 2) for kpis in (1, 100, 200, 1000, 10_000)]
            [2.5, 2.5, 1.89, 1.0, 0.75]
        """
        share = min(1.0, max(CROWD_LEAST, (CROWD / max(1, kpis)) ** CROWD_SLOPE))
        return replace(self, high=share * self.high, at_once=share * self.at_once)

    def drawn(self, level: float, towards: float, rows: int, often: float) -> float:
        """A level learned from so many quiet rows, drawn towards the usual one; `often` times a window."""
        weight = rows / (rows + self.rows)
        usual = towards * (often * DAY_S / CONFIRM_S) ** -self.slope
        return float(usual ** (1 - weight) * max(level, 1e-6) ** weight)


def usual_of(detector: object, kpis: int) -> Guess | None:
    """Where the thresholds of a detector usually lie over a table of so many KPIs, if it knows."""
    guess: Guess | None = getattr(detector, "guess", None)
    return None if guess is None else guess.over(kpis)


def confirm_rows(
    step_s: float, confirm_s: float = CONFIRM_S, share: float = CONFIRM_SHARE
) -> tuple[int, int]:
    """k of n: how many of how many rows must be above `high`.

    Example:
        >>> [confirm_rows(step_s) for step_s in (5, 15, 60, 300)]
        [(12, 18), (4, 6), (2, 2), (1, 1)]
    """
    n = max(1, math.floor(confirm_s / step_s + 0.5))
    return max(1, math.ceil(n * share - 1e-9)), n


def calibrate(
    scores: np.ndarray,
    step_s: float,
    false_alarms_per_day: float = 1.0,
    *,
    merge_s: float = MERGE_S,
    confirm_s: float = CONFIRM_S,
    confirm_share: float = CONFIRM_SHARE,
    contamination: float = 0.4,
    guess: Guess | None = None,
    aside: np.ndarray | None = None,
) -> Threshold:
    """A threshold at which quiet scores raise about `false_alarms_per_day` alarms a day.

    Args:
        scores: (T,) in time order, higher is more anomalous; NaN is left out, and so are the first rows
            while they are exactly 0 (a detector that knows no past yet).
        step_s: seconds between two rows.
        merge_s: alarms closer than this count as one; as `decide.Rules.merge_s`.
        confirm_s, confirm_share: as in `decide.Rules`.
        contamination: the largest share of rows that may be set aside as incidents.
        guess: where the threshold usually lies, if that is known for these scores; see `Guess`.
        aside: (T,) bool, rows already known to be of incidents.

    With 15 peaks or more the tail is fitted and reaches beyond the data; with fewer rows a conformal
    quantile is taken where it can carry the promise, and an exponential guess where nothing can.

    Raises:
        ConfigError: a step or a promise of zero or less.

    Example:
        >>> quiet = np.random.default_rng(0).gamma(4, 0.25, 4320)  # three days, a row a minute
        >>> threshold = calibrate(quiet, step_s=60)
        >>> threshold.method, 2 < threshold.high < 3 < threshold.at_once < 5
        ('tail', True)
    """
    _check(step_s, false_alarms_per_day)
    values = np.asarray(scores, dtype=np.float64).ravel()
    first = before_evidence(values)
    seen = int(np.isfinite(values[first:]).sum())
    values = (values if aside is None else np.where(aside, math.nan, values))[first:]
    confirm = confirm_rows(step_s, confirm_s, confirm_share)
    quiet = quiet_rows(values, contamination)
    facts = _Facts(seen, int(quiet.sum()), step_s, false_alarms_per_day, confirm)
    kept = np.where(quiet, values, math.nan)
    rises = lasting(kept, *confirm)
    if not np.isfinite(rises).any():
        return _describe(facts, _Level("none", math.inf, math.nan, 0.0), math.inf, math.nan)
    alarms = false_alarms_per_day * step_s / DAY_S  # alarms a row
    gap_rows = max(1, round(merge_s / step_s))
    single = 0.0 if confirm == (1, 1) else AT_ONCE_SHARE
    level = _level(rises, gap_rows, alarms * (1 - single))
    at_once = _level(kept, gap_rows, alarms * single).score if single else level.score
    # Scores that are usually higher than the guess are not those it is for.
    if guess is not None and float(np.nanquantile(kept, 0.75)) < guess.high:
        facts = replace(facts, guess=guess)
        told = (facts.quiet, alarms * confirm[1])
        level = replace(level, score=guess.drawn(level.score, guess.high, *told))
        at_once = guess.drawn(at_once, guess.at_once, *told) if single else level.score
    level = _above_body(level, lasting(values, *confirm), alarms)
    return _describe(facts, level, max(at_once, level.score), float(np.nanmedian(kept)))


def calibrate_finished(
    scores: np.ndarray,
    step_s: float,
    false_alarms_per_day: float = 1.0,
    *,
    merge_s: float = MERGE_S,
    confirm_s: float = CONFIRM_S,
    confirm_share: float = CONFIRM_SHARE,
    guess: Guess | None = None,
    is_beginning: bool = False,
) -> Threshold:
    """The threshold of rows that lie in the past, all of them known; arguments as for `calibrate`.

    Rises above a first threshold that last are incidents, and the threshold is learned once more from the
    other rows. On quiet scores it raises as many alarms as before, or up to 1.7 a day where one was asked for
    and the scores drift slowly.

    Args:
        is_beginning: the first row has no row before it. Early rows are judged by little and score high:
            in a recording of some length nothing is learned from them.
    """
    every = np.asarray(scores, dtype=np.float64).ravel()
    is_early = np.arange(len(every)) < (SETTLING_ROWS if len(every) >= 8 * SETTLING_ROWS else 0)
    values = np.where(is_early, math.nan, every) if is_beginning else every

    def learn(aside: np.ndarray | None) -> Threshold:
        return calibrate(
            values, step_s, false_alarms_per_day, merge_s=merge_s, confirm_s=confirm_s,
            confirm_share=confirm_share, guess=guess, aside=aside,
        )  # fmt: skip

    first = learn(None)
    aside = _long_rises(every, first)
    return learn(aside) if aside.any() else first


def _long_rises(scores: np.ndarray, threshold: Threshold) -> np.ndarray:
    """(T,) bool: rises that begin as an event does, and stay at `low` for LONG confirmation windows."""
    need, window = threshold.confirm_rows
    with np.errstate(invalid="ignore"):
        begins = (lasting(scores, need, window) >= threshold.high) | (scores >= threshold.at_once)
        stays = scores >= threshold.low
    run = np.cumsum(np.diff(stays, prepend=False)) * stays  # 0 outside, an odd number in each run
    is_long = (np.bincount(run) >= LONG * window) & (np.bincount(run, begins) > 0)
    return np.asarray(is_long[run] & stays)


def from_labels(
    level: float, step_s: float, false_alarms_per_day: float = 1.0, *,
    confirm_s: float = CONFIRM_S, confirm_share: float = CONFIRM_SHARE,
) -> Threshold:  # fmt: skip
    """A threshold that was learned from labels, at a score of `level`; 0 is calm."""
    return Threshold(
        high=level, at_once=2 * level + 2, low=LEAVE * level, method="labels",
        reason=f"{level:.2f} separated the labelled incidents best", promised_per_day=math.nan,
        false_alarms_per_day=false_alarms_per_day, rows=0, rows_set_aside=0, rows_needed=0,
        scale=max(level, 0.1), usual=0.0, step_s=step_s,
        confirm_rows=confirm_rows(step_s, confirm_s, confirm_share),
        limits=LIMITS["labels"], source=SOURCE["labels"],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Level:
    """A score that is reached so many times a row, and how it was found."""

    method: str
    score: float
    scale: float  # of the tail there
    share: float  # of the rows the tail was fitted on


@dataclass(frozen=True, slots=True)
class _Facts:
    rows: int
    quiet: int
    step_s: float
    per_day: float
    confirm: tuple[int, int]
    guess: Guess | None = None  # that the level was drawn towards


def _level(scores: np.ndarray, gap_rows: int, target: float) -> _Level:
    """The score that clusters of rows reach `target` times a row."""
    tail, share = fit_tail(scores, gap_rows)
    if tail is None:
        return _from_few(scores[np.isfinite(scores)], target)
    level = tail.level(target)
    if target >= tail.rate:  # many alarms allowed: the data themselves know the level
        level = empirical_level(scores, gap_rows, target)
    return _Level("tail", level, tail.scale_at(level), share)


def _above_body(level: _Level, rises: np.ndarray, target: float) -> _Level:
    """Not below four times the upper half's quarter above the median, incidents included.

    Where quiet rows were taken for incidents the tail of the rest is cut off. A gaussian score passes this
    floor in 3 rows of 1,000 and an exponential one in 30, far oftener than alarms are wanted, so a sound
    tail fit lies above it anyway.
    """
    half, quarter = np.nanquantile(rises, [0.5, 0.75])
    floor = float(half + FLOOR * (quarter - half))
    if target > RARE or level.score >= floor:
        return level
    return replace(level, score=floor)


def _from_few(values: np.ndarray, target: float) -> _Level:
    """The level when there is no tail to fit."""
    n = len(values)
    upper = float(np.quantile(values, 0.75))
    above = values[values > upper]
    # The median excess, not the mean: an incident among few rows must not stretch the guess.
    scale = float(np.median(above - upper)) / math.log(2) if len(above) else 0.0
    if scale <= 0:  # a constant score: anything clearly above it is news
        scale = max(0.05 * abs(float(values.max())), 1e-6)
    rank = math.floor((n + 1) * target)  # how many rows may lie above
    if rank >= 1:
        return _Level("conformal", float(np.sort(values)[n - rank]), scale, 0.0)
    guess = upper + scale * math.log(0.25 / target)
    return _Level("extrapolated", max(float(values.max()), guess), scale, 0.0)


def _check(step_s: float, false_alarms_per_day: float) -> None:
    if not step_s > 0:
        raise ConfigError(f"the step is {step_s} s; it must be above 0.")
    if not false_alarms_per_day > 0:
        raise ConfigError(
            f"{false_alarms_per_day} false alarms a day can't be promised; ask for more than 0."
        )


def _describe(facts: _Facts, level: _Level, at_once: float, usual: float) -> Threshold:
    """Put the promise and its limits into words."""
    day_rows = DAY_S / facts.step_s
    needed = math.ceil(2 * day_rows / facts.per_day)
    # Conformal counts rows one by one: n quiet rows vouch for no less than one alarm in n + 1 rows.
    vouched = max(facts.per_day, day_rows / (facts.quiet + 1))
    promised = {"none": 0.0, "tail": facts.per_day}.get(level.method, vouched)
    low = usual + LEAVE * (level.score - usual) if math.isfinite(level.score) else level.score
    return Threshold(
        level.score, at_once, low, level.method, _reason(facts, level, needed, vouched), facts.per_day,
        promised, facts.rows, facts.rows - facts.quiet, needed, level.scale, usual, facts.step_s,
        facts.confirm, LIMITS[level.method], SOURCE[level.method],
    )  # fmt: skip


def _reason(facts: _Facts, level: _Level, needed: int, vouched: float) -> str:
    if level.method == "none":
        return "no score was observed yet; no row can raise an alarm"
    words = [f"{facts.quiet:,} quiet scores ({facts.quiet * facts.step_s / DAY_S:.2g} days)"]
    if facts.rows > facts.quiet:
        words.append(f"{facts.rows - facts.quiet:,} rows set aside as incidents")
    if level.method == "tail":
        words.append(f"tail fitted on the top {level.share:.0%}")
    elif level.method == "conformal":
        words.append("rank among the scores themselves (conformal)")
    else:
        words.append("too few for the promise: exponential guess above the upper quarter")
    if (guess := facts.guess) is not None:
        words.append(f"drawn towards this detector's usual {guess.high:g}, worth {guess.rows:,.0f} rows")
    words.append(f"{_times(facts.per_day)} expected")
    if facts.quiet < needed:
        words.append(f"the rows alone vouch for {_times(vouched)}; needs {needed:,} rows")
    return "; ".join(words)


def _times(per_day: float) -> str:
    if per_day >= 0.95:
        return f"{per_day:.3g} false alarm{'s' if per_day >= 1.05 else ''} a day"
    return f"one false alarm in {1 / per_day:.3g} days"


@dataclass(frozen=True, slots=True)
class CausalThreshold:
    """A threshold for each row, known before the row came. Unpacks as `high, low = threshold`."""

    high: np.ndarray  # (T,) float64; +inf during warm-up: no alarm without a basis
    at_once: np.ndarray  # (T,) float64
    low: np.ndarray  # (T,) float64
    scale: np.ndarray  # (T,) float64, spread of the tail at `high`; NaN during warm-up
    history: tuple[tuple[int, Threshold], ...]  # (row from which it holds, threshold), in order
    step_s: float
    confirm_rows: tuple[int, int]

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

    A row is judged by scores before it only. An incident can't raise the threshold: rows far above it are
    not learned from, and `calibrate` sets lasting rises aside. (Rows a little above it are learned from:
    leaving them out would lower the threshold again and again.) When nine in ten of the last `relearn_s`
    (120 rows at least) reach `low`, they are the new normal and the older ones are forgotten.
    """

    step_s: float
    false_alarms_per_day: float = 1.0
    warmup_rows: int = WARMUP_ROWS  # scores (not missing, not leading zeros) before the first threshold
    refresh_rows: int = 30  # scores between two refreshes; fewer at first, more with a long memory
    memory_rows: int = 20_000  # scores remembered
    relearn_s: float = RELEARN_S  # seconds after which a lasting change is normal
    merge_s: float = MERGE_S
    confirm_s: float = CONFIRM_S
    confirm_share: float = CONFIRM_SHARE
    guess: Guess | None = None
    _scores: np.ndarray = field(default_factory=lambda: np.zeros(0), init=False, repr=False)
    _far: np.ndarray = field(default_factory=lambda: np.zeros(0, bool), init=False, repr=False)
    _row: int = field(default=0, init=False)
    _finite: int = field(default=0, init=False)
    _due: int = field(default=0, init=False)
    _now: Threshold | None = field(default=None, init=False, repr=False)
    _has_evidence: bool = field(default=False, init=False, repr=False)

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
        if not self._has_evidence:
            mute = before_evidence(scores)
            self._has_evidence = mute < len(scores)
            scores = np.where(np.arange(len(scores)) < mute, math.nan, scores)
        levels = np.full((3, len(scores)), math.inf)  # high, at once, low
        scale = np.full(len(scores), math.nan)
        history: list[tuple[int, Threshold]] = []
        at = 0
        while at < len(scores):
            if self._finite >= self._due:
                self._now = self._refresh()
                history.append((self._row, self._now))
            stop = at + self._until_due(scores[at:])
            if (now := self._now) is not None:
                levels[:, at:stop] = np.array([[now.high], [now.at_once], [now.low]])
                scale[at:stop] = now.scale
            self._remember(scores[at:stop])
            at = stop
        confirm = confirm_rows(self.step_s, self.confirm_s, self.confirm_share)
        high, at_once, low = levels
        return CausalThreshold(high, at_once, low, scale, tuple(history), self.step_s, confirm)

    def _until_due(self, scores: np.ndarray) -> int:
        """How many of these rows come before the next refresh."""
        seen = np.cumsum(np.isfinite(scores))
        return min(int(np.searchsorted(seen, self._due - self._finite)) + 1, len(scores))

    def _remember(self, scores: np.ndarray) -> None:
        far = np.zeros(len(scores), bool)
        if self._now is not None and math.isfinite(self._now.at_once):
            with np.errstate(invalid="ignore"):
                far = scores >= self._now.at_once + FAR * self._now.scale
        self._far = np.concatenate([self._far, far])[-self.memory_rows :]
        self._scores = np.concatenate([self._scores, scores])[-self.memory_rows :]
        self._row += len(scores)
        self._finite += int(np.isfinite(scores).sum())

    def _refresh(self) -> Threshold:
        rows = max(RELEARN_LEAST, round(self.relearn_s / self.step_s))
        recent = self._scores[-rows:]
        seen = int(np.isfinite(recent).sum())
        if self._now is not None and seen >= rows // 2:
            with np.errstate(invalid="ignore"):
                if (recent >= self._now.low).sum() > RELEARN_SHARE * seen:
                    self._scores = recent
                    self._far = np.zeros(len(recent), bool)
        # Early rows teach much each, later ones little: wait an eighth of what is known, up to
        # `refresh_rows`, and with a long memory a tenth of it.
        wait = max(min(self.refresh_rows, self._finite // 8), len(self._scores) // 10, 1)
        self._due = self._finite + wait
        learned = np.where(self._far, math.nan, self._scores)
        return calibrate(
            learned, self.step_s, self.false_alarms_per_day, merge_s=self.merge_s,
            confirm_s=self.confirm_s, confirm_share=self.confirm_share, guess=self.guess,
        )  # fmt: skip


def calibrate_causal(
    scores: np.ndarray,
    step_s: float,
    false_alarms_per_day: float = 1.0,
    *,
    warmup_rows: int = WARMUP_ROWS,
    refresh_rows: int = 30,
    memory_rows: int = 20_000,
    relearn_s: float = RELEARN_S,
    merge_s: float = MERGE_S,
    confirm_s: float = CONFIRM_S,
    confirm_share: float = CONFIRM_SHARE,
    guess: Guess | None = None,
) -> CausalThreshold:
    """A threshold for each row from the scores before it; see `CausalCalibrator`."""
    calibrator = CausalCalibrator(
        step_s, false_alarms_per_day, warmup_rows, refresh_rows, memory_rows, relearn_s, merge_s,
        confirm_s, confirm_share, guess,
    )  # fmt: skip
    return calibrator.push(scores)
