"""Recognition: never a look ahead, no unit matters, heads that travel with their checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.errors import WeightsError
from foreshock.models import weights
from foreshock.models.moment import Moment, MomentConfig
from foreshock.models.recognise import (
    Recogniser,
    bend,
    load_recogniser,
    movement,
    scale_by_context,
    unbend,
)
from foreshock.pretrain.anomalies import KINDS, UNSURE, WEIGHTS, AnomalyMix, odd, plant

TINY = MomentConfig(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=2, seq_len=128, vocab_size=8)


@pytest.fixture(scope="module")
def tiny() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(Moment(TINY)).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_later_steps_change_nothing(tiny: Recogniser):
    """What comes after a step, in its patch too, changes no logit; what is expected knows earlier patches."""
    x = torch.randn(2, 64)
    before = tiny(x)
    for at in (17, 23, 24, 40):
        changed = x.clone()
        changed[:, at:] = 7 * torch.randn(2, 64 - at)
        after = tiny(changed)
        np.testing.assert_allclose(after.logit[:, :at], before.logit[:, :at], atol=1e-5)
        told = -(-at // 8) * 8
        np.testing.assert_allclose(after.expected[:, :told], before.expected[:, :told], atol=1e-5)
        assert not torch.allclose(after.logit[:, at:], before.logit[:, at:])


def test_padding_is_not_read(tiny: Recogniser):
    """Patches that nobody attends may hold anything."""
    x, attended = torch.randn(2, 64), torch.ones(2, 8, dtype=torch.bool)
    attended[:, :3] = False
    a = tiny(torch.where(attended.repeat_interleave(8, 1), x, 0), attended)
    b = tiny(x, attended)
    np.testing.assert_allclose(a.logit[:, 32:], b.logit[:, 32:], atol=1e-4)


@given(st.floats(-40, 40), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=30, deadline=None)
def test_units_do_not_matter(shift: float, gain: float, x0: float):
    """A series in other units looks the same to the network; bending keeps the order and can be undone."""
    values = torch.from_numpy(np.random.default_rng(3).normal(0, 1, (1, 64)))
    seen, context = torch.ones(1, 64, dtype=torch.bool), torch.tensor([[32]])
    a = scale_by_context(values, seen, context)
    b = scale_by_context(values * gain, seen, context)
    np.testing.assert_allclose(a.x, b.x, atol=1e-4)
    assert float(unbend(bend(torch.tensor(x0).double()))) == pytest.approx(x0, rel=1e-6, abs=1e-9)
    both = torch.tensor([shift, shift + gain]).double()
    assert bend(both)[1] >= bend(both)[0]


def test_an_outlier_does_not_set_the_scale():
    """One wild value in the context leaves the others at their size."""
    values = torch.from_numpy(np.random.default_rng(4).normal(10, 2, (1, 128)))
    wild = values.clone()
    wild[0, 20] = 1e6
    seen, context = torch.ones(1, 128, dtype=torch.bool), torch.tensor([[96]])
    usual = scale_by_context(values, seen, context).spread
    assert float(scale_by_context(wild, seen, context).spread / usual) < 2
    constant = scale_by_context(torch.full((1, 128), 5.0), seen, context)
    assert torch.equal(constant.x, torch.zeros(1, 128))


def test_movement_tells_jumps_from_rest():
    """A jump stands out among steps of one size; the same series shifted to the right tells the same."""
    x = torch.from_numpy(np.random.default_rng(5).normal(0, 1, (1, 96))).float()
    x[0, 80] += 30
    told = movement(x)
    assert int(told[0, :, 0].argmax()) in (80, 81)
    seen = torch.ones(1, 104, dtype=torch.bool)
    seen[:, :8] = False
    padded = movement(torch.nn.functional.pad(x, (8, 0)), seen)
    np.testing.assert_allclose(padded[:, 8:], told, atol=1e-5)


def test_heads_travel_beside_the_checkpoint(tiny: Recogniser, tmp_path: Path):
    """Saved and loaded they say the same; a flipped byte or another network's heads are refused."""
    moment = tiny.backbone
    folder = weights.save(
        tmp_path / "a", moment.geometry.to_dict(), moment.state_dict(), tiny.heads.state_dict()
    )
    again = load_recogniser(folder, moment)
    assert again is not None
    x = torch.randn(1, 64)
    np.testing.assert_allclose(again(x).logit, tiny(x).logit, atol=1e-6)
    weights.verify(folder)
    copy = weights.export(folder, tmp_path / "copy")
    assert (copy / weights.HEADS_NAME).read_bytes() == (folder / weights.HEADS_NAME).read_bytes()
    wider = Moment(MomentConfig(d_model=32, d_kv=8, d_ff=32, num_heads=2, num_layers=1, seq_len=128))
    with pytest.raises(WeightsError, match="does not fit"):
        load_recogniser(folder, wider)
    raw = bytearray((folder / weights.HEADS_NAME).read_bytes())
    raw[-3] ^= 1
    (folder / weights.HEADS_NAME).write_bytes(bytes(raw))
    with pytest.raises(WeightsError, match="sha256"):
        load_recogniser(folder, moment)
    (folder / weights.HEADS_NAME).unlink()
    assert load_recogniser(folder, moment) is None


def test_planted_anomalies_are_labelled_where_they_are():
    """Outside the labels a series is as it was (but for what lasts); gaps stay; a seed plants the same."""
    rng = np.random.default_rng(6)
    clean = rng.normal(50, 5, (64, 256)).astype(np.float32)
    clean[:, 30:40] = np.nan
    context = np.full(64, 128)
    values, usual, label = plant(np.random.default_rng(7), clean, context, AnomalyMix())
    again = plant(np.random.default_rng(7), clean, context, AnomalyMix())
    np.testing.assert_array_equal(values, again[0])
    assert np.isnan(values[:, 30:40]).all()
    assert set(np.unique(label)) <= {UNSURE, 0, 1}
    is_quiet = (label != 1) & np.isfinite(values)
    assert np.abs(values - usual)[is_quiet].max() < 5 * 1.5 + 1
    rows = (label == 1).any(1)
    assert 0.4 < rows.mean() < 0.9
    first = (label[rows] == 1).argmax(1)
    assert (first >= 128).mean() > 0.5


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_changes_a_stretch(name: str):
    """Each kind leaves finite values and changes something, on noise, on waves and on a constant."""
    rng = np.random.default_rng(8)
    waves = np.sin(np.arange(256) / 7) * 10 + rng.normal(0, 0.3, (8, 256))
    mix = AnomalyMix(share=1, lasting=0, habitual=0)
    assert name in WEIGHTS
    from foreshock.pretrain.anomalies import Ground

    for series in (rng.normal(0, 1, 256), waves[0]):
        ground = Ground(series, float(series.mean()), float(series.std()), 0.5, waves[1], rng, mix)
        new = KINDS[name](ground, 150)
        assert len(new) >= 1
        assert np.isfinite(new).all()
        assert not np.array_equal(new, series[150 : 150 + len(new)])


def test_what_looks_odd_is_doubted():
    """A jump and the steps after it are odd, noise is not; gaps are none."""
    values = np.random.default_rng(9).normal(0, 1, (2, 200))
    values[0, 100] = 40
    values[1, 50:60] = np.nan
    found = odd(values, 5.0)
    assert found[0, 100:104].all()
    assert found.mean() < 0.05
    assert not found[1, 50:60].any()
