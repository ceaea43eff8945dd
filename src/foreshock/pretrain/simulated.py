"""What simulated systems teach before anybody labels anything: kinds of faults, and which service they come from.

Systems are invented (5 to 60 services, other graphs, loads, steps, names and columns each), looked at with
the frozen network, and the adapters' verdict is learned on all of them at once. It ships beside the network's
weights, names incidents where nobody taught an adapter, and is what an adapter's few labels begin from.

No system here is Train Ticket or the demo's shop. The faults are the simulator's own, everywhere.

Not here: the verdict's mathematics (models.verdict), its file (models.known).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.errors import ConfigError
from foreshock.frame import Frame
from foreshock.models.figures import service_figure_names
from foreshock.models.judging import AS_LIKELY, FAULTY_SHARE, as_likely, log_odds, look, met_of
from foreshock.models.shots import FAULTY, QUIET, Lesson
from foreshock.models.verdict import (
    FARTHEST,
    KIND_RIDGE,
    LEAST_SPREAD,
    ROOT_RIDGE,
    SHARE_RIDGE,
    Kinds,
    Roots,
    Verdict,
    among_others,
    beside_others,
    blocks,
    descend,
    learn_incidents,
    learn_kinds,
    untaught,
)
from foreshock.sources import simulator
from foreshock.sources.simulator import FAULTS
from foreshock.sources.simulator.invented import STEPS_S, draw_dense, invent, monitored

KINDS = tuple(sorted(FAULTS))
HELD_BACK = 100_000  # seeds of the systems that validate begin here
WARM_ROWS = 128  # in which a stream has little past
FAULTY_ROWS, CALM_ROWS = 5, 120  # most rows of an incident, and of a system's quiet rows
HARD = 0.1  # share of the quiet rows that looks worst to zero-shot scoring; a third of those taken
WEEK_MINUTES = 7 * 24 * 60
LEAST = 0.5  # spread of a service's figure; 0.1: macro F1 0.66 in place of 0.76, docs/log.md 2026-11-26
ROW_EVIDENCE = 8.0  # rows of evidence that an incident is, to the odds


@dataclass(frozen=True, slots=True)
class SimulatedPlan:
    """How much is simulated."""

    systems: int = 160
    rows: int = 2400  # of each: about 27 faults
    seed: int = 0

    def __post_init__(self) -> None:
        if self.systems < 1 or self.rows < 400 or not 0 <= self.seed < HELD_BACK:
            raise ConfigError(
                f"{self.systems} systems of {self.rows} rows, seed {self.seed}: needed are at least one system, "
                f"400 rows and a seed from 0 to {HELD_BACK - 1}."
            )


def recording(seed: int, rows: int) -> Frame:
    """A labelled recording of the system of this seed."""
    system, rng = invent(seed), np.random.default_rng([seed, 14])
    step_s = float(rng.choice(STEPS_S))
    start_ns = simulator.DEMO_START_NS + int(rng.integers(WEEK_MINUTES)) * 60 * 10**9
    faults = draw_dense(system, seed, rows, step_s)
    steady = bool(rng.random() < 0.3)
    frame = simulator.simulate(seed, rows, step_s, faults, system=system, start_ns=start_ns, steady=steady)
    return monitored(frame, seed)


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
    quiet = quiet[quiet >= WARM_ROWS]
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


def learn(samples: Sequence[Sample]) -> Verdict:
    """A verdict that names kinds and roots and leaves finding incidents to the zero-shot score."""
    spread = _spread(samples)
    roots = as_likely(_learn_roots(samples, untaught(len(KINDS), spread)), FAULTY_SHARE)
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
    return np.maximum(np.sqrt(total / rows), max(LEAST, LEAST_SPREAD))


def _kinds(samples: Sequence[Sample], met: np.ndarray) -> Kinds:
    kind = np.concatenate([one.kind for one in samples])
    number = np.concatenate([one.incident + 1000 * i for i, one in enumerate(samples)])
    told = kind >= 0
    return learn_kinds(KINDS, met[told], kind[told], number[told])


def _learn_roots(samples: Sequence[Sample], start: Roots) -> Roots:
    """As `verdict.learn_roots`, a system at a time: all at once would not fit into memory."""
    every, count = len(start.spread), len(start.by_kind)
    first = np.concatenate([start.weight, start.by_kind.ravel()])
    parts = [_part(one, start.spread) for one in samples]
    pull = np.concatenate([np.full(2 * every, ROOT_RIDGE), np.full(start.by_kind.size, KIND_RIDGE)])
    pull[2 * every :].reshape(count, -1)[:, -1] = SHARE_RIDGE
    ridge, origin = torch.from_numpy(pull), torch.from_numpy(first)

    def loss(w: Tensor) -> Tensor:
        shared, by_kind = w[: 2 * every].float(), w[2 * every :].reshape(count, -1).float()
        missed = torch.stack([part(shared, by_kind) for part in parts]).double().sum()
        return missed + (ridge * (w - origin).square()).sum() / 2

    found = descend(loss, first)
    return replace(start, weight=found[: 2 * every], by_kind=found[2 * every :].reshape(count, -1))


def _part(one: Sample, spread: np.ndarray) -> Callable[[Tensor, Tensor], Tensor]:
    """What the weights miss on the rows of one system."""
    size = np.minimum(one.services / spread[one.columns].astype(np.float32), FARTHEST)
    seen = torch.from_numpy(among_others(size, beside_others(size)))  # own, of others, mean
    few, every = len(one.columns), len(spread)
    pairs = torch.from_numpy(blocks(one.columns, every, 2))
    more = torch.from_numpy(np.append(blocks(one.columns, every, 3), 3 * every))
    is_calm, weight = torch.from_numpy(one.incident < 0), torch.from_numpy(one.weight).float()
    place, faulty = torch.from_numpy(one.root), torch.from_numpy(np.flatnonzero(one.incident >= 0))
    kind = torch.from_numpy(one.kind)[faulty]
    fewer = float(np.log(seen.shape[1]))

    def missed(shared: Tensor, by_kind: Tensor) -> Tensor:
        (own, beside), way = shared[pairs].split(few), by_kind[:, more]
        # A service's figures, and how far they exceed those of all others, in one product with the rest.
        weights = way[:, :-1] + torch.cat([own + beside, -beside, torch.zeros_like(own)])
        odds = seen @ weights.T + way[:, -1] - fewer
        of_all = torch.nn.functional.softplus(odds.flatten(1).logsumexp(1))
        of_kind = odds[faulty].gather(2, kind[:, None, None].expand(-1, odds.shape[1], 1))[..., 0]
        at_root = of_kind.gather(1, place[faulty].clamp(min=0)[:, None])[:, 0]
        right = torch.where(place[faulty] >= 0, at_root, of_kind.logsumexp(1))
        return (weight * of_all).sum() - (weight[faulty] * right).sum()

    return missed


def lessons(plan: SimulatedPlan, detector: Any, first: int) -> Iterator[tuple[int, Lesson]]:
    """Recordings looked at with the detector's network, from the seed `first` on."""
    for seed in range(first, first + plan.systems):
        yield seed, look(recording(seed, plan.rows), detector.recogniser, detector.options)
