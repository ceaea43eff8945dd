"""The original's `momentfm.models.moment`."""

from foreshock.models.momentfm import MOMENT, MOMENTPipeline

__all__ = ["MOMENT", "MOMENTPipeline"]
