"""The default detector for recordings that lie in the past: it looks back from both ends.

Looking back only, a row is compared with what came before it: where an incident ends is told late, its
middle is held against its own beginning, and first rows have no past at all. Run backwards, the same
detector sees what the other run can't, and stumbles elsewhere. So time is run both ways and the two scores
of each row are averaged; then each row gets the mean of those around it, since a fault that lasts beats a
row that is odd for once.

Not here: the detector (vigil), the few first rows of `foreshock detect` (hindsight).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from foreshock.errors import ConfigError
from foreshock.frame import Frame
from foreshock.hindsight import mirrored
from foreshock.models.vigil import VigilDetector, VigilStream
from foreshock.scores import Scores
from foreshock.windows import to_grid

NEAR_S = 120.0  # how far before and after it a row also speaks for its neighbours; docs/log.md, 2026-11-27
LEAST = 2  # rows that is at least


class BidirectionalDetector:
    """Scores a finished recording by two causal passes, one of them backwards, and the rows around each."""

    def __init__(self, forward: VigilDetector) -> None:
        self.forward = forward
        self.name = forward.name
        self.guess = None  # quiet scores reach other heights than one pass's

    @property
    def facts(self) -> dict[str, Any]:
        return self.forward.facts

    @property
    def verdict(self) -> Any:
        """What names kinds, where the forward pass does."""
        return getattr(self.forward, "verdict", None)

    def stream(self) -> VigilStream:
        """
        Raises:
            ConfigError: always, as nothing that comes row by row has later rows.
        """
        raise ConfigError("offline scoring reads later rows, so it can't stream; leave out --offline.")

    def score(self, frame: Frame) -> Scores:
        """Kinds, origins and what was expected are those of the forward pass."""
        frame.require_clock()
        ahead = self.forward.score(frame)
        back = self.forward.score(mirrored(frame))
        slots, reach = to_grid(frame.time_ns, frame.step_s).slots, reach_of(frame.step_s)
        both: dict[str, Any] = {
            name: around((getattr(ahead, name) + getattr(back, name)[::-1]) / 2, slots, reach)
            for name in ("kpis", "services", "system")
        }
        return replace(ahead, causal=False, **both)

    def describe(self) -> dict[str, Any]:
        return {**self.forward.describe(), "causal": False, "near_s": NEAR_S}


def reach_of(step_s: float) -> int:
    """How many rows on either side a row speaks for.

    Example:
        >>> [reach_of(step_s) for step_s in (5, 30, 60, 300)]
        [24, 4, 2, 2]
    """
    return max(LEAST, round(NEAR_S / step_s))


def around(scores: np.ndarray, slots: np.ndarray, reach: int) -> np.ndarray:
    """(T,) or (T, C) → the mean of each row and those at most `reach` slots before or after it; float32.

    Args:
        slots: (T,) rising place of each row on the grid; rows that were never recorded count for nothing.

    What was not observed counts as no evidence, and stays NaN itself.
    """
    filled = np.nan_to_num(scores.astype(np.float64))
    sums = np.concatenate([np.zeros_like(filled[:1]), np.cumsum(filled, 0)])
    first, last = np.searchsorted(slots, slots - reach), np.searchsorted(slots, slots + reach, "right")
    mean = (sums[last] - sums[first]) / (last - first).reshape(-1, *(1,) * (filled.ndim - 1))
    return np.where(np.isfinite(scores), np.maximum(mean, 0), np.nan).astype(np.float32)
