"""Plans: what is counted is what torch keeps, the fastest that fits is chosen, and mistakes are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from foreshock.cli import run
from foreshock.errors import ConfigError, ResourceError, WeightsError
from foreshock.memory import Budget
from foreshock.models import engine
from foreshock.models.moment import Moment, MomentConfig
from foreshock.planning import PRECISIONS, PUBLISHED, TARGETS, Need, Step, _Count, geometry, plan, predict

RECORDS = Path(__file__).parents[1] / "benchmarks" / "results" / "plan_memory.jsonl"
LARGE = "AutonLab/MOMENT-1-large"
GIB = 2**30


class Adapted(nn.Module):
    """A low-rank change of a frozen layer, as peft computes it."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base.weight

    def forward(self, x):
        out = self.base(x)
        return (out + self.b(self.a(x.to(self.a.weight.dtype)))).to(out.dtype)


def small_network(step: Step) -> Moment:
    p = step.dropout or 0.0
    shape = MomentConfig(96, 24, 160, 4, 6, dropout=p, patch_dropout=p, head_dropout=p)
    model = Moment(shape).train()
    for block in model.encoder.block:
        for part in (block.layer[0].SelfAttention, block.layer[1].DenseReluDense):
            for name, linear in list(part.named_children()):
                if name not in TARGETS:
                    continue
                if step.precision == "bf16":
                    linear.weight = nn.Parameter(linear.weight.detach().bfloat16())
                if step.method == "lora" and name in step.targets:
                    setattr(part, name, Adapted(linear, step.rank))
    if step.method == "lora":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".a." in name or ".b." in name)
    return model


def kept_bytes(model: Moment, step: Step) -> int:
    """What autograd holds for the way back, each storage once, weights left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            found[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no place is used twice
        return tensor

    x = torch.randn(step.batch * step.channels, step.window)
    patches = x.view(len(x), -1, 8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        embedded = model.patch_embedding(patches, None, 0)
        out = model.encoder.run_blocks(embedded, model.encoder.attention_bias(patches.shape[1]))
    assert out.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize(
    "step",
    [
        Step(precision="fp32", dropout=0.0),
        Step(precision="fp32", dropout=0.1),
        Step(precision="bf16", dropout=0.0),
        Step(precision="bf16", dropout=0.1),
        Step(precision="bf16", dropout=0.1, targets=TARGETS),
        Step(precision="fp32", dropout=0.1, targets=("wi_0", "wo", "q", "o")),
        Step(precision="bf16", dropout=0.1, window=512, channels=3, batch=2),
        Step(method="full", precision="fp32", dropout=0.1),
        Step(method="full", precision="fp32", dropout=0.0),
    ],
    ids=lambda s: f"{s.method} {s.precision} {s.dropout} {'-'.join(s.targets)} {s.window}",
)
def test_what_is_counted_is_what_autograd_keeps(step):
    """Within 6 %: the last norm and the ends, which are gone at the peak, are left out of the count."""
    model = small_network(step)
    counted = _Count(model.config, step).kept()
    assert counted == pytest.approx(kept_bytes(model, step), rel=0.06)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_of_peft_keep_what_is_counted(precision):
    """The wrapper of these tests and of the benchmark stands for peft's own layers."""
    peft = pytest.importorskip("peft")
    step = Step(precision=precision, dropout=0.1, targets=("q", "v", "wo"))
    model = small_network(replace(step, targets=("k",)))
    for block in model.encoder.block:
        block.layer[0].SelfAttention.k = block.layer[0].SelfAttention.k.base
    peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=list(step.targets)))
    assert _Count(model.config, step).kept() == pytest.approx(kept_bytes(model.train(), step), rel=0.06)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_those_of_the_network(precision):
    """Every parameter and buffer but the table that nobody reads; on a card that too."""
    step = Step(precision=precision, dropout=0.0, targets=("q",))
    model = small_network(replace(step, method="lora"))
    tensors = [*model.named_parameters(), *model.named_buffers()]
    sizes = {
        name: t.numel() * t.element_size() for name, t in tensors if ".a." not in name and ".b." not in name
    }
    unread = sizes.pop("encoder.embed_tokens.weight")
    assert predict(model.config, step).weights == sum(sizes.values())
    on_card = predict(model.config, replace(step, device="cuda"))
    assert on_card.weights == sum(sizes.values()) + unread


