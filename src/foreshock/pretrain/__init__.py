"""Pretraining: real and made-up series, masks, the loop that makes `nano`."""

from __future__ import annotations

from foreshock.pretrain.batches import BatchPlan, draw_batch
from foreshock.pretrain.corpus import Source, build_deny, open_corpus, read_deny, write_deny
from foreshock.pretrain.loop import CorpusPlan, Geometry, PretrainConfig, pretrain
from foreshock.pretrain.masking import MaskMix

__all__ = [
    "BatchPlan",
    "CorpusPlan",
    "Geometry",
    "MaskMix",
    "PretrainConfig",
    "Source",
    "build_deny",
    "draw_batch",
    "open_corpus",
    "pretrain",
    "read_deny",
    "write_deny",
]
