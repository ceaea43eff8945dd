"""The original's `momentfm.utils`."""
