"""Masked reconstruction and recognition, from a config to a checkpoint: makes `nano`.

A share of the batches has patches hidden and is reconstructed from both sides, as MOMENT's are; the others
have anomalies planted and are read in one direction: which steps are anomalous, and what should have been
there. One encoder learns both.

Each step's batch follows from seed and step alone, and the state on disk holds everything else, so a run
that was killed goes on exactly where its last state was written. Not here: reading YAML (config), progress
bars (cli).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from foreshock.errors import ConfigError, OutputError
from foreshock.models import weights
from foreshock.models.engine import can_compile
from foreshock.models.moment import Moment, MomentConfig, normalise
from foreshock.models.processes import Group, join
from foreshock.models.recognise import FORBIDDEN, Recogniser, bend, scale_by_context
from foreshock.models.resume import STATE, read_state, restore, write_state
from foreshock.pretrain import forecastable, recognisable
from foreshock.pretrain.anomalies import UNSURE, AnomalyMix
from foreshock.pretrain.batches import Batch, BatchPlan, Watched, draw_batch, draw_watched
from foreshock.pretrain.corpus import Corpus, Source, open_corpus, read_deny
from foreshock.pretrain.masking import PATCH, MaskMix

OnStep = Callable[[dict[str, Any]], None]
RECORD = "metrics.jsonl"
CLIP = 8.0  # deviations; a level shift inside a hidden block must not outweigh all other windows


@dataclass(frozen=True, slots=True)
class Geometry:
    """The network's size."""

    d_model: int = 160
    d_kv: int = 32
    d_ff: int = 384
    num_heads: int = 5
    num_layers: int = 6


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """Where real series come from; without sources only made-up series are used."""

    folder: str = ""
    sources: tuple[Source, ...] = ()
    licences: tuple[str, ...] = ("MIT", "BSD-3-Clause", "Apache-2.0", "CC-BY-4.0", "ODC-By-1.0")
    deny: str = ""  # file of fingerprints; "" takes the one that ships in the package


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """One pretraining run."""

    out: str = "runs/nano"  # folder of state, record and checkpoint
    after: str = ""  # folder of another run whose state this one goes on from, with its own settings
    seed: int = 2026
    steps: int = 12000
    warm_up: int = 400
    rate: float = 1.5e-3  # highest learning rate
    last_rate: float = 0.02  # share of `rate` at the end of the cosine
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.999
    visible_weight: float = 0.05  # of the error on steps the model was shown
    recognise: float = 0.75  # share of batches with planted anomalies; the others are reconstructed
    expect_weight: float = 0.3  # of telling what should have been there, beside telling anomalies
    precision: str = "auto"  # auto, fp32 or bf16
    compiled: bool = True  # blocks through torch.compile, where a C++ compiler is: 1.4 times as fast
    save_every: int = 250
    evaluate_every: int = 1000
    evaluate_windows: int = 512
    log_every: int = 50
    model: Geometry = field(default_factory=Geometry)
    batch: BatchPlan = field(default_factory=BatchPlan)
    mask: MaskMix = field(default_factory=MaskMix)
    anomalies: AnomalyMix = field(default_factory=AnomalyMix)
    corpus: CorpusPlan = field(default_factory=CorpusPlan)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warm_up < 0 or self.save_every < 1 or self.log_every < 1:
            raise ConfigError("pretrain: steps, save_every and log_every must be at least 1, warm_up 0.")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"pretrain: ema is {self.ema}; it must be at least 0 and below 1.")
        if not 0 <= self.recognise <= 1:
            raise ConfigError(f"pretrain: recognise is {self.recognise}; it is a share, 0 to 1.")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"pretrain: precision is {self.precision!r}; it must be auto, fp32 or bf16.")


