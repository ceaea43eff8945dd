"""Whether a download may be tried at all: nobody forbids it, and somebody listens at the other end."""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from urllib.parse import urlsplit

_OFF = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "FORESHOCK_OFFLINE")


def is_offline() -> bool:
    """Whether the surroundings forbid downloads."""
    return any(os.environ.get(v, "").lower() in ("1", "true", "yes", "on") for v in _OFF)


def answers(endpoint: str, timeout_s: float = 2.0) -> bool:
    """Whether somebody listens there, or at the proxy before it; a client would try for half a minute."""
    address = urlsplit(_proxy(endpoint) or endpoint)
    if not address.hostname:
        return True  # not ours to judge; let the client say
    result: list[bool] = []

    def knock() -> None:
        try:
            port = address.port or (80 if address.scheme == "http" else 443)
            with socket.create_connection((address.hostname, port), timeout_s):
                result.append(True)
        except OSError:
            result.append(False)

    # In a thread, because looking up the name has no timeout of its own.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(result) and result[0]


def _proxy(endpoint: str) -> str | None:
    """The proxy that a client would ask for this address."""
    address = urlsplit(endpoint)
    if address.hostname and urllib.request.proxy_bypass(address.hostname):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(address.scheme) or proxies.get("all")
