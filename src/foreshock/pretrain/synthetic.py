"""Made-up series that look like operations data, in whole batches, as fast as numpy can draw them.

Each kind in `KINDS` is a function (rng, rows, steps) -> (rows, steps) float64, NaN where nothing was
observed. Level shifts, regime changes, bursts, gaps and constants belong to normal behaviour here: what
the model is to find surprising is what breaks a pattern, not what a deploy or a cron job does every day.

Sources: spectral densities in the spirit of KernelSynth (Ansari et al. 2024, Chronos), convex mixtures of
series as in its TSMixup, changes of regime as in causal mixtures of generators. Not here: real series
(corpus), what is hidden (masking).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

Kind = Callable[[Generator, int, int], np.ndarray]

# Steps a day holds at 15 s (a part of it), 30 s, 1, 2, 5, 10, 15, 30 and 60 min, and a week at 60 min.
CYCLES = np.array([5760.0, 2880.0, 1440.0, 720.0, 288.0, 144.0, 96.0, 48.0, 24.0, 168.0])
BUCKETS_MS = np.array(
    [0.0, 1, 2, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000, 30000]
)


def draw(rng: Generator, rows: int, steps: int, mix: dict[str, float] | None = None) -> np.ndarray:
    """`rows` series of `steps` steps; NaN where nothing was observed.

    Args:
        mix: share of each kind by its name in `KINDS`; what is not named gets nothing. None: `MIX`.

    Returns:
        (rows, steps) float32.
    """
    mix = MIX if mix is None else mix
    names = list(mix)
    shares = np.array([mix[name] for name in names], dtype=float)
    kinds = rng.choice(len(names), size=rows, p=shares / shares.sum())
    out = np.empty((rows, steps))
    for i, name in enumerate(names):
        chosen = np.flatnonzero(kinds == i)
        if len(chosen):
            out[chosen] = KINDS[name](rng, len(chosen), steps)
    out = _blend(rng, out)
    out = _roughen(rng, out)
    return out.astype(np.float32)


# --- building stones ---------------------------------------------------------------------------------


def uniform(rng: Generator, rows: int, low: float, high: float) -> np.ndarray:
    """(rows, 1), one number a series."""
    return rng.uniform(low, high, (rows, 1))


def log_uniform(rng: Generator, rows: int, low: float, high: float) -> np.ndarray:
    """(rows, 1), one number a series, each order of magnitude as likely as the next."""
    return np.exp(rng.uniform(np.log(low), np.log(high), (rows, 1)))


def standard(values: np.ndarray) -> np.ndarray:
    """Each row with mean 0 and deviation 1; a constant row becomes 0."""
    centred = values - values.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    return np.asarray(centred / np.where(spread > 1e-9, spread, 1.0))


def process(rng: Generator, rows: int, steps: int, smooth: float = 2.5) -> np.ndarray:
    """A stationary Gaussian process drawn by its spectrum: power law, pulled flat below a corner.

    The exponent reaches from 0 (white) to `smooth`; the corner is the process's memory, so that the family
    holds white noise, AR(1) (exponent 2) and smooth kernels of every length scale.
    """
    size = 2 * steps  # twice as long, then cut: a transform alone would close the circle
    freq = np.fft.rfftfreq(size)
    memory = log_uniform(rng, rows, 2, 2 * steps)
    power = (1 + (freq * memory * 2 * np.pi) ** 2) ** (-uniform(rng, rows, 0, smooth) / 2)
    bump = np.exp(-0.5 * ((freq - log_uniform(rng, rows, 1 / steps, 0.4)) / 0.004) ** 2)  # a rough rhythm
    power = power / power.sum(1, keepdims=True)
    power = power + (rng.random((rows, 1)) < 0.25) * bump / np.maximum(bump.sum(1, keepdims=True), 1e-9)
    noise = rng.standard_normal((rows, len(freq))) + 1j * rng.standard_normal((rows, len(freq)))
    return standard(np.fft.irfft(np.sqrt(power) * noise, size)[:, :steps])


def season(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """A shape that comes back: days at many sampling steps, or any other period; weekdays may differ."""
    day = rng.random((rows, 1)) < 0.5
    period = np.where(day, rng.choice(CYCLES, (rows, 1)), log_uniform(rng, rows, 6, 1.5 * steps))
    phase = (np.arange(steps) + uniform(rng, rows, 0, 1) * period) / period
    order = np.arange(1, 7)[:, None, None]
    weight = rng.standard_normal((6, rows, 1)) * order ** -uniform(rng, rows, 0.5, 2.5)
    shape = (weight * np.sin(2 * np.pi * (order * phase + rng.random((6, rows, 1))))).sum(0)
    sharp = uniform(rng, rows, -1.0, 1.5)  # exp makes peaks from waves, as request rates have them
    shape = np.where(rng.random((rows, 1)) < 0.4, np.expm1(sharp * standard(shape)), shape)
    weekend = (np.floor(phase) + rng.integers(0, 7, (rows, 1))) % 7 >= 5
    quiet = day & (rng.random((rows, 1)) < 0.3)
    return standard(np.where(quiet & weekend, shape * uniform(rng, rows, 0.2, 0.9), shape))


def levels(rng: Generator, rows: int, steps: int, changes: np.ndarray) -> np.ndarray:
    """Piecewise constant, standard normal levels; `changes` (rows, 1) is how many changes to expect."""
    piece = np.cumsum(rng.random((rows, steps)) < changes / steps, axis=1, dtype=np.int64)
    heights = rng.standard_normal((rows, int(piece.max()) + 1))
    return np.take_along_axis(heights, piece, axis=1)


def decaying(rng: Generator, events: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """Events (rows, steps) that fade: each followed by its own exponential tail of `memory` steps."""
    steps = events.shape[1]
    tail = np.exp(-np.arange(steps) / memory)
    size = 2 * steps
    return np.asarray(np.fft.irfft(np.fft.rfft(events, size) * np.fft.rfft(tail, size), size)[:, :steps])


def load(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """What drives a system: a season, a wandering part and sometimes a new regime; standardised."""
    wander = process(rng, rows, steps)
    shift = levels(rng, rows, steps, uniform(rng, rows, 0, 2))
    parts = uniform(rng, rows, 0, 1) * season(rng, rows, steps) + uniform(rng, rows, 0, 0.7) * wander
    return standard(parts + (rng.random((rows, 1)) < 0.25) * uniform(rng, rows, 0, 2) * shift)


# --- kinds -------------------------------------------------------------------------------------------


def smooth(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """Sums and products of processes, seasons and trends."""
    a, b = process(rng, rows, steps), season(rng, rows, steps)
    trend = uniform(rng, rows, -2, 2) * np.linspace(-1, 1, steps) ** rng.integers(1, 3, (rows, 1))
    product = rng.random((rows, 1)) < 0.25
    on = rng.random((3, rows, 1)) < np.array([0.8, 0.6, 0.3])[:, None, None]
    total = on[0] * a * uniform(rng, rows, 0.2, 1.5) + on[1] * b + on[2] * trend
    return np.asarray(np.where(product, (1 + 0.5 * a) * b, total))


def seasonal(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """A clean shape under noise of any strength."""
    noise = process(rng, rows, steps, smooth=1.5) * log_uniform(rng, rows, 0.02, 2)
    values = season(rng, rows, steps) + noise
    return np.asarray(np.where(rng.random((rows, 1)) < 0.3, np.exp(0.8 * values), values))


def counts(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """Events a step, from hardly any to thousands; sometimes burstier than Poisson."""
    rate = log_uniform(rng, rows, 0.02, 500) * np.exp(uniform(rng, rows, 0, 1) * load(rng, rows, steps))
    rough = rng.random((rows, 1)) < 0.4
    shape = uniform(rng, rows, 1, 10)
    rate = np.where(rough, rate * rng.gamma(np.broadcast_to(shape, rate.shape)) / shape, rate)
    return np.asarray(rng.poisson(np.minimum(rate, 1e6)).astype(float))


def white_cpu(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """CPU of a busy container: near-white lognormal (variation 0.6 in a recording), on a slow level."""
    sigma = uniform(rng, rows, 0.1, 0.9)
    level = np.exp(uniform(rng, rows, 0, 0.6) * load(rng, rows, steps))
    memory = process(rng, rows, steps, smooth=1.0)
    own = uniform(rng, rows, 0, 0.7)
    mixed = own * memory + np.sqrt(1 - own**2) * rng.standard_normal((rows, steps))
    return np.asarray(level * np.exp(sigma * mixed))


def saturating(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """Utilisation that meets its ceiling (or its floor), hard or soft, under noise."""
    wish = uniform(rng, rows, -1.5, 1.5) + uniform(rng, rows, 0.3, 1.5) * load(rng, rows, steps)
    soft = 1 / (1 + np.exp(-1.5 * wish))
    hard = np.clip(0.5 + 0.35 * wish, 0, 1)
    share = np.where(rng.random((rows, 1)) < 0.5, soft, hard)
    noise = rng.standard_normal((rows, steps)) * log_uniform(rng, rows, 0.002, 0.1)
    return np.asarray(100 * np.clip(share + noise * np.sqrt(share * (1 - share) + 0.05), 0, 1))


def latency(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """A percentile read from a histogram: heavy tail, few distinct values, missing without requests."""
    rho = np.clip(0.5 + 0.2 * load(rng, rows, steps), 0.05, 0.97)
    queue = np.where(rng.random((rows, 1)) < 0.5, 1 / (1 - rho), 1.0)
    tail = rng.standard_t(3, (rows, steps)) * uniform(rng, rows, 0.02, 0.4)
    wait = log_uniform(rng, rows, 2, 2000) * queue * np.exp(np.clip(tail, -2, 3))
    stair = rng.random((rows, 1)) < 0.5
    place = np.clip(np.searchsorted(BUCKETS_MS, wait), 1, len(BUCKETS_MS) - 1)
    low, high = BUCKETS_MS[place - 1], BUCKETS_MS[place]
    grains = rng.integers(1, 21, (rows, 1))  # few requests: few fractions inside a bucket
    part = np.round((np.minimum(wait, high) - low) / (high - low) * grains) / grains
    values = np.where(stair, low + (high - low) * np.maximum(part, 0.05), wait)
    busy = log_uniform(rng, rows, 0.05, 1) * np.exp(0.3 * load(rng, rows, steps))
    silent = (rng.random((rows, 1)) < 0.25) & (rng.random((rows, steps)) > np.minimum(busy, 1))
    return np.where(silent, np.nan, values)


def sawtooth(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """Memory that fills and is given back: by a collector with a rhythm, or when somebody restarts it."""
    period = log_uniform(rng, rows, 8, 3 * steps)
    speed = np.exp(0.5 * uniform(rng, rows, 0, 1) * process(rng, rows, steps))
    phase = np.cumsum(speed, axis=1) / period + uniform(rng, rows, 0, 1)
    cycle = np.floor(phase)
    depth = np.take_along_axis(rng.uniform(0.6, 1, (rows, 1 + int(cycle.max()))), cycle.astype(int), axis=1)
    part = phase - cycle
    bent = part ** log_uniform(rng, rows, 0.4, 2)
    tooth = np.where(rng.random((rows, 1)) < 0.15, 1 - bent, bent) * depth
    return np.asarray(tooth + rng.standard_normal((rows, steps)) * log_uniform(rng, rows, 0.001, 0.2))


def ramp(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """A slow climb (memory, disk, a backlog) that may bend, pause or stop; little noise."""
    speed = np.maximum(levels(rng, rows, steps, uniform(rng, rows, 0, 4)) + uniform(rng, rows, -0.5, 2), 0)
    climb = np.cumsum(speed * np.exp(0.3 * process(rng, rows, steps)), axis=1)
    climb = climb / np.maximum(climb[:, -1:], 1e-9)
    sign = np.where(rng.random((rows, 1)) < 0.3, -1.0, 1.0)
    return np.asarray(
        sign * climb + process(rng, rows, steps, smooth=1.0) * log_uniform(rng, rows, 0.001, 0.3)
    )


def bursts(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """A quiet base with bursts that fade: at random, or by the clock of a job."""
    period = log_uniform(rng, rows, 5, steps)
    clock = np.floor((np.arange(steps) + uniform(rng, rows, 0, 1) * period) / period)
    tick = np.diff(clock, axis=1, prepend=clock[:, :1]) > 0
    chance = rng.random((rows, steps)) < uniform(rng, rows, 1, 12) / steps
    hit = np.where(rng.random((rows, 1)) < 0.5, tick, chance)
    size = np.where(rng.random((rows, 1)) < 0.5, np.exp(rng.standard_normal((rows, steps))), 1.0)
    faded = decaying(rng, hit * size, log_uniform(rng, rows, 0.3, 30))
    return np.asarray(faded * log_uniform(rng, rows, 1, 20) + 0.3 * process(rng, rows, steps, smooth=1.5))


def regimes(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """Level and spread change together or alone, as at deploys and roll-overs."""
    changes = uniform(rng, rows, 0.5, 5)
    level = levels(rng, rows, steps, changes) * log_uniform(rng, rows, 0.3, 6)
    spread = np.exp(0.7 * (rng.random((rows, 1)) < 0.4) * levels(rng, rows, steps, changes))
    white = rng.standard_normal((rows, steps))
    inner = np.where(rng.random((rows, 1)) < 0.5, white, process(rng, rows, steps, smooth=1.5))
    return np.asarray(level + spread * inner)


def stairs(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """Whole numbers that seldom change: replicas, pool sizes, threads; or the load, rounded coarsely."""
    moves = rng.random((rows, steps)) < uniform(rng, rows, 1, 20) / steps
    walk = np.cumsum(moves * rng.choice([-2, -1, -1, 1, 1, 2], (rows, steps)), axis=1)
    coarse = np.round(load(rng, rows, steps) * uniform(rng, rows, 1, 4))
    pick = rng.random((rows, 1)) < 0.5
    return np.where(pick, np.maximum(walk + rng.integers(1, 9, (rows, 1)), 0), coarse).astype(float)


def switch(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """On and off by the clock (duty cycle) or at random, clean or noisy."""
    period = log_uniform(rng, rows, 4, steps)
    phase = (np.arange(steps) + uniform(rng, rows, 0, 1) * period) / period % 1
    by_clock = phase < uniform(rng, rows, 0.05, 0.95)
    at_random = levels(rng, rows, steps, log_uniform(rng, rows, 2, 40)) > uniform(rng, rows, -1, 1)
    state = np.where(rng.random((rows, 1)) < 0.6, by_clock, at_random)
    return np.asarray(state + process(rng, rows, steps, smooth=1.0) * log_uniform(rng, rows, 0.003, 0.6))


def walk(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """A random walk, sometimes pulled back to its level."""
    shocks = np.where(
        rng.random((rows, 1)) < 0.7, rng.standard_normal((rows, steps)), rng.standard_t(3, (rows, steps))
    )
    free = np.cumsum(shocks, axis=1)
    pulled = decaying(rng, shocks, log_uniform(rng, rows, 2, 200))
    return np.where(rng.random((rows, 1)) < 0.5, free, pulled)


def flat(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """Constant, or constant but for a rare event or a rare new value."""
    base = np.round(uniform(rng, rows, 0, 100))
    rare = rng.random((rows, steps)) < uniform(rng, rows, 0.5, 4) / steps
    blip = rare * rng.exponential(1.0, (rows, steps)) * log_uniform(rng, rows, 0.1, 100)
    kind = rng.random((rows, 1))
    held = np.round(levels(rng, rows, steps, uniform(rng, rows, 0.5, 3)) * 10)
    return base + np.where(kind < 0.2, 0.0, np.where(kind < 0.6, blip, held))


def driven(rng: Generator, rows: int, steps: int) -> np.ndarray:
    """Series of one system: each follows the same load with its own gain, delay, bend and noise."""
    systems = max(1, rows // 6)
    one = load(rng, systems, steps + 16)[rng.integers(0, systems, rows)]
    delay = rng.integers(0, 17, (rows, 1))
    seen = np.take_along_axis(one, 16 - delay + np.arange(steps), axis=1)
    bend = np.exp(uniform(rng, rows, 0.2, 1.2) * seen)
    queue = 1 / (1 - np.clip(0.5 + 0.2 * seen, 0.05, 0.96))
    pick = rng.random((rows, 1))
    values = np.where(pick < 0.4, seen, np.where(pick < 0.75, standard(bend), standard(queue)))
    noise = np.where(
        rng.random((rows, 1)) < 0.5, rng.standard_normal((rows, steps)), process(rng, rows, steps, smooth=1.5)
    )
    return np.asarray(values + noise * log_uniform(rng, rows, 0.02, 1.5))


KINDS: dict[str, Kind] = {
    "smooth": smooth,
    "seasonal": seasonal,
    "counts": counts,
    "white_cpu": white_cpu,
    "saturating": saturating,
    "latency": latency,
    "sawtooth": sawtooth,
    "ramp": ramp,
    "bursts": bursts,
    "regimes": regimes,
    "stairs": stairs,
    "switch": switch,
    "walk": walk,
    "flat": flat,
    "driven": driven,
}

MIX: dict[str, float] = {
    "smooth": 0.12,
    "seasonal": 0.14,
    "counts": 0.10,
    "white_cpu": 0.10,
    "saturating": 0.06,
    "latency": 0.08,
    "sawtooth": 0.06,
    "ramp": 0.05,
    "bursts": 0.06,
    "regimes": 0.06,
    "stairs": 0.03,
    "switch": 0.03,
    "walk": 0.04,
    "flat": 0.02,
    "driven": 0.05,
}


# --- what happens to any series ----------------------------------------------------------------------


def _blend(rng: Generator, values: np.ndarray, share: float = 0.2, turn: float = 0.04) -> np.ndarray:
    """Convex mixtures of two series, and for a few a change from one series to another."""
    rows, steps = values.shape
    z = _standard_seen(values)
    other = z[rng.permutation(rows)]
    part = uniform(rng, rows, 0.3, 0.95)
    mixed = part * z + (1 - part) * other
    where = rng.integers(steps // 8, max(steps // 8 + 1, 7 * steps // 8), (rows, 1))
    turned = np.where(np.arange(steps) < where, z, other)
    luck = rng.random((rows, 1))
    return np.where(luck < share, mixed, np.where(luck < share + turn, turned, values))


def _roughen(rng: Generator, values: np.ndarray) -> np.ndarray:
    """Units, coarse rounding, missing steps and missing stretches."""
    rows, steps = values.shape
    z = _standard_seen(values)
    grain = log_uniform(rng, rows, 0.01, 0.6)
    coarse = np.round(z / grain) * grain
    luck = rng.random((rows, 1))
    z = np.where(luck < 0.15, coarse, z)
    z = z * log_uniform(rng, rows, 0.1, 100) + rng.standard_normal((rows, 1)) * 10
    lost = (rng.random((rows, 1)) < 0.08) & (rng.random((rows, steps)) < uniform(rng, rows, 0.01, 0.4))
    start = rng.integers(0, steps, (rows, 1))
    length = log_uniform(rng, rows, 2, max(3, steps / 4))
    at = np.arange(steps)
    gap = (rng.random((rows, 1)) < 0.1) & (at >= start) & (at < start + length)
    return np.where(lost | gap, np.nan, z)


def _standard_seen(values: np.ndarray) -> np.ndarray:
    """`standard`, NaN left out and left in place."""
    seen = np.isfinite(values)
    count = np.maximum(seen.sum(1, keepdims=True), 1)
    filled = np.where(seen, values, 0.0)
    centred = np.where(seen, values - filled.sum(1, keepdims=True) / count, 0.0)
    spread = np.sqrt((centred**2).sum(1, keepdims=True) / count)
    return np.where(seen, centred / np.where(spread > 1e-9, spread, 1.0), np.nan)
