"""Visitors: they come at random, more by day than by night, and don't wait for each other."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import Counter

import aiohttp

DAY_SHARE = 0.4  # the busiest hour has so much more than the mean, the calmest so much less
PAGES = (("home", 0.40), ("product", 0.28), ("put", 0.12), ("buy", 0.20))
MOST_WAITING = 400  # visitors beyond these turn away


class Visitors:
    """An open-loop load: a slow shop gets no less traffic."""

    def __init__(self, address: str, per_s: float, day_s: float, seed: int = 11) -> None:
        self.address = address
        self.per_s = per_s  # visits a second over a day
        self.day_s = day_s  # a day's curve is pressed into so many seconds
        self.surge = 1.0  # factor on the rate
        self.answers: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._begun = time.monotonic()
        self._waiting: set[asyncio.Task[None]] = set()

    def rate(self, at_s: float) -> float:
        """Visits a second so long after the start, which is at the mean, rising."""
        return self.per_s * self.surge * (1 + DAY_SHARE * math.sin(2 * math.pi * at_s / self.day_s))

    async def run(self) -> None:
        """Send visitors until cancelled."""
        timeout = aiohttp.ClientTimeout(total=5)
        connector = aiohttp.TCPConnector(limit=0)
        try:
            async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
                due = time.monotonic()
                while True:
                    due += self._chance.expovariate(self.rate(due - self._begun))
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    if len(self._waiting) >= MOST_WAITING:
                        self.answers["turned away"] += 1
                        continue
                    visit = asyncio.ensure_future(self._visit(http))
                    self._waiting.add(visit)
                    visit.add_done_callback(self._waiting.discard)
        finally:
            for visit in list(self._waiting):
                visit.cancel()

    async def _visit(self, http: aiohttp.ClientSession) -> None:
        page = self._chance.choices([p for p, _ in PAGES], [w for _, w in PAGES])[0]
        user, article = self._chance.randrange(300), min(int(self._chance.expovariate(1 / 150)), 1_999)
        path = {
            "home": f"/?user={user}",
            "product": f"/product/{article}",
            "put": f"/put/{user}?product={article}",
            "buy": f"/buy/{user}",
        }[page]
        told = "no answer"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with http.get(self.address + path) as answer:
                await answer.read()
                told = str(answer.status)
        self.answers[told] += 1
