"""One HTML page for an incident review: what happened, since when, where it came from, how sure.

The page is a single file that loads nothing, runs no script, and follows the reader's theme. Every
name that comes from the data is escaped. Long recordings keep their peaks and lose their detail.

Not here: drawing (plots), deciding anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from foreshock import __version__, plots
from foreshock.calibrate import CausalThreshold, Threshold
from foreshock.decide import Event
from foreshock.errors import InputError, OutputError
from foreshock.explain import Cause, KpiFinding
from foreshock.frame import Frame, Labels
from foreshock.plots import quantity
from foreshock.quality import Quality, inspect
from foreshock.scores import Scores

MOST_CARDS = 200  # incidents told one by one
MOST_PICTURED = 12  # of these, with pictures of their KPIs
MOST_PANELS = 6  # KPIs drawn for an incident
MOST_KPIS = 12  # KPIs listed for an incident
MOST_FINDINGS = 30
ROLES = {"origin": ("the origin's own", "origin"), "symptom": ("symptom", "")}  # words and style
OPEN_ALL = 2  # up to so many incidents are shown unfolded, else the strongest one


@dataclass(frozen=True, slots=True)
class Source:
    """All that a page is made from."""

    frame: Frame
    scores: Scores
    threshold: Threshold | CausalThreshold | None
    events: tuple[Event, ...]
    causes: tuple[Cause, ...]
    quality: Quality
    repaired: tuple[str, ...]
    about: Mapping[str, Any]
    title: str

    @property
    def last_threshold(self) -> Threshold | None:
        return self.threshold.last if isinstance(self.threshold, CausalThreshold) else self.threshold


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
    made: str = "",
) -> Path:
    """Write the page, replacing the file.

    Args:
        frame: as it was scored; its labels, if any, are shown apart, as known afterwards.
        causes: one for each event.
        quality: of the recording before repair; None inspects `frame`.
        repaired: what was mended, in words (`quality.repair`).
        about: facts of the detector (`Detector.describe()`), `label` for what its weights are.
        made: when or by what the page was made; nothing by default, so that pages can be compared.

    Raises:
        InputError: the arguments don't belong together.
        OutputError: the file can't be written.
    """
    page = html(
        frame, scores, threshold, events, causes,
        title=title, quality=quality, repaired=repaired, about=about, made=made,
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
    made: str = "",
) -> str:
    """The page as text; see `write`."""
    if len(frame) != len(scores) or len(events) != len(causes):
        raise InputError(
            f"{len(frame)} rows, {len(scores)} scores, {len(events)} events and {len(causes)} causes: "
            "a report needs a score for each row and a cause for each event."
        )
    source = Source(
        frame, scores, threshold, tuple(events), tuple(causes),
        inspect(frame) if quality is None else quality,
        tuple(repaired), dict(about or {}), title or _title(frame),
    )  # fmt: skip
    return _render(source, made)


def _render(source: Source, made: str) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("foreshock") / "templates"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=False, keep_trailing_newline=True
    )
    template = environment.from_string((folder / "report.html.j2").read_text("utf-8"))
    cards = _cards(source)
    return template.render(
        css=Markup((folder / "report.css").read_text("utf-8")),
        title=source.title,
        verdict=_verdict(source),
        lead=_lead(source),
        facts=_facts(source),
        incidents=cards,
        more_incidents=_more(len(source.events), len(cards), "incident"),
        empty=_empty(source),
        pictures=_pictures(source),
        known=_known(source),
        threshold=_threshold(source),
        detector=_detector(source),
        data=_data(source),
        version=__version__,
        made=made,
    )


# ------------------------------------------------------------------------------------------- words


def duration(seconds: float) -> str:
    """A span of time as people say it.

    Example:
        >>> duration(45), duration(330), duration(7200), duration(300_000)
        ('45 s', '5 min 30 s', '2 h', '3 d 11 h')
    """
    total = max(round(seconds), 0)
    parts = []
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, total = divmod(total, size)
        if count:
            parts.append(f"{count} {name}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"


def share(value: float) -> str:
    """A probability that never claims certainty.

    Example:
        >>> share(0.5), share(0.9999)
        ('50 %', 'over 99 %')
    """
    return "over 99 %" if value > 0.99 else f"{100 * value:.0f} %"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _more(total: int, shown: int, noun: str) -> str:
    return f"And {_count(total - shown, f'more {noun}')}, not shown." if total > shown else ""


def _clock(source: Source, time_ns: int, *, with_day: bool | None = None) -> str:
    """The time of day, with the date where the recording spans several."""
    moment = np.datetime64(int(time_ns), "ns")
    first, last = (source.frame.time[i].astype("datetime64[D]") for i in (0, -1))
    text = str(moment.astype("datetime64[s]")).replace("T", " ")
    seconds = source.frame.step_s % 60 != 0
    text = text if seconds else text[:-3]
    return text if (first != last if with_day is None else with_day) else text[11:]


def _title(frame: Frame) -> str:
    name = frame.source.rstrip("/").rsplit("/", 1)[-1]
    for suffix in (".gz", ".zst", ".csv", ".parquet", ".tsv"):
        name = name.removesuffix(suffix)
    return name or "recording"


def _length_s(source: Source) -> float:
    frame = source.frame
    return float(frame.time_ns[-1] - frame.time_ns[0]) / 1e9 + frame.step_s if len(frame) else 0.0


def _verdict(source: Source) -> str:
    within = f"in {duration(_length_s(source))}"
    if not source.events:
        return (
            f"No incident {within}" if np.isfinite(source.scores.system).any() else "Nothing could be scored"
        )
    running = any(e.is_open for e in source.events)
    return f"{_count(len(source.events), 'incident')} {within}" + (", one still running" if running else "")


def _lead(source: Source) -> str:
    frame = source.frame
    if not len(frame):
        return "The recording has no rows."
    origins = [c.services[0].name for c in source.causes if c.is_known]
    first, last = (_clock(source, frame.time_ns[i], with_day=True) for i in (0, -1))
    span = f"{first} to {last.removeprefix(first[:11])} UTC"
    if not source.events:
        return f"{span}."
    named = list(dict.fromkeys(origins))
    if not named:
        return f"{span}. No origin stands out clearly."
    listed = ", ".join(named[:5]) + (" and others" if len(named) > 5 else "")
    unclear = len(source.events) - len(origins)
    rest = f"; for {_count(unclear, 'incident')} no origin stands out" if unclear else ""
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
            "title": "No incident could be told",
            "text": "The recording is too short to learn what is usual, so no alarm was possible. "
            "This is no sign of health. Read a longer range.",
        }
    highest = float(np.nanmax(source.scores.system))
    return {
        "title": "Nothing unusual for long enough",
        "text": f"The highest score was {highest:.3g}; an incident begins at {threshold.high:.3g}. "
        "Faults that leave no trace in these metrics are not seen.",
    }


# ------------------------------------------------------------------------------------------- incidents


def _cards(source: Source) -> list[dict[str, Any]]:
    """The strongest MOST_CARDS incidents, in time order."""
    events = source.events
    strongest = sorted(range(len(events)), key=lambda i: (-_weight(events[i]), i))
    shown = sorted(strongest[:MOST_CARDS])
    pictured = set(strongest[:MOST_PICTURED])
    unfolded = set(strongest if len(events) <= OPEN_ALL else strongest[:1])
    return [_card(source, i, i in pictured, i in unfolded) for i in shown]


def _weight(event: Event) -> float:
    """How much an incident deserves the first look."""
    height = event.peak_score / event.threshold if event.threshold > 0 else 1.0
    return event.confidence * min(height, 100.0) * float(np.log1p(event.rows_high))


def _card(source: Source, place: int, is_pictured: bool, is_open: bool) -> dict[str, Any]:
    event, cause = source.events[place], source.causes[place]
    step_ns = source.frame.step_s * 1e9
    last_ns = int(source.frame.time_ns[event.end - 1])
    lasted = duration((last_ns - event.start_ns + step_ns) / 1e9)
    since, until = _clock(source, event.start_ns), _clock(source, last_ns)
    state = f"still running after {lasted}" if event.is_open else f"lasted {lasted}"
    facts = [
        ("Since", since),
        ("Until", "still running" if event.is_open else until),
        ("Noticed", f"{_clock(source, event.detected_ns)}, {_after(event.detected_ns - event.start_ns)}"),
        ("Highest score", f"{event.peak_score:.3g} at {_clock(source, event.peak_ns)}"),
        ("Threshold then", f"{event.threshold:.3g}"),
    ]
    if event.sequel_of is not None:
        facts.append(("Soon after", f"incident {event.sequel_of + 1}"))
    findings = _listed(cause)
    panels = _panels(source, place) if is_pictured else []
    return {
        "number": place + 1,
        "is_open": is_open,
        "is_known": cause.is_known,
        "origin": _origin(cause),
        "when": f"since {since}, {state}",
        "change": cause.services[0].why if cause.services else "",
        "sure": share(event.confidence),
        "headline": _headline(cause),
        "facts": facts,
        "services_title": "Most likely origin" if cause.is_known else "Where it may come from",
        "services": [
            {"name": s.name, "percent": round(100 * s.confidence), "why": s.why} for s in cause.services[:3]
        ],
        "kpis": [_kpi_row(event, f) for f in findings],
        "has_roles": any(f.role in ROLES for f in findings),
        "more_kpis": _more(max(cause.changed, len(findings)), len(findings), "KPI") if findings else "",
        "panels": panels,
        "has_expected": any(p["has_expected"] for p in panels),
    }


def _headline(cause: Cause) -> str:
    """The cause in one sentence; a service's name keeps its first letter as it is."""
    starts_with_name = any(cause.headline.startswith(s.name) for s in cause.services)
    return cause.headline if starts_with_name else cause.headline[:1].upper() + cause.headline[1:]


