"""How far each KPI left its own past during an event, and what kind of KPI it is.

Not here: which service that points to (explain).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreshock.frame import Frame, Kpi
from foreshock.scores import Scores
from foreshock.windows import quantiles

FEWEST_ROWS = 5  # values before the event; with fewer a KPI tells nothing
SPREADS = 4.0  # a KPI's own limit: so many robust spreads from its median, at least ...
USUAL_SHARE, BEYOND_USUAL = 0.96, 1.5  # ... and so far beyond where this share of its past lies ...
LEAST_CHANGE = {"latency": 0.3, "waiting": 0.3}  # ... and this share of its level, 0.05 for other kinds:
# latencies come from histogram buckets, and 10 ms instead of 8 is no news
STRONGEST = 5.0  # doublings beyond its limit after which more is no stronger evidence
LASTING = 0.75  # the quantile of the event's rows that counts as "during"
FIRST_EVER = 0.5  # strength of a KPI that had never moved, and of one that went silent
SCORE_WEIGHT = 0.5  # a detector's score counts so much beside the values themselves

_WORDS = {
    "errors": "error errors err fail failed failure failures success exception exceptions timeout timeouts "
    "retry retries dropped 4xx 5xx availability fault faults restarts",
    "latency": "lat latency duration response rt p50 p75 p90 p95 p99 p999 percentile quantile",
    "workload": "workload ops qps rps tps req requests request rate throughput calls count traffic volume "
    "net network rx tx packets",
    "resource": "cpu mem memory rss heap gc disk io fs thread threads syscall socket sockets fd fds pool "
    "swap load bytes queue connections",
}
_KNOWN = {name: frozenset(words.split()) for name, words in _WORDS.items()}
_WAITING = frozenset(("client", "src", "source", "outbound", "outgoing", "upstream", "egress"))
_SHARED = frozenset(("node", "host", "machine", "cluster"))
_LATENCY_UNITS = frozenset(("s", "ms", "us", "ns", "seconds", "milliseconds"))
_GOOD = frozenset(("success", "availability"))


def words(kpi: Kpi) -> set[str]:
    """The words of a metric's name, in small letters."""
    name = re.sub(r"([a-z])([A-Z])", r"\1 \2", kpi.metric or kpi.name).split(" of calls from ")[0]
    return set(re.findall(r"[a-z]+\d*|\d+xx", name.lower()))


def kind(kpi: Kpi) -> str:
    """What a KPI measures, told softly from its metric's name and unit.

    "resource" (its own), "shared" (its host's), "latency" (of what it serves), "waiting" (for what it
    calls), "workload", "errors", "other".

    Example:
        >>> kind(Kpi("cart__cpu_pct", "cart", "cpu_pct"))
        'resource'
        >>> kind(Kpi("cart__client_lat_p90_s", "cart", "client_lat_p90_s"))
        'waiting'
    """
    told = words(kpi)
    found = next((name for name, known in _KNOWN.items() if told & known), "other")
    if found == "other" and kpi.unit.lower() in _LATENCY_UNITS:
        found = "latency"
    if found == "latency" and told & _WAITING:
        return "waiting"
    if found in ("resource", "workload") and told & _SHARED:
        return "shared"
    return found


