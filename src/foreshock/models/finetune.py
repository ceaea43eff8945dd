"""Learn an adapter from a few labelled windows of a recording.

A shot is a window of `VigilOptions.block` rows that somebody judged: half of them hold a fault, half are
quiet, and of the quiet ones half are those that look worst to zero-shot scoring. The encoder is changed by
LoRA (Hu et al. 2021, through peft) and the heads of recognition are trained on, so that each KPI's chances
follow the labels; then a verdict is learned on the pooled evidence. Later incidents validate: they stop the
training, correct the probabilities and choose the threshold, and no window stands on both sides.

A run can be killed at any moment and goes on where it was: its state lies beside the adapter until that is
whole, and on a CPU the end is the same.

Not here: files of adapters (lora), the verdict (verdict), splitting off a test part (split).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foreshock.errors import ConfigError, FrameError, OutputError
from foreshock.frame import Frame, Labels
from foreshock.models import lora
from foreshock.models.recognise import Recogniser, scale_by_context
from foreshock.models.reconstruct import moment_detector
from foreshock.models.scan import LEAST_OBSERVED, PHASES, Scan
from foreshock.models.verdict import Verdict, best_threshold, correct, learn
from foreshock.models.vigil import LARGEST, VigilDetector, VigilOptions
from foreshock.windows import PATCH, fill_forward, to_grid

STATE = "state.safetensors"
RARE = 2.2  # log odds by which training sees more anomalous steps than there are; taken back in use
LOUD = 0.05  # share of KPIs that speak for an incident whose service nobody named
LASTING = 4  # rows of a window that must reach the threshold
QUIET_KPIS = 32  # series without an anomaly kept of each window and scale
IGNORED, QUIET, FAULTY = -1, 0, 1

OnStep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class FinetuneOptions:
    """How an adapter is learned."""

    shots: int = 100  # labelled windows used, at most
    rank: int = 8
    alpha: float = 16.0  # the change counts alpha / rank
    targets: tuple[str, ...] = ("q", "v")  # of q, k, v, o, wi_0, wi_1, wo
    steps: int = 120  # of the optimiser, at most
    batch: int = 32  # series a step, half of them with an anomaly
    rate: float = 1e-3
    weight_decay: float = 0.01
    expect_weight: float = 0.1  # what forecasting the quiet series counts beside recognising
    validate: float = 0.25  # share of the shots, the latest, that validate
    check_every: int = 15  # steps between two looks at the validation part
    patience: int = 3  # looks without gain after which training ends
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("shots", "rank", "batch", "check_every", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.steps < 0 or not 0 <= self.validate < 1 or not self.rate > 0:
            raise ConfigError("steps must be 0 or more, validate 0..1, and rate above 0.")
        allowed = ("q", "k", "v", "o", "wi_0", "wi_1", "wo")
        if unknown := [t for t in self.targets if t not in allowed]:
            raise ConfigError(f"there is no target {unknown[0]!r}; known: {', '.join(allowed)}.")


def finetune(
    frame: Frame | Sequence[Frame],
    out: str | Path,
    model: str | Path | Recogniser = "nano",
    options: FinetuneOptions | None = None,
    on_step: OnStep | None = None,
    **detector: Any,
) -> lora.Adapter:
    """Learn an adapter from labelled recordings, and write it to the folder `out`.

    Args:
        frame: one recording with labels, or several, of any KPIs.
        model: a checkpoint with recognition, by name or folder, or a loaded network in float32.
        on_step: is told each line of the record, which also lies beside `out` (`.jsonl`).
        detector: options of the default detector, such as `length`.

    Raises:
        FrameError: no labels, no faulty or no quiet rows, or fewer shots than kinds of faults.
        ConfigError: an option out of range, peft missing, or a checkpoint without recognition.
        OutputError: `out` can't be written, or the state beside it belongs to another run.
    """
    options = options or FinetuneOptions()
    frames = [frame] if isinstance(frame, Frame) else list(frame)
    _require_peft()
    began = time.perf_counter()
    for one in frames:
        _require_labels(one)
    base = moment_detector("foreshock", model, precision="fp32", **detector)
    if not isinstance(base, VigilDetector):
        raise ConfigError(
            f"{model} has no heads of recognition; an adapter needs them. Take nano, or a checkpoint that "
            "`foreshock pretrain` wrote."
        )
    digest = lora.base_sha256(model)
    lessons = [_look(one, base) for one in frames]
    shots = draw_shots(lessons, options, base.options.block)
    run = _Run(base, lessons, shots, options, Path(out), digest, on_step)
    run.resume()
    run.go()
    tuned = run.tuned()
    verdict, facts = judge(lessons, shots, tuned, base.options, options)
    facts |= {
        "options": asdict(options), "detector": asdict(base.options), "steps": run.step,
        "best_step": run.best_step, "final_loss": run.loss if run.step else None,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    run.restore_best()
    lora.save_adapter(run.network, verdict, digest, facts, Path(out))
    run.record({"kind": "adapter", **{k: v for k, v in facts.items() if k not in ("options", "detector")}})
    shutil.rmtree(run.folder, ignore_errors=True)
    return lora.load_adapter(out)


def with_spans(frame: Frame, spans: Sequence[tuple[int, int, str, str]]) -> Frame:
    """A frame with labels from a list of incidents.

    Args:
        spans: start and end (nanoseconds since 1970 UTC), kind and service ("" where not known) of each.

    Raises:
        FrameError: a span that ends before it starts, or in which the recording has no row.
    """
    rows = len(frame)
    anomaly, ids = np.zeros(rows, bool), np.full(rows, -1, np.int64)
    kind, cause = np.full(rows, "", object), np.full(rows, "", object)
    for number, (start, end, what, who) in enumerate(spans):
        inside = (frame.time_ns >= start) & (frame.time_ns <= end)
        if not inside.any():
            first, last, begin = (
                str(np.datetime64(int(t), "ns"))[:19] for t in (frame.time_ns[0], frame.time_ns[-1], start)
            )
            raise FrameError(
                f"label {number + 1} begins {begin}Z and covers no row; the recording goes from {first}Z to "
                f"{last}Z. Are its times UTC?"
            )
        if who and who not in frame.services:
            raise FrameError(
                f"label {number + 1} names the service {who!r}; the recording has "
                f"{', '.join(frame.services[:8])}{' …' if len(frame.services) > 8 else ''}."
            )
        anomaly[inside], ids[inside], kind[inside], cause[inside] = True, number, what, who
    labels = Labels(
        anomaly, kind.astype(str), cause.astype(str), np.zeros(rows, bool), ids, np.ones(rows, bool)
    )
    return replace(frame, labels=labels)


def _require_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise ConfigError("learning an adapter needs peft: pip install 'foreshock[adapt]'") from None


def _require_labels(frame: Frame) -> None:
    if frame.labels is None:
        raise FrameError(
            "the recording has no labels; an adapter is learned from them. Add a column `label` of 0 and 1 "
            "(and `fault_type`, `root_cause_service` where known)."
        )
    truth = truth_of(frame)
    for value, word in ((FAULTY, "faulty"), (QUIET, "quiet")):
        if not (truth == value).any():
            raise FrameError(
                f"the recording has no {word} row among its {len(frame)} that counts; an adapter needs both "
                "kinds. Give a longer one."
            )


def truth_of(frame: Frame) -> np.ndarray:
    """(T,) FAULTY, QUIET, or IGNORED: recovery, suspects, and faults that no metric shows."""
    labels = frame.labels
    assert labels is not None
    truth = np.where(labels.anomaly, FAULTY, QUIET)
    return np.where(labels.ignore | (labels.anomaly & ~labels.metric_visible), IGNORED, truth)


# ------------------------------------------------------------------------------------------------ shots


@dataclass(frozen=True, slots=True)
class Lesson:
    """A recording, looked at once by the zero-shot detector. Rows are those of the frame."""

    frame: Frame
    truth: np.ndarray  # (T,) int
    evidence: np.ndarray  # (T, K) of the zero-shot detector, 0 where nothing was observed
    system: np.ndarray  # (T,)
    figures: np.ndarray  # (T, F)


@dataclass(frozen=True, slots=True)
class Shot:
    """A labelled window: rows start..end of a lesson."""

    lesson: int
    start: int
    end: int
    is_faulty: bool
    validates: bool
    weight: float  # how many windows of the recording it stands for


def _look(frame: Frame, base: VigilDetector) -> Lesson:
    stream = lora.PooledStream(base.recogniser, base.options, base.name)
    scores, rows = stream.push_pooled(frame.require_clock().without_labels())
    return Lesson(frame, truth_of(frame), np.nan_to_num(scores.kpis), np.nan_to_num(scores.system), rows)


def draw_shots(lessons: Sequence[Lesson], options: FinetuneOptions, block: int) -> list[Shot]:
    """Which windows are learned from: incidents in turn, hard quiet windows beside any quiet ones.

    Raises:
        FrameError: fewer shots than kinds of faults and quiet, or no window of a kind.
    """
    rng = np.random.default_rng([options.seed, 7])
    faulty: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    quiet: list[tuple[float, int, int, int]] = []
    kinds: set[str] = set()
    for number, lesson in enumerate(lessons):
        labels = lesson.frame.labels
        assert labels is not None
        for start in range(PATCH, len(lesson.truth), block):
            end = min(start + block, len(lesson.truth))
            truth = lesson.truth[start:end]
            if (truth == FAULTY).any():
                row = start + int(np.argmax(truth == FAULTY))
                kinds.add(str(labels.fault_type[row]))
                faulty.setdefault((number, int(labels.fault_id[row])), []).append((number, start, end))
            elif (truth == QUIET).mean() >= 0.5:
                quiet.append((float(lesson.system[start:end].max()), number, start, end))
    if not faulty or not quiet:
        raise FrameError(
            f"there are {len(faulty)} incidents and {len(quiet)} quiet windows of {block} rows; an adapter "
            "needs one of each. Give a longer recording."
        )
    needed = len(kinds) + 1
    if options.shots < needed:
        raise FrameError(
            f"{options.shots} shots are fewer than the {needed} classes ({len(kinds)} kinds of faults and "
            f"quiet); give --shots {needed} or more."
        )
    taken = _in_turn(list(faulty.values()), max(1, options.shots // 2), rng)
    every = sum(len(some) for some in faulty.values())
    count = min(len(quiet), options.shots - len(taken))
    quiet.sort(reverse=True)
    hard, rest = quiet[: max(1, len(quiet) // 5)], quiet[max(1, len(quiet) // 5) :]
    hard_count = min(len(hard), count - min(len(rest), count // 2))
    rest_count = min(len(rest), count - hard_count)
    shots = [(place, True, every / len(taken)) for place in taken]
    for pool, some in ((hard, hard_count), (rest, rest_count)):
        chosen = rng.choice(len(pool), some, replace=False) if some else np.zeros(0, int)
        shots += [(pool[int(i)][1:], False, len(pool) / some) for i in chosen]
    return _divide(shots, lessons, options.validate)


def _in_turn(
    groups: list[list[tuple[int, int, int]]], count: int, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """One window of each incident before any gives a second."""
    order = [[group[int(i)] for i in rng.permutation(len(group))] for group in groups]
    order = [order[int(i)] for i in rng.permutation(len(order))]
    turns = max(map(len, order))
    return [group[turn] for turn in range(turns) for group in order if turn < len(group)][:count]


def _divide(
    shots: list[tuple[tuple[int, int, int], bool, float]], lessons: Sequence[Lesson], share: float
) -> list[Shot]:
    """The latest incidents validate, whole ones; quiet windows go to the side they lie on in time."""
    shots.sort(key=lambda shot: shot[0])
    incident = [_incidents(lessons[place[0]], place) if bad else set() for place, bad, _ in shots]
    late: set[int] = set()
    wanted = round(share * len(shots))
    faulty = [i for i, (_, bad, _) in enumerate(shots) if bad]
    for i in reversed(faulty):
        if len(late) >= max(1, round(share * len(faulty))) or wanted == 0:
            break
        late |= _alike(i, faulty, incident)
    if len(late) >= len(faulty):  # a single incident: nothing validates
        late = set()
    quiet = [i for i, (_, bad, _) in enumerate(shots) if not bad]
    if late:
        # Every fourth quiet window (by default): they are no incident's, and late ones may all be alike.
        every = max(2, round(1 / share))
        late |= set(quiet[every - 1 :: every])
    return [Shot(*place, bad, i in late, weight) for i, (place, bad, weight) in enumerate(shots)]


def _alike(first: int, faulty: list[int], incident: list[set[tuple[int, int]]]) -> set[int]:
    """All shots that share an incident with this one, or with one that does."""
    found, known = {first}, set(incident[first])
    while True:
        more = {j for j in faulty if j not in found and incident[j] & known}
        if not more:
            return found
        found |= more
        known = known.union(*(incident[j] for j in more))


def _incidents(lesson: Lesson, place: tuple[int, int, int]) -> set[tuple[int, int]]:
    labels = lesson.frame.labels
    assert labels is not None
    ids = labels.fault_id[place[1] : place[2]]
    return {(place[0], int(i)) for i in ids if i >= 0}


# --------------------------------------------------------------------------------- series to learn from


def targets(lesson: Lesson) -> np.ndarray:
    """(T, K) int8: which steps of which KPIs are anomalous.

    Of the service that is named, the louder half of the KPIs (an overloaded processor leaves most of a
    service's figures alone); without a name the loudest of all. The other KPIs of an incident are ignored:
    a symptom elsewhere is neither right nor wrong. In quiet rows every KPI is quiet.
    """
    labels = lesson.frame.labels
    assert labels is not None
    out = np.full(lesson.evidence.shape, IGNORED, np.int8)
    out[lesson.truth == QUIET] = QUIET
    services = np.array([kpi.service for kpi in lesson.frame.kpis])
    usual = np.median(lesson.evidence[lesson.truth == QUIET], 0)
    ids = np.where(lesson.truth == FAULTY, labels.fault_id, -1)
    for one in np.unique(ids[ids >= 0]):
        rows = np.flatnonzero(ids == one)
        loud = np.quantile(lesson.evidence[rows], 0.8, axis=0) - usual
        own = np.flatnonzero(services == labels.root_cause[rows[0]])
        count = max(1, len(own) // 2)
        if not len(own):
            own, count = np.arange(len(services)), max(1, int(np.ceil(LOUD * len(services))))
        chosen = own[np.argsort(-loud[own], kind="stable")[:count]]
        out[np.ix_(rows, chosen[loud[chosen] > 0])] = FAULTY
    return out


@dataclass(frozen=True, slots=True)
class Series:
    """N windows of L samples, each a KPI at one scale, as the detector would read them."""

    values: np.ndarray  # (N, L) float64, NaN where nothing was observed
    label: np.ndarray  # (N, L) int8
    context: np.ndarray  # (N, 1) leading steps that set the scale

    def take(self, some: np.ndarray) -> Series:
        return Series(self.values[some], self.label[some], self.context[some])

    @property
    def has_anomaly(self) -> np.ndarray:
        return np.asarray((self.label == FAULTY).any(1))


def cut(lesson: Lesson, shots: Sequence[Shot], recogniser: Recogniser, options: VigilOptions) -> Series:
    """All windows of the shots' rows: each KPI at each scale; those that never move are left out."""
    frame = lesson.frame
    grid = to_grid(frame.time_ns, frame.step_s, None, options.length)
    dense = np.full((grid.end, len(frame.kpis)), np.nan)
    values = np.clip(frame.values, -LARGEST, LARGEST)
    dense[grid.slots] = np.where(np.isfinite(frame.values), values, np.nan)
    truth = np.full(dense.shape, IGNORED, np.int8)
    judged = np.zeros(len(frame), bool)
    for shot in shots:
        judged[shot.start : shot.end] = True
    truth[grid.slots[judged]] = targets(lesson)[judged]
    filled = fill_forward(dense.T).T
    parts = [_at_scale(filled, truth, factor, recogniser, options) for factor in options.scales]
    return join(parts, options.length)


def _at_scale(
    filled: np.ndarray, truth: np.ndarray, factor: int, recogniser: Recogniser, options: VigilOptions
) -> list[Series]:
    scan = Scan(recogniser, factor, options.length, options.block)
    samples = scan._sample(filled)
    ends = (np.arange(len(samples)) + 1) * scan.stride - 1
    label = truth[ends].copy()
    is_unsure = label == IGNORED
    for back in range(1, factor):  # a mean is anomalous from the first anomalous row in it
        row = truth[np.maximum(ends - back, 0)]
        label, is_unsure = np.maximum(label, row), is_unsure | (row == IGNORED)
    label[is_unsure & (label != FAULTY)] = IGNORED
    label[truth[ends] == IGNORED] = IGNORED
    found = []
    for phase in range(min(factor, PHASES)):
        x, y = samples[phase :: scan.phases], label[phase :: scan.phases]
        starts = sorted({_block(int(i), options.block) for i in np.flatnonzero((y != IGNORED).any(1))} - {0})
        for start in starts:
            size = min(start, options.block)
            at = np.arange(start + size - options.length, start + size)
            window = x[np.clip(at, 0, len(x) - 1)].T.copy()  # (K, L)
            window[:, at < 0] = np.nan
            told = y[np.clip(at, 0, len(x) - 1)].T.copy()
            told[:, (at < start) | (at >= len(x))] = IGNORED
            context = options.length - size
            seen = np.isfinite(window[:, :context]).sum(1) >= LEAST_OBSERVED
            last = np.nan_to_num(window[:, -1:])
            moves = (np.where(np.isfinite(window), window, last) != last).any(1)
            use = np.flatnonzero(seen & moves & (told != IGNORED).any(1))
            is_bad = (told[use] == FAULTY).any(1)
            rest = use[~is_bad]
            # Hundreds of KPIs would fill the memory with what is quiet.
            use = np.concatenate([use[is_bad], rest[:: max(1, -(-len(rest) // QUIET_KPIS))]])
            if len(use):
                found.append(Series(window[use], told[use], np.full((len(use), 1), context)))
    return found


def _block(sample: int, block: int) -> int:
    """Where the block that judges a sample starts, as in `Scan`; 0 where none does."""
    if sample >= block:
        return sample // block * block
    start = PATCH
    while 2 * start <= sample:
        start *= 2
    return start if sample >= PATCH else 0


def join(parts: Sequence[Sequence[Series]], length: int) -> Series:
    """All of them as one; perhaps empty."""
    flat = [series for some in parts for series in some]
    if not flat:
        return Series(np.zeros((0, length)), np.zeros((0, length), np.int8), np.zeros((0, 1), int))
    return Series(*(np.concatenate([getattr(s, n) for s in flat]) for n in ("values", "label", "context")))


# ---------------------------------------------------------------------------------------------- the loop


class _Run:
    """What lives during a run: the network, its optimiser, the best so far, the position."""

    def __init__(
        self, base: VigilDetector, lessons: Sequence[Lesson], shots: Sequence[Shot],
        options: FinetuneOptions, out: Path, digest: str, on_step: OnStep | None,
    ) -> None:  # fmt: skip
        from peft import LoraConfig, get_peft_model

        self.base, self.options, self.on_step = base, options, on_step
        self.folder = out.with_name(f"{out.name}.training")
        self.record_path = out.with_name(f"{out.name}.jsonl")
        network = lora.thawed(base.recogniser)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            config = LoraConfig(
                r=options.rank, lora_alpha=options.alpha, target_modules=list(options.targets),  # type: ignore[arg-type]
                modules_to_save=["heads"],
            )  # fmt: skip
            self.network: Any = get_peft_model(cast(Any, network), config)
        self.named = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            list(self.named.values()), lr=options.rate, weight_decay=options.weight_decay
        )
        both = []
        for late in (False, True):
            for i, lesson in enumerate(lessons):
                own = [s for s in shots if s.lesson == i and s.validates == late]
                both.append((late, cut(lesson, own, base.recogniser, base.options)))
        length = base.options.length
        self.train = join([[series for late, series in both if not late]], length)
        late_series = join([[series for late, series in both if late]], length)
        self.exam = _sample(late_series, 8 * options.batch, np.random.default_rng([options.seed, 5]))
        self.identity = hashlib.sha256(
            json.dumps([asdict(options), asdict(base.options), digest, len(self.train.values),
                        float(np.nansum(np.abs(self.train.label)))]).encode()
        ).hexdigest()  # fmt: skip
        self.step, self.best_step, self.loss = 0, 0, float("nan")
        self.best_exam, self.waited = float("inf"), 0
        self.best = {n: p.detach().clone() for n, p in self.named.items()}
        if self.exam is not None:
            self.best_exam = self.examine()

    # --- state on disk

    def resume(self) -> None:
        """Read the last state if there is one."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / STATE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                return
            with safe_open(str(path), framework="pt") as file:
                about = file.metadata() or {}
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{self.folder} can't be used ({error}); remove it to start again.") from error
        if about.get("identity") != self.identity:
            raise OutputError(
                f"{self.folder} holds the state of a run with other options or data; remove it to start "
                "again, or choose another --out."
            )
        told = json.loads(about["position"])
        self.step, self.best_step, self.waited = told["step"], told["best_step"], told["waited"]
        self.best_exam, self.loss = float(told["best_exam"]), float(told["loss"])
        with torch.no_grad():
            for name, p in self.named.items():
                p.copy_(stored[f"model/{name}"])
                self.best[name] = stored[f"best/{name}"].clone()
                if f"first/{name}" in stored:
                    self.optimiser.state[p] = {
                        "step": stored[f"count/{name}"].clone(),
                        "exp_avg": stored[f"first/{name}"].clone(),
                        "exp_avg_sq": stored[f"second/{name}"].clone(),
                    }

    def save(self) -> None:
        """Write the whole state beside the old one, then swap."""
        from safetensors.torch import save_file

        tensors = {f"best/{n}": t for n, t in self.best.items()}
        for name, p in self.named.items():
            tensors[f"model/{name}"] = p.detach()
            if p in self.optimiser.state:
                tensors[f"count/{name}"] = self.optimiser.state[p]["step"]
                tensors[f"first/{name}"] = self.optimiser.state[p]["exp_avg"]
                tensors[f"second/{name}"] = self.optimiser.state[p]["exp_avg_sq"]
        position = {"step": self.step, "best_step": self.best_step, "waited": self.waited,
                    "best_exam": repr(self.best_exam), "loss": repr(self.loss)}  # fmt: skip
        about = {"identity": self.identity, "position": json.dumps(position)}
        part = self.folder / (STATE + ".part")
        try:
            save_file({n: t.contiguous().clone() for n, t in tensors.items()}, part, metadata=about)
            part.replace(self.folder / STATE)
        except Exception as error:  # safetensors has an error of its own
            raise OutputError(f"{part} can't be written ({error}); is the disk full?") from error

    def record(self, line: dict[str, Any]) -> None:
        with self.record_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.on_step is not None:
            self.on_step(line)

    # --- steps

    def go(self) -> None:
        """From the present step to the last, or until the validation part gains nothing more."""
        o = self.options
        self.record(
            {"kind": "start", "step": self.step, "steps": o.steps, "series": len(self.train.values),
             "parameters": sum(p.numel() for p in self.named.values()),
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
            torch.manual_seed(o.seed * 1_000_003 + self.step)  # dropout, where a network has some
            loss = recognition_loss(self.network, drawn, o.expect_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self.named.values()), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())

    @torch.no_grad()
    def examine(self) -> float:
        """The loss on the validation part."""
        assert self.exam is not None
        self.network.eval()
        size, rows = self.options.batch, len(self.exam.values)
        spans = [np.arange(at, min(at + size, rows)) for at in range(0, rows, size)]
        losses = [float(recognition_loss(self.network, self.exam.take(s), 0.0)) * len(s) for s in spans]
        return sum(losses) / rows

    def restore_best(self) -> None:
        """Put the best step's values into the network."""
        with torch.no_grad():
            for name, p in self.named.items():
                p.copy_(self.best[name])

    def tuned(self) -> Recogniser:
        """The best network, merged, free of peft."""
        from peft import get_peft_model_state_dict

        self.restore_best()
        stored = get_peft_model_state_dict(self.network)
        tensors = {n.removeprefix("base_model.model."): t.detach().float() for n, t in stored.items()}
        scale = self.options.alpha / self.options.rank
        return lora.merge(self.base.recogniser, tensors, scale, "the trained adapter")


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


def recognition_loss(network: Any, series: Series, expect_weight: float) -> Tensor:
    """Cross entropy with anomalous and quiet steps weighing alike, and likelihood of the quiet ones."""
    observed = torch.from_numpy(np.isfinite(series.values))
    values = torch.from_numpy(np.nan_to_num(series.values))
    label, context = torch.from_numpy(series.label), torch.from_numpy(series.context)
    scaled = scale_by_context(values, observed, context)
    attended = observed.reshape(len(values), -1, PATCH).all(-1)
    found = network(scaled.x, attended, 0)
    usable = observed & attended.repeat_interleave(PATCH, 1)
    loss = torch.zeros(())
    for kind in (FAULTY, QUIET):
        weight = (usable & (label == kind)).float()
        target = torch.full_like(found.logit, float(kind))
        # Half of what is drawn is anomalous; in use few steps are.
        told = F.binary_cross_entropy_with_logits(found.logit + RARE, target, reduction="none")
        loss = loss + (told * weight).sum() / weight.sum().clamp(min=1) / 2
    if expect_weight:
        weight = (usable & (label == QUIET)).float()
        far = ((scaled.x - found.expected) / found.spread).square()
        missed = 2 * torch.log1p(far / 3) + found.spread.log()
        loss = loss + expect_weight * (missed * weight).sum() / weight.sum().clamp(min=1)
    return loss


# -------------------------------------------------------------------------------------------- the verdict


def judge(
    lessons: Sequence[Lesson], shots: Sequence[Shot], tuned: Recogniser, detector: VigilOptions,
    options: FinetuneOptions,
) -> tuple[Verdict, dict[str, Any]]:  # fmt: skip
    """A verdict on the tuned network's evidence; learned on the earlier shots, then checked on the later."""
    seen = []
    for lesson in lessons:
        stream = lora.PooledStream(tuned, detector, "")
        seen.append(stream.push_pooled(lesson.frame.without_labels())[1])
    calm = np.concatenate([rows[lesson.system <= np.quantile(lesson.system, 0.9)]
                           for rows, lesson in zip(seen, lessons, strict=True)])  # fmt: skip
    early, late = (_rows(lessons, seen, [s for s in shots if s.validates == v]) for v in (False, True))
    every = _rows(lessons, seen, shots)
    facts: dict[str, Any] = {
        "shots": len(shots),
        "faulty_shots": sum(s.is_faulty for s in shots),
        "validating_shots": sum(s.validates for s in shots),
    }
    final = learn(*every[:3], calm, _balanced(every))
    if not (late[1].any() and not late[1].all() and early[1].any() and not early[1].all()):
        return final, {**facts, "threshold_from": "no validation part"}
    first = learn(*early[:3], calm, _balanced(early))
    odds = first.odds(late[0])
    slope, shift = correct(odds, late[1], late[3] / late[3].mean())
    weight = slope * final.weight
    weight[-1] += shift
    chance = 1 / (1 + np.exp(-(slope * odds + shift)))
    windows = _windows(chance, lessons, [s for s in shots if s.validates])
    threshold = best_threshold(*windows)
    return replace(final, weight=weight, threshold=threshold), {
        **facts, "threshold_from": "the validation part", "slope": slope, "shift": shift,
    }  # fmt: skip


_Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _rows(lessons: Sequence[Lesson], seen: Sequence[np.ndarray], shots: Sequence[Shot]) -> _Rows:
    """Figures, whether faulty, kind and weight of the shots' rows that count."""
    parts: list[_Rows] = []
    for shot in shots:
        lesson = lessons[shot.lesson]
        assert lesson.frame.labels is not None
        at = np.arange(shot.start, shot.end)
        at = at[lesson.truth[at] != IGNORED]
        kind = lesson.frame.labels.fault_type[at]
        parts.append((seen[shot.lesson][at], lesson.truth[at] == FAULTY, kind, np.full(len(at), shot.weight)))
    if not parts:
        width = seen[0].shape[1]
        return np.zeros((0, width)), np.zeros(0, bool), np.zeros(0, str), np.zeros(0)
    return cast(_Rows, tuple(np.concatenate([part[i] for part in parts]) for i in range(4)))


def _windows(
    chance: np.ndarray, lessons: Sequence[Lesson], shots: Sequence[Shot]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From rows' chances to those of windows, whether faulty, and weight: the level that LASTING rows reach.

    An incident is found when several rows stand out; its faint beginning may stay below the threshold.
    """
    found, at = [], 0
    for shot in shots:
        truth = lessons[shot.lesson].truth[shot.start : shot.end]
        truth = truth[truth != IGNORED]
        own, at = chance[at : at + len(truth)], at + len(truth)
        own = np.sort(own[truth == FAULTY] if shot.is_faulty else own)[::-1]
        if len(own):
            found.append((own[min(LASTING, len(own)) - 1], shot.is_faulty, shot.weight))
    values, faulty, weight = zip(*found, strict=True)
    return np.array(values), np.array(faulty), np.array(weight)


def _balanced(rows: _Rows) -> np.ndarray:
    """Weights in rows, as often as in the recording; neighbours say nearly the same, so a quarter each."""
    weight = rows[3]
    return np.asarray(weight / weight.mean() / 4)