def _origin(cause: Cause) -> str:
    if cause.is_known:
        return cause.services[0].name
    names = [s.name for s in cause.services[:3]]
    if not names:
        return "Origin unknown"
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return f"Origin unclear: {listed}"


def _after(delay_ns: float) -> str:
    return "at once" if delay_ns <= 0 else f"after {duration(delay_ns / 1e9)}"


def _listed(cause: Cause) -> list[KpiFinding]:
    """The strongest KPIs beyond their own limit, in the order in which they changed."""
    clear = [f for f in cause.kpis if f.excess > 1 or f.direction == "gone"] or list(cause.kpis[:3])
    return sorted(clear[:MOST_KPIS], key=lambda f: (f.since_ns, -f.strength))


def _kpi_row(event: Event, finding: KpiFinding) -> dict[str, str]:
    delta_s = (finding.since_ns - event.start_ns) / 1e9
    sign = "+" if delta_s >= 0 else "−"
    role, css = ROLES.get(finding.role, ("", ""))
    during = "silent" if finding.direction == "gone" else quantity(finding.during, finding.unit)
    return {
        "when": f"{sign}{duration(abs(delta_s))}",
        "service": finding.service,
        "metric": finding.metric,
        "before": quantity(finding.before, finding.unit),
        "during": during,
        "factor": "" if finding.factor is None else f"×{_factor(finding.factor)}",
        "role": role,
        "role_class": css,
    }


