"""Discords: the nearest of a KPI's own past states, the same in pieces."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.models.discord import FAR, LEAST, MOST, PAST, SIZE, Discord, States, reduced
from foreshock.windows import PATCH

WINDOW = 32  # patches that a state has read


def drawn(patches: int, kpis: int, seed: int = 0) -> States:
    """States that wander, of windows of 32 patches."""
    steps = np.random.default_rng(seed).normal(size=(patches, kpis, SIZE))
    values = np.tanh(0.3 * np.cumsum(steps, 0)).astype(np.float16)
    return States(0, values, np.arange(patches) - WINDOW)


def slow(states: States) -> np.ndarray:
    """Patch by patch and KPI by KPI, from float64."""
    values, out = states.values.astype(float), np.zeros(states.values.shape[:2])
    for k in range(values.shape[1]):
        told: list[float] = []
        for p in range(len(values)):
            past = range(max(0, states.began[p] - PAST + 1), states.began[p] + 1)
            far = [np.linalg.norm(values[p, k] - values[q, k]) for q in past]
            far = [one for one in far if np.isfinite(one)]
            if not far or not np.isfinite(values[p, k]).all():
                continue
            told.append(min(far))
            if len(told) > LEAST:
                out[p, k] = min(max(told[-1] / np.mean(told) - FAR, 0) ** 2, MOST)
    return out


def part(states: States, start: int, stop: int) -> States:
    return States(states.first + start, states.values[start:stop], states.began[start:stop])


def test_agrees_with_the_slow_twin():
    """One KPI is told from the 40th patch on and once not at all; past the memory's end."""
    states = drawn(700, 3)
    states.values[:40, 1] = np.nan
    states.values[300, 1] = np.nan
    np.testing.assert_allclose(Discord().push(states), slow(states), atol=2e-3)


@pytest.mark.parametrize("sizes", [[1] * 200, [7, 16, 17, 1, 59, 100]])
def test_pieces_give_what_the_whole_gives(sizes):
    """The newest patch is told again while its rows come; its state counts once."""
    states = drawn(200, 2, seed=1)
    whole, stream, at = Discord().push(states), Discord(), 0
    for size in sizes:
        start = max(0, at - 1)
        said = stream.push(part(states, start, at + size))
        np.testing.assert_allclose(said, whole[start : at + size], rtol=1e-5, atol=1e-6)
        again = stream.push(part(states, at + size - 1, at + size))
        np.testing.assert_array_equal(again[-1], said[-1])
        at += size


def test_a_state_never_seen_stands_out():
    """The same wave again and again, and once something else."""
    rng = np.random.default_rng(2)
    turn = np.stack([np.sin(np.arange(400)), np.cos(np.arange(400))], 1)
    values = np.zeros((400, 1, SIZE), np.float16)
    values[:, 0, :2] = turn + 0.01 * rng.normal(size=turn.shape)
    values[350:354, 0, 2] = 3
    said = Discord().push(States(0, values, np.arange(400) - WINDOW))[:, 0]
    assert said[350:354].min() > 10 > 3 > np.delete(said, range(350, 354)).max()


def test_other_columns():
    states = drawn(300, 3, seed=3)
    whole = Discord().push(states)
    stream = Discord()
    stream.push(part(states, 0, 150))
    stream.take(np.array([2, -1, 0]))
    other = part(states, 150, 300)
    values = other.values[:, [2, 1, 0]]
    said = stream.push(States(150, values, other.began))
    np.testing.assert_allclose(said[:, [0, 2]], whole[150:, [2, 0]], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(said[: WINDOW + LEAST, 1], 0)  # as if its past had never been


def test_distances_survive_the_projection():
    states = np.random.default_rng(4).normal(size=(200, 128)).astype(np.float32)
    kept = reduced(states).astype(float)
    wanted = np.linalg.norm(states[:100] - states[100:], axis=1)
    got = np.linalg.norm(kept[:100] - kept[100:], axis=1)
    assert np.corrcoef(wanted, got)[0, 1] > 0.3
    assert np.median(got / wanted) == pytest.approx(1, abs=0.05)
    assert reduced(np.zeros((5, 16), np.float32)).shape == (5, 16)
    assert PATCH * PAST == 4096
