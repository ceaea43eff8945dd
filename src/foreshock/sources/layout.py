"""Which column of a table is what: time stamp, KPIs, labels, and the names of a long table.

Wide: a time stamp and one column a KPI. Long: a row a value (`timestamp, [service], metric, value`), or
a row a service (`timestamp, service, cpu, memory, …`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foreshock.errors import SourceError
from foreshock.sources.files import Table, advice
from foreshock.sources.labels import is_label_name, label_columns
from foreshock.sources.naming import ServiceRules, names_shown, shown

STAMP_NAMES = ("timestamp", "time", "datetime", "date_time", "ts", "_time", "@timestamp", "date", "epoch",
               "t")  # fmt: skip
OTHER_STAMPS = ("timestamp", "datetime", "date_time", "@timestamp", "epoch")  # beside another one: no KPI
METRIC_NAMES = ("metric", "kpi", "metric_name", "kpi_name", "__name__", "name", "variable")
VALUE_NAMES = ("value", "values", "val", "metric_value", "kpi_value", "_value")
SERVICE_NAMES = ("service", "service_name", "cmdb_id", "component", "pod", "podname", "container", "entity",
                 "host", "instance", "node", "job")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """How to read a table; every default fits an ordinary one.

    `services` are rules, see `naming.parse_rules`. `timestamp` names the time column. `where` keeps the
    rows whose text columns hold these words. `day` picks one day of a folder that holds several. `ignore`
    leaves columns out.
    """

    services: ServiceRules | None = None
    timestamp: str | None = None
    where: Mapping[str, str] | None = None
    day: str | None = None
    ignore: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column is what."""

    stamp: str
    values: tuple[str, ...]  # KPI columns; of a long table its one value column
    labels: dict[str, str]  # role → column
    words: tuple[str, ...]  # every column read as text: stamp, labels, filters, metric and service names
    metric: str = ""  # long: the column with the names of metrics
    service: str = ""  # long: the column with the names of services

    @property
    def is_long(self) -> bool:
        return bool(self.metric or self.service)


def find_layout(table: Table, options: Options) -> Layout:
    """Tell stamp, KPI, label and name columns apart.

    Raises:
        SourceError: no time column, no KPI column, or a text column nobody can use.
    """
    stamp = _find_stamp(table, options.timestamp)
    where = dict(options.where or {})
    for name in where:
        if name not in table.columns:
            raise SourceError(f"{table.path} has no column {name!r} to filter on; {_has(table)}")
    ignore = tuple(options.ignore or ())
    for name in ignore:
        if name not in table.columns:
            raise SourceError(f"{table.path} has no column {name!r} to leave out; {_has(table)}")
    labels = label_columns([c for c in table.columns if c not in ignore], table.may_be_text)
    skip = {stamp, *where, *ignore, *(c for c in table.columns if is_label_name(c) and labels)}
    skip |= {c for c in table.columns if _is_row_number(c) or _plain(c) in OTHER_STAMPS}
    skip |= {c for c in table.text | table.stamped if _plain(c) in STAMP_NAMES}
    rest = [c for c in table.columns if c not in skip]
    words = [c for c in rest if c in table.text]
    numbers = [c for c in rest if c not in table.text]
    metric = _named(METRIC_NAMES, words)
    value = _named(VALUE_NAMES, numbers)
    service = _named(SERVICE_NAMES, [w for w in words if w != metric])
    if metric and value:
        numbers = [value]
    else:
        metric = ""
        spare = [w for w in words if w != service]
        if spare:
            raise _no_numbers(table, spare[0])
    if not numbers:
        raise SourceError(f"{table.path} has no KPI column beside {stamp!r}; {_has(table)}")
    names = [n for n in (metric, service) if n]
    text = tuple(dict.fromkeys([stamp, *names, *labels.values(), *where]))
    return Layout(stamp, tuple(numbers), labels, text, metric, service)


def _no_numbers(table: Table, column: str) -> SourceError:
    sample = table.samples.get(column, "")
    if re.match(r"[+-]?[\d.,]", sample):
        return SourceError(f"{table.path}: column {shown(column)} holds {shown(sample)}; {advice(sample)}")
    return SourceError(
        f"{table.path}: column {shown(column)} holds text ({shown(sample)}), a KPI holds numbers. "
        f"Leave it out (ignore {column[:40]}), or keep the rows of one value: where "
        f"{column[:40]}={sample[:40]}."
    )


def _find_stamp(table: Table, wanted: str | None) -> str:
    if wanted is not None:
        if wanted in table.columns:
            return wanted
        raise SourceError(f"{table.path} has no column {wanted!r} for the time stamp; {_has(table)}")
    named = [c for c in table.columns if _plain(c) in STAMP_NAMES]
    written = [c for c in named if c in table.text or c in table.stamped]
    found = _named(STAMP_NAMES, written) or _named(STAMP_NAMES, named)
    if found:
        return found
    if len(table.stamped) == 1:
        return next(iter(table.stamped))
    if _is_row_number(table.columns[0]) and table.columns[0] in table.text:
        return table.columns[0]
    if all(c.replace(".", "").replace("-", "").isdigit() for c in table.columns):
        raise SourceError(
            f"{table.path}:1: the first line holds numbers; a header with column names must come first."
        )
    raise SourceError(
        f"{table.path} has no time stamp column (such as 'timestamp', 'time' or 'datetime'); {_has(table)} "
        "Name it: timestamp='…'."
    )


def _has(table: Table) -> str:
    return f"its columns are {names_shown(table.columns)}."


def _named(candidates: tuple[str, ...], columns: Sequence[str]) -> str:
    plain = {_plain(c): c for c in reversed(columns)}
    return next((plain[c] for c in candidates if c in plain), "")


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _is_row_number(name: str) -> bool:
    """Is this how pandas calls an index without a name?"""
    return name in ("", "index", "__index_level_0__") or name.startswith("Unnamed:")
