"""Alerts: how loud, in which words, and that receivers hear of each incident once, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import random
from dataclasses import dataclass, field, replace
from unittest import mock

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from foreshock.alerts import AlertOptions, Outbox, WebhookOptions, make_outbox, severity  # noqa: E402
from foreshock.alerts.alert import alert_of, seconds  # noqa: E402
from foreshock.alerts.budget import Budget  # noqa: E402
from foreshock.alerts.options import Access  # noqa: E402
from foreshock.alerts.sinks import SIGNATURE, SinkAway, SinkRefused, message_id, sign, sinks_of  # noqa: E402
from foreshock.decide import Event  # noqa: E402
from foreshock.errors import ConfigError  # noqa: E402
from foreshock.findings import Cause, ServiceFinding  # noqa: E402
from foreshock.secret import Secret  # noqa: E402

BEGAN = seconds("2026-11-26T10:00:00Z")
SECRET = "s3cr3t-of-the-shop"


def incident(at=0.0, ended=None, *, sequel_of=None, severity="warning", service="cart", text="cart: CPU up"):
    """The JSON form of an incident that was found `at` seconds after ten and closed `ended`."""
    start = BEGAN + at
    found = f"{seconds_iso(start)}"
    return {
        "id": found.replace(":", "-"),
        "severity": severity,
        "found_ns": round(start * 1e9),
        "closed_ns": None if ended is None else round((BEGAN + ended) * 1e9),
        "kinds": [["cpu", 0.74]],
        "event": {
            "id": 0, "start_time": found, "detected_time": found, "end_time": None, "confidence": 0.8,
            "peak_score": 3.0, "threshold": 2.0, "sequel_of": sequel_of,
        },
        "cause": {
            "headline": text,
            "is_known": service is not None,
            "services": [] if service is None else [{"name": service, "score": 0.9, "confidence": 0.7}],
            "kpis": [{"service": "cart", "text": "CPU 1 % → 94 %"}],
        },
    }  # fmt: skip


def seconds_iso(at):
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


NOWHERE = Access("http://127.0.0.1:1")


class Memory(dict):
    """A store that forgets with the process."""

    def put(self, key, value):
        self[key] = value


@dataclass
class Recorder:
    """A sink that remembers what it was told, or fails as asked."""

    name: str = "recorder"
    repeats: bool = False
    access: Access = NOWHERE
    told: list = field(default_factory=list)  # (incident, status, severity)
    ids: list = field(default_factory=list)  # of these messages
    error: Exception | None = None

    async def send(self, alerts, client):
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.told += [(a.labels["incident"], a.status, a.labels["severity"]) for a in alerts[-1:]]
        self.ids += [message_id(a) for a in alerts[-1:]]
        self.last = alerts

    @property
    def statuses(self):
        return [status for _, status, _ in self.told]


def outbox(sink, store=None, **options):
    options = AlertOptions(**({"pages_per_day": 100.0} | options))
    return Outbox(
        options, [sink], Memory() if store is None else store, lambda name: f"http://f/{name}", lambda: 1.0
    )


def count(box, name):
    """One of the outbox's counts, over all sinks."""
    return sum(value for told, _, value in box.counts if told == name)


async def deliver(box, *times):
    for at in times:
        await box.deliver(BEGAN + at)


# ------------------------------------------------------------------------------------------------ severity


def event(confidence=0.8, peak=3.0):
    return Event(0, 0, 9, 0, None, 4, 0, peak, 2.0, confidence, 3, 0, 5, True)


def cause(*scores):
    found = [ServiceFinding(f"s{i}", score, 0.1, 0, 0, (), "") for i, score in enumerate(scores)]
    return Cause(tuple(found), (), "", 0.6, 50, len(scores))


@pytest.mark.parametrize(
    ("sure", "peak", "scores", "services", "wanted"),
    [
        (0.95, 4.0, (0.9,), 41, "critical"),  # sure and far
        (0.95, 2.2, (0.9, 0.8, 0.7), 41, "critical"),  # sure and wide
        (0.95, 2.2, (0.9, 0.8), 4, "critical"),  # half of a small system
        (0.95, 2.2, (0.9, 0.8), 41, "warning"),
        (0.95, 2.2, (0.9, 0.1, 0.1), 41, "warning"),  # two are hardly touched
        (0.80, 9.0, (0.9,) * 9, 41, "warning"),  # far and wide, but not sure
        (0.55, 2.2, (0.9,), 41, "info"),
        (0.55, 2.2, (), 41, "info"),
        (0.55, 2.6, (0.9,), 41, "warning"),
        (0.55, 2.2, (0.9, 0.9), 41, "warning"),
    ],
)  # fmt: skip
def test_severity_follows_its_table(sure, peak, scores, services, wanted):
    """How sure, how far above the threshold and how wide, as the docstring's table says."""
    assert severity(event(sure, peak), cause(*scores), services) == wanted


