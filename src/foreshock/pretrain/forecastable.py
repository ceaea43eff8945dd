"""How well the newest patches are told from the past: the model beside last value, mean and a linear AR.

Windows come from parts of the corpus that training never draws, and from made-up series of another seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from foreshock.models.moment import Moment, normalise
from foreshock.pretrain import synthetic
from foreshock.pretrain.batches import hold
from foreshock.pretrain.corpus import Corpus
from foreshock.pretrain.masking import PATCH

HIDDEN = 4  # patches at the end
ORDER = 16  # of the linear auto-regression
CLIP = 8.0  # deviations, as in training


@dataclass(frozen=True, slots=True)
class Exam:
    """N windows of L steps, their end to be told; errors are in deviations of the visible part."""

    x: np.ndarray  # (N, L) float32, normalised by the visible part
    hidden: int  # patches at the end
    simple: dict[str, float]  # mean absolute error of each simple forecast

    def grade(self, model: Moment) -> dict[str, float]:
        """Mean absolute error of the model and of each simple forecast; `skill` is 1 - model / best."""
        shown = torch.ones(len(self.x), self.x.shape[1] // PATCH, dtype=torch.bool)
        shown[:, -self.hidden :] = False
        guesses = []
        with torch.no_grad():
            for start in range(0, len(self.x), 64):
                part = torch.from_numpy(self.x[start : start + 64])
                states = model(part.reshape(len(part), -1, PATCH), shown[: len(part)])
                guesses.append(model.head(states).float().numpy())
        mae = _error(np.concatenate(guesses)[:, -self.hidden * PATCH :], self.x)
        skill = 1 - mae / min(self.simple.values())
        return {"model": round(mae, 4), "skill": round(skill, 4), **self.simple}


def exams(
    corpus: Corpus | None, seed: int, windows: int, steps: int, hidden: int = HIDDEN
) -> dict[str, Exam]:
    """The exam on real series (with a corpus) and the one on made-up series; `hidden` patches to tell."""
    if windows < 1:
        return {}
    rng = np.random.default_rng([seed, 0xE7A2])
    drawn = {"synthetic": synthetic.draw(rng, windows, steps)}
    if corpus is not None:
        drawn["real"] = corpus.held_back(seed, windows, steps)
    return {name: exam for name, values in drawn.items() if (exam := _exam(values, hidden)) is not None}


def _exam(values: np.ndarray, hidden: int) -> Exam | None:
    ahead = hidden * PATCH
    values = hold(values)
    values = values[np.isfinite(values).all(1)]
    counted = np.ones(values.shape, bool)
    counted[:, -ahead:] = False
    x = normalise(torch.from_numpy(values), torch.from_numpy(counted))[0].numpy()
    past = x[:, :-ahead]
    x = np.clip(x[past.std(1) > 0.5], -CLIP, CLIP)  # a flat past has no unit to measure errors in
    if len(x) == 0:
        return None
    past = x[:, :-ahead]
    simple = {
        "last": np.repeat(past[:, -1:], ahead, axis=1),
        "mean": np.zeros((len(x), ahead)),
        "linear": linear_forecast(past, ahead),
    }
    return Exam(x, hidden, {name: round(_error(guess, x), 4) for name, guess in simple.items()})


def _error(guess: np.ndarray, x: np.ndarray) -> float:
    return float(np.abs(np.clip(guess, -CLIP, CLIP) - x[:, -guess.shape[1] :]).mean())


def linear_forecast(past: np.ndarray, ahead: int, order: int = ORDER, ridge: float = 1.0) -> np.ndarray:
    """`ahead` steps by an auto-regression fitted to each window's own past: (N, T) to (N, ahead)."""
    view = np.lib.stride_tricks.sliding_window_view(past.astype(np.float64), order + 1, axis=1)
    lags, target = view[..., :-1], view[..., -1]
    gram = np.einsum("ntp,ntq->npq", lags, lags) + ridge * np.eye(order)
    weight = np.linalg.solve(gram, np.einsum("ntp,nt->np", lags, target)[..., None])[..., 0]
    series = np.concatenate([past[:, -order:], np.zeros((len(past), ahead))], axis=1)
    for step in range(ahead):
        series[:, order + step] = np.clip((series[:, step : step + order] * weight).sum(1), -CLIP, CLIP)
    return series[:, order:]
