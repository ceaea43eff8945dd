"""Recognition over time: rows come in, and for each KPI and row goes out how likely it is an anomaly.

The network reads blocks of rows behind their context, at the step of the table and again at coarser ones:
the mean of the last 4 rows, of the last 16. A coarse series is read in four phases, so that it is renewed
at least every fourth row. A row's result depends on it and on earlier rows only, and comes out the same
whether rows arrive one by one or all at once.

A row is weighed by what the network made of the patches before its own. For rows that come one by one this is
kept until the patch is full, and `prepare` makes the next one's before its first row comes, so that a row
waits for the small heads alone.

Not here: the network and its heads (recognise), what becomes of the probabilities (vigil).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from foreshock.models.discord import States, reduced, size_of
from foreshock.models.recognise import Recogniser, context_scale, movement, scaled, unbend
from foreshock.windows import PATCH, rearranged

PHASES = 4
AT_ONCE = 64  # windows a pass: 2,048 patches at 256 steps, a fifth faster than half as many (AMX, 2026-11-26)
WEIGHED = 256  # patches a pass of the heads
GATHERED = 2048  # windows held at once: 8 MB of values
LEAST_OBSERVED = PATCH  # steps of context below which nothing is said


@dataclass(frozen=True, slots=True)
class Reading:
    """What recognition says of some rows at one scale; NaN where it has too little past to say anything."""

    chance: np.ndarray  # (n, K) float32, 0..1, of being an anomaly
    expected: np.ndarray  # (n, K) float64 in the KPI's units
    states: States | None = None  # of the patches that hold the rows, at the table's own step


@dataclass(frozen=True, slots=True)
class _Block:
    phase: int
    start: int  # in samples of the phase
    size: int
    low: int  # first sample of the phase that is wanted
    high: int  # end of its samples so far

    @property
    def patches(self) -> range:
        """Those of the block that hold wanted samples."""
        first, last = max(self.start, self.low), min(self.start + self.size, self.high) - 1
        return range((first - self.start) // PATCH, (last - self.start) // PATCH + 1)


@dataclass(frozen=True, slots=True)
class _Before:
    """What is known of N series before some patches of a block."""

    center: np.ndarray  # (N, 1) of the context
    spread: np.ndarray  # (N, 1)
    states: np.ndarray  # (N, patches, D) float32


@dataclass(slots=True)
class _Ready:
    """The same of all K columns for one patch, where it was needed."""

    start: int  # of the block
    patch: int  # in the block
    has: np.ndarray  # (K,) bool, which columns
    before: _Before
    lacks: int = 1  # columns it is still to be made for

    def is_for(self, job: _Block) -> bool:
        return (self.start, self.patch) == (job.start, job.patches[0])

    def take(self, columns: np.ndarray) -> _Ready:
        """For other columns; -1 is a new one."""
        has = self.has[columns] & (columns >= 0)
        return _Ready(self.start, self.patch, has, _rows(self.before, columns), self.lacks)


def _rows(before: _Before, rows: np.ndarray) -> _Before:
    return _Before(before.center[rows], before.spread[rows], before.states[rows])


class Scan:
    """One scale of a stream: the mean of `factor` rows, sampled so that `PHASES` series interleave."""

    def __init__(self, recogniser: Recogniser, factor: int, length: int, block: int, crowd: int = 0) -> None:
        """`crowd` is how many series at most are told their states; 1 row a step alone can tell them."""
        self.recogniser = recogniser
        self.factor, self.length, self.block = factor, length, block
        self.crowd = crowd if factor == 1 else 0
        self.size = size_of(recogniser.backbone.geometry.d_model)
        # The first blocks double from a patch on, each behind as many steps as it has.
        self.early = [PATCH * 2**i for i in range(20) if PATCH * 2**i < block]
        self.phases = min(factor, PHASES)
        self.stride = factor // self.phases  # rows between two samples
        self.count = 0  # samples taken so far
        self.rows = 0  # rows seen so far
        self.kept: np.ndarray | None = None  # (<= length * phases, K) the newest samples
        self.tail: np.ndarray | None = None  # (factor - 1, K) rows not yet in every mean
        self.last: np.ndarray | None = None  # (2, K) chance and expected of the newest sample
        self.ready: dict[int, _Ready] = {}  # by phase

    def push(self, filled: np.ndarray) -> Reading:
        """The next rows (n, K), gaps filled forward, NaN only before a KPI's first value."""
        n, kpis = filled.shape
        samples = self._sample(filled)
        first, self.count = self.count, self.count + len(samples)
        kept = np.zeros((0, kpis)) if self.kept is None else self.kept
        known = np.concatenate([kept, samples])
        said, states = self._read(known, first)
        self.kept = known[-self.length * self.phases :]
        before = np.full((2, kpis), np.nan) if self.last is None else self.last
        said = np.concatenate([before[:, None], said], axis=1)  # (2, 1 + samples, K)
        self.last = said[:, -1]
        newest = (self.rows + 1 + np.arange(n)) // self.stride - first  # the sample that each row has, from 1
        self.rows += n
        chance, expected = said[:, newest]
        return Reading(chance.astype(np.float32), expected, states)

    def take(self, columns: np.ndarray) -> None:
        """Go on with these KPIs, by their column; -1 is one that was never observed."""
        for name in ("kept", "tail", "last"):
            if (held := getattr(self, name)) is not None:
                setattr(self, name, rearranged(held, columns, np.nan))
        self.ready = {phase: ready.take(columns) for phase, ready in self.ready.items()}

    def prepare(self, most: int) -> int:
        """Make what the next rows need and the rows so far tell, for at most so many KPIs: for how many."""
        done = 0
        for phase in range(self.phases if self.kept is not None else 0):
            taken = -(-(self.count - phase) // self.phases)  # samples of the phase so far
            sample = taken * self.phases + phase
            for job in self._blocks(phase, sample, sample + 1):
                ready = self.ready.get(phase)
                if done >= most or (ready is not None and ready.is_for(job) and not ready.lacks):
                    continue
                assert self.kept is not None
                steps, base = self._steps(job), self.count - len(self.kept)
                windows = self._window(replace(job, high=taken), steps, self.kept, base)
                enough, lowest, highest = _extent(windows, slice(steps - 1, steps), steps - job.size)
                rows = np.flatnonzero(enough & (highest > lowest)[:, 0])
                done += self._complete(job, windows, rows, most - done)
        return done

    def coming(self) -> States | None:
        """The states before a patch that begins with the next row, once `prepare` has made them all."""
        if self.kept is None or self.count % PATCH or self.kept.shape[1] > self.crowd:
            return None
        for job in self._blocks(0, self.count, self.count + 1):
            ready = self.ready.get(0)
            if ready is not None and ready.is_for(job) and not ready.lacks:
                values = reduced(ready.before.states[:, 0])
                values[~ready.has] = np.nan
                began = (job.start + job.size - self._steps(job)) // PATCH
                return States(self.count // PATCH, values[None], np.array([began]))
        return None

    def _sample(self, filled: np.ndarray) -> np.ndarray:
        """Means of the last `factor` rows, at every `stride`-th row: (samples, K)."""
        if self.tail is None:
            self.tail = np.full((self.factor - 1, filled.shape[1]), np.nan)
        whole = np.concatenate([self.tail, filled])
        self.tail = whole[len(filled) :]
        at = np.flatnonzero((self.rows + 1 + np.arange(len(filled))) % self.stride == 0)
        if self.factor == 1:
            return filled
        total, seen = np.zeros((len(at), filled.shape[1])), np.zeros((len(at), filled.shape[1]))
        for back in range(self.factor):
            row = whole[at + back]
            told = np.isfinite(row)
            total += np.where(told, row, 0)
            seen += told
        with np.errstate(invalid="ignore"):
            return np.asarray(total / np.where(seen > 0, seen, np.nan))

    def _read(self, known: np.ndarray, first: int) -> tuple[np.ndarray, States | None]:
        """Chance and expectation of the samples from `first` on, (2, samples, K), and states if told."""
        stop, base, kpis = self.count, self.count - len(known), known.shape[1]
        out = np.full((2, stop - first, kpis), np.nan)
        told = self._untold(first, stop, kpis) if kpis <= self.crowd else None
        alike: dict[tuple[int, int, range], list[_Block]] = {}
        for job in (job for phase in range(self.phases) for job in self._blocks(phase, first, stop)):
            alike.setdefault((job.size, self._steps(job), job.patches), []).append(job)
        for (size, steps, patches), jobs in alike.items():
            # A single patch may be one that grows: what comes before it is kept, for one block at a time.
            many = 1 if len(patches) == 1 else max(1, GATHERED // max(1, kpis))
            for some in (jobs[at : at + many] for at in range(0, len(jobs), many)):
                windows = np.concatenate([self._window(job, steps, known, base) for job in some])
                said, before = self._judge(windows, some[0], told is not None)
                said = said.reshape(2, len(some), kpis, -1)
                if told is not None:
                    states = before.reshape(len(some), kpis, -1, self.size).swapaxes(1, 2)
                    for own, job in zip(states, some, strict=True):
                        at = job.start // PATCH + patches[0] - told.first
                        told.values[at : at + len(patches)] = own
                        told.began[at : at + len(patches)] = (job.start + job.size - steps) // PATCH
                for i, job in enumerate(some):
                    into = np.arange(max(job.start, job.low), min(job.start + size, job.high))
                    place = into * self.phases + job.phase - first
                    out[:, place] = said[:, i, :, into - job.start - patches[0] * PATCH].swapaxes(0, 1)
        return out, told

    def _untold(self, first: int, stop: int, kpis: int) -> States:
        """Room for the states of the patches that hold samples first..stop."""
        patch = first // PATCH
        count = -(-stop // PATCH) - patch
        return States(patch, np.full((count, kpis, self.size), np.nan, np.float16), np.zeros(count, int))

    def _steps(self, job: _Block) -> int:
        """How many samples a block's window has: fewer before there is a whole one."""
        return min(self.length, job.start + job.size)

    def _blocks(self, phase: int, first: int, stop: int) -> Iterator[_Block]:
        """The blocks of a phase that hold samples first..stop; the very first of a stream is not judged."""
        low = -(-(first - phase) // self.phases)  # in the phase's own count
        high = -(-(stop - phase) // self.phases)
        if low == high:
            return
        late = max(0, low - self.block) // self.block * self.block + self.block
        early = [start for start in self.early if start < high and 2 * start > low]
        for start in [*early, *range(late, high, self.block)]:
            yield _Block(phase, start, min(start, self.block), low, high)

    def _window(self, job: _Block, steps: int, known: np.ndarray, base: int) -> np.ndarray:
        """The block's samples behind their context, (K, steps); what has not come yet repeats the newest."""
        at = np.arange(job.start + job.size - steps, job.start + job.size)
        return np.asarray(known[np.minimum(at, job.high - 1) * self.phases + job.phase - base].T)

    def _judge(self, windows: np.ndarray, job: _Block, tells: bool) -> tuple[np.ndarray, np.ndarray]:
        """Chance and expectation of a block's wanted patches (2, N, those * PATCH), the states before each.

        Args:
            windows: (N, steps), NaN before the first value; the last steps are the block.
            job: whose windows they are, or one of several that differ in time alone.
            tells: whether states are wanted; else there are none, (N, 0, size).
        """
        context, patches = windows.shape[1] - job.size, job.patches
        judged = slice(context + patches[0] * PATCH, context + (patches[-1] + 1) * PATCH)
        enough, lowest, highest = _extent(windows, judged, context)
        out = np.full((2, *lowest.shape), np.nan)
        states = np.full((len(windows), len(patches) if tells else 0, self.size), np.nan, np.float16)
        rows = np.flatnonzero(enough & (highest[:, -1] > lowest[:, -1]))
        for some in (rows[at : at + GATHERED] for at in range(0, len(rows), GATHERED)):
            if len(patches) == 1:
                self._complete(job, windows, some)
                before = _rows(self.ready[job.phase].before, some)
            else:
                before = self._before(windows[some], context, patches)
            out[:, some] = self._weigh(windows[some], judged, before)
            if tells:
                states[some] = reduced(before.states)
        # What never moved is no anomaly, and nothing is told of it, whatever comes later in the block.
        still = ~(highest > lowest)
        out[0][still & enough[:, None]] = 0
        out[1][still] = np.nan
        if tells:
            states[still[:, ::PATCH]] = np.nan  # as in the patch's first row, whatever comes later in it
        return out, states

    def _complete(self, job: _Block, windows: np.ndarray, rows: np.ndarray, most: int | None = None) -> int:
        """Keep what comes before a block's one wanted patch for the KPIs `rows`; for how many it was made.

        Args:
            windows: (K, steps) of all KPIs.
            most: it is made for no more of them now.
        """
        ready = self.ready.get(job.phase)
        if ready is None or not ready.is_for(job):
            blank = np.zeros((len(windows), 1, self.recogniser.backbone.geometry.d_model), np.float32)
            one = np.ones((len(windows), 1))
            before = _Before(one, one.copy(), blank)
            ready = _Ready(job.start, job.patches[0], np.zeros(len(windows), bool), before)
            self.ready[job.phase] = ready
        lacking = rows[~ready.has[rows]]
        now = lacking[:most]
        for some in (now[at : at + GATHERED] for at in range(0, len(now), GATHERED)):
            made = self._before(windows[some], windows.shape[1] - job.size, job.patches)
            for name in ("center", "spread", "states"):
                getattr(ready.before, name)[some] = getattr(made, name)
            ready.has[some] = True
        ready.lacks = len(lacking) - len(now)
        return len(now)

    @torch.no_grad()
    def _before(self, windows: np.ndarray, context: int, patches: range) -> _Before:
        """What is known before some patches of the block at the end of windows (N, steps)."""
        n, first = len(windows), (self.length - windows.shape[1]) // PATCH
        block = (windows.shape[1] - context) // PATCH
        center, spread = np.empty((2, n, 1))
        states = np.empty((n, len(patches), self.recogniser.backbone.geometry.d_model), np.float32)
        for at in range(0, n, AT_ONCE):
            # Always as many: a matrix product's last bits depend on its size, and a stream's must not.
            some = np.resize(np.arange(at, min(at + AT_ONCE, n)), AT_ONCE)
            seen, values = np.isfinite(windows[some]), torch.from_numpy(np.nan_to_num(windows[some]))
            observed = torch.from_numpy(seen)
            middle, width = context_scale(values, observed, torch.full((AT_ONCE, 1), context))
            x = scaled(values, observed, middle, width)
            attended = observed.reshape(AT_ONCE, -1, PATCH).all(-1)
            told = self.recogniser.states_before(x, attended, block, first).float()
            center[some], spread[some] = middle.numpy(), width.numpy()
            states[some] = told[:, patches.start : patches.stop].numpy()
        return _Before(center, spread, states)

    @torch.no_grad()
    def _weigh(self, windows: np.ndarray, judged: slice, before: _Before) -> np.ndarray:
        """Chance and expectation of the `judged` steps of windows (N, steps): (2, N, those)."""
        n, count, width = before.states.shape
        out, many = np.empty((2, n, count * PATCH)), WEIGHED // count
        fill = torch.arange(WEIGHED) % (many * count)  # always as many, as above
        windows = windows[:, : judged.stop]
        for at in range(0, n, many):
            some = np.resize(np.arange(at, min(at + many, n)), many)
            observed = torch.from_numpy(np.isfinite(windows[some]))
            center, spread = (torch.from_numpy(a[some]) for a in (before.center, before.spread))
            x = scaled(torch.from_numpy(np.nan_to_num(windows[some])), observed, center, spread)
            attended = observed.reshape(many, -1, PATCH).all(-1)
            seen = None if bool(attended.all()) else attended.repeat_interleave(PATCH, 1)
            moved = movement(x, seen, judged.start).reshape(many * count, PATCH, -1)
            patches = x[:, judged].reshape(many * count, PATCH)
            states = torch.from_numpy(before.states[some]).reshape(many * count, width)
            said = self.recogniser.heads.weigh(states[fill], patches[fill], moved[fill])
            logit, told = (a[: many * count].reshape(many, -1).double() for a in (said.logit, said.expected))
            out[0, some] = torch.sigmoid(logit).numpy()
            out[1, some] = (unbend(told) * spread + center).numpy()
        return out


def _extent(windows: np.ndarray, judged: slice, context: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether enough was observed to say anything (N,), and the lowest and highest value up to each step."""
    seen = np.isfinite(windows)
    lowest = np.minimum.accumulate(np.where(seen, windows, np.inf)[:, : judged.stop], axis=1)[:, judged]
    highest = np.maximum.accumulate(np.where(seen, windows, -np.inf)[:, : judged.stop], axis=1)[:, judged]
    return seen[:, :context].sum(1) >= LEAST_OBSERVED, lowest, highest
