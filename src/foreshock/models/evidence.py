"""From expected values to evidence: how surprising each value is by what its own past knew.

An expectation (a network, a median, the last value) says what each KPI should have been, block by
block, from earlier rows only. Here its errors are scaled by the KPI's own past errors, twice:
by their spread, so that units don't matter, and by their tail, so that a KPI that jumps every
few minutes has to jump further than one that never does.

Not here: the expectations (reconstruct, oneline); pooling KPIs into services (scores).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from foreshock.errors import ConfigError, FrameError
from foreshock.frame import Frame, Kpi
from foreshock.scores import Layout, Scores, layout, pool, smooth
from foreshock.windows import PATCH, quantiles, to_grid

CALM = 1e-6  # a ratio of error to usual error up to here is none


class Expectation(Protocol):
    """What a block of values should be, judged from the steps before it."""

    def expect(self, context: np.ndarray, block: int) -> np.ndarray:
        """(N, C) float64 with NaN where not observed → (N, block), NaN where nothing can be said."""
        ...


@dataclass(frozen=True, slots=True)
class EvidenceOptions:
    """How errors become evidence."""

    length: int = 256  # steps an expectation sees, its block included
    block: int = 32  # steps expected at once; scales are renewed once a block
    early: int = 64  # the first steps of a recording, which get blocks of one patch: answers from the start
    memory: int = 1024  # past steps that scale and tail are taken from
    tail: float = 0.98  # the past error that counts as 1
    tail_prior: float = 3.0  # robust z of that error before the past has told
    tail_prior_steps: int = 60  # how many steps that belief is worth
    trust_steps: int = 16  # observed steps at which evidence counts half
    least_change: float = 0.01  # share of a KPI's level below which a spread is not believed
    cap: float = 20.0  # no single value counts more than this
    newest: float = 0.6  # what a row counts in services and system, the rows before it the rest

    def __post_init__(self) -> None:
        if self.block < PATCH or self.block % PATCH or self.length % PATCH:
            raise ConfigError(
                f"length {self.length} and block {self.block} must be multiples of {PATCH}, "
                f"and the block at least {PATCH}."
            )
        if self.length <= self.block:
            raise ConfigError(f"the block ({self.block}) must be shorter than the length ({self.length}).")
        if self.memory < self.length:
            raise ConfigError(f"the memory ({self.memory}) must be at least the length ({self.length}).")


@dataclass
class _Block:
    """What was fixed when a block began, from rows before it."""

    expected: np.ndarray  # (signals, block, K)
    spread: np.ndarray  # (signals, K)
    tail: np.ndarray  # (signals, K)
    start: int  # slot of its first row
    seen: np.ndarray  # (K,) observed steps in memory


@dataclass
class _Past:
    """The last `memory` slots of a stream. Arrays end at slot `end`."""

    values: np.ndarray  # (M, K) float64
    errors: list[np.ndarray] = field(default_factory=list)  # per signal (M, K) float32
    surprises: list[np.ndarray] = field(default_factory=list)  # per signal (M, K) float32, error / spread
    lasting: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (K,) running mean of the evidence
    end: int = 0
    clock: tuple[int, int] | None = None  # slot and time of the last row
    block: _Block | None = None  # of the block that `end` lies in, if begun


def block_starts(first: int, stop: int, o: EvidenceOptions) -> np.ndarray:
    """First slots of the blocks that begin in [first, stop): short ones early, then of full length."""
    early = np.arange(0, min(o.early, stop), PATCH)
    late = np.arange(-(-o.early // PATCH) * PATCH, stop, o.block)
    starts = np.concatenate([early, late])
    return starts[starts >= first]


def block_length(start: int, o: EvidenceOptions) -> int:
    return PATCH if start < o.early else o.block


def require_later(piece: Frame, last_ns: int | None) -> None:
    """The check at every stream's door: rising stamps, all after the last row scored (None: no row yet).

    Raises:
        FrameError: unsorted or doubled stamps, no row, or rows already scored.
    """
    piece.require_clock()
    if last_ns is not None and piece.time_ns[0] <= last_ns:
        raise FrameError(
            f"the piece starts at {piece.time[0]}Z, which is not later than the last row scored; "
            "push rows in time order, each once."
        )


class EvidenceStream:
    """Scores rows as they come. What a row gets depends on it and earlier rows only."""

    def __init__(self, expectations: dict[str, Expectation], options: EvidenceOptions, detector: str) -> None:
        self.expectations = expectations
        self.options = options
        self.detector = detector
        self.past: _Past | None = None
        self.kpis: tuple[Kpi, ...] = ()
        self.layout: Layout
        self.step_s = 0.0

    def push(self, piece: Frame) -> Scores:
        """Score the next rows.

        Raises:
            FrameError: other KPIs than before, or rows that are not later than all before.
        """
        require_later(piece, None if self.past is None or self.past.clock is None else self.past.clock[1])
        past = self._begin(piece)
        grid = to_grid(piece.time_ns, self.step_s, past.clock, self.options.memory)
        evidence = np.full((len(piece), len(piece.kpis)), np.nan, np.float32)
        expected = np.full_like(evidence, np.nan)
        values = np.where(np.isfinite(piece.values), piece.values, np.nan)
        for rows in self._runs(grid.slots):
            evidence[rows], expected[rows] = self._advance(past, grid.slots[rows], values[rows])
        past.clock = (int(grid.slots[-1]), int(piece.time_ns[-1]))
        lasting = smooth(evidence, past.lasting, self.options.newest)
        past.lasting = lasting[-1]
        services, system = pool(np.where(np.isfinite(evidence), lasting, np.nan), self.layout)
        return Scores(
            piece.time_ns,
            evidence,
            services,
            system,
            piece.kpis,
            piece.services,
            piece.step_s,
            self.detector,
            causal=True,
            expected=expected,
        )

    def _begin(self, piece: Frame) -> _Past:
        if self.past is None:
            k, signals = len(piece.kpis), len(self.expectations)
            memory = self.options.memory
            empty = np.full((memory, k), np.nan)
            self.past = _Past(
                empty,
                [empty.astype(np.float32) for _ in range(signals)],
                [empty.astype(np.float32) for _ in range(signals)],
                np.zeros(k),
            )
            self.kpis, self.step_s = piece.kpis, piece.step_s
            self.layout = layout(piece.kpis)
        if piece.names != tuple(k.name for k in self.kpis):
            raise FrameError(
                f"the piece has {len(piece.kpis)} KPIs that differ from the stream's {len(self.kpis)}; "
                "a stream keeps its KPIs, start a new one."
            )
        return self.past

    def _runs(self, slots: np.ndarray) -> Iterator[slice]:
        """Rows in runs of whole blocks, few enough at once to bound memory."""
        block = self.options.block
        blocks = max(1, 20_000 // max(1, len(self.kpis)))  # contexts held at once
        index = slots // (block * blocks)
        edges = np.flatnonzero(np.diff(index)) + 1
        for first, last in zip([0, *edges], [*edges, len(slots)], strict=True):
            yield slice(int(first), int(last))

    def _advance(self, past: _Past, slots: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score the rows at `slots` (rising), then remember them."""
        o = self.options
        first, stop = past.end, int(slots[-1]) + 1
        k = values.shape[1]
        dense = np.full((stop - first, k), np.nan)
        dense[slots - first] = values
        whole = np.concatenate([past.values, dense])  # slot s is row s - first + memory
        starts = block_starts(first, stop, o)
        expected = self._expect(whole, starts, o.memory - first)
        blocks = self._fix(past, starts, expected, whole, stop)
        evidence = np.full((stop - first, k), np.nan, np.float32)
        shown = np.full((stop - first, k), np.nan, np.float32)
        for stats in blocks:
            low, high = max(stats.start, first), min(stats.start + block_length(stats.start, o), stop)
            into = slice(low - first, high - first)
            part = slice(low - stats.start, high - stats.start)
            evidence[into] = self._evidence(stats, dense[into], part)
            shown[into] = stats.expected[0, part]
        past.values = whole[len(whole) - o.memory :]
        past.end = stop
        last = blocks[-1]
        past.block = last if last.start + block_length(last.start, o) > stop else None
        return evidence[slots - first], shown[slots - first]

    def _expect(self, whole: np.ndarray, starts: np.ndarray, offset: int) -> np.ndarray:
        """Every expectation of the blocks at `starts` (slots; slot s is row s + offset of `whole`).

        Returns:
            (signals, n, block, K); a short block leaves its end NaN.
        """
        o = self.options
        k = whole.shape[1]
        out = np.full((len(self.expectations), len(starts), o.block, k), np.nan)
        lengths = np.array([block_length(int(s), o) for s in starts], int)
        for length in np.unique(lengths):
            which = np.flatnonzero(lengths == length)
            ends = starts[which] + offset
            for i, expectation in enumerate(self.expectations.values()):
                reach = o.memory if getattr(expectation, "whole_memory", False) else o.length - length
                context = np.stack([whole[max(0, e - reach) : e].T for e in ends])  # (n, K, reach)
                said = expectation.expect(context.reshape(len(ends) * k, -1), int(length))
                out[i, which, :length] = said.reshape(len(ends), k, length).swapaxes(1, 2)
        return out

    def _fix(
        self, past: _Past, starts: np.ndarray, expected: np.ndarray, whole: np.ndarray, stop: int
    ) -> list[_Block]:
        """Each block's scales, in order, growing the past errors as it goes."""
        o = self.options
        first = past.end
        done: list[_Block] = []
        if past.block is not None:
            self._remember(past, past.block, whole, first, stop)
            done.append(past.block)
        for i, start in enumerate(starts):
            seen = np.isfinite(past.errors[0]).sum(0)
            values = whole[start - first : start - first + o.memory]
            level = quantiles(values, (0.5,))[0]
            floor = np.abs(level) * o.least_change
            scatter = spread_of(np.abs(values - level), floor)
            weight = seen / (seen + o.block)
            spreads, tails = [], []
            for errors, surprises in zip(past.errors, past.surprises, strict=True):
                # Few errors are a poor scale: begin with the values' own scatter.
                spreads.append(weight * spread_of(errors, floor) + (1 - weight) * scatter)
                tails.append(tail_of(surprises, o))
            stats = _Block(expected[:, i], np.stack(spreads), np.stack(tails), int(start), seen)
            self._remember(past, stats, whole, int(start), stop)
            done.append(stats)
        return done

    def _remember(self, past: _Past, stats: _Block, whole: np.ndarray, low: int, stop: int) -> None:
        """Append this block's errors, as far as its rows have come."""
        o = self.options
        high = min(stats.start + block_length(stats.start, o), stop)
        offset = o.memory - past.end
        rows = whole[low + offset : high + offset]
        part = slice(low - stats.start, high - stats.start)
        for signal in range(len(past.errors)):
            error = np.abs(rows - stats.expected[signal, part]).astype(np.float32)
            surprise = np.minimum(error / stats.spread[signal], 1e6).astype(np.float32)
            past.errors[signal] = np.concatenate([past.errors[signal], error])[len(error) :]
            past.surprises[signal] = np.concatenate([past.surprises[signal], surprise])[len(error) :]

    def _evidence(self, stats: _Block, values: np.ndarray, part: slice) -> np.ndarray:
        error = np.abs(values - stats.expected[:, part])  # (signals, rows, K)
        ratio = error / stats.spread[:, None] / stats.tail[:, None]
        known = stats.seen / (stats.seen + self.options.trust_steps)
        # Observed, but nothing before it to compare with: no evidence yet, which is not missing data.
        return np.where(np.isfinite(values), agree(ratio, self.options.cap) * known, np.nan).astype(
            np.float32
        )


