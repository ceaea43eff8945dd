"""The shop's SQLite file, shared by several services, each with a small pool of connections."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from prometheus_client import Gauge, Histogram

from testbed.shop.buckets import BUCKETS_S

PRODUCTS, STOCK_EACH = 2_000, 1_000_000
POOL_SIZE, TAKE_S = 4, 1.0  # connections a service; seconds a request waits for one

IN_USE = Gauge("db_pool_connections_in_use", "Connections taken from the pool")
WAIT = Histogram("db_pool_wait_seconds", "Time until a connection was free", buckets=BUCKETS_S)
QUERY = Histogram("db_query_duration_seconds", "Time of a query", buckets=BUCKETS_S)

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, price INTEGER, shelf INTEGER);
CREATE INDEX products_shelf ON products (shelf);
CREATE TABLE stock (product INTEGER PRIMARY KEY, left_over INTEGER);
CREATE TABLE orders (id INTEGER PRIMARY KEY, placed REAL, product INTEGER, price INTEGER);
"""
FULL_SCAN = """
WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?)
SELECT count(*) FROM c JOIN products p ON p.id = c.n % 1999 WHERE p.name LIKE '%not there%'
"""


class PoolEmpty(Exception):
    """No connection came free in time."""


def create(path: Path, seed: int = 7) -> None:
    """Write the shop's database anew."""
    chance = random.Random(seed)
    with closing(sqlite3.connect(path)) as base, base:
        base.executescript(SCHEMA)
        rows = [(i, f"article {i}", chance.randint(100, 9_900), i % 40) for i in range(PRODUCTS)]
        base.executemany("INSERT INTO products VALUES (?, ?, ?, ?)", rows)
        base.executemany("INSERT INTO stock VALUES (?, ?)", [(i, STOCK_EACH) for i in range(PRODUCTS)])


class Pool:
    """A few connections, each used by one request at a time."""

    def __init__(self, path: Path, size: int = POOL_SIZE) -> None:
        self.extra_rows = 0  # rows that each query reads in vain: a missing index
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="database")
        self._free: asyncio.Queue[sqlite3.Connection] = asyncio.Queue()
        for _ in range(size):
            base = sqlite3.connect(path, timeout=2.0, check_same_thread=False, isolation_level=None)
            base.execute("PRAGMA synchronous = OFF")  # a test bed; sparing the disk
            self._free.put_nowait(base)

    async def take(self) -> sqlite3.Connection:
        base = await self._free.get()
        IN_USE.inc()
        return base

    def give_back(self, base: sqlite3.Connection) -> None:
        IN_USE.dec()
        self._free.put_nowait(base)

    async def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement on a free connection.

        Raises:
            PoolEmpty: none came free within a second.
        """
        begun = time.perf_counter()
        try:
            base = await asyncio.wait_for(self.take(), TAKE_S)
        except TimeoutError:
            raise PoolEmpty from None
        finally:
            WAIT.observe(time.perf_counter() - begun)
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._run, base, sql, values)
        finally:
            self.give_back(base)

    def _run(self, base: sqlite3.Connection, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with QUERY.time():
            if self.extra_rows:
                base.execute(FULL_SCAN, (self.extra_rows,)).fetchall()
            return base.execute(sql, values).fetchall()
