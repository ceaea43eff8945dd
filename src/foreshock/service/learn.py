"""What people said of incidents becomes something to learn from, and an adapter that is held to it.

The latest third of the judged incidents is held back: nothing that happened after the first of them is
learned from. An adapter counts as better only if it finds at least as many of the held-back incidents as
the detector in use, with no more false alarms, and gains in one of the two (or names more fault types right).

Not here: giving verdicts (store, api), the training itself (models.finetune), promotion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.calibrate import Threshold, calibrate_finished, from_labels, usual_of
from foreshock.decide import Event, Rules, decide, iso
from foreshock.errors import FrameError, StateError
from foreshock.frame import Frame, Kpi, Labels
from foreshock.scores import Scores
from foreshock.service.views import View, rows_of, stamp
from foreshock.sources.simulator.faults import FAULTS
from foreshock.store import Store, start_of

MARGIN = 512  # rows kept before an incident: what three scales need to have warmed up, roughly
MOST_CELLS = 2_000_000  # values kept of one incident; with thousands of KPIs the margin shrinks
RECOVERY_S = 300.0  # after an incident nothing is taken for quiet
EARLY_S = 120.0  # an alarm so much before a confirmed incident's start has found it
HELD_BACK = 1 / 3  # share of the judged incidents, the latest
LABEL_COLUMNS = ("start", "end", "fault_type", "root_cause_service", "incident")
COMMON_FAULTS = tuple(FAULTS)  # words to choose from while nobody has used others


# ------------------------------------------------------------------------------------- keeping rows


def keep_evidence(store: Store, monitor: Any, incident: Any) -> None:
    """Keep the rows of an incident that has ended, while the monitor still has them."""
    told = incident if isinstance(incident, Mapping) else incident.to_dict()
    keep_rows(store, View(monitor.frame, monitor.scores, np.asarray(monitor.high, float)), told)


def keep_rows(store: Store, view: View, incident: Mapping[str, Any] | None) -> None:
    """Keep an incident's rows with a margin; nothing happens when the window has moved on."""
    if incident is None or view.frame is None:
        return
    kept = rows_of(incident, view, min(MARGIN, max(32, MOST_CELLS // len(view.frame.kpis) // 2)))
    if kept is None:
        return
    named = {kpi["name"] for kpi in incident["cause"].get("kpis", ())}
    is_named = np.array([kpi.name in named for kpi in kept.frame.kpis])
    expected = np.where(is_named, kept.expected, np.float32(np.nan))  # bands are drawn of these alone
    store.save_evidence(str(incident["id"]), replace(kept, expected=expected))


# ------------------------------------------------------------------------------------------- labels


@dataclass(frozen=True, slots=True)
class Judged:
    """An incident with the verdict that counts."""

    id: str
    start_ns: int
    end_ns: int
    is_real: bool
    fault_type: str
    service: str


def judged(store: Store) -> list[Judged]:
    """All incidents that somebody judged, in time order."""
    out = []
    for verdict in store.verdicts(newest=True):
        incident = store.incident(verdict["incident"])
        if incident is None:
            continue
        start, end = span(incident)
        is_real = verdict["verdict"] == "confirmed"
        out.append(Judged(incident["id"], start, end, is_real, verdict["fault_type"], verdict["service"]))
    return sorted(out, key=lambda one: (one.start_ns, one.id))


def span(incident: Mapping[str, Any]) -> tuple[int, int]:
    """Start and end in nanoseconds; one that runs ends where it was last seen."""
    event = incident["event"]
    ends = [event.get(name) for name in ("end_time", "peak_time", "detected_time")]
    return start_of(incident), max((stamp(t) for t in ends if t), default=start_of(incident))


def labels(store: Store) -> list[dict[str, Any]]:
    """Verdicts as rows: LABEL_COLUMNS and `verdict`, times in UTC."""
    return [
        {"start": iso(one.start_ns), "end": iso(one.end_ns), "fault_type": one.fault_type,
         "root_cause_service": one.service, "incident": one.id,
         "verdict": "confirmed" if one.is_real else "false_alarm"}
        for one in judged(store)
    ]  # fmt: skip


# --------------------------------------------------------------------------------------- recordings


def recordings(store: Store, known: Sequence[Judged]) -> list[Frame]:
    """The kept rows of judged incidents as labelled frames, one for each set of KPIs, with gaps in time.

    Confirmed incidents are faults, false alarms are quiet. Rows of incidents nobody judged, and those right
    after a fault, count for nothing.
    """
    parts: dict[tuple[tuple[Kpi, ...], float], list[Frame]] = {}
    kept = set(store.evidence_ids())
    for one in known:
        evidence = store.evidence(one.id) if one.id in kept else None
        if evidence is not None:
            parts.setdefault((evidence.frame.kpis, evidence.frame.step_s), []).append(evidence.frame)
    other = [span(i) for i in store.incidents(limit=100_000) if i["id"] not in {one.id for one in known}]
    return [_labelled(_joined(frames), known, other) for frames in parts.values()]


def _joined(frames: Sequence[Frame]) -> Frame:
    """Rows of several frames of the same KPIs, each moment once."""
    time_ns = np.concatenate([frame.time_ns for frame in frames])
    values = np.concatenate([frame.values for frame in frames])
    stamps, first = np.unique(time_ns, return_index=True)
    return replace(frames[0], time_ns=stamps, values=values[first], labels=None)


def _labelled(frame: Frame, known: Sequence[Judged], other: Sequence[tuple[int, int]]) -> Frame:
    rows = len(frame)
    is_fault, ignore = np.zeros(rows, bool), np.zeros(rows, bool)
    kind, cause, ids = np.full(rows, "", object), np.full(rows, "", object), np.full(rows, -1, np.int64)
    after = round(RECOVERY_S * 1e9)
    for start, end in other:
        ignore |= (frame.time_ns >= start) & (frame.time_ns <= end + after)
    for one in known:
        if one.is_real:
            ignore |= (frame.time_ns > one.end_ns) & (frame.time_ns <= one.end_ns + after)
    for number, one in enumerate(known):
        inside = (frame.time_ns >= one.start_ns) & (frame.time_ns <= one.end_ns)
        ignore &= ~inside
        if one.is_real:
            is_fault |= inside
            service = one.service if one.service in frame.services else ""
            kind[inside], cause[inside], ids[inside] = one.fault_type, service, number
    told = Labels(is_fault, kind.astype(str), cause.astype(str), ignore, ids, np.ones(rows, bool))
    return replace(frame, labels=told)


def divide(known: Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    """To learn from, and held back: the latest third, with at least one confirmed incident on each side.

    Raises:
        StateError: fewer than two confirmed incidents.
    """
    real = [one for one in known if one.is_real]
    if len(real) < 2:
        raise StateError(
            f"{len(real)} confirmed incident{'' if len(real) == 1 else 's'} of {len(known)} judged ones have "
            "their rows kept; learning needs two, one to learn from and one to be held back. Confirm more "
            "with `foreshock label`, or on the page."
        )
    count = max(1, round(HELD_BACK * len(known)))
    while not any(one.is_real for one in known[-count:]):
        count += 1
    while not any(one.is_real for one in known[:-count]):
        count -= 1
    return list(known[:-count]), list(known[-count:])


def before(frame: Frame, cut_ns: int) -> Frame | None:
    """The rows before a moment, if they hold faults and quiet to learn from."""
    part = frame.rows(frame.time_ns < cut_ns)
    told = part.labels
    assert told is not None
    usable = ~told.ignore
    has_both = (told.anomaly & usable).any() and (~told.anomaly & usable).any()
    return part if has_both else None


# ----------------------------------------------------------------------------------------- learning


def adapt(
    store: Store, folder: Path, id: str, score: Any, options: Any,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Learn an adapter from the store's verdicts, hold it to the held-back incidents, and note it.

    Args:
        folder: where adapters lie; this one goes into the folder `id` there.
        score: settings of the detector, threshold and rules (config.Settings).
        options: models.finetune.FinetuneOptions.

    Raises:
        StateError: too few confirmed incidents whose rows are kept.
        FrameError, ConfigError, OutputError: as models.finetune.finetune.
    """
    from foreshock.models.finetune import finetune

    kept = set(store.evidence_ids())
    known = [one for one in judged(store) if one.id in kept]
    learned, held = divide(known)
    frames = recordings(store, known)
    cut_ns = held[0].start_ns - round(EARLY_S * 1e9)
    parts = [part for part in (before(frame, cut_ns) for frame in frames) if part is not None]
    if not parts:
        raise FrameError(
            "the rows kept before the held-back incidents hold no fault beside quiet rows; confirm an "
            "incident that lies apart from the latest ones."
        )
    out = folder / id
    adapter = finetune(
        parts, out, score.detector.model, options, on_step,
        length=score.window.length, block=score.window.stride,
    )  # fmt: skip
    promoted = store.promoted()
    in_use = promoted["path"] if promoted else ""
    exams = {
        name: examine(detector_with(score, path), frames, known, held, cut_ns, score)
        for name, path in (("candidate", str(out)), ("in_use", in_use))
    }
    facts = {
        **{n: v for n, v in adapter.facts.items() if n not in ("options", "detector")},
        "options": asdict(options), "learned_from": [one.id for one in learned],
        "held_back": [one.id for one in held], "compared_with": promoted["id"] if promoted else "zero-shot",
        "exam": {name: asdict(exam) for name, exam in exams.items()},
        "is_better": is_better(exams["candidate"], exams["in_use"]),
    }  # fmt: skip
    return store.add_adapter(id, out, facts)


def detector_with(score: Any, adapter: str) -> Any:
    """The detector of these settings with an adapter, "" for none."""
    from foreshock.models import load_detector

    extra = {"adapter": adapter} if adapter else {}
    return load_detector(
        score.detector.name, model=score.detector.model, precision=score.detector.precision,
        length=score.window.length, block=score.window.stride, **extra,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- exams


@dataclass(frozen=True, slots=True)
class Exam:
    """How a detector did on held-back incidents."""

    confirmed: int  # held-back incidents that were real
    found: int  # of these, told
    false_alarms: int  # judged false alarms told again, and alarms where nothing was known
    kinds_right: int  # found ones whose fault type was named as the verdict has it


def threshold_of(detector: Any, scores: Scores, score: Any) -> Threshold:
    """What an adapter learned from labels; else from all of these scores, unlabelled."""
    rules: Rules = score.rules
    per_day = score.threshold.false_alarms_per_day
    level = getattr(detector, "threshold", None)
    if level is not None:
        return from_labels(
            level, scores.step_s, per_day, confirm_s=rules.confirm_s, confirm_share=rules.confirm_share
        )
    return calibrate_finished(
        scores.system, scores.step_s, per_day, merge_s=rules.merge_s, confirm_s=rules.confirm_s,
        confirm_share=rules.confirm_share, guess=usual_of(detector, len(scores.kpi_meta)),
    )  # fmt: skip


def examine(
    detector: Any, frames: Sequence[Frame], known: Sequence[Judged], held: Sequence[Judged], cut_ns: int,
    score: Any,
) -> Exam:  # fmt: skip
    """Score the kept rows and count what is told from `cut_ns` on."""
    found: set[str] = set()
    right: set[str] = set()
    false_alarms = 0
    for frame in frames:
        scores = detector.score(frame.without_labels())
        events = decide(scores, threshold_of(detector, scores, score), score.rules)
        for event in events:
            last_ns = int(scores.time_ns[event.end - 1])
            if last_ns < cut_ns:
                continue
            touched = [one for one in held if touches(event, last_ns, one)]
            real = [one for one in touched if one.is_real]
            found |= {one.id for one in real}
            kind = named_kind(detector, scores, event)
            right |= {one.id for one in real if kind and kind == one.fault_type}
            assert frame.labels is not None
            is_excused = frame.labels.ignore[event.rows].any() or any(
                touches(event, last_ns, one) for one in known if one.is_real
            )
            false_alarms += not is_excused
    return Exam(sum(one.is_real for one in held), len(found), false_alarms, len(right))


def touches(event: Event, last_ns: int, one: Judged) -> bool:
    """Whether an event and a judged incident overlap, an early alarm included."""
    return event.start_ns <= one.end_ns and last_ns >= one.start_ns - round(EARLY_S * 1e9)


def named_kind(detector: Any, scores: Scores, event: Event) -> str | None:
    """The fault type that an adapter names, or the verdict beside the weights."""
    if scores.kinds is None or not scores.kind_names:
        return None
    name: str = detector.verdict.name(scores.kinds[event.rows])
    return name


def is_better(candidate: Exam, in_use: Exam) -> bool:
    """At least as good in both ways, and better in one; equal in both, by the fault types named right."""
    ours, theirs = (candidate.found, -candidate.false_alarms), (in_use.found, -in_use.false_alarms)
    if ours == theirs:
        return candidate.kinds_right > in_use.kinds_right
    return all(a >= b for a, b in zip(ours, theirs, strict=True))
