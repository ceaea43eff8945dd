"""Stretches of a KPI held against its own past, without learning: saliency, polynomial, matrix profile.

Functions of values alone, (T, K) in and out; NaN where there are too few rows to say anything. What
turns them into detectors stands in oneline.
"""

from __future__ import annotations

import numpy as np

MEMORY = 2048  # rows that a left profile looks back
PROFILE_ROWS = 512  # rows of a left profile worked on at once


def spectral_residual(values: np.ndarray, window: int) -> np.ndarray:
    """How salient each row is among the `window` rows that end with it, (T, K); NaN before `window` rows.

    Source: Ren et al. 2019, Time-Series Anomaly Detection Service at Microsoft, section 3.1, with their
    q = 3 bins of spectrum averaged, 5 estimated rows appended (from the rows before the last, as their
    released code has it) and the 21 rows before to compare with.
    """
    out = np.full(values.shape, np.nan)
    if len(values) < window:
        return out
    for kpi in range(values.shape[1]):
        for first in range(window - 1, len(values), 4096):
            rows = _windows(values[first - window + 1 : first + 4096, kpi], window)
            out[first : first + len(rows), kpi] = _saliency(rows)
    return out


def _saliency(rows: np.ndarray) -> np.ndarray:
    """(N, window) → (N,) saliency of the last value over that of the 21 before it, at least 0."""
    # The rows ahead are told by those before the last, or a spike would be told to go on.
    slopes = (rows[:, -2, None] - rows[:, -7:-2][:, ::-1]) / np.arange(1, 6)
    ahead = (rows[:, -6] + slopes.sum(1))[:, None]
    longer = np.concatenate([rows, np.repeat(ahead, 5, axis=1)], axis=1)
    flat = np.ptp(rows, axis=1) <= 1e-9 * np.abs(rows[:, -1])
    spectrum = np.fft.fft(longer - rows.mean(1, keepdims=True), axis=1)
    size = np.abs(spectrum)
    log = np.log(np.maximum(size, np.maximum(1e-8 * size.max(1, keepdims=True), 1e-300)))
    log[:, 0] = (log[:, 1] + log[:, -1]) / 2  # the level was taken out: it must not stand out as missing
    usual = (np.roll(log, 1, 1) + log + np.roll(log, -1, 1)) / 3
    phase = spectrum / np.where(size > 0, size, 1)
    saliency = np.abs(np.fft.ifft(np.exp(log - usual) * phase, axis=1))[:, : rows.shape[1]]
    before = saliency[:, -22:-1].mean(1)
    score = np.maximum(saliency[:, -1] / np.maximum(before, 1e-300) - 1, 0)
    return np.where(flat, 0.0, score)


def polynomial_error(values: np.ndarray, window: int, power: int = 2) -> np.ndarray:
    """Root mean square distance of `window` rows from a polynomial through the rows before them, (T, K).

    It is fitted to the 5 windows (at least 64 rows) before, and the distance given to the window's last
    row; NaN until they are there. The causal form of `polynomial_blocks`; a higher power than 2 runs
    away from the rows it was fitted to.
    """
    before = polynomial_context(window)
    length = before + window
    out = np.full(values.shape, np.nan)
    powers = np.vander(np.arange(-before, window) / before, power + 1)
    said = powers[before:] @ np.linalg.pinv(powers[:before])  # (window, before)
    for kpi in range(values.shape[1]):
        for first in range(0, len(values) - length + 1, 4096):
            rows = _windows(values[first : first + 4096 + length - 1, kpi], length)
            rows = rows - rows[:, :1]  # a polynomial follows any level; this keeps the digits
            rms = np.sqrt(((rows[:, before:] - rows[:, :before] @ said.T) ** 2).mean(1))
            into = slice(first + length - 1, first + length - 1 + len(rows))
            out[into, kpi] = np.where(rms > 1e-9 * np.abs(values[into, kpi]), rms, 0)
    return out


