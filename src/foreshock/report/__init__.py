"""One HTML page for an incident review: what happened, since when, where it came from, how sure.

The page is a single file that loads nothing, runs no script, and follows the reader's theme. Every
name that comes from the data is escaped. Long recordings keep their peaks and lose their detail.

Not here: drawing (plots), deciding anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreshock import __version__
from foreshock.calibrate import CausalThreshold, Threshold
from foreshock.decide import Event
from foreshock.errors import InputError, OutputError
from foreshock.explain import Cause
from foreshock.frame import Frame
from foreshock.quality import Quality, inspect
from foreshock.report.appendix import (
    data_facts,
    detector_facts,
    known_faults,
    pictures,
    threshold_facts,
)
from foreshock.report.incidents import cards as cards_of
from foreshock.report.page import render
from foreshock.report.source import Source, clock, count, duration, more
from foreshock.scores import Scores


def write(
    path: str | Path,
    frame: Frame,
    scores: Scores,
    threshold: Threshold | CausalThreshold | None,
    events: Sequence[Event],
    causes: Sequence[Cause],
    *,
    title: str | None = None,
    quality: Quality | None = None,
    repaired: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
    kinds: Sequence[Mapping[str, Any]] = (),
    made: str = "",
) -> Path:
    """Write the page, replacing the file.

    Args:
        frame: as it was scored; its labels, if any, are shown apart, as known afterwards.
        causes: one for each event.
        quality: of the recording before repair; None inspects `frame`.
        repaired: what was mended, in words (`quality.repair`).
        about: facts of the detector (`Detector.describe()`), `label` for what its weights are.
        kinds: of each event its `fault_type`, how likely it is (`fault_chance`, 0..1) and who taught it
            (`fault_type_from`), as `foreshock detect --json` has them; none, or one for each event.
        made: when or by what the page was made; nothing by default, so that pages can be compared.

    Raises:
        InputError: the arguments don't belong together.
        OutputError: the file can't be written.
    """
    page = html(
        frame, scores, threshold, events, causes,
        title=title, quality=quality, repaired=repaired, about=about, kinds=kinds, made=made,
    )  # fmt: skip
    path = Path(path)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} can't be written ({error.strerror}); choose another place.") from error
    return path


def html(
    frame: Frame,
    scores: Scores,
    threshold: Threshold | CausalThreshold | None,
    events: Sequence[Event],
    causes: Sequence[Cause],
    *,
    title: str | None = None,
    quality: Quality | None = None,
    repaired: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
    kinds: Sequence[Mapping[str, Any]] = (),
    made: str = "",
) -> str:
    """The page as text; see `write`."""
    if len(frame) != len(scores) or len(events) != len(causes) or len(kinds) not in (0, len(events)):
        raise InputError(
            f"{len(frame)} rows, {len(scores)} scores, {len(events)} events and {len(causes)} causes: "
            "a report needs a score for each row and a cause for each event."
        )
    source = Source(
        frame, scores, threshold, tuple(events), tuple(causes),
        inspect(frame) if quality is None else quality,
        tuple(repaired), dict(about or {}), title or title_of(frame), tuple(kinds),
    )  # fmt: skip
    return _render(source, made)


def _render(source: Source, made: str) -> str:
    cards = cards_of(source)
    return render(
        "report.html.j2",
        ("report.css",),
        title=source.title,
        verdict=_verdict(source),
        lead=_lead(source),
        facts=_facts(source),
        incidents=cards,
        more_incidents=more(len(source.events), len(cards), "incident"),
        empty=_empty(source),
        is_calm=_is_calm(source),
        pictures=pictures(source),
        known=known_faults(source),
        threshold=threshold_facts(source),
        detector=detector_facts(source),
        data=data_facts(source),
        version=__version__,
        made=made,
    )


def title_of(frame: Frame) -> str:
    name = frame.source.rstrip("/").rsplit("/", 1)[-1]
    for suffix in (".gz", ".zst", ".csv", ".parquet", ".tsv"):
        name = name.removesuffix(suffix)
    return name or "recording"


def _length_s(source: Source) -> float:
    frame = source.frame
    return float(frame.time_ns[-1] - frame.time_ns[0]) / 1e9 + frame.step_s if len(frame) else 0.0


def _is_calm(source: Source) -> bool:
    """No incident although one would have been told: only then the page may look relieved."""
    could_tell = np.isfinite(source.scores.system).any() and source.last_threshold is not None
    return bool(could_tell) and not source.events


def _verdict(source: Source) -> str:
    within = f"in {duration(_length_s(source))}"
    if not source.events:
        return f"No incident {within}" if _is_calm(source) else _empty(source)["title"]
    running = any(e.is_open for e in source.events)
    return f"{count(len(source.events), 'incident')} {within}" + (", one still running" if running else "")


def _lead(source: Source) -> str:
    frame = source.frame
    if not len(frame):
        return "The recording has no rows."
    origins = [c.services[0].name for c in source.causes if c.is_known]
    first, last = (clock(source, frame.time_ns[i], with_day=True) for i in (0, -1))
    span = f"{first} to {last.removeprefix(first[:11])} UTC"
    if not source.events:
        return f"{span}."
    named = list(dict.fromkeys(origins))
    if not named:
        return f"{span}. No origin stands out clearly."
    listed = ", ".join(named[:5]) + (" and others" if len(named) > 5 else "")
    unclear = len(source.events) - len(origins)
    rest = f"; for {count(unclear, 'incident')} no origin stands out" if unclear else ""
    return f"{span}. Most likely origins: {listed}{rest}."


def _facts(source: Source) -> list[tuple[str, str]]:
    frame = source.frame
    return [
        ("Rows", f"{len(frame):,}"),
        ("Step", duration(frame.step_s) if frame.step_s >= 1 else f"{frame.step_s:g} s"),
        ("KPIs", f"{len(frame.kpis):,}"),
        ("Services", f"{len(frame.services):,}"),
        ("Detector", source.scores.detector or "not named"),
    ]


def _empty(source: Source) -> dict[str, str]:
    threshold = source.last_threshold
    if not np.isfinite(source.scores.system).any():
        return {
            "title": "Nothing could be scored",
            "text": "No row has a score: no KPI was observed, or the recording is too short. "
            "This is no sign of health. See below what is odd about the recording.",
        }
    if threshold is None:
        return {
            "title": "Too short to tell",
            "text": "The recording is too short to learn what is usual, so no alarm was possible. "
            "This is no sign of health. Read a longer range.",
        }
    highest = float(np.nanmax(source.scores.system))
    return {
        "title": "Nothing unusual for long enough",
        "text": f"The highest score was {highest:.3g}; an incident begins at {threshold.high:.3g}. "
        "Faults that leave no trace in these metrics are not seen.",
    }
