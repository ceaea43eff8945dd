"""The default detector for recordings that lie in the past: it looks back from both ends.

Looking back only, a row is compared with what came before it: where an incident ends is told late, its
middle is held against its own beginning, and first rows have no past at all. Run backwards, the same
detector sees what the other run can't, and stumbles elsewhere. So time is run both ways and the two scores
of each row are averaged; then each row also speaks for its neighbours, at several widths, since a fault that
lasts beats a row that is odd for once.

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

WIDTHS = (0, 1, 2, 4, 8, 16)  # rows on either side whose means are averaged; docs/log.md, 2026-11-27


class BidirectionalDetector:
    """Scores a finished recording by two causal passes, one of them backwards, and the rows around each."""

    def __init__(self, forward: VigilDetector) -> None:
        self.forward = forward
        self.name = forward.name
        self.guess = None  # quiet scores reach other heights than one pass's

    @property
    def facts(self) -> dict[str, Any]:
        return self.forward.facts

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
        slots = to_grid(frame.time_ns, frame.step_s).slots
        both = {
            name: around((getattr(ahead, name) + getattr(back, name)[::-1]) / 2, slots)
            for name in ("kpis", "services", "system")
        }
        return replace(ahead, causal=False, **both)

    def describe(self) -> dict[str, Any]:
        return {**self.forward.describe(), "causal": False, "widths": WIDTHS}


def around(scores: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """(T,) or (T, C) → the mean, over `WIDTHS`, of the means over so many slots on either side; float32.

    Args:
        slots: (T,) rising place of each row on the grid; rows that were never recorded count for nothing.

    What was not observed counts as no evidence, and stays NaN itself.
    """
    filled = np.nan_to_num(scores.astype(np.float64))
    sums = np.concatenate([np.zeros_like(filled[:1]), np.cumsum(filled, 0)])
    total = np.zeros_like(filled)
    for width in WIDTHS:
        first, last = np.searchsorted(slots, slots - width), np.searchsorted(slots, slots + width, "right")
        total += (sums[last] - sums[first]) / (last - first).reshape(-1, *(1,) * (filled.ndim - 1))
    return np.where(np.isfinite(scores), np.maximum(total, 0) / len(WIDTHS), np.nan).astype(np.float32)
