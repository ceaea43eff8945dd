"""What is hidden from the model in pretraining: scattered patches, a block, or the newest patches.

Half of the windows lose their end, because scoring asks for exactly that: the newest patches from the
past alone. Not here: padding and missing values, which nobody can see anyway (corpus, synthetic).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from foreshock.errors import ConfigError

PATCH = 8  # steps


@dataclass(frozen=True, slots=True)
class MaskMix:
    """Shares of the three ways to hide; they are normalised to sum to 1."""

    end: float = 0.5
    block: float = 0.2
    scattered: float = 0.3
    ratio: float = 0.3  # of the patches, for scattered ones on average and blocks at most
    longest_end: int = 8  # patches

    def __post_init__(self) -> None:
        if min(self.end, self.block, self.scattered) < 0 or self.end + self.block + self.scattered <= 0:
            raise ConfigError("mask shares (end, block, scattered) must be 0 or more, and not all 0.")
        if not 0 < self.ratio < 1:
            raise ConfigError(f"mask.ratio is {self.ratio}; it must lie between 0 and 1.")
        if self.longest_end < 1:
            raise ConfigError(f"mask.longest_end is {self.longest_end}; it must be at least 1 patch.")


def draw_hidden(rng: Generator, rows: int, patches: int, mix: MaskMix | None = None) -> np.ndarray:
    """Which patches to hide, one to half of each row.

    Returns:
        (rows, patches) bool; True is hidden.
    """
    mix = mix or MaskMix()
    shares = np.array([mix.end, mix.block, mix.scattered])
    way = rng.choice(3, size=(rows, 1), p=shares / shares.sum())
    most = max(1, patches // 2)
    at = np.arange(patches)
    end = at >= patches - _short(rng, rows, min(mix.longest_end, most))
    width = rng.integers(1, max(1, round(patches * mix.ratio)) + 1, (rows, 1))
    first = np.floor(rng.random((rows, 1)) * (patches - width + 1)).astype(int)
    block = (at >= first) & (at < first + width)
    rank = rng.random((rows, patches)).argsort(1).argsort(1)
    count = np.clip(np.round(patches * rng.uniform(mix.ratio / 2, mix.ratio * 1.5, (rows, 1))), 1, most)
    return np.where(way == 0, end, np.where(way == 1, block, rank < count))


def _short(rng: Generator, rows: int, longest: int) -> np.ndarray:
    """(rows, 1) lengths 1..longest; half of them up to 4, where scoring hides 2 to 4 patches."""
    any_length = rng.integers(1, longest + 1, (rows, 1))
    usual = rng.integers(1, min(4, longest) + 1, (rows, 1))
    return np.where(rng.random((rows, 1)) < 0.5, usual, any_length)
