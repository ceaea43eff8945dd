"""What a training step of MOMENT takes, told before it is tried, and the fastest plan that fits a budget.

The parts are counted from the network's shapes: weights, what is trained with its gradients and optimiser
state, what the way back needs of the way forth, and the most that is in work at once beside it.

Not here: measuring memory and shrinking batches (memory), the training itself (pretrain, finetune).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foreshock.errors import ConfigError, ResourceError, WeightsError
from foreshock.memory import Budget, format_bytes
from foreshock.models import engine, weights
from foreshock.models.moment import MAX_PATCHES, MomentConfig

# Source: the config.json of each on the hub; the geometry is that of the backbone (models.moment.BACKBONES).
PUBLISHED = {
    "AutonLab/MOMENT-1-small": "google/flan-t5-small",
    "AutonLab/MOMENT-1-base": "google/flan-t5-base",
    "AutonLab/MOMENT-1-large": "google/flan-t5-large",
}

METHODS = ("lora", "full")
DEVICES = ("cpu", "cuda")
TARGETS = ("q", "k", "v", "o", "wi_0", "wi_1", "wo")  # the linear layers of a block, by their names
# What a weight of the frozen linear layers takes beside its row's scale, and what products are in.
# 4-bit: blocks of 64 with a float32 constant each. Source: Dettmers et al. 2023, "QLoRA", section 3.
PRECISIONS = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "4-bit": 0.5 + 4 / 64}
FLOAT = 4  # bytes of a float32
MEANS = 2  # float32 numbers that AdamW keeps of each trained one
# CPU: torch and nano, docs/log.md 2026-11-26. CUDA: an allowance for the context, which torch.cuda does not
# count; not measured, no device was at hand.
PROCESS_BYTES = {"cpu": 384 << 20, "cuda": 512 << 20}


@dataclass(frozen=True, slots=True)
class Step:
    """One training step: forward and backward of `batch` windows, and AdamW's update."""

    method: str = "lora"  # lora: the base is frozen; full: every weight is trained, in fp32
    precision: str = "bf16"  # of the frozen base; adapters, norms and the stream between stay float32
    batch: int = 8  # windows at once
    window: int = 256  # steps
    channels: int = 1  # KPIs a window; each goes through the encoder on its own
    checkpointing: bool = False  # keep a block's input alone and compute the block again on the way back
    rank: int = 8
    targets: tuple[str, ...] = ("q", "v")  # layers that get an adapter
    accumulation: int = 1  # such steps an update; gradients stay between them
    dropout: float | None = None  # in the encoder; None is the checkpoint's own, 0.1 in the published ones
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method, METHODS),
            ("precision", self.precision, tuple(PRECISIONS)),
            ("device", self.device, DEVICES),
        ):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        for name in ("batch", "window", "channels", "rank", "accumulation"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if unknown := sorted(set(self.targets) - set(TARGETS)):
            raise ConfigError(f"there is no layer {unknown[0]!r}; adapters go on {', '.join(TARGETS)}")
        if self.method == "lora" and not self.targets:
            raise ConfigError(f"no layer gets an adapter; name some of {', '.join(TARGETS)}")
        if self.method == "full" and self.precision != "fp32":
            raise ConfigError(f"full training is planned in fp32 alone, not in {self.precision}")

    def __str__(self) -> str:
        times = f" × {self.accumulation}" if self.accumulation > 1 else ""
        kept = ", checkpointing" if self.checkpointing else ""
        return f"{self.precision}, batch {self.batch}{times}{kept}"


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a step takes at its peak, by what they are for."""

    weights: int  # of the checkpoint
    training: int  # adapters, gradients and optimiser state, as far as they are there at the peak
    activations: int  # kept from the way forth for the way back
    workspace: int  # in work at once beside them
    loading: int = 0  # peak while the checkpoint is read, before there is anything else
    process: int = 0  # Python, torch and what they keep, or a CUDA context; not by the step

    @property
    def step_bytes(self) -> int:
        """Peak of the step beside the process."""
        return self.weights + self.training + self.activations + self.workspace

    @property
    def peak_bytes(self) -> int:
        """Peak of everything; what has to fit."""
        return self.process + max(self.step_bytes, self.loading)


def geometry(name: str | Path) -> MomentConfig:
    """The geometry of a checkpoint by its `config.json`, or by its published name without any file.

    Args:
        name: nano, a folder (its config.json is enough), or a hub name; nothing is downloaded.

    Raises:
        WeightsError: neither here nor among the published ones.

    Example:
        >>> geometry("AutonLab/MOMENT-1-large").num_layers
        24
    """
    folder = Path(name)
    if folder.is_dir():
        return MomentConfig.from_dict(weights.read_config(folder))
    if str(name) in PUBLISHED:
        return MomentConfig.from_dict({"transformer_backbone": PUBLISHED[str(name)]})
    try:
        return MomentConfig.from_dict(weights.read_config(weights.find(name, offline=True)))
    except WeightsError as error:
        raise WeightsError(
            f"there is no checkpoint {str(name)!r} here to plan for; known without files are nano, "
            f"{', '.join(PUBLISHED)}; else give a folder with {weights.CONFIG_NAME}"
        ) from error


# ------------------------------------------------------------------------------------------ prediction


def predict(shape: MomentConfig, step: Step) -> Need:
    """The bytes that one step takes at its peak, from shapes alone; the optimiser's state is there already.

    Raises:
        ConfigError: the window is longer than the model reads.
    """
    if step.window > shape.seq_len:
        raise ConfigError(f"window is {step.window}; this model reads 1 to {shape.seq_len} steps")
    count = _Count(shape, step)
    kept, workspace = count.kept(), count.workspace()
    if step.method == "lora":
        adapters = FLOAT * count.adapter_parameters()
        # Gradients of adapters are counted in full: 1 % of the rest at most.
        training = adapters * (2 + MEANS)
    else:
        trained = FLOAT * count.trained_parameters()
        training = trained * (1 + MEANS)
        if step.accumulation == 1:
            # Gradients grow while what was kept shrinks to one block: the peak is at one end of the way back.
            last = count.kept_by_block()
            if kept > last + trained:
                training -= trained
            else:
                kept = min(kept, last)
    return Need(
        weights=math.ceil(count.weights()),
        training=training,
        activations=math.ceil(kept),
        workspace=math.ceil(workspace),
        loading=count.loading() if step.device == "cpu" else 0,
        process=PROCESS_BYTES[step.device],
    )


class _Count:
    """Sizes in bytes, by the operations in models.moment: what each keeps for the way back, what it makes.

    What autograd keeps was read off `torch.autograd.graph.saved_tensors_hooks` (torch 2.13, CPU) and is
    compared with it in the tests. For CUDA two things are taken from torch's documentation of its operators
    and were not run: dropout keeps a mask of a byte, attention never lays the products out.
    """

    def __init__(self, shape: MomentConfig, step: Step) -> None:
        self.shape, self.step = shape, step
        self.rows = step.batch * step.channels  # series that go through the encoder
        self.patches = -(-step.window // shape.patch_len)
        self.tokens = self.rows * self.patches
        self.item = FLOAT if step.precision == "fp32" else 2  # of a number in the products
        self.has_dropout = (shape.dropout if step.dropout is None else step.dropout) > 0
        self.stream = FLOAT * self.tokens * shape.d_model  # the float32 states between the layers
        self.wide = self.item * self.tokens * shape.d_ff
        self.square = FLOAT * self.rows * shape.num_heads * self.patches**2  # attention laid out
        self.inner = FLOAT * self.tokens * shape.inner

    # ------------------------------------------------------------ what lies there all the time

    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the layers of one block."""
        d, inner, d_ff = self.shape.d_model, self.shape.inner, self.shape.d_ff
        ways = dict.fromkeys(("q", "k", "v"), (d, inner)) | {"o": (inner, d)}
        return ways | {"wi_0": (d, d_ff), "wi_1": (d, d_ff), "wo": (d_ff, d)}

    def linear_parameters(self) -> int:
        return self.shape.num_layers * sum(math.prod(way) for way in self.linears().values())

    def other_parameters(self) -> int:
        """Norms, distance bias, patch embedding, mask token and head."""
        shape = self.shape
        norms = (2 * shape.num_layers + 1) * shape.d_model
        head = shape.patch_len * (shape.d_model + 1)
        return norms + shape.num_buckets * shape.num_heads + (shape.patch_len + 1) * shape.d_model + head

    def trained_parameters(self) -> int:
        return self.linear_parameters() + self.other_parameters()

    def adapter_parameters(self) -> int:
        ways = (self.linears()[name] for name in self.step.targets)
        return self.shape.num_layers * self.step.rank * sum(sum(way) for way in ways)

    def weights(self) -> float:
        shape = self.shape
        scales = 0
        if self.step.precision == "int8":  # one a row
            scales = FLOAT * shape.num_layers * sum(out for _, out in self.linears().values())
        positions = FLOAT * MAX_PATCHES * shape.d_model
        # On a CPU the table that nobody reads stays in its file (models.weights).
        unread = FLOAT * shape.vocab_size * shape.d_model if self.step.device == "cuda" else 0
        others = FLOAT * self.other_parameters() + positions + unread
        return self.linear_parameters() * PRECISIONS[self.step.precision] + scales + others

    def loading(self) -> int:
        """The checkpoint in float32, as it is read before any rounding."""
        return FLOAT * (self.trained_parameters() + MAX_PATCHES * self.shape.d_model)

    # ------------------------------------------------------------ what is kept for the way back

    def kept(self) -> float:
        block, layers = self.kept_by_block(), self.shape.num_layers
        if self.step.checkpointing:
            return layers * self.stream + block
        # The last norm's share counts as workspace: it has gone when the last block's way back begins.
        if self.step.method == "full":
            return layers * block + 2 * self.noise(self.stream)  # of the embedding and of the encoder's input
        return layers * block - self.stream  # nothing before the first adapter needs a gradient

    def kept_by_block(self) -> float:
        norms = 2 * (self.stream + FLOAT * self.tokens)
        if self.step.method == "full":
            inputs: float = 4 * self.stream + self.inner + self.wide  # of norms' weights and linear layers
        else:
            inputs = self.adapter_inputs()
        return norms + inputs + self.kept_by_attention() + self.kept_by_feed_forward()

    def kept_by_attention(self) -> float:
        noise = self.noise(self.stream * self.item / FLOAT)
        if self.lays_out_attention():  # in float32 always
            return 3 * self.inner + (3 if self.has_dropout else 1) * self.square + noise
        states = 4 * self.inner * self.item / FLOAT  # q, k, v and what comes out
        sums = FLOAT * self.rows * self.shape.num_heads * self.patches
        bias = self.item * self.shape.num_heads * self.patches**2 if self.item < FLOAT else 0
        return states + sums + bias + noise

    def lays_out_attention(self) -> bool:
        """Torch's fused attention on a CPU knows neither dropout nor a bias that is trained."""
        return self.step.device == "cpu" and (self.has_dropout or self.step.method == "full")

    def kept_by_feed_forward(self) -> float:
        return 3 * self.wide + self.noise(self.wide) + self.noise(self.stream * self.item / FLOAT)

    def noise(self, size: float) -> float:
        """What dropout keeps of a tensor of so many bytes: numbers as wide on a CPU, on CUDA a byte each."""
        if not self.has_dropout:
            return 0
        return size if self.step.device == "cpu" else size / self.item

    def adapter_inputs(self) -> float:
        """What adapters keep: their inputs in float32, a copy for each unless the products are so already."""
        targets = set(self.step.targets)
        groups = [targets & {"q", "k", "v"}, targets & {"wi_0", "wi_1"}]
        copies = sum(len(g) if self.item < FLOAT else min(1, len(g)) for g in groups)
        size: float = copies * self.stream + FLOAT * self.tokens * self.step.rank * len(targets)
        if "o" in targets and (self.item < FLOAT or self.lays_out_attention()):
            size += self.inner
        if "wo" in targets:
            size += FLOAT * self.tokens * self.shape.d_ff
        return size

    # ------------------------------------------------------------ what is in work at once

    def workspace(self) -> float:
        """The most that the last block's way back holds beside what is kept."""
        passing = self.stream * (1 + self.item / FLOAT)
        feed = passing + (2 if self.has_dropout else 3) * self.wide
        attention = 0.0
        if self.lays_out_attention():  # the feed-forward's share has gone by then
            attention = passing + 3 * self.square + 3 * self.inner - self.kept_by_feed_forward() - self.stream
        largest = max(math.prod(way) for way in self.linears().values())
        # A product lays its weight out anew; a quantised one is made whole before.
        weight = largest * self.item * (2 if PRECISIONS[self.step.precision] < 2 else 1)
        if self.step.method == "full":  # AdamW's update of the largest weight
            weight += FLOAT * largest
        last_norm = 0 if self.step.checkpointing else 6 * self.stream
        return max(feed, attention, last_norm) + weight


# -------------------------------------------------------------------------------------------- choosing

# What a token costs beside bfloat16's 1, and how many tokens a step costs that has none. CPU with AMX: small
# at 256 tokens, bf16 0.30 s, fp32 0.32, int8 0.32, 4-bit 0.37, fp16 0.39 (benchmarks/plan_memory.py,
# 2026-11-26); large's products take 3 to 5 times as long in float32 (moment_speed.py). CUDA: assumed.
TOKEN_TIMES = {
    "cpu": {"bf16": 1.0, "fp16": 1.4, "int8": 1.0, "4-bit": 1.0, "fp32": 3.0},
    "cuda": {"bf16": 1.0, "fp16": 1.0, "int8": 1.0, "4-bit": 1.0, "fp32": 2.0},
}
FIXED_TOKENS = {"bf16": 16, "fp16": 16, "int8": 32, "4-bit": 64, "fp32": 16}
WITHOUT_FAST_BF16 = 8.0  # times slower than with it; only that float32 comes first then was meant


def relative_time(shape: MomentConfig, step: Step) -> float:
    """Time of an update beside other steps of the same model and device; no unit."""
    again = {"lora": 3 / 2, "full": 4 / 3}[step.method] if step.checkpointing else 1.0
    tokens = step.batch * step.channels * -(-step.window // shape.patch_len)
    token = TOKEN_TIMES[step.device][step.precision]
    if step.device == "cpu" and step.precision != "fp32" and not engine.has_fast_bf16():
        token *= WITHOUT_FAST_BF16
    return step.accumulation * again * (token * tokens + FIXED_TOKENS[step.precision])


@dataclass(frozen=True, slots=True)
class Refusal:
    """A step that does not fit, and by how much."""

    step: Step
    need: Need
    over_bytes: int

    def __str__(self) -> str:
        parts = {
            name: getattr(self.need, name) for name in ("weights", "training", "activations", "workspace")
        }
        most = max(parts, key=lambda name: parts[name])
        return (
            f"{self.step} would need {format_bytes(self.need.peak_bytes)}, "
            f"{format_bytes(self.over_bytes)} too much ({most} {format_bytes(parts[most])})"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The fastest step that fits, and the next ones that don't."""

    step: Step
    need: Need
    budget: Budget
    faster: tuple[Refusal, ...]  # steps that would be faster, the nearest to the budget first
    largest_batch: int  # windows at once that the same step could take
    next_larger: Refusal  # one window more than that


def plan(shape: MomentConfig, wanted: Step, budget: Budget, precisions: Sequence[str] = ()) -> Plan:
    """The fastest way to make `wanted.batch` windows an update inside the budget.

    Tried are the precisions (`wanted.precision` alone when none are named), the batch whole and in halves
    with accumulation, without and with checkpointing (with alone if `wanted` has it).

    Raises:
        ResourceError: nothing fits.

    Example:
        >>> best = plan(geometry("AutonLab/MOMENT-1-large"), Step(device="cuda"), Budget.parse("8GiB"))
        >>> str(best.step)
        'bf16, batch 8'
    """
    steps = sorted(_ways(wanted, precisions or (wanted.precision,)), key=lambda s: relative_time(shape, s))
    refused: list[Refusal] = []
    for step in steps:
        need = predict(shape, step)
        over = need.peak_bytes - budget.bytes
        if over <= 0:
            refused.sort(key=lambda r: r.over_bytes)
            return Plan(step, need, budget, tuple(refused), *_largest(shape, step, budget))
        refused.append(Refusal(step, need, over))
    least = min(refused, key=lambda r: r.over_bytes)
    raise ResourceError(
        f"nothing fits the budget of {budget}: the least is {least.step} at "
        f"{format_bytes(least.need.peak_bytes)}. "
        "Give more memory, or take a smaller model, a shorter window or fewer channels."
    )


def _ways(wanted: Step, precisions: Sequence[str]) -> list[Step]:
    sizes, batch = [], wanted.batch
    while batch not in sizes:
        sizes.append(batch)
        batch = -(-batch // 2)
    return [
        replace(
            wanted,
            precision=precision,
            batch=size,
            accumulation=-(-wanted.batch // size),
            checkpointing=again,
        )
        for precision in precisions
        for size in sizes
        for again in ((True,) if wanted.checkpointing else (False, True))
    ]


def _largest(shape: MomentConfig, step: Step, budget: Budget) -> tuple[int, Refusal]:
    """The largest batch that fits, between one that does and one that doesn't."""

    def over(batch: int) -> int:
        return predict(shape, replace(step, batch=batch)).peak_bytes - budget.bytes

    fits, too_many = step.batch, 2 * step.batch
    while over(too_many) <= 0:
        fits, too_many = too_many, 2 * too_many
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if over(middle) <= 0 else (fits, middle)
    larger = replace(step, batch=too_many)
    return fits, Refusal(larger, predict(shape, larger), over(too_many))
