"""The promise of false alarms: kept on quiet scores, robust to incidents, causal, the same in pieces."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.calibrate import (
    CausalCalibrator,
    Guess,
    Threshold,
    calibrate,
    calibrate_causal,
    calibrate_finished,
    confirm_rows,
)
from foreshock.errors import ConfigError
from foreshock.tails import fit_pareto, incident_limit, lasting, quiet_rows

DAY = 1440  # rows a day at a row a minute


def quiet_scores(shape: str, rows: int, seed: int) -> np.ndarray:
    """Quiet scores around 1 with tails of several shapes."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=rows)
    if shape == "gaussian":
        return 1 + 0.2 * noise
    if shape == "gamma":
        return rng.gamma(4, 0.25, rows)
    if shape == "lognormal":
        return np.exp(0.5 * noise)
    if shape == "student":
        return 5 + rng.standard_t(4, rows)
    slow = np.empty(rows)
    slow[0] = noise[0]
    for i in range(1, rows):
        slow[i] = 0.7 * slow[i - 1] + math.sqrt(1 - 0.49) * noise[i]
    return np.exp(0.4 * slow)


def alarms(scores: np.ndarray, threshold: Threshold) -> int:
    """Alarms of a quiet recording, counted the plain way."""
    raised = (scores >= threshold.at_once) | (lasting(scores, *threshold.confirm_rows) >= threshold.high)
    rows = np.flatnonzero(raised)
    return int((np.diff(rows) > 2).sum() + 1) if len(rows) else 0


@pytest.mark.parametrize("shape", ["gaussian", "gamma", "lognormal", "student", "autocorrelated"])
@pytest.mark.parametrize("per_day", [1.0, 4.0])
def test_promise_is_kept(shape, per_day):
    """Learned on four quiet days, the false alarms of 60 others are within a factor of two (median of 5)."""
    others = quiet_scores(shape, 60 * DAY, 99)
    rates = [
        alarms(others, calibrate(quiet_scores(shape, 4 * DAY, seed), 60, per_day)) / 60 for seed in range(5)
    ]
    assert per_day / 2 <= np.median(rates) <= 2 * per_day, rates
    assert max(rates) <= 4 * per_day, rates


@pytest.mark.parametrize("step_s", [5.0, 15.0, 300.0])
def test_promise_at_other_steps(step_s):
    """The promise is about days, whatever the step."""
    rows = int(86_400 / step_s)
    days = 3 if step_s < 100 else 15
    threshold = calibrate(quiet_scores("gamma", days * rows, 0), step_s)
    others = quiet_scores("gamma", 20 * rows, 1)
    rate = alarms(others, threshold) / 20
    assert 0.2 <= rate <= 4


def test_promise_survives_incidents():
    """Ten incidents a day in the scores learned from don't hide the next one, nor break the promise."""
    scores = quiet_scores("gamma", 2 * DAY, 3)
    clean = calibrate(scores, 60)
    for start in range(100, 2 * DAY, 144):
        scores[start : start + 4] = 8 + 0.1 * np.arange(4)
    threshold = calibrate(scores, 60)
    assert 75 <= threshold.rows_set_aside <= 140  # 80 rows of incidents and some of their edges
    assert threshold.high == pytest.approx(clean.high, rel=0.15)
    assert threshold.at_once < 8
    assert "set aside" in threshold.reason


def test_lone_spikes_are_noise():
    """A score that spikes alone every half hour is not worth a page: `at_once` learns it."""
    scores = quiet_scores("gamma", 3 * DAY, 4)
    calm = calibrate(scores, 60)
    scores[::30] = 6 + np.random.default_rng(0).random(len(scores[::30]))
    threshold = calibrate(scores, 60)
    assert threshold.at_once > 6.5
    assert threshold.high < calm.high + 1.5


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_scale_does_not_matter(factor):
    """Scores in other units give the same threshold in those units."""
    scores = quiet_scores("lognormal", 2 * DAY, 5)
    one, other = calibrate(scores, 60), calibrate(scores * factor, 60)
    assert other.high == pytest.approx(one.high * factor, rel=1e-6)
    assert other.at_once == pytest.approx(one.at_once * factor, rel=1e-6)
    assert other.rows_set_aside == one.rows_set_aside


