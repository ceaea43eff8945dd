"""A verdict from labelled windows: what to learn from, and the probability at which an incident begins.

A recording is looked at once with the network that will score; of the rows that somebody judged the figures
are kept. The threshold is chosen on odds that did not see the incident they judge.

Not here: the figures (figures), the verdict's mathematics (verdict), training the network (training).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foreshock.calibrate import confirm_rows
from foreshock.frame import Frame
from foreshock.models import lora
from foreshock.models.figures import service_figure_names
from foreshock.models.recognise import Recogniser
from foreshock.models.shots import FAULTY, IGNORED, Lesson, Shot, truth_of
from foreshock.models.verdict import (
    LEAST_SPREAD,
    TAUGHT,
    UNTAUGHT,
    Origins,
    Roots,
    Seldom,
    Verdict,
    backed,
    blocks,
    learn_incidents,
    learn_kinds,
    learn_roots,
    untaught,
)
from foreshock.models.vigil import USUAL, VigilOptions
from foreshock.tails import lasting

PIECE = 4096  # rows looked at at once
AT_ONCE = 512  # rows whose services are weighed at once
CALM = 0.9  # share of a recording's rows, by their score, that tell what is quiet
EVERY = 8  # of these one row in so many does
ROWS = 8  # most rows of an incident that kinds and roots are learned from
CALM_ROWS = 4  # the same of a quiet window
FOLDS = 3
MOST_ROWS = 4000  # that the odds are learned from
WINDOW_EVIDENCE = 8.0  # rows of evidence that a window is
FAULTY_SHARE = 0.1  # of windows, that odds are told for
AS_LIKELY, HIGHEST = 0.5, 0.98  # the lowest threshold and the highest
LEAST_INCIDENTS = 6  # labelled and compared ones from which a verdict may replace the zero-shot score
LOST = 0.25  # of the zero-shot AP over labelled windows, beyond which labels are not trusted
SETTLED = 128  # rows of a recording from which zero-shot scoring has enough past to be compared with
FEW = 60  # quiet windows at which what they say of a threshold counts half
LEAST_LEVEL = 0.1  # of zero-shot scores, below which no threshold lies
TAIL = 0.2  # share of quiet windows that tell how high others may go
DAY_S = 86_400.0
WIDE = len(service_figure_names())
NONE = np.zeros(0, int)


def look(frame: Frame, recogniser: Recogniser, options: VigilOptions) -> Lesson:
    """Score a recording as the default detector does, and keep the figures of its rows."""
    stream = lora.PooledStream(recogniser, options, "")
    hidden = frame.require_clock().without_labels()
    evidence, system, figures, services = [], [], [], []
    for start in range(0, len(frame), PIECE):
        scores, (own, each) = stream.push_pooled(hidden.rows(slice(start, min(start + PIECE, len(frame)))))
        evidence.append(np.nan_to_num(scores.kpis))
        system.append(np.nan_to_num(scores.system))
        figures.append(own)
        services.append(each)
    assert stream.groups is not None
    return Lesson(
        frame, truth_of(frame), np.concatenate(evidence), np.concatenate(system), np.concatenate(figures),
        np.concatenate(services), stream.groups.columns,
    )  # fmt: skip


def unlabelled(lesson: Lesson, finder: Verdict | None) -> np.ndarray:
    """(T,) the score that rows have without any label: with what simulated systems taught."""
    if finder is None:
        return lesson.system
    odds = Seldom().push(suspicion(lesson, finder))
    return backed(lesson.system, odds, np.arange(len(odds)), len(lesson.frame.kpis))


def suspicion(lesson: Lesson, verdict: Verdict) -> np.ndarray:
    """(T,) log odds by which a verdict takes each row for faulty, whatever its labels say."""
    return read(lesson, verdict)[0]


def read(
    lesson: Lesson, verdict: Verdict, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log odds (n,), kinds (n, C) and roots (n, S), as `Verdict.read`, of some rows, or of all."""
    here, rows = verdict.narrow(lesson.columns), np.arange(len(lesson.system)) if rows is None else rows
    parts = (rows[at : at + AT_ONCE] for at in range(0, max(1, len(rows)), AT_ONCE))
    told = (here.read(lesson.figures[some], lesson.services[some]) for some in parts)
    odds, kinds, roots = (np.concatenate(one) for one in zip(*told, strict=True))
    return odds, kinds, roots


