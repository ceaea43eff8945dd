"""The original's `momentfm.data.classification_dataset`: series with classes, padded to 512 steps."""

from __future__ import annotations

import numpy as np

from foreshock.momentfm.utils.data import load_from_tsfile


class ClassificationDataset:
    """Series scaled step by step over the split, padded on the left; classes count from 0."""

    def __init__(
        self,
        data_split: str = "train",
        train_file_path_and_name: str = "../data/ECG5000_TRAIN.ts",
        test_file_path_and_name: str = "../data/ECG5000_TEST.ts",
    ) -> None:
        self.seq_len = 512
        self.data_split = data_split
        train, train_labels = load_from_tsfile(train_file_path_and_name)
        test, test_labels = load_from_tsfile(test_file_path_and_name)
        data, labels = (train, train_labels) if data_split == "train" else (test, test_labels)
        data = data[:, 0]
        spread = data.std(0)
        self.data = (
            (data - data.mean(0)) / np.where(spread > 0, spread, 1)
        ).T  # (steps, N), as in the original
        self.labels = np.searchsorted(np.unique(train_labels), labels)
        self.len_timeseries, self.num_timeseries = self.data.shape

    def __len__(self) -> int:
        return int(self.num_timeseries)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.int64]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        fill = self.seq_len - self.len_timeseries
        input_mask = np.ones(self.seq_len)
        input_mask[:fill] = 0
        return np.pad(self.data[:, index], (fill, 0))[None], input_mask, self.labels[index]
