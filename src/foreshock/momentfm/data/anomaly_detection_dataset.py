"""The original's `momentfm.data.anomaly_detection_dataset`: windows of one UCR series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

SERIES = "../data/198_UCR_Anomaly_tiltAPB2_50000_124159_124985.out"


class AnomalyDetectionDataset:
    """Windows of 512 rows with labels; the last one overlaps so that the end is covered.

    The file has a value and a label a row; the fifth part of its name is where the training rows end.
    """

    def __init__(
        self,
        data_split: str = "train",
        data_stride_len: int = 512,
        random_seed: int = 42,
        full_file_path_and_name: str = SERIES,
    ) -> None:
        self.seq_len = 512
        self.n_channels = 1
        self.data_split = data_split
        self.data_stride_len = data_stride_len
        table = pd.read_csv(full_file_path_and_name).interpolate().to_numpy(dtype=float)
        end = int(Path(full_file_path_and_name).stem.split("_")[4])
        values, train = table[:, 0], table[:end, 0]
        values = (values - train.mean()) / (train.std() or 1)
        part = slice(0, end) if data_split == "train" else slice(end, None)
        self.data, self.labels = values[part], table[part, -1].astype(int)
        self.length_timeseries = len(self.data)

    def __len__(self) -> int:
        return self.length_timeseries // self.data_stride_len + 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = min(self.data_stride_len * index, self.length_timeseries - self.seq_len)
        rows = slice(start, start + self.seq_len)
        return self.data[rows][None], np.ones(self.seq_len), self.labels[rows][None]
