"""score: a table in, scores out, in pieces, however long it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, Stopwatch
from foreshock.cli.output import TABLES, ScoreWriter, check_output
from foreshock.errors import ConfigError, FrameError, OutputError

if TYPE_CHECKING:
    import numpy as np

    from foreshock.calibrate import CausalCalibrator, Threshold
    from foreshock.config import Resolved, Settings
    from foreshock.frame import Frame
    from foreshock.runlog import RunLog
    from foreshock.scores import Scores

Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write: .parquet or .csv.")]


def score(
    input: options.Input,
    out: Out,
    detector: options.Detector = None,
    model: options.Model = None,
    offline: options.Offline = False,
    false_alarms: options.FalseAlarms = None,
    services: options.Services = None,
    timestamp: options.Timestamp = None,
    where: options.Where = None,
    day: options.Day = None,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    log: options.Log = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score every row of a table: how anomalous the system and each service were.

    Writes the columns timestamp, score, threshold, anomaly and service:<name>. Higher is more
    anomalous; empty means that nothing was observed. Large tables are read and scored in pieces.
    """
    console = Console(json, quiet)
    resolved = options.settings_from(
        config, preset, detector=detector, model=model, offline=offline,
        false_alarms=false_alarms, services=services, timestamp=timestamp, where=where, day=day, log=log,
    )  # fmt: skip
    check_output(out, force=force, suffixes=TABLES)
    if Path(input).exists() and out.exists() and Path(input).samefile(out):
        raise OutputError(f"{out} is the input itself; choose another name with --out.")
    watch = Stopwatch()
    with running(resolved, "score", input) as run, ScoreWriter(out) as writer:
        anomalous = 0
        with run.phase("score"), console.progress("scoring rows") as advance:
            for piece in scored(input, resolved, run, console):
                anomalous += writer.append(piece.scores, piece.high, piece.inside)
                advance(len(piece.scores))
        scores = piece.scores
        facts = {
            "out": str(out),
            "rows": writer.rows,
            "services": len(scores.service_names),
            "anomalous_rows": anomalous,
            "detector": scores.detector,
            "causal": scores.causal,
            "seconds": round(watch.seconds, 2),
        }
        run.write("score", **facts)
    console.result(
        facts,
        f"{out}: {writer.rows:,} rows, {anomalous:,} of them anomalous; "
        f"{len(scores.service_names)} services, {watch.seconds:.1f} s",
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
    frame = read_whole(input, settings, console)[0].without_labels()
    scores = detector_of(resolved, run, console).score(frame)
    threshold = fixed_threshold(scores, settings)
    decider = Decider(scores.step_s, settings.rules)
    decider.push(scores, threshold)
    yield Scored(scores, threshold.high, decider.inside)


def _streamed(input: str, resolved: Resolved, run: Run, console: Console) -> Iterator[Scored]:
    from foreshock import sources
    from foreshock.decide import Decider

    settings = resolved.settings
    detector = stream = None
    pieces = sources.frames(input, rows=settings.memory.rows, **read_options(settings))
    for piece in _in_order(pieces, settings, console):
        if stream is None:
            detector = detector_of(resolved, run, console)
            stream = detector.stream()
            calibrator = calibrator_of(settings, piece.step_s)
            decider = Decider(piece.step_s, settings.rules)
        scores = stream.push(piece)
        threshold = calibrator.push(scores.system)
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


# -------------------------------------------------------------------- what score and detect have in common


def read_options(settings: Settings) -> dict[str, Any]:
    """Arguments of `sources.read` and `sources.frames`."""
    options = settings.input
    pairs = [rule.partition("=") for rule in options.where]
    wrong = next((rule for rule, pair in zip(options.where, pairs, strict=True) if not pair[1]), None)
    if wrong is not None:
        raise ConfigError(f"{wrong!r} names no word to look for; write input.where (--where) as COLUMN=WORD.")
    return {
        "services": list(options.services) or None,
        "timestamp": options.timestamp or None,
        "where": {column: word for column, _, word in pairs} or None,
        "day": options.day or None,
    }


def read_whole(input: str, settings: Settings, console: Console) -> tuple[Frame, tuple[str, ...]]:
    """The whole table, mended, and what was done to it."""
    from foreshock import quality, sources

    frame = sources.read(input, **read_options(settings))
    done: tuple[str, ...] = ()
    if settings.input.repair:
        frame, done = quality.repair(frame)
        for words in done:
            console.note(f"repaired: {words}")
    return frame.require_clock(), done


def detector_of(resolved: Resolved, run: Run, console: Console) -> Any:
    """The detector that the settings ask for, noted in the run.

    A setting by default or preset that a detector doesn't have is left out; one that somebody wrote
    down is refused, except that looking both ways is only noted where a detector can't.
    """
    from foreshock.models import load_detector

    settings = resolved.settings
    given: dict[str, tuple[str, Any]] = {
        "model": ("detector.model", settings.detector.model),
        "precision": ("detector.precision", settings.detector.precision),
        "causal": ("detector.causal", settings.detector.causal),
        "length": ("window.length", settings.window.length),
        "block": ("window.stride", settings.window.stride),
        "seed": ("run.seed", settings.run.seed),
    }
    while True:
        try:
            detector = load_detector(settings.detector.name, **{name: v for name, (_, v) in given.items()})
            break
        except ConfigError as error:
            missing = re.search(r"has no option '(\w+)'", str(error))
            if missing is None or missing[1] not in given:
                raise
            key, _ = given.pop(missing[1])
            origin = resolved.origins.get(key, "default")
            if key == "detector.causal" and not settings.detector.causal:
                console.note(f"{settings.detector.name} reads the past only, also with --offline")
            elif origin != "default" and not origin.startswith("preset"):
                raise ConfigError(f"{origin}: {key} means nothing to {settings.detector.name}.") from None
    run.model(detector)
    return detector


def calibrator_of(settings: Settings, step_s: float) -> CausalCalibrator:
    """A threshold that learns from the past while scores come."""
    from foreshock.calibrate import CausalCalibrator

    rules = settings.rules
    return CausalCalibrator(
        step_s,
        **asdict(settings.threshold),
        merge_s=rules.merge_s,
        confirm_s=rules.confirm_s,
        confirm_share=rules.confirm_share,
    )


def fixed_threshold(scores: Scores, settings: Settings) -> Threshold:
    """One threshold for a recording that lies in the past."""
    from foreshock.calibrate import calibrate

    rules = settings.rules
    return calibrate(
        scores.system,
        scores.step_s,
        settings.threshold.false_alarms_per_day,
        merge_s=rules.merge_s,
        confirm_s=rules.confirm_s,
        confirm_share=rules.confirm_share,
    )


@dataclass(frozen=True, slots=True)
class Run:
    """A run log, or nothing where none is kept."""

    log: RunLog | None

    def write(self, kind: str, **facts: Any) -> None:
        if self.log is not None:
            self.log.write(kind, **facts)

    def model(self, detector: Any) -> None:
        """Note what the detector is made of."""
        if self.log is not None:
            self.log.model(**detector.describe())

    def phase(self, name: str) -> Any:
        """Measures the memory of a block, for the log."""
        if self.log is None:
            return nullcontext()
        from foreshock.memory import Peak, watch

        log = self.log
        on_peak: Callable[[Peak], None] = lambda peak: log.write("phase", **peak.facts())  # noqa: E731
        return watch(name, on_peak)


@contextmanager
def running(resolved: Resolved, command: str, *arguments: str) -> Iterator[Run]:
    """Keeps a run log when the settings ask for one."""
    if not resolved.settings.run.log:
        yield Run(None)
        return
    from foreshock.runlog import RunLog

    with RunLog.start(resolved.settings.run.log, command, resolved.describe(), arguments) as log:
        yield Run(log)
