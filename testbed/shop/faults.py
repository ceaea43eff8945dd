"""Real faults, switched on and off in a running service.

Nothing here writes a metric: what a fault does to CPU, memory, waits and errors is what the exporter
then sees. Not here: crashes and restarts (processes), a surge of visitors (load).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable

from testbed.shop.database import Pool

KINDS = ("cpu", "memory", "slow_query", "pool", "latency", "errors", "crash")
HELD_BYTES = 512 * 2**20  # growth stops here, so that a forgotten fault can't take the machine down


class Faults:
    """What is wrong with this service now. `start` and `stop` may be called in any order."""

    def __init__(self, pool: Pool | None, seed: int) -> None:
        self.pool = pool
        self.delay_s = 0.0
        self.error_share = 0.0
        self._chance = random.Random(seed)
        self._running: dict[str, Callable[[], None]] = {}  # kind → how to end it

    @property
    def names(self) -> list[str]:
        return sorted(self._running)

    def start(self, kind: str, amount: float) -> None:
        """Begin a fault; `amount` in the unit of its kind.

        cpu: cores burnt (0..1). memory: MiB a second. slow_query: rows read without an index for each
        query. pool: connections taken and kept. latency: seconds before each answer. errors: share of
        answers that are 500. crash: ignored, the process is gone.

        Raises:
            ValueError: an unknown kind, or a database fault in a service without one.
        """
        begin = getattr(self, f"_{kind}", None) if kind in KINDS else None
        if begin is None:
            raise ValueError(f"there is no fault {kind!r}; there are {', '.join(KINDS)}")
        self.stop(kind)
        self._running[kind] = begin(amount)

    def stop(self, kind: str) -> None:
        end = self._running.pop(kind, None)
        if end is not None:
            end()

    async def before_answer(self) -> bool:
        """Wait as long as told; True when this answer is to fail."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s * self._chance.uniform(0.8, 1.2))
        return self._chance.random() < self.error_share

    def _cpu(self, cores: float) -> Callable[[], None]:
        over = threading.Event()

        def burn() -> None:
            block = bytes(1 << 20)  # hashing a large block lets other threads run
            while not over.is_set():
                begun = time.thread_time()
                while time.thread_time() - begun < 0.05 * cores:
                    hashlib.sha256(block).digest()
                over.wait(max(0.0, 0.05 * (1 - cores)))

        threading.Thread(target=burn, daemon=True).start()
        return over.set

    def _memory(self, mib_s: float) -> Callable[[], None]:
        over = threading.Event()
        held: list[bytes] = []

        def grow() -> None:
            size = int(mib_s * 2**20 / 4)
            while not over.wait(0.25):
                if len(held) * size < HELD_BYTES:
                    held.append(b"\x01" * size)  # written to, so that it is resident
            held.clear()

        threading.Thread(target=grow, daemon=True).start()
        return over.set

    def _slow_query(self, rows: float) -> Callable[[], None]:
        pool = self._need_pool("slow_query")
        pool.extra_rows = int(rows)

        def end() -> None:
            pool.extra_rows = 0

        return end

    def _pool(self, connections: float) -> Callable[[], None]:
        pool = self._need_pool("pool")
        kept = [asyncio.ensure_future(pool.take()) for _ in range(int(connections))]

        def end() -> None:
            for taken in kept:
                if taken.done() and not taken.cancelled() and taken.exception() is None:
                    pool.give_back(taken.result())
                taken.cancel()

        return end

    def _latency(self, delay_s: float) -> Callable[[], None]:
        self.delay_s = delay_s

        def end() -> None:
            self.delay_s = 0.0

        return end

    def _errors(self, share: float) -> Callable[[], None]:
        self.error_share = share

        def end() -> None:
            self.error_share = 0.0

        return end

    def _crash(self, amount: float) -> Callable[[], None]:
        os._exit(137)

    def _need_pool(self, kind: str) -> Pool:
        if self.pool is None:
            raise ValueError(f"{kind} needs a database; this service has none")
        return self.pool
