"""Scores written back as rows are scored: what is not written yet waits, bounded, and is tried again.

What a receiver refuses (such as rows too old for it) is let go and counted: it would refuse it again.

Not here: the protocol (remote_write).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from foreshock.alerts.options import Access
from foreshock.alerts.sinks import SinkAway, SinkRefused, open_client
from foreshock.errors import ForeshockError
from foreshock.remote_write import Series, series_of, write_back
from foreshock.scores import Scores
from foreshock.store import Store

if TYPE_CHECKING:
    import httpx

WRITTEN = "written_ns"  # key in the store: stamp of the last row that was written, or given up
MOST_WAITING = 1_000_000  # samples kept for a receiver that is away; the oldest go first, and are counted
PIECE = 2_000  # samples that are refused together
PAUSE_S = (1.0, 60.0)  # first and longest pause while it is away
LABELS = {"job": "foreshock"}

log = logging.getLogger("foreshock")


class Writer:
    """Writes to one receiver; does nothing without an address. One event loop; `take` never waits."""

    def __init__(self, access: Access, store: Store) -> None:
        self.access = access
        self.counts = {"written": 0, "refused": 0, "dropped": 0, "failed": 0}  # samples; failed: tries
        self._store = store
        self._waiting: deque[list[Series]] = deque()
        self._samples = 0
        self._taken = int(store.get(WRITTEN) or 0)
        self._client: httpx.AsyncClient | None = None
        self._pause, self._until = PAUSE_S[0], 0.0

    @property
    def is_on(self) -> bool:
        return bool(self.access.url)

    @property
    def pending(self) -> int:
        """Samples that wait."""
        return self._samples

    def take(self, scores: Scores | None, high: np.ndarray) -> None:
        """The rows kept by now; those that are new wait to be written."""
        if not self.is_on or scores is None or not len(scores):
            return
        self._taken = min(self._taken, int(scores.time_ns[-1]))  # a clock may have been set back
        first = int(np.searchsorted(scores.time_ns, self._taken, "right"))
        if first == len(scores):
            return
        self._taken = int(scores.time_ns[-1])
        rows = max(1, PIECE // (2 + len(scores.service_names)))
        for at in range(first, len(scores), rows):
            part = slice(at, min(at + rows, len(scores)))
            piece = [
                Series(one.labels, one.time_ns[part], one.values[part])
                for one in series_of(scores, high, LABELS)
            ]
            self._waiting.append(piece)
            self._samples += _size(piece)
        while self._samples > MOST_WAITING:
            self.counts["dropped"] += self._forget()

    async def deliver(self) -> None:
        """Write what waits, oldest first, until the receiver fails. Never raises for its failures."""
        now = asyncio.get_running_loop().time()
        while self._waiting and self._until <= now:
            piece, written = self._waiting[0], 0
            try:
                if self._client is None:
                    self._client = open_client(self.access, "remote_write")
                written = await write_back(piece, self.access, self._client)
            except SinkRefused as error:
                self.counts["refused"] += _size(piece)
                log.warning("remote_write: %s; %d samples are let go", error, _size(piece))
                await self._hang_up()  # the next connection reads its secrets anew
            except (SinkAway, ForeshockError) as error:
                self.counts["failed"] += 1
                log.warning("remote_write: %s; trying again in %g s", error, self._pause)
                self._until, self._pause = now + self._pause, min(PAUSE_S[1], 2 * self._pause)
                await self._hang_up()
                return
            self._pause = PAUSE_S[0]
            if self._waiting and self._waiting[0] is piece:  # it was not dropped meanwhile
                last = int(piece[0].time_ns[-1])
                self._forget()
                await asyncio.to_thread(self._store.put, WRITTEN, str(last))
            self.counts["written"] += written  # once it is noted: a restart does not write it again

    def _forget(self) -> int:
        """Let go of the oldest piece; how many samples it had."""
        size = _size(self._waiting.popleft())
        self._samples -= size
        return size

    async def _hang_up(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def close(self) -> None:
        """Close the connection. What waits is scored and taken anew after the next start."""
        await self._hang_up()


def _size(piece: list[Series]) -> int:
    return sum(int(np.isfinite(one.values).sum()) for one in piece)
