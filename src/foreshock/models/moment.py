"""MOMENT, the whole network in one file: patches, mask token, encoder, heads; reads MOMENT-1 checkpoints.

A series of L steps is normalised by its own mean and deviation, cut into patches of 8 steps, embedded,
read by an encoder that knows only distances between patches, and written back by a linear head.
The names of all parameters are those of the published checkpoints.

Not here: finding and checking files (weights), turning errors into scores (reconstruct), training loops
(pretrain, finetune), the original package's class and method names (momentfm).

Source: Goswami et al. 2024, "MOMENT: A Family of Open Time-series Foundation Models";
Raffel et al. 2020 for the encoder, in its 1.1 form (RMS norm, gated GELU, no scale in the attention).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foreshock.errors import ConfigError, InputError, WeightsError
from foreshock.models import engine, weights

STDEV_FLOOR = 1e-5  # added to every deviation, as in the published model
MAX_PATCHES = 5000  # rows of the stored table of positions
INITIAL_GAIN = 1.41  # of the orthogonal start of patch embedding and head
PROBE_PATCHES = 4  # of the series that a packed encoder is checked on
TASKS = ("reconstruction", "embedding", "forecasting", "classification")

# d_model, d_kv, d_ff, heads, layers of the encoders MOMENT-1 was built on, for configs that only name them
BACKBONES = {
    "google/flan-t5-small": (512, 64, 1024, 6, 8),
    "google/flan-t5-base": (768, 64, 2048, 12, 12),
    "google/flan-t5-large": (1024, 64, 2816, 16, 24),
    "google/flan-t5-xl": (2048, 64, 5120, 32, 24),
}


@dataclass(frozen=True)
class MomentConfig:
    """The geometry of one MOMENT; every field has the default of MOMENT-1-small."""

    d_model: int = 512
    d_kv: int = 64  # width of one attention head; d_kv * num_heads need not be d_model
    d_ff: int = 1024
    num_heads: int = 6
    num_layers: int = 8
    seq_len: int = 512  # longest context, in steps
    patch_len: int = 8
    num_buckets: int = 32  # of the relative position bias
    max_distance: int = 128  # patches; farther apart share one bucket
    layer_norm_epsilon: float = 1e-6
    dropout: float = 0.1  # inside the encoder, in training only
    patch_dropout: float = 0.1
    head_dropout: float = 0.1
    vocab_size: int = 32  # rows of a table that the format holds and nothing reads
    task: str = "reconstruction"
    forecast_horizon: int | None = None  # steps; forecasting
    n_channels: int | None = None  # classification
    num_class: int | None = None  # classification
    reduction: str = "concat"  # classification: how channels become one vector, concat or mean
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # config.json as it came

    def __post_init__(self) -> None:
        for name in ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "patch_len", "vocab_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; a MOMENT needs at least 1")
        if self.seq_len < self.patch_len or self.seq_len % self.patch_len:
            raise ConfigError(
                f"seq_len is {self.seq_len}; it must be a multiple of patch_len ({self.patch_len})"
            )
        if self.num_buckets < 4 or self.num_buckets % 2:
            raise ConfigError(f"num_buckets is {self.num_buckets}; it must be even and at least 4")
        if self.task not in TASKS:
            raise ConfigError(f"task is {self.task!r}; it must be one of {', '.join(TASKS)}")
        if self.task == "forecasting" and not self.forecast_horizon:
            raise ConfigError("task forecasting needs forecast_horizon, the number of steps to forecast")
        if self.task == "classification" and not (self.n_channels and self.num_class):
            raise ConfigError("task classification needs n_channels and num_class")
        if self.reduction not in ("concat", "mean"):
            raise ConfigError(f"reduction is {self.reduction!r}; classification knows concat and mean")

    @property
    def inner(self) -> int:
        """Width of all attention heads together."""
        return self.d_kv * self.num_heads

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> MomentConfig:
        """From the content of a MOMENT-1 `config.json`; an unusual one is refused with its reason."""
        t5 = _t5_geometry(raw)
        _refuse_unknown_variants(raw, t5)
        d_model = raw.get("d_model") or t5["d_model"]
        if d_model != t5["d_model"]:
            raise WeightsError(f"config.json has d_model {d_model}, but its t5_config has {t5['d_model']}")
        return cls(
            d_model=d_model,
            d_kv=t5["d_kv"],
            d_ff=t5["d_ff"],
            num_heads=t5["num_heads"],
            num_layers=t5["num_layers"],
            seq_len=raw.get("seq_len", 512),
            patch_len=raw.get("patch_len", 8),
            num_buckets=t5.get("relative_attention_num_buckets", 32),
            max_distance=t5.get("relative_attention_max_distance", 128),
            layer_norm_epsilon=t5.get("layer_norm_epsilon", 1e-6),
            dropout=t5.get("dropout_rate", 0.1),
            patch_dropout=raw.get("patch_dropout", 0.1),
            head_dropout=raw.get("head_dropout", 0.1),
            vocab_size=t5.get("vocab_size", 32128),
            task=raw.get("task_name", "reconstruction"),
            forecast_horizon=raw.get("forecast_horizon"),
            n_channels=raw.get("n_channels"),
            num_class=raw.get("num_class"),
            reduction=raw.get("reduction", "concat"),
            raw=raw,
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of a `config.json` that the original package reads."""
        options = {
            name: getattr(self, name)
            for name in ("forecast_horizon", "n_channels", "num_class")
            if getattr(self, name) is not None
        }
        if self.task == "classification":
            options["reduction"] = self.reduction
        return {
            "model_name": "MOMENT",
            "transformer_type": "encoder_only",
            "device": "cpu",
            "transformer_backbone": "google/flan-t5-small",
            "model_kwargs": {},
            **self.raw,
            "task_name": self.task,
            "d_model": self.raw.get("d_model", self.d_model),
            "seq_len": self.seq_len,
            "patch_len": self.patch_len,
            "patch_stride_len": self.patch_len,
            "patch_dropout": self.patch_dropout,
            "head_dropout": self.head_dropout,
            **options,
            "t5_config": {**_T5_CONSTANTS, **self.raw.get("t5_config", {}), **self._t5_fields()},
        }

    def _t5_fields(self) -> dict[str, Any]:
        return {
            "d_ff": self.d_ff,
            "d_kv": self.d_kv,
            "d_model": self.d_model,
            "dropout_rate": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "num_decoder_layers": self.num_layers,
            "num_heads": self.num_heads,
            "num_layers": self.num_layers,
            "relative_attention_max_distance": self.max_distance,
            "relative_attention_num_buckets": self.num_buckets,
            "vocab_size": self.vocab_size,
        }


