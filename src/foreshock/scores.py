"""How anomalous each row is, for each KPI, each service and the whole system.

Not here: what makes a KPI's error (models), which score is too high (calibrate).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreshock.frame import Kpi


@dataclass(frozen=True, slots=True)
class Scores:
    """Higher is more anomalous; NaN where nothing was observed."""

    time_ns: np.ndarray  # (T,) int64, as in the frame
    kpis: np.ndarray  # (T, K) float32
    services: np.ndarray  # (T, S) float32
    system: np.ndarray  # (T,) float32
    kpi_meta: tuple[Kpi, ...]
    service_names: tuple[str, ...]
    step_s: float
    detector: str = ""
    causal: bool = True
    expected: np.ndarray | None = None  # (T, K) float32 in the KPI's own units, where the detector has one

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def time(self) -> np.ndarray:
        """(T,) datetime64[ns], UTC."""
        return self.time_ns.view("datetime64[ns]")
