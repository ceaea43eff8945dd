"""What the running service knows: the monitor, the store, the settings, its own health. The API reads it.

Not here: the cycle that keeps it up to date (loop), HTTP (api).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from foreshock.memory import resident_bytes
from foreshock.service.settings import ServeSettings
from foreshock.store import Store
from foreshock.stream import Change, Monitor

WAITING = 16  # messages kept for a subscriber who reads slowly; the oldest go first


@dataclass
class Health:
    """How the service itself is doing."""

    started_ns: int = field(default_factory=time.time_ns)
    phase: str = "starting"  # "starting", "back-filling", "watching", "stopping"
    lag_s: float = float("nan")  # age of the newest row scored
    last_cycle_s: float = float("nan")  # time that reading and scoring took
    last_cycle_ns: int = 0  # when that ended; 0: never
    cycles: int = 0
    queue_rows: int = 0  # rows due and not yet scored
    dropped_points: int = 0  # values never scored: too far behind, or more series than allowed
    late_rows: int = 0
    series: int = 0
    last_error: str = ""
    last_error_ns: int = 0
    sources: dict[str, bool] = field(default_factory=dict)  # name → answers
    source_errors: dict[str, int] = field(default_factory=dict)
    reload_ok: bool = True
    reload_error: str = ""

    def fail(self, source: str, error: object) -> None:
        """Note that a source did not answer."""
        self.sources[source] = False
        self.source_errors[source] = self.source_errors.get(source, 0) + 1
        self.last_error, self.last_error_ns = str(error), time.time_ns()

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        told = asdict(self) | {"resident_bytes": resident_bytes()}
        return {name: None if value != value else value for name, value in told.items()}


@dataclass
class Live:
    """All of it, for one event loop."""

    monitor: Monitor
    store: Store
    settings: ServeSettings
    health: Health = field(default_factory=Health)
    lock: asyncio.Lock = field(
        default_factory=asyncio.Lock
    )  # held while the monitor's rows are read or change
    on_reload: Callable[[], Awaitable[dict[str, Any]]] | None = None
    write_metrics: Callable[[Live], str] | None = None
    on_changes: Callable[[Sequence[Change]], Awaitable[None]] | None = None
    _readers: set[asyncio.Queue[dict[str, Any]]] = field(default_factory=set)

    async def reload(self) -> dict[str, Any]:
        """Read the configuration anew; gives what changed.

        Raises:
            ConfigError: the file is wrong; everything stays as it was.
        """
        return {} if self.on_reload is None else await self.on_reload()

    async def keep(self, changes: Sequence[Change]) -> None:
        """Store what has changed outside of a cycle, and tell those who get alerts."""
        if self.on_changes is not None:
            await self.on_changes(changes)

    def metrics_text(self) -> str:
        """For `/metrics`."""
        return "" if self.write_metrics is None else self.write_metrics(self)

    def publish(self, message: dict[str, Any]) -> None:
        """Tell everybody who listens, once a cycle."""
        for queue in self._readers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(message)

    async def subscribe(self) -> AsyncIterator[dict[str, Any]]:
        """What is published from now on, until the reader goes away."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(WAITING)
        self._readers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._readers.discard(queue)
