"""Zero-shot scoring with MOMENT: hide what is to be judged, reconstruct it, weigh the error.

Recognition, the default with `nano`, is in vigil; here is what any MOMENT can do. Causal: the last block
of each window is hidden and expected from the steps before it, so that a score never reads later rows.
Offline: each patch is hidden in turn and expected from both sides. Published: nothing is hidden and the
squared error is the score, as in the paper (Goswami et al. 2024); kept for comparison, it is close to a
rolling variance.

Not here: the network (moment), what makes an error surprising (evidence), the pooling (scores), recognition
both ways (bidirectional).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from foreshock.errors import ConfigError
from foreshock.frame import Frame
from foreshock.models.bidirectional import BidirectionalDetector
from foreshock.models.evidence import (
    EvidenceDetector,
    EvidenceOptions,
    EvidenceStream,
    offline_evidence,
    require_later,
)
from foreshock.models.moment import Moment, load_moment
from foreshock.models.oneline import PastMedian
from foreshock.models.recognise import Recogniser, load_recogniser
from foreshock.models.vigil import VigilDetector, VigilOptions
from foreshock.models.weights import HEADS_NAME, find, sha256
from foreshock.scores import Scores, layout, pool, smooth
from foreshock.windows import PATCH, fill_forward, quantiles, to_grid, window_starts

LEAST_OBSERVED = 2 * PATCH  # steps of context below which the median is a better guess than the network


class MomentExpectation:
    """What MOMENT expects of the next block, in the KPI's own units."""

    def __init__(self, model: Moment, length: int) -> None:
        self.model = model
        self.length = length

    def expect(self, context: np.ndarray, block: int) -> np.ndarray:
        """(N, C) with NaN → (N, block).

        Gaps are filled with the value before them, since the network reads whole patches only. Series
        that are constant or hardly observed get their median: the network could not do better.
        """
        observed = np.isfinite(context)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN rows
            low, high = np.nanmin(context, 1), np.nanmax(context, 1)
        out = np.repeat(quantiles(context.T, (0.5,))[0][:, None], block, axis=1)
        rows = np.flatnonzero((observed.sum(1) >= LEAST_OBSERVED) & (high > low))
        if len(rows):
            said = expect_end(self.model, fill_forward(context[rows]), block, self.length)
            # Beyond twice the range seen, an extrapolation is not believed.
            low, high = low[rows, None], high[rows, None]
            out[rows] = np.clip(said, 2 * low - high, 2 * high - low)
        return out


def expect_end(model: Moment, context: np.ndarray, block: int, length: int) -> np.ndarray:
    """Hide `block` steps after each context (N, C) and reconstruct them: (N, block)."""
    n = len(context)
    context = context[:, max(0, context.shape[1] + block - length) :]
    values = np.concatenate([context, np.zeros((n, block))], axis=1)
    hidden = np.zeros(values.shape, bool)
    hidden[:, -block:] = True
    result = model.reconstruct(values[:, None], np.isfinite(values)[:, None], hidden[:, None])
    return np.asarray(result, np.float64)[:, 0, -block:]