def test_levels_are_ordered_and_stricter_promises_higher():
    scores = quiet_scores("gamma", 3 * DAY, 6)
    levels = [calibrate(scores, 60, per_day) for per_day in (24, 4, 1, 1 / 7, 1 / 30)]
    for t in levels:
        assert t.usual < t.low < t.high <= t.at_once
    assert all(a.high < b.high and a.at_once <= b.at_once for a, b in pairwise(levels))


def test_few_rows_say_so():
    """Thirty scores can't promise one alarm a day: the threshold says so, and what they can promise."""
    threshold = calibrate(quiet_scores("gamma", 30, 7), 60)
    assert threshold.method == "extrapolated"
    assert not threshold.is_kept
    assert threshold.promised_per_day == pytest.approx(1440 / 31)
    assert "too few" in threshold.reason
    assert "needs 2,880 rows" in threshold.reason
    assert threshold.usual < threshold.high < 10


def test_few_rows_that_suffice_are_conformal():
    """Fifty hourly scores carry two alarms a day by rank alone."""
    scores = quiet_scores("gamma", 50, 8)
    threshold = calibrate(scores, 3600, 2.0)
    assert threshold.method == "conformal"
    assert threshold.is_kept
    assert (scores >= threshold.high).sum() == pytest.approx(51 * 2 / 24, abs=1)


def test_nothing_observed():
    """No score, no alarm."""
    for scores in (np.zeros(0), np.full(10, np.nan), np.zeros(500)):
        threshold = calibrate(scores, 60)
        assert threshold.method == "none"
        assert threshold.high == math.inf
        assert json.loads(json.dumps(threshold.to_dict()))["high"] is None


def test_leading_zeros_are_no_basis():
    """A detector that gives 0 until it knows some past is not called very quiet."""
    scores = quiet_scores("gamma", 500, 9)
    assert calibrate(np.concatenate([np.zeros(200), scores]), 60) == calibrate(scores, 60)


def test_missing_scores_are_left_out():
    scores = quiet_scores("gamma", 2 * DAY, 10)
    holes = scores.copy()
    holes[500:900] = np.nan
    threshold = calibrate(holes, 60)
    assert threshold.rows == 2 * DAY - 400
    assert threshold.high == pytest.approx(calibrate(scores, 60).high, rel=0.2)


@pytest.mark.parametrize(("step_s", "per_day"), [(0, 1), (60, 0), (60, -1), (float("nan"), 1)])
def test_impossible_promises(step_s, per_day):
    with pytest.raises(ConfigError):
        calibrate(np.ones(10), step_s, per_day)


def test_confirm_rows():
    assert [confirm_rows(s) for s in (5, 15, 60, 300)] == [(12, 18), (4, 6), (2, 2), (1, 1)]


def test_lasting_is_the_kth_of_n():
    scores = np.random.default_rng(0).random(50)
    scores[20] = np.nan
    slow = [
        sorted(filter(np.isfinite, scores[max(0, i - 5) : i + 1]), reverse=True)[3:4] or [np.nan]
        for i in range(50)
    ]
    np.testing.assert_array_equal(lasting(scores, 4, 6), np.ravel(slow))


@pytest.mark.parametrize(("shape", "scale"), [(0.0, 1.0), (0.3, 2.0), (-0.2, 0.5)])
def test_pareto_is_found(shape, scale):
    """The estimator finds a known tail from 2,000 excesses."""
    u = np.random.default_rng(0).random(2000)
    excess = scale * (-np.log(u) if shape == 0 else (u**-shape - 1) / shape)
    got = fit_pareto(excess)
    assert got == (pytest.approx(shape, abs=0.08), pytest.approx(scale, rel=0.12))


