"""The state of a training run on disk: written beside the old one and swapped, read back to go on.

A kill at any moment leaves either the old state or the new one, never half of one.

Not here: what a run does with it (training, pretrain.loop), checkpoints of networks (weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from foreshock.errors import OutputError

STATE = "state.safetensors"
Named = Mapping[str, nn.Parameter]


def write_state(
    path: Path,
    named: Named,
    optimiser: torch.optim.Optimizer,
    kept: Mapping[str, Tensor],
    about: dict[str, str],
) -> None:
    """Parameters, what AdamW keeps of each, and other tensors, under names of their own.

    Raises:
        OutputError: it can't be written; the old state is untouched.
    """
    tensors = dict(kept)
    for name, parameter in named.items():
        tensors[f"model/{name}"] = parameter.detach()
        if parameter in optimiser.state:
            state = optimiser.state[parameter]
            tensors[f"count/{name}"] = state["step"]
            tensors[f"first/{name}"], tensors[f"second/{name}"] = state["exp_avg"], state["exp_avg_sq"]
    part = path.with_name(path.name + ".part")
    try:
        save_file({n: t.contiguous().clone() for n, t in tensors.items()}, part, metadata=about)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{part} can't be written ({error}); is the disk full?") from error


def read_state(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What was told about the state, and its tensors.

    Raises:
        OutputError: it is damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} can't be read ({error}); remove it to start again.") from error


@torch.no_grad()
def restore(named: Named, optimiser: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Put a state's values into parameters and optimiser; not every step trains every parameter."""
    for name, parameter in named.items():
        parameter.copy_(stored[f"model/{name}"])
        if f"first/{name}" in stored:
            optimiser.state[parameter] = {
                "step": stored[f"count/{name}"].clone(),
                "exp_avg": stored[f"first/{name}"].clone().to(parameter.device),
                "exp_avg_sq": stored[f"second/{name}"].clone().to(parameter.device),
            }