def _factor(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def _panels(source: Source, place: int) -> list[dict[str, Any]]:
    """Pictures of the incident's clearest KPIs."""
    from markupsafe import Markup

    event, cause = source.events[place], source.causes[place]
    rows = _around(source, event)
    columns = {name: k for k, name in enumerate(source.frame.names)}
    found = []
    chosen = [f for f in cause.kpis if f.excess > 1 or f.direction == "gone"] or cause.kpis[:2]
    for number, finding in enumerate(chosen[:MOST_PANELS]):
        k = columns[finding.name]
        expected, spread = _expected(source, k, event, rows)
        row = _kpi_row(event, finding)
        change = f"{row['before']} → {row['during']}"
        time = source.frame.time
        figure = plots.kpi_panel(
            time[rows],
            source.frame.values[rows, k],
            expected=expected,
            spread=spread,
            during=(
                time[event.start],
                time[event.end - 1] + np.timedelta64(int(source.frame.step_s * 1e9), "ns"),
            ),
            onset=np.datetime64(finding.since_ns, "ns"),
            unit=finding.unit,
        )
        described = f"{finding.service} {finding.metric} around incident {place + 1}: {change}"
        svg = plots.to_svg(figure, f"i{place + 1}k{number}", described=described)
        found.append(
            {
                "service": finding.service,
                "metric": finding.metric,
                "change": change,
                "svg": Markup(svg),  # made by plots, which escapes what it writes
                "has_expected": expected is not None,
            }
        )
    return found


def _around(source: Source, event: Event) -> slice:
    """The rows of a panel: the incident, twice its length before, once after; an hour at least."""
    hour = round(3600 / source.frame.step_s)
    least = min(max(hour, 30), 240)
    length = event.end - event.start
    return slice(max(0, event.start - max(2 * length, least)), event.end + max(length, least // 2))


def _expected(source: Source, k: int, event: Event, rows: slice) -> tuple[np.ndarray | None, float]:
    """What the detector expected of a KPI, and how far off it usually is: nine in ten errors before."""
    expected = source.scores.expected
    if expected is None or not np.isfinite(expected[rows, k]).any():
        return None, 0.0
    before = slice(max(0, event.start - 512), event.start)
    error = np.abs(source.frame.values[before, k] - expected[before, k])
    error = error[np.isfinite(error)]
    return expected[rows, k].astype(float), float(np.quantile(error, 0.9)) if len(error) else 0.0


# ------------------------------------------------------------------------------------------- the rest


def _pictures(source: Source) -> dict[str, Any] | None:
    from markupsafe import Markup

    scores = source.scores
    if not len(scores) or not np.isfinite(scores.system).any():
        return None
    known = source.frame.labels if _has_faults(source.frame.labels) else None
    described = (
        f"The system's score from {_clock(source, scores.time_ns[0])} "
        f"to {_clock(source, scores.time_ns[-1])}, with {_count(len(source.events), 'incident')}."
    )
    pictures: dict[str, Any] = {}
    for width in ("wide", "narrow"):
        figure = plots.heat_map(scores, source.events, width=width)
        left = plots.left_of(figure)
        loud = ", ".join(scores.service_names[i] for i in plots.loudest_services(scores, 3))
        words = f"Scores of the services over time; the most unusual ones were {loud}."
        pictures[f"heat_{width}"] = Markup(plots.to_svg(figure, f"heat-{width}", described=words))
        figure = plots.timeline(
            scores, source.threshold, source.events, known=known, width=width, left_px=left
        )
        pictures[f"timeline_{width}"] = Markup(plots.to_svg(figure, f"timeline-{width}", described=described))
        logarithmic = figure.axes[0].get_yscale() != "linear"
    hidden = len(scores.service_names) - plots.MOST_SERVICES
    last = source.last_threshold
    return pictures | {
        "hidden": f"{_count(hidden, 'quieter service')} not shown." if hidden > 0 else "",
        "has_threshold": last is not None and np.isfinite(last.high),
        "scale": " (logarithmic above the threshold)" if logarithmic else "",
    }


def _has_faults(labels: Labels | None) -> bool:
    return labels is not None and bool(labels.anomaly.any())


def _known(source: Source) -> dict[str, Any] | None:
    """The labels beside what was found; None without labelled faults."""
    labels = source.frame.labels
    if labels is None or not labels.anomaly.any():
        return None
    faults: list[dict[str, str]] = []
    silent: list[dict[str, str]] = []
    found = 0
    matched: set[int] = set()
    for number in sorted(set(labels.fault_id[labels.anomaly].tolist())):
        rows = np.flatnonzero(labels.anomaly & (labels.fault_id == number))
        hits = [i for i, e in enumerate(source.events) if e.start <= rows[-1] and e.end > rows[0]]
        matched.update(hits)
        shows = bool(labels.metric_visible[rows].any())
        found += shows and bool(hits)
        (faults if shows else silent).append(_fault_row(source, labels, rows, hits, shows))
    others = [i + 1 for i in range(len(source.events)) if i not in matched]
    excused = [n for n in others if labels.ignore[source.events[n - 1].rows].any()]
    strange = [n for n in others if n not in excused]
    notes = []
    if strange:
        notes.append(f"Without a known fault: {_count(len(strange), 'incident')} ({_numbers(strange)}).")
    if excused:
        notes.append(f"In rows the labels leave out, recovery or suspected faults: {_numbers(excused)}.")
    return {
        "title": f"{found} of {_count(len(faults), 'known fault')} found",
        "faults": faults[:MOST_CARDS],
        "silent": silent[:MOST_CARDS],
        "silent_title": f"{_count(len(silent), 'more fault')} left no trace in the metrics",
        "note": " ".join(notes),
    }


def _numbers(numbers: Sequence[int], most: int = 20) -> str:
    return ", ".join(map(str, numbers[:most])) + (" …" if len(numbers) > most else "")


def _fault_row(
    source: Source, labels: Labels, rows: np.ndarray, hits: list[int], shows: bool
) -> dict[str, str]:
    start_ns = int(source.frame.time_ns[rows[0]])
    if hits:
        first = source.events[hits[0]]
        words = f"incident {_numbers([h + 1 for h in hits])}, {_after(first.detected_ns - start_ns)}"
        named = _origin(source.causes[hits[0]])
    else:
        words, named = ("not found" if shows else "no trace in the metrics"), ""
    return {
        "start": _clock(source, start_ns),
        "service": str(labels.root_cause[rows[0]]),
        "kind": str(labels.fault_type[rows[0]]).replace("_", " "),
        "found": words,
        "named": named,
    }


def _threshold(source: Source) -> dict[str, Any]:
    threshold = source.last_threshold
    if threshold is None:
        return {"promise": "No threshold was learned: the recording is too short.", "rows": []}
    asked = threshold.false_alarms_per_day
    promise = f"Set so that quiet times raise about {asked:g} false alarm{'' if asked == 1 else 's'} a day."
    if not threshold.is_kept:
        promise += f" The rows read vouch for {threshold.promised_per_day:.3g} a day only."
    at_once = "" if threshold.at_once == threshold.high else f", or one at {threshold.at_once:.3g}"
    k, n = threshold.confirm_rows
    rows = [
        ("Begins an incident", f"{k} of {n} rows at {threshold.high:.3g} or above{at_once}"),
        ("Ends it", f"falling below {threshold.low:.3g}; the usual score is {threshold.usual:.3g}"),
        ("Why so high", threshold.reason),
        ("Limits", threshold.limits),
        ("Method", threshold.source),
    ]
    if isinstance(source.threshold, CausalThreshold):
        told = np.flatnonzero(np.isfinite(source.threshold.high))
        rows.insert(
            2, ("Learned", "as the recording went on, each row from earlier ones; the figures are the last")
        )
        if len(told) and told[0] > 0:
            wait = (int(source.scores.time_ns[told[0]]) - int(source.scores.time_ns[0])) / 1e9
            rows.insert(3, ("First alarm possible", f"after {duration(wait)}"))
    return {"promise": promise, "rows": rows}


def _detector(source: Source) -> dict[str, Any]:
    about = dict(source.about)
    name = source.scores.detector or "not named"
    words = f"{name}. " + (
        "Each score comes from its own row and earlier ones, as it would have while running."
        if source.scores.causal
        else "The scores have seen later rows too (offline); while running they would differ."
    )
    rows = [
        (key, str(about[name]))
        for key, name in (("Weights", "model"), ("What they are", "label"))
        if name in about
    ]
    if "parameters" in about:
        rows.append(("Parameters", f"{int(about['parameters']):,}"))
    if "precision" in about:
        rows.append(("Precision", str(about["precision"])))
    if "weights_sha256" in about:
        rows.append(("SHA-256", str(about["weights_sha256"])[:16] + "…"))
    options = about.get("options")
    if isinstance(options, Mapping):
        rows.append(("Options", ", ".join(f"{k} {v}" for k, v in options.items())))
    return {"words": words, "rows": rows}


def _data(source: Source) -> dict[str, Any]:
    quality, frame = source.quality, source.frame
    missing = f"{100 * quality.missing:.2g} %" if quality.missing else "none"
    rows = [
        ("Source", frame.source.rstrip("/").rsplit("/", 1)[-1] or "not told"),
        ("Missing values", missing),
    ]
    constant = [k.name for k in quality.kpis if k.constant]
    dead = [k.name for k in quality.kpis if k.dead]
    if constant:
        rows.append(("Never changed", f"{_count(len(constant), 'KPI')}: {_names(constant)}"))
    if dead:
        rows.append(("Never observed, or stopped", f"{_count(len(dead), 'KPI')}: {_names(dead)}"))
    return {
        "repaired": source.repaired,
        "findings": quality.findings[:MOST_FINDINGS],
        "rows": rows,
    }


def _names(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
