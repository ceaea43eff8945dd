"""Metrics from a Prometheus, or what speaks its API, as a table on even steps.

Rows are multiples of the step since 1970, so that every reading of a range gives the same rows. A series
that has ended is NaN from then on: Prometheus marks the end itself, and what it leaves out is not filled.
Answers may fail, be slow or make no sense: they are asked for again, and in the end refused in words.

Not here: when to read (service.loop).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import random
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from foreshock.errors import ConfigError, ResourceError, SourceError
from foreshock.frame import NO_SERVICE, Frame, Kpi
from foreshock.secret import Secret, secret_of

if TYPE_CHECKING:
    import httpx

MOST_POINTS = 10_000  # of a series in one answer; Prometheus refuses more than 11,000
MOST_ANSWER_BYTES = 512 * 2**20
PIECE_CELLS = 4_000_000  # values asked for at once, if the query gives as many series as the last time
FIRST_PIECE_POINTS = 1_000  # before it is known how many series a query gives
AT_ONCE = 4  # queries on their way
WORTH_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
PAUSE_S = (0.25, 15.0)  # first and longest pause before asking again
RATE_STEPS = 4  # steps of the window of a rate, unless told otherwise ...
RATE_LEAST_S = 60.0  # ... and at least so long: two scrapes must lie in it


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query, each of whose series is a KPI of a service."""

    query: str  # `$rate` stands for the window of rates, such as 60s
    kpi: str  # name of the KPI
    service: str = ""  # label that names the service; empty: the KPI belongs to the whole system
    unit: str = ""  # such as s, B, ratio, cores
    counter: bool = False  # the query is a plain selector of counters: take its increase a second

    def __post_init__(self) -> None:
        for name in ("query", "kpi"):
            if not getattr(self, name).strip():
                raise ConfigError(f"prometheus.queries: {name} is empty; every query needs one.")

    def promql(self, rate_s: float) -> str:
        """What Prometheus is asked.

        Example:
            >>> Query("http_requests_total", "requests", "job", counter=True).promql(60)
            'sum by (job) (rate(http_requests_total[60s]))'
        """
        window = f"{round(rate_s)}s" if rate_s == round(rate_s) else f"{round(rate_s * 1000)}ms"
        text = self.query.replace("$rate", window)
        if not self.counter:
            return text
        by = f" by ({self.service})" if self.service else ""
        return f"sum{by} (rate({text}[{window}]))"


