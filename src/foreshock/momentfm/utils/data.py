"""The original's `momentfm.utils.data`: the `.ts` files of the time series classification archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foreshock.errors import SourceError


def load_from_tsfile(full_file_path_and_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Series (N, channels, steps), all of one length, and their class labels (N,) as text; `?` is NaN."""
    path = Path(full_file_path_and_name).with_suffix(".ts")
    data, labels, is_header = [], [], True
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if is_header or not text or text.startswith("#"):
            is_header = is_header and text.lower() != "@data"
            continue
        *channels, label = text.split(":")
        data.append([[np.nan if v.strip() == "?" else float(v) for v in c.split(",")] for c in channels])
        labels.append(label.strip())
    if len({len(channel) for series in data for channel in series}) != 1:
        raise SourceError(f"{path} has no series, or series of different lengths; only equal ones are read")
    return np.array(data), np.array(labels)
