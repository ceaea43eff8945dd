"""Nezha recordings in their original folders: metric files a pod, a fault list, and clocks that need repair.

`rca_data/<day>/metric/*.csv` and `rca_data/<day>/<day>-fault_list.json` (IntelligentDDS/Nezha).

The clock: `Time` (its first 19 characters) is UTC and `TimeStamp` is not to be trusted (one file is hours
off). A row at t covers the minute before it. A fault starts at `inject_timestamp` if that agrees with
`inject_time` within 120 s, else at `inject_time` (many Train Ticket epochs are 8 h early), lasts 180 s, and
every row whose minute it overlaps is positive. So are the 240 s after it its recovery.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa

from foreshock.errors import SourceError
from foreshock.frame import Frame, Labels
from foreshock.sources.clock import Clock, step_of
from foreshock.sources.files import numbers_of, open_table
from foreshock.sources.labels import is_metric_visible
from foreshock.sources.layout import Options
from foreshock.sources.naming import guess_unit, kpis_of

METRICS = {
    "CpuUsage(m)": "cpu_m",
    "CpuUsageRate(%)": "cpu_pct",
    "MemoryUsage(Mi)": "mem_mi",
    "MemoryUsageRate(%)": "mem_pct",
    "SyscallRead": "syscall_read",
    "SyscallWrite": "syscall_write",
    "NetworkReceiveBytes": "net_rx_bytes",
    "NetworkTransmitBytes": "net_tx_bytes",
    "PodClientLatencyP90(s)": "client_lat_p90_s",
    "PodServerLatencyP90(s)": "server_lat_p90_s",
    "PodClientLatencyP95(s)": "client_lat_p95_s",
    "PodServerLatencyP95(s)": "server_lat_p95_s",
    "PodClientLatencyP99(s)": "client_lat_p99_s",
    "PodServerLatencyP99(s)": "server_lat_p99_s",
    "PodWorkload(Ops)": "workload_ops",
    "PodSuccessRate(%)": "success_pct",
    "NodeCpuUsageRate(%)": "node_cpu_pct",
    "NodeMemoryUsageRate(%)": "node_mem_pct",
    "NodeNetworkReceiveBytes": "node_net_rx_bytes",
    "SuccessRate(%)": "success_pct",
    "LatencyP50(s)": "lat_p50_s",
    "LatencyP90(s)": "lat_p90_s",
    "LatencyP95(s)": "lat_p95_s",
    "LatencyP99(s)": "lat_p99_s",
}
FRONT_DOOR = "frontdoor"  # the service of front_service.csv, what a visitor sees
CLOCK_SERVICES = ("frontend", "ts-travel-service")  # whose stamps the rows carry: one of each application
FAULT_S = 180
RECOVERY_S = 240
ROW_S = 60
_AGREE_S = 120
_IN_NAME = {"source_50": "src_p50", "destination_50": "dst_p50"}
_NOT_METRICS = ("Time", "TimeStamp", "time", "timestamp", "PodName", "ServiceName")


@dataclass(frozen=True, slots=True)
class Fault:
    """One injected fault, on the repaired clock."""

    start_ns: int
    end_ns: int
    fault_type: str
    service: str
    pod: str
    metric_visible: bool  # False: a code fault that no metric shows


def is_recording(path: Path) -> bool:
    """Is this a folder of a day, or of several days?"""
    return bool(_days(path))


def read_recording(path: str | Path, options: Options | None = None) -> Frame:
    """One day's metric files on one clock, with labels if the fault list is there.

    Columns are `<service>__<metric>`; a service of several pods shows their mean. Latencies between two
    services (`source_50.csv`, `destination_50.csv`) belong to the one that answers.

    Raises:
        SourceError: no recording, several days and none chosen, or a damaged file.
    """
    options = options or Options()
    folder = _choose_day(Path(path), options.day)
    read = [_read_metrics(p) for p in sorted((folder / "metric").glob("*.csv"))]
    parts = [p for p in read if p is not None]
    if not parts:
        raise SourceError(f"{folder / 'metric'} holds no metric file (*.csv).")
    time_ns = _reference(parts)
    columns: dict[str, list[np.ndarray]] = {}
    for part in parts:
        rows = _nearest_rows(time_ns, part.time_ns)
        for name, values in part.columns.items():
            spread = np.where(rows >= 0, values[rows], np.nan)
            columns.setdefault(name, []).append(spread)
    values = np.stack([_mean(c) for c in columns.values()], axis=1)
    kpis = kpis_of(list(columns), options.services)
    kpis = tuple(replace(k, unit=guess_unit(k, values[:, i])) for i, k in enumerate(kpis))
    listed = _fault_list(folder)
    labels = None if listed is None else label_rows(time_ns, read_faults(listed))
    return Frame(time_ns, values, kpis, step_of(time_ns), labels, str(folder))


def read_faults(path: str | Path) -> tuple[Fault, ...]:
    """The faults of a fault list (`<day>-fault_list.json`), in time order, clocks repaired.

    Raises:
        SourceError: no JSON, or an entry without one of its fields.
    """
    try:
        hours = json.loads(Path(path).read_text("utf-8"))
        entries = [entry for hour in hours.values() for entry in hour]
        faults = [_fault(entry) for entry in entries]
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as e:
        raise SourceError(
            f"{path} is no Nezha fault list ({type(e).__name__}: {e}); it maps hours to lists of "
            "inject_time, inject_timestamp, inject_pod and inject_type."
        ) from e
    return tuple(sorted(faults, key=lambda f: f.start_ns))


def label_rows(time_ns: np.ndarray, faults: tuple[Fault, ...]) -> Labels:
    """Labels of rows that each cover the minute before their stamp.

    `ignore` marks the recovery after each fault and the injections that the lists leave out
    (`nezha_suspects.csv`; none are known for other days).
    """
    rows = len(time_ns)
    fault = np.full(rows, -1, dtype=np.int64)
    ignore = suspect_rows(time_ns)
    recovery = np.zeros(rows, dtype=bool)
    for i, f in enumerate(faults):
        begun = time_ns > f.start_ns
        fault[begun & (time_ns - ROW_S * 10**9 < f.end_ns)] = i
        recovery |= begun & (time_ns - (ROW_S + RECOVERY_S) * 10**9 < f.end_ns)
    anomaly = fault >= 0
    ignore |= recovery & ~anomaly
    types = np.array([f.fault_type for f in faults] + [""])  # index -1: the last one, nothing
    services = np.array([f.service for f in faults] + [""])
    visible = np.array([f.metric_visible for f in faults] + [True])
    return Labels(anomaly, types[fault], services[fault], ignore, fault, visible[fault])


def suspect_rows(time_ns: np.ndarray) -> np.ndarray:
    """(T,) bool: rows of injections that Nezha's lists leave out."""
    out = np.zeros(len(time_ns), dtype=bool)
    for start, end in _suspects():
        out |= (time_ns >= start) & (time_ns <= end)
    return out