@dataclass(frozen=True, slots=True)
class PrometheusOptions:
    """Where metrics are, and which."""

    url: str = ""  # such as http://127.0.0.1:9090
    step_s: float = 15.0  # seconds between two rows
    queries: tuple[Query, ...] = ()
    rate_s: float = 0.0  # window of `$rate`; 0 is the larger of 4 steps and 60 s
    delay_s: float = 0.0  # how long after its time a row is read; 0 is a fifth of the step, 1 to 10 s
    timeout_s: float = 20.0  # for one answer
    tries: int = 4  # how often a piece is asked for before the source counts as down
    most_series: int = 30_000  # more are left out, the newest first
    token_env: str = ""  # variable that holds a bearer token ...
    token_file: str = ""  # ... or file
    user: str = ""  # for basic authentication
    password_env: str = ""
    password_file: str = ""
    ca_file: str = ""  # certificates to trust instead of the usual ones
    lookback_s: float = 0.0  # how long a value holds; 0 leaves it to Prometheus (5 minutes)
    insecure: bool = False  # do not check the server's certificate
    headers: Mapping[str, str] = field(default_factory=dict)  # such as X-Scope-OrgID

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if self.url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ConfigError("prometheus.url is no address; write it as http://host:9090.")
        if parts.password:
            raise ConfigError("prometheus.url holds a password; set prometheus.user and password_env.")
        for name in ("step_s", "timeout_s", "tries", "most_series"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"prometheus.{name} is {getattr(self, name)}; it must be above 0.")
        for name in ("rate_s", "delay_s", "lookback_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"prometheus.{name} is {getattr(self, name)}; it must be 0 or more.")
        if round(self.step_s * 1000) != self.step_s * 1000:
            raise ConfigError(f"prometheus.step_s is {self.step_s}; it must be whole milliseconds.")

    @property
    def window_s(self) -> float:
        """What `$rate` stands for, seconds."""
        return self.rate_s or max(RATE_STEPS * self.step_s, RATE_LEAST_S)

    @property
    def wait_s(self) -> float:
        """How long after its time a row is read."""
        return self.delay_s or min(10.0, max(1.0, self.step_s / 5))

    @property
    def token(self) -> Secret | None:
        return secret_of(self.token_env, self.token_file, "prometheus.token")

    @property
    def password(self) -> Secret | None:
        return secret_of(self.password_env, self.password_file, "prometheus.password")

    @property
    def shown(self) -> str:
        """The address as it may stand in messages."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


class AwayError(SourceError):
    """Prometheus does not answer, or not now: ask again later."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a range of slots gave."""

    frame: Frame | None  # a row for each slot; None when there is no series at all
    problems: tuple[str, ...] = ()  # queries that were refused or gave something odd


class PrometheusClient:
    """Asks one Prometheus; keeps its connections, its clock, and how many series each query gives."""

    def __init__(self, options: PrometheusOptions, transport: Any = None) -> None:
        """`transport` is httpx's, for tests.

        Raises:
            ResourceError: httpx is not installed.
            ConfigError: a secret or the CA file can't be read.
        """
        self.options = options
        self.clock = ServerClock()
        self._widths: dict[str, int] = {}  # query → series it gave last
        self._random = random.Random()
        self._client = _open(options, transport)

    async def close(self) -> None:
        await self._client.aclose()

    def now_s(self) -> float:
        """Prometheus's own clock, Unix seconds: ours may jump or be wrong."""
        return self.clock.now_s()

    async def ask_time(self) -> None:
        """Learn its clock and whether it answers.

        Raises:
            SourceError: it does not.
        """
        await self._ask("query", {"query": "vector(1)"})

    async def about(self) -> dict[str, str]:
        """Version and retention, as far as it tells; what speaks only its API tells less.

        Raises:
            SourceError: it does not answer.
        """
        await self.ask_time()
        build, runtime = await self._status("buildinfo"), await self._status("runtimeinfo")
        return {"version": build.get("version", ""), "keeps": runtime.get("storageRetention", "")}

    async def _status(self, what: str) -> dict[str, str]:
        import httpx

        try:
            answer = await self._client.get(f"{self.options.url.rstrip('/')}/api/v1/status/{what}")
            told = answer.json()["data"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return {}
        return {name: str(value) for name, value in told.items()} if isinstance(told, dict) else {}

    async def read(self, slots: range, partial: bool = False) -> Read:
        """All queries over some slots (multiples of the step since 1970).

        Args:
            partial: go on without queries that failed, as long as one did not. (Queries that Prometheus
                refuses as such are left out in any case, and told.)

        Raises:
            AwayError: it does not answer, or answers nonsense, after all tries.
            SourceError: every query is refused.
        """
        found: dict[tuple[str, str], np.ndarray] = {}
        units: dict[tuple[str, str], str] = {}
        problems: list[str] = []
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(query: Query) -> Series | SourceError:
            async with gate:
                try:
                    return await self.series(query, slots)
                except SourceError as error:
                    return error

        answers = await asyncio.gather(*map(one, self.options.queries))
        failed = [a for a in answers if isinstance(a, SourceError)]
        away = [a for a in failed if isinstance(a, AwayError)]
        if failed and (len(failed) == len(answers) or (away and not partial)):
            raise (away or failed)[0]
        for query, answer in zip(self.options.queries, answers, strict=True):
            if isinstance(answer, SourceError):
                problems.append(str(answer))
                continue
            for name, values in answer.items():
                known = found.get(name)
                found[name] = values if known is None else np.where(np.isfinite(known), known, values)
                units.setdefault(name, query.unit)
        return Read(_frame(found, units, slots, self.options.step_s), tuple(problems))

    async def series(self, query: Query, slots: range) -> Series:
        """One query's series over some slots, in as many pieces as it takes; NaN where nothing was told.

        Raises:
            AwayError, SourceError: as `read`.
        """
        promql, out = query.promql(self.options.window_s), Series()
        at = slots.start
        while at < slots.stop:
            points = min(MOST_POINTS, PIECE_CELLS // max(1, self._widths.get(promql, 0)) or 1)
            points = points if promql in self._widths else min(points, FIRST_PIECE_POINTS)
            piece = range(at, min(slots.stop, at + points))
            data = await self._ask("query_range", self._range(promql, piece))
            told = await asyncio.to_thread(_series_of, data, query, piece, self.options.step_s)
            self._widths[promql] = len(told)
            for name, values in told.items():
                whole = out.setdefault(name, np.full(len(slots), np.nan))
                whole[piece.start - slots.start : piece.stop - slots.start] = values
            at = piece.stop
        return out

    def _range(self, promql: str, slots: range) -> dict[str, str]:
        step = self.options.step_s
        edges = {"start": f"{slots.start * step:.3f}", "end": f"{(slots.stop - 1) * step:.3f}"}
        back = {"lookback_delta": f"{self.options.lookback_s:g}"} if self.options.lookback_s else {}
        return {"query": promql, **edges, "step": f"{step:g}", **back}

    # ---------------------------------------------------------------------------------------- one answer

    async def _ask(self, what: str, form: Mapping[str, str]) -> Any:
        """The data of an answer, after as many tries as it takes."""
        for turn in range(1, self.options.tries + 1):
            try:
                return await self._once(what, form)
            except AwayError as error:
                if turn == self.options.tries:
                    raise
                pause = min(PAUSE_S[1], PAUSE_S[0] * 2 ** (turn - 1)) * self._random.uniform(0.5, 1.5)
                await asyncio.sleep(max(pause, min(getattr(error, "wait_s", 0.0), PAUSE_S[1])))
        raise AssertionError("tries is 1 or more")

    async def _once(self, what: str, form: Mapping[str, str]) -> Any:
        import httpx

        o, sent = self.options, time.monotonic()
        try:
            # httpx's own time-outs hold for each packet; a slow drip must end too.
            async with asyncio.timeout(o.timeout_s):
                answer = await self._client.post(f"{o.url.rstrip('/')}/api/v1/{what}", data=dict(form))
        except (httpx.TimeoutException, TimeoutError):
            raise AwayError(f"{o.shown} did not answer within {o.timeout_s:g} s.") from None
        except httpx.HTTPError as error:
            raise AwayError(f"{o.shown} can't be reached ({_reason(error)}).") from None
        self.clock.learn(answer.headers.get("date", ""), sent, time.monotonic())
        return await asyncio.to_thread(_data_of, answer.status_code, answer.headers, answer.content, self)


class ServerClock:
    """Another machine's clock, from the Date of its answers: right to well under a second after a few."""

    def __init__(self) -> None:
        self.low, self.high = -math.inf, math.inf  # the clock is that much ahead of time.monotonic
        self.learned = 0.0

    def learn(self, date: str, sent: float, received: float) -> None:
        """`date` as in HTTP, cut to seconds; sent and received by time.monotonic."""
        try:
            told = email.utils.parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError, IndexError):
            return
        drift = 1e-3 * (received - self.learned)
        self.learned = received
        low, high = told - received, told + 1 - sent
        if low > self.high + drift or high < self.low - drift:  # it was set
            self.low, self.high = low, high
        else:
            self.low, self.high = max(self.low - drift, low), min(self.high + drift, high)

    def now_s(self) -> float:
        if math.isinf(self.low):
            return time.time()
        return time.monotonic() + (self.low + self.high) / 2


def _open(options: PrometheusOptions, transport: Any) -> httpx.AsyncClient:
    try:
        import httpx
    except ImportError:
        raise ResourceError(
            'reading from Prometheus needs httpx; install it with pip install "foreshock[serve]".'
        ) from None
    headers = dict(options.headers)
    if token := options.token:
        headers["Authorization"] = f"Bearer {token.reveal()}"
    password = options.password
    auth = httpx.BasicAuth(options.user, password.reveal() if password else "") if options.user else None
    verify: ssl.SSLContext | bool = not options.insecure
    if options.ca_file and not options.insecure:
        try:
            verify = ssl.create_default_context(cafile=options.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"prometheus.ca_file is {options.ca_file}, which can't be used ({error})."
            ) from None
    limits = httpx.Limits(max_connections=2 * AT_ONCE)
    # Variables such as HTTP_PROXY stay out of it: what is configured is what is asked.
    return httpx.AsyncClient(
        headers=headers, auth=auth, verify=verify, timeout=options.timeout_s, limits=limits,
        transport=transport, trust_env=False, follow_redirects=False,
    )  # fmt: skip


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _data_of(status: int, headers: Mapping[str, str], content: bytes, client: PrometheusClient) -> Any:
    """The data of an answer of the API.

    Raises:
        AwayError: it may work next time.
        SourceError: it never will.
    """
    where = client.options.shown
    told: Any = None
    if len(content) <= MOST_ANSWER_BYTES:
        try:
            told = json.loads(content)
        except (ValueError, RecursionError):
            told = None
    if status == 200 and isinstance(told, dict) and told.get("status") == "success" and "data" in told:
        return told["data"]
    words = told.get("error", "") if isinstance(told, dict) else ""
    words = f": {' '.join(str(words).split())[:300]}" if words else ""
    if status in WORTH_AGAIN:
        error = AwayError(f"{where} answered {status}{words}.")
        wait = headers.get("retry-after", "")
        raise _waiting(error, float(wait)) if re.fullmatch(r"\d{1,5}", wait) else error
    if status in (401, 403):
        raise SourceError(
            f"{where} answered {status}{words}; check token_env, token_file, user and password_env."
        )
    if status == 404:
        raise SourceError(f"{where} answered 404; prometheus.url must be the address before /api/v1.")
    if 300 <= status < 400:
        raise SourceError(f"{where} answered {status}, a redirection; set prometheus.url to where it leads.")
    if status == 200:
        raise AwayError(
            f"{where} answered something that is no answer of Prometheus ({len(content):,} bytes)."
        )
    raise SourceError(f"{where} refused a query with {status}{words}.")


def _waiting(error: AwayError, wait_s: float) -> AwayError:
    error.wait_s = wait_s  # type: ignore[attr-defined]
    return error


Series = dict[tuple[str, str], np.ndarray]  # (service, KPI) → (n,) a value for each slot


def _series_of(data: Any, query: Query, slots: range, step_s: float) -> Series:
    """The series of an answer on their slots.

    Raises:
        AwayError: it has another form than a matrix of series.
    """
    out: Series = {}
    try:
        if data["resultType"] != "matrix":
            raise ValueError(f"a {data['resultType']}, not a matrix")
        for series in data["result"]:
            labels = series["metric"]
            service = str(labels.get(query.service, "")) if query.service else ""
            pairs = series.get("values", [])  # native histograms have none
            values = np.full(len(slots), np.nan)
            at = np.rint(np.array([pair[0] for pair in pairs], float) / step_s).astype(np.int64) - slots.start
            told = np.array([pair[1] for pair in pairs], dtype=str).astype(float)
            fits = (at >= 0) & (at < len(slots)) & np.isfinite(told)
            values[at[fits]] = told[fits]
            name = (service or NO_SERVICE, query.kpi)
            known = out.get(name)
            out[name] = values if known is None else np.where(np.isfinite(known), known, values)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise AwayError(f"Prometheus's answer to {query.kpi} makes no sense ({_reason(error)}).") from None
    return out


def _frame(
    found: Mapping[tuple[str, str], np.ndarray],
    units: Mapping[tuple[str, str], str],
    slots: range,
    step_s: float,
) -> Frame | None:
    """A row for each slot, services in order of their names."""
    if not found or not slots:
        return None
    kpis = tuple(kpi_of(*name, units[name]) for name in sorted(found))
    stamps = np.array([round(slot * step_s * 1000) * 1_000_000 for slot in slots], dtype=np.int64)
    values = np.stack([found[name] for name in sorted(found)], axis=1)
    return Frame(stamps, values, kpis, step_s, source="prometheus")


def kpi_of(service: str, kpi: str, unit: str = "") -> Kpi:
    """The column of a series, named as in a table."""
    return Kpi(kpi if service == NO_SERVICE else f"{service}__{kpi}", service, kpi, unit)