def agree(ratios: np.ndarray, cap: float) -> np.ndarray:
    """Signals (S, …), NaN where one has nothing to say → their geometric mean, 0 where none has.

    Geometric, so that a value must be surprising to each: against the mean of both, AP on the Train
    Ticket recording is 0.58 in place of 0.56, on Online Boutique 0.64 in place of 0.62 (untrained
    network, 2026-11-24; docs/log.md).
    """
    told = np.isfinite(ratios)
    logs = np.log(np.clip(np.where(told, ratios, 1), CALM, cap))
    count = told.sum(0)
    # As expected is 0, not almost 0: a constant KPI must not leave round-off for a threshold to learn from.
    is_surprised = (count > 0) & (np.where(told, ratios, np.inf).min(0) > CALM)
    return np.where(is_surprised, np.exp(logs.sum(0) / np.maximum(count, 1)), 0.0)


def spread_of(errors: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Robust spread of past errors (M, K) → (K,), above 0."""
    half, most = quantiles(errors, (0.5, 0.9))
    spread = np.fmax(half / 0.6745, 0.5 * most / 1.645)
    spread = np.fmax(np.nan_to_num(spread), floor)
    return np.where(spread > 0, spread, 1.0)


def tail_of(surprises: np.ndarray, o: EvidenceOptions) -> np.ndarray:
    """The past surprise that counts as 1: its `tail` quantile, drawn to the prior while little is known."""
    seen = np.isfinite(surprises).sum(0)
    past = np.nan_to_num(quantiles(surprises, (o.tail,))[0], nan=o.tail_prior)
    weight = seen / (seen + o.tail_prior_steps)
    told = weight * np.log(np.maximum(past, 1.0)) + (1 - weight) * np.log(o.tail_prior)
    return np.asarray(np.exp(told))


class EvidenceDetector:
    """A detector made of expectations and the evidence against them; causal."""

    def __init__(
        self, name: str, expectations: dict[str, Expectation], options: EvidenceOptions, facts: dict[str, Any]
    ) -> None:
        self.name = name
        self.expectations = expectations
        self.options = options
        self.facts = facts

    def stream(self) -> EvidenceStream:
        return EvidenceStream(self.expectations, self.options, self.name)

    def score(self, frame: Frame) -> Scores:
        return self.stream().push(frame)

    def describe(self) -> dict[str, Any]:
        return {"detector": self.name, "causal": True, "options": asdict(self.options), **self.facts}


def offline_evidence(dense: np.ndarray, expected: np.ndarray, o: EvidenceOptions) -> np.ndarray:
    """Evidence with spread and tail from the whole recording: (T, K), expected (signals, T, K) → (T, K)."""
    floor = np.abs(quantiles(dense, (0.5,))[0]) * o.least_change
    ratios = []
    for said in expected:
        errors = np.abs(dense - said)
        surprise = errors / spread_of(errors, floor)
        ratios.append(surprise / tail_of(surprise, o))
    return np.where(np.isfinite(dense), agree(np.stack(ratios), o.cap), np.nan).astype(np.float32)
