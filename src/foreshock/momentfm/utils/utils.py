"""The original's `momentfm.utils.utils`, as far as its tutorials use it."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from foreshock.models.momentfm import NamespaceWithDefaults, get_anomaly_criterion

__all__ = [
    "EarlyStopping",
    "NamespaceWithDefaults",
    "control_randomness",
    "get_anomaly_criterion",
    "parse_config",
]


def control_randomness(seed: int = 13) -> None:
    """Seed python, numpy and torch."""
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
    np.random.seed(seed)  # noqa: NPY002 - the tutorials draw from the global generator
    torch.manual_seed(seed)


def parse_config(config: dict[str, object]) -> NamespaceWithDefaults:
    """A dictionary of options as attributes."""
    return NamespaceWithDefaults(**config)


class EarlyStopping:
    """`early_stop` turns True after `patience` losses in a row that were no better by `delta`."""

    def __init__(self, patience: int = 3, verbose: bool = False, delta: float = 0) -> None:
        self.patience = patience
        self.delta = delta
        self.counter = 0
        self.best_score: float | None = None
        self.early_stop = False

    def __call__(self, validation_loss: float) -> None:
        score = -validation_loss
        if self.best_score is None or score >= self.best_score + self.delta:
            self.best_score = score
            self.counter = 0
            return
        self.counter += 1
        self.early_stop = self.counter >= self.patience
