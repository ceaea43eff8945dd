"""MOMENT: parity with the original, and what a caller may rely on beyond it."""

from __future__ import annotations

import copy
import json
import pickle
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshock.errors import ConfigError, InputError, WeightsError
from foreshock.models import engine
from foreshock.models.engine import rank_correlation
from foreshock.models.moment import (
    Moment,
    MomentConfig,
    distance_buckets,
    load_moment,
    normalise,
    sinusoids,
)

SMALL = MomentConfig(d_model=32, d_kv=8, d_ff=48, num_heads=3, num_layers=2, seq_len=128)
CONTEXT = SMALL.seq_len


@pytest.fixture(scope="module")
def model() -> Moment:
    torch.manual_seed(0)
    return Moment(SMALL).eval()


def series(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


def close(got, want, tolerance: float = 1.0) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-5 * tolerance, atol=1e-4 * tolerance, equal_nan=True)


# ------------------------------------------------- parity


@pytest.fixture(scope="module")
def vectors(golden_dir):
    with np.load(golden_dir / "golden.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def tiny(golden_dir):
    return load_moment(golden_dir, precision="fp32")


@pytest.mark.golden
@pytest.mark.parametrize("steps", [512, 256, 64])
@pytest.mark.parametrize(
    "case", ["forward_full", "forward_pretrain_mask", "forward_both_masks", "reconstruct_padded"]
)
def test_reconstruct_golden(steps, case, tiny, vectors):
    """`observed` and `hidden` are the original's two masks, numpy in and numpy out."""
    got = tiny.reconstruct(*reconstruct_inputs(vectors, f"L{steps}.{case}"))
    close(got, vectors[f"L{steps}.{case}/out/reconstruction"])


def reconstruct_inputs(vectors, case):
    mask = vectors.get(f"{case}/in/mask")
    return (
        vectors[f"{case}/in/x"],
        vectors[f"{case}/in/input_mask"] == 1,
        None if mask is None else mask == 0,
    )


@pytest.mark.golden
@pytest.mark.parametrize("horizon", [1, 8, 12, 40])
def test_embed_and_short_forecast_golden(horizon, tiny, vectors):
    """The other verbs that need no head of their own."""
    case = f"L256.short_forecast_{horizon}"
    x, observed, _ = reconstruct_inputs(vectors, case)
    close(tiny.short_forecast(x, horizon, observed), vectors[f"{case}/out/forecast"])
    for reduction in ("mean", "none"):
        got = tiny.embed(*reconstruct_inputs(vectors, f"L512.embed_{reduction}")[:2], reduction=reduction)
        close(got, vectors[f"L512.embed_{reduction}/out/embeddings"])


@pytest.mark.golden
def test_forecast_and_classify_golden(golden_dir, vectors):
    """With the head's weights put in, forecasts and logits are the original's."""
    from safetensors.torch import load_file

    forecaster = load_moment(golden_dir, "forecasting", "fp32", forecast_horizon=96)
    forecaster.load_state_dict(load_file(golden_dir / "head_forecast96.safetensors"), strict=False)
    got = forecaster.forecast(*reconstruct_inputs(vectors, "task.forecast96")[:2])
    close(got, vectors["task.forecast96/out/forecast"])
    for reduction in ("concat", "mean"):
        options = {"n_channels": 3, "num_class": 15, "reduction": reduction}
        classifier = load_moment(golden_dir, "classification", "fp32", **options)
        head = load_file(golden_dir / f"head_classify_{reduction}.safetensors")
        classifier.load_state_dict(head, strict=False)
        case = f"task.classify_{reduction}"
        close(classifier.classify(*reconstruct_inputs(vectors, case)[:2]), vectors[f"{case}/out/logits"])


@pytest.mark.golden
@pytest.mark.parametrize(
    "size", ["small", *(pytest.param(s, marks=pytest.mark.slow) for s in ("base", "large"))]
)
def test_true_geometry(size, golden_dir):
    """MOMENT-1's real sizes, with seeded weights."""
    config = MomentConfig.from_dict(
        json.loads((golden_dir / f"configs/MOMENT-1-{size}.config.json").read_text())
    )
    shapes = json.loads((golden_dir / f"statedicts/MOMENT-1-{size}.json").read_text())["tensors"]
    with torch.device("meta"):
        model = Moment(config)
    own = {name: list(t.shape) for name, t in model.state_dict().items()}
    assert own == {name: meta["shape"] for name, meta in shapes.items()}
    model.load_state_dict(seeded(shapes, golden_dir), strict=False, assign=True)
    model.patch_embedding.position_embedding.pe = sinusoids(5000, config.d_model).unsqueeze(0)
    with np.load(golden_dir / "full/golden_full.npz") as file:
        want = {name: file[name] for name in file.files}
    x, observed, hidden = want["x"], want["input_mask"] == 1, want["mask"] == 0
    model.eval()
    close(model.reconstruct(x, observed), want[f"{size}.reconstruct"])
    close(model.reconstruct(x, observed, hidden), want[f"{size}.forward"])
    close(model.embed(x, observed), want[f"{size}.embed_mean"])


def seeded(shapes, golden_dir):
    """The seeded weights of the golden vectors, without the table that nothing reads."""
    source = (golden_dir / "full/seeded_weights.py").read_text()
    scope: dict = {"zlib": zlib, "np": np}
    used = {name: shape for name, shape in shapes.items() if "embed_tokens" not in name}
    exec(compile(source, "seeded_weights.py", "exec"), scope)
    return {n: torch.from_numpy(a) for n, a in scope["seeded_state_dict"](used, 11).items()}


# ------------------------------------------------- holes, lengths, kinds


@pytest.mark.parametrize("steps", [1, 7, 8, 100, CONTEXT])
@pytest.mark.parametrize("kind", ["float32", "float64", "int64", "torch", "half"])
def test_same_kind_and_shape_come_back(steps, kind, model):
    """numpy or torch, any float type, any length up to the context."""
    values = series(2, 3, steps)
    given = {
        "torch": torch.from_numpy(values),
        "half": torch.from_numpy(values).half(),
    }.get(kind, values if kind in ("torch", "half") else values.astype(kind if kind != "half" else None))
    got = model.reconstruct(given)
    assert type(got) is type(given)
    assert tuple(got.shape) == (2, 3, steps)
    assert got.dtype == (given.dtype if kind != "int64" else np.float32)
    assert bool(torch.as_tensor(got).isfinite().all())


def test_the_callers_arrays_stay(model):
    values, observed, hidden = series(2, 3, 64), np.ones((2, 64), bool), np.zeros((2, 3, 64), bool)
    values[0, 0, 3] = np.nan
    before = values.copy()
    model.reconstruct(values, observed, hidden)
    np.testing.assert_array_equal(values, before)
    assert observed.all()
    assert not hidden.any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_what_nobody_observed_moves_nothing(seed):
    """Values under NaN, or under `observed` in patches of their own, have no say in the rest."""
    torch.manual_seed(0)
    model = Moment(SMALL).eval()
    rng = np.random.default_rng(seed)
    values = series(2, 2, CONTEXT, seed=seed)
    is_gap = np.repeat(rng.random((2, 2, CONTEXT // 8)) < 0.4, 8, axis=-1)
    is_gap[..., :8] = False
    with_nan = np.where(is_gap, np.nan, values)
    other = np.where(is_gap, 1e4 * rng.random(values.shape), values).astype(np.float32)
    got, want = model.reconstruct(with_nan), model.reconstruct(other, observed=~is_gap)
    assert np.isfinite(got).all()
    close(got[~is_gap], want[~is_gap])


def test_hidden_steps_are_not_read(model):
    """Whatever stands at hidden steps, the result is the same."""
    values = series(1, 2, CONTEXT)
    hidden = np.zeros((1, 2, CONTEXT), bool)
    hidden[0, 1, 40:56] = True
    other = np.where(hidden, 99, values)
    close(model.reconstruct(other, hidden=hidden), model.reconstruct(values, hidden=hidden))


def test_channels_and_batch_rows_do_not_mix(model):
    """A series alone gives what it gives among others, each with its own mask."""
    values, rng = series(3, 4, CONTEXT), np.random.default_rng(1)
    observed = np.repeat(rng.random((3, 4, CONTEXT // 8)) < 0.7, 8, axis=-1)
    together = model.reconstruct(values, observed)
    for b in range(3):
        for c in range(4):
            alone = model.reconstruct(values[b : b + 1, c : c + 1], observed[b : b + 1, c : c + 1])
            close(together[b, c], alone[0, 0])


def test_nothing_observed_is_nan(model):
    """NaN all over for that series, whether by NaN, by mask or because all is hidden."""
    values = series(1, 4, 64)
    values[0, 0] = np.nan
    observed, hidden = np.ones((1, 4, 64), bool), np.zeros((1, 4, 64), bool)
    observed[0, 1] = False
    hidden[0, 2] = True
    got = model.reconstruct(values, observed, hidden)
    assert np.isnan(got).all(-1).tolist() == [[True, True, True, False]]
    assert np.isfinite(got[0, 3]).all()


@pytest.mark.parametrize("level", [0.0, 7.25, -1e6, 1e12])
def test_constants_stay(level, model):
    """A constant KPI comes back as the constant."""
    values = np.full((1, 1, 64), level)
    np.testing.assert_allclose(model.reconstruct(values), values, rtol=1e-9, atol=1e-3)


def test_small_movements_on_a_large_level(model):
    """In double precision a level of 1e9 does not swallow movements of 0.01."""
    wave = 0.01 * np.sin(np.arange(64) / 3)[None, None]
    got, want = model.reconstruct(wave + 1e9), model.reconstruct(wave)
    np.testing.assert_allclose(got - 1e9, want, atol=2e-5)


def test_infinite_is_not_observed(model):
    """Infinite values are treated as missing."""
    values = series(1, 1, 64)
    holed = values.copy()
    holed[..., 8:16] = np.nan
    values[..., 8:16] = np.inf
    close(model.reconstruct(values), model.reconstruct(holed))


def test_skipping_padding_keeps_the_numbers(model):
    """Leading patches nobody observed may be left out; they come back NaN, the rest as before."""
    values = series(5, 3, CONTEXT)
    observed = np.ones((5, 3, CONTEXT), bool)
    for i, lead in enumerate([0, 64, 61, 96, 120]):
        observed[i, :, :lead] = False
    observed[4, 2, :] = False
    full = model.reconstruct(values, observed)
    got = model.reconstruct(values, observed, skip_padding=True)
    for i, lead in enumerate([0, 64, 56, 96, 120]):
        assert np.isnan(got[i, 0, :lead]).all()
        close(got[i, :, lead:], full[i, :, lead:])


def test_padding_costs_nothing(model):
    """Half a context of padding is half the patches through the encoder."""
    counted = []
    hook = model.encoder.register_forward_pre_hook(lambda _m, args: counted.append(args[0].shape[1]))
    observed = np.ones((1, CONTEXT), bool)
    observed[:, : CONTEXT // 2] = False
    model.reconstruct(series(1, 3, CONTEXT), observed, skip_padding=True)
    model.reconstruct(series(1, 3, CONTEXT // 2))
    model.embed(series(1, 3, CONTEXT), observed)
    hook.remove()
    assert counted == [CONTEXT // 16] * 3


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 64), {}, "needed is \\(batch, channels, steps\\)"),
        ((1, 1, 0), {}, "0 steps; this model reads 1 to 128"),
        ((1, 1, 136), {}, "136 steps; this model reads 1 to 128"),
        ((2, 3, 64), {"observed": np.ones((3, 64), bool)}, "observed has shape \\(3, 64\\)"),
        ((2, 3, 64), {"hidden": np.ones((2, 64, 3), bool)}, "hidden has shape"),
    ],
)
def test_wrong_shapes_are_told(shape, options, message, model):
    """One clear error with both shapes."""
    with pytest.raises(InputError, match=message):
        model.reconstruct(np.zeros(shape), **options)


def test_empty_batches(model):
    """Nothing in, nothing out."""
    assert model.reconstruct(np.zeros((0, 3, 64), np.float32)).shape == (0, 3, 64)
    assert model.reconstruct(np.zeros((2, 0, 64), np.float32)).shape == (2, 0, 64)


def test_wrong_verb_is_told(model):
    """A reconstruction model can't classify."""
    with pytest.raises(InputError, match="loaded for reconstruction; load it with task='classification'"):
        model.classify(series(1, 1, 64))


# ------------------------------------------------- the parts


def test_normalise_undoes_scale_and_level():
    """Mean 0 and deviation 1 over the counted steps, whatever stands elsewhere."""
    values = torch.from_numpy(series(4, 64)).double() * 1e5
    counted = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) < 0.6
    x, mean, stdev = normalise(values, counted)
    for row, keep in zip(x, counted, strict=True):
        assert abs(float(row[keep].mean())) < 1e-5
        assert abs(float(row[keep].std(correction=0)) - 1) < 1e-5
    close(x.double() * stdev + mean, values, tolerance=1e3)


def test_distance_buckets_by_hand():
    """8 buckets to 16 patches: 0, -1, then -2..-5 (in logarithm), farther; the same ahead, shifted by 4."""
    distance = torch.tensor([0, -1, -2, -3, -5, -6, -15, -100, 1, 2, 6, 100])
    assert distance_buckets(distance, 8, 16).tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 7]


def test_training_reaches_every_tensor_in_use():
    """Gradients flow through `encode` and `decode` to everything but the table nothing reads."""
    torch.manual_seed(0)
    model = Moment(SMALL).train()
    hidden = torch.zeros(2, CONTEXT, dtype=torch.bool)
    hidden[:, 16:40] = True
    model.decode(model.encode(torch.randn(2, CONTEXT), hidden=hidden)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == ["encoder.embed_tokens.weight"]


def test_the_bias_follows_its_weights(model):
    """The kept bias is computed again after a change, and is right for each length."""
    torch.manual_seed(0)
    model = Moment(SMALL).eval()
    values = series(1, 1, 64)
    before = model.reconstruct(values)
    with torch.no_grad():
        model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.add_(torch.randn(32, 3))
    after = model.reconstruct(values)
    assert np.abs(after - before).max() > 1e-4
    model.reconstruct(series(1, 1, 128))
    close(model.reconstruct(values), after)


# ------------------------------------------------- files


def test_save_and_load(model, tmp_path):
    """What was saved is what is loaded, name by name."""
    model.save_pretrained(tmp_path)
    again = Moment.from_pretrained(tmp_path)
    assert again.config == model.config
    assert not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    close(again.reconstruct(series(1, 1, 64)), model.reconstruct(series(1, 1, 64)), tolerance=0)


def test_config_round_trip_and_named_backbones():
    """The nested config is written as the original writes it; without it the backbone's name is enough."""
    assert MomentConfig.from_dict(SMALL.to_dict()) == SMALL
    assert SMALL.to_dict()["t5_config"]["num_decoder_layers"] == 2
    named = MomentConfig.from_dict({"transformer_backbone": "google/flan-t5-base"})
    assert (named.d_model, named.inner, named.d_ff, named.num_layers) == (768, 768, 2048, 12)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "no t5_config"),
        ({"t5_config": {"d_model": 8}}, "lacks whole numbers for d_kv"),
        ({"transformer_backbone": "google/flan-t5-base", "revin_affine": True}, "revin_affine = True"),
        ({"transformer_backbone": "google/flan-t5-base", "patch_stride_len": 4}, "patch_stride_len = 4"),
        ({"transformer_backbone": "google/flan-t5-base", "d_model": 5}, "d_model 5"),
    ],
)
def test_strange_configs_are_refused(raw, message):
    """With the field and what it should be."""
    with pytest.raises(WeightsError, match=message):
        MomentConfig.from_dict(raw)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seq_len": 100}, "multiple of patch_len"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"task": "guess"}, "task is 'guess'"),
        ({"task": "forecasting"}, "needs forecast_horizon"),
        ({"task": "classification", "n_channels": 2}, "needs n_channels and num_class"),
    ],
)
def test_impossible_geometry_is_refused(fields, message):
    """At once, not deep in the network."""
    with pytest.raises(ConfigError, match=message):
        MomentConfig(**fields)


def test_unknown_options_are_refused(model, tmp_path):
    """A typing mistake is no silent default."""
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no option 'forcast_horizon'"):
        load_moment(tmp_path, "forecasting", forcast_horizon=3)
    with pytest.raises(ConfigError, match="precision is 'fp8'"):
        load_moment(tmp_path, precision="fp8")


# ------------------------------------------------- precision


def test_bf16_keeps_the_order_of_errors(model, tmp_path):
    """Half precision moves the numbers a little and their order hardly; norms and stream stay exact."""
    model.save_pretrained(tmp_path)
    half = load_moment(tmp_path, precision="bf16")
    assert half.compute_dtype == torch.bfloat16
    assert half.encoder.final_layer_norm.weight.dtype == torch.float32
    values = series(4, 3, CONTEXT)
    exact, got = model.reconstruct(values), half.reconstruct(values)
    assert got.dtype == np.float32
    assert 0 < np.abs(got - exact).max() < 0.1 * values.std()
    assert rank_correlation((exact - values) ** 2, (got - values) ** 2) > 0.99


@pytest.mark.parametrize(("is_fast", "agreement", "wanted"), [
    (False, 1.0, torch.float32), (True, 1.0, torch.bfloat16), (True, 0.98, torch.float32),
])  # fmt: skip
def test_auto_takes_bf16_where_it_is_fast_and_right(is_fast, agreement, wanted, model, tmp_path, monkeypatch):
    """Without the processor's help, or when the order of errors changes, float32 stays as it was."""
    monkeypatch.setattr(engine, "has_fast_bf16", lambda: is_fast)
    monkeypatch.setattr(engine, "rank_correlation", lambda a, b: agreement)
    model.save_pretrained(tmp_path)
    got = load_moment(tmp_path)
    assert got.compute_dtype == wanted
    if wanted == torch.float32:
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, got.state_dict()[name])


