"""The loop that adapts a network to labelled windows: low-rank changes of the encoder, and the heads.

The encoder is changed by LoRA (Hu et al. 2021, through peft), or whole, and the heads of recognition are
trained on, so that each KPI's chances follow the labels. Later incidents validate: they end the training.

What a step sees follows from seed and step alone, and the state on disk holds everything else, so a run
that was killed goes on where it was. Several processes, or smaller pieces where memory is short, work
through the same batch and add up to the same gradient.

Not here: which windows teach (shots), the verdict (judging), files of adapters (lora).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foreshock.errors import ConfigError, OutputError
from foreshock.memory import MicroBatches
from foreshock.models import lora
from foreshock.models.judging import LEAST_INCIDENTS
from foreshock.models.processes import Group
from foreshock.models.quantise import PRECISIONS, frozen_in
from foreshock.models.recognise import Recogniser, scale_by_context
from foreshock.models.resume import STATE, read_state, restore, write_state
from foreshock.models.series import Series, cut, join
from foreshock.models.shots import FAULTY, QUIET, Lesson, Shot
from foreshock.models.vigil import VigilDetector
from foreshock.windows import PATCH

RARE = 2.2  # log odds by which training sees more anomalous steps than there are; taken back in use

OnStep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class FinetuneOptions:
    """How an adapter is learned."""

    shots: int = 100  # labelled windows used, at most
    rank: int = 8
    alpha: float = 16.0  # the change counts alpha / rank
    targets: tuple[str, ...] = ("q", "v")  # of q, k, v, o, wi_0, wi_1, wo
    steps: int = 120  # of the optimiser, at most
    batch: int = 32  # series a step, half of them with an anomaly; over all processes
    rate: float = 1e-3
    weight_decay: float = 0.01
    expect_weight: float = 0.1  # what forecasting the quiet series counts beside recognising
    least_incidents: int = LEAST_INCIDENTS  # with fewer, names are learned and the score stays; 0: all counts
    validate: float = 0.25  # share of the shots, the latest, that validate
    check_every: int = 15  # steps between two looks at the validation part
    patience: int = 3  # looks without gain after which training ends
    seed: int = 0
    precision: str = "fp32"  # of the frozen encoder's matrices while training: fp32, bf16, int8 or 4-bit
    micro_batch: int = 0  # series at once, the batch whole at 0; halved anyway where memory runs out
    checkpointing: bool = False  # compute each block again on the way back, and keep less

    def __post_init__(self) -> None:
        for name in ("shots", "rank", "batch", "check_every", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in ("steps", "micro_batch", "least_incidents"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        if not 0 <= self.validate < 1 or not self.rate > 0:
            raise ConfigError("validate must be 0 to below 1, and rate above 0.")
        allowed = ("q", "k", "v", "o", "wi_0", "wi_1", "wo")
        if unknown := [t for t in self.targets if t not in allowed]:
            raise ConfigError(f"there is no target {unknown[0]!r}; known: {', '.join(allowed)}.")
        if not self.targets:
            raise ConfigError(f"no product is changed; name some of {', '.join(allowed)}.")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision is {self.precision!r}; adapters are learned in {', '.join(PRECISIONS)}."
            )


class Run:
    """What lives during a run: the network, its optimiser, the best so far, the position."""

    def __init__(
        self, base: VigilDetector, lessons: Sequence[Lesson], shots: Sequence[Shot],
        options: FinetuneOptions, out: Path, digest: str, on_step: OnStep | None, group: Group,
    ) -> None:  # fmt: skip
        self.base, self.options, self.on_step, self.group = base, options, on_step, group
        self.folder = out.with_name(f"{out.name}.training")
        self.record_path = out.with_name(f"{out.name}.jsonl")
        self.network = self.wrapped().to(group.device)
        self.named = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            list(self.named.values()), lr=options.rate, weight_decay=options.weight_decay
        )
        self.train, late = _divided(base, lessons, shots)
        self.exam = _sample(late, 8 * options.batch, np.random.default_rng([options.seed, 5]))
        told = {k: v for k, v in asdict(options).items() if k != "micro_batch"}
        self.identity = hashlib.sha256(
            json.dumps([told, asdict(base.options), digest, len(self.train.values),
                        float(np.nansum(np.abs(self.train.label)))]).encode()
        ).hexdigest()  # fmt: skip
        self.pieces = MicroBatches(options.micro_batch or options.batch, on_shrink=self._shrunk)
        self.step, self.best_step, self.loss = 0, 0, float("nan")
        self.best_exam, self.waited = float("inf"), 0
        self.best = self.first = {n: p.detach().clone() for n, p in self.named.items()}
        if self.exam is not None:
            self.best_exam = self.examine()

    def wrapped(self) -> Any:
        """The network under peft: the base frozen in its precision, changes and heads to be trained."""
        from peft import LoraConfig, get_peft_model

        o = self.options
        network = frozen_in(lora.thawed(self.base.recogniser), o.precision)
        if o.checkpointing:
            network.backbone.encoder.gradient_checkpointing_enable()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(o.seed)
            config = LoraConfig(
                r=o.rank, lora_alpha=o.alpha, target_modules=list(o.targets),  # type: ignore[arg-type]
                modules_to_save=["heads"],
            )  # fmt: skip
            return get_peft_model(cast(Any, network), config)

    # --- state on disk

    def resume(self) -> None:
        """Read the last state if there is one."""
        path = self.folder / STATE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                return
        except OSError as error:
            raise OutputError(f"{self.folder} can't be used ({error}); choose another --out.") from error
        about, stored = read_state(path)
        if about.get("identity") != self.identity:
            raise OutputError(
                f"{self.folder} holds the state of a run with other options or data; remove it to start "
                "again, or choose another --out."
            )
        told = json.loads(about["position"])
        self.step, self.best_step, self.waited = told["step"], told["best_step"], told["waited"]
        self.best_exam, self.loss = float(told["best_exam"]), float(told["loss"])
        restore(self.named, self.optimiser, stored)
        self.best = {name: stored[f"best/{name}"].to(self.group.device) for name in self.named}

    def save(self) -> None:
        """Write the whole state beside the old one, then swap."""
        if self.group.is_first:
            position = {"step": self.step, "best_step": self.best_step, "waited": self.waited,
                        "best_exam": repr(self.best_exam), "loss": repr(self.loss)}  # fmt: skip
            about = {"identity": self.identity, "position": json.dumps(position)}
            best = {f"best/{n}": t for n, t in self.best.items()}
            write_state(self.folder / STATE, self.named, self.optimiser, best, about)
        self.group.wait()

    def record(self, line: dict[str, Any]) -> None:
        if not self.group.is_first:
            return
        with self.record_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.on_step is not None:
            self.on_step(line)

    def _shrunk(self, size: int, reason: str) -> None:
        self.record({"kind": "memory", "step": self.step, "micro_batch": size, "reason": reason})

    # --- steps

    def go(self) -> None:
        """From the present step to the last, or until the validation part gains nothing more."""
        o = self.options
        self.record(
            {"kind": "start", "step": self.step, "steps": o.steps, "series": len(self.train.values),
             "parameters": sum(p.numel() for p in self.named.values()), "processes": self.group.size,
             "validation": None if self.exam is None else round(self.best_exam, 6)}
        )  # fmt: skip
        if not self.train.has_anomaly.any() or self.train.has_anomaly.all():
            return  # nothing to tell apart: the verdict alone is learned
        while self.step < o.steps and self.waited < o.patience:
            self.loss = self.learn()
            self.step += 1
            line: dict[str, Any] = {"kind": "step", "step": self.step, "loss": self.loss}
            if self.step % o.check_every == 0 or self.step == o.steps:
                line |= self._check()
                self.save()
            self.record(line)

    def _check(self) -> dict[str, Any]:
        found = self.loss if self.exam is None else self.examine()
        if self.exam is None or found < self.best_exam:
            self.best_exam, self.best_step, self.waited = found, self.step, 0
            self.best = {n: p.detach().clone() for n, p in self.named.items()}
        else:
            self.waited += 1
        return {"validation": None if self.exam is None else found, "best_step": self.best_step}

    def learn(self) -> float:
        """One step; which series it sees is fixed by seed and step alone."""
        o = self.options
        rng = np.random.default_rng([o.seed, 11, self.step])
        drawn = _sample(self.train, o.batch, rng)
        assert drawn is not None
        for group in self.optimiser.param_groups:  # short warm-up, then down to a tenth
            group["lr"] = o.rate * min((self.step + 1) / 10, 1.0 - 0.9 * self.step / max(1, o.steps))
        self.network.train()
        with torch.random.fork_rng(devices=[]):
            # Dropout, where a network has some; each process draws its own.
            torch.manual_seed(o.seed * 1_000_003 + self.step + 7_919 * self.group.rank)
            loss = self._gradients(drawn)
        torch.nn.utils.clip_grad_norm_(list(self.named.values()), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss

    def _gradients(self, drawn: Series) -> float:
        """Those of the whole batch, from this process's part of it, in pieces; gives the batch's loss."""
        weigh = Weights.of(drawn)
        own = drawn.take(np.arange(len(drawn.values))[self.group.part(len(drawn.values))])

        def piece(start: int, end: int) -> float:
            some = own.take(np.arange(start, end))
            loss = recognition_loss(self.network, some, self.options.expect_weight, weigh)
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        losses = self.pieces.run(len(own.values), piece, lambda: self.optimiser.zero_grad(set_to_none=True))
        self.group.add_gradients(self.named.values())
        return self.group.total(sum(losses))

    @torch.no_grad()
    def examine(self) -> float:
        """The loss on the validation part."""
        assert self.exam is not None
        self.network.eval()
        size, rows = self.options.batch, len(self.exam.values)
        spans = [np.arange(at, min(at + size, rows)) for at in range(0, rows, size)]
        own = spans[self.group.rank :: self.group.size]
        losses = [float(recognition_loss(self.network, self.exam.take(s), 0.0)) * len(s) for s in own]
        return self.group.total(sum(losses)) / rows

    def restore_best(self) -> None:
        """Put the best step's values into the network."""
        with torch.no_grad():
            for name, p in self.named.items():
                p.copy_(self.best[name])

    def forget(self) -> None:
        """Take all changes of the network back."""
        self.best, self.best_step = self.first, 0

    def tuned(self, base: Recogniser) -> Recogniser:
        """The best network, merged into the weights of a base, free of peft."""
        from peft import get_peft_model_state_dict

        self.restore_best()
        stored = get_peft_model_state_dict(self.network)
        tensors = {n.removeprefix("base_model.model."): t.detach().float().cpu() for n, t in stored.items()}
        scale = self.options.alpha / self.options.rank
        return lora.merge(base, tensors, scale, "the trained adapter")


