"""What simulated systems teach before anybody labels anything: kinds of faults, and where they come from.

Systems are invented (5 to 60 services, other graphs, loads, steps, names and columns each), looked at with
the frozen network, and the adapters' verdict is learned on all of them at once. It ships beside the network's
weights, names incidents where nobody taught an adapter, and is what an adapter's few labels begin from.

No system here is Train Ticket or the demo's shop. The faults are the simulator's own, everywhere.

Not here: the verdict's mathematics (models.verdict), its file (models.known).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.errors import ConfigError
from foreshock.frame import Frame
from foreshock.models.figures import service_figure_names
from foreshock.models.judging import AS_LIKELY, FAULTY_SHARE, SETTLED, as_likely, log_odds, look, met_of
from foreshock.models.known import save_known
from foreshock.models.lora import base_sha256
from foreshock.models.reconstruct import moment_detector
from foreshock.models.shots import FAULTY, QUIET, Lesson
from foreshock.models.verdict import (
    FARTHEST,
    Hidden,
    Kinds,
    Roots,
    Verdict,
    among_others,
    beside_others,
    blocks,
    learn_incidents,
    learn_kinds,
    missed,
    untaught,
)
from foreshock.models.vigil import VigilDetector
from foreshock.sources import simulator
from foreshock.sources.simulator import FAULTS
from foreshock.sources.simulator.invented import STEPS_S, draw_dense, invent, monitored

OnStep = Callable[[dict[str, Any]], None]

KINDS = tuple(sorted(FAULTS))
HELD_BACK = 100_000  # seeds of the systems that validate begin here
FAULTY_ROWS, CALM_ROWS = 5, 120  # most rows of an incident, and of a system's quiet rows
HARD = 0.1  # share of the quiet rows that looks worst to zero-shot scoring; a third of those taken
QUIET_ROWS = 256  # before the first fault
CAMPAIGNS = 0.3  # share of unruly recordings that begin with one
EARLY, EARLY_ROWS = 0.4, (8, 256)  # share of systems that have fewer, and how many those have
WEEK_MINUTES = 7 * 24 * 60
LEAST = 0.5  # spread of a service's figure; 0.1: macro F1 0.66 in place of 0.76, docs/log.md 2026-11-26
UNITS, PASSES, AT_ONCE = 96, 20, 12  # hidden units, times all systems are gone through, systems a step
RATE, DECAY = 0.01, 3e-4
ROW_EVIDENCE = 8.0  # rows of evidence that an incident is, to the odds


@dataclass(frozen=True, slots=True)
class SimulatedPlan:
    """How much is simulated."""

    systems: int = 480  # that teach what incidents are called and where they come from
    unruly: int = 360  # less calm ones, which teach what is an incident
    rows: int = 2400  # of each: about 27 faults
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.systems, self.unruly) < 1 or self.rows < 400 or not 0 <= self.seed < HELD_BACK:
            raise ConfigError(
                f"{self.systems} and {self.unruly} systems of {self.rows} rows, seed {self.seed}: needed are "
                f"at least one of each, 400 rows and a seed from 0 to {HELD_BACK - 1}."
            )


def recording(seed: int, rows: int, is_unruly: bool = False) -> Frame:
    """A labelled recording of the system of this seed.

    Args:
        is_unruly: quiet rows are as odd as those of real systems, and faults may come in campaigns.
    """
    system, rng = invent(seed), np.random.default_rng([seed, 14])
    step_s = float(rng.choice(STEPS_S))
    start_ns = simulator.DEMO_START_NS + int(rng.integers(WEEK_MINUTES)) * 60 * 10**9
    steady = bool(rng.random() < 0.3)
    first_row = int(rng.integers(*EARLY_ROWS)) if rng.random() < EARLY else QUIET_ROWS
    faults = draw_dense(system, seed, rows, step_s, first_row, CAMPAIGNS if is_unruly else 0.0)
    frame = simulator.simulate(seed, rows, step_s, faults, system=system, start_ns=start_ns, steady=steady)
    return monitored(frame, seed, is_unruly)


@dataclass(frozen=True, slots=True)
class Sample:
    """n rows of one system: of incidents, and calm ones; S services, G' of their figures."""

    services: np.ndarray  # (n, S, G') float32
    columns: np.ndarray  # (G',) which these are
    figures: np.ndarray  # (n, F) of the system
    root: np.ndarray  # (n,) place among the services, -1 where calm or not watched
    kind: np.ndarray  # (n,) place in KINDS, -1 where calm
    incident: np.ndarray  # (n,) which one of the system's, -1 where calm
    weight: np.ndarray  # (n,) each incident counts 1, all calm rows as much as all incidents


