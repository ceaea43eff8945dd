"""The original's `momentfm.data.informer_dataset`: windows of ETTh1 for forecasting and imputation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

TRAIN_ROWS, VAL_ROWS, TEST_ROWS = 12 * 30 * 24, 4 * 30 * 24, 4 * 30 * 24  # hours


class InformerDataset:
    """Windows of 512 rows, each KPI scaled by its mean and deviation in the training months."""

    def __init__(
        self,
        forecast_horizon: int = 192,
        data_split: str = "train",
        data_stride_len: int = 1,
        task_name: str = "forecasting",
        random_seed: int = 42,
        full_file_path_and_name: str = "../data/ETTh1.csv",
    ) -> None:
        self.seq_len = 512
        self.forecast_horizon = forecast_horizon
        self.data_split = data_split
        self.data_stride_len = data_stride_len
        self.task_name = task_name
        table = pd.read_csv(full_file_path_and_name).drop(columns="date").interpolate()
        values = table.to_numpy(dtype=float)
        train = values[:TRAIN_ROWS]
        values = (values - train.mean(0)) / np.where(train.std(0) > 0, train.std(0), 1)
        start = TRAIN_ROWS + VAL_ROWS - self.seq_len
        self.data = (
            values[:TRAIN_ROWS] if data_split == "train" else values[start:][: TEST_ROWS + self.seq_len]
        )
        self.length_timeseries, self.n_channels = self.data.shape

    def __len__(self) -> int:
        needed = self.seq_len + (self.forecast_horizon if self.task_name == "forecasting" else 0)
        return int(self.length_timeseries - needed) // self.data_stride_len + 1

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self.data_stride_len * index
        end = start + self.seq_len
        series, input_mask = self.data[start:end].T, np.ones(self.seq_len)
        if self.task_name == "imputation":
            return series, input_mask
        return series, self.data[end : end + self.forecast_horizon].T, input_mask
