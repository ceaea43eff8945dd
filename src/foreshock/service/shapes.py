"""What the API takes and gives, as its OpenAPI document describes it.

Single times are ISO 8601 in UTC, series of them milliseconds since 1970 UTC; null is "nobody observed it".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from foreshock.store import NAME_CHARS, TEXT_CHARS

Number = float | None
Name = Annotated[str, Field(max_length=NAME_CHARS)]


class Problem(BaseModel):
    """An error."""

    type: str
    title: str
    status: int
    detail: str


class Status(BaseModel):
    """How the service is."""

    state: Literal["waiting", "warming", "ok", "late"]
    version: str
    detector: str
    adapter: str | None
    step_s: Number
    newest: str | None  # stamp of the newest row
    score: Number  # of the newest row
    high: Number  # its threshold
    services: int
    kpis: int
    rows: int
    incidents_open: int
    can_write: bool  # a token is set
    fault_types: list[str]  # known ones, for the feedback form
    service_names: list[str]
    health: dict[str, Any]


class Span(BaseModel):
    """An incident's place on a time axis."""

    id: str
    start: str
    end: str | None
    severity: str


class HeatRow(BaseModel):
    """A service's row of the heat map."""

    service: str
    strength: list[Number]  # 0..1 for the colour: 0 usual, 1 as strange as anything in the range
    score: list[Number]  # highest score in the bucket


class Overview(BaseModel):
    """Services against time."""

    starts_ms: list[int]  # of each bucket
    bucket_s: float
    system: list[Number]  # highest system score in each bucket
    high: list[Number]  # threshold there
    rows: list[HeatRow]
    hidden: int  # services that are not shown: quieter than those that are
    incidents: list[Span]


class Verdict(BaseModel):
    """What somebody said."""

    number: int
    incident: str
    verdict: Literal["confirmed", "false_alarm"]
    fault_type: str
    service: str
    note: str
    author: str
    given: str


class NewVerdict(BaseModel):
    """What somebody says."""

    model_config = ConfigDict(extra="forbid")

    verdict: Literal["confirmed", "false_alarm"]
    fault_type: Name = ""
    service: Name = ""
    note: Annotated[str, Field(max_length=TEXT_CHARS)] = ""
    author: Name = ""


class Kind(BaseModel):
    """A likely fault type."""

    name: str
    probability: float


class Summary(BaseModel):
    """An incident in a list."""

    id: str
    state: Literal["open", "closed"]
    severity: str
    start: str
    end: str | None
    found: str
    closed: str | None
    confidence: Number
    peak_score: Number
    threshold: Number
    headline: str
    service: str | None  # the likely origin; null is "unknown"
    kinds: list[Kind]  # best first; empty is "unknown"
    kinds_from: str  # who taught them: "labels", "simulated systems", or "" where nobody did
    verdict: Verdict | None  # the one that counts


class ServiceRank(BaseModel):
    """How much speaks for a service as the origin."""

    name: str
    score: Number
    confidence: Number
    since: str | None
    why: str
    kpis: list[str]


class KpiRank(BaseModel):
    """What one KPI did."""

    name: str
    service: str
    metric: str
    unit: str
    text: str
    role: str
    direction: str
    strength: Number
    since: str | None
    order: int


class Series(BaseModel):
    """A KPI over time with what was expected of it."""

    name: str
    service: str
    metric: str
    unit: str
    values: list[Number]
    expected: list[Number]
    low: list[Number]
    high: list[Number]


class Timeline(BaseModel):
    """Series on one clock."""

    times_ms: list[int]
    step_s: float
    system: list[Number]
    high: list[Number]
    kpis: list[Series]


class IncidentPage(Summary):
    """All about one incident."""

    services: list[ServiceRank]
    kpis: list[KpiRank]
    changed: int  # KPIs beyond their own limit
    rows_before: int
    first_headline: str  # as it was told when found
    first: list[KpiRank]  # in the order in which they changed
    timeline: Timeline | None  # null: the rows are no longer kept
    verdicts: list[Verdict]


class Incidents(BaseModel):
    incidents: list[Summary]


class Replayed(BaseModel):
    """An incident that a backtest found."""

    start: str
    end: str | None
    peak_score: float
    confidence: float
    service: str | None
    headline: str
    known: str | None  # the incident told at that time
    verdict: Literal["confirmed", "false_alarm"] | None


class Budget(BaseModel):
    """What another budget would have given."""

    false_alarms_per_day: float
    high: Number
    incidents: int


class Backtest(BaseModel):
    """What would have been told in a range, at one threshold for all of it."""

    since: str | None
    until: str | None
    days: float
    false_alarms_per_day: float
    high: Number
    at_once: Number
    reason: str
    incidents: list[Replayed]  # newest first, the latest of them; `count` tells how many there are
    count: int
    incidents_per_day: float
    hours_in_incidents: float
    confirmed_found: int  # incidents that somebody confirmed, and this threshold tells
    confirmed_missed: list[str]
    false_alarms_again: list[str]  # judged false alarms that this threshold would tell again
    minutes_a_day: float  # reading them all, at `minutes_each`
    minutes_each: float
    budgets: list[Budget]
    starts_ms: list[int]
    system: list[Number]


class Labels(BaseModel):
    """Verdicts that count, as labels."""

    labels: list[dict[str, Any]]


class AdapterChange(BaseModel):
    state: str
    note: str
    changed: str


class AdapterInfo(BaseModel):
    """Something learned from verdicts."""

    id: str
    state: Literal["candidate", "shadow", "promoted", "replaced", "rolled_back"]
    made: str
    facts: dict[str, Any]
    changes: list[AdapterChange]


class Adapters(BaseModel):
    adapters: list[AdapterInfo]
    in_use: str | None


class Promotion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    note: Annotated[str, Field(max_length=TEXT_CHARS)] = ""
    force: bool = False  # also one that was not better


class Nothing(BaseModel):
    """An empty JSON object."""

    model_config = ConfigDict(extra="forbid")


class Reloaded(BaseModel):
    changed: dict[str, Any]
