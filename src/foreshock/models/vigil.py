"""The default detector: recognition at three scales, beside how each KPI moves, strays and repeats itself.

For each KPI and row, evidence is a product. The chance that recognition sees (the mean over 1, 4 and 16
rows a step). How far the KPI's movement lately exceeds its usual movement: movement is the squared step from
the row before, and the squared distance from what the network expected. How surprising its value is after
all its past surprises, or how far outside all of its past it lies. Each alone is fooled: the network by
shapes it never met, movement by every spike that comes back each hour, surprise by whatever wanders. Where
they agree, something is going on. A shape that the KPI never had adds to the first two, since neither sees
it where each row is an ordinary one. All of it is causal, and needs no label, no training and no threshold
of its own.

Not here: the network (recognise), blocks and scales (scan), errors (surprise, distance), shapes (novelty),
pooling (scores).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from foreshock.calibrate import Guess
from foreshock.errors import ConfigError, FrameError
from foreshock.frame import Frame, Kpi
from foreshock.models.discord import Discord, States
from foreshock.models.distance import Distance
from foreshock.models.evidence import EvidenceOptions, require_later
from foreshock.models.novelty import Novelty
from foreshock.models.recognise import Recogniser
from foreshock.models.scan import Reading, Scan
from foreshock.models.surprise import Surprise
from foreshock.scores import Layout, Scores, layout, pool, smooth
from foreshock.windows import PATCH, fill_forward, rearranged, to_grid

# Little history has to do here, since two other signals must agree: Online Boutique's first hundred rows
# (docs/log.md, 2026-11-26).
SURPRISE: dict[str, Any] = {"trust_steps": 2, "tail_prior_steps": 240}
LARGEST = 1e30  # no KPI is larger; squares and sums of more would overflow
SURE = 0.3  # chance that counts half: beyond, more of it tells little more; docs/log.md, 2026-11-26
NEW = 0.05  # what novelty counts beside chance and movement; 0.1: NAB and UCR gain 0.01, ASD and TODS lose it
CROWD = 64  # KPIs up to which discords are looked for; they share one weight, as each has its own by chance
SIGNALS = ("chance", "movement", "surprise", "novelty", "discord")
# Evidence has no unit, so quiet scores reach the same height in most systems: what two of two or four of six
# rows reach once in 1,000 rows is 2.3 to 3.2 on IOPS, WSD, UCR, SMD, ASD and the simulator; docs/log.md,
# 2026-11-26, where this comes from and what it does.
USUAL = Guess(high=2.5, at_once=5.0)
FIRST_USUAL = 32  # rows before any step is too wild to teach
CELLS = 2**20  # values judged at once
AHEAD = 512  # series worked ahead on at once: about 0.1 s


@dataclass(frozen=True, slots=True)
class VigilOptions:
    """How rows become evidence."""

    length: int = 256  # steps the network sees, the judged block included; 512 changes little
    block: int = 32  # steps judged behind one context
    scales: tuple[int, ...] = (1, 4, 16)  # rows a step
    widths: tuple[int, ...] = (4, 16)  # rows over which movement is averaged: longer ones outlast an incident
    usual: int = 4096  # rows that tell the usual movement
    wildest: float = 10.0  # times the usual squared step above which a step doesn't teach what is usual
    most: float = 100.0  # no movement counts as more than so many times the usual
    newest: float = 0.9  # what a row counts in services and system, the rows before it the rest
    signals: tuple[str, ...] = SIGNALS  # fewer show what each is worth
    surprise: EvidenceOptions = field(default_factory=lambda: EvidenceOptions(**SURPRISE))

    def __post_init__(self) -> None:
        if self.block < PATCH or self.block % PATCH or self.length % PATCH:
            raise ConfigError(
                f"length {self.length} and block {self.block} must be multiples of {PATCH}, "
                f"and the block at least {PATCH}."
            )
        if unknown := [name for name in self.signals if name not in SIGNALS]:
            raise ConfigError(f"there is no signal {unknown[0]!r}; known: {', '.join(SIGNALS)}.")
        if self.length <= self.block:
            raise ConfigError(f"the block ({self.block}) must be shorter than the length ({self.length}).")


class Movement:
    """Mean of squares (steps, or errors) of each KPI over the last rows, in units of what is usual for it.

    What is usual is the mean over the past, single steps cut at `wildest` times the mean so far: an incident
    must not make the next one look calm.
    """

    def __init__(self, options: VigilOptions) -> None:
        self.options = options
        self.newest: np.ndarray | None = None  # (max(widths), K) the newest squares
        self.total: np.ndarray | None = None  # (K,) of squares, forgetting slowly
        self.most: np.ndarray  # (K,) the largest step that teaches; 0 while any does
        self.count: np.ndarray  # (K,) rows since the KPI was first observed, forgetting like `total`
        self.rows = 0

    def push(self, squared: np.ndarray, told: np.ndarray) -> np.ndarray:
        """The next rows' squares (n, K) → (n, K), the sum over `widths`; 1 a width is usual.

        Args:
            told: (n, K) bool, False before a KPI's first value: those rows are no calm past.
        """
        o = self.options
        longest, kpis = max(o.widths), squared.shape[1]
        if self.newest is None or self.total is None:
            self.newest, self.total = np.zeros((longest, kpis)), np.zeros(kpis)
            self.most, self.count = np.zeros((2, kpis))
        known = np.concatenate([self.newest, squared])
        sums = np.cumsum(known, 0)
        recent = np.sum([(sums[longest:] - sums[longest - w : -w]) / w for w in o.widths], axis=0)
        usual = self._usual(squared, told)
        self.newest = known[-longest:]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.maximum(np.nan_to_num(recent / usual), 0))

    def _usual(self, squared: np.ndarray, told: np.ndarray) -> np.ndarray:
        """The mean square up to each row, (n, K)."""
        out, at = np.empty_like(squared), 0
        assert self.total is not None
        while at < len(squared):
            # Forgetting happens once a block, so that pieces don't matter.
            if self.rows % self.options.block == 0:
                keep = np.minimum(1.0, self.options.usual / np.maximum(self.count, 1.0))
                self.total, self.count = self.total * keep, self.count * keep
                largest = self.options.wildest * self.total / np.maximum(self.count, 1.0)
                self.most = np.where(self.count >= FIRST_USUAL, largest, 0)
            stop = min(len(squared), at + self.options.block - self.rows % self.options.block)
            steps = squared[at:stop]
            tame = np.where(self.most > 0, np.minimum(steps, self.most), steps)
            sums, counts = self.total + np.cumsum(tame, 0), self.count + np.cumsum(told[at:stop], 0)
            out[at:stop] = sums / np.maximum(counts, 1.0)
            self.total, self.count, self.rows = sums[-1], counts[-1], self.rows + stop - at
            at = stop
        return out

    def take(self, columns: np.ndarray) -> None:
        """Go on with these KPIs, by their column; -1 is one that was never observed."""
        if self.newest is not None and self.total is not None:
            self.newest, self.total = rearranged(self.newest, columns, 0), rearranged(self.total, columns, 0)
            self.most, self.count = rearranged(self.most, columns, 0), rearranged(self.count, columns, 0)


class VigilStream:
    """Scores rows as they come. What a row gets depends on it and earlier rows only."""

    scan_type: type[Scan] = Scan  # of its parts, for streams that listen to them
    surprise_type: type[Surprise] = Surprise

    def __init__(self, recogniser: Recogniser, options: VigilOptions, detector: str) -> None:
        self.recogniser = recogniser
        self.options = options
        self.detector = detector
        self.kpis: tuple[Kpi, ...] = ()
        self.layout: Layout
        self.step_s = 0.0
        self.clock: tuple[int, int] | None = None  # slot and time of the last row
        self.newest: np.ndarray | None = None  # (K,) the last value observed
        self.lasting: np.ndarray | None = None  # (K,) running mean of the evidence
        o = options
        crowd = CROWD if "discord" in o.signals else 0
        self.scans = [self.scan_type(recogniser, f, o.length, o.block, crowd) for f in o.scales]
        self.steps, self.misses = Movement(o), Movement(o)
        self.surprise, self.distance = self.surprise_type(o.surprise), Distance(o.surprise)
        self.novelty, self.discord = Novelty(), Discord()

    def push(self, piece: Frame) -> Scores:
        """Score the next rows.

        Raises:
            FrameError: other KPIs than before, or rows that are not later than all before.
        """
        require_later(piece, None if self.clock is None else self.clock[1])
        self._begin(piece)
        values = np.where(np.isfinite(piece.values), np.clip(piece.values, -LARGEST, LARGEST), np.nan)
        grid = to_grid(piece.time_ns, self.step_s, self.clock, self.options.length)
        first = 0 if self.clock is None else self.clock[0] + 1
        evidence = np.zeros(values.shape, np.float32)
        expected = np.full(values.shape, np.nan, np.float32)
        for rows in self._runs(grid.slots):
            begin = first if rows.start == 0 else int(grid.slots[rows.start - 1]) + 1
            dense = np.full((int(grid.slots[rows.stop - 1]) + 1 - begin, values.shape[1]), np.nan)
            at = grid.slots[rows] - begin
            dense[at] = values[rows]
            found, told = self._judge(dense)
            evidence[rows], expected[rows] = found[at], told[at]
        self.clock = (int(grid.slots[-1]), int(piece.time_ns[-1]))
        evidence = np.where(np.isfinite(values), evidence, np.nan).astype(np.float32)
        before = np.zeros(values.shape[1]) if self.lasting is None else self.lasting
        lasting = smooth(evidence, before, self.options.newest)
        self.lasting = lasting[-1]
        services, system = pool(np.where(np.isfinite(evidence), lasting, np.nan), self.layout)
        meta = (piece.kpis, piece.services, piece.step_s, self.detector)
        return Scores(piece.time_ns, evidence, services, system, *meta, expected=expected)

    def prepare(self, most: int = AHEAD) -> bool:
        """Work ahead on what the next row needs and earlier rows tell, in part; whether more is left.

        Scores are the same without it; rows that come one by one just wait for less.
        """
        self.surprise.prepare()
        self.distance.prepare()
        self.novelty.prepare()
        if any(scan.prepare(most) for scan in self.scans):
            return True
        states = _first(scan.coming() for scan in self.scans)
        return states is not None and self.discord.prepare(states, most)

    def relayout(self, kpis: tuple[Kpi, ...]) -> None:
        """Go on with other KPIs: those known keep their past, new ones were never observed until now.

        Gives the scores of a stream that had all of them from its first row on.
        """
        if self.clock is None:
            return
        known = {kpi: column for column, kpi in enumerate(self.kpis)}
        self._rearrange(np.array([known.get(kpi, -1) for kpi in kpis]), kpis)
        self.kpis, self.layout = kpis, layout(kpis)

    def _rearrange(self, columns: np.ndarray, kpis: tuple[Kpi, ...]) -> None:
        """Keep what is known of these KPIs, by their column so far; -1 is a new one."""
        for scan in self.scans:
            scan.take(columns)
        self.steps.take(columns)
        self.misses.take(columns)
        self.surprise.take(columns)
        self.distance.take(columns)
        self.novelty.take(columns)
        self.discord.take(columns)
        self.newest = None if self.newest is None else rearranged(self.newest, columns, np.nan)
        self.lasting = None if self.lasting is None else rearranged(self.lasting, columns, 0)

    def _begin(self, piece: Frame) -> None:
        if self.clock is None:
            self.kpis, self.layout, self.step_s = piece.kpis, layout(piece.kpis), piece.step_s
        elif piece.kpis != self.kpis:
            raise FrameError(
                f"the piece has {len(piece.kpis)} KPIs that are not the stream's {len(self.kpis)}; "
                "a stream keeps its KPIs, start a new one."
            )

    def _runs(self, slots: np.ndarray) -> list[slice]:
        """Rows in runs of whole blocks, few enough at once to bound memory."""
        span = self.options.block * max(1, CELLS // (self.options.block * len(self.kpis)))
        edges = np.flatnonzero(np.diff(slots // span)) + 1
        return [slice(int(a), int(b)) for a, b in zip([0, *edges], [*edges, len(slots)], strict=True)]

    def _judge(self, dense: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evidence and expectation of the next slots (n, K), NaN where nobody observed."""
        before = np.full(dense.shape[1], np.nan) if self.newest is None else self.newest
        known = fill_forward(np.concatenate([before[None], dense]).T).T
        filled = known[1:]
        self.newest = filled[-1]
        readings = [scan.push(filled) for scan in self.scans]
        chances = np.stack([r.chance for r in readings])
        expected = readings[0].expected
        steps = squares(np.diff(known, axis=0))
        misses = np.where(np.isfinite(expected), squares(filled - expected), steps)
        told = np.isfinite(filled)
        movement = (self.steps.push(steps, told) + self.misses.push(misses, told)) / 2
        surprise = np.maximum(self.surprise.push(dense, expected), self.distance.push(dense))
        discord = self._discord(readings, dense.shape)
        return fuse(chances, movement, surprise, self.novelty.push(filled), discord, self.options), expected

    def _discord(self, readings: list[Reading], shape: tuple[int, ...]) -> np.ndarray:
        """What the states before each row's patch say, (n, K); nothing where none are told, as in a crowd."""
        states = _first(reading.states for reading in readings)
        if states is None:
            return np.zeros(shape)
        stop = self.scans[0].rows
        return self.discord.push(states)[np.arange(stop - shape[0], stop) // PATCH - states.first]


def _first(told: Iterable[States | None]) -> States | None:
    return next((states for states in told if states is not None), None)


def squares(values: np.ndarray) -> np.ndarray:
    """Squares, 0 for NaN."""
    return np.asarray(np.nan_to_num(values) ** 2)


def fuse(
    chances: np.ndarray, movement: np.ndarray, surprise: np.ndarray, novelty: np.ndarray, discord: np.ndarray,
    o: VigilOptions,
) -> np.ndarray:  # fmt: skip
    """Evidence (n, K), 0 is calm.

    Args:
        chances: (scales, n, K), NaN where a scale has too little past; the others are averaged.
        movement: (n, K), as many as there are widths is usual; counts up to `o.most`.
        surprise: (n, K), 0 is none, 1 as large as the past's large ones.
        novelty: (n, K), 0 is none, 1 twice as far from all past stretches as usual.
        discord: (n, K), 0 is none, 1 more than twice as far from all of its past states as usual.
    """
    told = np.isfinite(chances)
    chance = np.where(told, chances, 0).sum(0) / np.maximum(told.sum(0), 1)
    factors = {"chance": chance / (chance + SURE), "movement": np.sqrt(np.minimum(movement, o.most))}
    rows = [factors[name] for name in factors if name in o.signals]
    parts = [np.prod(rows, axis=0)] if rows else []
    if "novelty" in o.signals:
        parts.append(NEW * novelty)
    if "discord" in o.signals:
        parts.append(discord / discord.shape[1])
    if not parts:
        return surprise
    found = np.sum(parts, axis=0)
    return np.asarray(found * (1 + surprise) if "surprise" in o.signals else found)


class VigilDetector:
    """Recognition, movement, surprise and novelty, fused; causal."""

    def __init__(
        self, name: str, recogniser: Recogniser, options: VigilOptions, facts: dict[str, Any]
    ) -> None:
        self.name = name
        self.recogniser = recogniser
        self.options = options
        self.facts = facts
        self.guess: Guess | None = USUAL if options.signals == SIGNALS else None

    def stream(self) -> VigilStream:
        return VigilStream(self.recogniser, self.options, self.name)

    def score(self, frame: Frame) -> Scores:
        return self.stream().push(frame)

    def describe(self) -> dict[str, Any]:
        return {"detector": self.name, "causal": True, "options": asdict(self.options), **self.facts}
