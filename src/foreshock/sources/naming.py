"""What a column name tells: the service, the metric, the unit.

`<service>__<metric>` always splits at the double underscore. Where names have only single
separators, a service is told by the metric words that end the name, or by several services
having the same metrics. Rules (`services=`) come before both.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from foreshock.errors import SourceError
from foreshock.frame import NO_SERVICE, Kpi

ServiceRules = str | Sequence[str] | Mapping[str, str]

_SEPARATORS = "_./:"  # not '-': it stands inside names such as ts-order-service
_WORDS = frozenset(
    """active alloc allocated availability available avg average bandwidth busy bytes cache calls client code
    commit concurrency connections conns consumed container core cores count cpu cpus current db delay depth
    disk dropped duration elapsed err errors error failed failure failures faults fd fds fs free gb gc gib
    goroutines handles heap hit hits hz idle in incoming inflight io iops iowait jobs kb kib kernel lag lat
    latency length limit load m major max mb mean mem memory messages mi mib min minor miss misses ms msgs net
    network node ns num open ops out outgoing p50 p75 p90 p95 p99 p999 packets pages pct pending per percent
    percentage perc pid pids pod pool processes processing processed qps queue queued quantile rate ratio read
    reads receive received recv reqs req request requests res resident resp response responses restarts
    retries rows rps rss rt rtt runtime rx s saturation seconds sec secs sent server session sessions
    size socket sockets src dst status stolen success sum swap sys syscall system temp temperature threads
    throttled throughput thrpt time timeouts timeout total tps traffic transmit tx us usage used user users
    util utilization utilisation virtual volume wait waiting workload write writes written
    2xx 3xx 4xx 5xx 200 404 500 50 75 90 95 99 999""".split()  # noqa: SIM905
)
# Metric words that are also what services are called.
_BOTH = frozenset(
    "cache client container db jobs messages network node pod queue server session user users".split()  # noqa: SIM905
)


def kpis_of(names: Sequence[str], rules: ServiceRules | None = None) -> tuple[Kpi, ...]:
    """One `Kpi` a name, units from the names alone.

    Example:
        >>> [(k.service, k.metric, k.unit) for k in kpis_of(["cart__cpu_pct", "cart_mem_mi", "load"])]
        [('cart', 'cpu_pct', '%'), ('cart', 'mem_mi', 'MiB'), ('system', 'load', '')]
    """
    ruled = parse_rules(rules)
    split: dict[str, tuple[str, str]] = {}
    for name in names:
        hit = _by_rule(name, ruled)
        if hit is not None:
            split[name] = hit
        elif "__" in name.strip("_"):
            service, metric = name.split("__", 1)
            split[name] = (service or NO_SERVICE, metric)
    _edges(split)
    rest = [n for n in names if n not in split]
    known = {s for s, _ in split.values()}
    split.update(_infer(rest, known, {m for _, m in split.values()}))
    return tuple(Kpi(n, split[n][0], split[n][1], unit_of(split[n][1])) for n in names)


def parse_rules(rules: ServiceRules | None) -> list[tuple[re.Pattern[str], str]]:
    """`{'cart_*': 'cart'}`, `['cart_*=cart', 're:^(ts-\\w+)_=\\1', 'payment']` or one string with commas.

    A pattern is a glob for the whole name; after `re:` a regular expression found anywhere,
    whose groups the service may use (`\\1`). A bare word is a service: its columns start with it.

    Raises:
        SourceError: a regular expression that doesn't compile, or an empty side.
    """
    if rules is None:
        return []
    if isinstance(rules, str):
        rules = [r for r in rules.split(",") if r.strip()]
    pairs = list(rules.items()) if isinstance(rules, Mapping) else [_pair(r) for r in rules]
    out = []
    for pattern, service in pairs:
        if not pattern or not service:
            raise SourceError(
                f"the service rule {pattern!r}={service!r} has an empty side; write PATTERN=SERVICE."
            )
        try:
            out.append(
                (
                    re.compile(pattern[3:] if pattern.startswith("re:") else fnmatch.translate(pattern)),
                    service,
                )
            )
        except re.error as e:
            raise SourceError(f"the service rule {pattern!r} is no regular expression: {e}.") from e
    return out


def _pair(rule: str) -> tuple[str, str]:
    rule = rule.strip()
    if "=" in rule:
        pattern, service = rule.rsplit("=", 1)
        return pattern.strip(), service.strip()
    return f"re:^{re.escape(rule)}(?![A-Za-z0-9])", rule


def _by_rule(name: str, rules: list[tuple[re.Pattern[str], str]]) -> tuple[str, str] | None:
    for pattern, service in rules:
        hit = pattern.search(name)
        if hit:
            try:
                service = hit.expand(service) if "\\" in service else service
            except (re.error, IndexError) as e:
                raise SourceError(f"the service rule for {name!r} gives {service!r}: {e}.") from e
            metric = (
                name.removeprefix(service).lstrip(_SEPARATORS + "-") if name.startswith(service) else name
            )
            return service or NO_SERVICE, metric or name
    return None


def _edges(split: dict[str, tuple[str, str]]) -> None:
    """`a_b__src_p50` is a call between two known services: it belongs to the one that answers."""
    own = {s for s, m in split.values() if not m.startswith(("src_", "dst_"))}
    for name, (service, metric) in split.items():
        if service in own:
            continue
        for i, letter in enumerate(service):
            if letter == "_" and service[:i] in own and service[i + 1 :] in own:
                split[name] = (service[i + 1 :], f"{metric} of calls from {service[:i]}")
                break


def _infer(names: list[str], known: set[str], known_metrics: set[str]) -> dict[str, tuple[str, str]]:
    """Services of names that have single separators only; NO_SERVICE where nothing supports a split."""
    out: dict[str, tuple[str, str]] = {}
    open_names = []
    for name in names:
        prefix = next((p for p, _ in reversed(_splits(name)) if p in known), None)
        if prefix is not None:
            out[name] = (prefix, name[len(prefix) + 1 :])
        else:
            open_names.append(name)
    by_words = {n: s for n in open_names if (s := _split_by_words(n))}
    prefixes = Counter(p for p, _ in by_words.values())
    suffixes = Counter([*(s for _, s in by_words.values()), *(s for _, s in out.values()), *known_metrics])
    for name, (prefix, suffix) in by_words.items():
        if suffixes[suffix] > 1 or (prefixes[prefix] > 1 and prefix.lower() not in _BOTH):
            out[name] = (prefix, suffix)
    out.update(_split_by_grid([n for n in open_names if n not in out]))
    return {n: out.get(n, (NO_SERVICE, n)) for n in names}


def _splits(name: str) -> list[tuple[str, str]]:
    """Every (prefix, suffix) at a separator, longest prefix last."""
    return [(name[:i], name[i + 1 :]) for i in range(1, len(name) - 1) if name[i] in _SEPARATORS]


def _is_metric(text: str) -> bool:
    words = [w for w in re.split(r"[_./:\-()%\s]+", text.lower()) if w]
    return bool(words) and all(w in _WORDS for w in words)


def _split_by_words(name: str) -> tuple[str, str] | None:
    """The shortest prefix after which only metric words follow, unless it is a metric word itself."""
    for prefix, suffix in _splits(name):
        if _is_metric(suffix):
            first = re.split(r"[_./:\-]", prefix.lower())[0]
            return None if first in _WORDS - _BOTH else (prefix, suffix)
    return None


def _split_by_grid(names: list[str]) -> dict[str, tuple[str, str]]:
    """Names that form a grid: at least two prefixes share at least two suffixes."""
    suffixes_of: dict[str, set[str]] = defaultdict(set)
    prefixes_of: dict[str, set[str]] = defaultdict(set)
    for name in names:
        for prefix, suffix in _splits(name):
            suffixes_of[prefix].add(suffix)
            prefixes_of[suffix].add(prefix)
    out = {}
    for name in names:
        best = max(
            (
                (len(prefixes_of[s]), len(suffixes_of[p]), p, s)
                for p, s in _splits(name)
                if len(prefixes_of[s]) > 1 and len(suffixes_of[p]) > 1 and not _is_metric(p)
            ),
            default=None,
        )
        if best is not None:
            out[name] = (best[2], best[3])
    return out


_UNIT_WORDS: dict[str, str] = {}
for _unit, _names in {
    "%": "% pct percent percentage perc",
    "s": "s sec secs second seconds",
    "ms": "ms msec millis milliseconds",
    "µs": "us usec micros microseconds",
    "ns": "ns nanos nanoseconds",
    "B": "b byte bytes",
    "kB": "kb kilobytes",
    "KiB": "kib ki",
    "MB": "mb megabytes",
    "MiB": "mib mi",
    "GB": "gb gigabytes",
    "GiB": "gib gi",
    "1/s": "ops rps qps tps hz iops persec",
    "ratio": "ratio fraction share",
    "millicores": "m millicores millicpu",
    "cores": "cores",
    "count": "count total num sum connections conns threads goroutines sessions restarts pids processes",
    "°C": "celsius",
}.items():
    for _name in _names.split():
        _UNIT_WORDS[_name] = _unit


def unit_of(metric: str) -> str:
    """The unit a metric's name ends in, "" if it tells none.

    Example:
        >>> [unit_of(m) for m in ("server_lat_p90_s", "CpuUsageRate(%)", "http_requests_per_second", "load")]
        ['s', '%', '1/s', '']
    """
    text = metric.split(" of calls from ")[0]
    bracket = re.search(r"[(\[]([^()\[\]]+)[)\]]\s*$", text)
    if bracket:
        return _UNIT_WORDS.get(bracket[1].strip().lower(), "")
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()
    words = [w for w in re.split(r"[^a-z0-9%]+", text) if w]
    while len(words) > 1 and re.fullmatch(r"avg|mean|max|min|average|p?\d{2,3}", words[-1]):
        words.pop()
    if len(words) > 2 and words[-2:-1] == ["per"] and words[-1] in {"s", "sec", "second"}:
        return "1/s"
    return _UNIT_WORDS.get(words[-1], "") if words and (len(words) > 1 or len(words[0]) > 2) else ""


def guess_unit(kpi: Kpi, values: np.ndarray) -> str:
    """The unit by name, else by what such a metric's values usually are; "" if they fit several.

    Args:
        values: (t,) a stretch of the KPI, NaN where not observed.
    """
    if kpi.unit:
        return kpi.unit
    seen = values[np.isfinite(values)]
    if not len(seen):
        return ""
    low, high, middle = float(seen.min()), float(seen.max()), float(np.median(seen))
    name = kpi.metric.lower()
    if re.search(r"cpu|mem|util|usage|success|availab|disk|error.?rate|hit.?rate", name) and low >= 0:
        if high <= 1.0 and not np.all(seen == np.round(seen)):
            return "ratio"
        if 1.5 < high <= 100.0 and "mem" not in name:
            return "%"
        if "mem" in name and middle > 1e6:
            return "B"
    if re.search(r"lat|duration|response|rtt|delay|p\d\d", name) and low >= 0:
        if middle >= 20:
            return "ms"
        if 0 < middle < 1 and high <= 60:
            return "s"
    return ""


def shown(text: object, most: int = 40) -> str:
    """Something from a file, quoted, for a message; never endless."""
    quoted = repr(text)
    return quoted if len(quoted) <= most + 2 else quoted[: most + 1] + "…" + quoted[-1]


def names_shown(names: Iterable[str], most: int = 8) -> str:
    """A few names for a message."""
    names = list(names)
    return ", ".join(shown(n) for n in names[:most]) + (
        f" … ({len(names)} in all)" if len(names) > most else ""
    )
