"""Time run backwards, and the first rows of a finished recording judged by what came after them.

A detector that looks back only knows nothing yet in the first rows. Where the recording lies in the past,
later rows can tell what is usual: time is run backwards over its beginning, and the same detector looks
"back" from there. Nothing live does this, as nothing live has later rows.

Not here: which threshold a finished recording has (calibrate), the default detector, which looks both ways
everywhere there (models.bidirectional).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from foreshock.frame import Frame
from foreshock.scores import ARRAYS, Scores

ROWS = 64  # rows judged anew: a detector that looks back settles in about as many
LATER = 448  # rows behind them that tell what is usual
LEAST_LATER = 3  # times the rows judged anew; a shorter recording has fewer of both


def rows_of(rows: int) -> int:
    """How many of the first rows of a recording of so many are judged anew.

    Example:
        >>> [rows_of(rows) for rows in (20, 100, 10_000)]
        [5, 25, 64]
    """
    return min(ROWS, rows // (1 + LEAST_LATER))


def settle(frame: Frame, scores: Scores, score: Callable[[Frame], Scores]) -> Scores:
    """The scores with their first `rows_of` rows taken from a look back from later ones.

    Args:
        frame: (T, K), as scored.
        scores: of the same rows, looking back only.
        score: what scores a frame from its first row on, as it did for `scores`.

    A rise that leads up to an incident is then seen from behind: an early one may begin a few rows too
    early, as others end a few too late.
    """
    first = rows_of(len(frame))
    if not first:
        return scores
    later = turned(score(mirrored(frame.rows(slice(0, first + LATER)))))
    judged: dict[str, Any] = {}
    for name in ("kpis", "services", "system", "expected"):
        if (mine := getattr(scores, name)) is not None:
            judged[name] = np.concatenate([getattr(later, name)[:first], mine[first:]])
    return replace(scores, settled=first, **judged)


def mirrored(frame: Frame) -> Frame:
    """The same rows (T, K) with time running backwards."""
    values = np.ascontiguousarray(frame.values[::-1])
    return replace(frame.without_labels(), time_ns=_backwards(frame.time_ns), values=values)


def turned(scores: Scores) -> Scores:
    """Scores of a mirrored frame, in the order of the frame itself."""
    held: dict[str, Any] = {n: a[::-1] for n in ARRAYS if (a := getattr(scores, n)) is not None}
    return replace(scores, **{**held, "time_ns": _backwards(scores.time_ns)})


def _backwards(time_ns: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((time_ns[0] + time_ns[-1] - time_ns)[::-1])
