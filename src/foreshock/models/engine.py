"""How a network is run on the machine at hand: precision, batch size, threads, compiled or plain.

Every choice is made from facts that do not change between two runs (the processor's own list of
abilities, the network's geometry), so the same input gives the same scores; only the number of threads
follows the load. What it was measured with stands beside each constant.

Not here: the network (moment), memory budgets (memory).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

Blocks = Callable[[Tensor, Tensor], Tensor]  # states and bias to states

PRECISIONS = ("auto", "fp32", "bf16")
MIN_RANK_CORRELATION = 0.99  # of the errors in bf16 with those in fp32; below it fp32 is kept

# Widest activation of one batch. EPYC 9004, 1 MB of second-level cache a core: 3 to 6 MB are best for
# nano, small and large alike, and 4 times as much costs 2 to 18 %; benchmarks/moment_speed.py, 2026-11-24.
BATCH_BYTES = 6 << 20
BATCH_PATCHES = (1024, 2048)  # fewer starve the matrix product, more leave the cache

# Measured on one core of the same processor, bf16: compiling took 60 s for small and saved 14 % of each
# batch, 85 s for nano and saved 26 % (beside a busy process). With AMX it saves up to half.
COMPILING_S = 60.0
COMPILED_SAVES = 0.2
MAX_COMPILED_ERROR = 0.05  # root mean square against plain, in bf16, as a share of the states' own


def batch_rows(patches: int, d_ff: int, item_bytes: int) -> int:
    """How many series of so many patches go through the encoder at once.

    Example:
        >>> batch_rows(patches=64, d_ff=2816, item_bytes=2)
        16
    """
    fitting = BATCH_BYTES // (2 * d_ff * item_bytes)
    return max(1, min(max(fitting, BATCH_PATCHES[0]), BATCH_PATCHES[1]) // patches)


@cache
def has_fast_bf16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32 (AVX512-BF16, AMX, ARM's BF16)."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").split()
    except OSError:
        return False
    has_kernels = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return has_kernels and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(words)


def to_bf16(encoder: nn.Module) -> None:
    """Round the weights of all linear layers; norms, distance bias and the stream between stay float32."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight
            module.weight = nn.Parameter(weight.detach().to(torch.bfloat16), weight.requires_grad)


def can_compile() -> bool:
    """Whether a C++ compiler is here, which torch.compile needs."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++") if name)


def compiled(blocks: Blocks, x: Tensor, bias: Tensor, wanted: Tensor) -> Blocks | None:
    """`blocks` compiled with its weights built in; None if that fails or does not give what is wanted."""
    try:
        fast = cast(Blocks, torch.compile(blocks, dynamic=False, options={"freezing": True}))
        error = (fast(x, bias).float() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    except Exception:  # compilers fail in many ways, and the plain path is always there
        return None
    return fast if float(error) <= MAX_COMPILED_ERROR else None


def seconds(work: Callable[[], object], repeats: int = 2) -> float:
    """The shortest of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, over all entries; 1 when both put them in the same order.

    Example:
        >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 900.0]))
        1.0
    """
    ranks = [np.argsort(np.argsort(x, axis=None)).astype(float) for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def probe_series(rows: int = 4, steps: int = 128) -> np.ndarray:
    """(1, rows, steps) seeded series to compare precisions on: waves, noise, a walk and a step."""
    rng, t = np.random.default_rng(20), np.arange(steps)
    walk = rng.normal(size=(rows, steps)).cumsum(-1) * 0.3
    wave = np.sin(t / rng.uniform(2, 20, (rows, 1)))
    step = (t > steps * 2 // 3) * rng.normal(size=(rows, 1))
    return (walk + wave + step + 0.1 * rng.normal(size=(rows, steps))).astype(np.float32)[None]


def free_threads() -> int:
    """Threads that find a free core now: the cores we may use, less the load others put on them.

    A thread that has to share its core makes all others wait at each layer. Set `OMP_NUM_THREADS` to decide
    yourself; it is returned as it stands.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        busy = os.getloadavg()[0]
    except OSError:
        busy = 0.0
    return max(1, min(usable, round(usable - busy)))
