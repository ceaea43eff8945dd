"""Zero-shot scoring with the network: what is hidden, what is filled, both modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foreshock.errors import ConfigError
from foreshock.frame import Frame, Kpi
from foreshock.models.moment import Moment, MomentConfig
from foreshock.models.reconstruct import (
    MomentExpectation,
    PublishedDetector,
    expect_end,
    fill_forward,
    hide_in_turn,
    moment_detector,
)


@pytest.fixture(scope="module")
def tiny() -> Moment:
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2, "seq_len": 128}
    return Moment(MomentConfig(**shape, vocab_size=32)).eval()


class Echo:
    """Stands for a network: remembers what it was asked, says the mean of what it may see."""

    def __init__(self) -> None:
        self.hidden: list[np.ndarray] = []

    def reconstruct(self, values, observed, hidden):
        self.hidden.append(hidden)
        seen = np.where(observed & ~hidden, values, np.nan)
        return np.broadcast_to(np.nanmean(seen, -1, keepdims=True), values.shape)


def noise(rows: int, kpis: int = 3, seed: int = 0) -> Frame:
    values = np.random.default_rng(seed).normal(10, 1, (rows, kpis))
    meta = tuple(Kpi(f"s__k{i}", "s", f"k{i}") for i in range(kpis))
    return Frame(np.arange(rows, dtype=np.int64) * 10**9, values, meta, 1.0)


def test_the_end_is_hidden_and_unread(tiny):
    """The expectation of a block does not depend on it: it is never passed in."""
    context = np.random.default_rng(0).normal(5, 1, (4, 96))
    assert expect_end(tiny, context, 32, 128).shape == (4, 32)
    echo = Echo()
    said = expect_end(echo, context, 32, 128)
    assert echo.hidden[0][:, 0, :96].sum() == 0
    assert echo.hidden[0][:, 0, 96:].all()
    np.testing.assert_allclose(said, np.repeat(context.mean(1)[:, None], 32, 1))


def test_each_patch_is_hidden_exactly_once_a_window():
    """Complementary masking covers every step, and no step explains itself."""
    echo = Echo()
    hide_in_turn(echo, np.random.default_rng(0).normal(size=(64, 2)), 64)
    total = sum(h[0, 0].astype(int) for h in echo.hidden)
    assert (total == 1).all()


def test_fill_forward_takes_the_value_before():
    """Gaps get the last value; what was never observed stays missing."""
    got = fill_forward(np.array([[np.nan, 1.0, np.nan, np.nan, 2.0]]))
    np.testing.assert_array_equal(got, [[np.nan, 1, 1, 1, 2]])


def test_hardly_observed_and_constant_series_get_their_median(tiny):
    """The network is not asked where it can't do better."""
    context = np.full((3, 96), np.nan)
    context[0] = 7.0
    context[1, 90:] = [1, 2, 3, 4, 5, 6]
    said = MomentExpectation(tiny, 128).expect(context, 32)
    assert (said[0] == 7).all()
    assert (said[1] == 3.5).all()
    assert np.isnan(said[2]).all()


def test_an_expectation_stays_near_what_was_seen(tiny):
    """Never beyond twice the range of the context, whatever the network says."""
    context = np.random.default_rng(1).normal(0, 1, (20, 96)) * 1e6
    said = MomentExpectation(tiny, 128).expect(context, 32)
    low, high = context.min(1), context.max(1)
    assert (said.max(1) <= 2 * high - low + 1).all()
    assert (said.min(1) >= 2 * low - high - 1).all()


@pytest.mark.parametrize("make", [moment_detector, PublishedDetector])
def test_offline_scores_every_row(tiny, make):
    """Both sides are read, every observed value has a score, and the scores say so."""
    f = noise(150)
    f.values[30:40, 1] = np.nan
    d = make(model=tiny, causal=False, length=64)
    s = d.score(f)
    assert not s.causal
    np.testing.assert_array_equal(np.isnan(s.kpis), np.isnan(f.values))
    assert d.describe()["causal"] is False
    with pytest.raises(ConfigError, match="can't stream"):
        d.stream()


def test_offline_finds_what_the_next_rows_explain(tiny):
    """A planted spike is the loudest row."""
    f = noise(300)
    f.values[170, 1] += 15
    s = moment_detector(model=tiny, causal=False, length=64).score(f)
    assert int(np.argmax(s.system)) == 170


def test_a_window_longer_than_the_context_is_refused(tiny):
    """Both numbers are told."""
    with pytest.raises(ConfigError, match="256 steps; this model reads 128"):
        moment_detector(model=tiny)


def test_short_recordings_are_scored_offline(tiny):
    """Fewer rows than a window: padded on the left, nothing lost."""
    s = moment_detector(model=tiny, causal=False, length=64).score(noise(10))
    assert np.isfinite(s.system).all()
