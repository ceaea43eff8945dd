"""The original's `momentfm.data`."""
