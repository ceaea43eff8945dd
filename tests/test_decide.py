"""Scores become events by rules that look at the past alone: in pieces, in order, disjoint, monotone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.calibrate import CausalThreshold, Threshold, calibrate, calibrate_causal
from foreshock.decide import Decider, Event, Rules, anomalous_rows, confidence, decide, iso
from foreshock.errors import ConfigError
from foreshock.frame import Kpi
from foreshock.scores import Scores

NEVER = math.inf
PLAIN = Rules(merge_s=0, lead_s=0, cool_down_s=0)


def scores_of(
    system: list[float] | np.ndarray, step_s: float = 60.0, times: np.ndarray | None = None
) -> Scores:
    values = np.asarray(system, dtype=np.float32)
    rows = len(values)
    times = np.arange(rows) if times is None else times
    time_ns = 1_700_000_000_000_000_000 + np.rint(times * step_s * 1e9).astype(np.int64)
    empty = values[:, None]
    return Scores(time_ns, empty, empty, values, (Kpi("shop__kpi", "shop", "kpi"),), ("shop",), step_s)


def levels(high: float, at_once: float = NEVER, low: float | None = None, scale: float = 1.0) -> Threshold:
    quiet = np.random.default_rng(0).gamma(4, 0.25, 2000)
    low = 0.5 * high if low is None else low
    return replace(calibrate(quiet, 60), high=high, at_once=at_once, low=low, scale=scale)


def piece(scores: Scores, rows: slice) -> Scores:
    names = ("time_ns", "kpis", "services", "system")
    return replace(scores, **{n: getattr(scores, n)[rows] for n in names})


def levels_piece(threshold: CausalThreshold, rows: slice) -> CausalThreshold:
    names = ("high", "at_once", "low", "scale")
    return replace(threshold, **{n: getattr(threshold, n)[rows] for n in names})


def spans(events: tuple[Event, ...]) -> list[tuple[int, int]]:
    return [(e.start, e.end) for e in events]


def test_one_lasting_rise():
    """Two rows above high begin it, rows above low keep it, the first below ends it."""
    (event,) = decide(scores_of([1, 1, 5, 6, 3, 3, 1, 1, 1]), levels(4, low=2), PLAIN)
    assert (event.start, event.end, event.detected, event.peak) == (2, 6, 3, 3)
    assert event.peak_score == 6
    assert event.rows_high == 2
    assert not event.is_open
    assert event.end_ns == event.start_ns + 3 * 60 * 10**9
    assert event.threshold == 4


def test_one_lone_row():
    """A lone row above high is noise; above at_once it is an event, told at that row."""
    lone = scores_of([1, 1, 5, 1, 1])
    assert decide(lone, levels(4), PLAIN) == ()
    (event,) = decide(lone, levels(4, at_once=5), PLAIN)
    assert (event.start, event.end, event.detected) == (2, 3, 2)


def test_k_of_n_at_five_seconds():
    """Twelve of eighteen rows; eleven are not enough."""
    fast = [1.0] * 20 + [5.0, 5, 1] * 6 + [1] * 20
    (event,) = decide(scores_of(fast, 5), levels(4), PLAIN)
    assert (event.start, event.detected) == (20, 36)
    assert decide(scores_of([1] * 20 + [5] * 11 + [1] * 20, 5), levels(4), PLAIN) == ()


def test_neighbours_merge():
    """A return to high within merge_s continues the event, a later one begins another."""
    system = [1, 5, 5, 1, 1, 5, 1, 1, 1, 5, 5, 1]
    assert spans(decide(scores_of(system), levels(4), replace(PLAIN, merge_s=120))) == [(1, 6), (9, 11)]
    assert spans(decide(scores_of(system), levels(4), PLAIN)) == [(1, 3), (9, 11)]


def test_what_rises_anew_is_an_event_of_its_own():
    """Two minutes below a third of the peak, then twice as high again: a second fault, told as a sequel."""
    first, second = decide(
        scores_of([1, 9, 9, 2.5, 2.1, 2.4, 6, 7, 6, 1, 1, 1, 1]), levels(2, low=1.5), Rules()
    )
    assert (first.start, first.end, first.peak_score, first.rows_high) == (1, 5, 9, 5)
    assert (second.start, second.peak_score, second.sequel_of) == (5, 7, first.id)
    assert not first.is_open


@pytest.mark.parametrize(
    "tail",
    [[2.5, 6, 7, 6], [2.5, 2.4, 2.6, 4, 2.5, 2.4], [4, 4, 4, 9, 9], [2.9, 2.8, 2.7, 2.6, 2.5, 2.4]],
    ids=["a short dip", "a lone spike", "a shallow valley", "a fading end"],
)
def test_what_wavers_stays_one_event(tail):
    """Nothing new began."""
    assert len(decide(scores_of([1, 9, 9, *tail, 1, 1, 1, 1]), levels(2, low=1.5), Rules())) == 1


def test_start_moves_back_over_raised_rows():
    """Since when: rows above low that lead up to the event belong to it, at most lead_s of them."""
    system = [1, 3, 3, 3, 5, 5, 1]
    assert spans(decide(scores_of(system), levels(4, low=2), replace(PLAIN, lead_s=600))) == [(1, 6)]
    # Three minutes back from the row that decided, which is row 5.
    assert spans(decide(scores_of(system), levels(4, low=2), replace(PLAIN, lead_s=180))) == [(2, 6)]


def test_missing_rows():
    """NaN neither begins nor ends an event; more than grace_s of it does end one."""
    nan = math.nan
    system = [1, 5, 5, nan, nan, 5, 1, nan, nan, nan]
    assert spans(decide(scores_of(system), levels(4), replace(PLAIN, grace_s=120))) == [(1, 6)]
    assert spans(decide(scores_of(system), levels(4), replace(PLAIN, grace_s=60))) == [(1, 3)]
    assert decide(scores_of([nan] * 5), levels(4)) == ()


def test_gap_in_time():
    """An hour without rows is an hour without an event, even if no row says NaN."""
    times = np.array([0, 1, 2, 62, 63, 64])
    events = decide(scores_of([1, 5, 5, 5, 5, 1], times=times), levels(4))
    assert spans(events) == [(1, 3), (3, 5)]


def test_open_at_the_end():
    (event,) = decide(scores_of([1, 1, 5, 5]), levels(4))
    assert event.is_open
    assert event.end_ns is None
    assert event.end == 4
    assert event.to_dict()["end_time"] is None


def test_sequel():
    """An event in the cool-down of the last one is told as its sequel; nothing is hidden."""
    system = [1, 5, 5] + [1] * 5 + [5, 5] + [1] * 30 + [5, 5, 1, 1, 1, 1]
    first, second, third = decide(scores_of(system), levels(4))
    assert (first.sequel_of, second.sequel_of, third.sequel_of) == (None, 0, None)
    assert [e.id for e in (first, second, third)] == [0, 1, 2]


def test_confidence_grows_with_height_and_length():
    assert confidence(4, 4, 1, 2, 2) == 0.5
    heights = [confidence(s, 4, 1, 2, 2) for s in (4, 5, 7, 9, 20)]
    lengths = [confidence(5, 4, 1, rows, 2) for rows in (2, 3, 5, 9)]
    assert heights == sorted(heights)
    assert lengths == sorted(lengths)
    assert heights[3] == pytest.approx(0.97, abs=0.005)
    assert heights[-1] < 1
    assert confidence(9, NEVER, math.nan, 1, 1) == 0.5


def test_warm_up_raises_nothing():
    """Infinite thresholds let nothing through."""
    system = np.full(50, 9.0)
    assert decide(scores_of(system), calibrate_causal(system, 60)) == ()


def test_a_real_incident_end_to_end():
    """Ten minutes at four times the usual score, found within two rows by thresholds learned so far."""
    system = np.random.default_rng(0).gamma(4, 0.25, 1500)
    system[1000:1010] = 6
    events = decide(scores_of(system), calibrate_causal(system, 60))
    (event,) = (e for e in events if e.start <= 1005 < e.end)
    assert 998 <= event.start <= 1000
    assert event.end == 1010
    assert event.detected <= 1001
    assert event.confidence > 0.95
    assert len(events) <= 4


def test_to_dict_is_json():
    (event,) = decide(scores_of([1, 1, 5, 6, 1, 1, 1, 1]), levels(4))
    told = json.loads(json.dumps(event.to_dict()))
    assert told["start_time"] == "2023-11-14T22:15:20Z"
    assert told["end_time"] == "2023-11-14T22:16:20Z"
    assert iso(None) is None


@pytest.mark.parametrize("wrong", [{"merge_s": -1}, {"confirm_share": 0}, {"confirm_share": 1.5}])
def test_impossible_rules(wrong):
    with pytest.raises(ConfigError, match=r"rules\."):
        Rules(**wrong)


def test_threshold_of_other_length():
    with pytest.raises(ConfigError, match="same rows"):
        decide(scores_of([1, 2, 3]), calibrate_causal(np.ones(4), 60))


# --- properties -----------------------------------------------------------------------------------

noise = st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 9.0, math.nan]), max_size=60)
seconds = st.sampled_from([0.0, 60.0, 120.0, 300.0])
rules = st.builds(
    Rules,
    confirm_s=st.sampled_from([0.0, 60.0, 120.0, 240.0]),
    confirm_share=st.sampled_from([0.5, 2 / 3, 1.0]),
    merge_s=seconds,
    lead_s=seconds,
    grace_s=seconds,
    cool_down_s=seconds,
)


@settings(max_examples=120, deadline=None)
@given(noise, rules, st.integers(0, 5))
def test_events_are_disjoint_and_in_order(system, rules, skipped):
    times = np.cumsum(1 + (np.arange(len(system)) % 7 == 6) * skipped)
    events = decide(scores_of(system, times=times), levels(3, at_once=8, low=2), rules)
    for event in events:
        assert 0 <= event.start <= event.peak < event.end <= len(system)
        assert event.start <= event.detected < event.end
        assert 0.5 <= event.confidence <= 1
        assert event.start_ns <= event.detected_ns
    for before, after in pairwise(events):
        assert before.end <= after.start
        assert before.id < after.id
        assert before.detected < after.start
        assert not before.is_open


@settings(max_examples=120, deadline=None)
@given(noise, rules, st.lists(st.integers(0, 12), max_size=8))
def test_pieces_equal_the_whole(system, rules, sizes):
    """However the rows arrive, the closed and running events are the batch's, and each opened once."""
    scores, threshold = scores_of(system), levels(3, at_once=8, low=2)
    decider = Decider(60, rules)
    changes = []
    cuts = np.minimum(np.cumsum([0, *sizes, len(system)]), len(system))
    for a, b in pairwise(cuts):
        changes += decider.push(piece(scores, slice(a, b)), threshold)
    closed = tuple(c.event for c in changes if c.kind == "closed")
    events = closed + ((decider.running,) if decider.running else ())
    assert events == decide(scores, threshold, rules)
    assert [c.event.id for c in changes if c.kind == "opened"] == [e.id for e in events]