def sample(lesson: Lesson, seed: int) -> Sample | None:
    """Rows that teach; None where no fault can be seen."""
    labels, rng = lesson.frame.labels, np.random.default_rng([seed, 15])
    assert labels is not None
    names, rows, root, kind, incident = lesson.frame.services, [], [], [], []
    for number in np.unique(labels.fault_id[labels.fault_id >= 0]):
        own = np.flatnonzero((labels.fault_id == number) & (lesson.truth == FAULTY))
        if not len(own):
            continue
        own = own[np.unique(np.linspace(0, len(own) - 1, min(len(own), FAULTY_ROWS)).astype(int))]
        cause = str(labels.root_cause[own[0]])
        rows += own.tolist()
        root += [names.index(cause) if cause in names else -1] * len(own)
        kind += [KINDS.index(str(labels.fault_type[own[0]]))] * len(own)
        incident += [int(number)] * len(own)
    quiet = np.flatnonzero(lesson.truth == QUIET)
    quiet = quiet[quiet >= SETTLED]
    if not rows or not len(quiet):
        return None
    order = quiet[np.argsort(-lesson.system[quiet], kind="stable")]
    cut = max(1, round(HARD * len(order)))
    calm, weight = [], []
    for pool, most in ((order[:cut], CALM_ROWS // 3), (order[cut:], CALM_ROWS - CALM_ROWS // 3)):
        some = rng.choice(pool, min(most, len(pool)), replace=False)
        calm += some.tolist()
        weight += [len(pool) / len(quiet) / len(some)] * len(some)
    _, place, count = np.unique(incident, return_inverse=True, return_counts=True)
    share, none = 1 / count[place], [-1] * len(calm)
    at = np.array([*rows, *calm])
    return Sample(
        lesson.services[at], lesson.columns, lesson.figures[at], np.array(root + none), np.array(kind + none),
        np.array(incident + none), np.concatenate([share, np.array(weight) * len(count)]),
    )  # fmt: skip


def learn(samples: Sequence[Sample], passes: int = PASSES, seed: int = 0) -> Verdict:
    """A verdict that names kinds and roots and leaves finding incidents to the zero-shot score."""
    spread = _spread(samples)
    roots = as_likely(_learn_roots(samples, untaught(len(KINDS), spread), passes, seed), FAULTY_SHARE)
    met = np.concatenate([met_of(one.figures, one.services, one.columns, roots) for one in samples])
    is_faulty = np.concatenate([one.incident >= 0 for one in samples])
    weight = np.concatenate([one.weight for one in samples])
    center, scale, odds = learn_incidents(met, is_faulty, weight * ROW_EVIDENCE, met[~is_faulty])
    odds[-1] += log_odds(FAULTY_SHARE)
    faults = _kinds(samples, met[:, -3 * len(spread) :])
    return Verdict(center, scale, odds, roots, faults, AS_LIKELY, detects=False)


def _spread(samples: Sequence[Sample]) -> np.ndarray:
    """(G,) of services' figures over calm rows."""
    total, rows = np.zeros(len(service_figure_names())), 0
    for one in samples:
        calm = one.services[one.incident < 0].astype(float)
        total[one.columns] += (calm**2).sum((0, 1))
        rows += calm.shape[0] * calm.shape[1]
    return np.maximum(np.sqrt(total / rows), LEAST)


def _kinds(samples: Sequence[Sample], met: np.ndarray) -> Kinds:
    kind = np.concatenate([one.kind for one in samples])
    number = np.concatenate([one.incident + 1000 * i for i, one in enumerate(samples)])
    told = kind >= 0
    return learn_kinds(KINDS, met[told], kind[told], number[told])


def _learn_roots(samples: Sequence[Sample], start: Roots, passes: int, seed: int) -> Roots:
    """As `verdict.learn_roots`, with hidden units, some systems a step: all at once would not fit."""
    every, count = len(start.spread), len(start.by_kind)
    parts = [_part(one, start.spread) for one in samples]
    share = sum(float(one.weight.sum()) for one in samples) / len(samples)
    rng, make = np.random.default_rng([seed, 16]), torch.Generator().manual_seed(seed)
    inward = torch.randn(UNITS, 3 * every + 1, generator=make) / np.sqrt(3 * every)
    outward = 0.01 * torch.randn(count, UNITS, generator=make)
    first = [torch.from_numpy(one).float() for one in (start.weight, start.by_kind)]
    weights = [one.clone().requires_grad_() for one in (*first, inward, outward)]
    shared, by_kind, inward, outward = weights
    steps = passes * -(-len(parts) // AT_ONCE)
    rule = torch.optim.Adam(weights, RATE)
    course = torch.optim.lr_scheduler.OneCycleLR(rule, RATE, total_steps=steps)
    for _ in range(passes):
        order = rng.permutation(len(parts))
        for at in range(0, len(parts), AT_ONCE):
            some = order[at : at + AT_ONCE]
            lost = torch.stack([parts[i](shared, by_kind, inward, outward) for i in some]).sum()
            away = sum(
                (one - origin).square().sum() for one, origin in zip((shared, by_kind), first, strict=True)
            )
            pull = DECAY / 2 * (away + inward.square().sum() + outward.square().sum())
            rule.zero_grad()
            (lost / share / len(some) + pull).backward()
            rule.step()
            course.step()
    found = [one.detach().double().numpy() for one in weights]
    return replace(start, weight=found[0], by_kind=found[1], hidden=Hidden(found[2], found[3]))


def _part(one: Sample, spread: np.ndarray) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """What the weights miss on the rows of one system."""
    size = np.minimum(one.services / spread[one.columns].astype(np.float32), FARTHEST)
    seen = torch.from_numpy(among_others(size, beside_others(size)))  # own, of others, mean
    few, every = len(one.columns), len(spread)
    pairs = torch.from_numpy(blocks(one.columns, every, 2))
    more = torch.from_numpy(np.append(blocks(one.columns, every, 3), 3 * every))
    weight = torch.from_numpy(one.weight).float()
    is_right = np.zeros((*seen.shape[:2], len(KINDS)), bool)
    for row in np.flatnonzero(one.incident >= 0):
        is_right[row, slice(None) if one.root[row] < 0 else one.root[row], one.kind[row]] = True
    wrong, calm = torch.from_numpy(~is_right), torch.from_numpy(one.incident < 0)
    fewer = float(np.log(seen.shape[1]))

    def missed_here(shared: Tensor, by_kind: Tensor, inward: Tensor, outward: Tensor) -> Tensor:
        way, inner = by_kind[:, more], inward[:, more]
        own, beside = shared[pairs[:few]], shared[pairs[few:]]
        # A service's figures, and how far they exceed those of all others, in one product with the rest.
        straight = way[:, :-1] + torch.cat([own + beside, -beside, torch.zeros_like(own)])
        odds = seen @ straight.T + way[:, -1] - fewer
        odds = odds + torch.relu(seen @ inner[:, :-1].T + inner[:, -1]) @ outward.T
        return missed(odds, wrong, calm, weight)

    return missed_here


def teach(
    plan: SimulatedPlan,
    model: str,
    folder: Path,
    cache: Path,
    held_back: int = 20,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Learn the verdict of a checkpoint and write it into a folder; gives the record of how well it does.

    Args:
        cache: what was seen of each system lies here, so that a run that was stopped goes on.
        held_back: systems that it is judged on and does not learn from.
        on_step: is told each line of the record.
    """
    began = time.process_time()
    detector = _detector(model)
    facts: dict[str, Any] = {
        **asdict(plan), "kinds": list(KINDS),
        "learned_from": "simulated systems; none of them is Train Ticket or the demo's shop",
    }  # fmt: skip

    def of(seeds: Sequence[int], is_unruly: bool) -> list[Sample]:
        return _samples(seeds, plan.rows, is_unruly, detector, cache, on_step)

    calm, unruly = (
        of(range(plan.seed, plan.seed + count), is_unruly)
        for count, is_unruly in ((plan.systems, False), (plan.unruly, True))
    )
    facts |= {"faults": sum(map(_count, calm)), "unruly_faults": sum(map(_count, unruly))}
    verdict, finder = learn(calm), learn(unruly)
    save_known(verdict, finder, model, facts, folder)
    seeds = range(HELD_BACK, HELD_BACK + held_back)
    record = {
        "kind": "simulated_verdict", "base_sha256": base_sha256(model), **facts, "held_back": held_back,
        **judged(verdict, of(seeds, is_unruly=False)),
        "finder": judged(finder, of(seeds, is_unruly=True)),
        "cpu_s": round(time.process_time() - began, 1), "threads": torch.get_num_threads(),
    }  # fmt: skip
    if on_step is not None:
        on_step(record)
    return record


def judged(verdict: Verdict, samples: Sequence[Sample]) -> dict[str, Any]:
    """How the faults of other systems are named, and where their root stands, told the rows of each."""
    true, named, chance, rank = [], [], [], []
    for one in samples:
        here = verdict.narrow(one.columns)
        _, kinds, roots = here.read(one.figures, one.services)
        for number in np.unique(one.incident[one.incident >= 0]):
            rows = one.incident == number
            mean = kinds[rows].mean(0)
            true.append(int(one.kind[rows][0]))
            named.append(KINDS.index(verdict.kinds[int(mean.argmax())]))
            chance.append(float(mean.max()))
            order = np.argsort(-roots[rows].mean(0), kind="stable").tolist()
            rank.append(order.index(one.root[rows][0]) + 1 if one.root[rows][0] >= 0 else 0)
    right, told = np.array(true) == np.array(named), np.array(chance) >= verdict.sure
    known = np.array(rank)[np.array(rank) > 0]
    return {
        "judged_faults": len(true), "macro_f1": round(macro_f1(true, named), 4), "right": int(right.sum()),
        "told": int(told.sum()), "told_right": int((told & right).sum()), "roots": len(known),
        "root_first": int((known == 1).sum()), "root_in_three": int((known <= 3).sum()),
    }  # fmt: skip


def macro_f1(true: Sequence[Any], named: Sequence[Any]) -> float:
    """Mean over the kinds that occur, numbers or names; 0 where none does."""
    pairs = list(zip(true, named, strict=True))
    each = [
        2 * sum(t == n == kind for t, n in pairs) / sum((t == kind) + (n == kind) for t, n in pairs)
        for kind in sorted(set(true))
    ]
    return float(np.mean(each)) if each else 0.0


def _detector(model: str) -> VigilDetector:
    detector = moment_detector("foreshock", model)
    if not isinstance(detector, VigilDetector):
        raise ConfigError(f"{model} has no heads of recognition; a verdict needs them. Take nano.")
    return detector


def _samples(
    seeds: Sequence[int], rows: int, is_unruly: bool, detector: VigilDetector, cache: Path,
    on_step: OnStep | None,
) -> list[Sample]:  # fmt: skip
    """What was seen of the systems of these seeds, where a fault can be."""
    weights, out = str(detector.facts["weights_sha256"])[:12], []
    cache.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        path = cache / f"{weights}-{rows}-{seed}{'-unruly' if is_unruly else ''}.npz"
        if not path.exists():
            began = time.process_time()
            lesson = look(recording(seed, rows, is_unruly), detector.recogniser, detector.options)
            _keep(sample(lesson, seed), path)
            if on_step is not None:
                spent = round(time.process_time() - began, 2)
                kind = {"kind": "system", "seed": seed, "is_unruly": is_unruly}
                on_step({**kind, "kpis": len(lesson.frame.kpis), "cpu_s": spent})
        out.append(_kept(path))
    return [one for one in out if one is not None]


def _keep(one: Sample | None, path: Path) -> None:
    part = path.with_suffix(".part.npz")
    np.savez(part, **({} if one is None else {name: getattr(one, name) for name in Sample.__slots__}))
    part.replace(path)


def _kept(path: Path) -> Sample | None:
    with np.load(path) as file:
        return Sample(**{name: file[name] for name in Sample.__slots__}) if file.files else None


def _count(one: Sample | None) -> int:
    return 0 if one is None else len(np.unique(one.incident[one.incident >= 0]))