def test_adapters_are_counted():
    """Rank × (in + out) for each target of each block, four float32 numbers each."""
    step = Step(rank=4, targets=("q", "wo"))
    shape = geometry(LARGE)
    assert predict(shape, step).training == 16 * 24 * 4 * ((1024 + 1024) + (2816 + 1024))


@pytest.mark.parametrize("name", [*PUBLISHED, "nano"])
def test_published_names_need_no_files(name, monkeypatch, tmp_path):
    """The geometry of the hub's checkpoints is known where neither they nor a network are."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shape = geometry(name)
    known = json.loads((RECORDS.parents[1] / "moment_geometry.json").read_text())
    if name != "nano":
        for field, value in known[name.rpartition("-")[2]].items():
            assert getattr(shape, field) == value, field


def test_a_folder_needs_its_config_alone(tmp_path):
    """Weights that are still to come can be planned for."""
    (tmp_path / "config.json").write_text(json.dumps(MomentConfig(num_layers=3).to_dict()))
    assert geometry(tmp_path).num_layers == 3


def test_unknown_checkpoint():
    """The error names what is known."""
    with pytest.raises(WeightsError, match=r"no checkpoint 'AutonLab/MOMENT-9'.*MOMENT-1-large"):
        geometry("AutonLab/MOMENT-9")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_large_in_8_gib(device):
    """MOMENT-1-large with LoRA at batch 8, 256 rows, one KPI: whole, in bfloat16, without checkpointing."""
    best = plan(geometry(LARGE), Step(device=device), Budget.parse("8GiB"), tuple(PRECISIONS))
    assert best.need.peak_bytes < 8 * GIB
    assert (best.step.batch, best.step.accumulation, best.step.checkpointing) == (8, 1, False)
    if device == "cuda" or engine.has_fast_bf16():
        assert best.step.precision == "bf16"


@pytest.mark.parametrize(
    ("more", "less"),
    [
        (Step(batch=16), Step()),
        (Step(channels=2), Step()),
        (Step(window=512), Step()),
        (Step(precision="fp32"), Step(precision="bf16")),
        (Step(precision="bf16"), Step(precision="int8")),
        (Step(precision="int8"), Step(precision="4-bit")),
        (Step(), Step(checkpointing=True)),
        (Step(rank=64), Step()),
        (Step(targets=TARGETS), Step()),
        (Step(dropout=0.1), Step(dropout=0.0)),
        (Step(method="full", precision="fp32"), Step(precision="fp32")),
    ],
)
def test_what_needs_more(more, less):
    """Each knob turns the right way, on a processor and on a card."""
    for device in ("cpu", "cuda"):
        sizes = [predict(geometry(LARGE), replace(s, device=device)).step_bytes for s in (more, less)]
        assert sizes[0] > sizes[1]


def test_full_training_peaks_at_either_end():
    """Gradients are counted beside what is kept only when they stay between steps."""
    shape = geometry("AutonLab/MOMENT-1-small")
    one = predict(shape, Step(method="full", precision="fp32", batch=1, window=64))
    many = predict(shape, Step(method="full", precision="fp32", batch=1, window=64, accumulation=4))
    assert one.activations < many.activations
    assert many.training == one.training


def test_less_memory_costs_time_step_by_step():
    """As the budget shrinks the plan is never faster, always fits, and keeps the effective batch."""
    from foreshock.planning import relative_time

    shape, wanted = geometry(LARGE), Step(device="cuda", batch=32, channels=4)
    times = []
    for text in ("64GiB", "16GiB", "8GiB", "4GiB", "2GiB", "1.2GiB"):
        best = plan(shape, wanted, Budget.parse(text), tuple(PRECISIONS))
        assert best.need.peak_bytes <= best.budget.bytes
        assert best.step.batch * best.step.accumulation >= 32
        times.append(relative_time(shape, best.step))
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_the_next_larger_is_told():
    """One window more than the largest batch does not fit, and by how much is said."""
    best = plan(geometry(LARGE), Step(device="cuda"), Budget.parse("8GiB"))
    assert best.next_larger.step.batch == best.largest_batch + 1
    assert best.next_larger.need.peak_bytes - 8 * GIB == best.next_larger.over_bytes > 0
    assert predict(geometry(LARGE), replace(best.step, batch=best.largest_batch)).peak_bytes <= 8 * GIB
    assert "too much (activations" in str(best.next_larger)


def test_faster_steps_that_do_not_fit_are_told():
    """Whoever gets checkpointing or a smaller batch learns what stood against more."""
    best = plan(geometry(LARGE), Step(device="cuda", batch=256), Budget.parse("8GiB"))
    assert best.step.checkpointing or best.step.accumulation > 1
    assert best.faster
    assert all(one.need.peak_bytes - 8 * GIB == one.over_bytes > 0 for one in best.faster)


def test_nothing_fits():
    """The error has the least that is needed and the budget."""
    with pytest.raises(
        ResourceError, match=r"budget of 100 MiB.*the least is 4-bit, batch 1 × 8, checkpointing"
    ):
        plan(geometry(LARGE), Step(device="cuda"), Budget.parse("100MiB"), tuple(PRECISIONS))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"channels": -1}, "channels is -1"),
        ({"precision": "int3"}, "precision is 'int3'; it must be one of fp32"),
        ({"method": "prompt"}, "method is 'prompt'"),
        ({"targets": ("q", "x")}, "no layer 'x'"),
        ({"targets": ()}, "no layer gets an adapter"),
        ({"method": "full"}, "in fp32 alone, not in bf16"),
    ],
)
def test_steps_that_make_no_sense(wrong, said):
    """Each is one error that says what came."""
    with pytest.raises(ConfigError, match=said):
        Step(**wrong)


def test_a_window_too_long():
    """The model's own limit is told."""
    with pytest.raises(ConfigError, match="window is 1024; this model reads 1 to 512"):
        predict(geometry(LARGE), Step(window=1024))