def test_quiet_rows_keep_everything_quiet():
    scores = quiet_scores("gamma", 4 * DAY, 11)
    assert quiet_rows(scores).mean() > 0.998
    assert incident_limit(scores) > np.quantile(scores, 0.999)


# --- causal ---------------------------------------------------------------------------------------


def test_causal_never_reads_ahead():
    """Changing the future changes no threshold of the past or the present row."""
    scores = quiet_scores("gamma", 600, 12)
    changed = scores.copy()
    changed[400:] = 1000
    one, other = calibrate_causal(scores, 60), calibrate_causal(changed, 60)
    np.testing.assert_array_equal(one.high[:401], other.high[:401])
    np.testing.assert_array_equal(one.low[:401], other.low[:401])
    assert not np.array_equal(one.high[401:], other.high[401:])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 90), max_size=12), st.integers(0, 1000))
def test_causal_in_pieces(sizes, seed):
    """Any cut into pieces, empty ones too, gives the same thresholds."""
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(400) < 0.1, np.nan, rng.gamma(4, 0.25, 400))
    scores[: rng.integers(0, 40)] = 0
    whole = calibrate_causal(scores, 60)
    stream = CausalCalibrator(60)
    cuts = np.minimum(np.cumsum([0, *sizes, 400]), 400)
    pieces = [stream.push(scores[a:b]) for a, b in pairwise(cuts)]
    for name in ("high", "at_once", "low", "scale"):
        joined = np.concatenate([getattr(p, name) for p in pieces])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert [h for p in pieces for h in p.history] == list(whole.history)


def test_warm_up_is_silent():
    """No threshold before `warmup_rows` finite scores; the first one right after."""
    scores = quiet_scores("gamma", 200, 13)
    scores[10:30] = np.nan
    causal = calibrate_causal(scores, 60, warmup_rows=50)
    assert np.isinf(causal.high[:70]).all()
    assert np.isfinite(causal.high[70:]).all()
    high, low = causal
    assert (low[70:] < high[70:]).all()
    assert causal.last is not None


def test_an_incident_does_not_raise_the_next_threshold():
    scores = quiet_scores("gamma", 1000, 14)
    struck = scores.copy()
    struck[500:510] = 30
    calm, after = calibrate_causal(scores, 60), calibrate_causal(struck, 60)
    assert after.high[-1] == pytest.approx(calm.high[-1], rel=0.25)
    assert (after.at_once[510:] < 30).all()


def test_a_new_regime_is_learned():
    """Scores that stay three times as high become normal after `relearn_s`, and the past is forgotten."""
    scores = quiet_scores("gamma", 1500, 15)
    scores[700:] *= 4
    causal = calibrate_causal(scores, 60)
    lasting_alarms = lasting(scores, 2, 2) >= causal.high
    assert lasting_alarms[705:780].mean() > 0.2
    assert lasting_alarms[1000:].mean() < 0.02


def test_memory_is_bounded():
    stream = CausalCalibrator(60, memory_rows=300)
    for seed in range(5):
        last = stream.push(quiet_scores("gamma", 400, seed)).last
    assert last is not None
    assert last.rows <= 300


def test_causal_refuses_nonsense():
    with pytest.raises(ConfigError, match="refresh_rows"):
        calibrate_causal(np.ones(5), 60, refresh_rows=0)


GUESS = Guess(high=2.5, at_once=5.0)


def test_few_rows_are_drawn_towards_the_guess():
    """With hardly any row the threshold is the guess, with many what the scores say."""
    few = calibrate(quiet_scores("gamma", 25, 0), 60.0, guess=GUESS)
    assert few.high == pytest.approx(2.5, rel=0.1)
    assert few.at_once == pytest.approx(5.0, rel=0.1)
    many = quiet_scores("gamma", 60 * DAY, 0)
    told, alone = calibrate(many, 60.0, guess=GUESS), calibrate(many, 60.0)
    assert told.high == pytest.approx(alone.high, rel=0.03)
    assert "usual 2.5" in told.reason
    assert "usual" not in alone.reason


