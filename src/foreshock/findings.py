"""What was found about an event's origin, in a form for people and for machines."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from foreshock.changes import Changes
from foreshock.decide import iso
from foreshock.frame import Frame, Kpi

CLEAR = 0.5  # confidence from which an origin is named


@dataclass(frozen=True, slots=True)
class KpiFinding:
    """What one KPI did."""

    name: str
    service: str
    metric: str
    unit: str
    kind: str  # "resource", "shared", "latency", "waiting", "workload", "errors", "other"
    before: float  # median of the calm rows before the event
    limit: float  # the KPI's own limit on the side where it left
    during: float  # typical value in the event; NaN where it went silent
    extreme: float  # farthest value in the event
    factor: float | None  # during / before; None where that has no meaning
    direction: str  # "up", "down", "gone"
    excess: float  # distance from `before` in units of the distance of the limit; above 1 is unusual
    strength: float  # 0..1
    since: int  # row of its onset: the first one beyond its own limit
    since_ns: int
    order: int  # 0 for the KPIs that changed first, 1 for the next ...
    role: str  # "origin" for evidence of the named origin, "symptom" for the rest, "unknown" without one
    text: str  # "CPU 1.1 % → 94 %"


@dataclass(frozen=True, slots=True)
class ServiceFinding:
    """How much speaks for a service as the origin."""

    name: str
    score: float  # 0..1, strength of the evidence
    confidence: float  # 0..1, how clearly it stands out; those of all services add up to 1 at most
    since: int  # row of its first clear change
    since_ns: int
    kpis: tuple[str, ...]  # its changed KPIs, strongest first
    why: str  # one clause


@dataclass(frozen=True, slots=True)
class Cause:
    """The most likely origin of an event, with its evidence. `services` is empty when nothing is known."""

    services: tuple[ServiceFinding, ...]  # best first
    kpis: tuple[KpiFinding, ...]  # strongest first
    headline: str
    confidence: float  # 0..1, of the first service; below 0.5 the headline says "unknown"
    rows_before: int  # calm rows that the event was compared with
    changed: int  # KPIs beyond their own limit

    @property
    def is_known(self) -> bool:
        return bool(self.services) and self.confidence >= CLEAR

    def to_dict(self) -> dict[str, object]:
        """JSON-safe: no NaN, times as ISO 8601 in UTC."""
        out = asdict(self) | {"is_known": self.is_known}
        for finding in (*out["services"], *out["kpis"]):
            finding["since_time"] = iso(finding.pop("since_ns"))
        safe = _json_safe(out)
        assert isinstance(safe, dict)
        return safe


def _json_safe(value: object) -> object:
    if isinstance(value, dict):
        return {k: _json_safe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def kpi_findings(
    frame: Frame, changes: Changes, strength: np.ndarray, kinds: Sequence[str], first: int
) -> list[KpiFinding]:
    """The KPIs that changed, strongest first; `first` is the row of the window's first row."""
    changed = np.flatnonzero(strength > 0)
    changed = changed[np.argsort(-strength[changed], kind="stable")]
    order = {since: i for i, since in enumerate(sorted({int(changes.since[k]) for k in changed}))}
    out = []
    for k in changed.tolist():
        kpi, before, during = frame.kpis[k], float(changes.before[k]), float(changes.during[k])
        since = first + int(changes.since[k])
        direction = "gone" if changes.is_gone[k] else "up" if changes.excess[k] >= 0 else "down"
        factor = during / before if before > 0 and during > 0 else None
        out.append(
            KpiFinding(
                name=kpi.name,
                service=kpi.service,
                metric=kpi.metric or kpi.name,
                unit=kpi.unit,
                kind=kinds[k],
                before=before,
                limit=float(changes.limit[k]),
                during=during,
                extreme=float(changes.extreme[k]),
                factor=factor,
                direction=direction,
                excess=abs(float(changes.excess[k])),
                strength=float(strength[k]),
                since=since,
                since_ns=int(frame.time_ns[since]),
                order=order[int(changes.since[k])],
                role="unknown",
                text=_text(kpi, before, during, abs(float(changes.excess[k])) > 1 or direction == "gone"),
            )
        )
    return out


_UNITS = "pct percent s sec seconds ms us ns m mi mib mb gi gib gb bytes ops"
_UNIT_WORDS = frozenset(_UNITS.split())
_SPOKEN = {"cpu": "CPU", "mem": "memory", "lat": "latency", "net": "network", "gc": "GC", "io": "I/O"}
_STEPS = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "MiB": ((1024, "GiB"), (1, "MiB")),
    "millicores": ((1000, "cores"), (1, "millicores")),
}


def _text(kpi: Kpi, before: float, during: float, has_moved: bool) -> str:
    """`CPU 1.1 % → 94 %`."""
    metric, of, caller = (kpi.metric or kpi.name).partition(" of calls from ")
    parts = [w for w in re.split(r"[\s_./:]+", metric) if w]
    if kpi.unit and len(parts) > 1 and parts[-1].lower() in _UNIT_WORDS:
        parts = parts[:-1]
    name = " ".join(_SPOKEN.get(w.lower(), w) for w in parts) + of + caller
    if not has_moved:
        return f"{name} in an unusual pattern around {_number(before, kpi.unit)}"
    if not math.isfinite(during):
        return f"{name} no longer reported"
    return f"{name} {_number(before, kpi.unit)} → {_number(during, kpi.unit)}"


def _number(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"{_digits(100 * value)} %"
    for size, name in _STEPS.get(unit, ()):
        if abs(value) >= size:
            return f"{_digits(value / size)} {name}"
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    """Two to three digits that matter, no exponent where people would not write one."""
    if value == 0 or not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2g}"
    places = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"