def pretrain(config: PretrainConfig, on_step: OnStep | None = None) -> Path:
    """Run, or go on with, a pretraining run.

    Args:
        on_step: called with each record line (`kind` start, step, evaluation or end), e.g. for a bar.

    Returns:
        The folder of the checkpoint: averaged weights in half precision, `config.json`, `SHA256SUMS`.

    Raises:
        ConfigError, SourceError: a licence not allowed, a file missing, a series that is held out.
        OutputError: the folder holds the state of another config.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    corpus = open_planned(config.corpus)
    run = _Run(config, corpus, out, on_step, join())
    run.resume()
    run.go()
    return run.finish()


def open_planned(plan: CorpusPlan) -> Corpus | None:
    """The corpus of a config, checked against the held-out fingerprints; None without sources."""
    if not plan.sources:
        return None
    deny = read_deny(Path(plan.deny) if plan.deny else Path(__file__).parent / "held_out.npy")
    return open_corpus(Path(plan.folder), plan.sources, plan.licences, deny)


def fresh_model(config: PretrainConfig) -> Recogniser:
    """The untrained network of a run, always the same for the same seed."""
    torch.manual_seed(config.seed)
    geometry = MomentConfig(
        **asdict(config.model),
        seq_len=config.batch.context,
        dropout=0.0,
        patch_dropout=0.0,
        head_dropout=0.0,
    )
    return Recogniser(Moment(geometry))


class _Run:
    """What lives during a run: network, optimiser, average, position."""

    def __init__(
        self, config: PretrainConfig, corpus: Corpus | None, out: Path, on_step: OnStep | None, group: Group
    ) -> None:
        self.config, self.corpus, self.out, self.on_step, self.group = config, corpus, out, on_step, group
        self.model = fresh_model(config).train().to(group.device)
        self.moment = cast(Moment, self.model.backbone)
        if config.compiled and can_compile():
            # Block by block: all of them share one compiled function for each length.
            torch._dynamo.config.recompile_limit = 64
            for block in self.moment.encoder.block:
                block.compile(dynamic=False)
        self.named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.named.items()}
        self.optimiser = _optimiser(self.named, config)
        self.step = 0
        self.is_bf16 = _use_bf16(config.precision)
        self.exams = forecastable.exams(corpus, config.seed, config.evaluate_windows, config.batch.usual)
        self.recognition = recognisable.exam(config, corpus) if config.recognise else None

    # --- state on disk

    def resume(self) -> None:
        """Read the last state if there is one; otherwise stay at step 0."""
        path = self.out / STATE
        is_own = path.exists() or not self.config.after
        if not is_own:
            path = Path(self.config.after) / STATE
            if not path.exists():
                raise ConfigError(f"pretrain: after is {self.config.after!r}; there is no {STATE} in it.")
        elif not path.exists():
            return
        about, stored = read_state(path)
        if is_own and about.get("config") != _identity(self.config):
            raise OutputError(
                f"{path} belongs to another config; use another `out`, or remove the file to start again."
            )
        self.step = int(about["step"])
        restore(self.named, self.optimiser, stored)
        with torch.no_grad():
            for name, mean in self.average.items():
                mean.copy_(stored[f"average/{name}"])

    def save(self) -> None:
        """Write the whole state beside the old one, then swap."""
        if self.group.is_first:
            kept = {f"average/{n}": t for n, t in self.average.items()}
            about = {"step": str(self.step), "config": _identity(self.config)}
            write_state(self.out / STATE, self.named, self.optimiser, kept, about)
            self.save_checkpoint()
        self.group.wait()

    def save_checkpoint(self) -> Path:
        """Write the averaged weights in float16: MOMENT's format, and the heads of recognition beside it."""
        own = {n.removeprefix("backbone."): t for n, t in self.average.items() if n.startswith("backbone.")}
        heads = {n.removeprefix("heads."): t for n, t in self.average.items() if n.startswith("heads.")}
        whole = {**self.moment.state_dict(), **own}
        return weights.save(
            self.out / "checkpoint",
            self.moment.config.to_dict(),
            {k: v.detach().half() for k, v in whole.items()},
            {k: v.detach().half() for k, v in heads.items()} if self.config.recognise else None,
        )

    def finish(self) -> Path:
        """The checkpoint, when all processes are done."""
        folder = self.out / "checkpoint"
        if self.group.is_first:
            self.save_checkpoint()
        self.group.wait()
        return folder

    def record(self, line: dict[str, Any]) -> None:
        if not self.group.is_first:
            return
        with (self.out / RECORD).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.on_step is not None:
            self.on_step(line)

    # --- the loop

    def go(self) -> None:
        """From the present step to the last."""
        peak = matmul_peak(self.is_bf16)
        count = sum(p.numel() for p in self.named.values())
        series = 0 if self.corpus is None else len(self.corpus)
        self.record(
            {"kind": "start", "step": self.step, "steps": self.config.steps, "parameters": count,
             "series": series, "precision": "bf16" if self.is_bf16 else "fp32",
             "matmul_peak_gflops": round(peak / 1e9, 1), "threads": torch.get_num_threads()}
        )  # fmt: skip
        clock = _Clock()
        while self.step < self.config.steps:
            with clock.drawing():
                batch = self.draw()
            with clock.training():
                loss, norm = self.learn(batch)
            clock.add(batch, work(self.moment.config, *batch.values.shape), loss)
            self.step += 1
            last = self.step == self.config.steps
            if self.step % self.config.log_every == 0 or last:
                rate = learning_rate(self.config, self.step - 1)
                self.record({"kind": "step", "step": self.step, "rate": round(rate, 7),
                             "norm": round(norm, 4), **clock.read(peak)})  # fmt: skip
            if self.step % self.config.save_every == 0 or last:
                self.save()
            is_due = bool(self.exams) and (self.step % self.config.evaluate_every == 0 or last)
            if is_due and self.group.is_first:
                self.record({"kind": "evaluation", "step": self.step, **self.examine()})

    def draw(self) -> Batch | Watched:
        """The batch of the present step; which task it is for is fixed by the step alone."""
        c = self.config
        if math.floor((self.step + 1) * c.recognise) > math.floor(self.step * c.recognise):
            return draw_watched(c.seed, self.step, c.batch, c.anomalies, self.corpus)
        return draw_batch(c.seed, self.step, c.batch, c.mask, self.corpus)

    def learn(self, batch: Batch | Watched) -> tuple[float, float]:
        """One step of the optimiser; gives loss and gradient norm."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        own = self.group.part(len(batch.values))
        with self._precision():
            if isinstance(batch, Watched):
                loss = recognition_loss(self.model, batch, self.config.expect_weight, own)
            else:
                loss = masked_loss(self.moment, batch, self.config.visible_weight, own)
        loss.backward()  # type: ignore[no-untyped-call]
        self.group.add_gradients(self.named.values())
        used = [p for p in self.named.values() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(used, self.config.clip_norm)
        if torch.isfinite(norm):  # one bad batch must not end a night's run
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        keep = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            mean, now = list(self.average.values()), list(self.named.values())
            torch._foreach_lerp_(mean, [p.detach() for p in now], 1 - keep)
        return self.group.total(float(loss.detach())), float(norm)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=self.is_bf16)

    def examine(self) -> dict[str, Any]:
        """The averaged weights' error on held-back windows, beside the simple forecasts."""
        model = fresh_model(self.config).eval()
        model.load_state_dict(self.average, strict=False)
        grades = {name: exam.grade(cast(Moment, model.backbone)) for name, exam in self.exams.items()}
        if self.recognition is not None:
            grades["recognition"] = self.recognition.grade(model)
        return grades


