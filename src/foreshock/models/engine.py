"""How a network is run on the machine at hand: precision, batch size, threads, compiled or plain.

Every choice is made from facts that do not change between two runs (the processor's own list of
abilities, the network's geometry), so the same input gives the same scores; only the number of threads
follows the load. What it was measured with stands beside each constant.

Not here: the network (moment), memory budgets (memory).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import torch
from torch import Tensor, nn

Blocks = Callable[[Tensor, Tensor], Tensor]  # states and bias to states

PRECISIONS = ("auto", "fp32", "bf16")
MIN_RANK_CORRELATION = 0.99  # of the errors in bf16 with those in fp32; below it fp32 is kept

LOOK_S = 0.2  # how long we look at what other processes use
# Widest activation of one batch. EPYC 9004, 1 MB of second-level cache a core: 3 to 6 MB are best for
# nano, small and large alike, and 4 times as much costs 2 to 18 %; benchmarks/moment_speed.py, 2026-11-24.
BATCH_BYTES = 6 << 20
BATCH_PATCHES = (1024, 2048)  # fewer starve the matrix product, more leave the cache
# With AMX in bfloat16 (Xeon, 2 MB of second-level cache a core; 2026-11-26). Small, two threads, ms for
# 1,024, 1,408, 2,048, 2,816 and 5,632 patches at once: 124, 110, 105, 87, 87 (1 × 88 × 256), 199, 168, 170,
# 170 and 193 (1 × 88 × 512). Large, one thread, s for 1,024, 2,048, 2,816 and 5,632: 4.40, 4.37, 4.33, 4.59.
# nano, s for 1,024, 1,408, 2,048, 2,816 and 5,632: 1.02, 0.96, 0.79, 1.00, 1.06 (beside other work).
AMX_PATCHES = 2816

# Measured on one core of the EPYC, bf16, against the packed blocks: compiling took 60 s for small and saved
# 6 % of each batch, 85 s for nano and saved 15 % (beside a busy process). With AMX it took 60 and 50 s and
# saved 0 and -3 % (best of 15 and 40 batches, 2026-11-26), so there it is not done in bfloat16.
COMPILING_S = 60.0
COMPILED_SAVES = 0.1
MAX_COMPILED_ERROR = 0.05  # root mean square against plain, in bf16, as a share of the states' own


def batch_rows(patches: int, d_ff: int, item_bytes: int) -> int:
    """How many series of so many patches go through the encoder at once.

    Example:
        >>> batch_rows(patches=64, d_ff=2816, item_bytes=4)
        16
    """
    if item_bytes == 2 and has_amx():
        return max(1, AMX_PATCHES // patches)
    fitting = BATCH_BYTES // (2 * d_ff * item_bytes)
    return max(1, min(max(fitting, BATCH_PATCHES[0]), BATCH_PATCHES[1]) // patches)


@cache
def has_fast_bf16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32 (AVX512-BF16, AMX, ARM's BF16)."""
    has_kernels = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return has_kernels and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(_abilities())


@cache
def has_amx() -> bool:
    """Whether this processor has a unit for whole tiles of bfloat16 (Intel's AMX)."""
    return has_fast_bf16() and "amx_bf16" in _abilities()


def _abilities() -> set[str]:
    """What Linux lists for this processor; nothing elsewhere."""
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").split())
    except OSError:
        return set()


