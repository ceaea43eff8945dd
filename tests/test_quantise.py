"""Frozen weights in fewer bits: near the exact ones, small, and gradients pass through to what is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from foreshock.errors import ConfigError
from foreshock.models import lora
from foreshock.models.finetune import FinetuneOptions, finetune
from foreshock.models.moment import Moment
from foreshock.models.quantise import BLOCK, PRECISIONS, FourBit, frozen_in
from foreshock.models.recognise import Recogniser
from test_finetune import QUICK, TINY, WINDOW, frame

pytest.importorskip("peft")


def network() -> Recogniser:
    torch.manual_seed(1)
    return Recogniser(Moment(replace(TINY, dropout=0.0))).eval()


@pytest.mark.parametrize(
    ("precision", "off"), [("fp32", 1e-6), ("bf16", 0.02), ("int8", 0.02), ("4-bit", 0.3)]
)
def test_what_is_said_stays_near(precision: str, off: float):
    """Fewer bits move the answer a little; the base itself, whose memory was shared, not at all."""
    base = network()
    x, attended = torch.randn(5, 64), torch.ones(5, 8, dtype=torch.bool)
    exact = base(x, attended).logit
    rounded = frozen_in(lora.thawed(base), precision)
    assert (rounded(x, attended).logit - exact).abs().max() <= off * exact.abs().max()
    torch.testing.assert_close(base(x, attended).logit, exact)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_adapter_is_learned_on_it(tmp_path: Path, precision: str):
    """LoRA on top of the rounded base: the changes move, and the adapter is one for the exact base."""
    base, lines = network(), []
    options = replace(QUICK, precision=precision, steps=4, check_every=4)
    made = finetune(frame(), tmp_path / "a", base, options, lines.append, **WINDOW)
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4]
    assert made.facts["best_step"] in (0, 4)
    assert made.tensors
    assert all(t.dtype == torch.float32 for t in made.tensors.values())
    assert made.base_sha256 == lora.base_sha256(base)


def test_four_bits_are_four_bits():
    """Half a byte a weight and a constant for each block, each weight within half a step of its own."""
    torch.manual_seed(0)
    linear = nn.Linear(128, 32, bias=False)
    packed = FourBit(linear)
    assert packed.numbers.numel() == 128 * 32 / 2
    step = linear.weight.reshape(-1, BLOCK).abs().amax(1, keepdim=True) / 7
    off = (packed.whole().float() - linear.weight).reshape(-1, BLOCK).abs()
    assert (off <= 0.52 * step + 0.01).all()
    x = torch.randn(3, 128, dtype=torch.bfloat16, requires_grad=True)
    packed(x).sum().backward()
    torch.testing.assert_close(x.grad, packed.whole().sum(0).expand(3, -1), rtol=0.05, atol=0.05)
    with pytest.raises(ConfigError, match="be cut into blocks of 64"):
        FourBit(nn.Linear(5, 3, bias=False))


def test_a_precision_that_is_none():
    """The known ones are named."""
    with pytest.raises(ConfigError, match="fp32, bf16, int8, 4-bit"):
        FinetuneOptions(precision="int3")
