"""Honest evaluation: detectors × data sets × seeds → one record each, and what the records say together.

A detector is fitted on the training part alone and sees no label unless it is a supervised one; thresholds
come from unlabelled scores; only rows after the training part and a gap are judged; a random score, a rolling
variance and a squared difference stand in every table. The protocol in words: docs/evaluation.md.

Not here: the metrics themselves (metrics), the file of records (runlog), the figure (plots).
"""

from foreshock.evaluate.audit import AuditRow, audit, audit_table
from foreshock.evaluate.compare import Change, Comparison, compare_records
from foreshock.evaluate.contamination import held_by
from foreshock.evaluate.parts import DataSet, Part, named_parts
from foreshock.evaluate.protocol import FLOOR, DetectorChoice, Evaluation, Job, evaluate, plan
from foreshock.evaluate.sketch import RECALLS, sketches_of
from foreshock.evaluate.statistics import Interval, SignedRank, grouped_interval, holm, interval, wilcoxon
from foreshock.evaluate.tables import leaderboard, paired_rows, report

__all__ = [
    "FLOOR",
    "RECALLS",
    "AuditRow",
    "Change",
    "Comparison",
    "DataSet",
    "DetectorChoice",
    "Evaluation",
    "Interval",
    "Job",
    "Part",
    "SignedRank",
    "audit",
    "audit_table",
    "compare_records",
    "evaluate",
    "grouped_interval",
    "held_by",
    "holm",
    "interval",
    "leaderboard",
    "named_parts",
    "paired_rows",
    "plan",
    "report",
    "sketches_of",
    "wilcoxon",
]
