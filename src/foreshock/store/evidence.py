"""The rows of an incident as Parquet, to be drawn and learned from when the live window is gone."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass

import numpy as np

from foreshock.errors import SourceError
from foreshock.frame import Frame, Kpi

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """T rows around an incident, as they were scored."""

    frame: Frame  # without labels
    system: np.ndarray  # (T,) float32
    high: np.ndarray  # (T,) float64, threshold of each row
    expected: np.ndarray  # (T, K) float32; NaN where nothing was expected, or not kept


def to_parquet(evidence: Evidence) -> bytes:
    """The blob; columns are numbered, names and units lie in the metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    frame = evidence.frame
    columns: dict[str, np.ndarray] = {"time": frame.time_ns}
    columns |= {f"v{k}": frame.values[:, k] for k in range(len(frame.kpis))}
    columns |= {"system": evidence.system.astype(np.float32), "high": evidence.high.astype(np.float64)}
    for k in np.flatnonzero(np.isfinite(evidence.expected).any(0)).tolist():
        columns[f"e{k}"] = evidence.expected[:, k].astype(np.float32)
    about = {"format": FORMAT, "step_s": frame.step_s, "source": frame.source,
             "kpis": [asdict(kpi) for kpi in frame.kpis]}  # fmt: skip
    table = pa.table(columns).replace_schema_metadata({"foreshock": json.dumps(about)})
    out = io.BytesIO()
    parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


def from_parquet(blob: bytes, what: str) -> Evidence:
    """The way back from `to_parquet`.

    Raises:
        SourceError: the blob is damaged; `what` names it.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(blob))
        about = json.loads((table.schema.metadata or {})[b"foreshock"])
        kpis = tuple(Kpi(**kpi) for kpi in about["kpis"])
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        values = np.stack([columns[f"v{k}"] for k in range(len(kpis))], 1)
        missing = np.full(len(table), np.nan, np.float32)
        expected = np.stack([columns.get(f"e{k}", missing) for k in range(len(kpis))], 1)
        frame = Frame(columns["time"], values, kpis, float(about["step_s"]), source=about["source"])
        return Evidence(frame, columns["system"], columns["high"], expected)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise SourceError(f"the rows kept for {what} are damaged ({error}); they can't be used.") from error
