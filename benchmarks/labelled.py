"""Labelled recordings for learning and judging: simulated ones with roots never taught, and the real ones.

Teaching: Train Ticket at 30 s, 512 quiet rows, then a fault about every 40 minutes. Judging: another seed,
48 hours, a fault about every two and a half hours as the simulator draws them. No service is a root in both:
UNSEEN ones are the judging part's alone (but for the traffic surge, which always comes in at the gateway).
All 14 kinds occur in each. Real recordings are split in time in the middle between two incidents, and their
faults last four rows, so a window is of 8. Online Boutique has a fault every eight rows and then none: before
the cut nothing is quiet, so quiet windows are learned from the day's end, where nothing is judged.
Servers of one set teach together, each by the first half of its labelled part; later halves judge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import foreshock
from foreshock.evaluate.parts import DataSet, named_parts
from foreshock.frame import Frame
from foreshock.metrics import fault_spans
from foreshock.sources import simulator
from foreshock.sources.simulator import FAULTS, RAMPS, TRAINTICKET, Fault

STEP_S = 30.0
QUIET_ROWS = 512  # that begin a teaching recording, so that the detector has a past
SHOT_ROWS = 32
JUDGED_ROWS = 5760
TEACHING_PAUSE_S, JUDGING_PAUSE_S = (900.0, 2700.0), (3600.0, 9000.0)
_UNSEEN = "order-other route price basic travel2 auth contacts execute payment config"
UNSEEN = tuple(f"ts-{name}-service" for name in _UNSEEN.split())
REAL_SHOT_ROWS = 8
# File, where judging ends, share of the incidents that teach, whether rows behind the judged ones teach.
REAL = {
    "Online Boutique": ("nezha/onlineboutique_2022-08-22.parquet", 800, 0.5, True),
    "Train Ticket": ("nezha/trainticket88_2023-01-29.csv.gz", "2023-01-29T15:50", 0.5, False),
}
SERVERS = {
    "SMD, 4 servers": DataSet("SMD", "smd/smd.parquet", "entities", timestamp="t", step_s=60),
    "ASD, 12 servers": DataSet("ASD", "asd/asd.parquet", "entities", timestamp="t", step_s=300),
}


@dataclass(frozen=True, slots=True)
class Task:
    """A recording to learn from and one to be judged on."""

    name: str
    teaching: Frame
    judged: Frame
    first: int  # row of `judged` from which rows count; earlier ones are its past
    until: np.datetime64 | None = None
    shot_rows: int = SHOT_ROWS

    @property
    def ignore(self) -> np.ndarray:
        """(T,) bool: recovery, faults no metric shows, and rows outside the judged part."""
        labels = self.judged.labels
        assert labels is not None
        out = labels.ignore | (labels.anomaly & ~labels.metric_visible)
        out = out | (np.arange(len(self.judged)) < self.first)
        return out if self.until is None else out | (self.judged.time >= self.until)

    @property
    def faults(self) -> list[tuple[int, int]]:
        """First row and row after the last of each judged fault."""
        labels = self.judged.labels
        assert labels is not None
        return fault_spans(np.where(labels.anomaly & ~self.ignore, labels.fault_id, -1))


def simulated(seed: int, shots: int) -> Task:
    """Taught by so many windows from seed 1000 + s, judged on 2000 + s."""
    return Task("simulated Train Ticket", teaching(1000 + seed, shots), judging(2000 + seed), 0)


def teaching(seed: int, shots: int) -> Frame:
    """As many rows as so many windows have, behind the quiet ones; more windows begin with fewer."""
    rows = QUIET_ROWS + max(shots, 1) * SHOT_ROWS
    return simulator.simulate(seed, rows, STEP_S, _faults(seed, rows, is_teaching=True), system=TRAINTICKET)


def judging(seed: int, rows: int = JUDGED_ROWS) -> Frame:
    return simulator.simulate(seed, rows, STEP_S, _faults(seed, rows, is_teaching=False), system=TRAINTICKET)


def _faults(seed: int, rows: int, is_teaching: bool) -> tuple[Fault, ...]:
    """Each kind in turn before any comes again, sizes and lengths as the simulator draws them."""
    rng = np.random.default_rng([seed, 77])
    out: list[Fault] = []
    kinds: list[str] = []
    at = QUIET_ROWS * STEP_S + rng.uniform(0, 900) if is_teaching else 7200 + rng.uniform(0, 3600)
    while at < rows * STEP_S:
        kinds = kinds or [str(kind) for kind in rng.permutation(sorted(FAULTS))]
        kind = kinds.pop()
        places = TRAINTICKET.roots.get(kind, (TRAINTICKET.entrance,))
        if kind in TRAINTICKET.roots:
            places = tuple(name for name in places if (name in UNSEEN) != is_teaching)
        service = places[int(rng.integers(len(places)))]
        lasts = rng.uniform(2400, 4800) if kind in RAMPS else rng.uniform(300, 1200)
        size, onset, recovery = rng.uniform(0.6, 1.1), rng.uniform(20, 80), rng.uniform(60, 120)
        pause = rng.uniform(*(TEACHING_PAUSE_S if is_teaching else JUDGING_PAUSE_S))
        if is_teaching or at + lasts + 300 <= rows * STEP_S:
            out.append(Fault(kind, service, at, lasts, size, onset, recovery))
        at += lasts + pause
    return tuple(out)


def real(name: str, folder: Path) -> Task:
    """A recorded day: its earlier incidents teach, the later ones judge."""
    file, until, share, is_end_taught = REAL[name]
    whole = foreshock.read(str(folder / file))
    assert whole.labels is not None
    labels = whole.labels
    spans = fault_spans(np.where(labels.anomaly & labels.metric_visible, labels.fault_id, -1))
    last = max(1, round(share * len(spans))) - 1
    first = (spans[last][1] + spans[last + 1][0]) // 2
    # A gap after the cut, so that no window of a classifier reaches over it.
    gap = min(SHOT_ROWS, (spans[last + 1][0] - first) // 2)
    stop = whole.time[until] if isinstance(until, int) else np.datetime64(until)
    teaching = whole.rows(slice(0, first))
    if is_end_taught:
        is_judged = (np.arange(len(whole)) >= first) & (np.arange(len(whole)) < int(until) + gap)
        teaching = replace(whole, labels=replace(labels, ignore=labels.ignore | is_judged))
    return Task(name, teaching, whole, first + gap, stop, REAL_SHOT_ROWS)


def servers(name: str, folder: Path) -> tuple[Task, ...]:
    """Labelled servers, cut at one moment: the first from the middle on that is near no incident of any."""
    frames = {}
    for server, read in named_parts(SERVERS[name], folder, 0).items():
        part = read()
        frames[server] = part.frame.rows(slice(int(part.judged.argmax()), len(part.frame)))
    labels = [one.labels.anomaly for one in frames.values() if one.labels is not None]
    rows = min(map(len, labels))
    is_bad = np.any([own[:rows] for own in labels], axis=0)
    near = np.convolve(is_bad, np.ones(2 * SHOT_ROWS + 1), "same") > 0
    cut = int(np.flatnonzero(~near & (np.arange(rows) >= rows // 2))[0])
    return tuple(
        Task(f"{name}, {server}", one.rows(slice(0, cut)), one, cut + SHOT_ROWS)
        for server, one in frames.items()
    )
