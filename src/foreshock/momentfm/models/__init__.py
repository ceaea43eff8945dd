"""The original's `momentfm.models`."""