def judge(
    lessons: Sequence[Lesson], shots: Sequence[Shot], least_incidents: int = LEAST_INCIDENTS,
    known: Verdict | None = None, finder: Verdict | None = None,
) -> tuple[Verdict, dict[str, Any]]:  # fmt: skip
    """A verdict on what the lessons' network saw, and facts about it.

    Args:
        least_incidents: with fewer labelled ones incidents are found by the zero-shot score; 0: never.
        known: what was learned of other systems; labels correct it, and its kinds stay known.
        finder: what finds incidents there without labels, beside the zero-shot score.
    """
    m = gather(lessons, shots, known)
    verdict = with_kinds(learn(m, np.ones(len(shots), bool)), m)
    odds = crossed(m)
    reached = levels(m.shots, m.incident, m.shot, m.is_faulty, odds, m.step_s)
    level, found = choose(*reached, m.block * m.step_s)
    verdict = replace(verdict, threshold=level, usual=usual_level(m))
    zero_shot = np.concatenate(
        [unlabelled(one, finder)[m.row[m.lesson == i]] for i, one in enumerate(m.lessons)]
    )
    is_better, gain = compare(replace(m, system=zero_shot), verdict.weighed(odds, m.system)[0])
    detects = least_incidents == 0 or (is_better and gain["compared_incidents"] >= least_incidents)
    facts = {"shots": len(shots), "faulty_shots": sum(s.is_faulty for s in shots),
             "validating_shots": sum(s.validates for s in shots), "usual": verdict.usual, **found,
             **gain}  # fmt: skip
    return replace(verdict, detects=detects), facts


@dataclass(frozen=True, slots=True)
class Material:
    """What is known of N shots with n rows that count; F figures of the system, G of a service."""

    lessons: tuple[Lesson, ...]
    shots: tuple[Shot, ...]
    incident: np.ndarray  # (N,) which one, counted over all lessons; -1 for quiet windows
    step_s: float
    block: int  # rows of a window
    lesson: np.ndarray  # (n,) which, rising
    row: np.ndarray  # (n,) of it
    is_faulty: np.ndarray  # (n,)
    shot: np.ndarray  # (n,) which
    system: np.ndarray  # (n,) the zero-shot score, or that of an adapted network
    quiet: tuple[np.ndarray, ...]  # rows of each lesson that are taken for quiet
    spread: np.ndarray  # (G,) of services' figures over them
    kinds: tuple[str, ...]
    origins: Origins
    known: Verdict | None = None  # what was learned of other systems


def gather(lessons: Sequence[Lesson], shots: Sequence[Shot], known: Verdict | None = None) -> Material:
    """The rows of some shots, and what labels tell of them."""
    quiet = [np.flatnonzero(one.system <= np.quantile(one.system, CALM))[::EVERY] for one in lessons]
    calm = [_services(one, rows).reshape(-1, WIDE) for one, rows in zip(lessons, quiet, strict=True)]
    spread = np.maximum(np.sqrt((np.concatenate(calm) ** 2).mean(0)), LEAST_SPREAD)
    spread = spread if known is None else known.roots.spread
    numbers, at = incidents(lessons, shots)
    names, origins = _origins(lessons, shots, at, () if known is None else known.kinds)
    rows = [counted(lessons[shot.lesson], shot) for shot in shots]
    return Material(
        tuple(lessons), tuple(shots), numbers, lessons[0].frame.step_s,
        max(s.end - s.start for s in shots),
        np.repeat([shot.lesson for shot in shots], [len(own) for own in rows]), np.concatenate(rows),
        np.concatenate([lessons[s.lesson].truth[own] == FAULTY for s, own in zip(shots, rows, strict=True)]),
        np.repeat(np.arange(len(shots)), [len(own) for own in rows]),
        np.concatenate([lessons[s.lesson].system[own] for s, own in zip(shots, rows, strict=True)]),
        tuple(quiet), spread, names, origins, known,
    )  # fmt: skip


