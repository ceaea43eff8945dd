"""adapt: labelled tables in, an adapter out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console
from foreshock.cli.steps import read_whole
from foreshock.errors import ConfigError, OutputError, SourceError

if TYPE_CHECKING:
    from foreshock.config import Settings
    from foreshock.models.finetune import FinetuneOptions
    from foreshock.models.lora import Adapter


def adapt(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Labelled tables, one or more; none with --from-labels.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="A folder for the adapter.", show_default=False),
    ] = None,
    from_labels: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE", help="Learn from the verdicts in a service's store, in place of INPUT."
        ),
    ] = None,
    shots: Annotated[int, typer.Option(help="Labelled windows to learn from, at most.", min=1)] = 100,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Incidents beside unlabelled tables: start, end, fault_type, root_cause_service.",
        ),
    ] = None,
    rank: Annotated[int, typer.Option(help="Of the changes of the encoder.", min=1)] = 8,
    targets: Annotated[str, typer.Option(help="Which products are changed: q,k,v,o,wi_0,wi_1,wo.")] = "q,v",
    steps: Annotated[int, typer.Option(help="Of training, at most; 0: the verdict alone.", min=0)] = 120,
    least_incidents: Annotated[
        int,
        typer.Option(
            help="With fewer the score stays zero-shot, names alone are learned; 0: all counts.",
            min=0,
        ),
    ] = 6,
    seed: Annotated[int, typer.Option(help="The same seed gives the same adapter.", min=0)] = 0,
    precision: Annotated[
        str, typer.Option(help="Of the frozen network while it learns: fp32, bf16, int8 or 4-bit.")
    ] = "fp32",
    micro_batch: Annotated[
        int, typer.Option(help="Series at once, where memory is short; 0: the whole batch.", min=0)
    ] = 0,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Keep less on the way forth; slower.")
    ] = False,
    model: options.Model = None,
    services: options.Services = None,
    timestamp: options.Timestamp = None,
    where: options.Where = None,
    ignore: options.Ignore = None,
    day: options.Day = None,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    track: options.Track = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn from labelled incidents, for `--adapter` of score and detect.

    Killed, the same command goes on where it was; a previous adapter stays until the new one is whole.
    `accelerate launch -m foreshock adapt …` trains on several processes, which must see the same folders.
    """
    console = Console(json, quiet)
    resolved = options.settings_from(
        config, preset, model=model, services=services, timestamp=timestamp, where=where, ignore=ignore,
        day=day,
    )  # fmt: skip
    if bool(inputs) == (from_labels is not None):
        raise ConfigError("give a labelled table, or a store with --from-labels; one of the two.")
    if from_labels is None and out is None:
        raise ConfigError("say where the adapter goes with --out.")
    if from_labels is not None and (labels is not None or out is not None):
        raise ConfigError("--from-labels keeps the adapter beside the store; leave --out and --labels out.")
    if out is not None:
        _check_folder(out, force)
    from foreshock.models.finetune import FinetuneOptions, divided_spans, finetune
    from foreshock.tracking import tracking

    settings = resolved.settings
    plan = FinetuneOptions(
        shots=shots, rank=rank, targets=tuple(targets.replace(" ", "").split(",")), steps=steps, seed=seed,
        least_incidents=least_incidents,
        precision=precision, micro_batch=micro_batch, checkpointing=checkpointing,
    )  # fmt: skip
    if from_labels is not None:
        _from_store(from_labels, settings, plan, console)
        return
    assert inputs
    assert out is not None
    frames = [read_whole(one, settings, console) for one in inputs]
    if labels is not None:
        frames = divided_spans(frames, read_spans(labels))
    done = 0
    with tracking(track or (), out.name) as handed, console.progress("steps", steps) as advance:

        def on_step(line: dict[str, Any]) -> None:
            nonlocal done
            handed(line)
            step = int(line.get("step", done))
            advance(step - done)
            done = step

        adapter = finetune(
            frames, out, settings.detector.model, plan, on_step,
            length=settings.window.length, block=settings.window.stride,
        )  # fmt: skip
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes one speaks
    facts = {"adapter": str(out), "base_sha256": adapter.base_sha256, **adapter.facts,
             "threshold": adapter.verdict.threshold, "fault_types": list(adapter.verdict.kinds)}  # fmt: skip
    console.result(
        facts,
        f"{out}: learned from {facts['shots']} windows, {facts['faulty_shots']} of them with a fault, in "
        f"{facts['seconds']:.0f} s; {len(adapter.verdict.kinds)} kinds of faults\n{_counts(adapter)}",
    )


