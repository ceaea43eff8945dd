"""Who may ask what: host names, tokens, sizes, rates, and the headers that keep a browser careful.

A page of somebody else's can make a reader's browser call us. So reading needs a Host that is ours (a foreign
name that was pointed at this machine is refused: DNS rebinding), and writing needs a token in a header, JSON,
and an Origin that is ours. Cookies are never an authority.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from foreshock.secret import Secret

BODY_BYTES = 64 * 1024  # longest body of a request
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Refused(HTTPException):
    """A request that is turned away before it is looked at."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(status, detail, headers)


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as RFC 9457 wants it."""
    from http import HTTPStatus

    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


@dataclass
class Rate:
    """So many at once, then so many a second."""

    burst: float
    per_s: float
    _left: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._left, self._at = self.burst, time.monotonic()

    def take(self) -> float:
        """Takes one and gives 0, or gives the seconds until there is one."""
        now = time.monotonic()
        self._left = min(self.burst, self._left + (now - self._at) * self.per_s)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self.per_s
        self._left -= 1
        return 0.0


@dataclass
class Gate:
    """What a write has to bring."""

    token: Secret | None
    hosts: frozenset[str]  # names that are ours, in small letters
    writes: Rate = field(default_factory=lambda: Rate(60, 1.0))
    mistakes: Rate = field(default_factory=lambda: Rate(10, 0.2))  # wrong tokens: guessing is slow

    def knows(self, netloc: str) -> bool:
        """Whether a Host header names us. An address in figures can't be a rebound name."""
        name = host_of(netloc)
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def check_write(self, request: Request) -> None:
        """Raises Refused unless this request may change something."""
        origin = request.headers.get("origin")
        if origin is not None and not self._is_ours(origin, request.headers.get("host", "")):
            raise Refused(403, "this request comes from another site's page; open foreshock's own page.")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refused(403, "this request comes from another site's page; open foreshock's own page.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, f"the body is {kind or 'of no kind'}; send application/json.")
        if self.token is None:
            raise Refused(
                403,
                "this service has no token, so nothing can be changed; set serve.token_env or token_file.",
            )
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), self.token.reveal().encode())
        if scheme.lower() != "bearer" or not is_right:
            if wait := self.mistakes.take():
                raise Refused(429, "too many wrong tokens; wait a little.", **{"retry-after": _ceil(wait)})
            raise Refused(
                401, "a write needs `Authorization: Bearer <token>`.", **{"www-authenticate": "Bearer"}
            )
        if wait := self.writes.take():
            raise Refused(429, "too many writes; wait a little.", **{"retry-after": _ceil(wait)})

    def _is_ours(self, origin: str, host: str) -> bool:
        try:
            netloc = urlsplit(origin).netloc
        except ValueError:
            return False
        return bool(netloc) and (
            netloc.lower() == host.lower() or host_of(netloc) in self.hosts - set(LOOPBACK)
        )


def host_of(netloc: str) -> str:
    """The name in `name:port` or `[::1]:port`, in small letters."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _ceil(seconds: float) -> str:
    return str(int(seconds) + 1)


class Guard:
    """Wraps the app: refuses foreign hosts and long bodies, and adds the careful headers."""

    def __init__(self, app: App, gate: Gate) -> None:
        self.app, self.gate = app, gate

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = {name.lower() for name, _ in message.get("headers", [])}
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in told]
                if b"cache-control" not in told:
                    extra.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        refusal = self._refusal(headers)
        if refusal is not None:
            await refusal(scope, receive, careful)
            return
        await self.app(scope, self._short(receive), careful)

    def _refusal(self, headers: dict[bytes, bytes]) -> JSONResponse | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if not self.gate.knows(host):
            return problem(403, f"{host!r} is no name of this service; add it to serve.hosts if it is.")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return problem(400, "the content length is no number.")
        if int(length) > BODY_BYTES:
            return problem(413, f"the body has {int(length):,} bytes; it may have {BODY_BYTES:,}.")
        return None

    def _short(self, receive: Receive) -> Receive:
        """A body that doesn't tell its length is cut off all the same."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > BODY_BYTES:
                    raise Refused(413, f"the body may have {BODY_BYTES:,} bytes.")
            return message

        return counted
