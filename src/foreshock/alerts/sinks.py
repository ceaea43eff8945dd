"""Receivers of alerts: Alertmanager's API v2, and a webhook that takes signed JSON.

Adding one: a class with `name`, `repeats`, `access` and `send`, and a line in `SINKS`.

Not here: when to send and when to try again (outbox).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from foreshock.alerts.alert import Alert, iso
from foreshock.alerts.options import Access, AlertOptions, WebhookOptions, shown
from foreshock.errors import ConfigError, ResourceError
from foreshock.secret import Secret, secret_of

if TYPE_CHECKING:
    import httpx

RESENDS_KEPT = 4  # an alert that is not told again for so many `resend_s` is over: we are gone
SIGNATURE = "X-Foreshock-Signature"  # t=<Unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">
MESSAGE_ID = "X-Foreshock-Message"  # the same for the same message sent twice


class SinkAway(Exception):
    """Nobody answered, or with 408, 429 or 5xx: worth another try, of anything."""


class SinkRefused(Exception):
    """The receiver took offence at this one message."""


class Sink(Protocol):
    """Tells one receiver. `alerts` are the forms of one alert, quieter severities first."""

    @property
    def name(self) -> str: ...
    @property
    def repeats(self) -> bool: ...  # whether an open alert must be told again and again
    @property
    def access(self) -> Access: ...

    async def send(self, alerts: Sequence[Alert], client: httpx.AsyncClient) -> None: ...


@dataclass(frozen=True)
class Alertmanager:
    """POST /api/v2/alerts. What has an end is resolved; what has none ends by itself if we vanish."""

    access: Access
    resend_s: float
    name: str = "alertmanager"
    repeats: bool = True

    async def send(self, alerts: Sequence[Alert], client: httpx.AsyncClient) -> None:
        until = time.time() + RESENDS_KEPT * self.resend_s
        told = [_to_alertmanager(alert, until) for alert in alerts]
        url = self.access.url.rstrip("/") + "/api/v2/alerts"
        await post(client, url, json.dumps(told).encode())


def _to_alertmanager(alert: Alert, until: float) -> dict[str, Any]:
    # An end before the start is refused, so an alert of a single row lasts a millisecond.
    ends = until if alert.ends_at is None else max(alert.ends_at, alert.starts_at + 0.001)
    return {
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "startsAt": iso(alert.starts_at),
        "endsAt": iso(ends),
        "generatorURL": alert.link,
    }


@dataclass(frozen=True)
class Webhook:
    """POST of one JSON message for each opening, each rise of severity and each end."""

    access: WebhookOptions
    name: str = "webhook"
    repeats: bool = False

    async def send(self, alerts: Sequence[Alert], client: httpx.AsyncClient) -> None:
        alert = alerts[-1]
        body = json.dumps(message(alert), allow_nan=False).encode()
        headers = {MESSAGE_ID: message_id(alert)}
        secret = secret_of(self.access.secret_env, self.access.secret_file, "alerts.webhook.secret")
        if secret is not None:
            headers[SIGNATURE] = sign(body, secret, round(time.time()))
        await post(client, self.access.url, body, headers)


def message_id(alert: Alert) -> str:
    """Another one for each thing that is told: an alert fires anew with a sequel, a summary with more."""
    about = alert.incident
    newest = len(about["incidents"]) if "incidents" in about else about["id"]
    return f"{alert.labels['incident']}/{newest}/{alert.status}/{alert.labels['severity']}"


def message(alert: Alert) -> dict[str, Any]:
    """What a webhook is told; `incident` is the form that the API gives."""
    return {
        "version": 1,
        "status": alert.status,
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "starts_at": iso(alert.starts_at),
        "ends_at": None if alert.ends_at is None else iso(alert.ends_at),
        "link": alert.link,
        "incident": dict(alert.incident),
    }


def sign(body: bytes, secret: Secret, at: int) -> str:
    """The signature's header: HMAC-SHA256 over time and body, so that neither can be changed or replayed.

    Example:
        >>> sign(b"{}", Secret("key"), 0)[:24]
        't=0,v1=7314351dd949aa7ec'
    """
    digest = hmac.new(secret.reveal().encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


SINKS: dict[str, Callable[[AlertOptions], Sink]] = {
    "alertmanager": lambda options: Alertmanager(options.alertmanager, options.resend_s),
    "webhook": lambda options: Webhook(options.webhook),
}


def sinks_of(options: AlertOptions) -> tuple[Sink, ...]:
    """The receivers that have an address."""
    sinks = [make(options) for make in SINKS.values()]
    return tuple(sink for sink in sinks if sink.access.url)


# --------------------------------------------------------------------------------------------------- HTTP


def open_client(access: Access, what: str) -> httpx.AsyncClient:
    """A client with the way in of `access`; secrets are read now.

    Raises:
        ConfigError: a secret or certificate file that is named is not there.
        ResourceError: the package for it is missing.
    """
    try:
        import httpx
    except ImportError:
        raise ResourceError('sending alerts needs httpx: pip install "foreshock[serve]"') from None

    # It writes each address at level INFO, and the path of a webhook is often its secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    token = secret_of(access.token_env, access.token_file, f"{what}.token")
    password = secret_of(access.password_env, access.password_file, f"{what}.password")
    headers = {"User-Agent": "foreshock", "Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token.reveal()}"
    return httpx.AsyncClient(
        headers=headers,
        auth=(access.user, password.reveal() if password else "") if access.user else None,
        verify=_trust(access.ca_file, what) if access.url.startswith("https") else False,
        timeout=access.timeout_s,
        trust_env=False,  # what is configured is what is asked, whatever HTTP_PROXY says
        follow_redirects=False,  # a redirect would carry the token elsewhere
    )


def _trust(ca_file: str, what: str) -> Any:
    import ssl

    if not ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{what}.ca_file is {ca_file}, which holds no certificates ({error}).") from None


async def post(
    client: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str] | None = None
) -> None:
    """Send, and tell by the error whether it is worth trying again.

    Raises:
        SinkAway, SinkRefused: with the host, the status and no secret.
    """
    import httpx

    where = shown(url)
    limit_s = client.timeout.read
    try:
        async with asyncio.timeout(limit_s):  # httpx's own limit holds for each packet; a drip must end too
            answer = await client.post(url, content=body, headers=headers)
    except (httpx.TimeoutException, TimeoutError):
        raise SinkAway(f"{where} did not answer within {limit_s:g} s") from None
    except (httpx.HTTPError, OSError, ValueError) as error:  # ValueError: an answer that is no HTTP
        raise SinkAway(f"{where}: {type(error).__name__}") from None
    if answer.is_success:
        return
    if answer.status_code in (408, 429) or answer.status_code >= 500:
        raise SinkAway(f"{where} answered {answer.status_code}")
    raise SinkRefused(f"{where} answered {answer.status_code}")