def moment_detector(
    name: str = "foreshock",
    model: str | Path | Moment | Recogniser = "nano",
    precision: str = "auto",
    causal: bool = True,
    recognise: bool = True,
    **options: Any,
) -> EvidenceDetector | VigilDetector | BidirectionalDetector:
    """The default detector: recognition, where the checkpoint has heads for it (`nano` has).

    Other checkpoints, MOMENT-1 among them, are asked what they expect of the next block, and the answer
    is weighed beside the median of the past.

    Args:
        model: `nano`, a folder, a hub name, or a loaded network.
        causal: False looks both ways: two passes with recognition; without, each patch is hidden in turn.
        recognise: False leaves the heads of recognition aside.
        options: fields of VigilOptions with recognition, of EvidenceOptions without.

    Raises:
        ConfigError: the window is longer than the network's context.
        WeightsError: the checkpoint is missing or damaged.
    """
    recogniser = model if isinstance(model, Recogniser) else None
    if isinstance(model, Recogniser):
        network = cast(Moment, model.backbone)
    else:
        network = model if isinstance(model, Moment) else load_moment(str(model), precision=precision)
    if not isinstance(model, Moment | Recogniser) and recognise:
        recogniser = load_recogniser(find(str(model)), network)
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
    settings = EvidenceOptions(**options) if recogniser is None else VigilOptions(**options)
    if settings.length > network.config.seq_len:
        raise ConfigError(
            f"the window has {settings.length} steps; this model reads {network.config.seq_len} at once. "
            f"Set window.length to {network.config.seq_len} or less."
        )
    facts = {
        "model": "in memory" if isinstance(model, nn.Module) else str(model),
        "weights_sha256": None
        if isinstance(model, nn.Module)
        else sha256(find(str(model)) / "model.safetensors"),
        "parameters": sum(p.numel() for p in network.parameters()),
        "precision": str(network.compute_dtype).removeprefix("torch."),
    }
    if recogniser is not None and isinstance(settings, VigilOptions):
        if not isinstance(model, nn.Module):
            facts["heads_sha256"] = sha256(find(str(model)) / HEADS_NAME)
        detector = VigilDetector(name, recogniser, settings, facts)
        return detector if causal else BidirectionalDetector(detector)
    assert isinstance(settings, EvidenceOptions)
    expectation = MomentExpectation(network, settings.length)
    if causal:
        return EvidenceDetector(name, {"moment": expectation, "level": PastMedian()}, settings, facts)
    return OfflineDetector(name, expectation, settings, facts)


class OfflineDetector(EvidenceDetector):
    """Complementary masking: each patch is hidden in turn and expected from both sides."""

    def __init__(
        self, name: str, expectation: MomentExpectation, options: EvidenceOptions, facts: dict[str, Any]
    ) -> None:
        super().__init__(name, {"moment": expectation, "level": PastMedian()}, options, facts)
        self.moment = expectation.model

    def stream(self) -> EvidenceStream:
        raise ConfigError("offline scoring reads later rows, so it can't stream; leave out --offline.")

    def score(self, frame: Frame) -> Scores:
        frame.require_clock()
        grid = to_grid(frame.time_ns, frame.step_s)
        dense = np.full((grid.end, len(frame.kpis)), np.nan)
        dense[grid.slots] = np.where(np.isfinite(frame.values), frame.values, np.nan)
        by_network = hide_in_turn(self.moment, dense, self.options.length)
        level = np.broadcast_to(quantiles(dense, (0.5,))[0], dense.shape)
        evidence = offline_evidence(dense, np.stack([by_network, level]), self.options)[grid.slots]
        lasting = smooth(evidence, np.zeros(len(frame.kpis)), self.options.newest)
        services, system = pool(np.where(np.isfinite(evidence), lasting, np.nan), layout(frame.kpis))
        meta = (frame.kpis, frame.services, frame.step_s, self.name)
        expected = by_network[grid.slots].astype(np.float32)
        return Scores(frame.time_ns, evidence, services, system, *meta, causal=False, expected=expected)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "causal": False}


def hide_in_turn(model: Moment, dense: np.ndarray, length: int, turns: int = 4) -> np.ndarray:
    """Complementary masking: (T, K) with NaN → what each step should be, given both sides of its patch.

    Every `turns`-th patch of a window is hidden at once, so each patch is hidden exactly once a window;
    windows overlap by half and are averaged.
    """
    patch = np.arange(length) // PATCH

    def said_of(window: np.ndarray) -> np.ndarray:
        out = np.full(window.shape, np.nan)
        for turn in range(turns):
            hidden = np.tile(patch % turns == turn, (len(window), 1))
            said = np.asarray(
                model.reconstruct(window[:, None], np.isfinite(window)[:, None], hidden[:, None])
            )[:, 0]
            out[hidden] = said[hidden]
        return out

    return average_windows(dense, length, said_of)