def harmless_direction(kpi: Kpi) -> str:
    """ "up" for a share of successes, "down" for errors and latencies, "" where neither is harmless."""
    if words(kpi) & _GOOD:
        return "up"
    return "down" if kind(kpi) in ("errors", "latency", "waiting") else ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What K KPIs did in an event, measured by what they did before."""

    before: np.ndarray  # (K,) median
    limit: np.ndarray  # (K,) the KPI's own limit on the side where it left
    during: np.ndarray  # (K,) typical; NaN where it went silent
    extreme: np.ndarray  # (K,) farthest
    excess: np.ndarray  # (K,) signed distance from `before`, 1 at the limit
    strength: np.ndarray  # (K,) 0..1
    since: np.ndarray  # (K,) first row beyond the limit, counted from the window's first
    is_gone: np.ndarray  # (K,) bool, observed before and not in the event


def measure(before: np.ndarray, window: np.ndarray, lead: int, kinds: Sequence[str]) -> Changes:
    """Compare (M, K) rows of an event, from `lead` rows before it, with (N, K) quiet rows before.

    Compare: BARO (Pham et al. 2024) takes median, inter-quartile range and the largest deviation. Here a
    KPI's usual extremes count as well, so that one that jumps every hour has to jump further, and the
    deviation has to last.
    """
    seen = np.isfinite(before).sum(axis=0)
    known = seen >= FEWEST_ROWS
    past = np.where(known & np.isfinite(before), before, np.nan)
    with np.errstate(invalid="ignore"):
        low, middle, high = quantiles(past, (1 - USUAL_SHARE, 0.5, USUAL_SHARE))
        spread = 1.4826 * quantiles(np.abs(past - middle), (0.5,))[0]
        least = np.array([LEAST_CHANGE.get(name, 0.05) for name in kinds]) * np.abs(middle)
        floor = np.fmax(least, 0.02 * np.fmax(np.abs(low), np.abs(high)))
        still = known & ~((spread > 0) | (floor > 0) | (high > low))
        floor = np.where(floor > 0, floor, 1e-9)
        up = np.fmax(np.fmax(SPREADS * spread, BEYOND_USUAL * (high - middle)), floor)
        down = np.fmax(np.fmax(SPREADS * spread, BEYOND_USUAL * (middle - low)), floor)
        offset = window - middle
        excess = np.nan_to_num(offset / np.where(offset >= 0, up, down), nan=0.0, posinf=1e12, neginf=-1e12)
    inside = excess[lead:]
    # Lasting, not momentary: the upper quartile of the rows on the side that is farther out.
    rise, fall = np.quantile(inside, [LASTING, 1 - LASTING], axis=0)
    typical = np.where(rise >= -fall, rise, fall)
    beyond = excess * np.sign(typical) > 1
    strength = np.clip(np.log2(np.maximum(np.abs(typical), 1.0)) / STRONGEST, 0.0, 1.0)
    strength = np.where(still, np.minimum(strength, FIRST_EVER), strength)
    gone = known & (seen >= 0.9 * len(before)) & ~np.isfinite(window[lead:]).any(axis=0)
    farthest = np.abs(inside).argmax(axis=0)
    return Changes(
        middle,
        middle + np.where(typical >= 0, up, -down),
        np.where(gone, np.nan, middle + typical * np.where(typical >= 0, up, down)),
        window[lead:][farthest, np.arange(window.shape[1])],
        typical,
        np.where(gone, FIRST_EVER, strength),
        np.where(beyond.any(axis=0), beyond.argmax(axis=0), lead),
        gone,
    )


def score_strength(frame: Frame, scores: Scores | None, before: np.ndarray, window: slice) -> np.ndarray:
    """(K,) 0..1: how far each KPI's score left its own past; 0 where there is no score.

    Sees changes of pattern that leave the level as it was.
    """
    out = np.zeros(len(frame.kpis))
    if scores is None or len(scores) < window.stop:
        return out
    where = {k.name: i for i, k in enumerate(scores.kpi_meta)}
    ours = np.array([i for i, k in enumerate(frame.kpis) if k.name in where], dtype=int)
    theirs = [where[frame.kpis[i].name] for i in ours]
    past = scores.kpis[before][:, theirs].astype(float)
    past[past == 0] = np.nan  # no evidence yet: no past to compare with
    now = scores.kpis[window][:, theirs].astype(float)
    enough = (np.isfinite(past).sum(axis=0) >= FEWEST_ROWS) & np.isfinite(now).any(axis=0)
    if not enough.any():
        return out
    usual, high = quantiles(past[:, enough], (0.5, USUAL_SHARE))
    width = np.maximum(BEYOND_USUAL * (high - usual), 0.25 * np.abs(usual) + 1e-9)
    excess = (quantiles(now[:, enough], (LASTING,))[0] - usual) / width
    out[ours[enough]] = np.clip(np.log2(np.maximum(excess, 1.0)) / STRONGEST, 0.0, 1.0)
    return out * SCORE_WEIGHT