_T5_CONSTANTS: dict[str, Any] = {
    "architectures": ["T5ForConditionalGeneration"],
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "model_type": "t5",
    "n_positions": 512,
    "output_past": True,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "use_cache": True,
}


def _t5_geometry(raw: dict[str, Any]) -> dict[str, Any]:
    if isinstance(raw.get("t5_config"), dict):
        needed = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers")
        missing = [name for name in needed if not isinstance(raw["t5_config"].get(name), int)]
        if missing:
            raise WeightsError(f"the t5_config of config.json lacks whole numbers for {', '.join(missing)}")
        return dict(raw["t5_config"])
    backbone = raw.get("transformer_backbone")
    if backbone not in BACKBONES:
        raise WeightsError(
            f"config.json has no t5_config and names the backbone {backbone!r}; "
            f"known without one are {', '.join(BACKBONES)}"
        )
    return dict(zip(("d_model", "d_kv", "d_ff", "num_heads", "num_layers"), BACKBONES[backbone], strict=True))


def _refuse_unknown_variants(raw: dict[str, Any], t5: dict[str, Any]) -> None:
    known = {
        "transformer_type": (raw.get("transformer_type", "encoder_only"), "encoder_only"),
        "revin_affine": (raw.get("revin_affine", False), False),
        "value_embedding_bias": (raw.get("value_embedding_bias", False), False),
        "add_positional_embedding": (raw.get("add_positional_embedding", True), True),
        "patch_stride_len": (raw.get("patch_stride_len", raw.get("patch_len", 8)), raw.get("patch_len", 8)),
        "t5_config.feed_forward_proj": (t5.get("feed_forward_proj", "gated-gelu"), "gated-gelu"),
    }
    for name, (found, needed) in known.items():
        if found != needed:
            raise WeightsError(
                f"config.json has {name} = {found!r}; only {needed!r} was ever published and is read"
            )


# ---------------------------------------------------------------- the network

_IS_FRESH: ContextVar[bool] = ContextVar("_IS_FRESH", default=True)  # False: a file will bring all values


class Linear(nn.Linear):
    """A linear layer that whoever makes it starts."""

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """A table that whoever makes it starts."""

    def reset_parameters(self) -> None:
        pass


def start_normal(weight: Tensor, variance: float) -> None:
    """Normal start values, unless a file will bring them."""
    if _IS_FRESH.get():
        nn.init.normal_(weight, std=variance**0.5)


def start_orthogonal(weight: Tensor) -> None:
    """Orthogonal start values, unless a file will bring them."""
    if _IS_FRESH.get():
        nn.init.orthogonal_(weight, gain=INITIAL_GAIN)


@contextmanager
def without_values() -> Iterator[None]:
    """Models made inside have shapes and no start values, thus no memory in use; `fill_from` brings them.

    Not torch's "meta" device: its first use imports the whole compiler, 3 s.
    """
    token = _IS_FRESH.set(False)
    try:
        yield
    finally:
        _IS_FRESH.reset(token)


class Positions(nn.Module):
    """The fixed table of sines and cosines, one row a patch."""

    pe: Tensor  # (1, MAX_PATCHES, D)

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoids(MAX_PATCHES, d_model).unsqueeze(0))


