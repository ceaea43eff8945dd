"""The original's names: its numbers on the golden vectors, and our answer where it fails."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.errors import WeightsError
from foreshock.models.moment import Moment, MomentConfig
from foreshock.momentfm import MOMENTPipeline
from foreshock.momentfm.common import TASKS
from foreshock.momentfm.data.base import TimeseriesOutputs
from foreshock.momentfm.utils.masking import Masking

GOLDEN = os.environ.get("FORESHOCK_GOLDEN", "")
MANIFEST = Path(GOLDEN, "manifest.json")
CASES = json.loads(MANIFEST.read_text())["cases"] if GOLDEN and MANIFEST.is_file() else {}
SMALL = MomentConfig(d_model=32, d_kv=8, d_ff=48, num_heads=2, num_layers=2, seq_len=128)


def close(got, want) -> None:
    """|got - want| <= 1e-4 + 1e-5 |want|, NaN where NaN."""
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-5, atol=1e-4, equal_nan=True)


@pytest.fixture(scope="module")
def vectors(golden_dir):
    """One case's arrays by name: inputs and outputs."""
    with np.load(golden_dir / "golden.npz") as file:
        arrays = {name: file[name] for name in file.files}

    def of(case: str):
        cut = len(case) + 1
        mine = {k[cut:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith(case + "/")}
        return (
            {k[3:]: v for k, v in mine.items() if k.startswith("in/")},
            {k[4:]: v for k, v in mine.items() if k.startswith("out/")},
        )

    return of


@pytest.fixture(scope="module")
def original(golden_dir):
    """The tiny model of the golden vectors."""
    return MOMENTPipeline.from_pretrained(str(golden_dir), model_kwargs={"task_name": "reconstruction"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A fresh small checkpoint."""
    torch.manual_seed(0)
    return Moment(SMALL).save_pretrained(tmp_path_factory.mktemp("small"))


def call(model: MOMENTPipeline, case: str, inputs: dict) -> TimeseriesOutputs:
    """The call that the manifest tells for a case."""
    given = {"x_enc": inputs["x"], "input_mask": inputs["input_mask"], "mask": inputs.get("mask")}
    what = CASES[case]["call"]
    with torch.no_grad():
        for verb in ("detect_anomalies", "short_forecast", "embed", "reconstruct"):
            if what.startswith(verb):
                option = what.rstrip(")").split(",")[-1].split("=")
                extra = (
                    {}
                    if len(option) == 1
                    else {option[0]: int(option[1]) if option[1].isdigit() else option[1]}
                )
                return getattr(model, verb)(**given, **extra)
        if "embed" in case:
            return model.embed(**given)
        return model.reconstruct(**given) if case.endswith("reconstruct") else model(**given)


@pytest.mark.golden
@pytest.mark.parametrize(
    "case", [c for c in CASES if not c.endswith("internals") and not c.startswith("task.")]
)
def test_every_golden_vector(case, original, vectors):
    """The original's numbers, whatever the length, the masks and the verb."""
    inputs, wanted = vectors(case)
    outputs = call(original, case, inputs)
    for name, want in wanted.items():
        got = getattr(outputs, name)
        if case == "edge.nan_under_input_mask.reconstruct":  # the original gives NaN for the whole series
            assert got.isfinite().all()
            got = torch.where(want.isnan(), want, got)
        if case == "edge.scales":  # 1e6 around zero: the original misses its own numbers on another machine
            scale = want.abs().amax(-1, keepdim=True).clamp(min=1)
            got, want = got / scale, want / scale
        close(got, want)


@pytest.mark.golden
@pytest.mark.parametrize("steps", [512, 256, 64])
def test_activations_inside(steps, original, vectors):
    """Statistics, bias, embedding and each block's output are the original's as well."""
    inputs, wanted = vectors(f"L{steps}.internals")
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
        for name, module in {
            "patch_embedding": original.patch_embedding,
            "block0": original.encoder.block[0],
            "block1": original.encoder.block[1],
            "final_layer_norm": original.encoder.final_layer_norm,
        }.items()
    ]
    with torch.enable_grad():  # whole batch in one piece
        original(x_enc=inputs["x"], input_mask=inputs["input_mask"], mask=inputs["mask"])
    for hook in hooks:
        hook.remove()
    for name in ("patch_embedding", "block0", "block1", "final_layer_norm"):
        close(seen[name].detach().reshape(wanted[name].shape), wanted[name])
    close(original.encoder.position_bias(steps // 8).detach(), wanted["position_bias"])


@pytest.mark.golden
@pytest.mark.parametrize(
    ("case", "kwargs", "call_kwargs"),
    [
        ("forecast96", {"task_name": "forecasting", "forecast_horizon": 96}, {}),
        ("classify_concat", {"task_name": "classification", "n_channels": 3, "num_class": 15}, {}),
        (
            "classify_mean",
            {"task_name": "classification", "n_channels": 3, "num_class": 15, "reduction": "mean"},
            {"reduction": "mean"},
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Only the reconstruction head")
def test_other_heads(case, kwargs, call_kwargs, golden_dir, vectors):
    """With the head's weights put in, forecasts and logits are the original's."""
    from safetensors.torch import load_file

    model = MOMENTPipeline.from_pretrained(golden_dir, model_kwargs=kwargs)
    model.init()
    model.load_state_dict(load_file(golden_dir / f"head_{case}.safetensors"), strict=False)
    inputs, wanted = vectors(f"task.{case}")
    outputs = model(x_enc=inputs["x"], input_mask=inputs["input_mask"], **call_kwargs)
    for name, want in wanted.items():
        close(getattr(outputs, name).detach(), want)


# ------------------------------------------------- where the original should not be copied


def series(batch: int = 2, channels: int = 3, steps: int = 128) -> torch.Tensor:
    return torch.randn(batch, channels, steps, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("verb", ["reconstruct", "detect_anomalies", "short_forecast"])
def test_no_input_mask_is_all_ones(verb, folder):
    """Without a mask everything was observed."""
    model = MOMENTPipeline.from_pretrained(folder)
    got = getattr(model, verb)(x_enc=series())
    want = getattr(model, verb)(x_enc=series(), input_mask=torch.ones(2, 128))
    close(got.reconstruction.detach(), want.reconstruction.detach())


def test_any_length(folder):
    """100 steps are padded on the left with steps nobody observed, and 100 come back."""
    model = MOMENTPipeline.from_pretrained(folder)
    x, mask = series(steps=100), torch.ones(2, 100)
    got = model.reconstruct(x_enc=x).reconstruction.detach()
    padded = torch.nn.functional.pad(x, (4, 0))
    want = model.reconstruct(x_enc=padded, input_mask=torch.nn.functional.pad(mask, (4, 0)))
    assert got.shape == x.shape
    close(got, want.reconstruction[..., 4:].detach())
    assert model.short_forecast(x_enc=x, forecast_horizon=5).forecast.shape == (2, 3, 5)
    assert model(x_enc=x).pretrain_mask.shape == (2, 100)


def test_nan_is_not_observed(folder):
    """Where a patch has a hole, the others come back as if a mask had told so, and nothing is NaN."""
    model = MOMENTPipeline.from_pretrained(folder)
    x = series()
    holed, mask = x.clone(), torch.ones(2, 3, 128)
    holed[0, 1, 40:50] = torch.nan
    mask[0, 1, 40:50] = 0
    got = model.reconstruct(x_enc=holed).reconstruction.detach()
    want = model.reconstruct(x_enc=x, input_mask=mask).reconstruction.detach()
    assert got.isfinite().all()
    whole = torch.ones(128, dtype=torch.bool)
    whole[40:56] = False
    close(got[..., whole], want[..., whole])
    assert model.detect_anomalies(x_enc=holed).anomaly_scores.isnan().sum() == 10


def test_mask_of_one_channel(folder):
    """A mask for one channel changes that channel alone."""
    model = MOMENTPipeline.from_pretrained(folder)
    mask = torch.ones(2, 3, 128)
    mask[1, 2, 64:] = 0
    plain = model.reconstruct(x_enc=series()).reconstruction.detach()
    got = model.reconstruct(x_enc=series(), input_mask=mask).reconstruction.detach()
    is_same = torch.isclose(got, plain, atol=1e-5).all(-1)
    assert is_same.tolist() == [[True] * 3, [True, True, False]]


def test_without_network_one_error_at_once(monkeypatch, tmp_path):
    """A hub name that is not here says so instantly; the folder given instead works."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(WeightsError, match="AutonLab/MOMENT-1-large is not in"):
        MOMENTPipeline.from_pretrained("AutonLab/MOMENT-1-large", model_kwargs={"task_name": "embedding"})
    assert time.monotonic() - start < 0.5


def test_evaluation_mode_after_loading(folder):
    """Two equal calls give equal numbers."""
    model = MOMENTPipeline.from_pretrained(folder)
    assert not model.training
    first, second = (model(x_enc=series()).reconstruction for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_fine_tuning_reaches_the_encoder(checkpointing, folder):
    """With a frozen embedding every encoder tensor in use gets its gradient, checkpointing or not."""
    kwargs = {"freeze_encoder": False, "enable_gradient_checkpointing": checkpointing}
    model = MOMENTPipeline.from_pretrained(folder, model_kwargs=kwargs)
    for module in model.modules():
        module.p = 0.0 if isinstance(module, torch.nn.Dropout) else getattr(module, "p", None)
        if hasattr(module, "d_kv"):
            module.dropout = 0.0
    model.train()
    model(x_enc=series()).reconstruction.square().mean().backward()
    grads = {n: p.grad for n, p in model.encoder.named_parameters() if n != "embed_tokens.weight"}
    assert all(g is not None and g.abs().sum() > 0 for g in grads.values())
    assert model.patch_embedding.mask_embedding.grad is None
    total = sum(g.double().square().sum() for g in grads.values())
    reference = test_fine_tuning_reaches_the_encoder.__dict__.setdefault("total", total)
    assert torch.isclose(total, reference, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_peft_trains_adapters_and_the_new_head(folder):
    """get_peft_model works, and a step changes the adapters and the classification head, nothing else."""
    peft = pytest.importorskip("peft")
    kwargs = {"task_name": "classification", "n_channels": 3, "num_class": 4, "freeze_encoder": False}
    model = MOMENTPipeline.from_pretrained(folder, model_kwargs=kwargs)
    model.init()
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q", "v"])).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):  # the first step leaves lora_A alone, because lora_B starts at 0
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x_enc=series()).logits, torch.tensor([0, 3])).backward()
        optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if "lora_" in n or ".head." in n}


def test_fully_padded_series_is_nan(folder):
    """Nothing observed, nothing known; the neighbours are not touched."""
    model = MOMENTPipeline.from_pretrained(folder)
    mask = torch.ones(2, 128)
    mask[0] = 0
    got = model.reconstruct(x_enc=series(), input_mask=mask).reconstruction.detach()
    assert got[0].isnan().all()
    assert got[1].isfinite().all()
    with torch.no_grad():
        assert model.embed(x_enc=series(), input_mask=mask).embeddings.isnan().any(-1).tolist() == [
            True,
            False,
        ]


# ------------------------------------------------- the rest of the class


def test_masking_hides_the_asked_share():
    """Whole patches, observed ones only, rounded so that at least the asked number stays."""
    torch.manual_seed(3)
    observed = torch.ones(5, 128)
    observed[:, :32] = 0
    mask = Masking(mask_ratio=0.3).generate_mask(torch.zeros(5, 2, 128), observed)
    patches = mask.reshape(5, 16, 8)
    assert mask.shape == (5, 128)
    assert (patches.min(-1).values == patches.max(-1).values).all()
    assert patches[:, :4].sum() == 0
    assert (Masking.convert_seq_to_patch_view(mask).sum(-1) == 9).all()  # ceil(12 * 0.7)


def test_validation_and_names(folder):
    """The original's complaints and attributes."""
    with pytest.raises(ValueError, match="forecast_horizon"):
        MOMENTPipeline.from_pretrained(folder, model_kwargs={"task_name": "forecasting"})
    with pytest.raises(ValueError, match="num_class"):
        MOMENTPipeline.from_pretrained(folder, model_kwargs={"task_name": "classification", "n_channels": 1})
    model = MOMENTPipeline.from_pretrained(folder)
    with pytest.raises(NotImplementedError):
        model.embed(x_enc=series(), reduction="max")
    with pytest.raises(ValueError):
        model.detect_anomalies(x_enc=series(), anomaly_criterion="r2")
    assert (model.task_name, model.seq_len, model.patch_len) == (TASKS.RECONSTRUCTION, 128, 8)
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.head.parameters())


@pytest.mark.filterwarnings("ignore:Only the reconstruction head")
def test_a_trained_head_comes_back(folder, tmp_path):
    """A fine-tuned forecaster is saved and loaded with its head."""
    kwargs = {"task_name": "forecasting", "forecast_horizon": 12}
    model = MOMENTPipeline.from_pretrained(folder, model_kwargs=kwargs)
    model.init()
    model.save_pretrained(tmp_path)
    again = MOMENTPipeline.from_pretrained(tmp_path, model_kwargs=kwargs)
    again.init()
    close(again(x_enc=series()).forecast.detach(), model(x_enc=series()).forecast.detach())
    assert model(x_enc=series(steps=70)).forecast.shape == (2, 3, 12)


# ------------------------------------------------- what the tutorials import


def test_synthetic_series_have_the_asked_property():
    """Frequency 1 to 4 over the series: as many rising zero crossings as periods."""
    from foreshock.momentfm.data.synthetic_data import SyntheticDataset

    y, c = SyntheticDataset(n_samples=4, freq_range=(1, 4), noise_std=0.0).gen_sinusoids_with_varying_freq()
    assert y.shape == (4, 1, 512)
    assert c[:, 0].tolist() == [1, 2, 3, 4]
    signs = (y[:, 0, 1:-1] > 0).int()
    assert ((signs[:, 1:] < signs[:, :-1]).sum(-1)).tolist() == [1, 2, 3, 4]


def test_tutorial_metrics():
    """By hand: errors of 1 and 3 against values of 2 and 4; one of two anomalies found is found whole."""
    from foreshock.momentfm.utils.anomaly_detection_metrics import adjbestf1
    from foreshock.momentfm.utils.forecasting_metrics import get_forecasting_metrics

    got = get_forecasting_metrics(y=np.array([2.0, 4.0]), y_hat=np.array([3.0, 1.0]))
    assert (got.mae, got.mse, got.mape) == (2, 5, 62.5)
    assert got.smape == pytest.approx(200 * (1 / 5 + 3 / 5) / 2)
    labels = np.array([0, 1, 1, 1, 0, 0, 1, 0])
    scores = np.array([0, 0, 1, 0, 0, 0, 0, 0])
    assert adjbestf1(labels, scores) == pytest.approx(2 * 0.75 / 1.75, abs=1e-3)


def test_tutorial_datasets(tmp_path):
    """Windows, masks and labels in the shapes that the tutorials' loops expect."""
    from foreshock.momentfm.data.anomaly_detection_dataset import AnomalyDetectionDataset
    from foreshock.momentfm.data.classification_dataset import ClassificationDataset
    from foreshock.momentfm.data.informer_dataset import InformerDataset

    ucr = tmp_path / "1_UCR_Anomaly_x_600_900_950.out"
    rows = [f"{np.sin(i / 5):.4f},{int(300 <= i - 600 < 350)}" for i in range(1700)]
    ucr.write_text("\n".join(rows))
    test = AnomalyDetectionDataset("test", full_file_path_and_name=str(ucr))
    assert [part.shape for part in test[len(test) - 1]] == [(1, 512), (512,), (1, 512)]
    ts = tmp_path / "a.ts"
    ts.write_text("@classLabel true 1 2\n@data\n1,2,3:1\n4,?,6:2\n7,8,1:1\n")
    cases = ClassificationDataset("train", str(ts), str(ts))
    series_, mask, label = cases[0]
    assert (series_.shape, int(mask.sum()), int(label), len(cases)) == ((1, 512), 3, 0, 3)
    etth = tmp_path / "ETTh1.csv"
    hours = 14_400 + 10
    etth.write_text("date,a,b\n" + "\n".join(f"{i},{i % 24},{i}" for i in range(hours)))
    ett = InformerDataset(192, "test", full_file_path_and_name=str(etth))
    assert [part.shape for part in ett[0]] == [(2, 512), (2, 192), (512,)]


def test_sklearn_adapter(folder):
    """The estimators score, forecast and embed from a folder."""
    pytest.importorskip("sklearn")
    from foreshock.momentfm import sklearn_adapter as adapter

    options = {"model_name": str(folder), "context_length": 128, "n_channels": 3, "batch_size": 2}
    x = series(batch=3).numpy()
    assert adapter.MOMENTAnomalyDetector(**options).transform(x).shape == (3,)
    assert adapter.MOMENTEmbedder(**options).fit_transform(x.reshape(3, -1)).shape == (3, 32)
    with pytest.warns(UserWarning, match="fine-tuned"):
        assert adapter.MOMENTForecaster(**options, forecast_horizon=5).fit(x).predict(x).shape == (3, 15)
    with pytest.raises(ValueError, match="2D input"):
        adapter._to_3d(np.zeros((4, 500)), 1, 512)
