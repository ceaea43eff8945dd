"""Metrics: against scikit-learn, on ties, and on what can't be answered."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.errors import FrameError
from foreshock.metrics import average_precision, count_events, fault_spans, roc_auc


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


@given(st.integers(0, 2**31))
def test_rank_metrics_ignore_monotone_changes(seed):
    """Only the order of scores counts."""
    rng = np.random.default_rng(seed)
    score, truth = rng.normal(size=50), rng.random(50) < 0.3
    truth[0] = True
    for metric in (average_precision, roc_auc):
        assert metric(score, truth) == pytest.approx(metric(np.exp(score) * 7, truth))


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
