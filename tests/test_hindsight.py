"""The first rows of a finished recording, judged by later ones: which, by what, and what stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foreshock.frame import Frame, Kpi
from foreshock.hindsight import LATER, ROWS, mirrored, rows_of, settle
from foreshock.models import load_detector

KPIS = tuple(Kpi(f"{s}__{m}", s, m) for s in ("web", "cart", "payment") for m in ("cpu_pct", "latency_p90_s"))


def recording(rows: int, seed: int = 0) -> Frame:
    values = np.random.default_rng(seed).lognormal(0, 0.1, (rows, len(KPIS)))
    return Frame(np.arange(rows) * 60_000_000_000, values, KPIS, 60.0)


@pytest.fixture(scope="module")
def early() -> Frame:
    """A fault of cart's processor in rows 4 to 8 of 700."""
    frame = recording(700)
    frame.values[4:9, 2] *= 8
    return frame


def test_an_early_fault_is_seen(early):
    detector = load_detector("foreshock")
    scores = detector.score(early)
    settled = settle(early, scores, detector.score)
    assert scores.system[4:9].max() < 0.5  # nobody can know what is usual after four rows
    assert settled.system[4:9].min() > 2.5 > settled.system[12:ROWS].max()
    assert settled.services[6].argmax() == 1
    assert settled.kpis[6].argmax() == 2
    assert (scores.rows_in_hindsight, settled.rows_in_hindsight) == (0, ROWS)


def test_later_rows_keep_their_scores(early):
    detector = load_detector("past_median")
    scores = detector.score(early)
    settled = settle(early, scores, detector.score)
    for name in ("kpis", "services", "system", "expected"):
        np.testing.assert_array_equal(getattr(settled, name)[ROWS:], getattr(scores, name)[ROWS:])
        assert getattr(settled, name).shape == getattr(scores, name).shape


def test_only_so_many_later_rows_are_read(early):
    detector = load_detector("past_median")
    scores = detector.score(early)
    other = replace(early, values=early.values.copy())
    other.values[ROWS + LATER :] *= 3
    told, same = settle(early, scores, detector.score), settle(other, scores, detector.score)
    np.testing.assert_array_equal(told.system[:ROWS], same.system[:ROWS])


@pytest.mark.parametrize("rows", [1, 3, 4, 40])
def test_short_recordings(rows):
    frame, detector = recording(rows), load_detector("robust_z")
    scores = detector.score(frame)
    settled = settle(frame, scores, detector.score)
    assert len(settled) == rows
    assert rows_of(rows) == rows // 4
    np.testing.assert_array_equal(settled.system[rows // 4 :], scores.system[rows // 4 :])


def test_mirrored_twice_is_the_same():
    frame = recording(30)
    frame = replace(frame, time_ns=np.sort(np.random.default_rng(0).integers(0, 10**12, 30)))
    back = mirrored(mirrored(frame))
    np.testing.assert_array_equal(back.time_ns, frame.time_ns)
    np.testing.assert_array_equal(back.values, frame.values)
    assert (np.diff(mirrored(frame).time_ns) >= 0).all()
