"""The original's `momentfm.data.base`."""

from foreshock.models.momentfm import TimeseriesOutputs

__all__ = ["TimeseriesOutputs"]
