"""From rows to windows and back: the time grid, scaling fitted on the past, cut and stitch.

Not here: what happens inside a window (models); splitting a recording in parts (split).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreshock.errors import FrameError
from foreshock.frame import Frame

CONTEXT = 512  # steps MOMENT reads at once
PATCH = 8  # steps a patch


@dataclass(frozen=True, slots=True)
class Scale:
    """What to subtract and divide by, per KPI."""

    center: np.ndarray  # (K,) median of the fitting rows
    spread: np.ndarray  # (K,) above 0


@dataclass(frozen=True, slots=True)
class Windows:
    """N windows of K KPIs and L rows each."""

    values: np.ndarray  # (N, K, L) float32, scaled, 0 where not observed
    mask: np.ndarray  # (N, K, L) bool, True where observed
    starts: np.ndarray  # (N,) row of each window's first value
    rows: int  # T of the frame they were cut from


def fit_scale(frame: Frame) -> Scale:
    """Median and robust spread of each KPI. Fit on the past, never on what is scored with it.

    The spread is the scaled median absolute deviation; where that is 0 (quantised or mostly constant
    KPIs) the standard deviation, and 1 for a constant or never observed KPI.
    """
    values = np.where(np.isfinite(frame.values), frame.values, np.nan)
    center, mad = median_and_mad(values)
    count = np.maximum(np.isfinite(values).sum(0), 1)
    mean = np.nansum(values, 0) / count
    std = np.sqrt(np.nansum((values - mean) ** 2, 0) / count)
    spread = np.where(mad > 0, mad, std)
    return Scale(np.nan_to_num(center), np.where(spread > 0, spread, 1.0))


def median_and_mad(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, K) with NaN → medians (K,) and 1.4826 × median absolute deviations (K,); NaN where empty."""
    center = quantiles(values, (0.5,))[0]
    return center, 1.4826 * quantiles(np.abs(values - center), (0.5,))[0]


def quantiles(values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles over the first axis, NaN left out: (T, K) → (len(levels), K); NaN where a column is empty.

    One sort along contiguous memory serves all levels: many times as fast as numpy.nanquantile.
    """
    if len(values) == 0:
        return np.full((len(levels), values.shape[1]), np.nan)
    ordered = np.sort(np.ascontiguousarray(values.T), axis=1)  # (K, T), NaN last
    last = np.isfinite(ordered).sum(1) - 1  # (K,)
    place = np.maximum(last, 0) * np.array(levels)[:, None]  # (levels, K)
    low = place.astype(int)
    high = np.minimum(low + 1, np.maximum(last, 0))
    part = place - low
    rows = np.arange(len(ordered))
    out: np.ndarray = ordered[rows, low] * (1 - part) + ordered[rows, high] * part
    out[:, last < 0] = np.nan
    return out


def cut(frame: Frame, scale: Scale, length: int = 256, stride: int = 64) -> Windows:
    """Cut `frame` into overlapping windows that together cover every row.

    Args:
        scale: from `fit_scale` on training data, never on `frame` itself.
        length: rows a window. MOMENT reads 512; shorter windows are padded by the model.
        stride: rows between two starts, 1..length. A last window is added so that
            the frame's end is covered even when stride does not divide it.

    Returns:
        N = ceil((T - L) / stride) + 1 windows, in time order.

    Raises:
        FrameError: the frame is shorter than one window, or the stride is out of range.

    Example:
        >>> cut(shop, fit_scale(shop), length=256, stride=64).values.shape
        (28, 24, 256)
    """
    rows = len(frame)
    if not 1 <= stride <= length:
        raise FrameError(f"the stride is {stride}; it must be 1 to the window's length ({length}).")
    if rows < length:
        raise FrameError(
            f"the frame has {rows} rows ({rows * frame.step_s / 60:.0f} min); one window needs {length}. "
            f"Read a longer range, or set window.length to {rows} or less."
        )
    starts = window_starts(rows, length, stride)
    observed = np.isfinite(frame.values)
    scaled = (np.where(observed, frame.values, 0) - scale.center) / scale.spread
    scaled = np.where(observed, scaled, 0).astype(np.float32)
    view = np.lib.stride_tricks.sliding_window_view
    return Windows(view(scaled, length, 0)[starts], view(observed, length, 0)[starts], starts, rows)


def window_starts(rows: int, length: int, stride: int) -> np.ndarray:
    """First rows of windows that cover `rows`, the last one flush with the end."""
    starts = np.arange(0, rows - length + 1, stride)
    if starts[-1] + length < rows:
        starts = np.append(starts, rows - length)
    return starts


def stitch(per_step: np.ndarray, windows: Windows) -> np.ndarray:
    """Lay window results (N, K, L) back on the rows and average where windows overlap.

    Returns:
        (T, K) float32; NaN where no window observed the value.
    """
    kpis, length = per_step.shape[1], per_step.shape[2]
    total = np.zeros((windows.rows, kpis))
    seen = np.zeros((windows.rows, kpis))
    for result, mask, start in zip(per_step, windows.mask, windows.starts, strict=True):
        total[start : start + length] += np.where(mask, result, 0).T
        seen[start : start + length] += mask.T
    # Mean, not sum: windows at the frame's ends overlap less, and a sum would make them look calm.
    with np.errstate(invalid="ignore"):
        return (total / np.where(seen > 0, seen, np.nan)).astype(np.float32)


def fill_forward(values: np.ndarray) -> np.ndarray:
    """NaN → the last value observed before it, along the last axis; leading NaN stay."""
    index = np.where(np.isfinite(values), np.arange(values.shape[-1]), -1)
    last = np.maximum.accumulate(index, axis=-1)
    filled = np.take_along_axis(values, np.maximum(last, 0), -1)
    return np.where(last >= 0, filled, np.nan)


def rearranged(values: np.ndarray, columns: np.ndarray, blank: float) -> np.ndarray:
    """Some columns of (…, K), in the order given; -1 gives a column of `blank`."""
    out = np.full((*values.shape[:-1], len(columns)), blank, values.dtype)
    known = columns >= 0
    out[..., known] = values[..., columns[known]]
    return out


@dataclass(frozen=True, slots=True)
class Grid:
    """Where each row lies on an even grid of steps, so that gaps in time are gaps in windows."""

    slots: np.ndarray  # (T,) int64, strictly rising
    next_time_ns: int  # of the last row, to go on from

    @property
    def end(self) -> int:
        return int(self.slots[-1]) + 1


def to_grid(
    time_ns: np.ndarray, step_s: float, previous: tuple[int, int] | None = None, longest_gap: int = CONTEXT
) -> Grid:
    """Put rows on a grid of `step_s`; jitter is rounded away, gaps stay gaps.

    Each row lands round(distance / step) slots, at least 1, after the row before it, so the slot of a
    row depends on the past only. A gap longer than `longest_gap` slots is shortened to it: what lies
    further back than a model's context can't matter, and a week's silence must not cost memory.

    Args:
        previous: (slot, time_ns) of the row before the first, to continue a stream.
    """
    if previous is None:
        previous = (-1, int(time_ns[0] - step_s * 1e9))
    before = np.concatenate([[previous[1]], time_ns[:-1]])
    jumps = np.rint((time_ns - before) / (step_s * 1e9)).astype(np.int64)
    slots = previous[0] + np.cumsum(np.clip(jumps, 1, longest_gap))
    return Grid(slots, int(time_ns[-1]))
