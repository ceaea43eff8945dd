"""Which windows of a recording teach: rows as labels judge them, and a draw of few of them.

A shot is a window of `VigilOptions.block` rows that somebody judged: half of them hold a fault, half are
quiet, and of the quiet ones most are those that look worst before any label: what is known already is not
worth a label. The latest incidents validate, whole ones, so that no window of an incident stands on both
sides.

Not here: what the network reads of a shot (series), what is learned from it (training, judging).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from foreshock.errors import FrameError
from foreshock.frame import Frame, Labels
from foreshock.windows import PATCH

IGNORED, QUIET, FAULTY = -1, 0, 1
HARD = 0.2  # of the quiet windows, by how bad they look, from which
MOSTLY = 0.8  # of the quiet shots are drawn; docs/log.md, 2026-11-27


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
        inside = _between(frame, start, end)
        if not inside.any():
            first, last, begin = map(_stamp, (frame.time_ns[0], frame.time_ns[-1], start))
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


def divided_spans(frames: Sequence[Frame], spans: Sequence[tuple[int, int, str, str]]) -> list[Frame]:
    """Several recordings with labels, each from those of the incidents that it has rows and the service of.

    Args:
        spans: as for `with_spans`.

    Raises:
        FrameError: an incident that is in none of them.
    """
    if len(frames) == 1:
        return [with_spans(frames[0], spans)]
    own = [[i for i, span in enumerate(spans) if _has(frame, span)] for frame in frames]
    if lost := sorted(set(range(len(spans))).difference(*own)):
        begin, who = _stamp(spans[lost[0]][0]), spans[lost[0]][3]
        raise FrameError(
            f"label {lost[0] + 1} begins {begin}Z{f' at {who!r}' if who else ''} and is in none of the "
            f"{len(frames)} recordings, by its time and service. Are its times UTC?"
        )
    return [with_spans(frame, [spans[i] for i in some]) for frame, some in zip(frames, own, strict=True)]


def _has(frame: Frame, span: tuple[int, int, str, str]) -> bool:
    start, end, _, who = span
    return bool(_between(frame, start, end).any()) and (not who or who in frame.services)


def _between(frame: Frame, start_ns: int, end_ns: int) -> np.ndarray:
    """(T,) bool, both ends included."""
    return np.asarray((frame.time_ns >= start_ns) & (frame.time_ns <= end_ns))


def _stamp(time_ns: int) -> str:
    """UTC, to the second."""
    return str(np.datetime64(int(time_ns), "ns"))[:19]


def require_labels(frame: Frame) -> None:
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


@dataclass(frozen=True, slots=True)
class Lesson:
    """A recording, looked at once by the zero-shot detector. Rows are those of the frame."""

    frame: Frame
    truth: np.ndarray  # (T,) int
    evidence: np.ndarray  # (T, K) of the zero-shot detector, 0 where nothing was observed
    system: np.ndarray  # (T,)
    figures: np.ndarray  # (T, F)
    services: np.ndarray  # (T, S, G') float32 figures of services, those that there are here
    columns: np.ndarray  # (G',) which these are among all that there may be


@dataclass(frozen=True, slots=True)
class Shot:
    """A labelled window: rows start..end of a lesson."""

    lesson: int
    start: int
    end: int
    is_faulty: bool
    validates: bool
    weight: float  # how many windows of the recording it stands for


def draw_shots(
    lessons: Sequence[Lesson], count: int, block: int, seed: int = 0, validate: float = 0.25,
    suspicion: Sequence[np.ndarray] | None = None,
) -> list[Shot]:  # fmt: skip
    """Which windows are learned from: incidents in turn, hard quiet windows beside any quiet ones.

    Args:
        suspicion: (T,) of each lesson, higher where rows look bad before any label; the zero-shot score
            unless given.

    Raises:
        FrameError: fewer shots than kinds of faults and quiet, or no window of a kind.
    """
    rng = np.random.default_rng([seed, 7])
    looks = [lesson.system for lesson in lessons] if suspicion is None else suspicion
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
                quiet.append((float(looks[number][start:end].max()), number, start, end))
    if not faulty or not quiet:
        raise FrameError(
            f"there are {len(faulty)} incidents and {len(quiet)} quiet windows of {block} rows; an adapter "
            "needs one of each. Give a longer recording."
        )
    needed = len(kinds) + 1
    if count < needed:
        raise FrameError(
            f"{count} shots are fewer than the {needed} classes ({len(kinds)} kinds of faults and "
            f"quiet); give --shots {needed} or more."
        )
    taken = _in_turn(list(faulty.values()), max(1, count // 2), rng)
    every = sum(len(some) for some in faulty.values())
    quiet_count = min(len(quiet), count - len(taken))
    quiet.sort(reverse=True)
    few = max(1, round(HARD * len(quiet)))
    hard, rest = quiet[:few], quiet[few:]
    hard_count = min(len(hard), quiet_count - min(len(rest), round((1 - MOSTLY) * quiet_count)))
    rest_count = min(len(rest), quiet_count - hard_count)
    shots = [(place, True, every / len(taken)) for place in taken]
    for pool, some in ((hard, hard_count), (rest, rest_count)):
        chosen = rng.choice(len(pool), some, replace=False) if some else np.zeros(0, int)
        shots += [(pool[int(i)][1:], False, len(pool) / some) for i in chosen]
    return _divide(shots, lessons, validate)


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
