"""Anomalies planted into ordinary series, with a label for every step: what recognition is learned from.

Each kind in `KINDS` changes a stretch of one series: a spike, a shift that comes back, a ramp, a noise
burst, a freeze, a drop-out, another amplitude, a foreign or displaced pattern, a decay, a wave, a ceiling,
another tempo, a rattle. Sizes are drawn around the series' own noise and spread, from hardly visible to
absurd. Two things are planted without a label, as they are part of normal life: changes that last (deploys,
regimes; their first steps count neither way) and peculiarities that keep coming back.

Source of the idea: Time-RCD (arXiv 2509.21190), anomaly recognition from synthetic series with labels.
Not here: the series themselves (synthetic, corpus), windows and contexts (batches).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from foreshock.errors import ConfigError

UNSURE = -1  # label of a step that counts neither way
SETTLING = 24  # steps after a lasting change that count neither way
REACH = 4  # steps from an odd one on that are doubted
LEAST_VISIBLE = 1.0  # change, in units of the noise, that makes a step anomalous


@dataclass(frozen=True, slots=True)
class AnomalyMix:
    """How much is planted."""

    share: float = 0.7  # of the series that get at least one anomaly
    most: int = 3  # anomalies a series
    lasting: float = 0.2  # share of series with a change that lasts, which is normal
    habitual: float = 0.15  # share of series with a peculiarity that keeps coming back, which is normal
    doubt: float = 0.0  # robust spreads from which a real series' own oddities count neither way; 0 never
    size: float = 5.0  # median size in units of the series
    size_spread: float = 0.7  # of its logarithm

    def __post_init__(self) -> None:
        for name in ("share", "lasting", "habitual"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"anomalies.{name} is {getattr(self, name)}; it is a share, 0 to 1.")
        if self.most < 1 or self.size <= 0 or self.size_spread < 0 or self.doubt < 0:
            raise ConfigError(
                "anomalies.most must be at least 1, size above 0, size_spread and doubt 0 or more."
            )


@dataclass(slots=True)
class Ground:
    """One series and what an anomaly needs to know about it."""

    values: np.ndarray  # (L,) without gaps
    mean: float
    spread: float
    noise: float  # of steps against their neighbours
    foreign: np.ndarray  # (L,) another series, standardised
    rng: Generator
    mix: AnomalyMix

    def size(self) -> float:
        """A size with sign, in the series' units."""
        share = self.rng.choice([0.0, 0.5, 1.0])
        unit = max(self.noise, 1e-3 * self.spread) ** share * self.spread ** (1 - share)
        size = self.mix.size * np.exp(self.mix.size_spread * self.rng.standard_normal())
        return float(unit * size * (1 if self.rng.random() < 0.65 else -1))

    def width(self, low: int, high: int) -> int:
        """Log-uniform, at most a quarter of the series."""
        high = max(low + 1, min(high, len(self.values) // 4))
        return int(np.exp(self.rng.uniform(np.log(low), np.log(high))))


Kind = Callable[[Ground, int], np.ndarray]  # ground and first step → the stretch's new values


def plant(rng: Generator, clean: np.ndarray, context: np.ndarray, mix: AnomalyMix) -> tuple[np.ndarray, ...]:
    """Plant anomalies into `clean` (N, L), NaN where not observed.

    Args:
        context: (N,) steps of each series that are mostly left alone: four in five anomalies begin later.

    Returns:
        The series with anomalies (N, L) float32, the series as it should have been (N, L) float32 (with
        the changes that last, without the anomalies), and labels (N, L) int8: 1 anomalous, 0 not,
        UNSURE right after a lasting change.
    """
    rows, steps = clean.shape
    usual = clean.astype(np.float64)
    seen = np.isfinite(usual)
    filled = np.where(seen, usual, _means(usual, seen))
    label = np.zeros((rows, steps), np.int8)
    changed = filled.copy()
    spread = filled.std(1)
    noise = np.median(np.abs(np.diff(filled, axis=1)), axis=1) * 1.05
    level = np.abs(filled).mean(1)
    shown = (filled - filled.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)[:, None]
    names = list(KINDS)
    shares = np.array([WEIGHTS[n] for n in names]) / sum(WEIGHTS[n] for n in names)
    for row in range(rows):
        is_flat = spread[row] <= 1e-6 * level[row] or spread[row] == 0
        unit = max(0.05 * level[row], 1e-3) if is_flat else spread[row]
        ground = Ground(
            filled[row], float(filled[row].mean()), float(unit), float(noise[row]),
            shown[rng.integers(rows)], rng, mix,
        )  # fmt: skip
        if rng.random() < mix.lasting:
            _lasting(ground, label[row])
        if rng.random() < mix.habitual:
            _habitual(ground)
        usual[row] = ground.values
        ground.values = ground.values.copy()
        if rng.random() < mix.share:
            for _ in range(int(rng.integers(1, mix.most + 1))):
                kind = names[int(rng.choice(len(names), p=shares))]
                low = int(context[row]) if rng.random() < 0.8 else 8
                start = int(rng.integers(min(low, steps - 4), steps - 2))
                _change(ground, label[row], start, KINDS[kind](ground, start), usual[row])
        changed[row] = ground.values
    _keep_nature(changed, usual, filled)
    gone = ~seen
    changed[gone] = np.nan
    usual[gone] = np.nan
    return changed.astype(np.float32), usual.astype(np.float32), label


def odd(values: np.ndarray, spreads: float) -> np.ndarray:
    """Steps far from their series' median, or far from the step before, and the few steps after them.

    Args:
        values: (N, L), NaN where not observed.
        spreads: how many robust spreads are far.

    Returns:
        (N, L) bool.
    """
    filled = np.where(np.isfinite(values), values, _means(np.nan_to_num(values), np.isfinite(values)))
    found = np.zeros(values.shape, bool)
    for x in (filled, np.diff(filled, axis=1, prepend=filled[:, :1])):
        far = np.abs(x - np.median(x, axis=1, keepdims=True))
        half, most = np.quantile(far, [0.5, 0.9], axis=1)[..., None]
        found |= far > spreads * np.maximum(half / 0.6745, 0.5 * most / 1.645)
    reach = found.copy()
    for back in range(1, REACH):
        reach[:, back:] |= found[:, :-back]
    return reach


def _means(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    total = np.where(seen, values, 0).sum(1, keepdims=True)
    return np.asarray(total / np.maximum(seen.sum(1, keepdims=True), 1))


def _change(ground: Ground, label: np.ndarray, start: int, new: np.ndarray, usual: np.ndarray) -> None:
    """Write a stretch and label its steps from the first to the last that can be seen."""
    new = new[: len(ground.values) - start]
    into = slice(start, start + len(new))
    ground.values[into] = new
    far = np.abs(new - usual[into]) > max(LEAST_VISIBLE * ground.noise, 0.02 * ground.spread)
    if far.any():
        first, last = int(far.argmax()), len(far) - int(far[::-1].argmax())
        label[start + first : start + last] = 1


def _lasting(ground: Ground, label: np.ndarray) -> None:
    """A new level, spread or both, from some step to the end: normal, once it has settled."""
    rng, steps = ground.rng, len(ground.values)
    start = int(rng.integers(8, steps - 8))
    tail = ground.values[start:]
    new = tail + (ground.size() * 0.6 if rng.random() < 0.7 else 0)
    if rng.random() < 0.4:
        new = (tail - tail.mean()) * np.exp(rng.normal(0, 0.7)) + new.mean()
    ground.values = np.concatenate([ground.values[:start], new])
    label[start : start + SETTLING] = UNSURE


def _habitual(ground: Ground) -> None:
    """The same small peculiarity again and again, by a clock or at random."""
    rng, steps = ground.rng, len(ground.values)
    width = int(rng.integers(1, 12))
    period = int(np.exp(rng.uniform(np.log(2 * width + 4), np.log(max(steps / 3, 2 * width + 5)))))
    shape = np.abs(rng.standard_normal(width)) + 0.5 if rng.random() < 0.5 else np.ones(width)
    bump = shape * ground.size()
    values = ground.values.copy()
    is_clock = rng.random() < 0.6
    start = int(rng.integers(0, period))
    while start < steps - width:
        values[start : start + width] += bump * (1 if is_clock else np.exp(0.3 * rng.standard_normal()))
        start += period if is_clock else max(width + 1, int(rng.exponential(period)))
    ground.values = values


def _keep_nature(changed: np.ndarray, usual: np.ndarray, before: np.ndarray) -> None:
    """What never was negative stays so; whole numbers stay whole."""
    positive = (before.min(1) >= 0)[:, None]
    whole = (before == np.round(before)).all(1)[:, None]
    for values in (changed, usual):
        np.copyto(values, np.maximum(values, 0), where=positive)
        np.copyto(values, np.round(values), where=whole)


# --- kinds -------------------------------------------------------------------------------------------


def spike(g: Ground, start: int) -> np.ndarray:
    """One to four steps far away."""
    width = int(g.rng.choice([1, 1, 1, 2, 3, 4]))
    return _stretch(g, start, width) + g.size() * g.rng.uniform(0.7, 1.3, width)[: len(g.values) - start]


def shift(g: Ground, start: int) -> np.ndarray:
    """Another level that comes back."""
    return _stretch(g, start, g.width(4, 120)) + 0.7 * g.size()


def ramp(g: Ground, start: int) -> np.ndarray:
    """A climb that ends at once, or goes down again."""
    old = _stretch(g, start, g.width(12, 200))
    part = np.linspace(0, 1, len(old)) ** g.rng.uniform(0.6, 2)
    if g.rng.random() < 0.3:
        part = 1 - np.abs(1 - 2 * part)
    return np.asarray(old + g.size() * part)


def burst(g: Ground, start: int) -> np.ndarray:
    """Noise around the old values."""
    old = _stretch(g, start, g.width(6, 120))
    return np.asarray(old + abs(g.size()) * 0.5 * g.rng.standard_normal(len(old)))


def freeze(g: Ground, start: int) -> np.ndarray:
    """Nothing moves: the last value or the mean, again and again."""
    old = _stretch(g, start, g.width(10, 120))
    held = old[0] if g.rng.random() < 0.7 else g.mean
    share = g.rng.choice([0.0, 0.0, 0.15])
    return np.asarray(held + share * (old - held))


def drop(g: Ground, start: int) -> np.ndarray:
    """Down to nothing, or to the lowest ever seen."""
    old = _stretch(g, start, g.width(2, 80))
    low = g.values.min()
    floor = 0.0 if low >= 0 and g.rng.random() < 0.6 else low - g.rng.uniform(0, 1) * g.spread
    return np.asarray(floor + 0.05 * (old - old.mean()))


def amplitude(g: Ground, start: int) -> np.ndarray:
    """The same movement, larger or smaller."""
    old = _stretch(g, start, g.width(10, 150))
    factor = g.rng.uniform(0.05, 0.4) if g.rng.random() < 0.4 else g.rng.uniform(1.8, 5)
    return np.asarray(old.mean() + factor * (old - old.mean()))


def foreign(g: Ground, start: int) -> np.ndarray:
    """A stretch of another series, at this one's level."""
    old = _stretch(g, start, g.width(10, 120))
    other = g.foreign[start : start + len(old)]
    return np.asarray(old.mean() + (other - other.mean()) * g.spread)


def displaced(g: Ground, start: int) -> np.ndarray:
    """The series' own pattern at the wrong time, or backwards."""
    old = _stretch(g, start, g.width(8, 120))
    if g.rng.random() < 0.4:
        return old[::-1].copy()
    from_ = int(g.rng.integers(0, max(1, len(g.values) - len(old))))
    return g.values[from_ : from_ + len(old)].copy()


def decay(g: Ground, start: int) -> np.ndarray:
    """A jump that fades."""
    old = _stretch(g, start, g.width(6, 120))
    return np.asarray(old + g.size() * np.exp(-4 * np.arange(len(old)) / len(old)))


def wave(g: Ground, start: int) -> np.ndarray:
    """An oscillation that does not belong there."""
    old = _stretch(g, start, g.width(12, 150))
    period = g.rng.uniform(3, max(4, len(old) / 2))
    return np.asarray(old + 0.5 * g.size() * np.sin(2 * np.pi * np.arange(len(old)) / period))


def ceiling(g: Ground, start: int) -> np.ndarray:
    """Cut off at some height."""
    old = _stretch(g, start, g.width(12, 150))
    top = np.quantile(g.values, g.rng.uniform(0.2, 0.7))
    return np.asarray(np.minimum(old, top) if g.rng.random() < 0.6 else np.maximum(old, top))


def tempo(g: Ground, start: int) -> np.ndarray:
    """The same pattern, faster or slower."""
    old = _stretch(g, start, g.width(16, 150))
    speed = g.rng.choice([0.4, 0.5, 2.0, 3.0])
    at = start + np.arange(len(old)) * speed
    return np.asarray(np.interp(at % len(g.values), np.arange(len(g.values)), g.values))


def rattle(g: Ground, start: int) -> np.ndarray:
    """Spikes at random, for a while."""
    old = _stretch(g, start, g.width(8, 100))
    hit = g.rng.random(len(old)) < g.rng.uniform(0.1, 0.6)
    return np.asarray(old + hit * g.size() * g.rng.uniform(0.5, 1.5, len(old)))


def _stretch(g: Ground, start: int, width: int) -> np.ndarray:
    return g.values[start : start + width].copy()


KINDS: dict[str, Kind] = {
    "spike": spike,
    "shift": shift,
    "ramp": ramp,
    "burst": burst,
    "freeze": freeze,
    "drop": drop,
    "amplitude": amplitude,
    "foreign": foreign,
    "displaced": displaced,
    "decay": decay,
    "wave": wave,
    "ceiling": ceiling,
    "tempo": tempo,
    "rattle": rattle,
}

WEIGHTS: dict[str, float] = {
    "spike": 3.0,
    "shift": 2.5,
    "ramp": 1.0,
    "burst": 1.0,
    "freeze": 0.6,
    "drop": 1.0,
    "amplitude": 1.0,
    "foreign": 0.7,
    "displaced": 0.8,
    "decay": 0.8,
    "wave": 0.5,
    "ceiling": 0.5,
    "tempo": 0.6,
    "rattle": 0.7,
}
