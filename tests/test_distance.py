"""Distance from a KPI's whole past: thinned, robust, the same in pieces."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.models.distance import FAR, KEPT, LEAST_SPREAD, MOST, STRIDE, Distance
from foreshock.models.evidence import EvidenceOptions, block_starts

OPTIONS = EvidenceOptions()


def slow_distance(values: np.ndarray) -> np.ndarray:
    """Row by row, the past thinned anew where a block begins."""
    out = np.zeros(len(values))
    starts = set(block_starts(0, len(values), OPTIONS).tolist())
    median, spread = np.nan, np.inf
    for row, value in enumerate(values):
        if row in starts and row:
            stride = 1
            while -(-row // stride) > KEPT and stride < STRIDE:
                stride *= 2
            past = values[:row][::stride][-KEPT:]
            past = past[np.isfinite(past)]
            median = np.median(past)
            spread = max(np.median(np.abs(past - median)) / 0.6745, LEAST_SPREAD * past.std())
            spread = spread if spread > 0 else np.inf
        if np.isfinite(value) and np.isfinite(median):
            out[row] = np.clip(abs(value - median) / spread - FAR, 0, MOST)
    return out


def walk(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=rows).cumsum() + rng.normal(size=rows) * 5
    values[rng.random(rows) < 0.05] = np.nan
    return values


def test_agrees_with_the_slow_twin_past_every_thinning():
    """12,000 rows: the memory doubles its stride three times and then forgets."""
    values = walk(12_000)
    np.testing.assert_allclose(
        Distance(OPTIONS).push(values[:, None])[:, 0], slow_distance(values), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_give_the_same(size):
    """However the rows arrive, to the bit."""
    values = np.stack([walk(2600, seed) for seed in range(3)], axis=1)
    whole, parts = Distance(OPTIONS).push(values), Distance(OPTIONS)
    pieces = [parts.push(values[at : at + size]) for at in range(0, len(values), size)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_a_lasting_incident_stays_far():
    """An hour at a new level is still far from the past at its end; a KPI that never moved says nothing."""
    rng = np.random.default_rng(1)
    values = np.stack([rng.normal(size=2000), np.full(2000, 3.0)], axis=1)
    values[1500:1600, 0] += 10
    far = Distance(OPTIONS).push(values)
    assert far[1500:1600, 0].min() > 2
    assert far[600:1500, 0].max() < 2
    assert not far[:, 1].any()


def test_what_is_not_observed_is_not_far():
    """A silent KPI has no distance, and an empty past none either."""
    assert not Distance(OPTIONS).push(np.full((100, 2), np.nan)).any()