def test_batches_do_not_change_the_numbers(model, monkeypatch):
    """However the rows are cut into batches."""
    values = series(5, 7, CONTEXT)
    observed = np.random.default_rng(0).random((5, CONTEXT)) < 0.9
    want = model.reconstruct(values, observed)
    for patches in (1, 40, 10**6):
        monkeypatch.setattr(engine, "BATCH_PATCHES", (patches, patches))
        close(model.reconstruct(values, observed), want)


@pytest.mark.parametrize(("is_amx", "item_bytes", "rows"), [(True, 2, 44), (False, 2, 16), (True, 4, 16)])
def test_batches_suit_the_matrix_unit(is_amx, item_bytes, rows, monkeypatch):
    """With AMX, bfloat16 batches hold 88 series of 256 steps or 44 of 512; others fit a smaller cache."""
    monkeypatch.setattr(engine, "has_amx", lambda: is_amx)
    assert engine.batch_rows(64, 2816, item_bytes) == rows


def test_amx_is_read_from_the_processors_list(monkeypatch):
    """A processor with bfloat16 but without tiles is fast, not AMX; an unknown one is neither."""
    for words, wanted in (
        ({"amx_bf16"}, (True, True)),
        ({"avx512_bf16"}, (True, False)),
        (set(), (False, False)),
    ):
        monkeypatch.setattr(engine, "_abilities", lambda words=words: words)
        monkeypatch.setattr(engine.torch.backends.mkldnn, "is_available", lambda: True)
        fast = engine.has_fast_bf16.__wrapped__()
        monkeypatch.setattr(engine, "has_fast_bf16", lambda fast=fast: fast)
        assert (fast, engine.has_amx.__wrapped__()) == wanted
        monkeypatch.undo()


