"""Windows: covered rows, scaling on the past, the way back, the grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import naive
from foreshock.errors import FrameError
from foreshock.windows import Scale, cut, fit_scale, quantiles, stitch, to_grid, window_starts


def unit(kpis: int) -> Scale:
    return Scale(np.zeros(kpis), np.ones(kpis))


@given(st.integers(32, 300), st.integers(1, 32))
def test_windows_cover_every_row(rows, stride):
    """Every row lies in a window, the last window ends with the frame."""
    starts = window_starts(rows, 32, stride)
    covered = np.zeros(rows, bool)
    for start in starts:
        covered[start : start + 32] = True
    assert covered.all()
    assert starts[-1] + 32 == rows
    assert len(starts) == -(-(rows - 32) // stride) + 1


@pytest.mark.parametrize("stride", [1, 7, 32])
def test_cut_then_stitch_gives_back_the_frame(make_frame, stride):
    """With a unit scale, stitching the windows' own values gives the frame."""
    f = make_frame(100)
    w = cut(f, unit(3), 32, stride)
    np.testing.assert_allclose(stitch(w.values, w), f.values, rtol=1e-6)


def test_stitch_ignores_missing(make_frame):
    """A value nobody observed comes back as NaN, and does not pull its neighbours down."""
    f = make_frame(80)
    f.values[10:20, 1] = np.nan
    w = cut(f, unit(3), 32, 8)
    got = stitch(w.values, w)
    assert np.isnan(got[10:20, 1]).all()
    np.testing.assert_allclose(got, naive.stitch(w.values, w.mask, w.starts, 80), rtol=1e-5)


def test_scale_comes_from_the_fitting_rows_only(make_frame):
    """A change in what is scored does not change the scale that was fitted before."""
    f = make_frame(200)
    scale = fit_scale(f.rows(slice(0, 100)))
    f.values[100:] += 1000
    again = fit_scale(f.rows(slice(0, 100)))
    np.testing.assert_array_equal(scale.center, again.center)
    assert np.abs(cut(f, scale, 64, 64).values[-1]).min() > 100


def test_scale_of_constant_and_dead_kpis_is_one(make_frame):
    """Dividing by the spread is always safe."""
    f = make_frame(50)
    f.values[:, 0], f.values[:, 1] = 7.0, np.nan
    scale = fit_scale(f)
    assert scale.spread[0] == 1
    assert scale.spread[1] == 1
    assert np.isfinite(cut(f, scale, 16, 16).values).all()


def test_a_frame_shorter_than_a_window_says_what_is_needed(make_frame):
    """Both numbers are in the message."""
    with pytest.raises(FrameError, match=r"20 rows .* needs 32"):
        cut(make_frame(20), unit(3), 32, 8)
    with pytest.raises(FrameError, match="stride is 64"):
        cut(make_frame(100), unit(3), 32, 64)


@given(st.integers(0, 2**31), st.integers(1, 60), st.floats(0, 1))
def test_quantiles_agree_with_the_slow_twin(seed, rows, level):
    """NaN are left out column by column, an empty column gives NaN."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 4))
    values[rng.random((rows, 4)) < 0.3] = np.nan
    values[:, 3] = np.nan
    got = quantiles(values, (level, 0.5))
    for column in range(4):
        np.testing.assert_allclose(got[0, column], naive.quantile(values[:, column], level), atol=1e-12)
        np.testing.assert_allclose(got[1, column], naive.quantile(values[:, column], 0.5), atol=1e-12)


def test_grid_keeps_gaps_and_rounds_jitter():
    """A missing row leaves a slot empty; a second of jitter does not."""
    time = np.array([0, 61, 119, 240, 300]) * 10**9
    assert to_grid(time, 60.0).slots.tolist() == [0, 1, 2, 4, 5]


def test_grid_goes_on_where_a_stream_stopped():
    """Pieces give the slots that the whole gives; a week's silence costs no memory."""
    time = np.concatenate([np.arange(50), np.arange(50) + 10_000]) * 60 * 10**9
    whole = to_grid(time, 60.0)
    first = to_grid(time[:20], 60.0)
    second = to_grid(time[20:], 60.0, (first.end - 1, first.next_time_ns))
    assert np.concatenate([first.slots, second.slots]).tolist() == whole.slots.tolist()
    assert whole.end < 50 + 512 + 50
