"""A password or token that can be used, but not shown: neither in logs nor in messages nor in a traceback.

It comes from the environment or a file, never from a configuration file, which people share.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from foreshock.errors import ConfigError

LONGEST = 64 * 1024  # bytes; a longer file is no password
HIDDEN = "Secret(…)"


class Secret:
    """Holds a value; every way of writing it out gives `Secret(…)`. `reveal` gives it, where it is sent."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        return self.__value

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(HIDDEN, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self.__value

    def __hash__(self) -> int:
        return hash(self.__value)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret is not copied into files; read it again where it is needed.")


def secret_of(
    environment: str = "", file: str = "", what: str = "", variables: Mapping[str, str] | None = None
) -> Secret | None:
    """The secret in a variable or a file (its white space at both ends left out); None if neither is named.

    Args:
        what: the setting it belongs to, such as "alerts.webhook.secret"; for messages.
        variables: instead of the environment of the process.

    Raises:
        ConfigError: both are named, or what is named is not there, empty, or no text.
    """
    if environment and file:
        raise ConfigError(f"{what}_env and {what}_file are both set; keep one of them.")
    if environment:
        value = (os.environ if variables is None else variables).get(environment, "").strip()
        if not value:
            raise ConfigError(f"{what}_env names {environment}, which is not set; export it before starting.")
        return Secret(value)
    if not file:
        return None
    try:
        value = _read(Path(file)).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise ConfigError(f"{what}_file is {file}, which can't be read ({reason}).") from None
    if not value:
        raise ConfigError(f"{what}_file is {file}, which is empty; it must hold the secret alone.")
    return Secret(value)


def _read(path: Path) -> str:
    with path.open("rb") as source:
        content = source.read(LONGEST)
    return content.decode("utf-8")
