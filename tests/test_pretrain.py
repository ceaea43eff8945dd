"""Pretraining: the same run after a kill, held-out data refused, masks and series as promised."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.errors import ConfigError, OutputError, SourceError
from foreshock.models.moment import load_moment
from foreshock.pretrain import (
    BatchPlan,
    CorpusPlan,
    Geometry,
    MaskMix,
    PretrainConfig,
    Source,
    build_deny,
    draw_batch,
    open_corpus,
    pretrain,
    read_deny,
    synthetic,
    write_deny,
)
from foreshock.pretrain.batches import hold
from foreshock.pretrain.corpus import fingerprints
from foreshock.pretrain.forecastable import linear_forecast
from foreshock.pretrain.loop import RECORD, STATE, fresh_model, learning_rate, masked_loss
from foreshock.pretrain.masking import draw_hidden

TINY = PretrainConfig(
    steps=6,
    warm_up=2,
    save_every=3,
    evaluate_every=6,
    evaluate_windows=16,
    log_every=2,
    precision="fp32",
    compiled=False,
    model=Geometry(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=2),
    batch=BatchPlan(patches=64, context=128, shortest=32, usual=64, grain=32, real=0.5),
)


def write_corpus(folder: Path, series: dict[str, np.ndarray]) -> None:
    offsets = np.cumsum([0, *(len(v) for v in series.values())])
    values = np.concatenate(list(series.values())).astype(np.float32)
    np.savez(folder / "some.npz", values=values, offsets=offsets, names=np.array(list(series)))


@pytest.fixture
def real(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    write_corpus(tmp_path, {f"s{i}": rng.normal(i, 1 + i, 3000) for i in range(3)})
    return tmp_path


def weights_of(checkpoint: Path) -> dict[str, np.ndarray]:
    model = load_moment(checkpoint, precision="fp32")
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


# --- the run


def test_killed_run_ends_like_an_unbroken_one(tmp_path: Path):
    """Killed after a state was written and one step later: the same weights, to the last bit."""
    whole = pretrain(replace(TINY, out=str(tmp_path / "whole")))

    class Killed(Exception):
        pass

    def kill(line: dict) -> None:
        if line["kind"] == "step" and line["step"] == 4:
            raise Killed

    broken = replace(TINY, out=str(tmp_path / "broken"))
    with pytest.raises(Killed):
        pretrain(broken, on_step=kill)
    lines = []
    again = pretrain(broken, on_step=lines.append)
    assert lines[0]["kind"] == "start"
    assert lines[0]["step"] == 3
    a, b = weights_of(whole), weights_of(again)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    record = [json.loads(line) for line in (tmp_path / "broken" / RECORD).read_text().splitlines()]
    assert [r["step"] for r in record if r["kind"] == "step"] == [2, 4, 4, 6]


def test_state_of_another_config_is_refused(tmp_path: Path):
    """A folder with somebody else's state is not continued; more steps of the same run are."""
    config = replace(TINY, steps=3, out=str(tmp_path))
    pretrain(config)
    with pytest.raises(OutputError, match="another config"):
        pretrain(replace(config, rate=1.0))
    pretrain(replace(config, steps=4))
    (tmp_path / STATE).write_bytes(b"not a state")
    with pytest.raises(OutputError, match="can't be read"):
        pretrain(config)


def test_a_run_goes_on_from_another_with_its_own_settings(tmp_path: Path):
    """`after` takes over weights, averages and position; a state of its own, once there, counts instead."""
    first = replace(TINY, steps=3, out=str(tmp_path / "a"))
    pretrain(first)
    lines = []
    second = replace(TINY, rate=1e-4, out=str(tmp_path / "b"), after=first.out)
    pretrain(second, on_step=lines.append)
    assert lines[0]["step"] == 3
    lines.clear()
    pretrain(replace(second, steps=8), on_step=lines.append)
    assert lines[0]["step"] == 6
    with pytest.raises(ConfigError, match="no state"):
        pretrain(replace(TINY, out=str(tmp_path / "c"), after=str(tmp_path / "nowhere")))


def test_training_lowers_the_loss_and_the_checkpoint_is_small(tmp_path: Path):
    """Thirty steps help on a fixed batch, and what is stored is half precision in MOMENT's format."""
    config = replace(TINY, steps=40, rate=5e-3, ema=0.5, out=str(tmp_path), evaluate_windows=0)
    batch = draw_batch(99, 0, config.batch, config.mask, None)
    before = float(masked_loss(fresh_model(config).backbone, batch, 0.0).detach())
    folder = pretrain(config)
    after = float(masked_loss(load_moment(folder, precision="fp32"), batch, 0.0).detach())
    assert after < before
    files = {"config.json", "model.safetensors", "recognition.safetensors", "SHA256SUMS"}
    assert {p.name for p in folder.iterdir()} == files
    assert json.loads((folder / "config.json").read_text())["seq_len"] == 128