def sinusoids(rows: int, d_model: int) -> Tensor:
    """(rows, d_model): even columns sines, odd columns cosines, wave lengths from 2π to 20000π rows."""
    position = torch.arange(rows).float().unsqueeze(1)
    rate = (torch.arange(0, d_model, 2).float() * -(math.log(10000.0) / d_model)).exp()
    table = torch.zeros(rows, d_model)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)[:, : d_model // 2]
    return table


class PatchEmbedding(nn.Module):
    """A patch becomes a vector: a linear map of its steps, or the mask token, plus its position."""

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.value_embedding = Linear(config.patch_len, config.d_model, bias=False)
        self.mask_embedding = nn.Parameter(torch.zeros(config.d_model))
        self.position_embedding = Positions(config.d_model)
        self.dropout = nn.Dropout(config.patch_dropout)
        start_orthogonal(self.value_embedding.weight)

    def forward(self, patches: Tensor, shown: Tensor | None, first: int) -> Tensor:
        """patches (N, P, patch_len); shown (N, P) bool or None for all; first: position of the first one."""
        x = self.value_embedding(patches)
        if shown is not None:
            x = torch.where(shown.unsqueeze(-1), x, self.mask_embedding)
        x = x + self.position_embedding.pe[:, first : first + patches.shape[1]]
        return cast(Tensor, self.dropout(x))


class RmsNorm(nn.Module):
    """Scale to unit mean square; no mean is taken away and nothing is added."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps))


class SelfAttention(nn.Module):
    """Attention without a scale: a bias for the distance between two patches is added to the product."""

    def __init__(self, config: MomentConfig, has_bias: bool) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.d_kv = config.d_kv
        self.dropout = config.dropout
        self.q = Linear(config.d_model, config.inner, bias=False)
        self.k = Linear(config.d_model, config.inner, bias=False)
        self.v = Linear(config.d_model, config.inner, bias=False)
        self.o = Linear(config.inner, config.d_model, bias=False)
        if has_bias:
            self.relative_attention_bias = Embedding(config.num_buckets, config.num_heads)
        start_normal(self.q.weight, 1 / (config.d_model * config.d_kv))
        start_normal(self.k.weight, 1 / config.d_model)
        start_normal(self.v.weight, 1 / config.d_model)
        start_normal(self.o.weight, 1 / config.inner)
        if has_bias:
            start_normal(self.relative_attention_bias.weight, 1 / config.d_model)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x.to(self.q.weight.dtype)
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout, scale=1.0
        )
        return cast(Tensor, self.o(mixed.transpose(1, 2).flatten(2)))

    def heads(self, x: Tensor) -> Tensor:
        """(N, P, heads * d_kv) to (N, heads, P, d_kv)."""
        return x.view(*x.shape[:-1], self.num_heads, self.d_kv).transpose(1, 2)


class AttentionLayer(nn.Module):
    def __init__(self, config: MomentConfig, has_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, has_bias)
        self.layer_norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + cast(Tensor, self.dropout(self.SelfAttention(self.layer_norm(x), bias)))


class GatedFeedForward(nn.Module):
    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.wi_0 = Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        start_normal(self.wi_0.weight, 1 / config.d_model)
        start_normal(self.wi_1.weight, 1 / config.d_model)
        start_normal(self.wo.weight, 1 / config.d_ff)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.wi_0.weight.dtype)
        gated = F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x)
        return cast(Tensor, self.wo(self.dropout(gated)))


class FeedForwardLayer(nn.Module):
    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.DenseReluDense = GatedFeedForward(config)
        self.layer_norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.dropout(self.DenseReluDense(self.layer_norm(x))))


class Block(nn.Module):
    def __init__(self, config: MomentConfig, has_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(config, has_bias), FeedForwardLayer(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return cast(Tensor, self.layer[1](self.layer[0](x, bias)))


class Encoder(nn.Module):
    """The stack of blocks; the distance bias of the first one serves them all."""

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(
            config.vocab_size, config.d_model
        )  # the format holds it; nothing reads it
        start_normal(self.embed_tokens.weight, 1.0)
        self.embed_tokens.weight.requires_grad_(False)
        self.block = nn.ModuleList(Block(config, has_bias=i == 0) for i in range(config.num_layers))
        self.final_layer_norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False
        self.is_packable = True  # until engine.pack finds otherwise
        self._bias: tuple[tuple[Any, ...], Tensor] | None = None

    def gradient_checkpointing_enable(self) -> None:
        """Forget activations and compute them again on the way back: less memory, a third more time."""
        self.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, attended: Tensor | None = None) -> Tensor:
        """x (N, P, D); attended (N, P) bool, False for patches nobody may look at; None means all."""
        return self.run_blocks(x, self.attention_bias(x.shape[1], attended))

    def run_blocks(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (N, P, D) through all blocks; bias (1 or N, heads, P, P)."""
        x = self.dropout(x)
        for block in self.block:
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                # Not reentrant: the reentrant kind drops all gradients when the embedding is frozen.
                x = checkpoint(block, x, bias, use_reentrant=False)
            else:
                x = block(x, bias)
        return cast(Tensor, self.dropout(self.final_layer_norm(x)))

    def attention_bias(self, patches: int, attended: Tensor | None = None) -> Tensor:
        """(1 or N, heads, P, P): the distance bias, and for patches nobody may look at a very low number."""
        bias = self.position_bias(patches)
        if attended is None:
            return bias
        # The lowest finite number, not -inf: a row where nothing may be looked at stays finite.
        forbidden = torch.zeros(attended.shape, dtype=bias.dtype, device=bias.device)
        return bias + forbidden.masked_fill_(~attended, torch.finfo(bias.dtype).min)[:, None, None, :]

    def position_bias(self, patches: int) -> Tensor:
        """(1, heads, P, P), added to every block's attention; kept for the next call unless it is trained."""
        weight = self.get_parameter("block.0.layer.0.SelfAttention.relative_attention_bias.weight")
        if torch.is_grad_enabled() and weight.requires_grad:
            return self._compute_bias(weight, patches)
        key = (patches, weight.data_ptr(), weight._version, weight.dtype, weight.device)
        if self._bias is None or self._bias[0] != key:
            self._bias = (key, self._compute_bias(weight, patches).detach().contiguous())
        return self._bias[1]

    def _compute_bias(self, weight: Tensor, patches: int) -> Tensor:
        position = torch.arange(patches, device=weight.device)
        distance = position[None, :] - position[:, None]
        buckets = distance_buckets(distance, self.config.num_buckets, self.config.max_distance)
        return F.embedding(buckets, weight).permute(2, 0, 1).unsqueeze(0)


def distance_buckets(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """The row of the bias table for each signed distance in patches.

    Half of the buckets are for what lies behind, half for what lies ahead; of each half, half hold one
    distance each and the rest grow with the logarithm up to `max_distance`.
    """
    half = num_buckets // 2
    exact = half // 2
    ahead = (distance > 0).long() * half
    size = distance.abs()
    far = exact + (
        torch.log(size.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)
    ).long().clamp(max=half - 1 - exact)
    return ahead + torch.where(size < exact, size, far)


class ReconstructionHead(nn.Module):
    """Each patch's state becomes its steps."""

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.head_dropout)
        self.linear = Linear(config.d_model, config.patch_len)
        start_orthogonal(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        """(..., P, D) to (..., P * patch_len)."""
        return cast(Tensor, self.linear(self.dropout(states)).flatten(-2))


class ForecastingHead(nn.Module):
    """All patches' states together become the next steps."""

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(
            config.d_model * (config.seq_len // config.patch_len), config.forecast_horizon or 1
        )
        self.dropout = nn.Dropout(config.head_dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(..., P, D) to (..., forecast_horizon)."""
        return cast(Tensor, self.dropout(self.linear(states.flatten(-2))))


class ClassificationHead(nn.Module):
    """The mean over patches becomes one number a class."""

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.head_dropout)
        width = config.d_model * ((config.n_channels or 1) if config.reduction == "concat" else 1)
        self.linear = nn.Linear(width, config.num_class or 2)

    def forward(self, states: Tensor, input_mask: Tensor | None = None) -> Tensor:
        """(B, P, D or D * channels) to (B, num_class); `input_mask` is not read, the original has it."""
        return cast(Tensor, self.linear(self.dropout(states.mean(dim=1))))


def build_head(config: MomentConfig) -> nn.Module:
    """The head of the config's task, freshly started."""
    if config.task == "forecasting":
        return ForecastingHead(config)
    if config.task == "classification":
        return ClassificationHead(config)
    return nn.Identity() if config.task == "embedding" else ReconstructionHead(config)


class Backbone(nn.Module):
    """Patch embedding, encoder and head, with gradients; what `Moment` and the original's names share."""

    def __init__(self, config: MomentConfig | None = None) -> None:
        super().__init__()
        self.geometry = config or MomentConfig()
        self.patch_embedding = PatchEmbedding(self.geometry)
        self.encoder = Encoder(self.geometry)
        self.head = build_head(self.geometry)
        self._packed: engine.PackedBlocks | None = None  # the encoder again, laid out for speed
        self._compiled: dict[tuple[int, int], tuple[engine.PackedBlocks, engine.Blocks]] = {}  # rows, patches

    def states(
        self, patches: Tensor, shown: Tensor | None = None, attended: Tensor | None = None, first: int = 0
    ) -> Tensor:
        """From patches (N, P, patch_len) to states (N, P, D).

        Args:
            shown: (N, P) bool; False puts the mask token in the patch's place. None shows all.
            attended: (N, P) bool; False hides the patch from the others' eyes (padding). None hides none.
            first: position of the first patch, when leading padding was left out.
        """
        x = self.patch_embedding(patches.to(self.patch_embedding.value_embedding.weight.dtype), shown, first)
        return cast(Tensor, self.encoder(x, attended))

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the matrix products are in: float32, or bfloat16 after a load in that precision."""
        return self.encoder.get_parameter("block.0.layer.1.DenseReluDense.wo.weight").dtype

    def encode(
        self,
        x: Tensor,
        observed: Tensor | None = None,
        hidden: Tensor | None = None,
        skip_padding: bool = False,
    ) -> Tensor:
        """From normalised steps (N, L), L a multiple of `patch_len`, to states (N, P, D).

        A patch is attended if all its steps are observed, and shown if none of them is hidden.
        `observed` and `hidden` are (N, L) bool. Gradients flow; `decode(encode(...))` is (N, L).
        Without gradients the rows are worked through in batches that fit the cache.

        Args:
            skip_padding: leave out leading patches that nobody attends. The other states are the same
                as with them; theirs come back as 0. (Only without gradients.)
        """
        cut = (x.shape[0], x.shape[1] // self.geometry.patch_len, self.geometry.patch_len)
        patches = x.reshape(cut)
        attended = None if observed is None else observed.reshape(cut).all(-1)
        shown = None if hidden is None else ~hidden.reshape(cut).any(-1)
        if torch.is_grad_enabled():
            self._packed = None  # weights are about to change
            return self.states(patches, shown, attended)
        return self._states_in_batches(patches, shown, attended, skip_padding)

    def _states_in_batches(
        self, patches: Tensor, shown: Tensor | None, attended: Tensor | None, skip_padding: bool
    ) -> Tensor:
        rows, count, _ = patches.shape
        result = torch.zeros(rows, count, self.geometry.d_model, device=patches.device)
        leads = None
        order = torch.arange(rows, device=patches.device)
        if skip_padding and attended is not None:
            leads = (attended.cumsum(-1) == 0).sum(-1).clamp(max=count - 1)
            order = leads.argsort(stable=True)  # rows with as much padding go together
        at_once = self._batch_rows(count)
        packed = self.packed_blocks()
        for rows_now in torch.split(order, at_once) if rows else ():
            first = 0 if leads is None else int(leads[rows_now].min())
            now = slice(int(rows_now[0]), int(rows_now[-1]) + 1) if leads is None else rows_now
            result[now, first:] = self._fast_states(
                patches[now, first:],
                None if shown is None else _if_any_false(shown[now, first:]),
                None if attended is None else _if_any_false(attended[now, first:]),
                first,
                packed,
            )
        return result

    def _batch_rows(self, patches: int) -> int:
        return engine.batch_rows(patches, self.geometry.d_ff, self.compute_dtype.itemsize)

    def _fast_states(
        self,
        patches: Tensor,
        shown: Tensor | None,
        attended: Tensor | None,
        first: int,
        packed: engine.PackedBlocks | None,
    ) -> Tensor:
        if packed is None:
            return self.states(patches, shown, attended, first)
        count = patches.shape[1]
        made_from, compiled = self._compiled.get((len(patches), count), (None, None))
        is_current = compiled is not None and made_from is packed and attended is None
        blocks = compiled if compiled is not None and is_current else packed
        x = self.patch_embedding(patches.to(packed.stream_dtype), shown, first)
        return blocks(x, self.encoder.attention_bias(count, attended))

    def packed_blocks(self) -> engine.PackedBlocks | None:
        """The packed encoder, made anew after a change of weights; None where only the plain one will do."""
        if self.training or torch.is_autocast_enabled("cpu") or self._device.type != "cpu":
            return None
        if self._packed is None or not self._packed.is_current():
            self._packed = engine.pack(self.encoder, lambda: self._probe_states(1, PROBE_PATCHES))
        return self._packed

    def _probe_states(self, rows: int, patches: int) -> Tensor:
        """What goes into the encoder for a few seeded series, (rows, patches, D)."""
        x, _, _ = normalise(torch.from_numpy(engine.probe_series(rows, patches * self.geometry.patch_len)[0]))
        weight = self.patch_embedding.value_embedding.weight
        # Not a call of the module: who listens there waits for his own series.
        return self.patch_embedding.forward(x.reshape(rows, patches, -1).to(weight.dtype), None, 0).float()

    @torch.no_grad()
    def compile_for(self, series: int, steps: int) -> bool:
        """Compile the encoder if so many series of so many steps are worth it; the plain one always stays.

        Call it once before a long run. It times one batch, compiles when the time that would be saved
        exceeds the minute that compiling takes, and keeps the result if it gives the same numbers. With AMX
        the packed blocks are as fast as compiled ones, so there it compiles nothing in bfloat16.

        Returns:
            Whether whole batches of such series now go through the compiled encoder.
        """
        patches = -(-steps // self.geometry.patch_len)
        rows = self._batch_rows(patches)
        packed = self.packed_blocks()
        is_half = self.compute_dtype == torch.bfloat16
        if packed is None or not engine.can_compile() or (is_half and engine.has_amx()):
            return False
        x = self._probe_states(rows, patches)
        bias = self.encoder.position_bias(patches)
        batch_s = engine.seconds(lambda: packed(x, bias))
        if batch_s * (series // rows) * engine.COMPILED_SAVES < engine.COMPILING_S:
            return False
        blocks = engine.compiled(self.encoder.run_blocks, x, bias, packed(x, bias))
        if blocks is None:
            return False
        self._compiled[rows, patches] = (packed, blocks)
        return True

    @property
    def _device(self) -> torch.device:
        return self.patch_embedding.mask_embedding.device

    def decode(self, states: Tensor) -> Tensor:
        """States through the head, in the head's own precision."""
        weight = next(self.head.parameters(), states)
        return cast(Tensor, self.head(states.to(weight.dtype)))


class Moment(Backbone):
    """MOMENT with one head.

    Either the verbs `reconstruct`, `embed`, `forecast`, `short_forecast` and `classify`, which take values
    in their own units with gaps in them; or, for training, `normalise`, `encode` and `decode`.
    """

    @property
    def config(self) -> MomentConfig:
        return self.geometry

    def forward(
        self, patches: Tensor, shown: Tensor | None = None, attended: Tensor | None = None, first: int = 0
    ) -> Tensor:
        """See `states`."""
        return self.states(patches, shown, attended, first)

    @classmethod
    def from_pretrained(cls, folder: str | Path, task: str = "reconstruction", **options: Any) -> Moment:
        """Load a folder with `config.json` and `model.safetensors`; see `load_moment`."""
        return load_moment(folder, task, "fp32", **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `config.json`, `model.safetensors` and their checksums; the original package reads them."""
        return weights.save(folder, self.config.to_dict(), self.state_dict())

    @torch.no_grad()
    def reconstruct(
        self,
        values: np.ndarray | Tensor,
        observed: np.ndarray | Tensor | None = None,
        hidden: np.ndarray | Tensor | None = None,
        *,
        skip_padding: bool = False,
    ) -> Any:
        """What the model thinks each step should be, (B, C, L), in the values' units.

        Args:
            values: (B, C, L), numpy or torch; L at most `config.seq_len`. NaN is "nobody observed it".
            observed: (B, L) or (B, C, L) bool, False where a value must not be believed.
            hidden: same shapes, True for steps to be reconstructed without being seen. The model reads
                patches of 8 steps; a patch with one hidden step is hidden as a whole.
            skip_padding: do not compute leading patches of which nothing was observed (the rest keeps
                its numbers); they come back as NaN. Half a window of padding then costs half.

        Returns:
            Same kind as `values` (numpy or torch, its float type), every step filled in. A series
            with no step that is both observed and not hidden is all NaN.
        """
        self._need("reconstruction")
        series = Series.of(values, observed, hidden, self.config, self._device)
        x, mean, stdev = normalise(series.values, series.observed & ~series.hidden)
        unseen = _if_any(series.hidden | series.absent)
        states = self.encode(x, _if_any_false(series.observed), unseen, skip_padding)
        result = denormalise(self.decode(states), mean, stdev)
        if skip_padding:
            cut = (*result.shape[:-1], -1, self.config.patch_len)
            is_before = series.observed.reshape(cut).any(-1).cumsum(-1) == 0
            result = result.reshape(cut).masked_fill(is_before.unsqueeze(-1), math.nan).flatten(1)
        return series.give_back(result)

    @torch.no_grad()
    def embed(
        self,
        values: np.ndarray | Tensor,
        observed: np.ndarray | Tensor | None = None,
        reduction: str = "mean",
    ) -> Any:
        """One vector (B, D) for the channels together, or with `reduction="none"` all (B, C, P, D).

        The mean is over the patches of which every step was observed; NaN where there is none.
        """
        if reduction not in ("mean", "none"):
            raise InputError(f"reduction is {reduction!r}; embed knows mean and none")
        series = Series.of(values, observed, None, self.config, self._device)
        x, _, _ = normalise(series.values, series.observed)
        seen = _if_any_false(series.observed)
        states = self.encode(x, seen, None if seen is None else ~seen, skip_padding=reduction == "mean")
        batch, channels, _ = series.shape
        states = states.reshape(batch, channels, -1, self.config.d_model)
        if reduction == "none":
            return series.in_kind(states)
        whole = series.observed.reshape(batch, channels, -1, self.config.patch_len).all(-1, keepdim=True)
        return series.in_kind((states * whole).sum((1, 2)) / whole.sum((1, 2)))

    @torch.no_grad()
    def forecast(self, values: np.ndarray | Tensor, observed: np.ndarray | Tensor | None = None) -> Any:
        """The next `config.forecast_horizon` steps, (B, C, H); shorter series are padded on the left."""
        self._need("forecasting")
        series = Series.of(values, observed, None, self.config, self._device, steps=self.config.seq_len)
        x, mean, stdev = normalise(series.values, series.observed)
        states = self.encode(x, _if_any_false(series.observed))
        batch, channels, _ = series.shape
        result = denormalise(self.decode(states), mean, stdev)
        return series.in_kind(result.reshape(batch, channels, -1))

    @torch.no_grad()
    def short_forecast(
        self, values: np.ndarray | Tensor, horizon: int = 1, observed: np.ndarray | Tensor | None = None
    ) -> Any:
        """The next few steps, (B, C, horizon), without a forecasting head: mask tokens are put after the end.

        As in the original the series moves to the left to make room, so its oldest patches are not read.
        """
        self._need("reconstruction")
        series = Series.of(values, observed, None, self.config, self._device)
        room = -(-horizon // self.config.patch_len) * self.config.patch_len
        if not 0 < room < series.values.shape[1]:
            raise InputError(
                f"the horizon is {horizon} steps; with {series.shape[2]} steps of history "
                f"1 to {series.values.shape[1] - self.config.patch_len} can be forecast"
            )
        x, mean, stdev = normalise(series.values, series.observed)
        is_next = torch.zeros_like(series.observed)
        is_next[:, -room:] = True
        states = self.encode(
            x.roll(-room, -1), _if_any_false(series.observed.roll(-room, -1) | is_next), is_next
        )
        result = denormalise(self.decode(states), mean, stdev)[:, -room:][:, :horizon]
        return series.in_kind(result.reshape(*series.shape[:2], horizon))

    @torch.no_grad()
    def classify(self, values: np.ndarray | Tensor, observed: np.ndarray | Tensor | None = None) -> Any:
        """One number a class before the softmax, (B, num_class)."""
        self._need("classification")
        series = Series.of(values, observed, None, self.config, self._device)
        batch, channels, _ = series.shape
        if self.config.reduction == "concat" and channels != self.config.n_channels:
            raise InputError(
                f"values have {channels} channels; this head was made for {self.config.n_channels}"
            )
        x, _, _ = normalise(series.values, series.observed)
        seen = _if_any_false(series.observed)
        states = self.encode(x, seen, None if seen is None else ~seen)
        joined = join_channels(
            states.reshape(batch, channels, -1, self.config.d_model), self.config.reduction
        )
        return series.in_kind(self.decode(joined))

    def _need(self, task: str) -> None:
        if self.config.task != task:
            raise InputError(f"this model was loaded for {self.config.task}; load it with task={task!r}")


def join_channels(states: Tensor, reduction: str) -> Tensor:
    """(B, C, P, D) to (B, P, D) by the mean, or to (B, P, D * C) side by side, channels running fastest."""
    if reduction == "mean":
        return states.mean(1)
    return states.permute(0, 2, 3, 1).flatten(2)


def _if_any_false(mask: Tensor) -> Tensor | None:
    return None if bool(mask.all()) else mask


def _if_any(mask: Tensor) -> Tensor | None:
    return mask if bool(mask.any()) else None


def normalise(values: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Each series minus its mean, over its deviation, both from the `counted` steps alone.

    Args:
        values: (..., L), float32, or float64 to keep small movements on a large level; NaN or infinite
            steps become 0.
        counted: bool, same shape; None counts every finite step.

    Returns:
        float32 steps (..., L), and mean and deviation (..., 1) in the values' precision. No gradient goes
        through the two. Where nothing is counted they are NaN, the steps 0.
    """
    finite = values.isfinite()
    # The order of these operations is the original's: at a scale of a million every rounding shows.
    known = values.detach().masked_fill(~finite if counted is None else ~(finite & counted), math.nan)
    mean = known.nanmean(-1, keepdim=True)
    stdev = (known - mean).square().nanmean(-1, keepdim=True).sqrt() + STDEV_FLOOR
    x = ((values - mean) / stdev).float()
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0), mean, stdev


def denormalise(x: Tensor, mean: Tensor, stdev: Tensor) -> Tensor:
    """The way back, in the precision of the statistics."""
    return x.to(stdev.dtype) * stdev + mean


@dataclass(frozen=True)
class Series:
    """A caller's (B, C, L) values as N = B * C rows of whole patches, and the way back."""

    values: Tensor  # (N, L') float32, or float64 if they came so
    observed: Tensor  # (N, L') bool, finite and not denied by the caller
    absent: Tensor  # (N, L') bool, NaN or infinite: there is nothing to show
    hidden: Tensor  # (N, L') bool
    shape: tuple[int, int, int]  # (B, C, L) as it came
    like: np.ndarray | Tensor

    @classmethod
    def of(
        cls,
        values: np.ndarray | Tensor,
        observed: np.ndarray | Tensor | None,
        hidden: np.ndarray | Tensor | None,
        config: MomentConfig,
        device: torch.device,
        steps: int | None = None,
    ) -> Series:
        """Check shapes, fill up on the left to whole patches, or to `steps`, with steps nobody observed."""
        if values.ndim != 3:
            raise InputError(f"values have shape {tuple(values.shape)}; needed is (batch, channels, steps)")
        batch, channels, length = shape = cast(tuple[int, int, int], tuple(values.shape))
        if not 0 < length <= config.seq_len:
            raise InputError(
                f"the series have {length} steps; this model reads 1 to {config.seq_len}; cut windows"
            )
        given = torch.as_tensor(values)
        is_single = given.dtype in (torch.float32, torch.bfloat16, torch.float16)
        x = given.to(device, torch.float32 if is_single else torch.float64)
        finite = x.isfinite()
        seen = _per_channel(observed, shape, "observed", device, missing=True) & finite
        unseen = _per_channel(hidden, shape, "hidden", device, missing=False)
        fill = -length % config.patch_len if steps is None else steps - length
        rows = batch * channels
        return cls(
            F.pad(x.reshape(rows, length), (fill, 0)),
            F.pad(seen.reshape(rows, length), (fill, 0), value=False),
            F.pad(~finite.reshape(rows, length), (fill, 0), value=False),
            F.pad(unseen.reshape(rows, length), (fill, 0), value=False),
            shape,
            values,
        )

    def give_back(self, result: Tensor) -> Any:
        """(N, L') to (B, C, L) in the caller's kind, float type and place."""
        return self.in_kind(result[:, result.shape[1] - self.shape[2] :].reshape(self.shape))

    def in_kind(self, result: Tensor) -> Any:
        """numpy for numpy, torch for torch, with the values' float type and place."""
        if isinstance(self.like, Tensor):
            kind = self.like.dtype if self.like.is_floating_point() else torch.float32
            return result.to(self.like.device, kind)
        kind_np = self.like.dtype if np.issubdtype(self.like.dtype, np.floating) else np.float32
        return result.cpu().numpy().astype(kind_np)


def _per_channel(
    mask: np.ndarray | Tensor | None,
    shape: tuple[int, int, int],
    name: str,
    device: torch.device,
    missing: bool,
) -> Tensor:
    """(B, L) or (B, C, L) to (B, C, L) bool."""
    if mask is None:
        return torch.full(shape, missing, device=device)
    given = torch.as_tensor(mask).to(device).bool()
    if tuple(given.shape) == (shape[0], shape[2]):
        return given.unsqueeze(1).expand(shape)
    if tuple(given.shape) != shape:
        raise InputError(
            f"{name} has shape {tuple(given.shape)}; for values of {shape} it must be "
            f"{(shape[0], shape[2])} or {shape}"
        )
    return given


# ---------------------------------------------------------------- loading


def load_moment(
    folder_or_id: str | Path, task: str = "reconstruction", precision: str = "auto", **task_options: Any
) -> Moment:
    """A MOMENT ready to use, in evaluation mode.

    Args:
        folder_or_id: `nano`, a folder with `config.json` and `model.safetensors`, or a hub name
            such as `AutonLab/MOMENT-1-small`.
        task: reconstruction, embedding, forecasting (`forecast_horizon`) or classification
            (`n_channels`, `num_class`, `reduction`). Heads that the file does not hold start fresh.
        precision: fp32; bf16 for the matrix products (2 to 6 times as fast where the processor has it);
            or auto: bf16 if this processor has it and the errors keep their order in it, else fp32.

    Raises:
        WeightsError: missing, damaged or not a MOMENT.
        ConfigError: an unknown task, precision or option.
    """
    allowed = {f.name for f in fields(MomentConfig)} & {
        "forecast_horizon", "n_channels", "num_class", "reduction",
        "dropout", "patch_dropout", "head_dropout",
    }  # fmt: skip
    if unknown := sorted(set(task_options) - allowed):
        raise ConfigError(f"load_moment has no option {unknown[0]!r}; it knows {', '.join(sorted(allowed))}")
    if precision not in engine.PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; it must be one of {', '.join(engine.PRECISIONS)}")
    folder = weights.find(folder_or_id)
    config = replace(MomentConfig.from_dict(weights.read_config(folder)), task=task, **task_options)
    with without_values():
        model = Moment(config)
    fill_from(model, weights.read_tensors(folder), folder)
    set_precision(model.eval(), precision)
    return model


def set_precision(model: Backbone, precision: str) -> None:
    """Put the encoder's matrix products into a precision; `auto` checks bf16 against fp32 on a few series."""
    if precision == "fp32" or (precision == "auto" and not engine.has_fast_bf16()):
        return
    if precision == "bf16":
        engine.to_bf16(model.encoder)
        return
    linears = [m for m in model.encoder.modules() if isinstance(m, nn.Linear)]
    exact = [m.weight for m in linears]
    before = _probe(model)
    engine.to_bf16(model.encoder)
    if engine.rank_correlation(before, _probe(model)) < engine.MIN_RANK_CORRELATION:
        for module, weight in zip(linears, exact, strict=True):
            module.weight = weight


@torch.no_grad()
def _probe(model: Backbone) -> np.ndarray:
    """What a few series become: their reconstruction errors, or the states where there is no such head."""
    steps = min(128, model.geometry.seq_len)
    x, _, _ = normalise(torch.from_numpy(engine.probe_series(steps=steps)[0]))
    states = model.states(x.reshape(len(x), -1, model.geometry.patch_len))  # plain: packing would take memory
    is_reconstruction = model.geometry.task == "reconstruction"
    return (model.decode(states) - x if is_reconstruction else states).square().numpy()


def fill_from(model: Backbone, tensors: dict[str, Tensor], folder: Path) -> None:
    """Put a checkpoint's tensors in the places of a model made `without_values`.

    A head for another task than the file's starts fresh.
    """
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    body = {name: t for name, t in tensors.items() if not name.startswith("head.")}
    head = {name: t for name, t in tensors.items() if name.startswith("head.")}
    wanted_head = {name: shape for name, shape in shapes.items() if name.startswith("head.")}
    is_same_head = {name: tuple(t.shape) for name, t in head.items()} == wanted_head
    body.pop("patch_embedding.position_embedding.pe", None)  # computed, the same in every checkpoint
    body.setdefault("encoder.embed_tokens.weight", torch.zeros(shapes["encoder.embed_tokens.weight"]))
    for name, found in _problems(body, {n: s for n, s in shapes.items() if n not in wanted_head}):
        raise WeightsError(
            f"{folder / weights.FILE_NAME}: {name} {found}; the file does not fit its config.json"
        )
    loaded = {name: t.float() for name, t in {**body, **(head if is_same_head else {})}.items()}
    model.load_state_dict(loaded, strict=False, assign=True)
    model.encoder.embed_tokens.weight.requires_grad_(False)
    if not is_same_head and model.geometry.task == "reconstruction":
        raise WeightsError(
            f"{folder / weights.FILE_NAME} has no head for reconstruction; load it for its own task"
        )
    if not is_same_head:
        model.head = build_head(model.geometry)


def _problems(found: dict[str, Tensor], needed: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    for name, shape in needed.items():
        if name.endswith("position_embedding.pe"):
            continue
        if name not in found:
            yield name, "is missing"
        elif tuple(found[name].shape) != shape:
            yield name, f"has shape {tuple(found[name].shape)}, needed is {shape}"
    for name in found:
        if name not in needed:
            yield name, "is not a tensor of MOMENT"
