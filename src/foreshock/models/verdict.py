"""From the figures of a row to the probability of an incident, its kind and the service it came from.

Two small models, learned from labels: a softmax over "all is calm" and all pairs of a service and a kind says
which service an incident comes from, of which kind it is, and whether there is one, by the figures of that
service, of the others and of all; one weight for each figure, the same for all services. And a logistic
regression on the system's figures, and on what is around that service, says whether there is an incident,
too; the mean of their log odds counts. Each is pulled towards what is known without labels, so that few of
them move little.

Not here: the figures (figures), choosing what to learn from (judging), files (lora).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.errors import WeightsError
from foreshock.models.figures import OTHER, QUANTITIES, SYSTEM, figure_names, service_figure_names
from foreshock.models.signals import NEWEST, WAYS
from foreshock.models.vigil import USUAL
from foreshock.scores import SURE, UNKNOWN

CALM = -4.0  # log odds of an incident where nothing stirs, before any label
LEAST_SPREAD = 0.1  # of a service's figure: one that never moves in quiet rows is not believed without end
FARTHEST = 10.0  # spreads
REACH = 2.0  # times the usual distance within a kind up to which an incident may be of it
SHARE = 0.5  # of what simulated systems taught in the score of rows nobody labelled; docs/log.md, 2026-11-28
LEARNED_ROWS = 256  # of past at which it has half of that share
SURELY = 4.0  # score of what they taught above which it counts no more: a probability of 94 %
LEARNED_KPIS = range(16, 436)  # tables in which it has any, as those it learned on; docs/log.md
SELDOM, AT_MOST = 0.2, -2.0  # share of rows whose odds are higher, and how high that is where it knows calm
# How far a row moves the level that such a share exceeds: the first, at which row half as far, in the end.
FIRST_STEP, STEPS_HALVED, LEAST_STEP = 1.0, 16, 0.02


@dataclass(frozen=True, slots=True)
class Ridge:
    """Pull of weights towards what they begin from: those of kinds and roots in incidents."""

    root: float = 1.0  # of what points at a root, whatever the kind
    own: float = 3.0  # of a service's own figures, for a kind
    others: float = 3.0  # of those of the others and of all
    share: float = 0.05  # of how common a kind is
    odds: float = 60.0  # of the odds of an incident, in rows of evidence


# From nothing; and from what thousands of simulated incidents taught, where a few labels should correct what
# they speak of, and not how other services take it. How high quiet rows go is best learned where they are:
# docs/log.md, 2026-11-26 and 27.
UNTAUGHT, TAUGHT = Ridge(), Ridge(root=100.0, own=100.0, others=1000.0, share=30.0, odds=20.0)


@dataclass(frozen=True, slots=True)
class Hidden:
    """What many systems taught of figures that say something only together: H units before the kinds."""

    inward: np.ndarray  # (H, 3 G + 1) from a service's figures, the others' and all, the constant last
    outward: np.ndarray  # (C, H) to each kind

    def narrow(self, columns: np.ndarray) -> Hidden:
        every = self.inward.shape[1] // 3
        return Hidden(self.inward[:, np.concatenate([blocks(columns, every, 3), [3 * every]])], self.outward)

    def odds(self, seen: np.ndarray) -> np.ndarray:
        """Figures `among_others` (n, S, 3 G) → log odds (n, S, C)."""
        inward, outward = self.inward.astype(seen.dtype), self.outward.astype(seen.dtype)
        return product(np.maximum(product(seen, inward[:, :-1]) + inward[:, -1], 0), outward)


@dataclass(frozen=True, slots=True)
class Roots:
    """What points at the service that an incident comes from, and at its kind; G figures of a service."""

    spread: np.ndarray  # (G,) of each figure over quiet rows, above 0
    weight: np.ndarray  # (2 G,) of a service's figures, and of how far they exceed those of all others
    by_kind: np.ndarray  # (C or 1, 3 G + 1) more of a service's, of the others' and of all, if of a kind
    hidden: Hidden | None = None  # of what was learned elsewhere; labels leave it as it is

    def narrow(self, columns: np.ndarray) -> Roots:
        """For a deployment that has only these of the figures."""
        every = len(self.spread)
        by_kind = self.by_kind[:, np.concatenate([blocks(columns, every, 3), [3 * every]])]
        hidden = None if self.hidden is None else self.hidden.narrow(columns)
        return Roots(self.spread[columns], self.weight[blocks(columns, every, 2)], by_kind, hidden)

    def read(self, services: np.ndarray) -> Told:
        """What figures (n, S, G) of services say."""
        size = np.minimum(services / self.spread.astype(services.dtype), FARTHEST)
        pairs, more = beside_others(size), self.by_kind.astype(services.dtype)
        odds = (pairs @ self.weight.astype(services.dtype))[:, :, None]
        seen = among_others(size, pairs)
        odds = odds + (product(seen, more[:, :-1]) + more[:, -1])
        if self.hidden is not None:
            odds = odds + self.hidden.odds(seen)
        flat = odds.reshape(len(odds), odds.shape[1] * odds.shape[2])
        most = flat.max(1)
        sure = most + np.log(np.exp(flat - most[:, None]).sum(1))
        chance = np.exp(odds - sure[:, None, None])
        roots = chance.sum(2)
        # As if there were one service: the more there are, the likelier one of them stirs by chance.
        return Told(roots, chance.sum(1), around(size, roots), sure - np.log(services.shape[1]))


@dataclass(frozen=True, slots=True)
class Told:
    """What the figures of services say of n rows, if there is an incident, and the odds that there is one."""

    roots: np.ndarray  # (n, S) chances
    kinds: np.ndarray  # (n, C) chances; a single column where no kind is known
    met: np.ndarray  # (n, 3 G) what is around the likely root
    odds: np.ndarray  # (n,) log odds


@dataclass(frozen=True, slots=True)
class Origins:
    """m labelled rows: from which service an incident comes and of which kind it is, or that all is calm."""

    services: tuple[np.ndarray, ...]  # m of (S, G) figures
    root: np.ndarray  # (m,) place among the services, -1 where not told
    kind: np.ndarray  # (m,) place among the kinds, -1 where not told
    incident: np.ndarray  # (m,) which one, -1 where all is calm
    shot: np.ndarray  # (m,) of calm rows, which window they are of
    weight: np.ndarray  # (m,) of calm rows, how many windows each stands for

    def take(self, some: np.ndarray) -> Origins:
        """Those at some places."""
        return Origins(
            tuple(self.services[int(i)] for i in some), self.root[some], self.kind[some],
            self.incident[some], self.shot[some], self.weight[some],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kinds:
    """What tells kinds of faults apart; C of them."""

    names: tuple[str, ...]  # sorted
    center: np.ndarray  # (C, 3 G) the middle of each kind's incidents
    reach: np.ndarray  # (C,) distance from it beyond which an incident is of no known kind

    def narrow(self, columns: np.ndarray) -> Kinds:
        kept = blocks(columns, self.center.shape[1] // 3, 3)
        return Kinds(self.names, self.center[:, kept], self.reach)

    def chances(self, told: np.ndarray, met: np.ndarray) -> np.ndarray:
        """Chances (n, C) less what is of no known kind, by what is around the root (n, 3 G)."""
        if not self.names:
            return np.zeros((len(met), 0), np.float32)
        apart = np.stack([distance_from(met, middle) for middle in self.center], 1)
        return np.asarray(told * np.clip(2 - apart / self.reach, 0, 1))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was learned from labels; F figures of the system."""

    center: np.ndarray  # (F + 3 G,) of each figure, over quiet rows
    spread: np.ndarray  # (F + 3 G,) above 0
    weight: np.ndarray  # (F + 3 G + 1,) of the log odds of an incident, the constant last
    roots: Roots
    faults: Kinds
    threshold: float  # probability from which a row counts as an incident
    sure: float = SURE  # probability below which no kind is named
    detects: bool = True  # False: labels were too few to find incidents better than the zero-shot score
    usual: float | None = None  # threshold of the zero-shot score that counts beside the odds, if it does

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of faults it knows."""
        return self.faults.names

    @property
    def level(self) -> float:
        """The score from which a row counts as an incident."""
        return float(score_of(np.log(self.threshold / (1 - self.threshold))))

    def weighed(self, odds: np.ndarray, zero_shot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The system's score (T,) of rows with these log odds, and what labels alone say: both float32.

        Args:
            zero_shot: (T,) of the same rows and the same network; NaN where nothing was observed.
        """
        taught = np.where(np.isfinite(zero_shot), score_of(odds), np.nan)
        system = taught if self.usual is None else agreed(taught, self.level, zero_shot, self.usual)
        return system.astype(np.float32), taught.astype(np.float32)

    def narrow(self, columns: np.ndarray) -> Verdict:
        """For a deployment that has only these of a service's figures."""
        count, every = len(figure_names()), len(self.roots.spread)
        kept = np.concatenate([np.arange(count), count + blocks(columns, every, 3)])
        return replace(
            self, center=self.center[kept], spread=self.spread[kept],
            weight=self.weight[np.concatenate([kept, [len(self.weight) - 1]])],
            roots=self.roots.narrow(columns), faults=self.faults.narrow(columns),
        )  # fmt: skip

    def read(self, rows: np.ndarray, services: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Figures (n, F) and those of services (n, S, G) → log odds (n,), kinds (n, C), roots (n, S)."""
        told = self.roots.read(services)
        odds = (self.odds(np.concatenate([rows, told.met], 1)) + told.odds) / 2
        return odds, self.faults.chances(told.kinds, told.met), told.roots

    def odds(self, met: np.ndarray) -> np.ndarray:
        """Log odds by the figures of the system and around the root (n, F + 3 G) alone."""
        return np.asarray(scaled(met, self.center, self.spread) @ self.weight)

    def name(self, chances: np.ndarray) -> str:
        """The kind that rows (n, C) of one incident speak for, or "unknown"."""
        return self.named(chances)[0]

    def named(self, chances: np.ndarray) -> tuple[str, float]:
        """The same, and how likely the likeliest kind is, told or not."""
        if chances.size == 0:
            return UNKNOWN, 0.0
        mean = np.nanmean(np.atleast_2d(chances), 0)
        chance = float(mean.max())
        return self.kinds[int(mean.argmax())] if chance >= self.sure else UNKNOWN, chance

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        arrays = {n: np.asarray(a).tolist() for n, a in self._arrays().items()}
        return {"figures": _all_names(), "kinds": list(self.kinds), **arrays,
                "threshold": self.threshold, "sure": self.sure, "detects": self.detects,
                "usual": self.usual}  # fmt: skip

    def _arrays(self) -> dict[str, np.ndarray]:
        hidden = self.roots.hidden
        more = {} if hidden is None else {"hidden_inward": hidden.inward, "hidden_outward": hidden.outward}
        return more | {
            "center": self.center, "spread": self.spread, "weight": self.weight,
            "root_spread": self.roots.spread, "root_weight": self.roots.weight,
            "kind_weight": self.roots.by_kind, "kind_center": self.faults.center,
            "kind_reach": self.faults.reach,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], place: str) -> Verdict:
        """The way back.

        Raises:
            WeightsError: something is missing, or the figures are not those of this version.
        """
        try:
            if list(raw["figures"]) != _all_names():
                raise WeightsError(
                    f"{place} was learned on other figures than this version computes; adapt again."
                )
            kinds = tuple(map(str, raw["kinds"]))
            every, many = len(service_figure_names()), len(kinds)
            count = len(figure_names()) + 3 * every
            shapes = {
                "center": (count,), "spread": (count,), "weight": (count + 1,), "root_spread": (every,),
                "root_weight": (2 * every,), "kind_weight": (max(many, 1), 3 * every + 1),
                "kind_center": (many, 3 * every), "kind_reach": (many,),
            }  # fmt: skip
            if "hidden_inward" in raw:
                units = len(raw["hidden_inward"])
                shapes |= {"hidden_inward": (units, 3 * every + 1), "hidden_outward": (many, units)}
            a = {n: np.array(raw[n], np.float64).reshape(shape) for n, shape in shapes.items()}
            for name, array in a.items():
                if not np.isfinite(array).all():
                    raise WeightsError(f"{place}: {name} must be finite numbers; adapt again.")
            usual = None if raw.get("usual") is None else float(raw["usual"])
            if usual is not None and not 0 < usual < np.inf:
                raise WeightsError(f"{place}: usual is {usual}, and must be above 0; adapt again.")
            hidden = Hidden(a["hidden_inward"], a["hidden_outward"]) if "hidden_inward" in a else None
            return cls(
                a["center"], a["spread"], a["weight"],
                Roots(a["root_spread"], a["root_weight"], a["kind_weight"], hidden),
                Kinds(kinds, a["kind_center"], a["kind_reach"]),
                float(raw["threshold"]), float(raw["sure"]), bool(raw["detects"]), usual,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{place} is not a whole adapter ({error!r}); adapt again.") from error


def _all_names() -> list[str]:
    return [*figure_names(), *(f"service:{name}" for name in service_figure_names())]


def blocks(columns: np.ndarray, every: int, count: int) -> np.ndarray:
    """The places of some columns in `count` runs of `every` each."""
    return np.concatenate([columns + i * every for i in range(count)])


def score_of(odds: np.ndarray) -> np.ndarray:
    """Log odds as a score: -log2(1 - p), so 0 is calm, 1 is as likely as not, and it grows on."""
    return np.asarray(np.logaddexp(0, odds) / np.log(2))


def agreed(score: np.ndarray, level: float, zero_shot: np.ndarray, usual: float) -> np.ndarray:
    """(T,) what labels say and what is seen without any, together.

    Their mean, each in units of its threshold, and again so that `level` is the threshold: false alarms of
    the one are seldom those of the other. Event F1 with 100 windows, labels alone and so: simulated systems
    0.954 and 0.958, labelled servers 0.53 and 0.58, 0.52 and 0.55; docs/log.md, 2026-11-28.

    Args:
        score: (T,) as `score_of` gives it; NaN stays NaN. level: its threshold.
        zero_shot: (T,) of the same rows. usual: its threshold.
    """
    return np.asarray(level * (score / level + np.nan_to_num(zero_shot) / usual) / 2)


class Seldom:
    """Odds of an incident less what every fifth row so far exceeds: what is often so is no incident.

    A deployment unlike all that simulated systems had can look to them like one incident, for hours.
    """

    def __init__(self) -> None:
        self.level, self.rows = AT_MOST, 0  # the level steps towards that quantile, by less and less

    def push(self, odds: np.ndarray) -> np.ndarray:
        """The next rows' log odds (n,) → (n,); none is judged by a later one."""
        out = np.empty(len(odds))
        for i, one in enumerate(odds):
            out[i] = one - max(self.level - AT_MOST, 0.0)
            step = max(LEAST_STEP, FIRST_STEP / (1 + self.rows / STEPS_HALVED))
            self.level += step * ((1 - SELDOM) if one > self.level else -SELDOM)
            self.rows += 1
        return out


def backed(zero_shot: np.ndarray, odds: np.ndarray, past: np.ndarray, kpis: int) -> np.ndarray:
    """(T,) the zero-shot score, with what simulated systems taught beside it; thresholds are as without.

    Evidence tells what a KPI never did, a verdict what incidents look like over services: their false alarms
    are seldom the same. In a recording's first rows a verdict errs most, as levels are not known yet.

    Args:
        zero_shot: (T,); NaN where nothing was observed.
        odds: (T,) log odds of an incident, as `Seldom` gives them.
        past: (T,) rows of the stream before each.
        kpis: how many the table has.
    """
    if kpis not in LEARNED_KPIS:
        return zero_shot
    share = SHARE * past / (past + LEARNED_ROWS)
    taught = USUAL.over(kpis).high * np.minimum(score_of(odds), SURELY)
    return np.asarray((1 - share) * zero_shot + share * taught)


def probability_of(score: np.ndarray | float) -> np.ndarray:
    """The way back from `score_of`."""
    return np.asarray(1 - np.exp2(-np.asarray(score, np.float64)))


def kind_of_rows(kinds: np.ndarray, names: Sequence[str], inside: np.ndarray) -> list[str | None]:
    """The kind of each row of an incident, "unknown" where unsure; None outside of incidents."""
    if not names:
        return [UNKNOWN if is_inside else None for is_inside in inside]
    best = np.nan_to_num(kinds).argmax(1)
    sure = np.nan_to_num(kinds).max(1) >= SURE
    return [(names[b] if s else UNKNOWN) if i else None for b, s, i in zip(best, sure, inside, strict=True)]


# ---------------------------------------------------------------------------------- what the models read


def scaled(rows: np.ndarray, center: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(n, F) → (n, F + 1), in spreads, within ±FARTHEST, a constant last."""
    x = np.clip((rows - center) / spread, -FARTHEST, FARTHEST)
    return np.concatenate([x, np.ones((len(x), 1))], 1)


def beside_others(services: np.ndarray) -> np.ndarray:
    """(n, S, G) → (n, S, 2 G): each service's figures, and how far they exceed the highest of all others."""
    highest = services.max(1, keepdims=True)
    is_first = services == highest
    second = np.where(is_first, -np.inf, services).max(1, keepdims=True)
    is_alone = (is_first.sum(1, keepdims=True) == 1) & np.isfinite(second)
    others = np.where(is_first & is_alone, second, highest)
    return np.concatenate([services, services - others], 2)


def among_others(services: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(n, S, G), and of them `beside_others` → (n, S, 3 G): each service, the most of any other, the mean."""
    count = services.shape[2]
    mean = np.broadcast_to(services.mean(1, keepdims=True), services.shape)
    return np.concatenate([services, services - pairs[:, :, count:], mean], 2)


def product(seen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n, S, F) by weights (C, F) → (n, S, C), as one product in place of n."""
    flat = seen.reshape(-1, seen.shape[-1]) @ weights.T
    return np.asarray(flat.reshape(*seen.shape[:-1], len(weights)))


def around(services: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """(n, S, G) and root chances (n, S) → (n, 3 G): likely root, most of any other, mean of all."""
    root = np.einsum("nsg,ns->ng", services, roots)
    others = (services * (1 - roots)[:, :, None]).max(1)
    return np.concatenate([root, others, services.mean(1)], 1)


def softmax(odds: np.ndarray) -> np.ndarray:
    """Shares along the last axis."""
    grown = np.exp(odds - odds.max(-1, keepdims=True))
    return np.asarray(grown / grown.sum(-1, keepdims=True))


def distance_from(met: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """(n,) root of the sum of squares."""
    return np.asarray(np.sqrt(((met - middle) ** 2).sum(-1)))


# ------------------------------------------------------------------------------------------- learning


def learn_incidents(
    met: np.ndarray,
    is_faulty: np.ndarray,
    weight: np.ndarray,
    quiet: np.ndarray,
    known: Verdict | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Center, spread and weights of the log odds of an incident.

    Args:
        met: (n, F + 3 G) figures of labelled rows. is_faulty: (n,) bool. weight: (n,) rows of evidence.
        quiet: (q, F + 3 G) of rows taken for quiet; they only set the scaling.
        known: what was learned elsewhere; its scaling stays, and weights are pulled towards its own.
    """
    center, spread = quiet.mean(0), np.maximum(quiet.std(0), LEAST_SPREAD)
    prior = np.zeros(met.shape[1] + 1)
    prior[SYSTEM], prior[-1] = 0.7, -3.0
    if known is not None:
        center, spread, prior = known.center, known.spread, known.weight.copy()
    x = scaled(met, center, spread)
    ridge = np.full(x.shape[1], (UNTAUGHT if known is None else TAUGHT).odds)
    ridge[-1] = 0.05
    seen, right, counts, start, pull = map(
        torch.from_numpy, (x, is_faulty.astype(float), weight.astype(float), prior, ridge)
    )

    def loss(w: Tensor) -> Tensor:
        missed = torch.nn.functional.binary_cross_entropy_with_logits(seen @ w, right, reduction="none")
        return (counts * missed).sum() + (pull * (w - start).square()).sum() / 2

    return center, spread, descend(loss, prior)


def root_prior() -> np.ndarray:
    """(2 G,) what points at a root before any label: quantities in which a service exceeds all others."""
    one = np.zeros((len(NEWEST), len(QUANTITIES) + 1, len(WAYS)))
    names = [*QUANTITIES, OTHER]
    for name, weight in (("processor", 1.0), ("memory", 1.0), ("disk", 1.0), ("queue", 0.7), ("restart", 1.0),
                         ("latency", 0.5), ("awaited", 0.5), ("error", 0.5), ("traffic", 0.3),
                         (OTHER, 0.5)):  # fmt: skip
        one[:, names.index(name)] = weight / 4
    return np.concatenate([np.zeros(one.size), one.ravel()])


def untaught(kinds: int, spread: np.ndarray) -> Roots:
    """What points at roots, and at `kinds` kinds alike, before any label."""
    count = max(kinds, 1)
    by_kind = np.zeros((count, 3 * len(spread) + 1))
    by_kind[:, -1] = CALM - np.log(count)
    return Roots(spread, root_prior(), by_kind)


def learn_roots(told: Origins, start: Roots, ridge: Ridge = UNTAUGHT) -> Roots:
    """Weights by which the labelled root and kind stand first, or calm; where one is not told, any will do.

    Args:
        start: what is known before, `untaught` or from elsewhere; weights are pulled towards its own.
    """
    spread, prior, by_kind = start.spread, start.weight.copy(), start.by_kind.copy()
    every, count = len(spread), len(by_kind)
    is_calm = told.incident < 0
    if is_calm.all():
        return start
    # What this deployment lacks is 0 everywhere, and its weights stay where they were.
    columns = np.flatnonzero(np.any([own.any(0) for own in told.services], axis=0))
    most, few = max(map(len, told.services)), len(columns)
    pairs, seen = (np.zeros((len(is_calm), most, n * few)) for n in (2, 3))
    is_there, is_right = np.zeros((2, len(is_calm), most, count), bool)
    told_before = np.zeros((len(is_calm), most, count if start.hidden else 1))
    hidden = None if start.hidden is None else start.hidden.narrow(columns)
    for i, own in enumerate(told.services):
        here, size = slice(0, len(own)), np.minimum(own / spread, FARTHEST)[None, :, columns]
        pairs[i, here] = beside_others(size)[0]
        seen[i, here] = among_others(size, pairs[i : i + 1, here])[0]
        is_there[i, here] = True
        if hidden is not None:
            told_before[i, here] = hidden.odds(seen[i : i + 1, here])[0]
        root, kind = int(told.root[i]), int(told.kind[i])
        is_right[i, here if root < 0 else root, slice(None) if kind < 0 else kind] = True
    weight = np.where(is_calm, told.weight, 0.0)
    share = _by_incident(told.incident[~is_calm]) * _balance(told.kind[~is_calm], told.incident[~is_calm])
    weight *= share.sum() / max(weight.sum(), 1e-12)  # calm and faulty weigh alike
    weight[~is_calm] = share
    x, y, z, weigh, calm = map(torch.from_numpy, (pairs, seen, told_before, weight, is_calm))
    absent, wrong = torch.from_numpy(~is_there), torch.from_numpy(~is_right)
    places = [blocks(columns, every, 2), np.append(blocks(columns, every, 3), 3 * every)]
    first = torch.from_numpy(np.concatenate([prior[places[0]], by_kind[:, places[1]].ravel()]))
    size_of = torch.tensor([len(own) for own in told.services], dtype=torch.float64).log()
    split = len(places[0])

    def loss(w: Tensor) -> Tensor:
        more, away = w[split:].reshape(count, -1), (w - first)[split:].reshape(count, -1)
        odds = (x @ w[:split])[:, :, None] + y @ more[:, :-1].T + more[:, -1] + z
        odds = odds.masked_fill(absent, -1e9) - size_of[:, None, None]
        pull = ridge.root * (w - first)[:split].square().sum() + ridge.own * away[:, :few].square().sum()
        pull = pull + ridge.others * away[:, few:-1].square().sum() + ridge.share * away[:, -1].square().sum()
        return missed(odds, wrong, calm, weigh) + pull / 2

    found = descend(loss, first.numpy())
    prior[places[0]] = found[:split]
    by_kind[:, places[1]] = found[split:].reshape(count, -1)
    return replace(start, weight=prior, by_kind=by_kind)


def missed(odds: Tensor, wrong: Tensor, calm: Tensor, weight: Tensor) -> Tensor:
    """Log likelihood that is lacking to certainty, over rows by weight.

    Args:
        odds: (n, S, C) of each service and kind, against 0 for "all is calm".
        wrong: (n, S, C) bool, all but what is right; of a row that is calm it says nothing.
        calm, weight: (n,).
    """
    of_all = torch.nn.functional.softplus(odds.flatten(1).logsumexp(1))
    of_right = odds.masked_fill(wrong, -1e9).flatten(1).logsumexp(1).masked_fill(calm, 0.0)
    return (weight * (of_all - of_right)).sum()


def _by_incident(incident: np.ndarray) -> np.ndarray:
    """Weights by which each incident counts 1, however many rows it has."""
    _, place, count = np.unique(incident, return_inverse=True, return_counts=True)
    return np.asarray(1 / count[place])


def _balance(kind: np.ndarray, incident: np.ndarray) -> np.ndarray:
    """Weights by which a rare kind is to be found as well as a common one; 1 where none is told."""
    out = np.ones(len(kind))
    told = kind >= 0
    if told.any():
        total = np.bincount(kind[told], _by_incident(incident)[told])
        out[told] = np.sqrt(total[total > 0].mean() / total[kind[told]])
    return out


def learn_kinds(
    names: tuple[str, ...],
    met: np.ndarray,
    kind: np.ndarray,
    incident: np.ndarray,
    known: Kinds | None = None,
) -> Kinds:
    """The middle of each kind, and how far from it an incident may lie to be of it.

    Args:
        met: (m, 3 G) what is around the likely root. kind: (m,) place in `names`. incident: (m,) which one.
        known: of these kinds it was learned elsewhere; they stay as they are there.
    """
    if not names:
        return Kinds((), np.zeros((0, met.shape[1])), np.zeros(0))
    middle, reach = np.zeros((len(names), met.shape[1])), np.full(len(names), np.nan)
    if known is not None:
        at = [names.index(name) for name in known.names]
        middle[at], reach[at] = known.center, known.reach
    share, is_new = _by_incident(incident), np.isnan(reach)
    taught = [c for c in np.flatnonzero(is_new) if (kind == c).any()]
    for c in taught:
        middle[c] = np.average(met[kind == c], 0, share[kind == c])
    own = is_new[kind]
    apart = distance_from(met, middle[kind])
    usual = float(np.average(apart[own], weights=share[own])) if own.any() else 0.0
    reach[is_new] = max(REACH * usual, 1e-6)
    for c in taught:
        reach[c] = _reach(apart[kind == c], share[kind == c], usual)
    return Kinds(names, middle, reach)


def _reach(apart: np.ndarray, share: np.ndarray, usual: float) -> float:
    """From the kind's own rows, drawn to what is usual for all kinds while they are few."""
    own, trust = float(np.average(apart, weights=share)), float(share.sum()) / (float(share.sum()) + 2)
    return max(REACH * (trust * own + (1 - trust) * usual), 1e-6)


def descend(loss: Callable[[Tensor], Tensor], start: np.ndarray) -> np.ndarray:
    """The weights at which a smooth loss is least."""
    at = torch.from_numpy(start.astype(np.float64).copy()).requires_grad_()
    search = torch.optim.LBFGS(
        [at], max_iter=120, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        search.zero_grad()
        found = loss(at)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    search.step(closure)  # type: ignore[no-untyped-call]
    return np.asarray(at.detach().numpy())
