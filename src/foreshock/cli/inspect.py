"""inspect: what is good and bad about a table, before anything is scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, counted
from foreshock.cli.output import TABLES, check_output, replacing
from foreshock.cli.steps import read_options

if TYPE_CHECKING:
    from foreshock.frame import Frame
    from foreshock.quality import Quality

Repair = Annotated[
    Path | None, typer.Option("--repair", metavar="OUT", help="Write the mended table: .parquet or .csv.")
]


def inspect(
    input: options.Input,
    repair: Repair = None,
    services: options.Services = None,
    timestamp: options.Timestamp = None,
    where: options.Where = None,
    ignore: options.Ignore = None,
    day: options.Day = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Report gaps, duplicates, unsorted rows, constant, dead and counter-like KPIs, and guessed units."""
    console = Console(json, quiet)
    if repair is not None:
        check_output(repair, force=force, suffixes=TABLES, flag="--repair")
    from foreshock import quality, sources

    settings = options.settings_from(
        None, None, services=services, timestamp=timestamp, where=where, ignore=ignore, day=day
    )
    frame = sources.read(input, **read_options(settings.settings))
    found = quality.inspect(frame)
    facts = {"input": input, **found.to_dict()}
    text = describe(input, found, frame)
    if repair is not None:
        mended, done = quality.repair(frame)
        with replacing(repair) as part:
            write_table(mended, part, repair.suffix.lower())
        facts |= {"repaired": list(done), "out": str(repair)}
        text += "\n" + "\n".join([*(f"repaired: {words}" for words in done), f"written: {repair}"])
    console.result(facts, text)


def describe(input: str, found: Quality, frame: Frame) -> str:
    """What there is, then the findings, the gravest first."""
    from foreshock.decide import iso

    lines = [
        f"{input.rstrip(':')}: {counted(found.rows, 'row')}, {counted(len(frame.kpis), 'KPI')} "
        f"of {counted(len(frame.services), 'service')}, a row each {found.step_s:g} s",
        f"{iso(found.start_ns)} to {iso(found.end_ns)}, {found.missing:.1%} of the values missing",
    ]
    if frame.labels is not None:
        lines.append(
            f"{int(frame.labels.anomaly.sum())} rows are labelled as anomalous (never seen by detectors)"
        )
    lines += [f"{finding.severity}: {finding.text}" for finding in found.findings]
    if not found.findings:
        lines.append("nothing odd was found")
    return "\n".join(lines)


def write_table(frame: Frame, path: Path, suffix: str) -> None:
    """A frame as a wide table, with its labels if it has any."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    columns = {"timestamp": pa.array(frame.time_ns, pa.timestamp("ns", tz="UTC"))}
    columns |= {name: pa.array(frame.values[:, i], from_pandas=True) for i, name in enumerate(frame.names)}
    if frame.labels is not None:
        columns["label"] = pa.array(frame.labels.anomaly.astype("int8"))
        columns["fault_type"] = pa.array(frame.labels.fault_type.astype(str).tolist())
        columns["root_cause_service"] = pa.array(frame.labels.root_cause.astype(str).tolist())
    table = pa.table(columns)
    if suffix == ".csv":
        csv.write_csv(table, path)
    else:
        parquet.write_table(table, path, compression="zstd")
