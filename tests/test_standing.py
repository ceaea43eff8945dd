"""Ranks in the past, and sums of them: the same in pieces, whatever the tail, however often observed."""

from __future__ import annotations

from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest

from foreshock.models.signals import Chance, Lasting
from foreshock.models.standing import FEW, KEPT, Standing


def leaning(values: np.ndarray, stride: int = 1) -> np.ndarray:
    """(n, K) → (n, K), the slower sum."""
    deviates = Standing(stride).push(values).astype(np.float32)
    return (Lasting().push(deviates) / Chance().push(np.isfinite(values)))[:, 1]


def test_ranks_are_normal_deviates():
    """Of all values before, equal ones in the middle; what is not observed stands at 0."""
    rng = np.random.default_rng(0)
    past = rng.exponential(size=(KEPT, 1))
    standing = Standing()
    standing.push(past)
    new = np.array([[1e9], [-1.0], [np.median(past)], [np.nan]])
    deviates = standing.push(new)[:, 0]
    trust = KEPT / (KEPT + FEW)
    highest = NormalDist().inv_cdf((KEPT + 0.5) / (KEPT + 1)) * trust
    np.testing.assert_allclose(deviates, [highest, -highest, 0, 0], atol=0.02)
    assert not Standing().push(np.full((300, 2), 5.0)).any()
    assert not Standing().push(np.full((40, 2), np.nan)).any()


def test_a_thinned_past_is_longer():
    """Every fourth row of four times as many: what rose 200 rows ago is still above most of it."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((1600, 40))
    values[1300:] += 5
    short, long = (np.median(leaning(values, stride)[1500]) for stride in (1, 4))
    assert short < 2 < 4 < long


def test_heavy_tails_hide_no_shift():
    """Three times as slow for twenty rows stands out among calls that are ten times as slow now and then."""
    rng = np.random.default_rng(2)
    slow = rng.lognormal(0.0, 1.2, (3000, 20))
    quiet = leaning(slow)[300:]
    slow[2000:2020] *= 3
    assert np.median(leaning(slow)[2015]) > np.quantile(quiet, 0.99)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_rare_values_count_as_well(share: float):
    """Sums have a spread of nearly 1 by chance, and what is never observed again fades to 0."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((1000, 50))
    values[rng.random(values.shape) > share] = np.nan
    assert 0.7 < leaning(values)[200:].std() < 1
    values[990:] = np.nan
    values[970:990] += 3
    gone = leaning(np.concatenate([values, np.full((60, 50), np.nan)]))
    assert np.median(gone[989]) > 2.5
    assert np.abs(gone[-1]).max() < 0.1


def test_pieces_and_columns():
    """Rows one by one, or all at once; a KPI that comes later is as one never observed."""
    rng = np.random.default_rng(4)
    values = rng.standard_normal((700, 4))
    values[rng.random(values.shape) < 0.2] = np.nan
    values[:400, 0] = np.nan
    whole = Standing(4).push(values)
    stream, edges = Standing(4), [0, 1, 31, 33, 300, 400, 700]
    pieces = []
    for a, b in pairwise(edges):
        if a == 400:
            stream.take(np.array([-1, 0, 1, 2]))
        pieces.append(stream.push(values[a:b] if a >= 400 else values[a:b, 1:]))
    np.testing.assert_array_equal(np.concatenate(pieces[:-1]), whole[:400, 1:])
    np.testing.assert_array_equal(pieces[-1], whole[400:])
