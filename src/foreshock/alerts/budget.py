"""How many alerts may page: at most N in any 24 hours.

A bucket that fills with N tokens a day would let 2N through in one day, so the pages themselves are
remembered. Below one a day the stretch grows instead: 0.5 is one in two days.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

DAY_S = 86_400.0


class Budget:
    """Counts pages over all series together."""

    def __init__(self, pages_per_day: float, pages: Iterable[float] = ()) -> None:
        self.pages_per_day = pages_per_day
        self.most = max(1, math.floor(pages_per_day))
        self.window_s = DAY_S * max(1.0, 1 / pages_per_day)
        self.pages = list(pages)  # Unix seconds of those that count still

    def allows(self, now: float) -> bool:
        # A clock that was set back leaves pages in its future: they count from now on.
        self.pages = [min(at, now) for at in self.pages if now - at < self.window_s]
        return len(self.pages) < self.most

    def spend(self, now: float) -> None:
        self.pages.append(now)
