"""What is known afterwards about a simulated recording, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.errors import OutputError
from foreshock.frame import Frame, Labels
from foreshock.sources.simulator.plan import Plan


def label(plan: Plan, at_s: np.ndarray) -> Labels:
    """What is known afterwards: a row is positive if its span overlaps a fault; recovery is ignored."""
    rows = len(at_s)
    kind = np.full(rows, "", dtype="<U20")
    cause = np.full(rows, "", dtype="<U40")
    fault_id = np.full(rows, -1, dtype=np.int64)
    ignore = np.zeros(rows, dtype=bool)
    half = plan.step_s / 2
    for number, fault in enumerate(plan.faults):
        end = fault.start_s + fault.duration_s
        during = (at_s + half > fault.start_s) & (at_s - half < end)
        ignore |= (at_s - half >= end) & (at_s - half < end + fault.recovery_s + plan.step_s)
        kind[during], cause[during], fault_id[during] = fault.kind, fault.service, number
    anomaly = fault_id >= 0
    return Labels(anomaly, kind, cause, ignore & ~anomaly, fault_id, np.ones(rows, dtype=bool))


def write(frame: Frame, folder: str | Path, *, force: bool = False) -> tuple[Path, ...]:
    """The recording as `recording.parquet`, `recording.csv` (both with label columns) and `faults.json`.

    Raises:
        OutputError: one of the files exists and `force` is False, or the folder can't be written.
    """
    import pandas as pd

    folder = Path(folder)
    paths = tuple(folder / n for n in ("recording.parquet", "recording.csv", "faults.json"))
    for path in paths:
        if path.exists() and not force:
            raise OutputError(f"{path} exists; choose another folder, or overwrite it with --force.")
    stamps = pd.Series(pd.to_datetime(frame.time_ns, utc=True), name="timestamp")
    table = pd.concat([stamps, pd.DataFrame(frame.values, columns=list(frame.names))], axis=1)
    if frame.labels is not None:
        table["label"] = frame.labels.anomaly.astype(int)
        table["fault_type"] = frame.labels.fault_type
        table["root_cause_service"] = frame.labels.root_cause
        table["fault_id"] = frame.labels.fault_id
        table["recovery"] = frame.labels.ignore.astype(int)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(paths[0], index=False)
        text = table.assign(timestamp=table["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        text.to_csv(paths[1], index=False, float_format="%.6g")
        paths[2].write_text(json.dumps(planted(frame), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror}); choose another folder.") from error
    return paths


def planted(frame: Frame) -> list[dict[str, Any]]:
    """One entry a labelled fault: kind, root cause, first and last moment."""
    if frame.labels is None:
        return []
    found = []
    for number in sorted(set(frame.labels.fault_id.tolist()) - {-1}):
        rows = np.flatnonzero(frame.labels.fault_id == number)
        start_ns = int(frame.time_ns[rows[0]]) - round(frame.step_s * 1e9)
        found.append(
            {
                "fault_id": int(number),
                "fault_type": str(frame.labels.fault_type[rows[0]]),
                "root_cause_service": str(frame.labels.root_cause[rows[0]]),
                "start": str(np.datetime64(start_ns, "ns").astype("datetime64[s]")) + "Z",
                "end": str(frame.time[rows[-1]].astype("datetime64[s]")) + "Z",
                "rows": len(rows),
            }
        )
    return found