def _counts(adapter: Adapter) -> str:
    """What of it counts in use, for people."""
    facts = adapter.facts
    finds = "labels help to find incidents"
    if not adapter.verdict.detects:
        finds = "names alone are learned, incidents are found as without labels"
    told = f"{facts['compared_incidents']} labelled incidents to compare"
    if "crossed_ap" in facts:
        told += (
            f", AP {facts['crossed_ap']:.2f}, each by labels of others; {facts['zero_shot_ap']:.2f} without"
        )
    network = "is changed" if facts["best_step"] else "stays as it is"
    if facts["steps"] and not facts["best_step"]:
        network += ": a change gained no more than chance"
    return f"{finds} ({told})\nthe network {network}"


def _from_store(path: Path, settings: Settings, plan: FinetuneOptions, console: Console) -> None:
    """Learn from verdicts, hold the adapter to the held-back incidents, and note it in the store."""
    from foreshock.errors import StateError
    from foreshock.service import learn
    from foreshock.store import Store

    if not path.is_file():
        raise SourceError(f"{path} is not there; `foreshock serve` keeps its store in serve.data.")
    with Store(path) as store:
        last = max((verdict["number"] for verdict in store.verdicts()), default=0)
        id = f"verdicts-{last}" + (f"-seed-{plan.seed}" if plan.seed else "")
        if any(one["id"] == id for one in store.adapters()):
            raise StateError(f"{id} was learned from these verdicts already; give more, or another --seed.")
        made = learn.adapt(store, path.parent / "adapters", id, settings, plan)
    facts = made["facts"]
    both = (("adapter", facts["exam"]["candidate"]), (facts["compared_with"], facts["exam"]["in_use"]))
    told = [
        f"{name}: {one['found']} of {one['confirmed']} held back, {one['false_alarms']} false alarms"
        for name, one in both
    ]
    better = "better" if facts["is_better"] else "not better; it stays a candidate"
    console.result(made, "\n".join([f"{id}: {better}", *told]))


def read_spans(path: Path) -> list[tuple[int, int, str, str]]:
    """Incidents from a CSV: start and end in nanoseconds since 1970 UTC, kind, service.

    Raises:
        SourceError: no such file or columns, or a time that is none.
    """
    import csv

    import numpy as np

    spans = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, row in enumerate(csv.DictReader(file), 2):
                if not {"start", "end"} <= row.keys():
                    raise SourceError(f"{path} has no columns start and end; it has {', '.join(row)}.")
                try:
                    start, end = (
                        int(np.datetime64(str(row[n]).strip().rstrip("Z"), "ns").astype(np.int64))
                        for n in ("start", "end")
                    )
                except ValueError:
                    raise SourceError(
                        f"{path}:{line}: {row['start']!r} to {row['end']!r} are not two UTC times such as "
                        "2026-05-02T10:15:00."
                    ) from None
                kind = str(row.get("fault_type") or "")
                spans.append((start, end, kind, str(row.get("root_cause_service") or "")))
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can't be read ({error}).") from error
    if not spans:
        raise SourceError(f"{path} has no incident; an adapter is learned from some.")
    return spans


def _check_folder(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; choose a folder with --out.")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise OutputError(f"{out} exists; replace it with --force or choose another folder with --out.")
    if out.is_dir() and any(out.iterdir()) and not (out / "foreshock.json").is_file():
        raise OutputError(f"{out} is no adapter; choose another folder with --out.")
