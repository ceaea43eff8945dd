"""The original's `momentfm.common`."""

from foreshock.models.momentfm import TASKS

__all__ = ["TASKS"]
