"""Splits in time: order, gaps, shares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.errors import FrameError
from foreshock.split import split


@pytest.fixture(scope="module")
def long_frame():
    import numpy as np

    from foreshock.frame import Frame, Kpi

    time = np.arange(3000, dtype=np.int64) * 10**9
    return Frame(time, np.arange(3000.0)[:, None], (Kpi("a"),), 1.0)


@given(rows=st.integers(3, 3000), gap=st.integers(0, 400))
def test_parts_are_in_time_order_and_apart(long_frame, rows, gap):
    """No window of gap_rows can touch two parts, and no part is empty."""
    f = long_frame.rows(slice(0, rows))
    if rows < 2 * gap + 3:
        with pytest.raises(FrameError, match=f"{rows} rows"):
            split(f, gap_rows=gap)
        return
    s = split(f, gap_rows=gap)
    assert min(len(s.train), len(s.validation), len(s.test)) >= 1
    assert s.validation.values[0, 0] - s.train.values[-1, 0] == gap + 1
    assert s.test.values[0, 0] - s.validation.values[-1, 0] == gap + 1
    assert s.test.values[-1, 0] == rows - 1


def test_shares_are_the_benchmarks(long_frame):
    """70/15/15 of what is left beside the gaps."""
    s = split(long_frame, gap_rows=256)
    assert (len(s.train), len(s.validation), len(s.test)) == (1741, 373, 374)


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (1.0, 0.0, 0.0)])
def test_shares_that_make_no_sense_are_refused(long_frame, shares):
    """All above 0, sum 1."""
    with pytest.raises(FrameError, match="shares"):
        split(long_frame, shares)