# ------------------------------------------------- compiled


@pytest.fixture
def own_model(monkeypatch) -> Moment:
    """A model for which compiling always pays and costs nothing: the compiler is a stand-in that counts."""
    torch.manual_seed(0)
    model = Moment(SMALL).eval()
    calls: list[tuple[int, ...]] = []

    def compiled(blocks, x, bias, wanted):
        torch.testing.assert_close(blocks(x, bias), wanted)
        return lambda x, bias: calls.append(tuple(x.shape[:2])) or blocks(x, bias)

    monkeypatch.setattr(engine, "can_compile", lambda: True)
    monkeypatch.setattr(engine, "compiled", compiled)
    monkeypatch.setattr(engine, "COMPILING_S", 0.0)
    monkeypatch.setattr(engine, "BATCH_PATCHES", (32, 32))
    model.calls = calls
    return model


def test_whole_batches_go_through_the_compiled_encoder(own_model):
    """Two of five rows at once: two whole batches compiled, the rest and padded series plain."""
    values = series(5, 1, CONTEXT)
    want = own_model.reconstruct(values)
    assert own_model.compile_for(series=5, steps=CONTEXT)
    close(own_model.reconstruct(values, hidden=np.zeros((5, CONTEXT), bool)), want)
    assert own_model.calls == [(2, 16), (2, 16)]
    own_model.reconstruct(values[..., :64])
    observed = np.ones((5, CONTEXT), bool)
    observed[:, :16] = False
    own_model.reconstruct(values, observed)
    assert len(own_model.calls) == 2


