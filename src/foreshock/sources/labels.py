"""Label columns of a table: which they are, and the `Labels` they make. They never become KPIs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foreshock.errors import SourceError
from foreshock.frame import Labels
from foreshock.sources.naming import shown

# role → spellings, lower case with single underscores, best first
ROLES: dict[str, tuple[str, ...]] = {
    "label": ("label", "labels", "is_anomaly", "anomaly_label", "fault_label", "is_fault", "anomaly",
              "fault"),
    "fault_type": ("fault_type", "faulttype", "anomaly_type", "fault_name", "fault_class", "failure_type",
                   "fault", "anomaly"),
    "root_cause": ("root_cause_service", "root_cause", "rootcause", "rootcause_service", "fault_service",
                   "faulty_service", "culprit"),
    "fault_id": ("fault_id", "incident_id"),
    "recovery": ("recovery",),
    "suspect": ("suspect",),
    "suspect_service": ("suspect_service",),
    "metric_visible": ("metric_visible",),
}  # fmt: skip
_EITHER = ("fault", "anomaly")  # a flag if it holds numbers, a fault type if it holds text
_NORMAL = (
    "",
    "0",
    "0.0",
    "normal",
    "none",
    "nan",
    "null",
    "no fault",
    "no_fault",
    "nofault",
    "healthy",
    "ok",
    "-",
)
_TRUE, _FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_CODE_FAULTS = ("exception", "return")


def label_columns(columns: Sequence[str], is_text: Callable[[str], bool]) -> dict[str, str]:
    """Role → column, for the label columns among `columns`.

    Example:
        >>> label_columns(["timestamp", "cpu", "Label", "Fault Type"], lambda c: c == "Fault Type")
        {'label': 'Label', 'fault_type': 'Fault Type'}
    """
    plain = {_plain(c): c for c in reversed(columns)}
    out: dict[str, str] = {}
    for role, spellings in ROLES.items():
        for spelling in spellings:
            column = plain.get(spelling)
            if column is None or column in out.values():
                continue
            # Beside a label, `fault` can only be its type; alone, its values tell.
            if spelling in _EITHER and role == "label" and is_text(column):
                continue
            out[role] = column
            break
    return out if out.keys() & {"label", "fault_type"} else {}


def is_label_name(column: str) -> bool:
    """True for every spelling above: such a column is never a KPI, even beside a better one."""
    return any(_plain(column) in spellings for spellings in ROLES.values())


def _plain(name: str) -> str:
    return re.sub(r"[\s\-_.]+", "_", name.strip().lower())


def is_metric_visible(fault_type: str, service: str) -> bool:
    """False for Nezha's code faults in Train Ticket: wrong returns and exceptions that no metric shows."""
    return not (service.startswith("ts-") and fault_type in _CODE_FAULTS)


class Labeller:
    """Makes `Labels` of one table's label columns, piece by piece; fault numbers run on across pieces."""

    def __init__(self, columns: dict[str, str], place: Callable[[int], str]) -> None:
        self.columns = columns
        self.place = place  # row → "file:line", for messages
        self.is_nezha = {"recovery", "suspect"} <= columns.keys()  # whose tables leave `metric_visible` out
        self._last = ("", "", False)  # fault type, root cause, positive: of the row before
        self._next_id = 0
        self._row = 0  # of the piece being read

    def read(self, batch: pa.RecordBatch, row: int = 0) -> Labels | None:
        """The labels of the batch's rows; None if the table has no label columns.

        Raises:
            SourceError: a flag that is neither 0 nor 1.
        """
        if not self.columns:
            return None
        self._row = row
        fault_type = self._words(batch, "fault_type")
        root_cause = self._words(batch, "root_cause")
        ignore = self._flags(batch, "recovery", False)[0] | self._flags(batch, "suspect", False)[0]
        if "label" in self.columns:
            anomaly, unknown = self._flags(batch, "label", False)
            ignore |= unknown  # an empty label: nobody judged the row
        else:
            anomaly = fault_type != ""
        fault_type = np.where(anomaly, fault_type, "")
        root_cause = np.where(anomaly, root_cause, "")
        visible = self._flags(batch, "metric_visible", True)[0]
        if self.is_nezha and "metric_visible" not in self.columns:
            pairs = zip(fault_type, root_cause, strict=True)
            visible = np.array([is_metric_visible(t, s) for t, s in pairs], dtype=bool)
        ids = self._ids(batch, anomaly, fault_type, root_cause)
        return Labels(anomaly, fault_type, root_cause, ignore, ids, visible)

    def _column(self, batch: pa.RecordBatch, role: str) -> pa.Array | None:
        if role not in self.columns:
            return None
        column = batch.column(self.columns[role])
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

    def _words(self, batch: pa.RecordBatch, role: str) -> np.ndarray:
        column = self._column(batch, role)
        if column is None:
            return np.full(batch.num_rows, "", dtype=object).astype(str)
        if pa.types.is_floating(column.type):  # codes with gaps come as floats
            column = column.cast(pa.int64(), safe=False)
        words = pc.utf8_trim_whitespace(column.cast(pa.string())).fill_null("")
        out = np.asarray(words.to_pylist(), dtype=str) if len(words) else np.zeros(0, dtype="<U1")
        return np.where(np.isin(np.char.lower(out), _NORMAL), "", out)

    def _flags(self, batch: pa.RecordBatch, role: str, default: bool) -> tuple[np.ndarray, np.ndarray]:
        """(t,) the flag, (t,) where nothing is written."""
        column = self._column(batch, role)
        if column is None:
            return np.full(batch.num_rows, default), np.zeros(batch.num_rows, dtype=bool)
        words = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string()))).fill_null("")
        is_true = np.asarray(pc.is_in(words, value_set=pa.array(_TRUE)))
        is_false = np.asarray(pc.is_in(words, value_set=pa.array(_FALSE)))
        empty = np.asarray(pc.is_in(words, value_set=pa.array(["", "nan", "null", "na", "n/a"])))
        wrong = ~(is_true | is_false | empty)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise SourceError(
                f"{self.place(self._row + row)}: {self.columns[role]} is {shown(column[row].as_py())}; "
                "it must be 0 or 1."
            )
        return np.where(empty, default, is_true).astype(bool), empty

    def _ids(
        self, batch: pa.RecordBatch, anomaly: np.ndarray, fault_type: np.ndarray, root_cause: np.ndarray
    ) -> np.ndarray:
        column = self._column(batch, "fault_id")
        if column is not None:
            try:
                ids = column.cast(pa.float64()).fill_null(-1).cast(pa.int64())
            except pa.ArrowInvalid:
                pass  # names, not numbers: count the runs instead
            else:
                return np.where(anomaly, np.asarray(ids), -1).astype(np.int64)
        out = np.full(len(anomaly), -1, dtype=np.int64)
        last_type, last_cause, was_positive = self._last
        for row in np.flatnonzero(anomaly):
            before = (
                (last_type, last_cause, was_positive)
                if row == 0
                else (fault_type[row - 1], root_cause[row - 1], bool(anomaly[row - 1]))
            )
            if before != (fault_type[row], root_cause[row], True):
                self._next_id += 1
            out[row] = self._next_id - 1
        if len(anomaly):
            self._last = (str(fault_type[-1]), str(root_cause[-1]), bool(anomaly[-1]))
        return out


def join_labels(parts: Sequence[Labels]) -> Labels:
    """Labels of consecutive pieces as one."""
    fields = ("anomaly", "fault_type", "root_cause", "ignore", "fault_id", "metric_visible")
    return Labels(*(np.concatenate([getattr(p, f) for p in parts]) for f in fields))
