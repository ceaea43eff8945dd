"""Metrics: against scikit-learn, on ties, and on what can't be answered."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import naive
from foreshock.errors import FrameError
from foreshock.metrics import (
    METRICS,
    Judged,
    at_threshold,
    average_precision,
    best_f1_oracle,
    best_threshold_oracle,
    count_events,
    fault_spans,
    period,
    point_adjusted_f1,
    point_adjusted_f1_oracle,
    roc_auc,
    spans,
    vus_pr,
    vus_pr_tsb_ad,
    vus_roc,
    vus_roc_tsb_ad,
)

RANK = (average_precision, roc_auc, best_f1_oracle, vus_pr, vus_roc, vus_pr_tsb_ad, vus_roc_tsb_ad)
RANGES = (vus_pr, vus_roc, vus_pr_tsb_ad, vus_roc_tsb_ad)


def labelled(seed: int, rows: int = 80, events: int = 4) -> tuple[np.random.Generator, np.ndarray]:
    """Labels of both classes: a few short events, some of which may touch or lie at the edge."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(rows, bool)
    for start in rng.integers(0, rows, events):
        truth[start : start + rng.integers(1, 8)] = True
    truth[rng.integers(0, rows)] = False
    truth[0] |= not truth.any()
    return rng, truth


@given(st.integers(0, 2**31), st.integers(2, 80), st.integers(1, 6))
def test_agree_with_scikit_learn(seed, rows, levels):
    """Ties included, to 1e-9."""
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    score = rng.integers(0, levels, rows) / 3
    truth = rng.random(rows) < 0.4
    truth[:2] = [True, False]
    assert average_precision(score, truth) == pytest.approx(sklearn.average_precision_score(truth, score))
    assert roc_auc(score, truth) == pytest.approx(sklearn.roc_auc_score(truth, score))


@settings(max_examples=50)
@given(st.integers(0, 2**31))
def test_rank_metrics_ignore_monotone_changes(seed):
    """Only the order of scores counts."""
    rng, truth = labelled(seed)
    score = rng.normal(size=len(truth))
    for metric in RANK:
        more = {"window": 20} if metric in RANGES else {}
        assert metric(score, truth, **more) == pytest.approx(metric(np.exp(score) * 7, truth, **more))
    adjusted = [point_adjusted_f1_oracle(s, truth).f1 for s in (score, np.exp(score) * 7)]
    assert adjusted[0] == pytest.approx(adjusted[1])


def test_perfect_and_impossible():
    """A perfect score gives 1; one class gives NaN; a wrong shape is refused."""
    truth = np.array([0, 0, 1, 1, 0], bool)
    assert average_precision(truth.astype(float), truth) == 1
    assert roc_auc(truth.astype(float), truth) == 1
    assert np.isnan(average_precision(np.ones(3), np.zeros(3, bool)))
    assert np.isnan(roc_auc(np.ones(3), np.ones(3, bool)))
    with pytest.raises(FrameError, match="shape"):
        roc_auc(np.ones(3), np.ones(4, bool))


def test_ignored_and_missing_rows_do_not_count():
    """A wrong score on an ignored or unobserved row changes nothing."""
    truth = np.array([0, 1, 0, 0], bool)
    score = np.array([0.0, 1.0, 9.0, np.nan])
    ignore = np.array([0, 0, 1, 0], bool)
    assert average_precision(score, truth, ignore) == 1


def test_an_event_counts_once():
    """Two alarms on one fault find it once; one elsewhere is false; one on an ignored row is neither."""
    alarms = [SimpleNamespace(start=a, end=b) for a, b in ((10, 11), (12, 14), (40, 42), (60, 61))]
    ignore = np.zeros(100, bool)
    ignore[60] = True
    counts = count_events(alarms, [(9, 13), (80, 84)], 100, 60.0, ignore)
    assert (counts.faults, counts.found, counts.alarms, counts.false_alarms) == (2, 1, 4, 1)
    assert counts.delays_s == (60.0,)
    assert counts.recall == 0.5


def test_fault_spans_follow_the_ids():
    """Rows of one id belong together; -1 is none."""
    assert fault_spans(np.array([-1, 3, 3, -1, 4, -1])) == [(1, 3), (4, 5)]


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(0, 24), st.booleans(), st.booleans())
def test_ranges_agree_with_the_slow_twin(seed, window, tsb_ad, some_are_left_out):
    """Both definitions, row by row: ties, events that touch, rows left out, odd and even buffers."""
    rng, truth = labelled(seed, rows=int(np.random.default_rng(seed).integers(8, 50)))
    score = rng.integers(0, rng.integers(2, 30), len(truth)) / 3 + truth * rng.random() * 3
    keep = rng.random(len(truth)) < (0.8 if some_are_left_out else 1)
    assume(0 < (truth & keep).sum() < keep.sum() and np.ptp(score[keep]) > 0)
    pr, roc = (vus_pr_tsb_ad, vus_roc_tsb_ad) if tsb_ad else (vus_pr, vus_roc)
    expected = naive.vus(score, truth, keep, window, tsb_ad)
    assert (pr(score, truth, ~keep, window), roc(score, truth, ~keep, window)) == pytest.approx(expected)