@pytest.mark.parametrize(("per_day", "factor"), [(0.1, 10**0.25), (1, 1.0), (10, 10**-0.25)])
def test_a_guess_follows_the_promise(per_day, factor):
    assert GUESS.drawn(1.0, 2.5, 0, per_day * 90 / 86_400) == pytest.approx(2.5 * factor)


def test_a_guess_that_does_not_fit_is_left_out():
    """Scores that are always high are no incident, whatever was guessed."""
    scores = 40 + quiet_scores("gaussian", 200, 1)
    assert calibrate(scores, 60.0, guess=GUESS) == calibrate(scores, 60.0)


def test_incidents_among_few_rows_hide_no_other():
    """300 rows full of faults put the level at 20; it stays where the next fault reaches it."""
    assert 2.5 < GUESS.drawn(20.0, 2.5, 300, 90 / 86_400) < 3.5
    assert GUESS.drawn(20.0, 2.5, 200_000, 90 / 86_400) == pytest.approx(20, rel=0.03)


def test_a_guess_falls_with_the_number_of_kpis():
    levels = [GUESS.over(kpis) for kpis in (0, 100, 101, 300, 3_000, 10_000)]
    highs = [guess.high for guess in levels]
    assert highs == sorted(highs, reverse=True)
    assert (highs[0], highs[1]) == (GUESS.high, GUESS.high)
    assert 0 < highs[-1] == highs[-2]
    assert all(guess.at_once / guess.high == GUESS.at_once / GUESS.high for guess in levels)


def test_causal_with_a_guess_in_pieces():
    scores = quiet_scores("lognormal", 700, 3)
    calibrator = CausalCalibrator(60.0, guess=GUESS)
    pieces = [calibrator.push(part).high for part in np.array_split(scores, 9)]
    np.testing.assert_array_equal(np.concatenate(pieces), calibrate_causal(scores, 60.0, guess=GUESS).high)


def test_incidents_that_last_teach_a_finished_recording_nothing():
    """It is learned again without them; how many rows there were stays known."""
    scores = 0.2 * quiet_scores("gamma", 1000, 2)
    planted = np.arange(1000) % 80 > 67
    scores[planted] = 2 + 0.01 * np.arange(planted.sum())
    finished = calibrate_finished(scores, 60.0)
    known = calibrate(scores, 60.0, aside=planted)
    assert finished.high == pytest.approx(known.high, rel=0.03)
    assert (finished.rows, known.rows) == (1000, 1000)
    assert planted.sum() <= known.rows_set_aside <= finished.rows_set_aside <= planted.sum() + 20
    assert "set aside as incidents" in finished.reason


def test_short_rises_of_a_finished_recording_are_noise():
    scores = quiet_scores("gamma", 2000, 5)
    scores[100::200] += 3
    scores[101::200] += 3
    assert calibrate_finished(scores, 60.0) == calibrate(scores, 60.0)


@pytest.mark.parametrize(("shape", "most"), [("gamma", 1.5), ("lognormal", 1.5), ("autocorrelated", 3.0)])
def test_a_finished_quiet_recording_keeps_the_promise(shape, most):
    days = [quiet_scores(shape, 5 * DAY, seed) for seed in range(8)]
    found = sum(alarms(scores, calibrate_finished(scores, 60.0)) for scores in days)
    assert 0.4 < found / 40 < most


def test_the_first_rows_of_a_finished_recording_teach_nothing():
    scores = quiet_scores("gaussian", 1000, 4)
    early = np.where(np.arange(1000) < 40, 30.0, scores)
    assert calibrate_finished(early, 60.0, is_beginning=True).rows == 1000 - 64
    assert calibrate_finished(early, 60.0, is_beginning=True).high < 6
    assert calibrate_finished(early[:400], 60.0, is_beginning=True).rows == 400


@pytest.mark.parametrize("bad", [{"high": 0.0}, {"at_once": 1.0}, {"rows": 0.0}])
def test_impossible_guesses(bad):
    with pytest.raises(ConfigError, match="makes no threshold"):
        Guess(**{"high": 2.5, "at_once": 5.0, **bad})
