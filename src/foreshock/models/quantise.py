"""Frozen weights in fewer bits, for training an adapter where memory is short.

The encoder's matrices in bfloat16; in 8 bits with a scale a row (torchao's weight-only int8); or in 4 bits
with a constant for each 64 of them. Products are in bfloat16 then, and gradients pass through to what is
trained beside. What scores afterwards is the base in its own precision.

Not here: training (training), how much memory that takes (planning).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foreshock.errors import ConfigError
from foreshock.models import engine
from foreshock.models.recognise import Recogniser

PRECISIONS = ("fp32", "bf16", "int8", "4-bit")
BLOCK = 64  # weights that share a constant in 4 bits. Source: Dettmers et al. 2023, "QLoRA", section 3


def frozen_in(network: Recogniser, precision: str) -> Recogniser:
    """The same network with the matrices of its encoder in a precision, in place.

    Raises:
        ConfigError: torchao is missing, or the matrices can't be cut into blocks.
    """
    encoder = network.backbone.encoder
    if precision != "fp32":
        engine.to_bf16(encoder)
    if precision == "int8":
        _to_int8(encoder)
    if precision == "4-bit":
        for module in list(encoder.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Linear):
                    setattr(module, name, FourBit(child))
    return network


def _to_int8(encoder: nn.Module) -> None:
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ConfigError("precision int8 needs torchao: pip install 'foreshock[int8]'.") from None
    quantize_(encoder, Int8WeightOnlyConfig())


class FourBit(nn.Linear):
    """A frozen matrix in 4 bits, made whole in bfloat16 for each product, also on the way back."""

    numbers: Tensor  # (rows * columns / 2,) uint8, two weights each
    constants: Tensor  # (rows * columns / BLOCK, 1) float32

    def __init__(self, linear: nn.Linear) -> None:
        rows, columns = linear.weight.shape
        if rows * columns % BLOCK:
            raise ConfigError(
                f"a matrix of {rows} × {columns} can't be cut into blocks of {BLOCK} for 4-bit."
            )
        with torch.device("meta"):
            super().__init__(columns, rows, bias=False)
        whole = linear.weight.detach().float().reshape(-1, BLOCK)
        constants = (whole.abs().amax(1, keepdim=True) / 7).clamp(min=1e-12)
        steps = (whole / constants).round().clamp(-7, 7).add(8).to(torch.uint8).reshape(-1, 2)
        self.register_buffer("numbers", steps[:, 0] | (steps[:, 1] << 4))
        self.register_buffer("constants", constants)
        # Empty: it tells others the precision and the place.
        self.weight = nn.Parameter(torch.empty(0, dtype=torch.bfloat16), requires_grad=False)

    def whole(self) -> Tensor:
        """(rows, columns) bfloat16."""
        out = torch.empty(len(self.numbers), 2, dtype=torch.bfloat16, device=self.numbers.device)
        out[:, 0] = self.numbers & 15
        out[:, 1] = self.numbers >> 4
        scaled = out.view(-1, BLOCK).sub_(8).mul_(self.constants.bfloat16())
        return scaled.view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    """A product that keeps no whole matrix for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FourBit) -> Tensor:
        ctx.layer = layer
        return x @ layer.whole().T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.whole(), None
