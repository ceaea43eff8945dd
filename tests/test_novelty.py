"""Novelty: the nearest past stretch of a KPI itself, the same in pieces."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.models.novelty import HELD, LEAST, LENGTH, MOST, STEP, STRETCHES, USUAL, Novelty


def slow_novelty(values: np.ndarray) -> np.ndarray:
    """Row by row, every distance computed for itself."""
    out, said, distances, samples = np.zeros(len(values)), 0.0, [], []
    for row in range(len(values)):
        out[row] = said
        if (row + 1) % STEP == 0:
            samples.append(values[row + 1 - STEP : row + 1].mean())
            known = values[: row + 1][np.isfinite(values[: row + 1])]
            last, far = len(samples) - 1, np.inf
            for end in range(max(LENGTH - 1, last - LENGTH - STRETCHES + 1), last - LENGTH + 1):
                one, other = (np.array(samples[e - LENGTH + 1 : e + 1]) for e in (end, last))
                if np.isfinite(one).all() and np.isfinite(other).all():
                    far = min(far, float(np.linalg.norm(one - one.mean() - other + other.mean())))
            said = 0.0
            if np.isfinite(far):
                distances.append(far / known.std() if known.std() > 0 else 0.0)
                if len(distances) > LEAST:
                    usual = max(float(np.mean(distances)), USUAL)
                    said = min(max(distances[-1] / usual - 1, 0.0) ** 2, MOST)
    return out


def beats(rows: int, every: int, seed: int = 0) -> np.ndarray:
    """A shape that comes back, with noise."""
    rng = np.random.default_rng(seed)
    return np.sin(np.arange(rows) * 2 * np.pi / every) + 0.05 * rng.normal(size=rows)


def test_agrees_with_the_slow_twin(monkeypatch: pytest.MonkeyPatch):
    """One KPI wanders, one begins late, one stands still and then moves; past the memory's end."""
    monkeypatch.setattr("foreshock.models.novelty.STRETCHES", 40)
    monkeypatch.setattr("foreshock.models.novelty.HELD", 40 + 2 * LENGTH - 1)
    monkeypatch.setitem(globals(), "STRETCHES", 40)
    rng = np.random.default_rng(1)
    values = np.stack([rng.normal(size=1500).cumsum(), beats(1500, 90), np.full(1500, 3.0)], axis=1)
    values[:77, 1] = np.nan
    values[1300:, 2] += beats(200, 30)
    got = Novelty().push(values)
    for k in range(3):
        np.testing.assert_allclose(got[:, k], slow_novelty(values[:, k]), rtol=1e-6, atol=1e-9)
    assert got[1310:, 2].max() > 1


@pytest.mark.parametrize("is_ahead", [True, False])
@pytest.mark.parametrize("size", [1, 7, 640])
def test_pieces_give_the_same(size: int, is_ahead: bool):
    """However the rows arrive, and whether what is next is worked out ahead."""
    values = np.stack([beats(2000, 60), np.random.default_rng(2).normal(size=2000).cumsum()], axis=1)
    values[:33, 0] = np.nan
    parts = Novelty()
    pieces = []
    for at in range(0, len(values), size):
        pieces.append(parts.push(values[at : at + size]))
        if is_ahead:
            parts.prepare()
            assert len(parts.tail) < STEP
    np.testing.assert_allclose(np.concatenate(pieces), Novelty().push(values), rtol=1e-9, atol=1e-9)
    assert len(parts.samples) <= HELD


def test_a_beat_that_comes_out_wrong_is_new():
    """Half the tempo for a while, no row out of the ordinary. The beats before are nothing new."""
    values = beats(4000, 64)
    values[3000:3200] = beats(200, 128, 1)
    found = Novelty().push(values[:, None])[:, 0]
    assert found[3100:3256].max() > 10 * found[1000:3000].max()


def test_new_kpis_begin_with_nothing():
    """Taken in another order, with one more: as if it had been silent from the first row on."""
    values = np.stack([beats(1600, 60), beats(1600, 90, 1), beats(1600, 45, 2)], axis=1)
    values[:801, 2] = np.nan
    stream = Novelty()
    stream.push(values[:801, :2])
    stream.take(np.array([1, -1, 0]))
    got = stream.push(values[801:, [1, 2, 0]])
    np.testing.assert_allclose(got, Novelty().push(values)[801:, [1, 2, 0]], rtol=1e-9, atol=1e-9)
