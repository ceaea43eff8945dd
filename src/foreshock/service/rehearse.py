"""`foreshock serve --dry-run`: everything is read and asked once, nothing is kept or told."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import numpy as np

from foreshock.errors import SourceError
from foreshock.models import load_detector
from foreshock.service.settings import ServeSettings
from foreshock.sources.prometheus import PrometheusClient

ROWS = 20


def rehearse(settings: ServeSettings) -> dict[str, Any]:
    """What would be watched; JSON-safe.

    Raises:
        ForeshockError: it could not start as it is.
    """
    return asyncio.run(_rehearse(settings))


async def _rehearse(settings: ServeSettings) -> dict[str, Any]:
    o = settings.prometheus
    client = PrometheusClient(o)
    try:
        await client.ask_time()
        newest = math.floor((client.now_s() - o.wait_s) / o.step_s)
        slots = range(newest - ROWS + 1, newest + 1)
        queries, services = [], set()
        for query in o.queries:
            told: dict[str, Any] = {
                "kpi": query.kpi,
                "query": query.promql(o.window_s),
                "series": 0,
                "problem": "",
            }
            try:
                found = await client.series(query, slots)
                observed = [name for name, values in found.items() if np.isfinite(values).any()]
                services |= {service for service, _ in observed}
                told["series"] = len(observed)
            except SourceError as error:
                told["problem"] = str(error)
            queries.append(told)
        skew = client.now_s() - time.time()
    finally:
        await client.close()
    detector = load_detector(settings.score.detector.name)
    return {
        "prometheus": o.shown,
        "clock_ahead_s": round(skew, 1),
        "step_s": o.step_s,
        "queries": queries,
        "series": sum(one["series"] for one in queries),
        "services": sorted(services),
        "detector": detector.describe().get("detector", ""),
        "can_write": settings.token is not None,
    }
