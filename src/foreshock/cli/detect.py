"""detect: a table in, named incidents out, and a report if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreshock.cli import options
from foreshock.cli.console import Console, Stopwatch, counted
from foreshock.cli.output import check_output, replacing
from foreshock.cli.steps import (
    Run,
    Scorer,
    calibrator_of,
    detector_of,
    finished_scores,
    fixed_threshold,
    given_threshold,
    mended,
    read_options,
    require_fit,
    running,
)
from foreshock.errors import ConfigError

if TYPE_CHECKING:
    from foreshock.calibrate import CausalThreshold, Threshold
    from foreshock.config import Settings
    from foreshock.decide import Event
    from foreshock.frame import Frame
    from foreshock.scores import Scores

Report = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write an HTML page with pictures.")
]
AsLive = Annotated[
    bool,
    typer.Option(
        "--as-live",
        help="Judge each row by what was known before it. Otherwise the threshold is the whole recording's, "
        "and rows are judged by later ones, too.",
    ),
]


def detect(
    input: options.Input,
    report: Report = None,
    detector: options.Detector = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    offline: options.Offline = False,
    as_live: AsLive = False,
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
    """Find incidents: since when, which service and KPIs, how sure.

    Exit code 0 whether or not there are any.
    """
    console = Console(json, quiet)
    resolved = options.settings_from(
        config, preset, detector=detector, model=model, adapter=adapter, offline=offline,
        false_alarms=false_alarms, services=services, timestamp=timestamp, where=where, ignore=ignore,
        day=day, log=log,
    )  # fmt: skip
    if as_live and not resolved.settings.detector.causal:
        raise ConfigError("--offline looks at later rows, --as-live at none; leave one of them out.")
    if report is not None:
        check_output(report, force=force, suffixes=(".html", ".htm"), flag="--report")
    watch = Stopwatch()
    with running(resolved, "detect", input) as run:
        import numpy as np

        from foreshock import quality, sources
        from foreshock.decide import decide
        from foreshock.explain import explain

        settings = resolved.settings
        with run.phase("read"):
            raw = sources.read(input, **read_options(settings))
            found = quality.inspect(raw) if report is not None else None
            frame, repairs = mended(raw, settings, console)
        with run.phase("score"), console.progress(f"scoring {len(frame):,} rows"):
            detecting = detector_of(resolved, run, console)
            detecting, scores = scored(detecting, frame.without_labels(), settings, as_live, run, console)
        with run.phase("decide"):
            given = given_threshold(detecting, resolved, scores.step_s)
            threshold, level = (given, given) if given else thresholds(scores, settings, detecting, as_live)
            events = decide(scores, threshold, settings.rules)
            causes = [
                explain(frame.without_labels(), scores, event, others=events, later=not as_live)
                for event in events
            ]
        kinds = [_kind(detecting, scores, event) for event in events]
        incidents = [
            {**event.to_dict(), **_noticed(event, scores), **kind, "cause": cause.to_dict()}
            for event, kind, cause in zip(events, kinds, causes, strict=True)
        ]
        if report is not None:
            from foreshock import report as page

            with run.phase("report"), replacing(report) as part:
                page.write(
                    part, frame, scores, threshold, events, causes,
                    title=Path(input.rstrip(":")).name, quality=found, repaired=repairs,
                    about=detecting.describe(), kinds=kinds,
                )  # fmt: skip
        facts = {
            "input": input,
            "rows": len(frame),
            "observed_rows": int(np.isfinite(scores.system).sum()),
            "kpis": len(frame.kpis),
            "services": len(frame.services),
            "from": _iso(frame.time_ns[0]),
            "to": _iso(frame.time_ns[-1]),
            "step_s": frame.step_s,
            "detector": scores.detector,
            "causal": scores.causal,
            "rows_in_hindsight": scores.rows_in_hindsight,
            "threshold": None if level is None else level.to_dict(),
            "threshold_from": "labels, by the adapter"
            if given
            else "the rows before each"
            if as_live
            else "the whole recording, unlabelled",
            "repairs": list(repairs),
            "incidents": incidents,
            "report": None if report is None else str(report),
            "seconds": round(watch.seconds, 2),
        }
        for incident in incidents:
            run.write("incident", **incident)
        run.write(
            "detect", **{k: v for k, v in facts.items() if k not in ("incidents", "repairs", "threshold")}
        )
    console.result(facts, lambda: describe(facts))


def scored(
    detector: Any, frame: Frame, settings: Settings, as_live: bool, run: Run, console: Console
) -> tuple[Any, Scores]:
    """The detector whose scores these are, and the scores.

    In batches where memory is short, at once where a detector reads both sides by itself.
    """
    if not settings.detector.causal:
        require_fit(frame, settings)
        return detector, detector.score(frame)

    def streamed(detector: Any, part: Frame) -> Scores:
        return Scorer(detector, len(part.kpis), len(part), settings, run, console).push(part)

    if as_live:
        return detector, streamed(detector, frame)
    return finished_scores(detector, frame, streamed, settings)


def thresholds(
    scores: Scores, settings: Settings, detector: Any, as_live: bool
) -> tuple[Threshold | CausalThreshold, Threshold | None]:
    """The threshold of each row, and the last one learned, for words about the promise.

    A finished recording has one threshold, from all its unlabelled scores; as if live, each row has the
    one that was known before it, which is what `foreshock score` writes.
    """
    if as_live:
        causal = calibrator_of(settings, scores.step_s, detector, len(scores.kpi_meta)).push(scores.system)
        return causal, causal.last
    fixed = fixed_threshold(scores, settings, detector)
    return fixed, fixed


def _noticed(event: Event, scores: Scores) -> dict[str, None]:
    """Takes back when an event was noticed, where later rows helped to."""
    if event.detected >= scores.rows_in_hindsight:
        return {}
    return {"detected": None, "detected_time": None}


def _kind(detector: Any, scores: Scores, event: Any) -> dict[str, Any]:
    """Which kind of fault an incident is, where an adapter or simulated systems taught some."""
    if scores.kinds is None or not scores.kind_names:
        return {}
    name, chance = detector.verdict.named(scores.kinds[event.start : event.end])
    return {"fault_type": name, "fault_chance": round(chance, 3), "fault_type_from": scores.kinds_from}


def _iso(time_ns: Any) -> str:
    from foreshock.decide import iso

    return str(iso(int(time_ns)))


# ------------------------------------------------------------------------------------------- for people


def describe(facts: Mapping[str, Any]) -> str:
    """The incidents in words."""
    incidents = facts["incidents"]
    lines = [
        f"{facts['input'].rstrip(':')}: {counted(facts['rows'], 'row')}, {counted(facts['kpis'], 'KPI')} "
        f"of {counted(facts['services'], 'service')}, {facts['from']} to {facts['to']}",
        counted(len(incidents), "incident") if incidents else "no incidents",
    ]
    if not facts["observed_rows"]:
        lines[-1] = "no row has a single value, so nothing can be said"
    for incident in incidents:
        lines += ["", *_incident(incident)]
    if facts["report"]:
        lines += ["", f"report: {facts['report']}"]
    return "\n".join(lines)


def _incident(incident: Mapping[str, Any]) -> Sequence[str]:
    from foreshock.scores import UNKNOWN

    end = f"until {incident['end_time']}" if incident.get("end_time") else "still running"
    cause = incident["cause"]
    lines = [
        f"#{incident['id'] + 1} since {incident['start_time']}, {end}, {incident['confidence']:.0%} sure"
    ]
    if incident["detected_time"]:
        lines[0] += f" (noticed {incident['detected_time']})"
    lines.append(f"    {cause['headline']}")
    if incident.get("fault_type"):
        told = incident["fault_type"]
        if told != UNKNOWN:
            told += f", {incident['fault_chance']:.0%}"
            if incident["fault_type_from"] != "labels":
                told += f" (learned from {incident['fault_type_from']})"
        lines.append(f"    kind of fault: {told}")
    if not cause["is_known"]:
        guesses = [f"{one['name']}, {one['confidence']:.0%}: {one['why']}" for one in cause["services"][:3]]
        return [*lines, *(f"    {guess}" for guess in guesses)]
    own = [kpi["name"] for kpi in cause["kpis"] if kpi["role"] == "origin"]
    others = [kpi["name"] for kpi in cause["kpis"] if kpi["role"] != "origin"]
    first = cause["services"][0]
    lines.append(f"    {first['name']}, {first['confidence']:.0%}: {', '.join(own[:5])}")
    if others:
        lines.append(f"    also: {', '.join(others[:5])}{' …' if len(others) > 5 else ''}")
    return lines