@settings(max_examples=120, deadline=None)
@given(noise, rules, st.floats(0, 6), st.floats(0, 6), st.floats(0, 2))
def test_higher_thresholds_give_fewer_rows(system, rules, more_high, more_once, more_low):
    """Raising any level never makes a row anomalous."""
    scores = scores_of(system)
    base = decide(scores, levels(3, at_once=5, low=1.5), rules)
    raised = decide(
        scores, levels(3 + more_high, 5 + max(more_once, more_high), 1.5 + min(more_low, more_high)), rules
    )
    rows = len(system)
    assert not (anomalous_rows(raised, rows) & ~anomalous_rows(base, rows)).any()


@settings(max_examples=100, deadline=None)
@given(noise, rules, st.integers(0, 59))
def test_told_from_the_past_alone(system, rules, cut):
    """An event is opened at its detected row by what came until then: the future can't change that."""
    cut = min(cut, len(system))
    threshold = levels(3, at_once=8, low=2)
    whole = decide(scores_of(system), threshold, rules)
    start = decide(scores_of(system[:cut]), threshold, rules)
    told = [(e.id, e.start, e.detected) for e in whole if e.detected < cut]
    assert [(e.id, e.start, e.detected) for e in start] == told


def test_causal_thresholds_in_pieces():
    """With a threshold for each row, each piece brings its own rows."""
    system = np.random.default_rng(1).gamma(4, 0.25, 400)
    system[200:206] = 9
    scores, threshold = scores_of(system), calibrate_causal(system, 60)
    decider = Decider(60)
    inside = []
    for a in range(0, 400, 37):
        rows = slice(a, a + 37)
        decider.push(piece(scores, rows), levels_piece(threshold, rows))
        inside.append(decider.inside)
    events = decide(scores, threshold)
    known = np.concatenate(inside)
    assert known.shape == (400,)
    assert known[201:206].all()
    assert not (known & ~anomalous_rows(events, 400)).any()
