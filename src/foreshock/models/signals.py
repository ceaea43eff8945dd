"""What is told of each KPI beside its evidence: where it stands, how it moves, and for how long.

How far it is from its usual level, and from its level of lately; whether it fell silent; how rough it is from
row to row; on which side of its past and of lately it stands; each over some rows, so that what lasts counts
more than what flickers. Pieces of any size give the same, and nothing later than a row tells of it.

Not here: the evidence (vigil), ranks in the past (standing), figures of services (figures).
"""

from __future__ import annotations

import numpy as np

from foreshock.models.standing import Standing
from foreshock.windows import fill_forward, rearranged

NEWEST = (0.6, 0.15)  # what a row counts in the two running means of each signal; a slower one adds nothing
# What is told of a KPI: "higher" and "lower" than its usual level, "risen" and "fallen" from that of lately.
WAYS = ("louder_up", "louder_down", "higher", "lower", "risen", "fallen", "silent", "rougher",
        "above", "below", "above_lately", "below_lately")  # fmt: skip
FORGET = 0.01  # what a row counts in the level of lately, and in the usual share of rows that are observed
CLIP = 8.0  # usual spreads from the usual level beyond which a value counts no more in the level of lately
FEW = 16  # rows up to which the level of lately is believed less
MEAN_TO_SPREAD = 1.25  # a normal distribution's spread over its mean deviation
LONG = 4  # rows between two of the longer past in which a value has its rank: 1,024 rows in all
STEPS = 5  # whose median tells how rough a KPI is: two of them may be an incident's begin and end
ROUGHEST = 3.0  # about 20 times the usual
FAINT = 0.1  # share of rows observed that is added, so that ranks of hardly any are not taken for much


