"""The original's `momentfm.utils.forecasting_metrics`: errors of a forecast, shares in per cent as there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class ForecastingMetrics:
    """All five at once."""

    mae: Any = None
    mse: Any = None
    mape: Any = None
    smape: Any = None
    rmse: Any = None


def _reduce(errors: np.ndarray, reduction: str, axis: int | None) -> Any:
    if reduction == "none":
        return errors
    return np.nanmean(errors, axis=axis) if reduction == "mean" else np.nansum(errors, axis=axis)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """0 where the whole is 0 or nothing is known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = part / whole
    return np.asarray(np.nan_to_num(share, nan=0.0, posinf=0.0))


def mae(y: np.ndarray, y_hat: np.ndarray, reduction: str = "mean", axis: int | None = None) -> Any:
    """Mean absolute error."""
    return _reduce(np.abs(y - y_hat), reduction, axis)


def mse(y: np.ndarray, y_hat: np.ndarray, reduction: str = "mean", axis: int | None = None) -> Any:
    """Mean squared error."""
    return _reduce(np.square(y - y_hat), reduction, axis)


def rmse(y: np.ndarray, y_hat: np.ndarray, reduction: str = "mean", axis: int | None = None) -> Any:
    """Root of the mean squared error."""
    return np.sqrt(mse(y, y_hat, reduction, axis))


def mape(y: np.ndarray, y_hat: np.ndarray, reduction: str = "mean", axis: int | None = None) -> Any:
    """Absolute error in per cent of the value."""
    return 100 * _reduce(_share(np.abs(y - y_hat), np.abs(y)), reduction, axis)


def smape(y: np.ndarray, y_hat: np.ndarray, reduction: str = "mean", axis: int | None = None) -> Any:
    """Absolute error in per cent of the mean of value and forecast, 0 to 200."""
    return 200 * _reduce(_share(np.abs(y - y_hat), np.abs(y) + np.abs(y_hat)), reduction, axis)


def get_forecasting_metrics(
    y: np.ndarray, y_hat: np.ndarray, reduction: str = "mean", axis: int | None = None
) -> ForecastingMetrics:
    """All five at once."""
    names = {"mae": mae, "mse": mse, "mape": mape, "smape": smape, "rmse": rmse}
    return ForecastingMetrics(**{name: metric(y, y_hat, reduction, axis) for name, metric in names.items()})
