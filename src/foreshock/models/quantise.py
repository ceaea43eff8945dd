"""Frozen weights in fewer bits, for training an adapter where memory is short.

The encoder's matrices in bfloat16; in 8 bits with a scale a row; or in 4 bits with a constant for each 64 of
them. Products are in bfloat16 then: a matrix is made whole for each of them and again on the way back, where
libraries keep it whole in between (torchao 0.18 did: large in int8 took 1,011 MiB in place of 430,
docs/log.md, 2026-11-26). What scores afterwards is the base in its own precision.

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
        ConfigError: the matrices can't be cut into blocks.
    """
    round_matrices(network.backbone.encoder, precision)
    return network


def round_matrices(encoder: nn.Module, precision: str) -> None:
    """Put an encoder's matrices into a precision, in place."""
    if precision == "bf16":
        engine.to_bf16(encoder)
    if precision not in ("int8", "4-bit"):
        return
    kind = EightBit if precision == "int8" else FourBit
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, kind(child))


class Rounded(nn.Linear):
    """A frozen matrix that is made whole in bfloat16 for each product, also on the way back."""

    numbers: Tensor
    constants: Tensor  # float32

    def __init__(self, linear: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, bias=False)
        numbers, constants = self.rounded(linear.weight.detach().float())
        self.register_buffer("numbers", numbers)
        self.register_buffer("constants", constants)
        # Empty: it tells others the precision and the place.
        self.weight = nn.Parameter(torch.empty(0, dtype=torch.bfloat16), requires_grad=False)

    def rounded(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def whole(self) -> Tensor:
        """(rows, columns) bfloat16."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product


class EightBit(Rounded):
    """Numbers (rows, columns) int8, a constant for each row."""

    def rounded(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        constants = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
        return (weight / constants).round().clamp(-127, 127).to(torch.int8), constants

    def whole(self) -> Tensor:
        return self.numbers.to(torch.bfloat16).mul_(self.constants.bfloat16())


class FourBit(Rounded):
    """Numbers (rows * columns / 2,) uint8, two weights each; a constant for each block of them."""

    def rounded(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if weight.numel() % BLOCK:
            rows, columns = weight.shape
            raise ConfigError(
                f"a matrix of {rows} × {columns} can't be cut into blocks of {BLOCK} for 4-bit."
            )
        whole = weight.reshape(-1, BLOCK)
        constants = (whole.abs().amax(1, keepdim=True) / 7).clamp(min=1e-12)
        steps = (whole / constants).round().clamp(-7, 7).add(8).to(torch.uint8).reshape(-1, 2)
        return steps[:, 0] | (steps[:, 1] << 4), constants

    def whole(self) -> Tensor:
        out = torch.empty(len(self.numbers), 2, dtype=torch.bfloat16, device=self.numbers.device)
        out[:, 0] = self.numbers & 15
        out[:, 1] = self.numbers >> 4
        scaled = out.view(-1, BLOCK).sub_(8).mul_(self.constants.bfloat16())
        return scaled.view(self.out_features, self.in_features)


class _Product(torch.autograd.Function):
    """A product that keeps no whole matrix for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Rounded) -> Tensor:
        ctx.layer = layer
        return x @ layer.whole().T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.whole(), None
