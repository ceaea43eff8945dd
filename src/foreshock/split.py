"""Train, validation and test in time order, with a gap so that no window stands on two sides.

Not here: drawing a few labelled windows for adaptation (models.finetune).
"""

from __future__ import annotations

from dataclasses import dataclass

from foreshock.errors import FrameError
from foreshock.frame import Frame


@dataclass(frozen=True, slots=True)
class Split:
    """Three frames in time order; `gap_rows` rows between two of them belong to none."""

    train: Frame
    validation: Frame
    test: Frame
    gap_rows: int


def split(
    frame: Frame, shares: tuple[float, float, float] = (0.70, 0.15, 0.15), gap_rows: int = 256
) -> Split:
    """Split in time, never shuffled.

    Args:
        frame: sorted; at least 3 rows beside the two gaps.
        shares: of train, validation and test, 0..1, summing to 1 (the benchmark's 70/15/15).
        gap_rows: rows left out after train and after validation. One window's length keeps every
            window on one side; 0 when the parts are cut into windows separately anyway.

    Raises:
        FrameError: unsorted stamps, shares that don't sum to 1, or too few rows.

    Example:
        >>> s = split(shop, gap_rows=64)
        >>> len(s.train), len(s.validation), len(s.test)
        (1299, 278, 279)
    """
    frame.require_clock()
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise FrameError(f"the shares are {shares}; all must be above 0 and sum to 1.")
    if gap_rows < 0:
        raise FrameError(f"the gap is {gap_rows} rows; it must be 0 or more.")
    usable = len(frame) - 2 * gap_rows
    if usable < 3:
        raise FrameError(
            f"the frame has {len(frame)} rows; a split with two gaps of {gap_rows} needs at least "
            f"{2 * gap_rows + 3}. Read a longer range or choose a shorter gap."
        )
    train = min(max(1, int(usable * shares[0])), usable - 2)
    validation = min(max(1, int(usable * shares[1])), usable - train - 1)
    second = train + gap_rows
    third = second + validation + gap_rows
    return Split(
        frame.rows(slice(0, train)),
        frame.rows(slice(second, second + validation)),
        frame.rows(slice(third, len(frame))),
        gap_rows,
    )
