"""Adapters: what a team taught the network, on disk and in use, with the base weights left as they are.

An adapter is a folder: `adapter_config.json` and `adapter_model.safetensors` as peft writes them (low-rank
changes of the encoder, Hu et al. 2021, and the heads of recognition), and `foreshock.json` with the verdict,
its scaling and threshold, and the SHA-256 of the base weights. peft is needed to make one, not to use it.

The base network is never changed: an adapted network shares its tensors, but for the few that were merged.
So several adapters stand on one base, switching is taking another, and zero-shot stays what it was.

Not here: learning (finetune), the verdict's mathematics (verdict).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from foreshock.errors import ConfigError, OutputError, WeightsError
from foreshock.frame import Frame, Kpi
from foreshock.models import weights
from foreshock.models.evidence import EvidenceOptions
from foreshock.models.figures import Groups, figures, groups_of, service_figures
from foreshock.models.recognise import Recogniser
from foreshock.models.scan import Reading, Scan
from foreshock.models.signals import Lasting, Signals
from foreshock.models.surprise import Scales, Surprise
from foreshock.models.verdict import Seldom, Verdict, backed
from foreshock.models.vigil import VigilDetector, VigilOptions, VigilStream
from foreshock.scores import Scores
from foreshock.windows import to_grid

PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
OURS = "foreshock.json"
FILES = (PEFT_CONFIG, PEFT_WEIGHTS, OURS)
FORMAT = 5
AT_ONCE = 512  # rows whose services are told of, and weighed, at once
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Adapter:
    """A loaded adapter."""

    place: str
    tensors: dict[str, Tensor]  # by the names of the base network: whole heads, and A and B of each change
    scale: float  # of B @ A
    verdict: Verdict
    base_sha256: str
    facts: dict[str, Any]  # how it was made
    sha256: str


def base_sha256(model: str | Path | Recogniser) -> str:
    """The digest by which an adapter knows its base: of a checkpoint's files, or of a network in memory."""
    digest = hashlib.sha256()
    if isinstance(model, Recogniser):
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode() + tensor.detach().float().contiguous().numpy().tobytes())
        return digest.hexdigest()
    folder = weights.find(str(model))
    for name in (weights.FILE_NAME, weights.HEADS_NAME):
        if (folder / name).is_file():
            digest.update(weights.sha256(folder / name).encode())
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------- on disk


def load_adapter(folder: str | Path) -> Adapter:
    """Read and check an adapter.

    Raises:
        WeightsError: not an adapter, cut short, or files that don't belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    aside = _aside(folder)
    if not folder.exists() and aside.is_dir():
        with suppress(OSError):  # killed between two renames while saving
            aside.rename(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise WeightsError(
                f"{folder} has no {name}; an adapter is a folder with {', '.join(FILES)}, made by "
                "`foreshock adapt`."
            )
    ours, config = _json(folder / OURS), _json(folder / PEFT_CONFIG)
    path = folder / PEFT_WEIGHTS
    found, expected = weights.sha256(path), str(ours.get("adapter_sha256"))
    if found != expected:
        raise WeightsError(
            f"{path} has sha256 {found[:12]}…, {OURS} says {expected[:12]}…; it is cut short, or the files "
            "are of two adapters. Copy the whole folder again."
        )
    if ours.get("format") != FORMAT:
        raise WeightsError(
            f"{folder / OURS} has format {ours.get('format')!r}; this version reads {FORMAT}. Adapt again."
        )
    try:
        stored = load_file(path)
        scale = float(config["lora_alpha"]) / int(config["r"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"{folder} can't be read ({error!r}); copy it again.") from error
    tensors = {name.removeprefix(_PREFIX): t.float() for name, t in stored.items()}
    verdict = Verdict.from_dict(ours.get("verdict", {}), str(folder / OURS))
    return Adapter(
        str(folder), tensors, scale, verdict, str(ours.get("base_sha256")), ours.get("facts", {}), found
    )


def save_adapter(network: Any, verdict: Verdict, base: str, facts: Mapping[str, Any], folder: Path) -> None:
    """Write a peft model and a verdict as an adapter. A previous one stays until the new one is whole.

    Raises:
        OutputError: it can't be written; what was there before is untouched.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        network.save_pretrained(str(part), safe_serialization=True)
        for extra in part.iterdir():  # a model card for the hub
            if extra.name not in FILES:
                extra.unlink()
        ours = {
            "format": FORMAT,
            "base_sha256": base,
            "adapter_sha256": weights.sha256(part / PEFT_WEIGHTS),
            "verdict": verdict.to_dict(),
            "facts": dict(facts),
        }
        (part / OURS).write_text(json.dumps(ours, indent=1) + "\n", encoding="utf-8")
        load_adapter(part)
        _swap(part, folder)
    except WeightsError as error:  # what was just written is not what was meant: the disk
        raise OutputError(f"{folder} could not be written whole; is the disk full? ({error})") from error
    except Exception as error:  # safetensors has errors of its own for a full disk
        if not isinstance(error, OSError) and "safetensor" not in type(error).__name__.lower():
            raise
        raise OutputError(f"{folder} can't be written ({error}); is the disk full?") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _swap(part: Path, folder: Path) -> None:
    aside = _aside(folder)
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    try:
        part.rename(folder)
    except OSError:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise WeightsError(f"{path} is not whole JSON ({error}); copy the adapter again.") from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{path} holds a {type(raw).__name__}; needed is an object.")
    return raw


