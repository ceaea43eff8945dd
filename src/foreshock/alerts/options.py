"""Where alerts go, how often an open one is told again, and how many may page a day."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from foreshock.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Access:
    """An HTTP address and the way in. Passwords and tokens stand in a variable or a file, never here."""

    url: str = ""  # empty: not used
    token_env: str = ""  # variable that holds a bearer token ...
    token_file: str = ""  # ... or file
    user: str = ""  # for basic authentication
    password_env: str = ""
    password_file: str = ""
    ca_file: str = ""  # certificates to trust instead of the usual ones
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        check_url(self.url)
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s is {self.timeout_s}; it must be above 0.")


@dataclass(frozen=True, slots=True)
class WebhookOptions(Access):
    """An address that takes JSON, each message signed with a shared secret."""

    secret_env: str = ""  # variable that holds the secret of the signature ...
    secret_file: str = ""  # ... or file; without either, messages go unsigned


@dataclass(frozen=True, slots=True)
class AlertOptions:
    """Who is told of incidents."""

    pages_per_day: float = 3.0  # at most so many alerts in any 24 hours; the rest goes into one summary
    resend_s: float = 60.0  # an open alert is told to Alertmanager again after so long
    limit: int = 100  # alerts kept for receivers that are away
    alertmanager: Access = field(default_factory=Access)  # base address, such as http://127.0.0.1:9093
    webhook: WebhookOptions = field(default_factory=WebhookOptions)

    def __post_init__(self) -> None:
        for name in ("pages_per_day", "resend_s", "limit"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"alerts.{name} is {getattr(self, name)}; it must be above 0.")


def check_url(url: str) -> None:
    """Refuse what is no HTTP address, or holds a password.

    Raises:
        ConfigError: with the part that can be shown.
    """
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ConfigError(f"the address {shown(url)!r} is not http://… or https://…")
    if parts.password:
        raise ConfigError(
            f"the address of {parts.hostname} holds a password, which would end up in logs; "
            "set user and password_env or password_file instead."
        )


def shown(url: str) -> str:
    """Scheme and host of an address: what may stand in logs (paths of webhooks are often secret)."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    if not parts.scheme:
        return url.split("@")[-1].split("/")[0]
    return f"{parts.scheme}://{parts.hostname or ''}{port}"