def learn(material: Material, use: np.ndarray) -> Verdict:
    """The verdict from some of the shots, kinds without their reach; `use` (N,) bool.

    Faulty and quiet windows weigh alike, whatever share of the recording they are, and the odds are those
    of a system in which one window in ten is faulty: a probability means the same wherever labels come from.
    """
    m, told, known = material, material.origins, _balanced(material.known)
    is_held = np.isin(told.incident, m.incident[~use & (m.incident >= 0)])
    some = np.flatnonzero(np.where(told.incident < 0, use[told.shot], ~is_held))
    start = untaught(len(m.kinds), m.spread) if known is None else _start(known, m.kinds)
    roots = learn_roots(told.take(some), start, UNTAUGHT if known is None else TAUGHT)
    roots = as_likely(roots, FAULTY_SHARE)
    rows = np.flatnonzero(use[m.shot])
    rows = rows[:: max(1, len(rows) // MOST_ROWS)]  # neighbours say nearly the same
    bad = m.is_faulty[rows]
    weight = np.array([shot.weight for shot in m.shots])[m.shot[rows]]
    for one in (bad, ~bad):
        weight[one] /= max(weight[one].sum(), 1e-12)
    quiet = np.concatenate([_met(one, own, roots) for one, own in zip(m.lessons, m.quiet, strict=True)])
    met = np.concatenate(
        [_met(one, m.row[rows[m.lesson[rows] == i]], roots) for i, one in enumerate(m.lessons)]
    )
    center, spread, odds = learn_incidents(met, bad, weight * use.sum() * WINDOW_EVIDENCE / 2, quiet, known)
    odds[-1] += log_odds(FAULTY_SHARE)
    return Verdict(center, spread, odds, roots, learn_kinds((), met[:, -3 * WIDE :], NONE, NONE), AS_LIKELY)


def as_likely(roots: Roots, share: float) -> Roots:
    """The same, where incidents are a share of windows in place of half of them."""
    by_kind = roots.by_kind.copy()
    by_kind[:, -1] += log_odds(share)
    return replace(roots, by_kind=by_kind)


def _balanced(verdict: Verdict | None) -> Verdict | None:
    """As it was learned: half of the windows faulty."""
    if verdict is None:
        return None
    weight = verdict.weight.copy()
    weight[-1] -= log_odds(FAULTY_SHARE)
    return replace(verdict, weight=weight, roots=as_likely(verdict.roots, 1 - FAULTY_SHARE))


def _start(known: Verdict, kinds: tuple[str, ...]) -> Roots:
    """What is known of roots; a kind that is not begins as the mean of those that are."""

    def arranged(rows: np.ndarray) -> np.ndarray:
        mean = rows.mean(0)
        return np.stack([rows[known.kinds.index(k)] if k in known.kinds else mean for k in kinds])

    hidden = known.roots.hidden
    hidden = hidden and replace(hidden, outward=arranged(hidden.outward))
    return replace(known.roots, by_kind=arranged(known.roots.by_kind), hidden=hidden)


def with_kinds(verdict: Verdict, material: Material) -> Verdict:
    """The verdict, knowing how far from its own incidents one of a kind may lie."""
    told = material.origins
    some = np.flatnonzero((told.incident >= 0) & (told.kind >= 0))
    met = [verdict.roots.read(told.services[i][None]).met for i in some] or [np.zeros((0, 3 * WIDE))]
    known = None if material.known is None else material.known.faults
    faults = learn_kinds(material.kinds, np.concatenate(met), told.kind[some], told.incident[some], known)
    return replace(verdict, faults=faults)


def _services(lesson: Lesson, rows: np.ndarray) -> np.ndarray:
    """(n, S, G) of all figures there may be."""
    own = lesson.services[rows]
    out = np.zeros((*own.shape[:2], WIDE))
    out[:, :, lesson.columns] = own
    return out


def met_of(figures: np.ndarray, services: np.ndarray, columns: np.ndarray, roots: Roots) -> np.ndarray:
    """(n, F + 3 G) float32: the figures (n, F) of the system, and what is around the likely root.

    Args:
        services: (n, S, G') figures of services; columns (G',) which of all G these are.
    """
    here, place = roots.narrow(columns), blocks(columns, WIDE, 3)
    count = figures.shape[1]
    out = np.zeros((len(figures), count + 3 * WIDE), np.float32)
    for some in (slice(at, at + AT_ONCE) for at in range(0, len(figures), AT_ONCE)):
        out[some, :count] = figures[some]
        out[some, count + place] = here.read(services[some]).met
    return out


def _met(lesson: Lesson, rows: np.ndarray, roots: Roots) -> np.ndarray:
    return met_of(lesson.figures[rows], lesson.services[rows], lesson.columns, roots)


def counted(lesson: Lesson, shot: Shot) -> np.ndarray:
    """The rows of a shot that are faulty or quiet."""
    rows = np.arange(shot.start, shot.end)
    return np.asarray(rows[lesson.truth[rows] != IGNORED])


def incidents(
    lessons: Sequence[Lesson], shots: Sequence[Shot]
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Which incident each shot is of (N,), and (incident, lesson, row) of the rows that tell its origin."""
    known: dict[tuple[int, int], int] = {}
    rows: dict[int, list[tuple[int, int]]] = {}
    numbers = np.full(len(shots), -1)
    for i, shot in enumerate(shots):
        labels = lessons[shot.lesson].frame.labels
        assert labels is not None
        own = counted(lessons[shot.lesson], shot)
        for row in own[lessons[shot.lesson].truth[own] == FAULTY]:
            number = known.setdefault((shot.lesson, int(labels.fault_id[row])), len(known))
            rows.setdefault(number, []).append((shot.lesson, int(row)))
            numbers[i] = number
    out = []
    for number, mine in rows.items():
        for i in np.unique(np.linspace(0, len(mine) - 1, min(len(mine), ROWS)).astype(int)):
            out.append((number, *mine[i]))
    return numbers, out


def _origins(
    lessons: Sequence[Lesson], shots: Sequence[Shot], at: Sequence[tuple[int, int, int]],
    known: tuple[str, ...],
) -> tuple[tuple[str, ...], Origins]:  # fmt: skip
    """The kinds there are, and what is told of the rows `at` of incidents and of some of quiet windows."""
    services, kind, root = [], [], []
    for _, number, row in at:
        lesson = lessons[number]
        labels, names = lesson.frame.labels, lesson.frame.services
        assert labels is not None
        services.append(_services(lesson, np.array([row]))[0])
        kind.append(str(labels.fault_type[row]))
        cause = str(labels.root_cause[row])
        root.append(names.index(cause) if cause in names else -1)
    kinds = tuple(sorted({one for one in kind if one} | set(known)))
    of, weight = [], []
    for i, shot in enumerate(shots):
        rows = counted(lessons[shot.lesson], shot)
        if shot.is_faulty or not len(rows):
            continue
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), CALM_ROWS)).astype(int))]
        services += list(_services(lessons[shot.lesson], rows))
        of += [i] * len(rows)
        weight += [shot.weight / len(rows)] * len(rows)
    faulty, calm = len(at), len(of)
    none = np.full(calm, -1)
    return kinds, Origins(
        tuple(services), np.concatenate([np.array(root, int), none]),
        np.concatenate([np.array([kinds.index(k) if k else -1 for k in kind], int), none]),
        np.concatenate([np.array([number for number, _, _ in at], int), none]),
        np.concatenate([np.zeros(faulty, int), np.array(of, int)]),
        np.concatenate([np.zeros(faulty), np.array(weight, float)]),
    )  # fmt: skip


# ----------------------------------------------------------------------- is it better than without labels


def compare(material: Material, scores: np.ndarray) -> tuple[bool, dict[str, Any]]:
    """Whether scores rank incidents they did not learn from nearly as well as zero-shot scoring, and figures.

    Where a quarter of its AP is lost, and more than a standard error over incidents, the zero-shot score and
    its threshold stay, and the verdict only names kinds and services. Smaller losses say nothing: quiet
    windows were drawn where the verdict errs, and labels serve the threshold, too. Of few incidents it can't
    be told, and not in the first rows of a recording: zero-shot scoring has no past there, so that to beat it
    says nothing of later rows.

    Args:
        scores: (n,) of all rows, of odds as `crossed` gives them.
    """
    later = material.row >= SETTLED
    bad, shot = material.is_faulty[later], material.shot[later]
    of = material.incident[shot[bad]]
    facts: dict[str, Any] = {"incidents": _count(material.incident), "compared_incidents": _count(of)}
    if not bad.any() or bad.all():
        return False, facts
    stands_for = np.array([one.weight for one in material.shots])[shot]
    ours, zero = (_shares(one[later], bad, stands_for) for one in (scores, material.system))
    each = np.array([[ours[of == one].mean(), zero[of == one].mean()] for one in np.unique(of)])
    lost = each[:, 1] - each[:, 0]
    error = float(lost.std(ddof=1) / np.sqrt(len(lost))) if len(lost) > 1 else 0.0
    ap, zero_ap = (float(np.average(one, weights=stands_for[bad])) for one in (ours, zero))
    facts |= {"crossed_ap": round(ap, 4), "zero_shot_ap": round(zero_ap, 4), "ap_error": round(error, 4),
              "crossed_each": each[:, 0].round(4).tolist()}  # fmt: skip
    return ap >= (1 - LOST) * zero_ap - error, facts


def gains(after: tuple[Verdict, Mapping[str, Any]], before: tuple[Verdict, Mapping[str, Any]]) -> bool:
    """Whether a change of the network is worth keeping: what `judge` gives with it, and without."""
    (tried, told), (verdict, facts) = after, before
    return tried.detects and (not verdict.detects or is_surely_better(told, facts))


def is_surely_better(after: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """By the facts of `judge`: whether labelled incidents rank higher by more than a standard error."""
    ours, theirs = (np.array(facts.get("crossed_each", ())) for facts in (after, before))
    if len(ours) != len(theirs) or len(ours) < 2:
        return False
    gain = ours - theirs
    return bool(gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)))


def _shares(odds: np.ndarray, is_faulty: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """For each faulty row the share of faulty ones among all ranked as high; their mean is AP.

    Quiet windows are drawn where a verdict errs, so rows count as often as there are windows like theirs.
    """
    order = np.argsort(-odds, kind="stable")
    shares = np.empty(len(odds))
    shares[order] = np.cumsum(np.where(is_faulty, weight, 0)[order]) / np.cumsum(weight[order])
    return np.asarray(shares[is_faulty])


def count_incidents(lessons: Sequence[Lesson], shots: Sequence[Shot]) -> int:
    """How many incidents the shots hold; those that share a window count once."""
    return _count(incidents(lessons, shots)[0])


def _count(incident: np.ndarray) -> int:
    return len(np.unique(incident[incident >= 0]))


# ----------------------------------------------------------------------------------------- the threshold


def crossed(material: Material) -> np.ndarray:
    """(n,) log odds of all rows, each from a verdict that did not see its incident (or quiet window)."""
    fold = folds(material.incident)
    out = np.zeros(len(material.row))
    for one in range(FOLDS):
        use, rows = fold != one, fold[material.shot] == one
        is_bad = material.is_faulty[use[material.shot]]
        if not is_bad.any() or is_bad.all():
            continue
        out[rows] = _read(material, np.flatnonzero(rows), learn(material, use))
    return out


def _read(material: Material, rows: np.ndarray, verdict: Verdict) -> np.ndarray:
    """Log odds of some labelled rows."""
    owned = [material.row[rows[material.lesson[rows] == i]] for i in range(len(material.lessons))]
    return np.concatenate(
        [read(one, verdict, own)[0] for one, own in zip(material.lessons, owned, strict=True)]
    )


def folds(incident: np.ndarray) -> np.ndarray:
    """(N,) which fold each shot is in; shots of one incident are together."""
    return np.asarray(np.where(incident >= 0, incident, np.arange(len(incident))) % FOLDS)


def levels(
    shots: Sequence[Shot], incident: np.ndarray, shot_of: np.ndarray, is_faulty: np.ndarray, odds: np.ndarray,
    step_s: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The log odds up to which each incident is found, or each quiet window raises an alarm.

    Args:
        shot_of, is_faulty, odds: (n,) of each labelled row.

    Returns:
        levels (M,), whether faulty (M,), weight (M,): how many incidents or windows each stands for.
    """
    confirm = confirm_rows(step_s)
    best: dict[int, float] = {}
    out: list[tuple[float, bool, float]] = []
    for i, shot in enumerate(shots):
        rows = shot_of == i
        own = odds[rows & is_faulty] if shot.is_faulty else odds[rows]
        if not len(own):
            continue
        reached = lasting(own, *confirm) if len(own) >= confirm[1] else own
        level = float(np.nanmax(reached)) if np.isfinite(reached).any() else float(own.max())
        if shot.is_faulty:
            number = int(incident[i])
            best[number] = max(best.get(number, -np.inf), level)
        else:
            out.append((level, False, shot.weight))
    out += [(level, True, 1.0) for level in best.values()]
    values, faulty, weight = zip(*out, strict=True)
    return np.array(values), np.array(faulty), np.array(weight)


def choose(
    values: np.ndarray, faulty: np.ndarray, weight: np.ndarray, window_s: float
) -> tuple[float, dict[str, Any]]:
    """The probability from which rows count as an incident, and how it was found.

    As likely as not; or more, where the labelled quiet windows would raise more than one false alarm a day,
    as zero-shot scoring promises. Their upper fifth gives an exponential tail, which is believed the more the
    more windows there are. (The best F1 over labelled windows was tried and hangs on the few faint faults
    among them, and on how many faults the recording happens to have: docs/log.md, 2026-11-26.)

    Args:
        values, faulty, weight: as `levels` gives them. window_s: how long a quiet window lasts.
    """
    quiet, counts = values[~faulty], weight[~faulty]
    facts: dict[str, Any] = {"threshold_from": "as likely as not", "quiet_windows": len(quiet)}
    level = log_odds(AS_LIKELY)
    if len(quiet):
        drawn = len(quiet) / (len(quiet) + FEW) * (_promised(quiet, counts, window_s) - level)
        if drawn > 0:
            level = min(level + drawn, log_odds(HIGHEST))
            facts["threshold_from"] = "quiet windows: one false alarm a day"
    if faulty.any():
        facts["incidents_found"] = round(float((values[faulty] >= level).mean()), 3)
    return 1 / (1 + float(np.exp(-level))), facts


def usual_level(material: Material) -> float:
    """The zero-shot score that labelled quiet windows would reach once a day.

    Few of them say little, so it is drawn towards where thresholds of such tables usually lie (logarithms).
    """
    m = material
    values, faulty, weight = levels(m.shots, m.incident, m.shot, m.is_faulty, m.system, m.step_s)
    usual = USUAL.over(len(m.lessons[0].frame.kpis)).high
    quiet = int((~faulty).sum())
    if not quiet:
        return usual
    told = _promised(values[~faulty], weight[~faulty], m.block * m.step_s)
    share = quiet / (quiet + FEW)
    return float(usual ** (1 - share) * max(told, LEAST_LEVEL) ** share)


def _promised(quiet: np.ndarray, weight: np.ndarray, window_s: float) -> float:
    """What quiet windows that reach so high would exceed once a day: their upper fifth has such a tail."""
    order = np.argsort(quiet)
    share = np.cumsum(weight[order]) / weight.sum()
    start = float(quiet[order][np.searchsorted(share, 1 - TAIL)])
    above = quiet > start
    excess = float(np.average(quiet[above] - start, weights=weight[above])) if above.any() else 0.0
    return start + excess * float(np.log(max(TAIL * DAY_S / window_s, 1.0)))


def log_odds(chance: float) -> float:
    return float(np.log(chance / (1 - chance)))