@given(st.floats(0.5, 1), st.floats(0, 20), st.integers(0, 9), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_severity_never_falls_when_things_get_worse(sure, rise, touched, services):
    """Surer, farther and wider are never quieter."""
    order = ("info", "warning", "critical")
    here = severity(event(sure, 2.0 + rise), cause(*[0.5] * touched), services)
    worse = severity(event(min(sure + 0.2, 1), 3.0 + rise), cause(*[0.5] * (touched + 1)), services)
    assert order.index(worse) >= order.index(here)


# ------------------------------------------------------------------------------------------------ the words


def test_an_alert_says_what_where_since_when():
    """Labels name it, annotations tell it, the link leads back."""
    alert = alert_of(incident(), "http://f/#/incident/x")
    assert alert.labels == {
        "alertname": "ForeshockIncident", "severity": "warning", "service": "cart",
        "incident": "2026-11-26T10-00-00Z",
    }  # fmt: skip
    assert alert.annotations["summary"] == "cart: CPU up"
    assert "CPU 1 % → 94 %" in alert.annotations["description"]
    assert alert.annotations["fault_type"] == "cpu (0.74)"
    assert (alert.starts_at, alert.status, alert.link) == (BEGAN, "firing", "http://f/#/incident/x")


def test_an_alert_without_a_culprit_says_unknown():
    """A doubtful first service is no label."""
    told = incident(service=None)
    told["kinds"] = []
    alert = alert_of(told, "")
    assert alert.labels["service"] == alert.annotations["fault_type"] == "unknown"


# ------------------------------------------------------------------------------------------------ the outbox


def run(work):
    return asyncio.run(work)


def test_an_incident_is_told_once_and_ends_once():
    """However often its changes come, and however often we look."""

    async def work():
        sink = Recorder()
        box = outbox(sink)
        for at in range(5):
            box.take(incident(), BEGAN + at)
            await deliver(box, at)
        for at in range(700, 705):
            box.take(incident(ended=650), BEGAN + at)
            await deliver(box, at)
        assert sink.statuses == ["firing", "resolved"]
        assert box.pending == 0

    run(work())


def test_an_open_alert_is_repeated_to_those_who_forget():
    """Every `resend_s` while it lasts, and not once more after its end."""

    async def work():
        sink = Recorder(repeats=True)
        box = outbox(sink, resend_s=60.0)
        box.take(incident(), BEGAN)
        await deliver(box, *range(0, 301, 10))
        box.take(incident(ended=300), BEGAN + 301)
        await deliver(box, *range(301, 900, 10))
        assert sink.statuses == ["firing"] * 6 + ["resolved"]

    run(work())


def test_labels_stay_while_findings_change():
    """A receiver knows an alert by its labels: the service first told, the newest words."""

    async def work():
        sink = Recorder(repeats=True)
        box = outbox(sink)
        box.take(incident(), BEGAN)
        await deliver(box, 0)
        box.take(incident(service="payment", text="payment: memory up"), BEGAN + 30)
        await deliver(box, 60)
        assert sink.last[0].labels["service"] == "cart"
        assert sink.last[0].annotations["summary"] == "payment: memory up"

    run(work())


def test_a_louder_severity_is_told_beside_the_quieter():
    """So that it reaches the pager; a fall is not told; all forms end together."""

    async def work():
        sink = Recorder()
        box = outbox(sink)
        for at, loud in enumerate(("warning", "critical", "warning")):
            box.take(incident(severity=loud), BEGAN + at)
            await deliver(box, at)
        box.take(incident(ended=60), BEGAN + 90)
        await deliver(box, 90)
        assert [t[1:] for t in sink.told] == [
            ("firing", "warning"), ("firing", "critical"), ("resolved", "critical")
        ]  # fmt: skip
        assert [(a.labels["severity"], a.status) for a in sink.last] == [
            ("warning", "resolved"), ("critical", "resolved")
        ]  # fmt: skip

    run(work())


def test_a_sequel_joins_the_alert_before_it():
    """Whether that has ended or not, and takes no page from the budget."""

    async def work():
        sink = Recorder()
        box = outbox(sink, pages_per_day=1.0)
        box.take(incident(), BEGAN)
        await deliver(box, 0)
        box.take(incident(ended=100), BEGAN + 200)
        await deliver(box, 200)
        box.take(incident(300, sequel_of=0), BEGAN + 310)
        await deliver(box, 310)
        box.take(incident(300, 400, sequel_of=0), BEGAN + 500)
        await deliver(box, 500)
        assert sink.statuses == ["firing", "resolved", "firing", "resolved"]
        assert len({name for name, _, _ in sink.told}) == 1
        assert len(set(sink.ids)) == 4

    run(work())


def test_a_sequel_that_comes_before_the_end_was_told_goes_on_quietly():
    """The receiver was away in between: it never hears of the pause."""

    async def work():
        sink = Recorder()
        box = outbox(sink)
        box.take(incident(), BEGAN)
        await deliver(box, 0)
        sink.error = SinkAway("away")
        box.take(incident(ended=100), BEGAN + 200)
        await deliver(box, 200)
        box.take(incident(300, sequel_of=0), BEGAN + 310)
        sink.error = None
        await deliver(box, 320)
        assert sink.statuses == ["firing"]
        box.take(incident(300, 400, sequel_of=0), BEGAN + 500)
        await deliver(box, 500)
        assert sink.statuses == ["firing", "resolved"]

    run(work())


def test_history_is_not_told():
    """What was over before we heard of it, at the first start, wakes nobody; what runs still does."""

    async def work():
        sink = Recorder()
        box = outbox(sink)
        box.take(incident(-7200), BEGAN)
        box.take(incident(-7200, -7000), BEGAN)
        box.take(incident(-3600), BEGAN)
        await deliver(box, 0)
        assert sink.told == [(incident(-3600)["id"], "firing", "warning")]
        assert box._budget.pages == [BEGAN]

    run(work())


def test_an_end_outlasts_a_receiver_that_is_away():
    """Fired before, ended while nobody answered: told when it is back, in order, once."""

    async def work():
        sink = Recorder()
        box = outbox(sink)
        box.take(incident(), BEGAN)
        await deliver(box, 0)
        sink.error = SinkAway("away")
        box.take(incident(ended=60), BEGAN + 60)
        box.take(incident(120), BEGAN + 120)
        box.take(incident(120, 180), BEGAN + 180)
        await deliver(box, *range(180, 1800, 5))
        assert box.problems == {"recorder": "away"}
        assert 5 < count(box, "alerts_failed_total") < 20, "ever more rarely"
        sink.error = None
        await deliver(box, *range(1800, 2200, 5))
        assert sink.statuses == ["firing", "resolved", "firing", "resolved"]
        assert box.problems == {}

    run(work())


def test_a_refused_message_does_not_stop_the_others():
    """A receiver that dislikes one alert hears of the next one."""

    class Picky(Recorder):
        async def send(self, alerts, client):
            if alerts[0].labels["service"] == "cart":
                raise SinkRefused("400")
            await super().send(alerts, client)

    async def work():
        sink = Picky()
        box = outbox(sink)
        box.take(incident(), BEGAN)
        box.take(incident(60, service="payment"), BEGAN + 60)
        await deliver(box, 60, 61, 62)
        assert len(sink.told) == 1
        assert "400" in box.problems["recorder"]
        assert box.pending == 1

    run(work())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_nothing_is_lost_or_doubled_however_often_we_die(seed):
    """Killed at any moment between two steps, receivers away at any time, incidents replayed on start:
    each incident is told and ended once, at each receiver."""
    chance = random.Random(seed)
    store = Memory()
    sinks = [Recorder("one"), Recorder("two", repeats=True)]

    def begin():
        options = AlertOptions(pages_per_day=100.0)
        return Outbox(options, sinks, store, lambda name: name, chance.random)

    async def work():
        box = begin()
        opened, closed = [], []
        for at in range(0, 3000, 30):
            if chance.random() < 0.15:
                box = begin()
                for start in opened:
                    box.take(incident(start), BEGAN + at)
                for start, end in closed:
                    box.take(incident(start), BEGAN + at)
                    box.take(incident(start, end), BEGAN + at)
            if chance.random() < 0.2:
                chance.choice(sinks).error = chance.choice([None, SinkAway("5xx"), SinkRefused("4xx")])
            if opened and chance.random() < 0.3:
                start = opened.pop()
                closed.append((start, at))
                box.take(incident(start, at), BEGAN + at)
            elif not opened and chance.random() < 0.3:
                opened.append(at)
                box.take(incident(at), BEGAN + at)
            await deliver(box, at)
        for sink in sinks:
            sink.error = None
        for start in opened:
            box.take(incident(start, 3000), BEGAN + 3000)
        await deliver(box, *range(3000, 5000, 50))
        names = {incident(start)["id"] for start in [*opened, *[c[0] for c in closed]]}
        for sink in sinks:
            for name in names:
                heard = [status for n, status, _ in sink.told if n == name]
                once = heard if not sink.repeats else list(dict.fromkeys(heard))
                assert once == ["firing", "resolved"], (sink.name, name, heard)
                assert heard.count("resolved") == 1
        assert {n for s in sinks for n, _, _ in s.told} == names
        assert box.pending == 0

    with mock.patch(
        "foreshock.alerts.outbox.open_client", return_value=mock.AsyncMock()
    ):  # nobody is called; a client costs 10 ms
        run(work())


def test_the_outbox_is_bounded():
    """A receiver that never answers costs no more than `limit` alerts; what is dropped is counted."""

    async def work():
        box = outbox(Recorder(error=SinkAway("away")), limit=10, pages_per_day=1000.0)
        for at in range(0, 3000, 60):
            box.take(incident(at), BEGAN + at)
            box.take(incident(at, at + 30), BEGAN + at + 30)
            await deliver(box, at + 31)
        assert box.pending == 10
        assert count(box, "alerts_dropped_total") == 40

    run(work())


# ------------------------------------------------------------------------------------------------ the budget


@given(st.lists(st.floats(0, 10 * 86_400), max_size=80), st.sampled_from([0.5, 1.0, 3.0, 3.7]))
@settings(max_examples=100, deadline=None)
def test_no_day_has_more_pages_than_allowed(times, most):
    """In any 24 hours, not only from midnight to midnight."""
    budget = Budget(most)
    paged = []
    for at in sorted(times):
        if budget.allows(at):
            budget.spend(at)
            paged.append(at)
    for at in paged:
        assert sum(at <= other < at + budget.window_s for other in paged) <= max(1, int(most))


def test_a_clock_set_back_prolongs_no_pause():
    """A receiver that was left alone for seconds is asked again, and an open alert is told again."""

    async def work():
        sink = Recorder(error=SinkAway("away"), repeats=True)
        box = outbox(sink, resend_s=60.0)
        box.take(incident(0), BEGAN)
        await deliver(box, 10_000)
        sink.error = None
        await deliver(box, 10_000.1)
        assert sink.statuses == []
        await deliver(box, 5_000)
        assert sink.statuses == ["firing"]
        await deliver(box, 5_001, 100)
        assert sink.statuses == ["firing", "firing"]

    run(work())


def test_a_clock_set_back_does_not_silence_for_ever():
    """Pages that lie in the future count from now on."""
    budget = Budget(1.0, [1e9])
    assert not budget.allows(0.0)
    assert budget.allows(86_401.0)


def test_what_is_over_budget_is_told_in_one_summary():
    """Two pages, then one summary that names the rest, until there is room again; nothing is dropped."""

    async def work():
        sink = Recorder()
        box = outbox(sink, pages_per_day=2.0)
        starts = range(0, 50_000, 5_000)
        for at in starts:
            loud = "critical" if at == 30_000 else "warning"
            box.take(incident(at, severity=loud), BEGAN + at)
            await deliver(box, at, at + 1)
            box.take(incident(at, at + 60, severity=loud), BEGAN + at + 60)
            await deliver(box, at + 60, at + 700)
        pages = [t for t in sink.told if not t[0].startswith("over-budget")]
        summary = [t for t in sink.told if t[0].startswith("over-budget")]
        assert [status for _, status, _ in pages] == ["firing", "resolved"] * 2
        assert len({name for name, _, _ in summary}) == 1
        assert summary[0][2] == "warning"
        assert summary[-1][2] == "critical"
        assert "resolved" not in [status for _, status, _ in summary]
        held = sink.last[0].incident["incidents"]
        assert held == [incident(at)["id"] for at in starts][2:]
        assert len(set(sink.ids)) == len(sink.ids)
        assert "8 more incidents" in sink.last[0].annotations["summary"]
        await deliver(box, 86_400 + 1, 86_400 + 2)
        assert sink.told[-1][1] == "resolved"
        assert {n: v for n, _, v in box.counts if n.startswith("pages")} == {
            "pages_total": 2, "pages_held_total": 8
        }  # fmt: skip
        assert box.pending == 0
        assert not box._entries

    run(work())


# ------------------------------------------------------------------------------------- over real connections


@contextlib.asynccontextmanager
async def server(*answers):
    """An HTTP server that answers each request with the next of `answers` (the last one from then on):
    a status, "slow", "malformed" or "cut". Gives (address, [(headers, body)])."""
    heard = []
    left = list(answers)

    async def talk(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                answer = left.pop(0) if len(left) > 1 else left[0]
                if answer == "slow":
                    await asyncio.sleep(30)
                elif answer == "malformed":
                    writer.write(b"\x00\xff no HTTP at all \r\n\r\n")
                elif answer != "cut":
                    heard.append((headers | {"path": head[0].split()[1]}, body))
                    writer.write(f"HTTP/1.1 {answer} x\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
                if not isinstance(answer, int):
                    break
        writer.close()

    door = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = door.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", heard
    finally:
        door.close()


@pytest.mark.parametrize("trouble", [500, 503, 429, 408, "slow", "malformed", "cut", 302, 401])
def test_a_receiver_in_trouble_hears_it_all_when_it_is_well(trouble):
    """Failing statuses, silence, nonsense and hung-up connections are tried again, after a pause."""

    async def work():
        async with server(trouble, trouble, 200) as (url, heard):
            options = AlertOptions(webhook=WebhookOptions(url=url, timeout_s=0.2))
            box = make_outbox(options, Memory(), "http://f")
            box.take(incident(), BEGAN)
            box.take(incident(ended=60), BEGAN + 60)
            await deliver(box, *range(60, 90, 3))
            assert [json.loads(body)["status"] for headers, body in heard][-2:] == ["firing", "resolved"]
            assert box.pending == 0
            await box.close()

    run(work())


def test_a_receiver_that_is_not_there_is_waited_for():
    """A refused connection is no error of ours; what is not told is pending."""

    async def work():
        box = make_outbox(
            AlertOptions(webhook=WebhookOptions(url="http://127.0.0.1:1")), Memory(), "http://f"
        )
        box.take(incident(), BEGAN)
        await deliver(box, 0)
        assert box.pending == 1
        assert "127.0.0.1:1" in box.problems["webhook"]
        await box.close()

    run(work())


def test_a_webhook_is_signed_and_numbered(tmp_path):
    """A receiver can check who wrote, when, and whether it has read it before."""
    path = tmp_path / "secret"
    path.write_text(SECRET)

    async def work():
        async with server(200) as (url, heard):
            options = AlertOptions(webhook=WebhookOptions(url=f"{url}/hook", secret_file=str(path)))
            box = make_outbox(options, Memory(), "http://f/")
            box.take(incident(), BEGAN)
            await deliver(box, 0)
            await box.close()
        headers, body = heard[0]
        stamp, _, signature = headers[SIGNATURE.lower()].partition(",")
        signed = f"{stamp.removeprefix('t=')}.".encode() + body
        wanted = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert signature == f"v1={wanted}"
        assert headers["x-foreshock-message"] == "2026-11-26T10-00-00Z/2026-11-26T10-00-00Z/firing/warning"
        told = json.loads(body)
        assert told["incident"] == incident()
        assert told["link"] == "http://f/#/incident/2026-11-26T10-00-00Z"

    run(work())


def test_secrets_stay_out_of_logs_and_state(caplog, monkeypatch):
    """Not the token, not the signature's secret, not the path of a webhook; not when all goes wrong."""
    monkeypatch.setenv("SHOP_TOKEN", SECRET)
    store = Memory()

    async def work():
        async with server(500, 401, 200) as (url, heard):
            webhook = WebhookOptions(
                url=f"{url}/hook/{SECRET}", token_env="SHOP_TOKEN", secret_env="SHOP_TOKEN"
            )
            options = AlertOptions(webhook=webhook)
            box = make_outbox(options, store, "http://f")
            seen = []
            box.take(incident(), BEGAN)
            for at in range(0, 20, 2):
                await deliver(box, at)
                seen.append(repr(box.problems))
            assert heard[-1][0]["authorization"] == f"Bearer {SECRET}"
            assert box.pending == 0
            await box.close()
            return seen

    with caplog.at_level(logging.DEBUG):
        seen = run(work())
    assert any("answered 500" in s for s in seen)
    assert any("answered 401" in s for s in seen)
    assert SECRET not in "".join([caplog.text, *seen, *store.values()])


def test_a_secret_that_appears_later_is_used(tmp_path):
    """A file that is not there yet holds alerts back, tells which setting, and is read when it is there."""
    path = tmp_path / "secret"

    async def work():
        async with server(200) as (url, heard):
            webhook = WebhookOptions(url=url, secret_file=str(path))
            box = make_outbox(AlertOptions(webhook=webhook), Memory(), "http://f")
            box.take(incident(), BEGAN)
            await deliver(box, 0)
            assert "alerts.webhook.secret_file" in box.problems["webhook"]
            path.write_text(SECRET)
            await deliver(box, 5)
            assert len(heard) == 1
            await box.close()

    run(work())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Access(url="ftp://x"), "not http"),
        (lambda: Access(url="shop.internal/hook"), "not http"),
        (lambda: Access(url=f"https://me:{SECRET}@shop.internal/"), "holds a password"),
        (lambda: AlertOptions(pages_per_day=0), "pages_per_day is 0"),
        (lambda: AlertOptions(resend_s=-1), "resend_s is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, told):
    """With the setting's name, and never a password in the message."""
    with pytest.raises(ConfigError, match=told) as error:
        make()
    assert SECRET not in str(error.value)


def test_only_receivers_with_an_address_are_used():
    """No address, no sink."""
    assert sinks_of(AlertOptions()) == ()
    named = sinks_of(AlertOptions(alertmanager=Access("http://127.0.0.1:9093")))
    assert [sink.name for sink in named] == ["alertmanager"]


def test_a_signature_depends_on_time_body_and_secret():
    """So that none of them can be exchanged."""
    base = (b"{}", Secret("a"), 1)
    others = [(b"{ }", Secret("a"), 1), (b"{}", Secret("b"), 1), (b"{}", Secret("a"), 2)]
    assert len({sign(*base), *[sign(*other) for other in others]}) == 4


def test_state_is_read_back_whole():
    """An outbox that is made again on the same store goes on where the other stopped."""

    async def work():
        store = Memory()
        sink = Recorder()
        box = outbox(sink, store)
        box.take(incident(), BEGAN)
        await deliver(box, 0)
        again = outbox(sink, store)
        assert again._state() == box._state()
        again.take(incident(ended=60), BEGAN + 60)
        await deliver(again, 60)
        third = outbox(sink, store)
        third.take(incident(), BEGAN + 61)
        third.take(incident(ended=60), BEGAN + 62)
        await deliver(third, 62)
        assert sink.statuses == ["firing", "resolved"]

    run(work())


def test_a_full_disk_does_not_silence_us():
    """Alerts go out all the same; that they may come again is told until the disk takes them."""

    class Full(Memory):
        is_full = True

        def put(self, key, value):
            if self.is_full:
                raise OSError("no space left")
            super().put(key, value)

    async def work():
        sink, store = Recorder(), Full()
        box = outbox(sink, store)
        box.take(incident(), BEGAN)
        await deliver(box, 0)
        assert sink.statuses == ["firing"]
        assert "may come again" in box.problems["store"]
        store.is_full = False
        box.take(incident(ended=60), BEGAN + 60)
        await deliver(box, 60)
        assert sink.statuses == ["firing", "resolved"]
        assert box.problems == {}

    run(work())


def test_two_sinks_do_not_wait_for_each_other():
    """One that is away does not keep the other from hearing."""

    async def work():
        away, well = Recorder("away", error=SinkAway("away")), Recorder("well")
        box = Outbox(AlertOptions(), [away, well], Memory(), lambda name: name)
        box.take(incident(), BEGAN)
        await deliver(box, 0)
        assert well.statuses == ["firing"]
        assert replace(box.options) == box.options

    run(work())
