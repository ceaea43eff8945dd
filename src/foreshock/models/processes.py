"""Several processes that train one network: which one this is, and how their gradients become one.

`accelerate launch` (or torchrun) starts them, on one machine or on several; each works through its part of
every batch, and the sums of all are what one process alone would have. So the batch, and what is learned,
do not depend on how many there are. All must see the same folders.

Not here: what is trained (training, pretrain.loop).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from foreshock.errors import ConfigError

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Group:
    """This process among those that train together; by itself unless `join` found others."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    accelerator: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and talks."""
        return self.rank == 0

    def part(self, items: int) -> slice:
        """Which of a batch's items are this process's: a run of them, as even as can be."""
        return slice(items * self.rank // self.size, items * (self.rank + 1) // self.size)

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Gradients become their sum over all processes; one message for all of them."""
        if self.size == 1:
            return
        used = [p for p in parameters if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in used])
        told = torch.cat([flat.new_tensor([float(p.grad is not None) for p in used]), flat])
        told = self.accelerator.reduce(told, reduction="sum")
        has, flat = told[: len(used)], told[len(used) :]
        for parameter, told_by, own in zip(used, has, flat.split([p.numel() for p in used]), strict=True):
            parameter.grad = own.reshape(parameter.shape).clone() if told_by > 0 else None

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.size == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(told, reduction="sum"))

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            self.accelerator.wait_for_everyone()


def join() -> Group:
    """The group that a launcher started this process in (WORLD_SIZE says so), or it alone.

    Raises:
        ConfigError: there are several and accelerate is missing.
    """
    is_cuda = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Group(device=torch.device("cuda" if is_cuda else "cpu"))
    try:
        from accelerate import Accelerator
    except ImportError:
        raise ConfigError(
            f"{os.environ['WORLD_SIZE']} processes train together; that needs accelerate: "
            "pip install 'foreshock[adapt]'."
        ) from None
    made = Accelerator(cpu=not is_cuda)
    return Group(made.process_index, made.num_processes, made.device, made)
