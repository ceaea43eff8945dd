"""Predicted against measured memory of one training step, a fresh process for each configuration.

    python benchmarks/plan_memory.py [--device cuda] [--only small] [--holes] [--recount] [--product]

Random weights of the true shapes, built in their precision; low-rank adapters as peft computes them (in
float32); int8 and 4-bit as plain weight-only formats that are made whole for each product. On a CPU the
peak is the kernel's high-water mark of the step over what was resident before the network was made; the
optimiser's state is there before. Each tensor gets pages of its own (memory.return_freed_memory);
with --holes glibc does as it does by default, which leaves holes. On CUDA (never run yet) it is torch.cuda's
own. Appends to results/plan_memory.jsonl; a configuration that is there already is left out. --recount
predicts anew for what was measured before. With --product the weights and adapters are those that
`foreshock adapt` trains with (`has_product`), in a few configurations.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.memory import resident_bytes, return_freed_memory
from foreshock.models.moment import Moment, MomentConfig, without_values
from foreshock.models.quantise import round_matrices
from foreshock.planning import Step, geometry, predict
from foreshock.runlog import processor

RESULTS = Path(__file__).parent / "results" / "plan_memory.jsonl"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}  # others compute in bfloat16
BLOCK = 64  # weights that share a constant in 4-bit
EVERY = ("q", "k", "v", "o", "wi_0", "wi_1", "wo")
CASES = [
    ("large", Step(checkpointing=True)),
    ("small", Step()),
    ("large", Step()),
    ("small", Step(precision="fp32")),
    ("small", Step(precision="int8")),
    ("small", Step(precision="4-bit")),
    ("small", Step(precision="fp16")),
    ("small", Step(method="full", precision="fp32")),
    ("base", Step()),
    ("base", Step(precision="int8")),
    ("base", Step(batch=4, window=512, checkpointing=True)),
    ("base", Step(precision="fp32", batch=2)),
    ("base", Step(dropout=0.0)),
    ("large", Step(precision="int8", batch=2)),
    ("small", Step(method="full", precision="fp32", checkpointing=True)),
    ("small", Step(method="full", precision="fp32", batch=16, channels=4, checkpointing=True)),
    ("small", Step(channels=8, checkpointing=True)),
    ("small", Step(targets=EVERY, rank=16, channels=2)),
    ("small", Step(targets=EVERY, rank=16, channels=4)),
    ("base", Step(precision="4-bit", batch=2)),
    ("small", Step(batch=4, window=512, channels=4, checkpointing=True)),
    ("large", Step(channels=4)),
    ("base", Step(method="full", precision="fp32", batch=2)),
    ("large", Step(precision="fp32", batch=2)),
]


class Adapted(nn.Module):
    """A frozen layer and a low-rank change of it, in the order and the types of peft's LoRA."""

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        self.base = base
        rows, columns = base.shape if isinstance(base, Quantised) else base.weight.shape
        self.a = nn.Linear(columns, rank, bias=False)
        self.b = nn.Linear(rank, rows, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        return (out + self.b(self.a(x.to(self.a.weight.dtype))) * 2.0).to(out.dtype)


class Quantised(nn.Module):
    """A frozen weight in 8 or 4 bits, made whole in bfloat16 for each product, also on the way back."""

    def __init__(self, rows: int, columns: int, bits: int) -> None:
        super().__init__()
        self.shape, self.bits = (rows, columns), bits
        size = rows * columns
        numbers = torch.randint(0, 255, (size * bits // 8,), dtype=torch.uint8)
        constants = torch.full((rows, 1) if bits == 8 else (size // BLOCK, 1), 1e-3)
        self.register_buffer("numbers", numbers)
        self.register_buffer("constants", constants)
        self.register_buffer("weight", torch.empty(0, dtype=torch.bfloat16))  # tells the precision

    def whole(self) -> Tensor:
        scale = self.constants.bfloat16()
        if self.bits == 8:
            return self.numbers.view(self.shape).to(torch.bfloat16).sub_(128).mul_(scale)
        out = torch.empty(len(self.numbers), 2, dtype=torch.bfloat16)
        out[:, 0] = self.numbers & 15
        out[:, 1] = self.numbers >> 4
        return out.view(-1, BLOCK).sub_(8).mul_(scale).view(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        return Product.apply(x, self)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantised) -> Tensor:
        ctx.layer = layer
        return x @ layer.whole().T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.whole(), None


PRODUCT_CASES = [
    ("small", Step(precision="bf16")),
    ("small", Step(precision="int8")),
    ("small", Step(precision="4-bit")),
    ("base", Step(precision="int8")),
    ("base", Step(precision="4-bit", batch=2)),
    ("large", Step()),
    ("large", Step(precision="int8", batch=2)),
]


def build_product(shape: MomentConfig, step: Step) -> Any:
    """The network as `foreshock adapt` trains one: matrices rounded, LoRA by peft."""
    from peft import LoraConfig, get_peft_model

    with without_values():
        model = Moment(shape)
    noise = torch.randn(1 << 16) * 0.02
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    # Block by block, so that the whole is never there in float32 at once.
    for block in model.encoder.block:
        for parameter in block.parameters():
            for part in parameter.data.view(-1).split(len(noise)):
                part.copy_(noise[: len(part)])
        round_matrices(block, step.precision)
    if step.checkpointing:
        model.encoder.gradient_checkpointing_enable()
    config = LoraConfig(r=step.rank, lora_alpha=2.0 * step.rank, target_modules=list(step.targets))
    return get_peft_model(model, config).train()


def build(shape: MomentConfig, step: Step) -> Moment:
    """The network as it is trained, no more memory touched than it keeps."""
    with without_values():
        model = Moment(shape)
    noise = torch.randn(1 << 16) * 0.02
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(step.method == "full" and "embed_tokens" not in name)
    for block in model.encoder.block:
        for module in (block.layer[0].SelfAttention, block.layer[1].DenseReluDense):
            for name in EVERY:
                if hasattr(module, name):
                    setattr(module, name, layer(getattr(module, name), name, step, noise))
    if step.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = step.dropout
            elif hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = step.dropout
    if step.checkpointing:
        model.encoder.gradient_checkpointing_enable()
    return model.train().to(step.device)


def layer(linear: nn.Linear, name: str, step: Step, noise: Tensor) -> nn.Module:
    rows, columns = linear.weight.shape
    if step.precision in ("int8", "4-bit"):
        base: nn.Module = Quantised(rows, columns, 8 if step.precision == "int8" else 4)
    else:
        weight = torch.empty(rows, columns, dtype=DTYPES.get(step.precision, torch.bfloat16))
        for part in weight.view(-1).split(len(noise)):
            part.copy_(noise[: len(part)])
        linear.weight = nn.Parameter(weight, requires_grad=step.method == "full")
        base = linear
    return Adapted(base, step.rank) if step.method == "lora" and name in step.targets else base


def train(model: Moment, optimiser: torch.optim.Optimizer, step: Step) -> None:
    x = torch.randn(step.batch * step.channels, step.window, device=step.device)
    (model.decode(model.encode(x)) - x).square().mean().backward()
    optimiser.step()


def measure(size: str, step: Step, has_holes: bool = False, is_product: bool = False) -> dict[str, Any]:
    """One step in this process; bytes over what was there before the network."""
    is_cuda = step.device == "cuda"
    if not has_holes:
        return_freed_memory()
    warm_up(step)
    before = torch.cuda.memory_allocated() if is_cuda else settled()
    make = build_product if is_product else build
    model = make(geometry(f"AutonLab/MOMENT-1-{size}"), step)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()  # its state, without which the first step would look cheaper than the others
    optimiser.zero_grad()
    if is_cuda:
        ready = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        ready = settled()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    began = time.process_time()
    train(model, optimiser, step)
    cpu_s = time.process_time() - began
    peak = torch.cuda.max_memory_allocated() if is_cuda else high_water()
    return {
        "ready_bytes": ready - before,
        "peak_bytes": peak - before,
        "before_bytes": before,
        "cpu_s": cpu_s,
    }


def settled() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


def high_water() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def in_fresh_process(size: str, step: Step, has_holes: bool, is_product: bool) -> dict[str, Any]:
    """Measured in a fork, which starts with torch loaded and nothing else."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        try:
            os.write(into, json.dumps(measure(size, step, has_holes, is_product)).encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    if not text:
        raise SystemExit(f"{size} {step}: the process ended without a figure")
    return json.loads(text)


def warm_up(step: Step) -> None:
    """What a first step loads and compiles, so that it is not counted for a network."""
    for again in (step.checkpointing, not step.checkpointing):
        tiny = replace(step, batch=2, channels=1, window=64, checkpointing=again)
        model = build(MomentConfig(d_model=128, d_kv=64, d_ff=256, num_heads=2, num_layers=2), tiny)
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        train(model, optimiser, tiny)


def predicted(size: str, step: Step) -> dict[str, Any]:
    need = predict(geometry(f"AutonLab/MOMENT-1-{size}"), step)
    return {"need": asdict(need), "predicted_bytes": need.step_bytes}


def recount() -> None:
    records = [json.loads(line) for line in RESULTS.read_text().splitlines() if line]
    for record in records:
        step = Step(**{**record["step"], "targets": tuple(record["step"]["targets"])})
        record |= predicted(record["size"], step)
    RESULTS.write_text("".join(json.dumps(record) + "\n" for record in records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", help="one size")
    parser.add_argument("--holes", action="store_true", help="glibc's allocator as it is by default")
    parser.add_argument("--product", action="store_true", help="peft's adapters, the product's rounding")
    parser.add_argument("--recount", action="store_true", help="measure nothing")
    told = parser.parse_args()
    if told.recount:
        recount()
        return
    torch.set_num_threads(1)
    RESULTS.touch()
    there = [json.loads(line) for line in RESULTS.read_text().splitlines() if line]
    done = {
        (r["size"], r["has_holes"], r.get("has_product", False), json.dumps(r["step"], sort_keys=True))
        for r in there
    }
    if told.product:  # loaded before the forks, so that it is not counted for a network
        import peft  # noqa: F401
    for size, case in PRODUCT_CASES if told.product else CASES:
        step = Step(**{**asdict(case), "device": told.device})
        key = json.loads(json.dumps(asdict(step)))
        identity = (size, told.holes, told.product, json.dumps(key, sort_keys=True))
        if (told.only and size != told.only) or identity in done:
            continue
        if told.device == "cpu":
            found = in_fresh_process(size, step, told.holes, told.product)
        else:
            found = measure(size, step, is_product=told.product)
        record = {
            "size": size,
            "step": key,
            "has_holes": told.holes,
            "has_product": told.product,
            **predicted(size, step),
            **found,
            "torch": torch.__version__,
            "cpu": processor(),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with RESULTS.open("a") as file:
            file.write(json.dumps(record) + "\n")
        off = record["predicted_bytes"] / found["peak_bytes"] - 1
        sys.stdout.write(f"{size} {step}: {off:+.1%} of {found['peak_bytes'] >> 20} MiB\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
