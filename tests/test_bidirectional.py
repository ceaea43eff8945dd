"""Both ways in time: what it sees that one way does not, and what it must not change."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.cli.steps import finished_scores, fixed_threshold
from foreshock.config import Settings
from foreshock.errors import ConfigError
from foreshock.frame import Frame, Kpi
from foreshock.hindsight import ROWS, mirrored
from foreshock.models import bidirectional, load_detector, looking_both_ways
from foreshock.models.bidirectional import BidirectionalDetector, around, reach_of

KPIS = tuple(Kpi(f"{s}__{m}", s, m) for s in ("web", "cart", "payment") for m in ("cpu_pct", "latency_p90_s"))
WIDEST = reach_of(60.0)


def recording(rows: int, seed: int = 0) -> Frame:
    values = np.random.default_rng(seed).lognormal(0, 0.1, (rows, len(KPIS)))
    return Frame(np.arange(rows) * 60_000_000_000, values, KPIS, 60.0)


@pytest.fixture(scope="module")
def detector() -> BidirectionalDetector:
    made = load_detector("foreshock", causal=False)
    assert isinstance(made, BidirectionalDetector)
    return made


def test_the_first_rows_have_a_past(detector):
    """A fault in rows 4 to 8: nobody who looks back only can know what is usual."""
    frame = recording(400)
    frame.values[4:9, 2] *= 8
    scores, forward = detector.score(frame), load_detector("foreshock").score(frame)
    quiet = scores.system[9 + WIDEST :].max()
    assert scores.system[4:9].min() > 2 * quiet
    assert forward.system[4:9].max() < forward.system[9:].max()
    assert scores.services[6].argmax() == 1
    assert scores.kpis[6].argmax() == 2
    assert not scores.causal


def test_time_may_run_either_way(detector):
    """The mirrored recording has the mirrored scores."""
    frame = recording(200)
    frame.values[90:99, 3] += 2
    scores, turned = detector.score(frame), detector.score(mirrored(frame))
    for name in ("kpis", "services", "system"):
        np.testing.assert_allclose(getattr(scores, name), getattr(turned, name)[::-1], rtol=1e-5, atol=1e-6)


def test_what_was_not_observed_stays_so(detector):
    frame = recording(120)
    frame.values[30:40, 1] = np.nan
    frame.values[50, :] = np.nan
    scores = detector.score(frame)
    np.testing.assert_array_equal(np.isnan(scores.kpis), np.isnan(frame.values))
    np.testing.assert_array_equal(np.isnan(scores.system), np.isnan(frame.values).all(1))
    assert np.nanmin(scores.kpis) >= 0


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_short_recordings(detector, rows):
    scores = detector.score(recording(rows))
    assert scores.system.shape == (rows,)
    assert np.isfinite(scores.system).all()


def test_neighbours_are_those_on_the_clock():
    """A row speaks for the next ones, not for those behind a gap."""
    scores = np.array([0.0, 0.0, 8.0, 0.0, 0.0])
    near, apart = around(scores, np.arange(5), 2), around(scores, np.array([0, 1, 2, 1000, 1001]), 2)
    np.testing.assert_allclose(near, [0, 2, 1.6, 2, 0], rtol=1e-6)
    np.testing.assert_allclose(apart, [0, 8 / 3, 8 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(around(np.full((50, 2), 3.0), np.arange(50), 4), 3.0)


def test_kinds_are_those_of_the_forward_pass(detector):
    frame = recording(100)
    scores = detector.score(frame)
    assert detector.verdict.named(scores.kinds[10:20])[1] > 0
    forward = load_detector("foreshock").score(frame)
    assert scores.kind_names == forward.kind_names != ()
    np.testing.assert_array_equal(scores.kinds, forward.kinds)


def test_nothing_live_looks_both_ways(detector):
    with pytest.raises(ConfigError, match="can't stream; leave out --offline"):
        detector.stream()
    about = detector.describe()
    assert about["causal"] is False
    assert about["weights_sha256"]


def test_random_weights_can_look_both_ways():
    """The comparison that every table has."""
    made = load_detector("untrained", causal=False)
    assert isinstance(made, BidirectionalDetector)
    assert made.describe()["model"] == "nano's shape, random weights"


def judged_as_finished(frame: Frame):
    detector = load_detector("foreshock")
    chosen, scores = finished_scores(detector, frame, lambda d, part: d.score(part), Settings())
    return detector, chosen, scores


def test_a_finished_recording_is_seen_from_both_ends():
    frame = recording(400)
    frame.values[200:206, 2] *= 4
    detector, chosen, scores = judged_as_finished(frame)
    assert isinstance(chosen, BidirectionalDetector)
    np.testing.assert_array_equal(scores.system, BidirectionalDetector(detector).score(frame).system)
    assert scores.rows_in_hindsight == len(frame)
    assert not scores.causal


def test_what_changes_for_good_hides_no_fault():
    """All that was before a fall of the load is new to a pass from behind it: looking back it stays."""
    frame = recording(700)
    frame.values[:400] *= 5
    frame.values[200:206, 2] *= 4
    detector, chosen, scores = judged_as_finished(frame)
    both = BidirectionalDetector(detector)
    assert chosen is detector
    assert scores.rows_in_hindsight == ROWS
    threshold = fixed_threshold(scores, Settings(), detector)
    assert threshold.high < 3 < scores.system[200:206].max()
    assert fixed_threshold(both.score(frame), Settings(), both).high > 40


def test_others_do_not_look_both_ways():
    """One-liners, and scores that labels taught, which have a threshold of their own."""
    assert looking_both_ways(load_detector("robust_z")) is None
    taught = load_detector("foreshock")
    taught.threshold = 1.0
    assert looking_both_ways(taught) is None


def test_wide_tables_are_averaged_in_pieces(detector, monkeypatch):
    frame = recording(60)
    whole = detector.score(frame)
    monkeypatch.setattr(bidirectional, "CELLS", 130)
    pieces = detector.score(frame)
    np.testing.assert_array_equal(whole.kpis, pieces.kpis)
    np.testing.assert_array_equal(whole.services, pieces.services)
