"""What is told of single KPIs: the same in pieces, 0 where all is as usual, and what each signal is for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from foreshock.models.signals import ROUGHEST, WAYS, Lately, Roughness, Signals, Silence, distance

ROWS, KPIS = 400, 5


def heard(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Evidence, direction, values with holes, level and spread of some KPIs."""
    rng = np.random.default_rng(seed)
    values = 10 + rng.standard_normal((ROWS, KPIS)).cumsum(0) * 0.05 + 0.3 * rng.standard_normal((ROWS, KPIS))
    values[rng.random(values.shape) < 0.1] = np.nan
    level, spread = np.full(values.shape, 10.0), np.full(values.shape, 0.5)
    level[:32], spread[:32] = np.nan, 0.0  # before anything is known
    evidence = np.where(np.isfinite(values), rng.exponential(0.3, values.shape), 0)
    return evidence, rng.random(values.shape) < 0.5, values, level, spread


def test_pieces_do_not_matter():
    """Rows one by one, or all at once; numbers are finite and never below 0."""
    parts, drifts = heard(), np.arange(KPIS) == 1
    whole = Signals().push(*parts, drifts)
    assert whole.shape == (ROWS, 2, len(WAYS), KPIS)
    assert np.isfinite(whole).all()
    assert whole.min() >= 0
    stream, edges = Signals(), [0, 1, 2, 40, 41, 300, ROWS]
    pieces = [stream.push(*(part[a:b] for part in parts), drifts) for a, b in pairwise(edges)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)
    for way in ("risen", "fallen"):
        assert not whole[:, :, WAYS.index(way), 1].any()  # it wanders
        assert whole[:, :, WAYS.index(way), 0].any()


def test_other_columns_keep_their_past():
    """A KPI that comes later is as one that was never observed; others go on where they were."""
    parts = [part.copy() for part in heard(1)]
    parts[2][:200, 0], parts[0][:200, 0] = np.nan, 0
    drifts = np.zeros(KPIS, bool)
    whole = Signals().push(*parts, drifts)
    stream = Signals()
    stream.push(*(part[:200, 1:] for part in parts), drifts[1:])
    stream.take(np.array([-1, 0, 1, 2, 3]))
    np.testing.assert_allclose(stream.push(*(part[200:] for part in parts), drifts), whole[200:], atol=1e-6)


def test_half_is_as_far_as_twice():
    """Distance is symmetrical, and what is not observed or not known is not far."""
    level, spread = np.full(6, 8.0), np.full(6, 0.1)
    far = distance(np.array([16.0, 4.0, 8.0, np.nan, 0.0, -8.0]), level, spread)
    assert far[0] == pytest.approx(-far[1], rel=0.02)
    assert far[2] == far[3] == 0
    assert far[4] < far[1] < 0
    assert far[5] < far[1]
    assert distance(np.array([1.0]), np.array([np.nan]), np.array([0.0]))[0] == 0


def test_a_rise_at_night_is_seen():
    """Twice the night's level is far from it, though it is the day's."""
    rng = np.random.default_rng(2)
    day, night, rise = (
        level + 0.5 * rng.standard_normal((n, 1)) for level, n in ((20, 300), (10, 400), (20, 20))
    )
    values = np.concatenate([day, night, rise])
    usual = np.full(values.shape, 20.0), np.full(values.shape, 2.0)
    lately = Lately().push(values, *usual)
    assert lately[-20:].mean() > 0.5
    assert np.abs(lately[600:700]).max() < 0.3
    assert lately[305] < -0.5  # as night falls
    assert not Lately().push(values[:1], usual[0][:1], usual[1][:1]).any()  # nothing is known yet


def test_one_wild_value_moves_no_level():
    """A spike of a thousand spreads counts as eight in what is usual lately."""
    values = np.full((300, 1), 10.0) + 0.1 * np.random.default_rng(3).standard_normal((300, 1))
    values[200] = 1e9
    lately = Lately()
    lately.push(values, np.full(values.shape, 10.0), np.full(values.shape, 0.1))
    assert lately.known is not None
    assert abs(lately.known[0, 0] - 10) < 0.05


def test_roughness_is_of_the_noise():
    """What scales with calls grows rougher with its level; what something steady is added to does not."""
    rng = np.random.default_rng(4)
    noise = 1 + 0.2 * rng.standard_normal((300, 1))
    scaled, raised = noise.copy(), noise.copy()
    scaled[250:] *= 8
    raised[250:] += 7
    spread = np.full(noise.shape, 0.2)
    rough = [Roughness().push(values, spread)[255:].mean() for values in (noise, scaled, raised)]
    assert rough[1] > 1.5
    assert rough[2] == pytest.approx(rough[0], abs=0.05)
    lonely = Roughness().push(np.where(np.arange(20)[:, None] % 2 == 0, 1.0, 0.0), np.zeros((20, 1)))
    assert lonely.max() == ROUGHEST  # whatever moves where nothing ever did
    assert not Roughness().push(np.full((20, 1), np.nan), np.zeros((20, 1))).any()


def test_silence_is_by_habit():
    """A KPI that is always there and stops is silent; one that rarely speaks is not."""
    seen = np.ones((600, 2), bool)
    seen[:, 1] = np.arange(600) % 50 == 0
    seen[595:] = False
    silent = Silence().push(seen)
    assert silent[-1, 0] > 0.9
    assert silent[-1, 1] < 0.1
    assert not silent[:595, 0].any()
