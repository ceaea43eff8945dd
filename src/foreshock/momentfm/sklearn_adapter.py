"""The original's `momentfm.sklearn_adapter`: MOMENT as scikit-learn estimators, zero-shot.

Needs scikit-learn. Input is (N, n_channels, context_length) or, as pipelines want it, (N, both multiplied).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import (  # type: ignore[import-untyped]
    BaseEstimator,
    RegressorMixin,
    TransformerMixin,
)

from foreshock.models.momentfm import MOMENTPipeline, TimeseriesOutputs
from foreshock.momentfm.utils.utils import control_randomness


def _to_3d(X: np.ndarray, n_channels: int, context_length: int) -> np.ndarray:
    X = np.asarray(X)
    if X.ndim not in (2, 3):
        raise ValueError(f"Input must be 2D or 3D; got ndim={X.ndim}.")
    needed = (n_channels, context_length) if X.ndim == 3 else (n_channels * context_length,)
    if X.shape[1:] != needed:
        raise ValueError(f"{X.ndim}D input has shape {X.shape}; expected (N, {', '.join(map(str, needed))}).")
    return X.reshape(len(X), n_channels, context_length)


class _Estimator(BaseEstimator):  # type: ignore[misc]
    _task_name = "reconstruction"

    def __init__(
        self,
        model_name: str = "AutonLab/MOMENT-1-large",
        context_length: int = 512,
        n_channels: int = 1,
        batch_size: int = 64,
        device: str = "auto",
        random_state: int | None = None,
        forecast_horizon: int | None = None,
    ) -> None:
        self.model_name = model_name
        self.context_length = context_length
        self.n_channels = n_channels
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.forecast_horizon = forecast_horizon
        self._pipeline: MOMENTPipeline | None = None

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Load the model; nothing is trained."""
        if self.random_state is not None:
            control_randomness(self.random_state)
        options: dict[str, Any] = {"task_name": self._task_name}
        if self._task_name == "forecasting":
            if self.forecast_horizon is None:
                raise ValueError("forecast_horizon must be set before fit() of a forecaster.")
            options["forecast_horizon"] = int(self.forecast_horizon)
        pipeline = MOMENTPipeline.from_pretrained(self.model_name, model_kwargs=options)
        pipeline.init()
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._pipeline = pipeline.to(device).eval()
        return self

    def _outputs(self, X: np.ndarray) -> Iterator[tuple[torch.Tensor, TimeseriesOutputs]]:
        series = _to_3d(X, self.n_channels, self.context_length)
        if self._pipeline is None:
            self.fit()
        assert self._pipeline is not None
        device = next(self._pipeline.parameters()).device
        for start in range(0, len(series), self.batch_size):
            x = torch.as_tensor(series[start : start + self.batch_size], dtype=torch.float32, device=device)
            with torch.no_grad():
                yield x, self._pipeline(x_enc=x)


class MOMENTAnomalyDetector(TransformerMixin, _Estimator):  # type: ignore[misc]
    """`transform` gives the mean squared reconstruction error of each sample."""

    def transform(self, X: np.ndarray) -> np.ndarray:
        errors = [(out.reconstruction - x).square().mean((1, 2)) for x, out in self._outputs(X)]
        return np.concatenate([e.cpu().numpy() for e in errors])

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """Higher is more normal, as scikit-learn's outlier detectors have it."""
        return -self.transform(X)


class MOMENTForecaster(RegressorMixin, _Estimator):  # type: ignore[misc]
    """`predict` gives (N, n_channels * forecast_horizon)."""

    _task_name = "forecasting"

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.concatenate([out.forecast.flatten(1).cpu().numpy() for _, out in self._outputs(X)])


class MOMENTEmbedder(TransformerMixin, _Estimator):  # type: ignore[misc]
    """`transform` gives one vector a sample."""

    _task_name = "embedding"

    def transform(self, X: np.ndarray) -> np.ndarray:
        return np.concatenate([out.embeddings.flatten(1).cpu().numpy() for _, out in self._outputs(X)])