WHOLE = slice(None)


def masked_loss(model: Moment, batch: Batch, visible_weight: float, part: slice = WHOLE) -> Tensor:
    """Huber error of the hidden steps in units of what is visible, plus a little of the visible ones.

    Mean and deviation come from observed steps that are not hidden, as in scoring. Each window weighs as
    the square root of its hidden steps, so that a short hidden end counts beside a third of a window.

    Args:
        part: windows that are worked through; the losses of a batch's parts add up to the batch's.
    """
    device = next(model.parameters()).device
    observed, hidden = (torch.from_numpy(a).to(device) for a in (batch.observed, batch.hidden))
    x, _, _ = normalise(torch.from_numpy(batch.values).to(device), observed & ~hidden)
    x = x.clamp(-CLIP, CLIP)
    rows, steps = x.shape
    cut = (rows, steps // PATCH, PATCH)
    attended = observed.reshape(cut).all(-1)
    shown = attended & ~hidden.reshape(cut).any(-1)
    bias = model.encoder.attention_bias(cut[1], attended[part]).clamp(min=FORBIDDEN)
    patches = model.patch_embedding(x.reshape(cut)[part], shown[part], batch.first)
    states = model.encoder.run_blocks(patches, bias)
    error = F.huber_loss(model.head(states).float(), x[part], reduction="none")
    counted = (observed & hidden & shown_somewhere(shown)).float()
    per_row = counted.sum(1)
    weight = per_row.sqrt()
    mean = (error * counted[part]).sum(1) / per_row[part].clamp(min=1)
    asked = (mean * weight[part]).sum() / weight.sum().clamp(min=1)
    seen = shown.repeat_interleave(PATCH, 1).float()
    return asked + visible_weight * (error * seen[part]).sum() / seen.sum().clamp(min=1)


def recognition_loss(model: Recogniser, batch: Watched, expect_weight: float, part: slice = WHOLE) -> Tensor:
    """Cross entropy of the judged steps' labels, and likelihood of what should have been there.

    Judged are the observed steps after the context; where the label is unsure neither part counts. What
    should have been there is the series without its anomalies, so that the model does not learn to
    expect that an anomaly goes on; its likelihood is Student's with 3 degrees of freedom, whose gradient
    no outlier can blow up. `part` as in `masked_loss`.
    """
    device = next(model.parameters()).device
    values, observed, label, context, clean = (
        torch.from_numpy(a).to(device)
        for a in (batch.values, batch.observed, batch.label, batch.context, batch.usual)
    )
    scaled = scale_by_context(values, observed, context)
    usual = bend((clean.double() - scaled.center) / scaled.spread).float()[part]
    attended = observed.reshape(len(observed), -1, PATCH).all(-1)
    found = model(scaled.x[part], attended[part], batch.first)
    steps = torch.arange(values.shape[1], device=device)
    judged = observed & (steps >= context) & attended.repeat_interleave(PATCH, 1) & (label != UNSURE)
    weight = judged[part].float() / judged.sum().clamp(min=1)
    told = F.binary_cross_entropy_with_logits(found.logit, (label[part] == 1).float(), reduction="none")
    far = ((usual - found.expected) / found.spread).square()
    missed = 2 * torch.log1p(far / 3) + found.spread.log()
    loss: Tensor = (told * weight).sum() + expect_weight * (missed * weight).sum()
    return loss


def shown_somewhere(shown: Tensor) -> Tensor:
    """(N, P) bool to (N, 1): rows of which the model sees at least one patch."""
    return shown.any(1, keepdim=True)


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `last_rate`."""
    if step < config.warm_up:
        return config.rate * (step + 1) / config.warm_up
    part = (step - config.warm_up) / max(1, config.steps - config.warm_up)
    return config.rate * (config.last_rate + (1 - config.last_rate) * 0.5 * (1 + math.cos(math.pi * part)))


def _optimiser(named: dict[str, torch.nn.Parameter], config: PretrainConfig) -> torch.optim.AdamW:
    matrices = [p for n, p in named.items() if p.ndim > 1 and "bias" not in n]
    others = [p for n, p in named.items() if p.ndim <= 1 or "bias" in n]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.98), fused=True)


def _use_bf16(precision: str) -> bool:
    # 1.3 to 2 times as fast as fp32 with avx512_bf16 alone, more with AMX.
    return precision == "bf16" or (precision == "auto" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def _identity(config: PretrainConfig) -> str:
    """A digest of all that shapes a run's weights; `steps` may change, to train longer."""
    kept = asdict(config)
    for name in (
        "out",
        "after",
        "steps",
        "compiled",
        "save_every",
        "evaluate_every",
        "evaluate_windows",
        "log_every",
    ):
        del kept[name]
    kept["corpus"].pop("folder")
    kept["corpus"].pop("deny")
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


# --- what it costs -----------------------------------------------------------------------------------


def work(config: MomentConfig, rows: int, steps: int) -> float:
    """Multiplications and additions of one training step: three times the forward pass."""
    tokens = rows * steps / PATCH
    layer = 4 * config.d_model * config.inner + 3 * config.d_model * config.d_ff
    dense = 2 * tokens * (config.num_layers * layer + 2 * PATCH * config.d_model)
    attention = 4 * tokens * (steps / PATCH) * config.inner * config.num_layers
    return 3 * (dense + attention)


def matmul_peak(is_bf16: bool, seconds: float = 0.5) -> float:
    """Measured operations a second of a large matrix product, in the precision and threads of the run."""
    kind = torch.bfloat16 if is_bf16 else torch.float32
    a, b = torch.ones(1024, 1024, dtype=kind), torch.ones(1024, 1024, dtype=kind)
    a @ b
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


class _Clock:
    """Sums since the last reading: windows, seconds of drawing and of training, work, loss."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.windows, self.work, self.loss, self.batches = 0, 0.0, 0.0, 0
        self.spent = {"draw": 0.0, "train": 0.0}

    def drawing(self) -> AbstractContextManager[None]:
        return _Lap(self.spent, "draw")

    def training(self) -> AbstractContextManager[None]:
        return _Lap(self.spent, "train")

    def add(self, batch: Batch | Watched, operations: float, loss: float) -> None:
        self.windows += len(batch.values)
        self.work += operations
        self.loss += loss
        self.batches += 1

    def read(self, peak: float) -> dict[str, Any]:
        """The record's figures, and a new start."""
        draw, train = self.spent["draw"], self.spent["train"]
        out = {
            "loss": round(self.loss / max(1, self.batches), 5),
            "windows_per_s": round(self.windows / max(draw + train, 1e-9), 1),
            "drawn_per_s": round(self.windows / max(draw, 1e-9), 1),
            "draw_share": round(draw / max(draw + train, 1e-9), 4),
            "peak_share": round(self.work / max(train, 1e-9) / peak, 4),
            "time": round(time.time(), 1),
        }
        self._reset()
        return out


class _Lap(AbstractContextManager[None]):
    def __init__(self, spent: dict[str, float], name: str) -> None:
        self.spent, self.name = spent, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.spent[self.name] += time.perf_counter() - self.start