def test_a_changed_weight_retires_the_compiled_encoder(own_model):
    """It has the old ones built in."""
    assert own_model.compile_for(series=5, steps=CONTEXT)
    with torch.no_grad():
        own_model.encoder.block[1].layer[1].DenseReluDense.wo.weight.mul_(2)
    own_model.reconstruct(series(5, 1, CONTEXT))
    assert own_model.calls == []


def test_little_work_is_not_compiled(own_model, monkeypatch):
    """When it would cost more than it saves, when training, or without a compiler."""
    monkeypatch.setattr(engine, "COMPILING_S", 60.0)
    assert not own_model.compile_for(series=10, steps=CONTEXT)
    monkeypatch.setattr(engine, "COMPILING_S", 0.0)
    assert not own_model.train().compile_for(series=10, steps=CONTEXT)
    monkeypatch.setattr(engine, "can_compile", lambda: False)
    assert not own_model.eval().compile_for(series=10, steps=CONTEXT)


def test_amx_needs_no_compiling(own_model, monkeypatch):
    """In bfloat16 on AMX compiled blocks were no faster; in float32 the amount of work decides."""
    monkeypatch.setattr(engine, "has_amx", lambda: True)
    assert own_model.compile_for(series=5, steps=CONTEXT)
    engine.to_bf16(own_model.encoder)
    monkeypatch.setattr(engine, "has_fast_bf16", lambda: True)
    assert not own_model.compile_for(series=5, steps=CONTEXT)