class Signals:
    """The signals of all KPIs, from row to row."""

    def __init__(self) -> None:
        self.silence, self.lately, self.roughness, self.lasting = Silence(), Lately(), Roughness(), Lasting()
        self.past, self.recent, self.chance = Standing(LONG), Standing(), Chance()

    def push(
        self, evidence: np.ndarray, is_up: np.ndarray, values: np.ndarray, level: np.ndarray,
        spread: np.ndarray, drifts: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """The signals of the next rows: (n, len(NEWEST), len(WAYS), K) float32, all 0 where all is as usual.

        Args:
            evidence: (n, K), 0 where not observed.
            is_up: (n, K) bool, whether the value lies above what was expected.
            values: (n, K), NaN where not observed.
            level, spread: (n, K) what is usual, NaN or 0 where not known yet.
            drifts: (K,) bool, KPIs whose level of lately says nothing, as they wander.
        """
        loud = np.log1p(np.maximum(evidence, 0))
        lately = np.where(drifts, 0, self.lately.push(values, level, spread))
        seen = np.isfinite(values)
        told = [
            np.where(is_up, loud, 0), np.where(is_up, 0, loud), distance(values, level, spread), lately,
            self.silence.push(seen), self.roughness.push(values, spread),
            *(np.where(drifts, 0, own.push(values)) for own in (self.past, self.recent)),
        ]  # fmt: skip
        up, down, off, moved, silent, rough, *ranks = np.moveaxis(
            self.lasting.push(np.stack(told, 1).astype(np.float32)), 2, 0
        )
        by_chance = self.chance.push(seen)
        off_up, off_down, moved_up, moved_down, *sides = (
            np.maximum(way * one, 0)
            for one in (off, moved, *(rank / by_chance for rank in ranks))
            for way in (1, -1)
        )
        return np.stack([up, down, off_up, off_down, moved_up, moved_down, silent, rough, *sides], 2)

    def take(self, columns: np.ndarray) -> None:
        """Go on with these KPIs, by their column; -1 is one that was never observed."""
        for part in (
            self.silence, self.lately, self.roughness, self.lasting, self.past, self.recent, self.chance,
        ):  # fmt: skip
            part.take(columns)


def distance(values: np.ndarray, level: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """How far values stand from a level, signed, in doublings or so; 0 where not observed.

    In units of spread and of the smaller of value and level: processors at 90 % in place of 1 % are farther
    off than at 20 %, half is as far off as twice, and what is nearly 0 but noisy is not far off at all.
    """
    apart = values - level
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        size = np.log1p(np.abs(apart) / (np.minimum(np.abs(level), np.abs(values)) + spread))
    return np.asarray(np.nan_to_num(np.sign(apart) * size, posinf=0, neginf=0))


class Silence:
    """How unusual it is that a KPI was not observed, by how often it was so far."""

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

    def take(self, columns: np.ndarray) -> None:
        self.usual = None if self.usual is None else rearranged(self.usual, columns, 0)


class Lately:
    """How far a KPI stands from its level of about the last hundred rows, by its scatter in them.

    What comes at night is far from the night's level, though not from the day's.
    """

    def __init__(self) -> None:
        self.known: np.ndarray | None = None  # (3, K) mean, mean deviation from it, rows

    def push(self, values: np.ndarray, level: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """(n, K) each → (n, K) as `distance`; the row itself is not in its own level."""
        mean, strays, rows = np.zeros((3, values.shape[1])) if self.known is None else self.known
        low, high = level - CLIP * spread, level + CLIP * spread
        told = np.isfinite(low) & np.isfinite(high) & (spread > 0)
        seen = np.isfinite(values)
        tame = np.where(seen, np.where(told, np.clip(values, low, high), values), 0)
        count = rows + np.cumsum(seen, 0)
        weight = np.where(seen, FORGET / (1 - (1 - FORGET) ** np.maximum(count, 1)), 0)
        stray_weight = np.where(count > 1, weight, 0)  # the first value is its own level
        means, spreads = np.empty((2, *values.shape))
        for i, row in enumerate(tame):
            means[i], spreads[i] = mean, strays
            apart = row - mean
            strays = strays + stray_weight[i] * (np.abs(apart) - strays)
            mean = mean + weight[i] * apart
        self.known = np.stack([mean, strays, count[-1]])
        far = distance(values, means, MEAN_TO_SPREAD * spreads)
        return np.asarray(far * np.minimum((count - seen) / FEW, 1))

    def take(self, columns: np.ndarray) -> None:
        self.known = None if self.known is None else rearranged(self.known, columns, 0)


class Roughness:
    """How much a KPI jumps from row to row, whatever its level.

    What is used by calls grows rougher as it grows, what something steady adds to it does not.
    """

    def __init__(self) -> None:
        self.last: np.ndarray | None = None  # (STEPS, K) the newest observations

    def push(self, values: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """(n, K) values, NaN where not observed, and their usual spread → (n, K) from 0 to ROUGHEST."""
        last = np.full((STEPS, values.shape[1]), np.nan) if self.last is None else self.last
        known = fill_forward(np.concatenate([last, values]).T).T
        self.last = known[-STEPS:]
        steps = np.nan_to_num(np.abs(np.diff(known, axis=0)))
        windows = np.lib.stride_tricks.sliding_window_view(steps, STEPS, axis=0)
        middle = np.partition(windows, STEPS // 2, axis=-1)[..., STEPS // 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.nan_to_num(np.where(middle > 0, middle / spread, 0))
        return np.asarray(np.clip(np.log(np.maximum(size, 1)), 0, ROUGHEST))

    def take(self, columns: np.ndarray) -> None:
        self.last = None if self.last is None else rearranged(self.last, columns, np.nan)


class Lasting:
    """Running means, from row to row."""

    def __init__(self, newest: tuple[float, ...] = NEWEST) -> None:
        self.newest = newest  # what a row counts in each
        self.last: np.ndarray | None = None  # (len(newest), ...)

    def push(self, rows: np.ndarray) -> np.ndarray:
        """(n, ...) → (n, len(newest), ...)."""
        last = np.zeros((len(self.newest), *rows.shape[1:]), rows.dtype) if self.last is None else self.last
        weight = np.array(self.newest, rows.dtype).reshape(-1, *([1] * (rows.ndim - 1)))
        out = np.empty((len(rows), *last.shape), rows.dtype)
        for i, row in enumerate(rows):
            last = (1 - weight) * last + weight * row
            out[i] = last
        self.last = last
        return out

    def take(self, columns: np.ndarray) -> None:
        """Of running means whose last axis is KPIs."""
        self.last = None if self.last is None else rearranged(self.last, columns, 0)


class Chance:
    """The spread that running means of normal deviates have by chance, 0 wherever a KPI was not observed.

    In units of it KPIs of one call a minute are judged as well as others.
    """

    def __init__(self) -> None:
        weight = np.array(NEWEST, np.float32)
        squared = 1 - (1 - weight) ** 2  # squares of what rows count fade as those of a mean of this weight
        self.seen, self.whole = Lasting(tuple(squared.tolist())), (weight / np.sqrt(squared))[:, None]

    def push(self, seen: np.ndarray) -> np.ndarray:
        """(n, K) bool → (n, len(NEWEST), K) float32, above 0."""
        return np.asarray(self.whole * np.sqrt(self.seen.push(seen.astype(np.float32)) + np.float32(FAINT)))

    def take(self, columns: np.ndarray) -> None:
        self.seen.take(columns)
