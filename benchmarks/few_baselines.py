"""Supervised baselines for few labels: random forest, gradient boosting, LSTM. Rows in, log odds out.

All see the KPIs themselves, scaled by the teaching part's median and spread, and what engineers make of them:
steps, and means and deviations of the last 8 and 32 rows. They are fitted on the same labelled rows as an
adapter, classes balanced.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from torch import nn

from foreshock.models.classical import features
from foreshock.models.fitted import RowScale

WINDOWS = (8, 32)
MOST_ROWS = 8000
_SEEN: dict[tuple[int, int, bool], tuple[np.ndarray, ...]] = {}  # the newest features, with what they are of
CONTEXT = 32  # rows that the LSTM reads before a row
Fitted = Callable[[np.ndarray], np.ndarray]  # rows (T, K) → log odds (T,)
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Fitted]  # values, rows, is faulty, seed


def random_forest(values: np.ndarray, rows: np.ndarray, bad: np.ndarray, seed: int) -> Fitted:
    """200 trees on engineered features, as the product's `random_forest`."""
    model = RandomForestClassifier(
        200, min_samples_leaf=2, class_weight="balanced_subsample", random_state=seed, n_jobs=1
    )
    return _on_features(model, values, rows, bad, engineered=True)


def boosting(values: np.ndarray, rows: np.ndarray, bad: np.ndarray, seed: int) -> Fitted:
    """Histogram gradient boosting on the engineered features."""
    return _on_features(_boosted(seed), values, rows, bad, engineered=True)


def boosting_kpis(values: np.ndarray, rows: np.ndarray, bad: np.ndarray, seed: int) -> Fitted:
    """The same on the KPIs alone: 88 features on Train Ticket."""
    return _on_features(_boosted(seed), values, rows, bad, engineered=False)


def _boosted(seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=5, max_bins=63,
        l2_regularization=1.0, class_weight="balanced", random_state=seed,
    )  # fmt: skip


def _on_features(
    model: RandomForestClassifier | HistGradientBoostingClassifier, values: np.ndarray, rows: np.ndarray,
    bad: np.ndarray, engineered: bool,
) -> Fitted:  # fmt: skip
    scale = RowScale(values)

    def look(all_values: np.ndarray) -> np.ndarray:
        key = (id(values), id(all_values), engineered)
        if key not in _SEEN:  # folds ask for the same again
            off = scale(all_values)
            made = features(off, WINDOWS) if engineered else off.astype(np.float32)
            for old in list(_SEEN)[:-1]:
                del _SEEN[old]
            _SEEN[key] = (values, all_values, made)
        return _SEEN[key][2]

    some = np.arange(0, len(rows), max(1, len(rows) // MOST_ROWS))
    model.fit(look(values)[rows[some]], bad[some])
    return lambda judged: _odds(model.predict_proba(look(judged))[:, 1])


def _odds(chance: np.ndarray) -> np.ndarray:
    chance = np.clip(chance, 1e-4, 1 - 1e-4)
    return np.log(chance / (1 - chance))


class _Labeller(nn.Module):
    def __init__(self, kpis: int, width: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(kpis, width, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.lstm(x)[0])).squeeze(-1)


def lstm(values: np.ndarray, rows: np.ndarray, bad: np.ndarray, seed: int) -> Fitted:
    """An LSTM of 64 that labels each row from the 32 before it; 40 epochs of AdamW, dropout 0.3."""
    scale = RowScale(values, cap=5.0)
    off = scale(values).astype(np.float32)
    starts = np.unique(rows // CONTEXT) * CONTEXT
    label = np.full(len(off), -1, np.int8)
    label[rows] = bad
    windows = np.stack([_window(off, s, 2 * CONTEXT) for s in starts])
    target = np.stack([_window(label[:, None], s, 2 * CONTEXT, fill=-1)[:, 0] for s in starts])
    target[:, :CONTEXT] = -1
    x, y = torch.from_numpy(windows), torch.from_numpy(target)
    torch.manual_seed(seed)
    model = _Labeller(off.shape[1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    weight = torch.tensor(float((~bad).sum()) / max(1, int(bad.sum())))
    for _ in range(40):
        for batch in torch.randperm(len(x)).split(32):
            odds, told = model(x[batch]), y[batch]
            loss = nn.functional.binary_cross_entropy_with_logits(
                odds, (told == 1).float(), reduction="none", pos_weight=weight
            )
            loss = (loss * (told >= 0)).sum() / (told >= 0).sum().clamp(min=1)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
    model.eval()

    def judge(judged: np.ndarray) -> np.ndarray:
        off = scale(judged).astype(np.float32)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(off), CONTEXT):
                window = torch.from_numpy(_window(off, start, 2 * CONTEXT))[None]
                parts.append(model(window)[0, CONTEXT:].numpy())
        return np.concatenate(parts)[: len(off)].astype(np.float64)

    return judge


def _window(values: np.ndarray, start: int, length: int, fill: float = 0) -> np.ndarray:
    """`length` rows of which the second half begins at `start`; filled where there are none."""
    out = np.full((length, values.shape[1]), fill, values.dtype)
    first = start - length // 2
    low, high = max(0, first), min(len(values), first + length)
    out[low - first : high - first] = values[low:high]
    return out


BASELINES: dict[str, Fit] = {
    "random forest": random_forest,
    "gradient boosting": boosting,
    "gradient boosting, KPIs alone": boosting_kpis,
    "LSTM": lstm,
}
