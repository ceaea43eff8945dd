"""What a report is made from, and how it says numbers, times and lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreshock.calibrate import CausalThreshold, Threshold
from foreshock.decide import Event
from foreshock.explain import Cause
from foreshock.frame import Frame
from foreshock.quality import Quality
from foreshock.scores import Scores


@dataclass(frozen=True, slots=True)
class Source:
    """All that a page is made from."""

    frame: Frame
    scores: Scores
    threshold: Threshold | CausalThreshold | None
    events: tuple[Event, ...]
    causes: tuple[Cause, ...]
    quality: Quality
    repaired: tuple[str, ...]
    about: Mapping[str, Any]
    title: str
    kinds: tuple[Mapping[str, Any], ...] = ()  # of each event, as `write` takes them

    @property
    def last_threshold(self) -> Threshold | None:
        return self.threshold.last if isinstance(self.threshold, CausalThreshold) else self.threshold


def duration(seconds: float) -> str:
    """A span of time as people say it.

    Example:
        >>> duration(45), duration(330), duration(7200), duration(300_000)
        ('45 s', '5 min 30 s', '2 h', '3 d 11 h')
    """
    total = max(round(seconds), 0)
    parts = []
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, total = divmod(total, size)
        if count:
            parts.append(f"{count} {name}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"


def share(value: float) -> str:
    """A probability that never claims certainty.

    Example:
        >>> share(0.5), share(0.9999)
        ('50 %', 'over 99 %')
    """
    return "over 99 %" if value > 0.99 else f"{100 * value:.0f} %"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def more(total: int, shown: int, noun: str) -> str:
    return f"And {count(total - shown, f'more {noun}')}, not shown." if total > shown else ""


def clock(source: Source, time_ns: int, *, with_day: bool | None = None) -> str:
    """The time of day, with the date where the recording spans several."""
    moment = np.datetime64(int(time_ns), "ns")
    first, last = (source.frame.time[i].astype("datetime64[D]") for i in (0, -1))
    text = str(moment.astype("datetime64[s]")).replace("T", " ")
    seconds = source.frame.step_s % 60 != 0
    text = text if seconds else text[:-3]
    return text if (first != last if with_day is None else with_day) else text[11:]
