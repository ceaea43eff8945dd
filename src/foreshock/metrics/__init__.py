"""How good scores and events are, held against what was known afterwards.

Rows to ignore (recovery, suspects, not observed) are left out everywhere. What needs the labels to look
better says so in its name: `…_oracle` chose its threshold with them, `point_adjusted_…` mended the
predictions with them. Definitions, sources and edge cases: docs/metrics.md.
"""

from foreshock.metrics.adjusted import Adjusted, point_adjusted_f1, point_adjusted_f1_oracle
from foreshock.metrics.events import TOLERANCE_ROWS, EventCounts, Span, count_events, fault_spans, spans
from foreshock.metrics.points import (
    AtThreshold,
    at_threshold,
    average_precision,
    best_f1_oracle,
    best_threshold_oracle,
    roc_auc,
)
from foreshock.metrics.ranges import period, vus_pr, vus_pr_tsb_ad, vus_roc, vus_roc_tsb_ad
from foreshock.metrics.table import METRICS, Judged, event_counts

__all__ = [
    "METRICS",
    "TOLERANCE_ROWS",
    "Adjusted",
    "AtThreshold",
    "EventCounts",
    "Judged",
    "Span",
    "at_threshold",
    "average_precision",
    "best_f1_oracle",
    "best_threshold_oracle",
    "count_events",
    "event_counts",
    "fault_spans",
    "period",
    "point_adjusted_f1",
    "point_adjusted_f1_oracle",
    "roc_auc",
    "spans",
    "vus_pr",
    "vus_pr_tsb_ad",
    "vus_roc",
    "vus_roc_tsb_ad",
]
