"""The original package's names on our network: `MOMENT`, `MOMENTPipeline`, `Masking`, `TimeseriesOutputs`.

Code written for momentfm 0.1.4 runs with only its import changed, and gives the same numbers. Where the
original fails, gives NaN or silently trains nothing, this gives the sensible result: a missing `input_mask`
is all ones, NaN is "not observed", any length is padded, a mask may differ between channels, a loaded model
is in evaluation mode, checkpointing lets gradients through, and a new head stays trainable under peft.

Not here: the network (moment).
"""

from __future__ import annotations

import warnings
from argparse import Namespace
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreshock.errors import ConfigError
from foreshock.models import weights
from foreshock.models.moment import (
    Backbone,
    MomentConfig,
    build_head,
    denormalise,
    fill_from,
    join_channels,
    normalise,
    without_values,
)


@dataclass
class TASKS:
    """The four tasks by name."""

    RECONSTRUCTION: str = "reconstruction"
    FORECASTING: str = "forecasting"
    CLASSIFICATION: str = "classification"
    EMBED: str = "embedding"


@dataclass
class TimeseriesOutputs:
    """What every call gives back; fields that do not belong to the call are None."""

    forecast: Any = None
    anomaly_scores: Any = None
    logits: Any = None
    labels: Any = None
    input_mask: Any = None
    pretrain_mask: Any = None
    reconstruction: Any = None
    embeddings: Any = None
    metadata: Any = None
    illegal_output: Any = False


