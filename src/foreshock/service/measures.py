"""What `/metrics` tells: scores, levels, bands of what is going wrong, and how the service itself is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from foreshock import __version__
from foreshock.alerts import Outbox
from foreshock.alerts.severity import SEVERITIES
from foreshock.bands import band
from foreshock.memory import resident_bytes
from foreshock.service.live import Health, Live
from foreshock.service.writer import Writer
from foreshock.stream import Monitor
from foreshock.telemetry import Histogram, Metric, counter, gauge

KPIS_EACH = 5  # KPIs told of each open incident ...
KPIS_MOST = 50  # ... and in all


def of_monitor(monitor: Monitor) -> list[Metric]:
    """Scores, levels and bands of the newest row. Call it while the monitor stands still."""
    facts = monitor.detector.describe()
    names = {
        "version": __version__,
        "detector": str(facts.get("detector", "")),
        "model": str(facts.get("model", "")),
    }
    out = [gauge("foreshock_build_info", "What runs here.", 1.0, **names)]
    scores, level = monitor.scores, monitor.level
    opened = dict.fromkeys(SEVERITIES, 0)
    for incident in monitor.open_incidents:
        opened[incident.severity] += 1
    told = tuple(({"severity": name}, float(count)) for name, count in opened.items())
    out.append(Metric("foreshock_incidents_open", "gauge", "Incidents that run now.", told))
    if scores is None or len(scores) == 0:
        return out
    out.append(
        gauge("foreshock_score", "How anomalous the system is in the newest row.", float(scores.system[-1]))
    )
    if level is not None:
        levels = {"high": level.high, "at_once": level.at_once, "low": level.low}
        told = tuple(({"level": name}, float(value)) for name, value in levels.items())
        out.append(Metric("foreshock_threshold", "gauge", "Scores at which incidents begin and end.", told))
    each = zip(scores.service_names, scores.services[-1].tolist(), strict=True)
    told = tuple(({"service": name}, float(value)) for name, value in each)
    out.append(Metric("foreshock_service_score", "gauge", "How anomalous each service is.", told))
    return [*out, *_bands(monitor)]


def _bands(monitor: Monitor) -> Iterator[Metric]:
    """The KPIs of open incidents, and what was expected of them."""
    frame, scores = monitor.frame, monitor.scores
    assert frame is not None
    places = {name: at for at, name in enumerate(frame.names)}
    found = [
        kpi for one in monitor.open_incidents for kpi in one.cause.kpis[:KPIS_EACH] if kpi.name in places
    ]
    values: dict[str, list[tuple[dict[str, str], float]]] = {}
    for name in list(dict.fromkeys(kpi.name for kpi in found))[:KPIS_MOST]:
        at = places[name]
        seen = band(frame, scores, at, slice(len(frame) - 1, len(frame)))
        told = {
            "value": frame.values[-1, at],
            "expected": seen.expected[0],
            "expected_low": seen.low[0],
            "expected_high": seen.high[0],
        }
        labels = {"service": frame.kpis[at].service, "kpi": frame.kpis[at].metric or name}
        for what, value in told.items():
            values.setdefault(what, []).append((labels, float(value)))
    for what, samples in values.items():
        text = f"KPIs of open incidents: {what.replace('_', ' ')}."
        yield Metric(f"foreshock_kpi_{what}", "gauge", text, tuple(samples))


def of_service(live: Live, cycles: Histogram, incidents: dict[str, int], outbox: Outbox) -> list[Metric]:
    """How the service itself is doing, and what was told to whom."""
    h: Health = live.health
    told = tuple(({"severity": name}, float(incidents.get(name, 0))) for name in SEVERITIES)
    out = [
        Metric("foreshock_incidents_total", "counter", "Incidents found since the start.", told),
        gauge("foreshock_lag_seconds", "Age of the newest row scored.", h.lag_s),
        cycles.metric("foreshock_cycle_seconds", "Time of a cycle: reading, scoring, keeping."),
        counter("foreshock_cycles_total", "Cycles done.", h.cycles),
        gauge("foreshock_last_cycle_timestamp_seconds", "When the last cycle ended.", h.last_cycle_ns / 1e9),
        gauge("foreshock_queue_rows", "Rows due and not yet scored.", h.queue_rows),
        counter(
            "foreshock_dropped_points_total",
            "Values never scored: too late, or too many series.",
            h.dropped_points,
        ),
        gauge("foreshock_resident_bytes", "Memory of the process.", resident_bytes()),
        gauge("foreshock_series", "Series watched.", h.series),
        gauge("foreshock_config_reload_success", "Whether the last reload worked.", float(h.reload_ok)),
    ]
    up = tuple(({"source": name}, float(is_up)) for name, is_up in h.sources.items())
    failed = tuple(({"source": name}, float(count)) for name, count in h.source_errors.items())
    out.append(Metric("foreshock_source_up", "gauge", "Whether a source answers.", up))
    out.append(Metric("foreshock_source_errors_total", "counter", "Failed readings.", failed))
    return out + _of_alerts(outbox.counts)


def of_writer(writer: Writer) -> list[Metric]:
    """What became of the scores that are written back; nothing where none are."""
    if not writer.is_on:
        return []
    told = tuple(({"outcome": name}, float(count)) for name, count in writer.counts.items())
    return [
        Metric("foreshock_remote_write_total", "counter", "Samples written back; failed: tries.", told),
        gauge("foreshock_remote_write_pending", "Samples that wait to be written.", float(writer.pending)),
    ]


def _of_alerts(counts: Sequence[tuple[str, dict[str, str], float]]) -> list[Metric]:
    """The outbox's own counts: name, labels, value."""
    out: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for name, labels, value in counts:
        out.setdefault(name, []).append((labels, value))
    kinds = {name: "counter" if name.endswith("_total") else "gauge" for name in out}
    return [
        Metric(f"foreshock_{name}", kinds[name], f"Alerts: {name.replace('_', ' ')}.", tuple(samples))
        for name, samples in out.items()
    ]