# ------------------------------------------------------------------------------------------ command line


def ask(capsys, *words: str) -> tuple[int, str, str]:
    code = run(["plan", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_plan_in_json(capsys):
    """One document with the step, its need in bytes, what would be faster and what the next larger needs."""
    code, out, _ = ask(capsys, "--vram", "8GiB", "--model", LARGE, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["step"]["precision"] == "bf16"
    assert told["need"]["peak_bytes"] < told["budget_bytes"] == 8 * GIB
    assert told["next_larger"]["over_bytes"] > 0
    assert told["is_measured"] is False


def test_plan_for_people(capsys):
    """The choice, its parts, the next larger, and that a card was never tried."""
    code, out, _ = ask(capsys, "--vram", "8GiB", "--model", LARGE, "--batch", "256")
    assert code == 0
    for words in ("activations", "faster, but: ", "next larger: ", "not been run on a CUDA device"):
        assert words in out


def test_plan_for_a_processor(capsys):
    """With nothing said: nano, on this machine."""
    code, out, _ = ask(capsys, "--ram", "4GiB")
    assert code == 0
    assert out.startswith("nano, LoRA (rank 8 on q, v), 256 rows × 1 KPIs: ")
    assert "CUDA" not in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--model", "AutonLab/MOMENT-9", "--vram", "8GiB"], 2, "no checkpoint"),
        (["--model", LARGE, "--vram", "100MiB"], 3, "nothing fits the budget of 100 MiB"),
        (["--vram", "0GiB"], 2, "no amount of memory"),
        (["--vram", "plenty"], 2, "no amount of memory"),
        (["--vram", "8GiB", "--ram", "8GiB"], 2, "both given"),
        (["--vram", "8GiB", "--batch", "0"], 2, "--batch"),
        (["--vram", "8GiB", "--precision", "int3"], 2, "int3"),
        (["--vram", "8GiB", "--window", "1024"], 2, "window is 1024"),
        (["--vram", "8GiB", "--targets", "q,x"], 2, "no layer 'x'"),
    ],
)
def test_bad_input(capsys, words, code, said):
    """One line on stderr, nothing on stdout, the exit code of its kind."""
    found, out, err = ask(capsys, *words)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert said in err


# ------------------------------------------------------------------------------------------- the records


def records() -> list[dict]:
    return [json.loads(line) for line in RECORDS.read_text().splitlines()]


def test_the_records_are_of_this_prediction():
    """The benchmark was run, or its predictions counted anew, after the last change of the count."""
    for record in records():
        step = Step(**{**record["step"], "targets": tuple(record["step"]["targets"])})
        need = predict(geometry(f"AutonLab/MOMENT-1-{record['size']}"), step)
        assert Need(**record["need"]) == need
        assert record["predicted_bytes"] == need.step_bytes


def test_predictions_are_within_a_tenth_of_what_was_measured():
    """At least 12 configurations, all three sizes, where tensors have pages of their own."""
    found = [record for record in records() if not record["has_holes"]]
    assert len(found) >= 12
    assert {record["size"] for record in found} == {"small", "base", "large"}
    for record in found:
        assert record["predicted_bytes"] == pytest.approx(record["peak_bytes"], rel=0.1), record["step"]