def average_windows(dense: np.ndarray, length: int, look: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(T, K) with NaN → the mean of what `look` gives for windows (K, length) that overlap by half.

    Gaps are filled forward; a recording shorter than a window is padded on the left. NaN where no
    window gave anything.
    """
    filled = fill_forward(dense.T)  # (K, T)
    pad = max(0, length - filled.shape[1])
    filled = np.pad(filled, ((0, 0), (pad, 0)), constant_values=np.nan)
    total, seen = np.zeros(filled.shape), np.zeros(filled.shape)
    for start in window_starts(filled.shape[1], length, length // 2):
        into = slice(start, start + length)
        found = look(filled[:, into])
        told = np.isfinite(found)
        total[:, into] += np.where(told, found, 0)
        seen[:, into] += told
    with np.errstate(invalid="ignore"):
        result: np.ndarray = (total / np.where(seen > 0, seen, np.nan))[:, pad:].T
    return result


def squared_error(said: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Squared error, 0 where it is rounding: below 1e-4 of the value."""
    error = np.abs(said - values)
    return np.where(error < 1e-4 * np.abs(values), 0, error) ** 2


class PublishedDetector:
    """Nothing hidden, squared error of the reconstruction: the published zero-shot score.

    Causal by scoring each row from the window that ends with it, one window a row: exact, and slow.
    Offline cuts windows that overlap by half, as the original's tutorial does, and is quick.
    """

    def __init__(
        self,
        model: str | Path | Moment = "nano",
        precision: str = "auto",
        causal: bool = True,
        length: int = 256,
    ) -> None:
        self.name = "moment_published"
        self.causal = causal
        self.length = length
        self.source = "in memory" if isinstance(model, Moment) else str(model)
        self.model = model if isinstance(model, Moment) else load_moment(str(model), precision=precision)

    def describe(self) -> dict[str, Any]:
        return {"detector": self.name, "causal": self.causal, "length": self.length, "model": self.source}

    def stream(self) -> _PublishedStream:
        if not self.causal:
            raise ConfigError("offline scoring reads later rows, so it can't stream; leave out --offline.")
        return _PublishedStream(self)

    def score(self, frame: Frame) -> Scores:
        if self.causal:
            return self.stream().push(frame)
        frame.require_clock()
        values = np.where(np.isfinite(frame.values), frame.values, np.nan)
        raw = average_windows(
            values,
            self.length,
            lambda window: squared_error(np.asarray(self.model.reconstruct(window[:, None]))[:, 0], window),
        )
        usual = np.nanmean(raw, 0)
        return self._scores(frame, raw / np.where(usual > 0, usual, 1))

    def _scores(self, frame: Frame, ratio: np.ndarray) -> Scores:
        kpis = np.where(np.isfinite(frame.values), ratio, np.nan).astype(np.float32)
        services, system = pool(kpis, layout(frame.kpis))
        meta = (frame.kpis, frame.services, frame.step_s, self.name)
        return Scores(frame.time_ns, kpis, services, system, *meta, causal=self.causal)


class _PublishedStream:
    """The window that ends with each row; errors divided by the KPI's running mean."""

    def __init__(self, detector: PublishedDetector) -> None:
        self.detector = detector
        self.tail: np.ndarray | None = None
        self.total: np.ndarray | float = 0.0
        self.count: np.ndarray | int = 0
        self.last_ns: int | None = None

    def push(self, piece: Frame) -> Scores:
        require_later(piece, self.last_ns)
        self.last_ns = int(piece.time_ns[-1])
        length = self.detector.length
        values = np.where(np.isfinite(piece.values), piece.values, np.nan)
        if self.tail is None:
            self.tail = np.full((length - 1, values.shape[1]), np.nan)
        known = np.concatenate([self.tail, values])
        self.tail = known[-(length - 1) :]
        raw = np.full(values.shape, np.nan)
        for first in range(0, len(values), 64):
            rows = np.arange(first, min(first + 64, len(values)))
            windows = np.stack([known[r : r + length].T for r in rows])  # (B, K, L)
            filled = fill_forward(windows)
            said = np.asarray(self.detector.model.reconstruct(filled))[:, :, -1]
            raw[rows] = squared_error(said, filled[:, :, -1])
        sums = self.total + np.nancumsum(raw, 0)
        counts = self.count + np.cumsum(np.isfinite(raw), 0)
        self.total, self.count = sums[-1], counts[-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            usual = sums / counts
            return self.detector._scores(piece, np.nan_to_num(raw / np.where(usual > 0, usual, 1)))