# ------------------------------------------------------------------------------------------- on a network


def thawed(base: Recogniser) -> Recogniser:
    """The same network in modules of its own, which may be wrapped; it shares all memory, and is frozen."""
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in base.parameters()}
    shared |= {id(buffer): buffer for buffer in base.buffers()}
    return copy.deepcopy(base, shared)


def merge(base: Recogniser, tensors: Mapping[str, Tensor], scale: float, place: str) -> Recogniser:
    """A network with low-rank changes added to the base's weights; shares all other tensors with it.

    Raises:
        WeightsError: the tensors don't fit this network.
    """
    made = thawed(base)
    changes = {n.removesuffix(".lora_A.weight") for n in tensors if n.endswith(".lora_A.weight")}
    heads = {n.removeprefix("heads."): t for n, t in tensors.items() if n.startswith("heads.")}
    known = 2 * len(changes) + len(heads)
    try:
        if known != len(tensors):
            raise KeyError("a tensor of another kind")
        with torch.no_grad():
            for name in sorted(changes):
                module = cast(nn.Linear, made.get_submodule(name))
                a, b = (tensors[f"{name}.lora_{letter}.weight"] for letter in "AB")
                whole = module.weight.float() + scale * (b @ a)
                module.weight = nn.Parameter(whole.to(module.weight.dtype), requires_grad=False)
        made.heads = copy.deepcopy(base.heads)
        if heads:
            made.heads.load_state_dict(heads)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{place} does not fit this network ({error}); adapt again.") from error
    return made.eval()


class _HeardScan(Scan):
    """A scale whose newest reading can be asked for."""

    reading: Reading | None = None

    def push(self, filled: np.ndarray) -> Reading:
        self.reading = super().push(filled)
        return self.reading


class _HeardSurprise(Surprise):
    """A surprise that tells the level and the spread by which it judged each of the newest rows."""

    def __init__(self, options: EvidenceOptions) -> None:
        super().__init__(options)
        self.usual: list[np.ndarray] = []  # (2, n, K) each

    def _take(self, values: np.ndarray, expected: np.ndarray, scales: Scales) -> np.ndarray:
        usual = np.stack([scales.level, scales.spread[1]])[:, None]
        self.usual.append(np.broadcast_to(usual, (2, *values.shape)))
        return super()._take(values, expected, scales)

    def tell(self) -> np.ndarray:
        """(2, n, K) of the rows since the last time."""
        told, self.usual = np.concatenate(self.usual, axis=1), []
        return told


