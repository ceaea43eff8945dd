"""Asking a running service from the command line."""

from __future__ import annotations

from typing import Any

from foreshock.errors import ConfigError, InputError, NotFoundError, SourceError, StateError
from foreshock.secret import secret_of

TIMEOUT_S = 30.0
KNOWN: dict[int, type[InputError]] = {404: NotFoundError, 409: StateError}


def ask(url: str, path: str, body: dict[str, Any] | None = None, token_env: str = "") -> Any:
    """GET, or POST with a body and the token that a variable holds.

    Raises:
        SourceError: the service doesn't answer, or not as ours does.
        InputError: it refuses; in its own words.
        ConfigError: httpx or the token is missing.
    """
    try:
        import httpx
    except ImportError:
        raise ConfigError("asking a service needs httpx: pip install 'foreshock[serve]'") from None
    headers = {}
    if body is not None:
        token = secret_of(token_env, "", "the service's token")
        headers = {"authorization": f"Bearer {token.reveal()}"} if token else {}
    address = f"{url.rstrip('/')}/api/v1/{path}"
    try:
        answer = httpx.request("GET" if body is None else "POST", address, json=body, headers=headers,
                               timeout=TIMEOUT_S)  # fmt: skip
        told = answer.json()
    except httpx.HTTPError as error:
        raise SourceError(f"{url} does not answer ({error}); is `foreshock serve` running?") from error
    except ValueError as error:
        raise SourceError(f"{url} answered {answer.status_code}, no JSON; is it foreshock?") from error
    if answer.is_error:
        detail = told.get("detail", "no reason given") if isinstance(told, dict) else "no reason given"
        raise KNOWN.get(answer.status_code, InputError)(f"{url}: {detail}")
    return told
