"""plan: how much memory training takes, and the fastest way that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, table
from foreshock.errors import ConfigError

if TYPE_CHECKING:
    from foreshock.memory import Budget
    from foreshock.planning import Need, Plan, Refusal

SHOWN = 3  # faster steps that don't fit, the nearest first


def plan(
    model: Annotated[
        str, typer.Option(help="nano, a folder, or a hub name; no weights are needed.")
    ] = "nano",
    vram: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Memory of a graphics card, as 8GiB; `auto` asks it.")
    ] = None,
    ram: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Train on the CPU in so much, process included. [auto]"),
    ] = None,
    method: Annotated[str, typer.Option(help="lora, or full: every weight.")] = "lora",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, fp16, int8, 4-bit; several with commas; or auto: any.")
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Windows an update.", min=1)] = 8,
    window: Annotated[int, typer.Option(metavar="ROWS", help="Rows a window.", min=1)] = 256,
    channels: Annotated[int, typer.Option(metavar="KPIS", help="KPIs a window.", min=1)] = 1,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Always, not only where nothing else fits.")
    ] = False,
    rank: Annotated[int, typer.Option(help="Of the adapters.", min=1)] = 8,
    targets: Annotated[
        str, typer.Option(metavar="LAYERS", help="Of q, k, v, o, wi_0, wi_1, wo, with commas.")
    ] = "q,v",
    json: options.Json = False,
) -> None:
    """Predict the memory that training takes, and choose the fastest way that fits; exit code 3 if none."""
    from foreshock import planning

    if vram is not None and ram is not None:
        raise ConfigError("--vram and --ram were both given; choose where to train.")
    budget = _card(vram) if vram is not None else _machine(ram)
    device = "cpu" if vram is None else "cuda"
    known = ("fp32",) if method == "full" else tuple(planning.PRECISIONS)
    precisions = known if precision == "auto" else tuple(precision.split(","))
    wanted = planning.Step(
        method=method,
        precision=precisions[0],
        batch=batch,
        window=window,
        channels=channels,
        checkpointing=checkpointing,
        rank=rank,
        targets=tuple(name for name in targets.split(",") if name),
        device=device,
    )
    found = planning.plan(planning.geometry(model), wanted, budget, precisions)
    Console(json).result(_facts(model, found), lambda: _text(model, found))


def _card(told: str) -> Budget:
    from foreshock.memory import Budget, cuda_devices

    if told != "auto":
        return Budget.parse(told)
    devices = cuda_devices()
    if not devices:
        raise ConfigError("--vram auto found no CUDA device here; tell the card's memory, as --vram 8GiB.")
    return Budget(devices[0][1], f"free on {devices[0][0]}")


def _machine(told: str | None) -> Budget:
    from foreshock.memory import Budget

    return Budget.parse(told or "auto")


def _facts(model: str, found: Plan) -> dict[str, Any]:
    return {
        "model": model,
        "budget_bytes": found.budget.bytes,
        "budget_from": found.budget.source,
        "step": _step(found),
        "need": _need(found.need),
        "faster": [_refusal(one) for one in found.faster],
        "largest_batch": found.largest_batch,
        "next_larger": _refusal(found.next_larger),
        "is_measured": found.step.device == "cpu",
    }


def _step(found: Plan | Refusal) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found.step)


def _need(need: Need) -> dict[str, int]:
    from dataclasses import asdict

    return {f"{name}_bytes": size for name, size in asdict(need).items()} | {"peak_bytes": need.peak_bytes}


def _refusal(one: Refusal) -> dict[str, Any]:
    return {"step": _step(one), "need": _need(one.need), "over_bytes": one.over_bytes, "why": str(one)}


def _text(model: str, found: Plan) -> str:
    from foreshock.memory import format_bytes

    step, need = found.step, found.need
    what = (
        f"LoRA (rank {step.rank} on {', '.join(step.targets)})" if step.method == "lora" else "full training"
    )
    rows = [
        (f"{name}", format_bytes(size))
        for name, size in (
            ("weights", need.weights),
            ("training", need.training),
            ("activations", need.activations),
            ("workspace", need.workspace),
            ("process" if step.device == "cpu" else "context", need.process),
        )
    ]
    if need.loading > need.step_bytes:
        rows.append(("loading", f"{format_bytes(need.loading)}, more than the step"))
    lines = [
        f"{model}, {what}, {step.window} rows × {step.channels} KPIs: {step}",
        f"takes {format_bytes(need.peak_bytes)} of {found.budget}",
        "",
        table(rows),
        "",
        *(f"faster, but: {one}" for one in found.faster[:SHOWN]),
        f"next larger: {found.next_larger}",
    ]
    if step.device == "cpu":
        lines.append("with MALLOC_MMAP_THRESHOLD_=65536; else up to 3 times the activations")
    else:
        lines.append("counted, not measured: this has not been run on a CUDA device yet")
    return "\n".join(lines)
