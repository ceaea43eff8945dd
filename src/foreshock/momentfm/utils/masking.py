"""The original's `momentfm.utils.masking`."""

from foreshock.models.momentfm import Masking

__all__ = ["Masking"]
