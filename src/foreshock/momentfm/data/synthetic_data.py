"""The original's `momentfm.data.synthetic_data`: sines of which one property changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foreshock.momentfm.utils.utils import control_randomness


class SyntheticDataset(nn.Module):
    """Each `gen_...` gives series (n_samples, 1, seq_len) and the property's value at each step."""

    def __init__(
        self,
        n_samples: int = 1024,
        seq_len: int = 512,
        freq: int = 1,
        freq_range: tuple[float, float] = (1, 32),
        amplitude_range: tuple[float, float] = (1, 32),
        trend_range: tuple[float, float] = (1, 32),
        baseline_range: tuple[float, float] = (1, 32),
        noise_mean: float = 0.0,
        noise_std: float = 0.1,
        random_seed: int = 42,
    ) -> None:
        super().__init__()
        self.n_samples = n_samples
        self.seq_len = seq_len
        self.freq = freq
        self.freq_range = freq_range
        self.amplitude_range = amplitude_range
        self.trend_range = trend_range
        self.baseline_range = baseline_range
        self.noise_mean = noise_mean
        self.noise_std = noise_std
        control_randomness(random_seed)

    def _property(self, lowest: float, highest: float) -> Tensor:
        return torch.linspace(lowest, highest, self.n_samples).unsqueeze(1).repeat(1, self.seq_len)

    def _time(self) -> Tensor:
        return torch.linspace(0, 1, self.seq_len).expand(self.n_samples, -1)

    def _phase(self) -> Tensor:
        return 2 * torch.pi * self.freq * self._time()

    def _noisy(self, y: Tensor) -> Tensor:
        return (y + torch.normal(self.noise_mean, self.noise_std, y.shape)).unsqueeze(1)

    def gen_sinusoids_with_varying_freq(self) -> tuple[Tensor, Tensor]:
        c = self._property(*self.freq_range)
        return self._noisy(torch.sin(c * self._phase())), c

    def gen_sinusoids_with_varying_correlation(self) -> tuple[Tensor, Tensor]:
        c = self._property(0, 2 * torch.pi)
        return self._noisy(torch.sin(self._phase() + c)), c

    def gen_sinusoids_with_varying_amplitude(self) -> tuple[Tensor, Tensor]:
        c = self._property(*self.amplitude_range)
        return self._noisy(c * torch.sin(self._phase())), c

    def gen_sinusoids_with_varying_trend(self) -> tuple[Tensor, Tensor]:
        c = self._property(*self.trend_range)
        return self._noisy(torch.sin(self._phase()) + self._time() ** c), c

    def gen_sinusoids_with_varying_baseline(self) -> tuple[Tensor, Tensor]:
        c = self._property(*self.baseline_range)
        return self._noisy(torch.sin(self._phase()) + c), c
