"""Which pretraining corpora held the data that is judged: figures on those are not zero-shot."""

from __future__ import annotations

from fnmatch import fnmatchcase

# model (as `describe()` names it, with * for any) → origin of the data → what was seen.
# nano: its model card. MOMENT-1: Goswami et al. 2024, the Time Series Pile holds TSB-UAD's public sets
# (Paparrizos et al. 2022); which series of them were held back is not published file by file.
PRETRAINED_ON: dict[str, dict[str, str]] = {
    "nano": {
        "smd": "train part of the same servers",
        "ucr": "other electrocardiograms (MIT-BIH), no shared stretch",
    },
    "*MOMENT-1*": {
        "ucr": "in TSB-UAD (Time Series Pile)",
        "nab": "in TSB-UAD (Time Series Pile)",
        "iops": "in TSB-UAD (Time Series Pile)",
        "smd": "in TSB-UAD (Time Series Pile)",
        "smap_msl": "in TSB-UAD (Time Series Pile)",
    },
}


def held_by(model: str | None, origin: str) -> str:
    """What of this data the model's pretraining saw, in words; empty if none is known.

    Args:
        model: nano, a folder, a hub name; None for a detector without pretrained weights.

    Example:
        >>> held_by("nano", "smd")
        'train part of the same servers'
        >>> held_by(None, "smd"), held_by("nano", "wsd")
        ('', '')
    """
    for name, seen in PRETRAINED_ON.items():
        if model is not None and fnmatchcase(model, name) and origin in seen:
            return seen[origin]
    return ""