def test_ranges_of_a_perfect_score():
    """The original gives 1 only without a buffer; with one, what is told outside the events is asked for."""
    _, truth = labelled(3, 400)
    assert vus_pr(truth.astype(float), truth, window=0) == pytest.approx(1)
    assert vus_pr_tsb_ad(truth.astype(float), truth, window=0) == pytest.approx(1)
    assert vus_roc_tsb_ad(truth.astype(float), truth, window=0) == pytest.approx(1)
    for metric in (vus_pr, vus_pr_tsb_ad):
        values = [metric(truth + 0.0, truth, window=w) for w in (0, 10, 40)]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("metric", RANK)
def test_shuffled_labels_give_chance(metric):
    """With labels that know nothing of the scores, every metric is what a random score gets."""
    rng = np.random.default_rng(0)
    truth = np.zeros(4000, bool)
    for start in range(50, 4000, 200):
        truth[start : start + 20] = True
    score = truth + rng.normal(size=4000)
    more = {"window": 20} if metric in RANGES else {}
    shifts = rng.integers(0, 19, 12) * 200 + 100
    moved = [metric(np.roll(score, shift), truth, **more) for shift in shifts]
    chance = [metric(rng.permutation(score), truth, **more) for _ in range(12)]
    assert np.mean(moved) == pytest.approx(np.mean(chance), abs=0.06)
    assert metric(score, truth, **more) > np.mean(chance) + 0.1


@pytest.mark.parametrize("metric", RANGES)
def test_one_class_has_no_range_metric(metric):
    """All normal, all anomalous, nothing left: NaN. A window below 0 is refused."""
    score = np.arange(20.0)
    assert np.isnan(metric(score, np.zeros(20, bool)))
    assert np.isnan(metric(score, np.ones(20, bool)))
    assert np.isnan(metric(score, np.arange(20) == 3, np.ones(20, bool)))
    assert np.isnan(metric(np.full(20, np.nan), np.arange(20) == 3))
    with pytest.raises(FrameError, match="window"):
        metric(score, np.arange(20) == 3, window=-1)


def test_a_score_that_never_changes():
    """It tells nothing: 0 in the original definition, about the share of positive rows in TSB-AD's."""
    truth = np.zeros(400, bool)
    truth[100:140] = True
    flat = np.ones(400)
    assert vus_pr(flat, truth) == vus_roc(flat, truth) == 0
    assert vus_pr_tsb_ad(flat, truth, window=0) == pytest.approx(0.1)
    assert average_precision(flat, truth) == pytest.approx(0.1)
    assert roc_auc(flat, truth) == 0.5


@given(st.integers(0, 2**31))
def test_thresholds_agree_with_counting(seed):
    """F1 at every level by hand; the best of them is the oracle's, at its threshold."""
    rng, truth = labelled(seed)
    score = rng.integers(0, 9, len(truth)) / 2
    plain = {}
    for level in np.unique(score):
        got, told = at_threshold(score, truth, level), score >= level
        plain[level] = naive.point_adjusted_f1(told, truth, 1.0)
        assert got.f1 == pytest.approx(plain[level])
        assert (got.precision, got.recall) == (
            (told & truth).sum() / told.sum(),
            (told & truth).sum() / truth.sum(),
        )
    assert best_f1_oracle(score, truth) == pytest.approx(max(plain.values()))
    assert plain[best_threshold_oracle(score, truth)] == pytest.approx(max(plain.values()))


def test_a_threshold_above_all_scores():
    """Nothing told: F1 and recall 0, precision not defined. No positive row: recall and F1 not defined."""
    none = at_threshold(np.arange(5.0), np.array([0, 1, 0, 0, 1]), 9.0)
    assert (none.f1, none.recall) == (0, 0)
    assert np.isnan(none.precision)
    quiet = at_threshold(np.arange(5.0), np.zeros(5), 3.0)
    assert np.isnan(quiet.recall)
    assert np.isnan(quiet.f1)
    assert quiet.precision == 0


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_point_adjustment_agrees_with_its_slow_twin(seed, share):
    """At every threshold, and at the best; never below the plain figure; a random score beside it."""
    rng, truth = labelled(seed)
    score = rng.integers(0, 12, len(truth)) / 2
    found = {level: naive.point_adjusted_f1(score >= level, truth, share) for level in np.unique(score)}
    for level, expected in found.items():
        got = point_adjusted_f1(score, truth, level, share=share)
        assert got.f1 == pytest.approx(expected)
        assert got.f1 >= got.plain_f1 - 1e-12
        assert 0 <= got.random_f1 <= 1
    best = point_adjusted_f1_oracle(score, truth, share=share)
    assert best.f1 >= max(found.values()) - 1e-12
    with pytest.raises(FrameError, match="share"):
        point_adjusted_f1(score, truth, 1.0, share=1.0)


def test_a_random_score_does_well_when_adjusted():
    """Why adjusted figures stand beside a random baseline: long events make chance look good."""
    truth = np.zeros(5000, bool)
    for start in range(200, 5000, 1000):
        truth[start : start + 300] = True
    got = point_adjusted_f1_oracle(np.random.default_rng(1).random(5000), truth)
    assert got.random_f1 > 0.9
    assert got.plain_f1 < 0.5