def test_listeners_do_not_hear_the_check_of_the_packed_encoder(own_model):
    """A hook at the patch embedding is called for the caller's series alone."""
    heard = []
    own_model.patch_embedding.register_forward_hook(lambda *_: heard.append(1))
    own_model.reconstruct(series(1, 1, 64))
    assert heard == [1]


def test_a_failing_compiler_is_no_error(monkeypatch):
    """The plain path is always there."""

    def broken(*_args, **_kwargs):
        raise RuntimeError("no space left")

    monkeypatch.setattr(torch, "compile", broken)
    one = torch.ones(1, 1, 4)
    assert engine.compiled(lambda x, bias: x, one, one, one) is None
    monkeypatch.setattr(torch, "compile", lambda blocks, **_: blocks)
    assert engine.compiled(lambda x, bias: x, one, one, one) is not None
    assert engine.compiled(lambda x, bias: 2 * x, one, one, one) is None


def test_threads_beside_others(monkeypatch):
    """The cores that are free, at least one; what the user said comes first."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(engine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for load, wanted in ((0.1, 8), (3.2, 5), (8.0, 1)):
        shares = [100 * min(1.0, max(0.0, load - core)) for core in range(8)]
        monkeypatch.setattr(engine.psutil, "cpu_percent", lambda *_, shares=shares, **__: [*shares, 100.0])
        assert engine.free_threads() == wanted
    monkeypatch.setattr(engine.os, "sched_getaffinity", lambda _: {0, 8, 9}, raising=False)  # 9 isn't told
    assert engine.free_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert engine.free_threads() == 3


# ------------------------------------------------- packed


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packed_gives_the_plain_numbers(precision, model, tmp_path, monkeypatch):
    """With masks and without, in both precisions; and it is what runs here."""
    if precision == "bf16" and not engine.has_fast_bf16():
        pytest.skip("this processor is slow in bfloat16")
    model.save_pretrained(tmp_path)
    fast = load_moment(tmp_path, precision=precision)
    slow = load_moment(tmp_path, precision=precision)
    monkeypatch.setattr(slow, "packed_blocks", lambda: None)
    values, rng = series(3, 4, CONTEXT), np.random.default_rng(1)
    observed = np.repeat(rng.random((3, 4, CONTEXT // 8)) < 0.7, 8, axis=-1)
    tolerance = 1 if precision == "fp32" else 500
    close(fast.reconstruct(values), slow.reconstruct(values), tolerance)
    close(fast.reconstruct(values, observed), slow.reconstruct(values, observed), tolerance)
    assert fast._packed is not None or not engine.has_packed_operators()


@pytest.mark.parametrize("how", ["in place", "data", "data in place", "load", "replace"])
def test_packed_follows_its_weights(how):
    """However a weight is changed, the next call uses the new one."""
    torch.manual_seed(0)
    model = Moment(SMALL).eval()
    before = model.reconstruct(series(1, 1, 64))
    linear = model.encoder.block[1].layer[1].DenseReluDense.wo
    new = torch.randn_like(linear.weight)
    if how == "in place":
        with torch.no_grad():
            linear.weight.copy_(new)
    elif how == "data":
        linear.weight.data = new
    elif how == "data in place":
        linear.weight.data.copy_(new)
    elif how == "load":
        linear.load_state_dict({"weight": new})
    else:
        linear.weight = torch.nn.Parameter(new)
    after = model.reconstruct(series(1, 1, 64))
    assert np.abs(after - before).max() > 1e-3
    model.packed_blocks = lambda: None
    close(after, model.reconstruct(series(1, 1, 64)))


def test_packing_stands_aside(monkeypatch):
    """For hooks, adapters, training and autocast the plain modules are called."""
    model = Moment(SMALL).eval()
    assert model.packed_blocks() is not None or not engine.has_packed_operators()
    heard = []
    hook = model.encoder.block[1].register_forward_hook(lambda *_: heard.append(1))
    model.reconstruct(series(1, 1, 64))
    hook.remove()
    assert heard == [1]
    with torch.autocast("cpu", torch.bfloat16):
        assert model.packed_blocks() is None
    assert model.train().packed_blocks() is None
    model.eval().encoder.block[0].layer[0].SelfAttention.q = torch.nn.Sequential(torch.nn.Linear(32, 24))
    assert model.packed_blocks() is None
    copied = copy.deepcopy(Moment(SMALL).eval())
    copied.reconstruct(series(1, 1, 64))
    again = pickle.loads(pickle.dumps(copied))
    close(again.reconstruct(series(1, 1, 64)), copy.deepcopy(copied).reconstruct(series(1, 1, 64)))
    broken = Moment(SMALL).eval()
    monkeypatch.setattr(engine, "gives_the_same", lambda *_: False)
    assert broken.packed_blocks() is None