def test_what_is_hidden_can_not_be_read():
    """Other values in hidden patches change the error's target, never what the model says of the rest."""
    batch = draw_batch(5, 1, TINY.batch, MaskMix(), None)
    changed = replace(batch, values=np.where(batch.hidden, batch.values + 100, batch.values))
    model = fresh_model(TINY).backbone.eval().requires_grad_(False)
    a, b = (masked_loss(model, one, 1.0) - masked_loss(model, one, 0.0) for one in (batch, changed))
    assert float(a) == pytest.approx(float(b), rel=1e-5)


def test_learning_rate_climbs_then_falls():
    """Warm-up to `rate`, then down to `last_rate` of it."""
    config = replace(TINY, steps=100, warm_up=10)
    rates = [learning_rate(config, s) for s in range(100)]
    assert max(rates) == pytest.approx(config.rate)
    assert int(np.argmax(rates)) in (9, 10)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[-1] < 0.03 * config.rate


# --- batches


def test_batch_follows_from_seed_and_step(real: Path):
    """The same seed and step give the same batch; another step or seed another one."""
    corpus = open_corpus(real, [Source("some.npz", "MIT")], ["MIT"])

    def draw(seed: int, step: int):
        return draw_batch(seed, step, TINY.batch, MaskMix(), corpus)

    a, b = draw(1, 7), draw(1, 7)
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.hidden, b.hidden)
    assert a.first == b.first
    for other in (draw(1, 8), draw(2, 7)):
        assert other.values.shape != a.values.shape or not np.array_equal(other.values, a.values)


def test_batches_hold_their_promises(real: Path):
    """Finite values, 0 where unobserved, whole patches hidden, positions inside the context."""
    corpus = open_corpus(real, [Source("some.npz", "MIT")], ["MIT"])
    lengths = set()
    for step in range(60):
        batch = draw_batch(3, step, TINY.batch, MaskMix(), corpus)
        rows, steps = batch.values.shape
        lengths.add(steps)
        assert rows * steps <= TINY.batch.patches * 8
        assert np.isfinite(batch.values).all()
        assert (batch.values[~batch.observed] == 0).all()
        blocks = batch.hidden.reshape(rows, -1, 8)
        np.testing.assert_array_equal(blocks.any(2), blocks.all(2))
        assert 0 <= batch.first <= (TINY.batch.context - steps) // 8
    assert {64, 128} < lengths


def test_hold_fills_only_from_the_past():
    """A gap takes the last value before it; a gap at the start stays."""
    x = np.array([[np.nan, 1, np.nan, np.nan, 4]])
    np.testing.assert_array_equal(hold(x), [[np.nan, 1, 1, 1, 4]])


