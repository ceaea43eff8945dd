"""doctor: is everything here that foreshock needs, how fast is this machine, what does `serve` reach?"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, Stopwatch, table
from foreshock.errors import ForeshockError

EXTRAS = {  # extra: (module, what it is for)
    "hub": ("huggingface_hub", "checkpoints from the hub"),
    "adapt": ("peft", "learning adapters"),
    "gpu": ("pynvml", "memory of NVIDIA cards"),
    "openvino": ("openvino", "a faster forward pass on Intel processors"),
    "serve": ("httpx", "the service, reading from Prometheus, alerts"),
}
SPEED_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="a configuration of `serve`: what can be reached, what is there")
    ] = None,
    json: options.Json = False,
) -> None:
    """Check the installation, the weights and the machine; exit code 1 when something is broken."""
    import platform
    from importlib import util

    from foreshock.memory import Budget, cuda_devices
    from foreshock.runlog import processor

    checks: list[dict[str, Any]] = [
        _fact("python", platform.python_version()),
        _package("torch"),
        _package("numpy"),
        _package("pandas"),
        _package("pyarrow"),
        _fact("processor", f"{processor()}, {_cores()} cores usable"),
        _fact("fast arithmetic", " ".join(_flags()) or "none of " + " ".join(SPEED_FLAGS)),
        _fact("memory", f"{Budget.here()} may be used"),
        _fact("threads", _threads()),
        _try("weights nano", _weights),
        _try("speed", _speed),
        _fact("cuda", ", ".join(name for name, _, _ in cuda_devices()) or "no device"),
    ]
    for extra, (module, purpose) in EXTRAS.items():
        here = util.find_spec(module) is not None
        checks.append(_fact(f"extra {extra}", f"{'present' if here else 'absent'} ({purpose})"))
    if config is not None:
        checks += _live(config)
    is_well = all(check["ok"] for check in checks)
    rows = [("ok" if check["ok"] else "BROKEN", check["what"], check["found"]) for check in checks]
    Console(json).result({"ok": is_well, "checks": checks}, table(rows))
    if not is_well:
        raise typer.Exit(1)


def _live(config: Path) -> list[dict[str, Any]]:
    """What `serve` would find with this configuration; a mistake in it ends the command with its line."""
    import asyncio
    from dataclasses import asdict

    from foreshock.service.probe import probe
    from foreshock.service.settings import read_settings

    async def look() -> list[dict[str, Any]]:
        return [asdict(finding) async for finding in probe(read_settings(config))]

    return asyncio.run(look())


def _fact(what: str, found: str, ok: bool = True) -> dict[str, Any]:
    return {"what": what, "found": found, "ok": ok}


def _package(name: str) -> dict[str, Any]:
    from importlib import metadata

    try:
        return _fact(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return _fact(name, "is not installed; run `pip install foreshock`", ok=False)


def _try(what: str, look: Callable[[], str]) -> dict[str, Any]:
    """A check whose failure is a finding, not the end."""
    try:
        return _fact(what, look())
    except ForeshockError as error:
        return _fact(what, str(error), ok=False)
    except Exception as error:
        return _fact(what, f"{type(error).__name__}: {error}", ok=False)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _flags() -> list[str]:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [flag for flag in SPEED_FLAGS if flag in words]


def _threads() -> str:
    told = os.environ.get("OMP_NUM_THREADS")
    count = f"OMP_NUM_THREADS={told}" if told else "as many as cores"
    return f"{count}, waiting {os.environ.get('OMP_WAIT_POLICY', 'active').lower()}"


def _weights() -> str:
    from foreshock.models import weights

    return f"whole, sha256 {weights.verify('nano')[:12]}…"


def _speed() -> str:
    import numpy as np

    from foreshock.models.moment import load_moment

    loading = Stopwatch()
    moment = load_moment("nano")
    loaded = loading.seconds
    values = np.random.default_rng(0).normal(size=(1, 88, 256)).astype(np.float32)
    moment.reconstruct(values)
    watch = Stopwatch()
    for _ in range(3):
        moment.reconstruct(values)
    return f"nano loads in {loaded:.2f} s, reads 88 KPIs × 256 rows in {watch.seconds / 3 * 1000:.0f} ms"
