"""What stands below the incidents: the whole recording, known faults, method, data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foreshock import plots
from foreshock.calibrate import CausalThreshold
from foreshock.frame import Labels
from foreshock.report.incidents import MOST_CARDS, after, origin
from foreshock.report.source import Source, clock, count, duration

MOST_FINDINGS = 30
NANO = (
    "the small checkpoint that ships with foreshock, in MOMENT's architecture and file format but trained "
    "here on synthetic and public series; it is none of the MOMENT-1 checkpoints. See its MODEL_CARD.md"
)


def pictures(source: Source) -> dict[str, Any] | None:
    from markupsafe import Markup

    scores = source.scores
    if not len(scores) or not np.isfinite(scores.system).any():
        return None
    known = source.frame.labels if _has_faults(source.frame.labels) else None
    described = (
        f"The system's score from {clock(source, scores.time_ns[0])} "
        f"to {clock(source, scores.time_ns[-1])}, with {count(len(source.events), 'incident')}."
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
        "hidden": f"{count(hidden, 'quieter service')} not shown." if hidden > 0 else "",
        "has_threshold": last is not None and np.isfinite(last.high),
        "scale": " (logarithmic above the threshold)" if logarithmic else "",
    }


def _has_faults(labels: Labels | None) -> bool:
    return labels is not None and bool(labels.anomaly.any())


def known_faults(source: Source) -> dict[str, Any] | None:
    """The labels beside what was found; None without labelled faults."""
    labels = source.frame.labels
    if labels is None or not labels.anomaly.any():
        return None
    faults: list[dict[str, Any]] = []
    silent: list[dict[str, Any]] = []
    matched: set[int] = set()
    for number in sorted(set(labels.fault_id[labels.anomaly].tolist())):
        rows = np.flatnonzero(labels.anomaly & (labels.fault_id == number))
        hits = [i for i, e in enumerate(source.events) if e.start <= rows[-1] and e.end > rows[0]]
        matched.update(hits)
        shows = bool(labels.metric_visible[rows].any())
        (faults if shows else silent).append(_fault_row(source, labels, rows, hits, shows))
    others = [i + 1 for i in range(len(source.events)) if i not in matched]
    excused = [n for n in others if labels.ignore[source.events[n - 1].rows].any()]
    strange = [n for n in others if n not in excused]
    notes = []
    if strange:
        notes.append(f"Without a known fault: {count(len(strange), 'incident')} ({_numbers(strange)}).")
    if excused:
        notes.append(f"In rows the labels leave out, recovery or suspected faults: {_numbers(excused)}.")
    return {
        "title": f"{sum(f['is_found'] for f in faults)} of {count(len(faults), 'known fault')} found, "
        f"the right origin named for {sum(f['is_right'] for f in faults)}",
        "faults": faults[:MOST_CARDS],
        "silent": silent[:MOST_CARDS],
        "silent_title": f"{count(len(silent), 'more fault')} left no trace in the metrics",
        "note": " ".join(notes),
    }


def _numbers(numbers: Sequence[int], most: int = 20) -> str:
    return ", ".join(map(str, numbers[:most])) + (" …" if len(numbers) > most else "")


def _fault_row(
    source: Source, labels: Labels, rows: np.ndarray, hits: list[int], shows: bool
) -> dict[str, Any]:
    start_ns, service = int(source.frame.time_ns[rows[0]]), str(labels.root_cause[rows[0]])
    named, is_right = "", False
    if hits:
        words = f"incident {_numbers([h + 1 for h in hits])}"
        first = source.events[hits[0]]
        if first.detected >= source.scores.rows_in_hindsight:
            words += f", {after(first.detected_ns - start_ns)}"
        causes = [source.causes[h] for h in hits]
        best = next((c for c in causes if c.is_known), causes[0])
        named, is_right = origin(best), best.is_known and best.services[0].name == service
    elif not shows:
        words = "no trace in the metrics"
    else:
        words = "not found" if _was_ready(source, rows) else "not found: no alarm was possible yet"
    return {
        "start": clock(source, start_ns),
        "service": service,
        "kind": str(labels.fault_type[rows[0]]).replace("_", " "),
        "found": words,
        "named": named,
        "is_found": bool(hits),
        "is_right": is_right,
    }


def _was_ready(source: Source, rows: np.ndarray) -> bool:
    """Whether a threshold had been learned by then."""
    if not isinstance(source.threshold, CausalThreshold):
        return source.threshold is not None
    return bool(np.isfinite(source.threshold.high[rows]).any())


def threshold_facts(source: Source) -> dict[str, Any]:
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


def detector_facts(source: Source) -> dict[str, Any]:
    about = dict(source.about)
    if about.get("model") == "nano":
        about.setdefault("label", NANO)
    name = source.scores.detector or "not named"
    settled = source.scores.settled
    words = f"{name}. " + (
        "Each score comes from its own row and earlier ones, as it would have while running."
        if source.scores.causal
        else "The scores have seen later rows too; while running they would differ."
    )
    if source.scores.causal and settled:
        words += f" But the first {settled} rows were judged by later ones, too."
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


def data_facts(source: Source) -> dict[str, Any]:
    quality, frame = source.quality, source.frame
    missing = f"{100 * quality.missing:.2g} %" if quality.missing else "none"
    rows = [
        ("Source", frame.source.rstrip("/").rsplit("/", 1)[-1] or "not told"),
        ("Missing values", missing),
    ]
    return {
        "repaired": source.repaired,
        "findings": quality.findings[:MOST_FINDINGS],
        "rows": rows,
    }