def _divided(base: VigilDetector, lessons: Sequence[Lesson], shots: Sequence[Shot]) -> tuple[Series, Series]:
    """The series of the shots that train, and of those that validate."""
    parts: tuple[list[Series], list[Series]] = ([], [])
    for late in (False, True):
        for i, lesson in enumerate(lessons):
            own = [s for s in shots if s.lesson == i and s.validates == late]
            parts[late].append(cut(lesson, own, base.recogniser, base.options))
    length = base.options.length
    return join([parts[False]], length), join([parts[True]], length)


def _sample(series: Series, count: int, rng: np.random.Generator) -> Series | None:
    """Half of `count` windows with an anomaly, half without; None where one kind is missing."""
    has = series.has_anomaly
    if not has.any() or has.all():
        return None
    half = max(1, count // 2)
    sides = [np.flatnonzero(has), np.flatnonzero(~has)]
    some = np.concatenate([rng.choice(side, half, replace=len(side) < half) for side in sides])
    # In the same order each time, so that rows of one recording meet the same neighbours.
    return series.take(np.sort(some))


@dataclass(frozen=True, slots=True)
class Weights:
    """How many steps of a whole batch count as faulty and quiet: what the losses of its parts divide by."""

    faulty: float
    quiet: float

    @classmethod
    def of(cls, series: Series) -> Weights:
        observed = np.isfinite(series.values)
        attended = observed.reshape(len(observed), -1, PATCH).all(-1).repeat(PATCH, 1)
        usable = observed & attended
        return cls(*(float((usable & (series.label == kind)).sum()) for kind in (FAULTY, QUIET)))


def recognition_loss(
    network: Any, series: Series, expect_weight: float, weights: Weights | None = None
) -> Tensor:
    """Cross entropy with anomalous and quiet steps weighing alike, and likelihood of the quiet ones.

    Args:
        weights: of the whole batch that `series` is a part of; the losses of the parts add up to the batch's.
    """
    device = next(network.parameters()).device
    weights = weights or Weights.of(series)
    observed = torch.from_numpy(np.isfinite(series.values)).to(device)
    values = torch.from_numpy(np.nan_to_num(series.values)).to(device)
    label, context = torch.from_numpy(series.label).to(device), torch.from_numpy(series.context).to(device)
    scaled = scale_by_context(values, observed, context)
    attended = observed.reshape(len(values), -1, PATCH).all(-1)
    found = network(scaled.x, attended, 0)
    usable = observed & attended.repeat_interleave(PATCH, 1)
    loss = torch.zeros((), device=device)
    for kind, count in ((FAULTY, weights.faulty), (QUIET, weights.quiet)):
        weight = (usable & (label == kind)).float()
        target = torch.full_like(found.logit, float(kind))
        # Half of what is drawn is anomalous; in use few steps are.
        told = F.binary_cross_entropy_with_logits(found.logit + RARE, target, reduction="none")
        loss = loss + (told * weight).sum() / max(count, 1.0) / 2
    if expect_weight:
        weight = (usable & (label == QUIET)).float()
        far = ((scaled.x - found.expected) / found.spread).square()
        missed = 2 * torch.log1p(far / 3) + found.spread.log()
        loss = loss + expect_weight * (missed * weight).sum() / max(weights.quiet, 1.0)
    return loss