class NamespaceWithDefaults(Namespace):
    """Options as attributes, with a `getattr` and, for peft, a `get` that take a default."""

    @classmethod
    def from_namespace(cls, namespace: Namespace) -> NamespaceWithDefaults:
        return cls(**vars(namespace))

    def getattr(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class Masking:
    """Masks over steps and over patches: 1 is seen, 0 is hidden."""

    def __init__(self, mask_ratio: float = 0.3, patch_len: int = 8, stride: int | None = None) -> None:
        self.mask_ratio = mask_ratio
        self.patch_len = patch_len
        self.stride = patch_len if stride is None else stride

    @staticmethod
    def convert_seq_to_patch_view(mask: Tensor, patch_len: int = 8, stride: int | None = None) -> Tensor:
        """(..., steps) to (..., patches): 1 where all steps of the patch are 1."""
        windows = mask.unfold(-1, patch_len, patch_len if stride is None else stride)
        return (windows.sum(-1) == patch_len).long()

    @staticmethod
    def convert_patch_to_seq_view(mask: Tensor, patch_len: int = 8) -> Tensor:
        """(..., patches) to (..., steps)."""
        return mask.repeat_interleave(patch_len, dim=-1)

    def generate_mask(self, x: Tensor, input_mask: Tensor | None = None) -> Tensor:
        """Hide a share of the observed patches, chosen at random for each series.

        Args:
            x: (batch, channels, steps), or already (batch, channels, patches, patch_len).
            input_mask: (batch, steps); None is all ones.

        Returns:
            (batch, steps), or for x in patches (batch, patches).
        """
        steps = x.shape[-1] if x.ndim == 3 else x.shape[-2] * x.shape[-1]
        if input_mask is None:
            input_mask = torch.ones(x.shape[0], steps, device=x.device)
        patches = self._choose(self.convert_seq_to_patch_view(input_mask, self.patch_len, self.stride))
        return patches if x.ndim == 4 else self.convert_patch_to_seq_view(patches, self.patch_len)

    def _choose(self, observed: Tensor) -> Tensor:
        keep = torch.ceil(observed.sum(-1, keepdim=True) * (1 - self.mask_ratio)).long()
        noise = torch.rand(observed.shape, device=observed.device).masked_fill_(observed == 0, 1.0)
        rank = noise.argsort(-1).argsort(-1)
        return (rank < keep).long()


class MOMENT(Backbone):
    """The network under the original's verbs; each takes keywords and gives `TimeseriesOutputs`.

    Shapes: x_enc (B, C, L); input_mask (B, L), or (B, C, L) for a mask a channel, 0 where nothing was
    observed; mask (same shapes), 0 where the model is to look away and reconstruct.
    """

    def __init__(self, config: Namespace | dict[str, Any], **kwargs: Any) -> None:
        options = dict(config) if isinstance(config, dict) else dict(vars(config))
        options |= kwargs.get("model_kwargs", {})
        super().__init__(MomentConfig.from_dict(options))
        self.config = NamespaceWithDefaults(**{**options, "d_model": self.geometry.d_model})
        self.task_name: str = self.geometry.task
        self.seq_len = self.geometry.seq_len
        self.patch_len = self.geometry.patch_len
        self.mask_generator = Masking(self.config.getattr("mask_ratio", 0.0), self.patch_len)
        if self.config.getattr("enable_gradient_checkpointing", True):
            self.encoder.gradient_checkpointing_enable()
        self.freeze_embedder: bool = self.config.getattr("freeze_embedder", True)
        self.freeze_encoder: bool = self.config.getattr("freeze_encoder", True)
        self.freeze_head: bool = self.config.getattr("freeze_head", False)
        self._freeze()

    def _freeze(self) -> None:
        self.patch_embedding.requires_grad_(not self.freeze_embedder)
        self.encoder.requires_grad_(not self.freeze_encoder)
        self.encoder.embed_tokens.requires_grad_(False)  # nothing reads it
        self.head.requires_grad_(not self.freeze_head)

    def forward(
        self, x_enc: Tensor, input_mask: Tensor | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> TimeseriesOutputs:
        """The task's own verb."""
        if self.task_name == TASKS.RECONSTRUCTION:
            return self.reconstruction(x_enc=x_enc, input_mask=input_mask, mask=mask, **kwargs)
        if self.task_name == TASKS.EMBED:
            return self.embed(x_enc=x_enc, input_mask=input_mask, **kwargs)
        if self.task_name == TASKS.FORECASTING:
            return self.forecast(x_enc=x_enc, input_mask=input_mask, **kwargs)
        return self.classify(x_enc=x_enc, input_mask=input_mask, **kwargs)

    def reconstruction(
        self, *, x_enc: Tensor, input_mask: Tensor | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> TimeseriesOutputs:
        """Reconstruct under a random mask of share `mask_ratio`, or under the one given."""
        batch = _Batch.of(x_enc, input_mask, self.patch_len)
        if mask is None:
            mask = batch.crop(self._random_mask(batch))
        return TimeseriesOutputs(
            input_mask=batch.input_mask,
            reconstruction=self._reconstruct(batch, mask),
            pretrain_mask=mask,
            illegal_output=None,
        )

    def _random_mask(self, batch: _Batch) -> Tensor:
        fill = batch.observed.shape[-1] - batch.length
        observed = F.pad(batch.input_mask, (fill, 0))
        flat = observed.reshape(-1, observed.shape[-1])
        return self.mask_generator.generate_mask(flat.unsqueeze(1), flat).reshape(observed.shape)

    def reconstruct(
        self, *, x_enc: Tensor, input_mask: Tensor | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> TimeseriesOutputs:
        """Reconstruct what is hidden by `mask`; without it everything is seen."""
        batch = _Batch.of(x_enc, input_mask, self.patch_len)
        return TimeseriesOutputs(input_mask=batch.input_mask, reconstruction=self._reconstruct(batch, mask))

    def _reconstruct(self, batch: _Batch, mask: Tensor | None) -> Tensor:
        shown = batch.like_observed(mask)
        x, mean, stdev = normalise(batch.x, batch.observed & shown)
        # A finite value under the mask is still embedded, as in the original; where there is none, the token.
        states = self._encode(x, batch.observed, shown & batch.finite)
        return batch.crop(denormalise(self.decode(states), mean, stdev).to(batch.dtype))

    def detect_anomalies(
        self,
        *,
        x_enc: Tensor,
        input_mask: Tensor | None = None,
        anomaly_criterion: str = "mse",
        **kwargs: Any,
    ) -> TimeseriesOutputs:
        """The squared ("mse") or absolute ("mae") error of each step; NaN where there is no value."""
        criterion = get_anomaly_criterion(anomaly_criterion)
        outputs = self.reconstruct(x_enc=x_enc, input_mask=input_mask)
        outputs.anomaly_scores = criterion(x_enc, outputs.reconstruction)
        outputs.metadata = {"anomaly_criterion": anomaly_criterion}
        return outputs

    def embed(
        self, *, x_enc: Tensor, input_mask: Tensor | None = None, reduction: str = "mean", **kwargs: Any
    ) -> TimeseriesOutputs:
        """One vector a batch entry ("mean"), or all (B, C, P, D) of them ("none")."""
        if reduction not in ("mean", "none"):
            raise NotImplementedError(f"Reduction method {reduction} not implemented.")
        batch = _Batch.of(x_enc, input_mask, self.patch_len)
        x, _, _ = normalise(batch.x, batch.observed)
        states = self._encode(x, batch.observed, batch.observed, skip_padding=reduction == "mean")
        if reduction == "mean":
            whole = batch.observed.reshape(*states.shape[:3], self.patch_len).all(-1, keepdim=True)
            states = (states * whole).sum((1, 2)) / whole.sum((1, 2))
        return TimeseriesOutputs(embeddings=states, input_mask=batch.input_mask, metadata=reduction)

    def forecast(
        self, *, x_enc: Tensor, input_mask: Tensor | None = None, **kwargs: Any
    ) -> TimeseriesOutputs:
        """The next `forecast_horizon` steps; a series shorter than `seq_len` is padded on the left."""
        batch = _Batch.of(x_enc, input_mask, self.patch_len, steps=max(self.seq_len, x_enc.shape[-1]))
        x, mean, stdev = normalise(batch.x, batch.observed)
        states = self._encode(x, batch.observed, None)
        forecast = denormalise(self.decode(states), mean, stdev).to(batch.dtype)
        return TimeseriesOutputs(input_mask=batch.input_mask, forecast=forecast)

    def short_forecast(
        self, *, x_enc: Tensor, input_mask: Tensor | None = None, forecast_horizon: int = 1, **kwargs: Any
    ) -> TimeseriesOutputs:
        """The next few steps through the reconstruction head: the series moves left, mask tokens follow."""
        batch = _Batch.of(x_enc, input_mask, self.patch_len)
        room = -(-forecast_horizon // self.patch_len) * self.patch_len
        x, mean, stdev = normalise(batch.x, batch.observed)
        observed = batch.observed.roll(-room, -1)
        observed[..., -room:] = True
        shown = torch.ones_like(observed)
        shown[..., -room:] = False
        states = self._encode(x.roll(-room, -1), observed, shown)
        result = denormalise(self.decode(states), mean, stdev).to(batch.dtype)
        input_mask = batch.input_mask.roll(-room, -1)
        input_mask[..., -room:] = 1
        return TimeseriesOutputs(
            input_mask=input_mask,
            reconstruction=batch.crop(result),
            forecast=result[..., -room:][..., :forecast_horizon],
            metadata={"forecast_horizon": forecast_horizon},
        )

    def classify(
        self, *, x_enc: Tensor, input_mask: Tensor | None = None, reduction: str = "concat", **kwargs: Any
    ) -> TimeseriesOutputs:
        """Logits (B, num_class) from all channels' states, side by side ("concat") or averaged ("mean")."""
        if reduction not in ("concat", "mean"):
            raise NotImplementedError(f"Reduction method {reduction} not implemented.")
        batch = _Batch.of(x_enc, input_mask, self.patch_len)
        x, _, _ = normalise(batch.x, batch.observed)
        states = join_channels(self._encode(x, batch.observed, batch.observed), reduction)
        return TimeseriesOutputs(embeddings=states, logits=self.decode(states), metadata=reduction)

    def _encode(
        self, x: Tensor, observed: Tensor, shown: Tensor | None, skip_padding: bool = False
    ) -> Tensor:
        """(B, C, L) to (B, C, P, D)."""
        states = self.encode(
            x.flatten(0, 1),
            None if observed.all() else observed.flatten(0, 1),
            None if shown is None or shown.all() else ~shown.flatten(0, 1),
            skip_padding,
        )
        return states.reshape(*x.shape[:2], -1, self.geometry.d_model)


@dataclass
class _Batch:
    """A caller's series filled up to whole patches, on the left, with steps nobody observed."""

    x: Tensor  # (B, C, L')
    observed: Tensor  # (B, C, L') bool
    finite: Tensor  # (B, C, L') bool, True under the fill
    input_mask: Tensor  # as it came, or ones (B, L)
    length: int  # L
    dtype: torch.dtype

    @classmethod
    def of(cls, x_enc: Tensor, input_mask: Tensor | None, patch_len: int, steps: int | None = None) -> _Batch:
        batch, channels, length = x_enc.shape
        if input_mask is None:
            input_mask = torch.ones(batch, length, device=x_enc.device)
        input_mask = input_mask.to(x_enc.device)
        fill = -length % patch_len if steps is None else steps - length
        finite = x_enc.isfinite()
        observed = _per_channel(input_mask, channels) & finite
        return cls(
            F.pad(x_enc, (fill, 0)),
            F.pad(observed, (fill, 0), value=False),
            F.pad(finite, (fill, 0), value=True),
            input_mask,
            length,
            x_enc.dtype if x_enc.is_floating_point() else torch.float32,
        )

    def like_observed(self, mask: Tensor | None) -> Tensor:
        """A caller's mask as (B, C, L') bool; the fill is shown."""
        if mask is None:
            return torch.ones_like(self.observed)
        fill = self.observed.shape[-1] - self.length
        given = _per_channel(mask.to(self.x.device), self.x.shape[1])
        return F.pad(given, (fill, 0), value=True)

    def crop(self, result: Tensor) -> Tensor:
        """Without the fill."""
        return result[..., result.shape[-1] - self.length :]


def _per_channel(mask: Tensor, channels: int) -> Tensor:
    given = mask.bool()
    return given if given.ndim == 3 else given.unsqueeze(1).expand(-1, channels, -1)


def get_anomaly_criterion(anomaly_criterion: str = "mse") -> nn.Module:
    """Squared or absolute error, step by step."""
    if anomaly_criterion == "mse":
        return nn.MSELoss(reduction="none")
    if anomaly_criterion == "mae":
        return nn.L1Loss(reduction="none")
    raise ValueError(f"Anomaly criterion {anomaly_criterion} not supported.")


class MOMENTPipeline(MOMENT):
    """`MOMENT` that is loaded and saved by name: `from_pretrained`, then `init()` for the task's head."""

    def __init__(self, config: Namespace | dict[str, Any], **kwargs: Any) -> None:
        model_kwargs = deepcopy(kwargs.get("model_kwargs") or {})
        own_task = config.get("task_name") if isinstance(config, dict) else getattr(config, "task_name", None)
        self._validate_model_kwargs(model_kwargs)
        new_task = model_kwargs.pop("task_name", own_task or TASKS.RECONSTRUCTION)
        super().__init__(config, model_kwargs=model_kwargs)
        self.new_task_name: str = new_task

    @staticmethod
    def _validate_model_kwargs(model_kwargs: dict[str, Any]) -> None:
        task = model_kwargs.get("task_name", TASKS.RECONSTRUCTION)
        if task == TASKS.FORECASTING and "forecast_horizon" not in model_kwargs:
            raise ValueError("forecast_horizon must be specified for long-horizon forecasting.")
        for name in ("n_channels", "num_class"):
            if task == TASKS.CLASSIFICATION and name not in model_kwargs:
                raise ValueError(f"{name} must be specified for classification.")

    def init(self) -> None:
        """Put the new task's head in the place of the one that was loaded."""
        if self.new_task_name == self.task_name:
            return
        if self.new_task_name not in vars(TASKS()).values():
            raise NotImplementedError(f"Task {self.new_task_name} not implemented.")
        warnings.warn(
            "Only the reconstruction head is pre-trained; this one must be fine-tuned.",
            stacklevel=2,
        )
        self.geometry = replace(self.geometry, task=self.new_task_name)
        self.task_name = self.config.task_name = self.new_task_name
        place = self.patch_embedding.mask_embedding
        self.head = build_head(self.geometry).to(place.device, place.dtype).train(self.training)
        self.head.requires_grad_(not self.freeze_head)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        model_kwargs: dict[str, Any] | None = None,
        **hub_options: Any,
    ) -> MOMENTPipeline:
        """A folder, `nano` or a hub name; in evaluation mode.

        Args:
            model_kwargs: task_name, forecast_horizon, n_channels, num_class, reduction, freeze_*,
                enable_gradient_checkpointing, head_dropout and the like.
            hub_options: revision, cache_dir, local_files_only; the rest of the original's are ignored.
        """
        folder = weights.find(
            pretrained_model_name_or_path,
            revision=hub_options.get("revision"),
            cache_dir=hub_options.get("cache_dir"),
            offline=bool(hub_options.get("local_files_only")),
        )
        config = weights.read_config(folder)
        try:
            with without_values():
                model = cls(config, model_kwargs=model_kwargs or {})
        except ConfigError as error:
            raise ValueError(str(error)) from error
        fill_from(model, weights.read_tensors(folder), folder)
        model._freeze()
        return model.eval()

    def save_pretrained(self, save_directory: str | Path, **ignored: Any) -> None:
        """Write `config.json` and `model.safetensors`; both packages read them."""
        options = {k: v for k, v in self.config.to_dict().items() if k != "task_name"}
        config = replace(self.geometry, raw=options).to_dict()
        weights.save(save_directory, config, self.state_dict())

    def enable_input_require_grads(self) -> None:
        """Called by peft after it has frozen everything: a new head is no base weight, so it trains on."""
        is_wrapped = hasattr(self.head, "modules_to_save")  # peft saves and trains its own copy
        if self.task_name != TASKS.RECONSTRUCTION and not self.freeze_head and not is_wrapped:
            self.head.requires_grad_(True)
