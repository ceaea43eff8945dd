"""One training batch from nothing but the seed and the step: that is what makes a run resumable.

Half-made series and real ones, one length a batch, some rows shorter than the batch (padded on the left),
gaps left open or filled with the last value, as a scorer may do. Not here: the network (loop).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreshock.errors import ConfigError
from foreshock.pretrain import synthetic
from foreshock.pretrain.anomalies import UNSURE, AnomalyMix, odd, plant
from foreshock.pretrain.corpus import Corpus
from foreshock.pretrain.masking import PATCH, MaskMix, draw_hidden


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What a batch looks like."""

    patches: int = 2048  # of all rows together: fewer rows when windows are longer
    context: int = 512  # steps, the longest window
    shortest: int = 64  # steps
    usual: int = 256  # steps, nearly half of the batches
    grain: int = 64  # other lengths are multiples of it; each length is compiled once
    real: float = 0.4  # share of real series; 0 without a corpus
    padded: float = 0.15  # share of rows shorter than the batch
    held: float = 0.5  # share of rows whose gaps are filled with the last value

    def __post_init__(self) -> None:
        for name in ("real", "padded", "held"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"batch.{name} is {getattr(self, name)}; it is a share, 0 to 1.")
        if not PATCH * 2 <= self.shortest <= self.usual <= self.context or self.context % PATCH:
            raise ConfigError(
                f"batch lengths must rise: 16 <= shortest ({self.shortest}) <= usual ({self.usual}) <= "
                f"context ({self.context}), the context a multiple of {PATCH}."
            )
        if self.grain < PATCH or self.grain % PATCH or self.grain > self.context:
            raise ConfigError(
                f"batch.grain is {self.grain}; it must be a multiple of {PATCH}, at least once."
            )
        if self.patches < self.context // PATCH:
            raise ConfigError(
                f"batch.patches is {self.patches}; one window of {self.context} steps needs "
                f"{self.context // PATCH}."
            )


@dataclass(frozen=True, slots=True)
class Batch:
    """N windows of L steps, P = L / 8 patches."""

    values: np.ndarray  # (N, L) float32, 0 where not observed
    observed: np.ndarray  # (N, L) bool
    hidden: np.ndarray  # (N, L) bool, whole patches
    first: int  # position of the first patch


@dataclass(frozen=True, slots=True)
class Watched:
    """N windows of L steps with anomalies in them, P = L / 8 patches."""

    values: np.ndarray  # (N, L) float32, 0 where not observed
    usual: np.ndarray  # (N, L) float32, the same without the anomalies
    observed: np.ndarray  # (N, L) bool
    label: np.ndarray  # (N, L) int8: 1 anomalous, 0 not, -1 neither
    context: np.ndarray  # (N, 1) leading steps that set the scale; the others are judged
    first: int  # position of the first patch


def draw_batch(seed: int, step: int, plan: BatchPlan, mix: MaskMix, corpus: Corpus | None) -> Batch:
    """The batch of a step: the same for the same seed, whatever ran before."""
    rng = np.random.default_rng([seed, step])
    values, _ = _draw_series(rng, plan, corpus)
    rows, steps = values.shape
    values = np.where(rng.random((rows, 1)) < plan.held, hold(values), values)
    values = _pad(rng, values, plan)
    observed = np.isfinite(values)
    hidden = np.repeat(draw_hidden(rng, rows, steps // PATCH, mix), PATCH, axis=1)
    first = _position(rng, steps, plan)
    return Batch(np.where(observed, values, 0).astype(np.float32), observed, hidden, first)


def draw_watched(seed: int, step: int, plan: BatchPlan, mix: AnomalyMix, corpus: Corpus | None) -> Watched:
    """The batch of a step for recognition: gaps are filled with the last value, as in scoring.

    Real series hold anomalies of their own that nobody labelled: with `mix.doubt`, what looks odd in them
    counts neither way, so that the model does not learn to overlook it.
    """
    rng = np.random.default_rng([seed, step, 1])
    clean, real = _draw_series(rng, plan, corpus)
    rows, steps = clean.shape
    context = _context(rng, rows, steps)
    values, usual, label = plant(rng, clean, context, mix)
    if mix.doubt and real:
        label[:real][(label[:real] == 0) & odd(clean[:real], mix.doubt)] = UNSURE
    values = _pad(rng, hold(values), plan)
    observed = np.isfinite(values)
    usual = np.where(np.isfinite(usual), usual, values)  # a gap is filled in both or in neither
    label[~observed] = UNSURE
    return Watched(
        np.where(observed, values, 0).astype(np.float32),
        np.where(observed, usual, 0).astype(np.float32),
        observed, label, context[:, None], _position(rng, steps, plan),
    )  # fmt: skip


def _draw_series(rng: np.random.Generator, plan: BatchPlan, corpus: Corpus | None) -> tuple[np.ndarray, int]:
    """(N, L) real and made-up series, NaN where not observed, and how many real ones, which come first.

    L is drawn, N follows from it.
    """
    steps = _length(rng, plan)
    rows = max(1, plan.patches * PATCH // steps)
    real = 0 if corpus is None else int(rng.binomial(rows, plan.real))
    values = np.empty((rows, steps), dtype=np.float32)
    if corpus is not None and real:
        values[:real] = corpus.draw(rng, real, steps)
        values[:real] *= np.where(rng.random((real, 1)) < 0.1, -1, 1)
    if rows > real:
        values[real:] = synthetic.draw(rng, rows - real, steps)
    return values, real


def _context(rng: np.random.Generator, rows: int, steps: int) -> np.ndarray:
    """(N,) how many steps set the scale: mostly a part, so that many are judged; at least two patches."""
    short = rng.integers(2 * PATCH, max(steps // 2, 2 * PATCH) + 1, rows)
    long = rng.integers(steps // 2, max(steps - 2 * PATCH, steps // 2) + 1, rows)
    return np.where(rng.random(rows) < 0.7, short, long)


def _position(rng: np.random.Generator, steps: int, plan: BatchPlan) -> int:
    spare = (plan.context - steps) // PATCH
    return int(rng.integers(0, spare + 1)) if rng.random() < 0.4 else 0


def hold(values: np.ndarray) -> np.ndarray:
    """Gaps filled with the last value before them; a gap at the start stays open."""
    seen = np.isfinite(values)
    last = np.maximum.accumulate(np.where(seen, np.arange(values.shape[1]), 0), axis=1)
    return np.take_along_axis(values, last, axis=1)


def _length(rng: np.random.Generator, plan: BatchPlan) -> int:
    luck = rng.random()
    if luck < 0.25:
        return plan.context
    if luck < 0.7:
        return plan.usual
    low, high = -(-plan.shortest // plan.grain), plan.context // plan.grain
    return max(plan.shortest, int(rng.integers(low, high + 1)) * plan.grain)


def _pad(rng: np.random.Generator, values: np.ndarray, plan: BatchPlan) -> np.ndarray:
    """Some rows lose their beginning, down to the shortest length; not in whole patches always."""
    rows, steps = values.shape
    if steps <= plan.shortest:
        return values
    kept = rng.integers(plan.shortest, steps + 1, (rows, 1))
    kept = np.where(rng.random((rows, 1)) < 0.7, kept // PATCH * PATCH, kept)
    short = (rng.random((rows, 1)) < plan.padded) & (np.arange(steps) < steps - kept)
    return np.where(short, np.nan, values)