# ---- folders


def _days(path: Path) -> dict[str, Path]:
    """Day → folder, of a day's own folder or one that holds several."""
    if (path / "metric").is_dir():
        return {path.name: path}
    for parent in (path, path / "rca_data", path / "raw" / "rca_data"):
        days = {p.name: p for p in sorted(parent.glob("[0-9]*-*-*")) if (p / "metric").is_dir()}
        if days:
            return days
    return {}


def _choose_day(path: Path, day: str | None) -> Path:
    days = _days(path)
    if not days:
        raise SourceError(
            f"{path} is a folder without metric files; give a CSV or Parquet file, or a Nezha folder "
            "(<day>/metric/*.csv)."
        )
    if day is None and len(days) == 1:
        return next(iter(days.values()))
    if day is None:
        raise SourceError(
            f"{path} holds {len(days)} days ({', '.join(days)}); choose one: day='{next(iter(days))}'."
        )
    if day not in days:
        raise SourceError(f"{path} has no day {day!r}; it has {', '.join(days)}.")
    return days[day]


def _fault_list(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*fault_list.json"))), None)


# ---- metric files


@dataclass(frozen=True, slots=True)
class _Part:
    service: str
    time_ns: np.ndarray  # (t,) to the second, as the recording's clock has them
    columns: dict[str, np.ndarray]  # KPI name → (t,)


def _read_metrics(path: Path) -> _Part | None:
    """One file's columns; None for files beside the metrics, such as `dependency.csv`."""
    table = open_table(path)
    stamp = table.columns[0]
    if stamp.lower() != "time" and not path.stem.endswith("_metric"):
        return None
    if stamp.lower() != "time":
        raise SourceError(f"{path}:1: the first column is {stamp!r}; a Nezha metric file starts with 'Time'.")
    numbers = [c for c in table.columns if c not in _NOT_METRICS]
    batches = list(table.walk(numbers, [stamp], 65_536))
    if not batches:
        raise SourceError(f"{path} has a header but no rows.")
    batch = pa.Table.from_batches(batches).combine_chunks()
    time_ns = Clock(table.place, stamp).read(batch.column(stamp).combine_chunks())
    service, names = _names(path, numbers)
    columns = {
        name: numbers_of(batch.column(c).combine_chunks(), c, table, 0)
        for name, c in zip(names, numbers, strict=True)
    }
    return _Part(service, time_ns // 10**9 * 10**9, columns)


def _names(path: Path, columns: list[str]) -> tuple[str, list[str]]:
    """(service, KPI names) of a metric file."""
    if path.stem in _IN_NAME:
        return "", [f"{edge}__{_IN_NAME[path.stem]}" for edge in columns]
    if path.stem == "front_service":
        service = FRONT_DOOR
    else:
        service = service_of_pod(path.stem.removesuffix("_metric"))
    return service, [
        f"{service}__{METRICS.get(c, re.sub(r'[^0-9A-Za-z]+', '_', c).strip('_'))}" for c in columns
    ]


def service_of_pod(pod: str) -> str:
    """A pod's name without the two hashes that Kubernetes adds.

    Example:
        >>> service_of_pod("ts-contacts-service-866bd68c97-xcqfx")
        'ts-contacts-service'
    """
    return re.sub(r"-[0-9a-z]{6,10}-[0-9a-z]{5}$", "", pod)


def _reference(parts: list[_Part]) -> np.ndarray:
    """(T,) the recording's stamps: those of the application's clock service, if it has no fewer rows."""
    most = max(len(p.time_ns) for p in parts)
    full = [p for p in parts if len(p.time_ns) == most]
    return next((p for p in full if p.service in CLOCK_SERVICES), full[0]).time_ns


def _nearest_rows(time_ns: np.ndarray, other_ns: np.ndarray) -> np.ndarray:
    """(T,) the row of `other_ns` nearest to each stamp, -1 where none is within half a minute."""
    order = np.argsort(other_ns, kind="stable")
    stamps = other_ns[order]
    after = np.clip(np.searchsorted(stamps, time_ns), 1, max(1, len(stamps) - 1))
    before = after - 1
    after = np.minimum(after, len(stamps) - 1)
    near = np.where(np.abs(stamps[after] - time_ns) < np.abs(stamps[before] - time_ns), after, before)
    return np.where(np.abs(stamps[near] - time_ns) <= ROW_S // 2 * 10**9, order[near], -1)


def _mean(columns: list[np.ndarray]) -> np.ndarray:
    """(T,) the mean of those observed."""
    if len(columns) == 1:
        return columns[0]
    stacked = np.stack(columns)
    seen = np.sum(~np.isnan(stacked), axis=0)
    return np.where(seen > 0, np.nansum(stacked, axis=0) / np.maximum(seen, 1), np.nan)


# ---- faults


def _fault(entry: dict[str, str]) -> Fault:
    written = int(np.datetime64(entry["inject_time"].strip().replace(" ", "T"), "s").astype(np.int64))
    counted = int(float(entry["inject_timestamp"]))
    start = counted if abs(counted - written) <= _AGREE_S else written
    pod, kind = entry["inject_pod"], entry["inject_type"]
    service = service_of_pod(pod)
    return Fault(
        start * 10**9, (start + FAULT_S) * 10**9, kind, service, pod, is_metric_visible(kind, service)
    )


@cache
def _suspects() -> tuple[tuple[int, int], ...]:
    text = files("foreshock.sources").joinpath("nezha_suspects.csv").read_text("utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    # A few seconds either way: the stamps of a recording differ that much from pod to pod.
    slack = 20 * 10**9
    return tuple((_ns(r["first"]) - slack, _ns(r["last"]) + slack) for r in rows)


def _ns(text: str) -> int:
    return int(np.datetime64(text.removesuffix("Z"), "ns").astype(np.int64))
