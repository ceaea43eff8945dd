"""Numbers in Prometheus's text format, for `/metrics`.

Not here: which numbers (service.measures).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CYCLE_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)  # edges of the histogram of cycles


@dataclass(frozen=True, slots=True)
class Metric:
    """One family: samples of labels and value under a name."""

    name: str
    kind: str  # "gauge", "counter", "histogram"
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]
    suffixes: tuple[str, ...] = ()  # of each sample, for histograms


def gauge(name: str, help: str, value: float, **labels: str) -> Metric:
    return Metric(name, "gauge", help, ((labels, value),))


def counter(name: str, help: str, value: float, **labels: str) -> Metric:
    return Metric(name, "counter", help, ((labels, value),))


@dataclass
class Histogram:
    """Counts how long something took."""

    edges: tuple[float, ...] = CYCLE_S
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def add(self, value: float) -> None:
        self.counts = self.counts or [0] * (len(self.edges) + 1)
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def metric(self, name: str, help: str) -> Metric:
        counts = self.counts or [0] * (len(self.edges) + 1)
        samples: list[tuple[Mapping[str, str], float]] = []
        for at, edge in enumerate((*map(_number, self.edges), "+Inf")):
            samples.append(({"le": edge}, float(sum(counts[: at + 1]))))
        samples += [({}, self.total), ({}, float(sum(counts)))]
        suffixes = ("_bucket",) * (len(self.edges) + 1) + ("_sum", "_count")
        return Metric(name, "histogram", help, tuple(samples), suffixes)


def write(metrics: Iterable[Metric]) -> str:
    """The text that Prometheus reads; NaN stays NaN: nobody observed it.

    Example:
        >>> print(write([gauge("up", "Whether it answers.", 1.0, source="a\\"b")]), end="")
        # HELP up Whether it answers.
        # TYPE up gauge
        up{source="a\\"b"} 1
    """
    lines: list[str] = []
    for metric in metrics:
        if not metric.samples:
            continue
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for at, (labels, value) in enumerate(metric.samples):
            told = ",".join(f'{name}="{_escaped(str(text))}"' for name, text in labels.items())
            suffix = metric.suffixes[at] if metric.suffixes else ""
            lines.append(f"{metric.name}{suffix}{f'{{{told}}}' if told else ''} {_number(value)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