def test_delays_and_alarms_a_day():
    """Median and 90th percentile over the faults found, the rest as a share; alarms per counted day."""
    alarms = [SimpleNamespace(start=a, end=a + 2) for a in (102, 204, 700, 900)]
    faults = [(100, 110), (200, 210), (300, 310), (400, 410)]
    counts = count_events(alarms, faults, 1440, 60.0)
    assert counts.delays_s == (120.0, 240.0)
    assert counts.delay_median_s == 180
    assert counts.delay_p90_s == pytest.approx(228)
    assert counts.never_found == 0.5
    assert counts.false_alarms_per_day == pytest.approx(2)
    assert (counts.precision, counts.recall, counts.f1) == (0.5, 0.5, 0.5)


def test_events_without_faults_or_alarms():
    """No alarm: F1 0, no delay. No fault: recall and F1 not defined. Spans outside the rows are refused."""
    silent = count_events([], [(3, 5)], 10, 60.0)
    assert (silent.recall, silent.f1, silent.never_found) == (0, 0, 1)
    assert np.isnan([silent.precision, silent.delay_median_s, silent.delay_p90_s]).all()
    calm = count_events([SimpleNamespace(start=1, end=2)], [], 10, 60.0)
    assert np.isnan([calm.recall, calm.f1, calm.never_found]).all()
    with pytest.raises(FrameError, match="fault from row 8 to 12"):
        count_events([], [(8, 12)], 10, 60.0)
    with pytest.raises(FrameError, match="tolerance"):
        count_events([], [], 10, 60.0, tolerance_rows=-1)


def test_spans_are_runs():
    """First row and the row after the last, at the edges too."""
    assert spans(np.array([1, 1, 0, 1, 0, 1], bool)) == [(0, 2), (3, 4), (5, 6)]
    assert spans(np.zeros(3, bool)) == []


@pytest.mark.parametrize("rows", [6, 24, 96, 250])
def test_period_of_a_wave(rows):
    """The dominant period, with noise; 125 for what has none; missing values are left out."""
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(4000) * 2 * np.pi / rows) + rng.normal(0, 0.05, 4000)
    assert period(wave) == rows
    assert period(np.append(wave, np.nan)) == rows
    assert period(np.ones(500)) == period(np.ones(3)) == 125
    with pytest.raises(FrameError, match="one series"):
        period(np.ones((5, 2)))


def test_bad_scores_and_labels_are_refused():
    """Infinite scores, labels other than 0 and 1, a threshold that is none, shapes of ignored rows."""
    with pytest.raises(FrameError, match="row 2 is infinite"):
        average_precision(np.array([0, 1, np.inf]), np.array([0, 1, 0]))
    with pytest.raises(FrameError, match="labels hold 2"):
        vus_pr(np.arange(3.0), np.array([0, 1, 2]))
    with pytest.raises(FrameError, match="NaN"):
        at_threshold(np.arange(3.0), np.array([0, 1, 0]), float("nan"))
    with pytest.raises(FrameError, match="ignored rows"):
        roc_auc(np.arange(3.0), np.array([0, 1, 0]), np.zeros(4, bool))
    with pytest.raises(FrameError, match="calibrate"):
        METRICS["f1"](Judged(np.arange(3.0), np.array([0, 1, 0])))
    with pytest.raises(FrameError, match="calibrate"):
        METRICS["event_f1"](Judged(np.arange(3.0), np.array([0, 1, 0])))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_leaves_ignored_rows_out(name):
    """Whatever an ignored or unscored row says, the figure is the same; every metric takes every input."""
    rng, truth = labelled(5, 600, 8)
    score = truth + rng.normal(0, 0.4, 600)
    ignore = np.zeros(600, bool)
    ignore[40:60] = ignore[300:303] = True
    gone, wild = np.where(ignore, np.nan, score), np.where(ignore, 99.0, score)
    other = np.where(ignore & ~truth, 5.0, score)
    values = [
        METRICS[name](Judged(s, truth, i, window_rows=20, threshold=0.8))
        for s, i in ((gone, ignore), (wild, ignore), (other, ignore), (gone, None))
    ]
    assert np.isfinite(values[0])
    assert values == pytest.approx([values[0]] * 4)
    assert isinstance(METRICS[name](Judged(score, np.zeros(600), None, threshold=0.8)), float)


def test_range_metrics_are_aeons():
    """What aeon said of 120 seeded series (`metrics_speed.py --agree`): ties, ends, buffers; to 1e-9."""
    import metrics_speed

    lines = [json.loads(line) for line in metrics_speed.AGREEMENT.read_text("utf-8").splitlines()]
    assert len(lines) == metrics_speed.SMALL_CASES
    for line in lines:
        score, truth, window = metrics_speed.small_case(line["seed"])
        assert vus_pr(score, truth, window=window) == pytest.approx(line["vus_pr"], abs=1e-9), line
        assert vus_roc(score, truth, window=window) == pytest.approx(line["vus_roc"], abs=1e-9), line
