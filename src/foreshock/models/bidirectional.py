"""The default detector for recordings that lie in the past: it looks back from both ends.

Looking back only, a row is compared with what came before it: where an incident ends is told late, its
middle is held against its own beginning, and first rows have no past at all. Run backwards, the same
detector sees what the other run can't, and stumbles elsewhere. So time is run both ways and the two scores
of each row are averaged; then each row gets the mean of those around it, since a fault that lasts beats a
row that is odd for once.

Where something changes for good (traffic that falls and stays low), everything on its far side is new to
the backward run, for hours, and thresholds rise with it. To let the calmer run have the say there was tried
and hides anomalies that last: docs/log.md, 2026-11-27.

Not here: the detector (vigil), the first rows for other detectors (hindsight).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from foreshock.calibrate import Guess
from foreshock.errors import ConfigError
from foreshock.frame import Frame
from foreshock.hindsight import mirrored, turned
from foreshock.models.vigil import VigilDetector, VigilStream
from foreshock.scores import Scores
from foreshock.windows import to_grid

NEAR_S = 90.0  # how far before and after it a row also speaks for its neighbours; docs/log.md, 2026-11-27
CELLS = 2**22  # values averaged at once
# Where thresholds of such scores usually lie, from eight recordings; docs/log.md, 2026-11-27.
USUAL = Guess(high=2.4, at_once=3.0)


class BidirectionalDetector:
    """Scores a finished recording by two causal passes, one of them backwards, and the rows around each."""

    def __init__(self, forward: VigilDetector) -> None:
        self.forward = forward
        self.name = forward.name
        self.guess = None if forward.guess is None else USUAL

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
        ahead = self.forward.score(frame.require_clock())
        return together(ahead, turned(self.forward.score(mirrored(frame))))

    def describe(self) -> dict[str, Any]:
        return {**self.forward.describe(), "causal": False, "near_s": NEAR_S}


def together(ahead: Scores, behind: Scores) -> Scores:
    """One score of both passes, each row by those around it.

    Args:
        ahead: of a recording, looking back only. behind: of the same rows, of a pass with time running
            backwards, `hindsight.turned`.

    Kinds, origins and what was expected are those of the forward pass.
    """
    slots, reach = to_grid(ahead.time_ns, ahead.step_s).slots, reach_of(ahead.step_s)
    width = max(1, CELLS // max(1, len(ahead)))
    both: dict[str, Any] = {"system": around((ahead.system + behind.system) / 2, slots, reach)}
    for name in ("kpis", "services"):
        one, other = getattr(ahead, name), getattr(behind, name)
        both[name] = np.empty_like(one)
        for some in (np.s_[:, at : at + width] for at in range(0, one.shape[1], width)):
            both[name][some] = around((one[some] + other[some]) / 2, slots, reach)
    return replace(ahead, causal=False, **both)


def reach_of(step_s: float) -> int:
    """How many rows on either side a row speaks for.

    Example:
        >>> [reach_of(step_s) for step_s in (5, 30, 60, 300)]
        [18, 3, 1, 1]
    """
    return max(1, int(NEAR_S / step_s + 1e-9))


def around(scores: np.ndarray, slots: np.ndarray, reach: int) -> np.ndarray:
    """(T,) or (T, C) → the mean of each row and those at most `reach` slots before or after it; float32.

    No row counts more than the highest of itself and the two beside it, so that edges stay where they are.
    What was not observed counts as no evidence, and stays NaN itself.

    Args:
        slots: (T,) rising place of each row on the grid; rows that were never recorded count for nothing.
    """
    filled = np.nan_to_num(scores.astype(np.float64))
    sums = np.concatenate([np.zeros_like(filled[:1]), np.cumsum(filled, 0)])
    first, last = np.searchsorted(slots, slots - reach), np.searchsorted(slots, slots + reach, "right")
    mean = (sums[last] - sums[first]) / (last - first).reshape(-1, *(1,) * (filled.ndim - 1))
    highest = filled.copy()
    np.maximum(highest[1:], filled[:-1], out=highest[1:])
    np.maximum(highest[:-1], filled[1:], out=highest[:-1])
    held = np.maximum(np.minimum(mean, highest), 0)
    return np.where(np.isfinite(scores), held, np.nan).astype(np.float32)
