"""What the outbox keeps of each alert: who has heard what of it, and whom to leave alone for a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from foreshock.alerts.alert import seconds
from foreshock.alerts.sinks import Sink

LATE_S = 600.0  # an incident that was over before we heard of it, found so long ago, is not told
BACK_OFF_S = (1.0, 300.0)  # first and longest pause after a failure


@dataclass
class Entry:
    """One alert: an incident with the sequels that joined it, or the summary of those over budget."""

    name: str  # the label `incident`: id of the first incident
    incident: dict[str, Any]  # the newest member, as the API tells it
    members: list[str]
    service: str  # the label; later findings change annotations only
    severities: list[str]  # labels told, rising: a higher one is told beside the lower
    first_seen: float
    held: bool | None = None  # over the budget, told in the summary; None: not decided yet
    told: dict[str, str] = field(default_factory=dict)  # sink → "firing/1", "resolved"
    version: int = 1  # of what a receiver that is told only once should hear anew
    bumped_at: float = 0.0
    held_incidents: list[dict[str, Any]] = field(default_factory=list)  # of a summary

    @property
    def is_summary(self) -> bool:
        return bool(self.held_incidents)

    @property
    def is_over(self) -> bool:
        return self.incident["closed_ns"] is not None

    def wanted(self, sink: str) -> str:
        """What this sink should have heard. Nobody is told of an end without the beginning."""
        return "resolved" if self.is_over and self.told.get(sink) else f"firing/{self.version}"

    @property
    def is_late(self) -> bool:
        """Found long before we heard of it: history, read back at the start."""
        return self.first_seen - seconds(self.incident["event"]["detected_time"]) > LATE_S

    def is_done(self, sinks: Sequence[Sink]) -> bool:
        return self.is_over and all(self.told.get(sink.name) == "resolved" for sink in sinks)


@dataclass
class Pause:
    """How long a receiver, or a message it refused, is left alone."""

    failures: int = 0
    until: float = 0.0

    def longer(self, now: float, chance: float) -> None:
        first, most = BACK_OFF_S
        pause = min(first * 2.0 ** min(self.failures, 20), most)
        self.failures += 1
        self.until = now + pause * (0.5 + 0.5 * chance)  # so that many senders don't come back together

    def lasts(self, now: float) -> bool:
        """Whether it is still to be left alone. A clock that was set back must not prolong it."""
        return now < self.until <= now + BACK_OFF_S[1]

    def over(self) -> None:
        self.failures, self.until = 0, 0.0