def to_bf16(encoder: nn.Module) -> None:
    """Round the weights of all linear layers; norms, distance bias and the stream between stay float32."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight
            module.weight = nn.Parameter(weight.detach().to(torch.bfloat16), weight.requires_grad)


class PackedBlocks:
    """An encoder's blocks with each weight laid out once as the processor's matrix unit reads it.

    torch lays a weight out anew for every product. One core of an EPYC 9004, 16 to 88 series: 1.2 to 1.3
    times as fast in float32 and 1.05 to 1.25 in bfloat16, which is what torch.compile gives after a minute.
    The operators are those that torch.compile itself calls (oneDNN's); q, k and v are one product, the gate
    and its multiplication happen while results are written back. Costs the weights' memory a second time.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder
        self.modules = list(encoder.modules())
        unread = cast(nn.Embedding, encoder.embed_tokens).weight
        self.weights = [
            (m, name) for m in self.modules for name, p in m._parameters.items() if p is not unread
        ]
        self.stamp = self._stamp()
        self.stream_dtype = torch.float32
        self.layers = [_PackedLayer(block) for block in cast("list[Any]", encoder.block)]

    def _stamp(self) -> list[tuple[int, int, float]]:
        # The first number as well: writing through `.data` changes neither place nor version.
        now = (m._parameters[name] for m, name in self.weights)
        return [(p.data_ptr(), p._version, p.view(-1)[0].item()) for p in now if p is not None]

    def is_current(self) -> bool:
        """Whether the encoder still has the weights, and nobody listens at its modules."""
        return not is_listened_to(self.modules) and self.stamp == self._stamp()

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())  # a copy of the model packs its own

    def __call__(self, x: Tensor, bias: Tensor, newest: int | None = None) -> Tensor:
        """x (N, P, D) through all blocks; only the last `newest` states, where so few are wanted."""
        x, bias = x.clone(), bias.to(self.layers[0].dtype)
        for layer in self.layers[:-1]:
            layer.change(x, bias)
        x = self.layers[-1].change(x, bias, newest)
        return cast(Tensor, self.encoder.get_submodule("final_layer_norm")(x))


class _PackedLayer:
    def __init__(self, block: Any) -> None:
        attention, feed = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
        self.norms = tuple((n.weight.detach(), n.eps) for n in (layer.layer_norm for layer in block.layer))
        self.heads, self.d_kv = attention.num_heads, attention.d_kv
        self.dtype = attention.q.weight.dtype
        # The exact GELU costs the processor less than its tanh form: with AMX 8 to 11 % of a block of small,
        # 2,048 to 2,816 patches. They differ by 5e-4 at most, so only in bfloat16, whose rounding moves more:
        # nano's states on series are 0.14 % off float32 with it, and 0.14 % in the plain blocks. 2026-11-26.
        self.gelu = "none" if self.dtype == torch.bfloat16 else "tanh"
        qkv = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight]).detach()
        plain = (qkv, *(m.weight.detach() for m in (attention.o, feed.wi_0, feed.wi_1, feed.wo)))
        self.qkv, self.o, self.wi_0, self.wi_1, self.wo = (
            torch.ops.mkldnn._reorder_linear_weight(w, BATCH_PATCHES[0]) for w in plain
        )

    def change(self, x: Tensor, bias: Tensor, newest: int | None = None) -> Tensor:
        """One block, written into x (N, P, D); gives x, or the last `newest` of its states alone."""
        product = torch.ops.mkldnn._linear_pointwise
        rows, patches, _ = x.shape
        joined = product(self.normed(x, 0), self.qkv, None, "none", [], "")
        q, k, v = joined.view(rows, patches, 3, self.heads, self.d_kv).permute(2, 0, 3, 1, 4)
        if newest is not None and newest < patches:
            x, q, bias = x[:, -newest:].contiguous(), q[..., -newest:, :], bias[..., -newest:, :]
        mixed = attention(q, k, v, bias)
        x.add_(product(mixed.transpose(1, 2).flatten(2), self.o, None, "none", [], ""))
        normed = self.normed(x, 1)
        gate = product(normed, self.wi_0, None, "gelu", [], self.gelu)
        gated = product.binary(normed, gate, self.wi_1, None, "mul")
        return x.add_(product(gated, self.wo, None, "none", [], ""))

    def normed(self, x: Tensor, which: int) -> Tensor:
        """The RMS norm before attention (0) or feed-forward (1), in the products' precision."""
        weight, eps = self.norms[which]
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        return cast(Tensor, (x * scale).mul_(weight).to(self.dtype))


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """T5's attention without scaling: q, k, v (N, heads, P, d_kv), bias (1 or N, heads, P, P)."""
    if q.dtype != torch.bfloat16:
        return nn.functional.scaled_dot_product_attention(q, k, v, bias, scale=1.0)
    weights = torch.matmul(q.contiguous(), k.contiguous().transpose(-1, -2)).add_(bias).softmax(-1)
    return torch.matmul(weights, v.contiguous())


