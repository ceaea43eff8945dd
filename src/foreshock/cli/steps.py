"""Steps that score and detect have in common: read, mend, fit into memory, load, calibrate, log."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from foreshock.cli.console import Console
from foreshock.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from foreshock.calibrate import CausalCalibrator, Threshold
    from foreshock.config import Resolved, Settings
    from foreshock.frame import Frame
    from foreshock.runlog import RunLog
    from foreshock.scores import Scores

CELL_BYTES = 160  # peak of reading and scoring a value in long pieces: 65,536 rows of 88 KPIs, 2026-11-24
# Peak of scoring a value in a short batch, without and with a network: 839 and 1,644 bytes at 4,096 rows of
# 88 KPIs, less in longer ones, since detectors work in runs of RUN_CELLS themselves; 2026-11-26.
SCORED_CELL_BYTES, NETWORK_CELL_BYTES = 900, 1700
KPI_BYTES = 81_920  # whatever the batch: what a stream remembers of each KPI, and its copies; 32 to 82 KiB
RUN_CELLS = 640_000
PIECE_BYTES = 2**28  # larger pieces are no faster
HEAD_ROWS = 512  # enough to count the KPIs
CLEARLY_HIGHER = 1.25  # times; it is 0.6 to 1.02 elsewhere and 7 where traffic fell for good; docs/log.md


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
        "ignore": options.ignore or None,
        "day": options.day or None,
    }


def read_whole(input: str, settings: Settings, console: Console) -> Frame:
    """The whole table, mended."""
    from foreshock import sources

    return mended(sources.read(input, **read_options(settings)), settings, console)[0]


def mended(frame: Frame, settings: Settings, console: Console) -> tuple[Frame, tuple[str, ...]]:
    """A frame fit for scoring, and what was done to it."""
    from foreshock import quality

    done: tuple[str, ...] = ()
    if settings.input.repair:
        frame, done = quality.repair(frame)
        for words in done:
            console.note(f"repaired: {words}")
    return frame.require_clock(), done


def piece_rows(input: str, settings: Settings) -> int:
    """How many rows to read and score at once, so that pieces stay small beside the budget."""
    from foreshock import sources
    from foreshock.memory import Budget, batch_for, resident_bytes

    if settings.memory.rows == 1:
        return 1
    head = next(iter(sources.frames(input, rows=HEAD_ROWS, **read_options(settings))), None)
    row_bytes = CELL_BYTES * (1 if head is None else len(head.kpis))
    fits = batch_for(
        Budget.parse(settings.memory.budget), row_bytes, resident_bytes(), settings.memory.rows, "one row"
    )
    return max(1, min(fits, PIECE_BYTES // row_bytes))


class Scorer:
    """A detector's stream in batches that shrink before the budget is passed, and when memory runs out.

    A batch that fails leaves the stream as it was, so that its rows are scored again in smaller batches,
    with the same scores.
    """

    def __init__(self, detector: Any, kpis: int, rows: int, settings: Settings, run: Run, console: Console):
        from foreshock.memory import Batches, Budget

        def on_shrink(batch: int, reason: str) -> None:
            rows = "1 row" if batch == 1 else f"{batch:,} rows"
            console.note(f"scoring {rows} at once from here on: {reason}")
            run.write("shrink", rows=batch, reason=reason)

        cell_bytes = NETWORK_CELL_BYTES if "torch" in sys.modules else SCORED_CELL_BYTES
        self._stream = detector.stream()
        self._batches = Batches(
            min(rows, max(1, RUN_CELLS // kpis)),
            Budget.parse(settings.memory.budget),
            cell_bytes * kpis,
            KPI_BYTES * kpis,
            on_shrink,
        )

    def push(self, piece: Frame) -> Scores:
        """The scores of the next rows."""
        from foreshock.scores import join

        return join(list(self._batches.run(len(piece), lambda start, end: self._push(piece, start, end))))

    def _push(self, piece: Frame, start: int, end: int) -> Scores:
        from foreshock.models import copy_of

        ahead = copy_of(self._stream)
        scores = ahead.push(piece.rows(slice(start, end)))
        self._stream = ahead
        return scores


def total_rows(input: str) -> int | None:
    """How many rows a table has, where that is written down; for the progress bar."""
    if not input.endswith(".parquet"):
        return None
    from pyarrow import parquet

    try:
        return int(parquet.read_metadata(input).num_rows)
    except (OSError, ValueError):  # the reader will say what is wrong
        return None


def require_fit(frame: Frame, settings: Settings) -> None:
    """Refuse a table that has to be scored at once, if its scores would not fit beside it.

    Raises:
        ResourceError: with what is needed, the budget, and the way that takes less.
    """
    from foreshock.memory import Budget, format_bytes, resident_bytes

    budget = Budget.parse(settings.memory.budget)
    needed = resident_bytes() + CELL_BYTES * frame.values.size
    if needed > budget.bytes:
        raise ResourceError(
            f"{len(frame):,} rows of {len(frame.kpis)} KPIs at once need about {format_bytes(needed)}, the "
            f"budget is {budget}. Score in pieces with `foreshock score`, or raise memory.budget."
        )


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
        **({"adapter": ("detector.adapter", settings.detector.adapter)} if settings.detector.adapter else {}),
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
    if "torch" in sys.modules:
        from foreshock.models.engine import use_free_threads

        use_free_threads()
    run.model(detector)
    return detector


def given_threshold(detector: Any, resolved: Resolved, step_s: float) -> Threshold | None:
    """The threshold that an adapter learned from labels; None without one, or if a promise was asked for."""
    from foreshock.calibrate import from_labels

    key = "threshold.false_alarms_per_day"
    level = getattr(detector, "threshold", None)
    if level is None or not resolved.origins.get(key, "default").startswith(("default", "preset")):
        return None
    rules = resolved.settings.rules
    return from_labels(
        level, step_s, resolved.settings.threshold.false_alarms_per_day,
        confirm_s=rules.confirm_s, confirm_share=rules.confirm_share,
    )  # fmt: skip


def calibrator_of(settings: Settings, step_s: float, detector: Any, kpis: int) -> CausalCalibrator:
    """A threshold that learns from the past while the detector's scores come."""
    from foreshock.calibrate import CausalCalibrator, usual_of

    rules = settings.rules
    return CausalCalibrator(
        step_s,
        **asdict(settings.threshold),
        merge_s=rules.merge_s,
        confirm_s=rules.confirm_s,
        confirm_share=rules.confirm_share,
        guess=usual_of(detector, kpis),
    )