@settings(max_examples=30, deadline=None)
@given(patches=st.integers(2, 64), rows=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_masks_hide_something_and_leave_half(patches: int, rows: int, seed: int):
    """At least one patch is hidden and at least half are shown, whatever the length."""
    hidden = draw_hidden(np.random.default_rng(seed), rows, patches)
    assert hidden.shape == (rows, patches)
    assert (hidden.sum(1) >= 1).all()
    assert (hidden.sum(1) <= max(1, patches // 2)).all()


def test_mask_mix_is_kept():
    """Half of the windows lose their end, 1 to 8 patches; scattered masks hide 0.3 on average."""
    hidden = draw_hidden(np.random.default_rng(0), 4000, 64)
    size = hidden.sum(1)
    at_end = hidden[np.arange(4000), 64 - size] & (np.cumprod(hidden[:, ::-1], 1).sum(1) == size)
    assert np.mean(at_end) == pytest.approx(0.51, abs=0.04)
    assert size[at_end].max() <= 20
    scattered = draw_hidden(np.random.default_rng(0), 4000, 64, MaskMix(end=0, block=0, scattered=1))
    assert scattered.mean() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("bad", [{"end": -1}, {"ratio": 1.0}, {"longest_end": 0}])
def test_bad_mask_mix_is_refused(bad: dict):
    """Options out of range are named before anything runs."""
    with pytest.raises(ConfigError):
        MaskMix(**bad)


# --- series


@pytest.mark.parametrize("name", list(synthetic.KINDS))
def test_each_kind_gives_moving_finite_series(name: str):
    """Right shape, never infinite, mostly observed, the same for the same seed."""
    a = synthetic.KINDS[name](np.random.default_rng(3), 20, 96)
    b = synthetic.KINDS[name](np.random.default_rng(3), 20, 96)
    assert a.shape == (20, 96)
    np.testing.assert_array_equal(a, b)
    assert not np.isinf(a).any()
    assert np.isfinite(a).mean() > 0.5
    moving = np.nanmax(a, axis=1, initial=-1e300) > np.nanmin(a, axis=1, initial=1e300)
    assert moving.mean() > (0.3 if name in ("flat", "stairs") else 0.85)


def test_made_up_series_are_drawn_whole():
    """Blending and roughening keep the shape and leave gaps as NaN; one row and short windows work."""
    x = synthetic.draw(np.random.default_rng(1), 300, 128)
    assert x.shape == (300, 128)
    assert x.dtype == np.float32
    assert not np.isinf(x).any()
    assert 0.85 < np.isfinite(x).mean() < 1
    assert synthetic.draw(np.random.default_rng(1), 1, 16).shape == (1, 16)


def test_corpus_keeps_the_last_tenth_back(real: Path):
    """Training never draws from the validation part."""
    ramp = np.arange(4000.0)
    write_corpus(real, {"ramp": ramp})
    corpus = open_corpus(real, [Source("some.npz", "MIT")], ["MIT"])
    assert np.nanmax(corpus.draw(np.random.default_rng(0), 200, 64)) < 3600
    assert np.nanmin(corpus.held_back(1, 50, 64)) >= 3600


def test_licence_not_on_the_list_is_refused(real: Path):
    """A source comes in only under a licence somebody allowed."""
    with pytest.raises(ConfigError, match="research"):
        open_corpus(real, [Source("some.npz", "research only")], ["MIT"])
    with pytest.raises(SourceError, match="does not exist"):
        open_corpus(real, [Source("other.npz", "MIT")], ["MIT"])


def test_held_out_series_is_refused_wherever_it_was_cut(tmp_path: Path):
    """A stretch of a held-out recording inside a longer series is found; leaving the series out helps."""
    rng = np.random.default_rng(4)
    held, other = rng.lognormal(3, 1, 20000), rng.lognormal(3, 1, 9000)
    kept_aside = tmp_path / "aside"
    kept_aside.mkdir()
    np.savez(kept_aside / "one.npz", value=held, label=np.zeros(20000))
    write_deny(build_deny([kept_aside]), tmp_path / "deny.npy")
    deny = read_deny(tmp_path / "deny.npy")
    assert 10 < len(deny) < 100
    four_digits = np.array([float(f"{v:.4g}") for v in held[3333:9999]])  # cut and rounded by a carrier
    write_corpus(tmp_path, {"clean": other, "leaky": np.concatenate([other, four_digits])})
    with pytest.raises(SourceError, match="leaky"):
        open_corpus(tmp_path, [Source("some.npz", "MIT")], ["MIT"], deny)
    source = Source("some.npz", "MIT", leave_out=("leaky",))
    assert open_corpus(tmp_path, [source], ["MIT"], deny).names == ("some.npz:clean",)


def test_run_refuses_held_out_data(real: Path, tmp_path: Path):
    """The check is part of the run, not a separate step somebody may forget."""
    corpus = open_corpus(real, [Source("some.npz", "MIT")], ["MIT"])
    write_deny(fingerprints(corpus.values), tmp_path / "deny.npy")
    plan = CorpusPlan(str(real), (Source("some.npz", "MIT"),), deny=str(tmp_path / "deny.npy"))
    with pytest.raises(SourceError, match="held-out"):
        pretrain(replace(TINY, out=str(tmp_path / "run"), corpus=plan))


def test_fingerprints_ignore_what_says_nothing():
    """Constants and rare events look alike everywhere; they leave no fingerprint. Nor does a short series."""
    assert len(fingerprints(np.zeros(50000))) == 0
    sparse = np.zeros(50000)
    sparse[::40] = 1
    assert len(fingerprints(sparse)) == 0
    assert len(fingerprints(np.arange(31.0))) == 0


def test_deny_list_that_is_none_is_refused(tmp_path: Path):
    """A missing or foreign file is an error, not an empty list."""
    with pytest.raises(SourceError, match="deny list"):
        read_deny(tmp_path / "none.npy")
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(SourceError, match="uint64"):
        read_deny(tmp_path / "x.npy")


def test_linear_forecast_continues_a_sine():
    """The simplest rival of the evaluation knows a clean rhythm."""
    t = np.arange(160)
    x = np.sin(2 * np.pi * t / 20)[None].astype(np.float32)
    np.testing.assert_allclose(linear_forecast(x[:, :128], 32, ridge=1e-6), x[:, 128:], atol=0.02)
