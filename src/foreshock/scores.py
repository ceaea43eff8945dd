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


TOP_SHARE = 0.05  # of all KPIs that speak for the system


def pool(evidence: np.ndarray, service_index: np.ndarray, services: int) -> tuple[np.ndarray, np.ndarray]:
    """KPI evidence (T, K) → services (T, S) and system (T,), float32.

    A service counts the root mean square of its KPIs: one loud KPI is heard among quiet ones, and
    several loud ones say more. The system is the mean of its loudest 5 % of KPIs (at least one).
    Dead or missing KPIs count as if they were not there; NaN where nothing was observed.
    """
    observed = np.isfinite(evidence)
    squares = np.where(observed, evidence.astype(np.float64) ** 2, 0)
    member = np.zeros((evidence.shape[1], services))
    member[np.arange(evidence.shape[1]), service_index] = 1
    with np.errstate(invalid="ignore", divide="ignore"):
        by_service = np.sqrt((squares @ member) / (observed.astype(float) @ member))
    loud = max(1, int(np.ceil(TOP_SHARE * evidence.shape[1])))
    top = -np.partition(-np.where(observed, evidence, 0), loud - 1, axis=1)[:, :loud]
    system = np.where(observed.any(1), top.mean(1), np.nan)
    return by_service.astype(np.float32), system.astype(np.float32)