def fixed_threshold(scores: Scores, settings: Settings, detector: Any) -> Threshold:
    """One threshold for a recording that lies in the past, from all its scores; no label is read."""
    from foreshock.calibrate import calibrate_finished, usual_of

    rules = settings.rules
    return calibrate_finished(
        scores.system,
        scores.step_s,
        settings.threshold.false_alarms_per_day,
        merge_s=rules.merge_s,
        confirm_s=rules.confirm_s,
        confirm_share=rules.confirm_share,
        guess=usual_of(detector, len(scores.kpi_meta)),
        is_beginning=True,
    )


def finished_scores(
    detector: Any, frame: Frame, score: Callable[[Any, Frame], Scores], settings: Settings
) -> tuple[Any, Scores]:
    """How a recording that lies in the past is judged: by which detector, and its scores.

    Both ways in time where the detector can. But where something changes for good, all that was before is
    new to a pass that comes from there, and the threshold rises above the faults: where it comes out clearly
    higher than that of looking back, that is what counts, and only the first rows are judged by later ones.
    What labels taught is weighed with what is seen so without them.

    Args:
        score: what scores a frame from its first row on, looking back only, with the detector given.
    """
    import numpy as np

    from foreshock.hindsight import mirrored, settle, turned
    from foreshock.models import looking_both_ways
    from foreshock.models.bidirectional import together
    from foreshock.models.verdict import agreed

    ahead = score(detector, frame)
    if ahead.taught is not None:
        chosen, found = finished_scores(detector.zero_shot, frame, score, settings)
        usual = fixed_threshold(found, settings, chosen).high
        system = agreed(ahead.taught, detector.threshold, found.system, usual).astype(np.float32)
        return detector, replace(ahead, system=system, causal=found.causal, settled=found.settled)
    if (both := looking_both_ways(detector)) is not None:
        found = together(ahead, turned(score(detector, mirrored(frame))))
        high = fixed_threshold(found, settings, both).high
        if high <= CLEARLY_HIGHER * fixed_threshold(ahead, settings, detector).high:
            return both, found
    return detector, settle(frame, ahead, lambda part: score(detector, part))


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
