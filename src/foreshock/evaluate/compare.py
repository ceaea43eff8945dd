"""Two files of evaluation records side by side: the same detectors on the same series, then and now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foreshock.errors import InputError
from foreshock.evaluate.statistics import Interval, SignedRank, grouped_interval, holm, wilcoxon
from foreshock.evaluate.tables import Record, by_series, latest

METRICS = ("vus_pr", "average_precision", "roc_auc")
FACTS = (
    "commit",
    "python",
    "processor",
    "packages",
    "weights_sha256",
    "heads_sha256",
    "verdict_sha256",
)  # of which a difference is told


@dataclass(frozen=True, slots=True)
class Change:
    """One detector and metric in both files, over the series that both judged alike."""

    metric: str
    detector: str
    a: float  # mean of the data sets' means
    b: float
    difference: Interval  # b less a
    test: SignedRank
    p_holm: float  # among the detectors of this metric
    better: int  # series on which b is higher
    worse: int
    unshared: int  # series that only one of the files has


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes, and what else differs."""

    changes: tuple[Change, ...]
    only_a: tuple[str, ...]  # detectors that the other file lacks
    only_b: tuple[str, ...]
    facts: dict[str, tuple[list[str], list[str]]]  # fact → its values in a and in b, where they differ

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_records(a: Iterable[Record], b: Iterable[Record], metrics: Sequence[str] = METRICS) -> Comparison:
    """Differences of b less a, paired over series whose judged rows have the same hash.

    Raises:
        InputError: a file holds no evaluation record, or they share no detector or series.
    """
    sides = [[r for r in latest(records) if r["status"] == "done"] for records in (a, b)]
    for side, word in zip(sides, ("first", "second"), strict=True):
        if not side:
            raise InputError(
                f"the {word} file holds no evaluation record; `foreshock evaluate` writes such files."
            )
    changes = [change for metric in metrics for change in _changes(metric, *sides)]
    if not changes:
        raise InputError(
            "the two files share no detector on the same rows of a series; nothing can be paired."
        )
    names = [list(dict.fromkeys(r["detector"] for r in side)) for side in sides]
    facts = {
        fact: found
        for fact in FACTS
        if (found := (_values(sides[0], fact), _values(sides[1], fact)))[0] != found[1]
    }
    return Comparison(
        tuple(changes),
        tuple(n for n in names[0] if n not in names[1]),
        tuple(n for n in names[1] if n not in names[0]),
        facts,
    )


def _changes(metric: str, a: Sequence[Record], b: Sequence[Record]) -> list[Change]:
    then, now = by_series(a, metric), by_series(b, metric)
    found = []
    for detector in then.keys() & now.keys():
        left, right = then[detector], now[detector]
        shared = [place for place in left if place in right]
        if not shared:
            continue
        sets = list(dict.fromkeys(data for data, _ in shared))
        groups = [[place for place in shared if place[0] == data] for data in sets]
        difference = [np.array([round(right[p] - left[p], 12) for p in group]) for group in groups]
        together = np.concatenate(difference)
        means = [float(np.mean([np.mean([side[p] for p in g]) for g in groups])) for side in (left, right)]
        found.append(
            Change(
                metric, detector, means[0], means[1], grouped_interval(difference), wilcoxon(together), 1.0,
                int((together > 0).sum()), int((together < 0).sum()), len(left.keys() ^ right.keys()),
            )
        )  # fmt: skip
    found.sort(key=lambda change: (-change.b, change.detector))
    adjusted = holm([change.test.p for change in found])
    return [
        Change(**{n: getattr(c, n) for n in Change.__slots__} | {"p_holm": p})
        for c, p in zip(found, adjusted, strict=True)
    ]


def _values(records: Iterable[Record], fact: str) -> list[str]:
    found = {r[fact] for r in records if isinstance(r.get(fact), str)}
    for r in records:
        if isinstance(r.get(fact), dict):
            found |= {f"{name} {value}" for name, value in r[fact].items()}
    return sorted(word[:12] if fact == "commit" or fact.endswith("_sha256") else word for word in found)