def polynomial_blocks(values: np.ndarray, window: int, power: int = 4) -> np.ndarray:
    """Distance of each block of `window` rows from a polynomial through 5 windows on either side, (T, K).

    Blocks don't overlap, and all rows of one get the same; those in the first tenth of the recording, at
    most 500 rows, get NaN. Source: POLY of TSB-UAD (Paparrizos et al. 2022), after Li et al. 2007 (local
    polynomial fitting, PAKDD); the distance of the spectra, which is that of the rows times the root of
    their number; power 4 is nearest to the published figures (0.006 off in the median; 2: 0.015, 1: 0.021).
    """
    total, beside = len(values), max(5 * window, 50)
    out = np.full(values.shape, np.nan)
    for first in range(-(-min(500, total // 10) // window) * window, total, window):
        stop = min(first + window, total)
        place = np.r_[max(0, first - beside) : first, stop : max(stop, min(total, first + beside))]
        if len(place) <= power:
            continue
        scaled = (np.r_[place, first:stop] - first) / beside
        powers = np.vander(scaled, power + 1)
        level = values[place[0]]  # a polynomial follows any level; this keeps the digits
        fitted = np.linalg.pinv(powers[: len(place)]) @ (values[place] - level)
        error = values[first:stop] - level - powers[len(place) :] @ fitted
        size = np.sqrt((stop - first) * (error**2).sum(0))
        out[first:stop] = np.where(size > 1e-9 * np.abs(level), size, 0)
    return out


def polynomial_context(window: int) -> int:
    return max(64, 5 * window)


def left_profile(
    values: np.ndarray, start: int, window: int, rows: int, memory: int | None = MEMORY
) -> np.ndarray:
    """Distance of the subsequence that ends with each row to the nearest one before it, (rows, K).

    Z-normalised Euclidean distance, 0..2 sqrt(window), to subsequences that begin more than a
    quarter window before it, within `memory` rows (None: all). NaN for the recording's first four
    windows.
    Source: left matrix profile, Yeh et al. 2016; left discords, Lu et al. 2022 (DAMP). Two flat
    subsequences are 0 apart, a flat and another one sqrt(window), as in stumpy.

    Args:
        values: (T, K), of which the last `rows` are judged; no NaN but in KPIs never observed.
        start: number of the first row given, counted from the recording's first.
    """
    total = len(values)
    out = np.full((rows, values.shape[1]), np.nan)
    first = max(total - rows, window - 1, 4 * window - 1 - start)
    skip = -(-window // 4)
    for kpi in range(values.shape[1]):
        if first >= total or not np.isfinite(values[:, kpi]).all():
            continue
        unit, flat = _unit_windows(values[:, kpi], window)
        row = first
        while row < total:
            # Pieces begin at the same rows in a stream and in a whole recording, so that both remember alike.
            piece = (start + row) // PROFILE_ROWS * PROFILE_ROWS - start
            stop = min(piece + PROFILE_ROWS, total)
            oldest = 0 if memory is None else max(0, piece - memory)
            one = np.arange(row, stop) - window + 1
            near = _likeness(unit, flat, one, slice(oldest, stop - window + 1 - skip))
            far_enough = np.arange(oldest, stop - window + 1 - skip) < one[:, None] - skip
            best = np.where(far_enough, near, -1.0).max(1)
            out[row - total + rows : stop - total + rows, kpi] = _apart(best, window)
            row = stop
    return out


def matrix_profile(values: np.ndarray, window: int) -> np.ndarray:
    """Distance of each subsequence to the nearest other one, earlier or later, at its middle row, (T, K)."""
    out = np.full(values.shape, np.nan)
    skip = -(-window // 4)
    count = len(values) - window + 1
    for kpi in range(values.shape[1]):
        if count <= skip or not np.isfinite(values[:, kpi]).all():
            continue
        unit, flat = _unit_windows(values[:, kpi], window)
        for first in range(0, count, PROFILE_ROWS):
            one = np.arange(first, min(first + PROFILE_ROWS, count))
            near = _likeness(unit, flat, one, slice(0, count))
            near[np.abs(np.arange(count) - one[:, None]) <= skip] = -1
            out[one + window // 2, kpi] = _apart(near.max(1), window)
    return out


def _unit_windows(values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """(T,) → subsequences (N, window) of mean 0 and norm 1, and which of them are flat (those are 0)."""
    rows = _windows(values, window)
    center = rows.mean(1, keepdims=True)
    off = rows - center
    size = np.sqrt((off**2).sum(1))
    flat = size <= 1e-9 * np.sqrt(window) * np.abs(center[:, 0])
    off[flat] = 0
    return off / np.where(flat, 1, size)[:, None], flat


def _likeness(unit: np.ndarray, flat: np.ndarray, one: np.ndarray, other: slice) -> np.ndarray:
    """Correlation of some subsequences with others; 1 for two flat ones, 1/2 where one of both is."""
    near: np.ndarray = unit[one] @ unit[other].T
    if flat.any():
        near += 0.5 * (flat[one, None].astype(float) + flat[other])
    return near


def _apart(likeness: np.ndarray, window: int) -> np.ndarray:
    """Correlation → z-normalised Euclidean distance; 0 where it is round-off."""
    return np.where(likeness > 1 - 1e-12, 0, np.sqrt(2 * window * np.maximum(1 - likeness, 0)))


def _windows(values: np.ndarray, window: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(values, window)
