"""What is known afterwards about a simulated recording, and its files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.errors import OutputError
from foreshock.frame import Frame, Labels
from foreshock.sources.simulator.plan import Plan, describe

if TYPE_CHECKING:
    import pandas as pd

GROUP_ROWS = 32_768  # rows held before they are written; fewer would fill the file's index


def label(plan: Plan, at_s: np.ndarray) -> Labels:
    """What is known afterwards: a row is positive if its span overlaps a fault; recovery is ignored."""
    rows = len(at_s)
    kind = np.full(rows, "", dtype="<U20")
    cause = np.full(rows, "", dtype="<U40")
    fault_id = np.full(rows, -1, dtype=np.int64)
    ignore = np.zeros(rows, dtype=bool)
    half = plan.step_s / 2
    for number, fault in plan.faults_between(at_s[0] - half, at_s[-1] + half):
        end = fault.start_s + fault.duration_s
        during = (at_s + half > fault.start_s) & (at_s - half < end)
        ignore |= (at_s - half >= end) & (at_s - half < end + fault.recovery_s + plan.step_s)
        kind[during], cause[during], fault_id[during] = fault.kind, fault.service, number
    anomaly = fault_id >= 0
    return Labels(anomaly, kind, cause, ignore & ~anomaly, fault_id, np.ones(rows, dtype=bool))


def write(
    recording: Frame | Iterable[Frame],
    folder: str | Path,
    *,
    force: bool = False,
    plan: Plan | None = None,
    csv: bool = True,
) -> tuple[Path, ...]:
    """The recording as `recording.parquet`, `recording.csv` (both with label columns) and `faults.json`.

    Args:
        recording: a frame, or consecutive pieces of one (`blocks`), written as they come in bounded memory.
        plan: where the recording follows from. With it `faults.json` also tells the size of each fault, when
            it had its full effect and when all was over, and `plan.json` tells what nobody labelled: deploys
            and changes of the traffic.
        csv: without it no `recording.csv`.

    Returns:
        The files written, in this order: Parquet, CSV, faults, plan.

    Raises:
        OutputError: one of the files exists and `force` is False, or the folder can't be written.
    """
    folder = Path(folder)
    tables = [folder / "recording.parquet", *([folder / "recording.csv"] if csv else [])]
    texts = [folder / "faults.json", *([folder / "plan.json"] if plan is not None else [])]
    paths = (*tables, *texts)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; choose a folder.")
    for path in paths:
        if path.exists() and not force:
            raise OutputError(f"{path} exists; choose another folder, or overwrite it with --force.")
    parts = [path.with_name(path.name + ".part") for path in paths]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pieces = (recording,) if isinstance(recording, Frame) else recording
        faults = _write_tables(pieces, parts[0], parts[1] if csv else None)
        if plan is not None:
            faults = [fault | _course(plan, fault["fault_id"]) for fault in faults]
            parts[-1].write_text(json.dumps(describe(plan), indent=2) + "\n", encoding="utf-8")
        parts[len(tables)].write_text(json.dumps(faults, indent=2) + "\n", encoding="utf-8")
        for part, path in zip(parts, paths, strict=True):
            part.replace(path)
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror}); choose another folder.") from error
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return paths


def _course(plan: Plan, number: int) -> dict[str, Any]:
    """What only the plan knows about a fault."""
    fault = plan.faults[number]

    def moment(at_s: float) -> str:
        stamp = np.datetime64(plan.start_ns + round(at_s * 1e9), "ns")
        return str(stamp.astype("datetime64[s]")) + "Z"

    return {
        "size": round(fault.size, 4),
        "onset_s": round(fault.onset_s, 1),
        "full_effect": moment(fault.full_s),
        "recovered": moment(fault.over_s),
    }


def _write_tables(pieces: Iterable[Frame], parquet: Path, csv: Path | None) -> list[dict[str, Any]]:
    """The tables, piece by piece; gives the faults they hold."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    faults: dict[int, dict[str, Any]] = {}
    with ExitStack() as files:
        text = files.enter_context(csv.open("w", encoding="utf-8", newline="")) if csv else None
        writer, waiting, rows = None, [], 0
        for piece in pieces:
            table = _table(piece)
            waiting.append(pa.Table.from_pandas(table, preserve_index=False))
            rows += len(piece)
            if writer is None:
                writer = files.enter_context(pq.ParquetWriter(parquet, waiting[0].schema))
            if rows >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting), row_group_size=rows)
                waiting, rows = [], 0
            if text is not None:
                stamps = piece.time.astype("datetime64[ms]" if piece.step_s % 1 else "datetime64[s]")
                written = np.char.add(stamps.astype(str), "Z")
                first = text.tell() == 0
                table.assign(timestamp=written).to_csv(text, index=False, float_format="%.6g", header=first)
            for fault in planted(piece):
                known = faults.setdefault(fault["fault_id"], fault)
                if known is not fault:  # it began in an earlier piece
                    known.update(end=fault["end"], rows=known["rows"] + fault["rows"])
        if writer is not None and waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=rows)
    return list(faults.values())


def _table(frame: Frame) -> pd.DataFrame:
    """Time stamps, KPIs and, where there are any, label columns."""
    import pandas as pd

    stamps = pd.Series(pd.to_datetime(frame.time_ns, utc=True), name="timestamp")
    table = pd.concat([stamps, pd.DataFrame(frame.values, columns=list(frame.names))], axis=1)
    if frame.labels is not None:
        table["label"] = frame.labels.anomaly.astype(int)
        table["fault_type"] = frame.labels.fault_type
        table["root_cause_service"] = frame.labels.root_cause
        table["fault_id"] = frame.labels.fault_id
        table["recovery"] = frame.labels.ignore.astype(int)
    return table


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
