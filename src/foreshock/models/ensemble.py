"""Several detectors as one: each row's rank among the rows before it, averaged over the members.

Ranks need no common scale, which is why members as different as a forest and a network can be averaged.
Source: rank averaging, Aggarwal and Sathe 2015. Causal, so a rank is taken among the scores already
given, at most the last 16,384, and those of the training part if there was one: the share of them that
is lower.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foreshock.errors import ConfigError
from foreshock.frame import Frame
from foreshock.scores import Scores, layout, pool

REMEMBERED = 16_384
# Those of the project's first phase; the forest learns from labels.
MEMBERS = ("isolation_forest", "lstm_autoencoder", "random_forest")


class Ranks:
    """The share of past scores that is lower than each new one, in order."""

    def __init__(self, past: np.ndarray | None = None) -> None:
        known = [] if past is None else [float(s) for s in past[np.isfinite(past)][-REMEMBERED:]]
        self.order, self.sorted = deque(known), sorted(known)

    def push(self, scores: np.ndarray) -> np.ndarray:
        """(T,) → (T,), 0..1; NaN stays NaN and is not remembered."""
        out = np.full(len(scores), np.nan)
        for row in np.flatnonzero(np.isfinite(scores)):
            score = float(scores[row])
            out[row] = bisect_left(self.sorted, score) / max(len(self.sorted), 1)
            insort(self.sorted, score)
            self.order.append(score)
            if len(self.order) > REMEMBERED:
                del self.sorted[bisect_left(self.sorted, self.order.popleft())]
        return out


class RankAverage:
    """The mean rank of its members; a KPI's score is its share in the members' own KPI scores."""

    def __init__(self, members: Sequence[Any], name: str = "rank_average") -> None:
        if not members:
            raise ConfigError("the ensemble has no members; name at least one detector.")
        self.name = name
        self.members = list(members)
        self.past: list[np.ndarray | None] = [None] * len(self.members)

    @property
    def supervised(self) -> bool:
        return any(getattr(member, "supervised", False) for member in self.members)

    @property
    def needs_fit(self) -> bool:
        return any(getattr(member, "needs_fit", False) for member in self.members)

    def fit(self, frame: Frame) -> RankAverage:
        """Fit the members that learn; keep what each gives the training part, to rank against."""
        for i, member in enumerate(self.members):
            if hasattr(member, "fit"):
                member.fit(frame if getattr(member, "supervised", False) else frame.without_labels())
            self.past[i] = member.score(frame.without_labels()).system
        return self

    def score(self, frame: Frame) -> Scores:
        return self.stream().push(frame)

    def stream(self) -> _RankStream:
        return _RankStream(self)

    def describe(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "causal": True,
            "supervised": self.supervised,
            "source": "Aggarwal and Sathe 2015",
            "members": [member.describe() for member in self.members],
        }


class _RankStream:
    def __init__(self, detector: RankAverage) -> None:
        self.detector = detector
        self.streams = [member.stream() for member in detector.members]
        self.ranks = [Ranks(past) for past in detector.past]

    def push(self, piece: Frame) -> Scores:
        found = [stream.push(piece) for stream in self.streams]
        told = [rank.push(scores.system) for rank, scores in zip(self.ranks, found, strict=True)]
        system = np.mean(told, axis=0)
        parts = np.mean([_part(scores.kpis) for scores in found], axis=0)
        kpis = (system[:, None] * parts).astype(np.float32)
        services, _ = pool(kpis, layout(piece.kpis))
        meta = (piece.kpis, piece.services, piece.step_s, self.detector.name)
        return Scores(piece.time_ns, kpis, services, system.astype(np.float32), *meta)


def _part(kpis: np.ndarray) -> np.ndarray:
    """KPI scores over their root mean square in each row, (T, K); 1 where all are 0, NaN where missing."""
    seen = np.isfinite(kpis)
    square = np.where(seen, kpis, 0).astype(float) ** 2
    size = np.sqrt(square.sum(1) / np.maximum(seen.sum(1), 1))[:, None]
    return np.where(seen, np.where(size > 0, kpis / np.where(size > 0, size, 1), 1.0), np.nan)


def rank_average(load: Callable[..., Any], members: Sequence[str] = MEMBERS, seed: int = 0) -> RankAverage:
    """The ensemble of detectors by their names, each with its defaults and, where it takes one, the seed.

    Raises:
        ConfigError: an ensemble in an ensemble, or a name that is not known.
    """
    if "rank_average" in members:
        raise ConfigError("rank_average can't be a member of itself; name other detectors.")
    return RankAverage([_with_seed(load, name, seed) for name in members])


def _with_seed(load: Callable[..., Any], name: str, seed: int) -> Any:
    try:
        return load(name, seed=seed)
    except ConfigError as error:
        if "no option 'seed'" not in str(error):
            raise
        return load(name)
