"""score: a table in, scores out, in pieces, however long it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, Stopwatch, counted
from foreshock.cli.output import TABLES, ScoreWriter, check_output
from foreshock.cli.steps import (
    Run,
    Scorer,
    calibrator_of,
    detector_of,
    fixed_threshold,
    given_threshold,
    piece_rows,
    read_options,
    read_whole,
    require_fit,
    running,
    total_rows,
)
from foreshock.errors import FrameError, OutputError

if TYPE_CHECKING:
    import numpy as np

    from foreshock.config import Resolved, Settings
    from foreshock.frame import Frame
    from foreshock.scores import Scores

NOTE_S = 10.0  # the run log is told this often how far a long table has come

Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write: .parquet or .csv.")]


def score(
    input: options.Input,
    out: Out,
    detector: options.Detector = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    offline: options.Offline = False,
    false_alarms: options.FalseAlarms = None,
    services: options.Services = None,
    timestamp: options.Timestamp = None,
    where: options.Where = None,
    ignore: options.Ignore = None,
    day: options.Day = None,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    log: options.Log = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score every row of a table: how anomalous the system and each service were.

    Writes the columns timestamp, score, threshold, anomaly and service:<name>, and fault_type where
    the weights came with what simulated systems taught. Higher is more anomalous; empty means that
    nothing was observed. Large tables are read and scored in pieces. With --adapter also probability,
    fault_type is what labels say, and the threshold is the one learned from them.
    """
    console = Console(json, quiet)
    resolved = options.settings_from(
        config, preset, detector=detector, model=model, adapter=adapter, offline=offline,
        false_alarms=false_alarms, services=services, timestamp=timestamp, where=where, ignore=ignore,
        day=day, log=log,
    )  # fmt: skip
    check_output(out, force=force, suffixes=TABLES)
    if Path(input).exists() and out.exists() and Path(input).samefile(out):
        raise OutputError(f"{out} is the input itself; choose another name with --out.")
    import numpy as np

    watch = Stopwatch()
    with running(resolved, "score", input) as run, ScoreWriter(out) as writer:
        anomalous = observed = 0
        next_note_s = 0.0
        with run.phase("score"), console.progress("scoring rows", total_rows(input)) as advance:
            for piece in scored(input, resolved, run, console):
                observed += int(np.isfinite(piece.scores.system).sum())
                anomalous += writer.append(piece.scores, piece.high, piece.inside)
                advance(len(piece.scores))
                if watch.seconds >= next_note_s:
                    run.write("progress", rows=writer.rows, anomalous_rows=anomalous)
                    next_note_s = watch.seconds + NOTE_S
        scores = piece.scores
        facts = {
            "out": str(out),
            "rows": writer.rows,
            "services": len(scores.service_names),
            "observed_rows": observed,
            "anomalous_rows": anomalous,
            "detector": scores.detector,
            "causal": scores.causal,
            "seconds": round(watch.seconds, 2),
        }
        run.write("score", **facts)
    if not observed:
        console.note("no row has a single value, so nothing can be said")
    console.result(
        facts,
        f"{out}: {counted(writer.rows, 'row')}, {anomalous:,} of them anomalous; "
        f"{counted(len(scores.service_names), 'service')}, {watch.seconds:.1f} s",
    )


@dataclass(frozen=True, slots=True)
class Scored:
    """Some rows, judged."""

    scores: Scores
    high: np.ndarray | float  # (T,) or one for all
    inside: np.ndarray  # (T,) bool: an incident was known to run at this row


def scored(input: str, resolved: Resolved, run: Run, console: Console) -> Iterator[Scored]:
    """Judge a table piece by piece; looking both ways takes the whole table at once."""
    from foreshock.decide import Decider

    settings = resolved.settings
    if settings.detector.causal:
        yield from _streamed(input, resolved, run, console)
        return
    frame = read_whole(input, settings, console).without_labels()
    require_fit(frame, settings)
    detector = detector_of(resolved, run, console)
    scores = detector.score(frame)
    threshold = fixed_threshold(scores, settings, detector)
    decider = Decider(scores.step_s, settings.rules)
    decider.push(scores, threshold)
    yield Scored(scores, threshold.high, decider.inside)


def _streamed(input: str, resolved: Resolved, run: Run, console: Console) -> Iterator[Scored]:
    from foreshock import sources
    from foreshock.decide import Decider

    settings = resolved.settings
    scorer = None
    rows = piece_rows(input, settings)
    pieces = sources.frames(input, rows=rows, **read_options(settings))
    for piece in _in_order(pieces, settings, console):
        if scorer is None:
            detector = detector_of(resolved, run, console)
            scorer = Scorer(detector, len(piece.kpis), rows, settings, run, console)
            calibrator = calibrator_of(settings, piece.step_s, detector, len(piece.kpis))
            given = given_threshold(detector, resolved, piece.step_s)
            decider = Decider(piece.step_s, settings.rules)
        scores = scorer.push(piece)
        threshold = given or calibrator.push(scores.system)
        decider.push(scores, threshold)
        yield Scored(scores, threshold.high, decider.inside)


def _in_order(pieces: Iterator[Frame], settings: Settings, console: Console) -> Iterator[Frame]:
    """Each piece mended, without labels, and later than the one before.

    Raises:
        FrameError: a piece goes back in time, or there is no row at all.
    """
    from foreshock import quality

    last_ns, told = None, set[str]()
    for piece in pieces:
        if settings.input.repair:
            piece, done = quality.repair(piece)
            for words in done:
                if words not in told:
                    console.note(f"repaired: {words}")
                    told.add(words)
        if len(piece) == 0:
            continue
        if last_ns is not None and int(piece.time_ns[0]) <= last_ns:
            piece = piece.rows(piece.time_ns > last_ns) if int(piece.time_ns[0]) == last_ns else piece
            if len(piece) == 0:
                continue
            if int(piece.time_ns[0]) < last_ns:
                raise FrameError(
                    f"{piece.time[0]}Z comes after a later row, too far apart to be sorted while streaming. "
                    "Write a sorted table first: `foreshock inspect INPUT --repair OUT`."
                )
        last_ns = int(piece.time_ns[-1])
        yield piece.require_clock().without_labels()
    if last_ns is None:
        raise FrameError("the table has no rows; scoring needs at least one.")
