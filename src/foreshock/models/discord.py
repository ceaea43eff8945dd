"""Has the network ever been in such a state over a KPI? Its own past states, and how far the nearest is.

What recognition made of the last 256 rows lies in the state before each patch. Each is held against those
that the same KPI had before these rows began. One that is farther from all of them than usual is a discord: a
shape, a rhythm or a roughness that the KPI never had, where single rows may be ordinary ones.

Source: Keogh et al. 2005 (discords), on states in the place of values; the projection keeps distances by
Johnson and Lindenstrauss 1984.

Not here: the states (scan), stretches of the values themselves (novelty), what becomes of it (vigil).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from foreshock.windows import rearranged

SIZE = 32  # numbers kept of a state; of 128, VUS-PR over twelve families 0.608 in place of 0.610
PAST = 512  # past states looked at: 4,096 rows
LEAST = 64  # distances before one can be unusual; 16 cost PetShop's short snippets 0.02 AP
FAR = 1.25  # times the usual distance up to which a state is none; docs/log.md, 2026-11-26
MOST = 100.0  # no discord counts more
AT_ONCE = 16  # patches held against the past at once, at most
HELD = PAST + 64 + AT_ONCE  # states kept for them, behind windows of up to 64 patches
GROUP = 64  # KPIs at once
SEED = 0


@dataclass(frozen=True, slots=True)
class States:
    """What came before some consecutive patches of K series."""

    first: int  # number of the first patch
    values: np.ndarray  # (P, K, SIZE) float16, NaN where there is no state
    began: np.ndarray  # (P,) the patch from which each one's window reads


def size_of(width: int) -> int:
    """How many numbers are kept of states of so many."""
    return min(width, SIZE)


@cache
def _projection(width: int) -> np.ndarray:
    """(width, size_of(width)) float32, columns at right angles."""
    drawn = np.random.default_rng(SEED).normal(size=(width, size_of(width)))
    return np.asarray(np.linalg.qr(drawn)[0] * np.sqrt(width / size_of(width)), np.float32)


def reduced(states: np.ndarray) -> np.ndarray:
    """States (…, D) as (…, SIZE) float16, distances about the same."""
    return np.asarray(states @ _projection(states.shape[-1]), np.float16)


@dataclass(slots=True)
class _Ahead:
    """What was worked out for a patch before its first row came."""

    patch: int
    far: np.ndarray  # (K,)
    done: int = 0  # columns


class Discord:
    """Keeps the states of a stream; pieces of any size give the same."""

    def __init__(self) -> None:
        self.past: np.ndarray | None = None  # (<= HELD, K, SIZE) float16, of consecutive patches
        self.sizes: np.ndarray  # (<= HELD, K) squared lengths, infinite where there is no state
        self.usual: np.ndarray  # (2, K) of the distances so far: count, sum
        self.last: np.ndarray  # (K,) what the newest patch said
        self.newest = -1
        self.ahead: _Ahead | None = None

    def push(self, states: States) -> np.ndarray:
        """Of each patch (P, K): the square of how many usual distances beyond `FAR` it is; 0 is nothing new.

        The first patch may be the newest of an earlier push, whose rows are still coming.
        """
        count, kpis, size = states.values.shape
        if self.past is None:
            self.past, self.sizes = np.zeros((0, kpis, size), np.float16), np.zeros((0, kpis), np.float32)
            self.usual, self.last = np.zeros((2, kpis)), np.zeros(kpis)
        out = np.empty((count, kpis))
        at = int(self.newest == states.first)
        out[:at] = self.last
        while at < count:
            first = states.first + at  # none of those held against the past at once may need another
            some = slice(at, at + max(1, int(np.searchsorted(states.began[at : at + AT_ONCE], first))))
            out[some] = self._take(first, states.values[some], states.began[some])
            at = some.stop
        self.newest, self.last = states.first + count - 1, out[-1]
        return out

    def take(self, columns: np.ndarray) -> None:
        """Go on with these KPIs, by their column; -1 is one that was never observed."""
        if self.past is None:
            return
        self.past = rearranged(self.past.swapaxes(1, 2), columns, 0).swapaxes(1, 2)
        self.sizes = rearranged(self.sizes, columns, np.inf)
        self.usual, self.last = rearranged(self.usual, columns, 0), rearranged(self.last, columns, 0)
        self.ahead = None

    def prepare(self, states: States, most: int) -> bool:
        """Hold the state before a patch to come against the past, for at most so many KPIs; is more left?."""
        if self.past is None:
            return False
        if self.ahead is None or self.ahead.patch != states.first:
            self.ahead = _Ahead(states.first, np.full(states.values.shape[1], np.nan))
        done = self.ahead.done
        some = slice(done, done + most)
        self.ahead.far[some] = self._nearest(states.first, states.values[:, some], states.began, some)[0][0]
        self.ahead.done = min(some.stop, len(self.ahead.far))
        return self.ahead.done < len(self.ahead.far)

    def _take(self, first: int, values: np.ndarray, began: np.ndarray) -> np.ndarray:
        """What a few patches (P, K, SIZE) say, (P, K); they are part of the past from here on."""
        assert self.past is not None
        ahead, self.ahead = self.ahead, None
        if ahead is None or ahead.patch != first or len(values) > 1 or ahead.done < len(ahead.far):
            far, fresh, sizes = self._nearest(first, values, began, slice(None))
        else:
            fresh, sizes = _lengths(values)
            far = np.where(np.isfinite(sizes), ahead.far, np.nan)
            late = np.flatnonzero(
                np.isfinite(sizes[0]) & np.isnan(ahead.far)
            )  # moved only with its first row
            far[:, late] = self._nearest(first, values[:, late], began, late)[0]
        self.past = np.concatenate([self.past, fresh.astype(np.float16)])[-HELD:]
        self.sizes = np.concatenate([self.sizes, sizes])[-HELD:]
        return self._weigh(far)

    def _nearest(
        self, first: int, values: np.ndarray, began: np.ndarray, columns: slice | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances (P, k) of some columns to their nearest past states, NaN without, and `_lengths`."""
        assert self.past is not None
        far = began[:, None] - np.arange(first - len(self.past), first)
        may = (far >= 0) & (far < PAST)  # a state before patch `began` has read none of the window's rows
        fresh, sizes = _lengths(values)
        nearest = np.full(sizes.shape, np.nan)
        if not may.any():
            return nearest, fresh, sizes
        low, high = np.flatnonzero(may.any(0))[[0, -1]]
        may, past = may[:, low : high + 1], self.past[low : high + 1, columns]
        lengths = self.sizes[low : high + 1, columns]
        for at in range(0, values.shape[1], GROUP):
            some = slice(at, at + GROUP)
            held = past[:, some].astype(np.float32).transpose(1, 2, 0)  # (k, SIZE, M)
            squares = lengths[:, some].T[:, None] - 2 * (fresh[:, some].swapaxes(0, 1) @ held)
            least = np.where(may, squares, np.inf).min(2).T + sizes[:, some]  # (P, k)
            nearest[:, some] = np.where(np.isfinite(least), np.sqrt(np.maximum(least, 0)), np.nan)
        return nearest, fresh, sizes

    def _weigh(self, far: np.ndarray) -> np.ndarray:
        """Distances (P, K), NaN where there is none, in units of what is usual so far."""
        told = np.isfinite(far)
        count = self.usual[0] + np.cumsum(told, 0)
        total = self.usual[1] + np.cumsum(np.where(told, far, 0), 0)
        self.usual = np.stack([count[-1], total[-1]])
        with np.errstate(divide="ignore", invalid="ignore"):
            more = np.where(told & (count > LEAST) & (total > 0), far * count / total - FAR, 0)
        return np.asarray(np.minimum(np.maximum(more, 0) ** 2, MOST))


def _lengths(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States (P, K, SIZE) as float32, 0 where there is none; squared lengths (P, K), infinite there."""
    told = np.isfinite(values).all(2)
    fresh = np.where(told[..., None], values, 0).astype(np.float32)
    return fresh, np.where(told, np.einsum("pks,pks->pk", fresh, fresh), np.inf).astype(np.float32)
