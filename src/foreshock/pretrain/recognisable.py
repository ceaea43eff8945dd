"""How well planted anomalies are recognised: the model beside one-liners, on series it never drew.

Not here: real, labelled recordings; they are for evaluation and never near a training run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from foreshock.models.recognise import Recogniser, scale_by_context
from foreshock.pretrain import synthetic
from foreshock.pretrain.anomalies import UNSURE, plant
from foreshock.pretrain.batches import hold
from foreshock.pretrain.corpus import Corpus
from foreshock.pretrain.masking import PATCH

if TYPE_CHECKING:
    from foreshock.pretrain.loop import PretrainConfig

CONTEXT = 0.5  # share of a window that sets the scale


@dataclass(frozen=True, slots=True)
class RecognitionExam:
    """N windows of L steps with planted anomalies; the second half is judged."""

    values: np.ndarray  # (N, L) float32
    label: np.ndarray  # (N, L) int8
    simple: dict[str, float]  # average precision of one-liners

    def grade(self, model: Recogniser) -> dict[str, float]:
        """Average precision over all judged steps, of the model and of one-liners."""
        context = _context(self.values)
        scores = []
        with torch.no_grad():
            for start in range(0, len(self.values), 64):
                part = torch.from_numpy(self.values[start : start + 64])
                seen = part.isfinite()
                whole = seen.reshape(len(seen), -1, PATCH).all(-1)
                scaled = scale_by_context(part.nan_to_num(), seen, torch.full((len(part), 1), context))
                scores.append(model(scaled.x, whole).logit.numpy())
        return {"model": round(_precision(np.concatenate(scores), self.label, context), 4), **self.simple}


def exam(config: PretrainConfig, corpus: Corpus | None) -> RecognitionExam | None:
    """Windows from parts of the corpus that training never draws, and made-up ones of another seed."""
    if config.evaluate_windows < 1:
        return None
    rng = np.random.default_rng([config.seed, 0x5EE4])
    rows, steps = config.evaluate_windows, config.batch.usual
    drawn = [synthetic.draw(rng, rows, steps)]
    if corpus is not None:
        drawn.append(corpus.held_back(config.seed, rows, steps))
    clean = np.concatenate(drawn)
    context = _context(clean)
    values, _, label = plant(rng, clean, np.full(len(clean), context), config.anomalies)
    values = hold(values).astype(np.float32)
    label[~np.isfinite(values)] = UNSURE
    filled = np.nan_to_num(values)
    simple = {n: round(_precision(score(filled), label, context), 4) for n, score in SIMPLE.items()}
    return RecognitionExam(values, label, simple)


def _context(values: np.ndarray) -> int:
    return int(values.shape[1] * CONTEXT) // PATCH * PATCH


def _units(values: np.ndarray) -> np.ndarray:
    past = values[:, : _context(values)]
    spread = past.std(1, keepdims=True)
    return np.asarray((values - past.mean(1, keepdims=True)) / np.maximum(spread, 1e-6))


def _rolling_variance(values: np.ndarray, width: int = 16) -> np.ndarray:
    x = np.clip(_units(values), -50, 50)
    x = np.pad(x, ((0, 0), (width - 1, 0)), mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(x, width, 1).var(-1))


SIMPLE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "deviation": lambda values: np.abs(_units(values)),
    "difference": lambda values: np.abs(np.diff(_units(values), axis=1, prepend=0)),
    "variance": _rolling_variance,
}


def _precision(score: np.ndarray, label: np.ndarray, context: int) -> float:
    """Average precision over the judged steps of all windows together."""
    judged = label[:, context:] != UNSURE
    truth, score = label[:, context:][judged] == 1, score[:, context:][judged]
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    return float((hits / np.arange(1, len(hits) + 1))[truth[order]].mean()) if truth.any() else float("nan")
