"""Rows come in, incidents come out: the newest rows with scores and thresholds, and what is wrong.

One Monitor watches one system. It does no I/O and knows no clock; what a row gets depends on it and earlier
rows only, the same numbers as `foreshock score` gives the whole recording. KPIs may appear and vanish.

Not here: reading metrics (sources), telling people (alerts), what outlasts the process (store, service).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from foreshock.alerts.severity import louder, severity
from foreshock.calibrate import CausalCalibrator, Threshold, from_labels, usual_of
from foreshock.config import Settings
from foreshock.decide import Decider, Event
from foreshock.explain import explain
from foreshock.findings import Cause
from foreshock.frame import Frame, Kpi
from foreshock.models import Detector, ScoreStream
from foreshock.scores import Scores
from foreshock.stream.history import History
from foreshock.stream.incident import (
    Change,
    Incident,
    Known,
    ended,
    likely_kinds,
    matched,
    name_of,
    reopened,
)

__all__ = ["Change", "Incident", "Known", "Monitor", "ended"]

MOST_CELLS = (
    24_000_000  # values kept: 20 bytes each with their scores; 3,608 series for a day at 15 s are 21 M
)
RUN_CELLS = 640_000  # values scored at once
RESCORED_CELLS = 4_000_000  # values scored anew when the detector changes or can't take new KPIs
SWEEPS = 16  # times a window that silent KPIs are looked for
EARLY_ROWS = 8  # an incident's cause is looked for anew at each of its first rows, then ever more rarely
SLACK_ROWS = 4  # two tellings of one incident overlap, or lie no further apart


class Monitor:
    """Watches rows as they come."""

    def __init__(
        self,
        detector: Detector,
        step_s: float,
        settings: Settings,
        keep_rows: int = 5760,
    ) -> None:
        """Begin with nothing known.

        Args:
            keep_rows: rows that explanations, the page and a new detector can look back on; fewer are kept
                when they would be more than MOST_CELLS values.
        """
        self.detector = detector
        self.step_s = step_s
        self.settings = settings
        self.keep_rows = keep_rows
        self.incidents: dict[str, Incident] = {}  # open ones, and those closed within the rows kept
        self.level: Threshold | None = None  # of the newest row
        self.late_rows = 0  # rows that came after a later one, or twice, and were left out
        self._history = History(keep_rows)
        self._ids: dict[int, str] = {}  # event of the decider → incident
        self._taken: set[str] = set()  # names of earlier processes
        self._untold: list[Change] = []  # found before an error
        self._earlier = (np.zeros(0, np.int64), np.zeros(0))  # rows and scores of earlier processes
        self._begin()

    def _begin(self) -> None:
        """A stream, calibrator and decider that know nothing yet."""
        rules, threshold = self.settings.rules, self.settings.threshold
        confirm_s, share = rules.confirm_s, rules.confirm_share
        self._stream: ScoreStream | None = self.detector.stream()
        self._calibrator = CausalCalibrator(
            self.step_s, **asdict(threshold), merge_s=rules.merge_s, confirm_s=confirm_s, confirm_share=share,
            guess=usual_of(self.detector, len(self._history.kpis)),
        )  # fmt: skip
        # An adapter that learned from labels brings its own level.
        self._given: Threshold | None = None
        if (level := getattr(self.detector, "threshold", None)) is not None:
            per_day = threshold.false_alarms_per_day
            self._given = from_labels(level, self.step_s, per_day, confirm_s=confirm_s, confirm_share=share)
        self._decider = Decider(self.step_s, rules)
        self._ids = {}

    # ------------------------------------------------------------------------------------ what is known

    @property
    def frame(self) -> Frame | None:
        """The rows kept; None before the first."""
        return self._history.frame

    @property
    def scores(self) -> Scores | None:
        """Of the rows kept."""
        return self._history.scores

    @property
    def high(self) -> np.ndarray:
        """(T,) threshold of each row kept."""
        return self._history.high

    @property
    def first_row(self) -> int:
        """The row of `frame`'s first one, as events count."""
        return self._history.first

    @property
    def last_ns(self) -> int | None:
        """Stamp of the newest row."""
        frame = self._history.frame
        return int(frame.time_ns[-1]) if frame is not None and len(frame) else None

    def rows_of(self, event: Event) -> slice:
        """The rows of `frame` that an event covers; empty when they are not kept any more."""
        start = max(0, event.start - self.first_row)
        return slice(start, max(start, event.end - self.first_row))

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        return tuple(i for i in self.incidents.values() if i.closed_ns is None)

    @property
    def scored_by(self) -> str:
        """Tells scores apart that don't mean the same: a digest of the detector and the step."""
        told = json.dumps([self.detector.describe(), self.step_s], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()

    def remember(self, time_ns: np.ndarray, system: np.ndarray) -> None:
        """Go on from what an earlier process told: its rows' scores stand, and thresholds learn from them.

        Call it once, before any row, with scores of the same `scored_by`.

        Args:
            time_ns: (T,) int64, rising; rows that will be pushed, and rows before them.
            system: (T,) their scores, NaN where nothing was observed.
        """
        self._earlier = (time_ns, system)

    def _learn_earlier(self, first_ns: int) -> None:
        """Let the threshold learn from the remembered rows before the first one pushed."""
        time_ns, system = self._earlier
        old = time_ns < first_ns
        if old.any():
            # As an uninterrupted process: what nobody scored is missing.
            ahead = np.rint((first_ns - time_ns[old]) / (self.step_s * 1e9)).astype(np.int64)
            rows = min(int(ahead[0]), self.settings.threshold.memory_rows)
            kept = (ahead > 0) & (ahead <= rows)
            scores = np.full(rows, np.nan)
            scores[rows - ahead[kept]] = system[old][kept]
            self._calibrator.push(scores)
        self._earlier = (time_ns[~old], system[~old])

    def _as_told(self, scores: Scores) -> Scores:
        """Scores that an earlier process told stand, where it had some."""
        time_ns, told = self._earlier
        if not len(time_ns):
            return scores
        at = np.minimum(np.searchsorted(time_ns, scores.time_ns), len(time_ns) - 1)
        stands = (time_ns[at] == scores.time_ns) & np.isfinite(told[at])
        left = time_ns > scores.time_ns[-1]
        self._earlier = (time_ns[left], told[left])
        return replace(scores, system=np.where(stands, told[at], scores.system).astype(np.float32))

    # ---------------------------------------------------------------------------------------- new rows

    def push(self, piece: Frame) -> tuple[Change, ...]:
        """Score the next rows and tell what they change, in order.

        Rows that are not later than all before are left out and counted; KPIs that were never observed are
        taken in when they have a first value, and given up when all rows kept lack them. After an error, push
        the rows again: those that were taken count as late.

        Raises:
            FrameError: rows out of order.
        """
        if self.last_ns is not None:
            fresh = piece.time_ns > self.last_ns
            self.late_rows += int((~fresh).sum())
            piece = piece if fresh.all() else piece.rows(fresh)
        if len(piece) == 0:
            return ()
        piece = self._arranged(replace(piece.require_clock().without_labels(), step_s=self.step_s))
        rows = max(1, RUN_CELLS // len(piece.kpis))
        for at in range(0, len(piece), rows):
            self._untold += self._take(piece.rows(slice(at, at + rows)))
        self._forget()
        told, self._untold = self._untold, []
        return tuple(told)

    def prepare(self) -> bool:
        """Work ahead on what the next row will need, for a moment; whether there is more to do.

        It changes no result: a row that finds everything prepared is scored sooner.
        """
        prepare = getattr(self._stream, "prepare", None)
        return prepare is not None and bool(prepare())

    def _arranged(self, piece: Frame) -> Frame:
        """The piece with the columns of the rows kept; these widen for KPIs that are new."""
        known = self._history.kpis
        names = {kpi.name for kpi in known}
        seen = np.isfinite(piece.values).any(0)
        new = tuple(
            kpi for kpi, is_seen in zip(piece.kpis, seen, strict=True) if is_seen and kpi.name not in names
        )
        if not known and not new:
            new = piece.kpis
        if new:
            self._relayout((*known, *new))
        kpis = (*known, *new)
        if kpis == piece.kpis:
            return piece
        places = {kpi.name: column for column, kpi in enumerate(piece.kpis)}
        values = np.full((len(piece), len(kpis)), np.nan)
        for column, kpi in enumerate(kpis):
            if kpi.name in places:
                values[:, column] = piece.values[:, places[kpi.name]]
        return replace(piece, values=values, kpis=kpis)

    def _relayout(self, kpis: tuple[Kpi, ...]) -> None:
        self._calibrator.guess = usual_of(self.detector, len(kpis))
        self._history.relayout(kpis, max(1, min(self.keep_rows, MOST_CELLS // max(1, len(kpis)))))
        if self._history.frame is None:
            return
        relayout = getattr(self._stream, "relayout", None)
        if relayout is not None:
            relayout(kpis)
        else:
            self._stream = None

    def _take(self, piece: Frame) -> list[Change]:
        stream, self._stream = self._stream or self._caught_up(), None
        scores = stream.push(piece)  # a stream that failed half-way is not used again
        self._stream = stream
        if not len(self._history):
            self._learn_earlier(int(piece.time_ns[0]))
        scores = self._as_told(scores)
        threshold = self._given or self._calibrator.push(scores.system)
        self.level = threshold if isinstance(threshold, Threshold) else threshold.last or self.level
        changes = self._decider.push(scores, threshold)
        self._history.append(piece, scores, np.broadcast_to(threshold.high, scores.system.shape))
        out = []
        for change in changes:
            incident = self._renewed(change.event, change.kind == "closed")
            out.append(Change(change.kind, incident))
        return out

    def _caught_up(self) -> ScoreStream:
        """A new stream that has read the newest rows kept."""
        stream, frame = self.detector.stream(), self._history.frame
        if frame is not None and len(frame):
            rows = max(1, RUN_CELLS // len(frame.kpis))
            for at in range(max(0, len(frame) - RESCORED_CELLS // len(frame.kpis)), len(frame), rows):
                stream.push(frame.rows(slice(at, at + rows)))
        return stream

    # ---------------------------------------------------------------------------------------- incidents

    def _renewed(self, event: Event, is_closed: bool) -> Incident:
        """The incident of an event, as it is now."""
        known = self.incidents.get(self._ids.get(event.id, ""))
        age = event.end - event.detected
        cause = None if known is None else known.cause
        if cause is None or is_closed or age <= EARLY_ROWS or age & (age - 1) == 0:
            cause = self._explain(event)
        if known is None:
            self._ids[event.id] = name_of(event.start_ns, {*self.incidents, *self._taken})
        loudness = severity(event, cause, len({kpi.service for kpi in self._history.kpis}))
        scores = self._history.scores
        kinds = None if scores is None or scores.kinds is None else scores.kinds[self.rows_of(event)]
        incident = Incident(
            id=self._ids[event.id],
            event=event,
            cause=cause,
            first_cause=cause.to_dict() if known is None else known.first_cause,
            kinds=likely_kinds(kinds, () if scores is None else scores.kind_names),
            severity=loudness if known is None else louder(loudness, known.severity),
            found_ns=event.detected_ns if known is None else known.found_ns,
            closed_ns=self.last_ns if is_closed else None,
            kinds_from="" if scores is None else scores.kinds_from,
        )
        self.incidents[incident.id] = incident
        return incident

    def _explain(self, event: Event) -> Cause:
        frame = self._history.frame
        assert frame is not None
        others = [self._shifted(i.event) for i in self.incidents.values() if i.event.id != event.id]
        return explain(frame, self._history.scores, self._shifted(event), others=others)

    def _shifted(self, event: Event) -> Event:
        """An event with its rows counted as in `frame`."""
        rows = self.rows_of(event)
        detected = max(0, event.detected - self.first_row)
        return replace(event, start=rows.start, end=max(rows.stop, rows.start + 1), detected=detected)

    def _forget(self) -> None:
        """Let go of incidents and KPIs that lie outside the rows kept."""
        frame = self._history.frame
        assert frame is not None
        oldest = int(frame.time_ns[0])
        gone = [
            i for i, one in self.incidents.items() if one.closed_ns is not None and one.closed_ns < oldest
        ]
        for id in gone:
            del self.incidents[id]
        self._ids = {event: id for event, id in self._ids.items() if id in self.incidents}
        if len(frame) == self._history.keep and self._row % max(1, self._history.keep // SWEEPS) == 0:
            silent = self._history.silent()
            if silent.any() and not silent.all():
                kept = tuple(k for k, is_silent in zip(frame.kpis, silent, strict=True) if not is_silent)
                self._relayout(kept)

    @property
    def _row(self) -> int:
        return self.first_row + len(self._history)

    # --------------------------------------------------------------------------- restart, new detector

    def resume(
        self, told: Sequence[Known], until_ns: int | None
    ) -> tuple[tuple[Change, ...], tuple[str, ...]]:
        """Give the incidents found so far the names under which an earlier process told them.

        Call it once, after the rows since before that process's last one were pushed.

        Args:
            told: what the earlier process told, in any order.
            until_ns: the last row it scored; what was over by then and it did not find is not told anew.
                None: there was no earlier process, everything found is news.

        Returns:
            What differs from what was told, and the names of those told as open that are over by now.
        """
        found = sorted(self.incidents.values(), key=lambda i: i.event.start_ns)
        same = matched(found, told, round(SLACK_ROWS * self.step_s * 1e9))
        self._taken = {known.id for known in told}
        self.incidents, events = {}, {id: event for event, id in self._ids.items()}
        self._ids, out = {}, []
        for incident in found:
            known = same.get(incident.id)
            change: Change | None
            if known is not None:
                loudness = louder(known.severity, incident.severity)
                incident, before = reopened(incident, known, loudness), incident
                is_news = known.closed_ns is None or incident.closed_ns is None
                change = Change("updated" if incident.closed_ns is None else "closed", incident)
                change = change if is_news else None
            else:
                before = incident
                end_ns = incident.event.end_ns
                if end_ns is not None and until_ns is not None and end_ns <= until_ns:
                    continue
                taken = {*self.incidents, *self._taken}
                incident = replace(incident, id=name_of(incident.event.start_ns, taken))
                change = Change("opened" if incident.closed_ns is None else "closed", incident)
            self.incidents[incident.id] = incident
            if before.id in events:
                self._ids[events[before.id]] = incident.id
            out += [change] if change else []
        seen = {known.id for known in same.values()}
        return tuple(out), tuple(k.id for k in told if k.closed_ns is None and k.id not in seen)

    def replace_detector(self, detector: Detector) -> tuple[Change, ...]:
        """Go on with another detector: the newest rows kept are scored anew, incidents keep their names.

        Returns what that changes. On an error everything stays as it was.
        """
        fresh = Monitor(detector, self.step_s, self.settings, self.keep_rows)
        frame, before = self._history.frame, [Known.now(i) for i in self.incidents.values()]
        if frame is None or len(frame) == 0:
            self.detector = detector
            self._begin()
            return ()
        fresh.push(frame.rows(slice(max(0, len(frame) - RESCORED_CELLS // len(frame.kpis)), len(frame))))
        changes, over = fresh.resume(before, self.last_ns)
        assert self.last_ns is not None
        closed = tuple(Change("closed", replace(self.incidents[i], closed_ns=self.last_ns)) for i in over)
        fresh._taken |= self._taken
        self.__dict__.update(fresh.__dict__, late_rows=self.late_rows)
        for change in closed:
            self.incidents[change.incident.id] = change.incident
        return (*changes, *closed)