class PooledStream(VigilStream):
    """Scores rows as the default detector does, and pools what it saw into figures of each row."""

    scan_type, surprise_type = _HeardScan, _HeardSurprise

    def __init__(self, recogniser: Recogniser, options: VigilOptions, detector: str) -> None:
        super().__init__(recogniser, options, detector)
        self.running, self.signals = Lasting(), Signals()
        self.groups: Groups | None = None
        self.pooled: list[tuple[np.ndarray, ...]] = []

    def push_pooled(self, piece: Frame) -> tuple[Scores, tuple[np.ndarray, ...]]:
        """The scores of the next rows, and what `reduce` makes of their figures."""
        clock = self.clock
        scores = super().push(piece)
        grid = to_grid(piece.time_ns, self.step_s, clock, self.options.length)
        first = 0 if clock is None else clock[0] + 1
        whole, self.pooled = [np.concatenate(parts) for parts in zip(*self.pooled, strict=True)], []
        return scores, tuple(part[grid.slots - first] for part in whole)

    def reduce(self, rows: np.ndarray, services: np.ndarray) -> tuple[np.ndarray, ...]:
        """What is kept of some rows' figures (n, F) and those of their services (n, S, G): both."""
        return rows, services

    def _judge(self, dense: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        evidence, expected = super()._judge(dense)
        readings = []
        for scan in cast("list[_HeardScan]", self.scans):
            assert scan.reading is not None
            readings.append(scan.reading.chance)
            scan.reading = None
        seen = np.isfinite(dense)
        with np.errstate(invalid="ignore"):
            is_up = dense > np.where(np.isfinite(expected), expected, np.inf)
        heard = np.where(seen, evidence, 0.0)
        usual = cast(_HeardSurprise, self.surprise).tell()
        self.pooled.append(self.reduce(*self.pool(heard, np.stack(readings), is_up, dense, *usual)))
        return evidence, expected

    def _rearrange(self, columns: np.ndarray, kpis: tuple[Kpi, ...]) -> None:
        super()._rearrange(columns, kpis)
        self.signals.take(columns)
        self.groups = None

    def pool(
        self, evidence: np.ndarray, chances: np.ndarray, is_up: np.ndarray, values: np.ndarray,
        level: np.ndarray, spread: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """The next rows' figures (n, F) and those of their services (n, S, G'), each as it lasts.

        Args:
            evidence, chances, is_up: as for `figures`.
            values: (n, K), NaN where not observed. level, spread: (n, K) what is usual.
        """
        groups = self.groups = self.groups or groups_of(self.kpis)
        rows, services = [], []
        for at in range(0, len(values), AT_ONCE):
            part = slice(at, at + AT_ONCE)
            own = figures(evidence[part], chances[:, part], is_up[part], groups.kinds, self.layout)
            rows.append(self.running.push(own).reshape(len(own), -1))
            heard = (evidence[part], is_up[part], values[part], level[part], spread[part])
            services.append(service_figures(self.signals.push(*heard, groups.drifts), groups))
        return np.concatenate(rows), np.concatenate(services)


class AdaptedStream(PooledStream):
    """The default detector's stream with a verdict for the system, and with an adapter's network.

    Args:
        fitted: names kinds and services; finds incidents, too, where labels taught it to.
        finder: what simulated systems taught, which counts in the score where labels don't.
    """

    def __init__(
        self, recogniser: Recogniser, options: VigilOptions, detector: str, fitted: Verdict,
        learned_from: str = "labels", finder: Verdict | None = None,
    ) -> None:  # fmt: skip
        super().__init__(recogniser, options, detector)
        self.fitted, self.learned_from, self.finder = fitted, learned_from, finder
        self.here: list[Verdict] = []  # for the figures that this deployment has
        self.past = 0  # rows
        self.seldom = Seldom()

    def push(self, piece: Frame) -> Scores:
        scores, (odds, kinds, origins, suspicion) = self.push_pooled(piece)
        past = self.past + np.arange(len(piece))
        self.past += len(piece)
        system, taught = scores.system, None
        if self.fitted.detects:
            system, taught = self.fitted.weighed(odds, system)
        elif self.finder is not None:
            odds = self.seldom.push(suspicion)
            system = backed(system, odds, past, len(piece.kpis)).astype(np.float32)
        names, source = self.fitted.kinds, self.learned_from
        return replace(scores, system=system, kinds=kinds, kind_names=names, origins=origins,
                       kinds_from=source, taught=taught)  # fmt: skip

    def _rearrange(self, columns: np.ndarray, kpis: tuple[Kpi, ...]) -> None:
        super()._rearrange(columns, kpis)
        self.here = []

    def reduce(self, rows: np.ndarray, services: np.ndarray) -> tuple[np.ndarray, ...]:
        """Log odds (n,), chances of kinds (n, C) and of roots (n, S), and log odds of the finder (n,)."""
        assert self.groups is not None
        if not self.here:
            every = (self.fitted,) if self.finder is None else (self.fitted, self.finder)
            self.here = [one.narrow(self.groups.columns) for one in every]
        some = [slice(at, at + AT_ONCE) for at in range(0, len(rows), AT_ONCE)]
        read = [[one.read(rows[part], services[part]) for part in some] for one in self.here]
        odds, kinds, origins = (np.concatenate(parts) for parts in zip(*read[0], strict=True))
        suspicion = np.concatenate([part[0] for part in read[-1]])
        return odds, kinds.astype(np.float32), origins.astype(np.float32), suspicion


class AdaptedDetector(VigilDetector):
    """The default detector as an adapter taught it; the base's network is shared and unchanged."""

    def __init__(self, base: VigilDetector, adapter: Adapter, base_digest: str) -> None:
        if adapter.base_sha256 != base_digest:
            raise WeightsError(
                f"{adapter.place} was made for base weights {adapter.base_sha256[:12]}…, these are "
                f"{base_digest[:12]}…; choose those with --model, or adapt again on these."
            )
        facts = {**base.facts, "adapter": adapter.place, "adapter_sha256": adapter.sha256}
        network = merge(base.recogniser, adapter.tensors, adapter.scale, adapter.place)
        super().__init__(base.name, network, base.options, facts)
        self.adapter, self.verdict = adapter, adapter.verdict
        self.zero_shot = VigilDetector(base.name, base.recogniser, base.options, base.facts)
        self.finder: Verdict | None = None if self.verdict.detects else getattr(base, "finder", None)
        if self.verdict.detects:
            self.guess = None  # its threshold was learned

    def stream(self) -> AdaptedStream:
        return AdaptedStream(self.recogniser, self.options, self.name, self.verdict, finder=self.finder)

    @property
    def threshold(self) -> float | None:
        """The score from which rows count as an incident, learned from labels; None where too few did."""
        if not self.adapter.verdict.detects:
            return None
        return self.adapter.verdict.level


def with_adapter(base: Any, adapter: str | Path | Adapter) -> AdaptedDetector:
    """The default detector with an adapter. Others on the same `base` share its tensors.

    Raises:
        ConfigError: the detector has no recognition to adapt.
        WeightsError: a damaged adapter, or one for another base.
    """
    if not isinstance(base, VigilDetector) or isinstance(base, AdaptedDetector):
        raise ConfigError(
            "an adapter needs the default detector, reading the past only, with weights that have "
            "recognition (nano has); leave out --offline and other detectors."
        )
    loaded = adapter if isinstance(adapter, Adapter) else load_adapter(adapter)
    model = base.facts.get("model")
    in_memory = base.facts.get("weights_sha256") is None
    return AdaptedDetector(base, loaded, base_sha256(base.recogniser if in_memory else str(model)))
