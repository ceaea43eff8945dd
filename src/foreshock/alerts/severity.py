"""How loud an incident should be: info for a look in the morning, warning for today, critical for now."""

from __future__ import annotations

import math

from foreshock.decide import Event
from foreshock.findings import Cause

SEVERITIES = ("info", "warning", "critical")  # rising

SURE = (
    0.9  # confidence of an event: four tail scales above the threshold, or four rows beyond the needed ones
)
DOUBTFUL = 0.6
FAR = 2.0  # peak, in thresholds
NEAR = 1.2
WIDE = 3  # services that changed, or half of all where there are few
CLEAR_SHARE = 0.25  # of the strongest service's evidence: a service with less is hardly touched


def severity(event: Event, cause: Cause, services: int) -> str:
    """`info`, `warning` or `critical`, from how sure, how far and how wide.

    | | sure (confidence) | | far (peak / threshold) | | wide (services that changed) |
    |---|---|---|---|---|---|
    | critical | 0.9 or more | and | 2 or more | or | 3, or half of all, at least 2 |
    | info | below 0.6 | and | below 1.2 | and | 1 at most |
    | warning | the rest | | | | |

    Args:
        services: how many are watched in all.
    """
    touched = reach(cause)
    distance = event.peak_score / event.threshold if event.threshold > 0 else math.inf
    is_wide = touched >= max(2, min(WIDE, math.ceil(services / 2)))
    if event.confidence >= SURE and (distance >= FAR or is_wide):
        return "critical"
    if event.confidence < DOUBTFUL and distance < NEAR and touched <= 1:
        return "info"
    return "warning"


def reach(cause: Cause) -> int:
    """How many services changed clearly."""
    if not cause.services:
        return 0
    least = CLEAR_SHARE * max(service.score for service in cause.services)
    return sum(service.score >= least for service in cause.services)


def louder(one: str, other: str) -> str:
    """The higher of two severities."""
    return max(one, other, key=SEVERITIES.index)