def is_listened_to(modules: Iterable[nn.Module]) -> bool:
    """Whether a hook waits for one of them to be called."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in modules)


@cache
def has_packed_operators() -> bool:
    """Whether this torch has oneDNN's packed products; they are private, so any version may drop them."""
    names = ("_linear_pointwise", "_reorder_linear_weight")
    has_library = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return has_library and all(hasattr(torch.ops.mkldnn, name) for name in names)


@torch.no_grad()
def pack(encoder: Any, states: Callable[[], Tensor]) -> PackedBlocks | None:
    """The packed blocks, if they can be made and give the plain ones' numbers on some states (N, P, D).

    None for an encoder with adapters in it, with hooks on it, or in a precision the processor is slow at.
    """
    modules = list(encoder.modules())
    linears = [m for m in modules if isinstance(m, nn.Linear)]
    dtypes = {m.weight.dtype for m in linears}
    is_plain = {type(m).__name__ for m in modules} <= PLAIN_KINDS and not is_listened_to(modules)
    is_fast = dtypes == {torch.float32} or (dtypes == {torch.bfloat16} and has_fast_bf16())
    is_tensor = all(type(m.weight.data) is Tensor for m in linears)  # no quantised stand-ins
    if not (is_plain and is_fast and is_tensor and has_packed_operators() and encoder.is_packable):
        return None
    keep_freed_memory()
    try:
        packed = PackedBlocks(encoder)
        right = gives_the_same(packed, encoder, states(), *dtypes)
    except RuntimeError:
        right = False
    encoder.is_packable = right  # or it would be tried at every call
    return packed if right else None


MAX_PACKED_ERROR = {torch.float32: 1e-5, torch.bfloat16: 0.02}  # as MAX_COMPILED_ERROR


def gives_the_same(packed: Blocks, encoder: Any, x: Tensor, dtype: torch.dtype) -> bool:
    """Compare with the plain blocks on a few states.

    Of series: normal noise is nothing a trained network knows, and there its bfloat16 differs from itself by
    1 to 7 % (nano; 0.1 % on series).
    """
    bias = encoder.attention_bias(x.shape[1])
    wanted = encoder.run_blocks(x, bias)
    error = (packed(x, bias) - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    return bool(error <= MAX_PACKED_ERROR[dtype])


# What an encoder without adapters consists of.
PLAIN_KINDS = frozenset(
    {"Encoder", "ModuleList", "Block", "AttentionLayer", "SelfAttention", "FeedForwardLayer"}
    | {"GatedFeedForward", "RmsNorm", "Linear", "Embedding", "Dropout"}
)


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed for the next layer, instead of handing it back page by page.

    Fetching the pages again took 10 to 13 % of small and large (2,000 to 14,000 page faults a layer). At most
    256 MB stay. Does nothing elsewhere, or when a MALLOC_ variable says that somebody has decided already.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    mmap_threshold, trim_threshold = -3, -1
    return bool(mallopt(mmap_threshold, 32 << 20) and mallopt(trim_threshold, 256 << 20))


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
    """Threads that find a free core now: the cores we may use, less what others use of them.

    A thread that has to share its core makes all others wait at each layer. Set `OMP_NUM_THREADS` to decide
    yourself; it is returned as it stands.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    shares = psutil.cpu_percent(LOOK_S, percpu=True)  # not the load average: that still holds what has ended
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(len(shares)))
    busy = sum(shares[core] for core in usable if core < len(shares)) / 100
    return max(1, round(len(usable) - busy))


def use_free_threads() -> int:
    """Let torch use the threads that find a free core, for this process; says how many."""
    threads = free_threads()
    torch.set_num_threads(threads)
    return threads
