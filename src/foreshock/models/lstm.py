"""An LSTM autoencoder: rebuild a window of all KPIs through a narrow state, and score what it gets wrong.

Source: Malhotra et al. 2016, LSTM-based Encoder-Decoder for Multi-sensor Anomaly Detection. Like theirs
the decoder runs backwards from the encoder's last state; unlike theirs it is not fed its own output, so
that all steps are rebuilt at once, and errors are divided by their usual size for each KPI in place of a
Gaussian over all. A row is scored in the window that ends with it.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from foreshock.errors import ConfigError
from foreshock.models.fitted import Fitted, FittedDetector, RowScale, soften


@dataclass(frozen=True, slots=True)
class LstmOptions:
    """Size and training of the autoencoder.

    The bounds on a lesson make it a baseline that a small machine can afford: at most 1,024 windows of the
    last 4,096 rows, 15 times over. On 21 series of 12 families that was as good as 30 or 60 times (mean AP
    0.45 each), 512 windows were worse (0.41); docs/log.md, 2026-11-26.
    """

    window: int = 32  # rows
    width: int = 64  # of the state
    epochs: int = 15  # at most; stops early when the error has not fallen for 3
    most_windows: int = 1024  # learned from, evenly spaced
    batch: int = 64
    rate: float = 3e-3  # of Adam
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.window, self.width, self.epochs, self.most_windows, self.batch) < 1 or self.rate <= 0:
            raise ConfigError("window, width, epochs, most_windows, batch and rate must be above 0.")


class Autoencoder(nn.Module):
    """(B, L, K) → (B, L, K)."""

    def __init__(self, kpis: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.LSTM(kpis, width, batch_first=True)
        self.decoder = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, kpis)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        _, (state, _) = self.encoder(windows)
        steps = state[-1][:, None].expand(-1, windows.shape[1], -1)
        said: torch.Tensor = self.head(self.decoder(steps)[0]).flip(1)
        return said


class _FittedLstm:
    def __init__(self, scale: RowScale, model: Autoencoder, usual: np.ndarray, window: int) -> None:
        self.scale, self.model, self.usual, self.window = scale, model, usual, window

    def judge(self, values: np.ndarray, rows: int) -> tuple[np.ndarray, None]:
        off = self.scale(values[-(rows + self.window - 1) :]).astype(np.float32)
        out = np.full((rows, off.shape[1]), np.nan)
        if len(off) < self.window:
            return out, None
        error = last_errors(self.model, _windows(off, self.window))
        # What never changed needs no network: its distance from its level.
        error = np.where(self.scale.changes, error, np.abs(off[self.window - 1 :]))
        out[-len(error) :] = soften(error / self.usual)
        return out, None


def last_errors(model: Autoencoder, windows: np.ndarray) -> np.ndarray:
    """Absolute error of each window's last row: (N, L, K) → (N, K)."""
    with torch.inference_mode():
        parts = [
            np.abs(model(torch.from_numpy(part.copy()))[:, -1].numpy() - part[:, -1])
            for part in np.array_split(windows, -(-len(windows) // 512))
        ]
    return np.concatenate(parts)


def _windows(off: np.ndarray, window: int) -> np.ndarray:
    """(T, K) → (T - window + 1, window, K), a view."""
    return np.lib.stride_tricks.sliding_window_view(off, window, 0).swapaxes(1, 2)


class LstmLearner:
    """Trains an autoencoder on windows of the training part."""

    supervised, fills = False, False

    def __init__(self, options: LstmOptions) -> None:
        self.options = options
        self.reach = options.window - 1
        self.facts: dict[str, Any] = {}

    def learn(self, values: np.ndarray, truth: np.ndarray | None) -> Fitted:
        o = self.options
        scale = RowScale(values)
        windows = _windows(scale(values).astype(np.float32), o.window)
        place = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), o.most_windows)).astype(int))
        windows = windows[place]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(o.seed)
            model = Autoencoder(values.shape[1], o.width)
            epochs, loss = train(model, torch.from_numpy(windows.copy()), o)
        error = last_errors(model, windows)
        usual = np.where(scale.changes, np.maximum(np.sqrt((error**2).mean(0)), 0.1), 1.0)
        self.facts = {
            "epochs_run": epochs,
            "loss": loss,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        return _FittedLstm(scale, model, usual, o.window)

    def describe(self) -> dict[str, Any]:
        return {"options": asdict(self.options), "source": "Malhotra et al. 2016", **self.facts}

    def judge_offline(self, fitted: Fitted, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return fitted.judge(values, len(values))


def train(model: Autoencoder, windows: torch.Tensor, o: LstmOptions) -> tuple[int, float]:
    """Trains in place on windows (N, L, K); epochs run and the best mean squared error, which is kept."""
    optimizer = torch.optim.Adam(model.parameters(), lr=o.rate)
    best, best_state, stale, epochs = float("inf"), copy.deepcopy(model.state_dict()), 0, 0
    while epochs < o.epochs and stale < 3:
        epochs += 1
        total = 0.0
        for batch in torch.split(torch.randperm(len(windows)), o.batch):
            loss = nn.functional.mse_loss(model(windows[batch]), windows[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += float(loss.detach()) * len(batch) / len(windows)
        stale = 0 if total < 0.999 * best else stale + 1
        if total < best:
            best, best_state = total, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    model.eval()
    return epochs, best


def lstm_autoencoder(causal: bool = True, **options: Any) -> FittedDetector:
    """The LSTM autoencoder; options are the fields of LstmOptions. Its scores are causal either way."""
    return FittedDetector("lstm_autoencoder", LstmLearner(LstmOptions(**options)), causal)
