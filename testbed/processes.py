"""Processes the test bed starts: each stopped by its own number, none outliving the one that began it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

PORTS = range(21_000, 29_000)  # below those the kernel hands out to clients
STOP_S = 10.0  # after so long a process that was asked to stop is killed
PR_SET_PDEATHSIG = 1
ROOT = Path(__file__).resolve().parent.parent


class StartFailed(Exception):
    """A process ended, or did not answer in time."""


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback address that nobody listens on now."""
    found: list[int] = []
    start = os.getpid() * 37 % len(PORTS)  # two test beds at once should not try the same ones
    for port in (*PORTS[start:], *PORTS[:start]):
        with socket.socket() as door, contextlib.suppress(OSError):
            door.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise StartFailed(f"needs {count} free ports in {PORTS.start}..{PORTS.stop}, found {len(found)}")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Child:
    """One process with its log."""

    name: str
    command: Sequence[str]
    log: Path
    health: str  # URL that answers 200 when it is ready
    environment: Mapping[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C goes to the test bed, which then stops them in order
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    async def ready(self, http: aiohttp.ClientSession, within_s: float = 60.0) -> None:
        """Wait until it answers.

        Raises:
            StartFailed: it ended, or took longer; with the end of its log.
        """
        until = asyncio.get_running_loop().time() + within_s
        while asyncio.get_running_loop().time() < until:
            if self.process is None or self.process.returncode is not None:
                raise StartFailed(f"{self.name} ended at once:\n{self.last_lines()}")
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(self.health, timeout=aiohttp.ClientTimeout(total=2)) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.2)
        raise StartFailed(f"{self.name} did not answer within {within_s:g} s:\n{self.last_lines()}")

    async def stop(self) -> None:
        if self.process is None or self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()

    def last_lines(self, lines: int = 12) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
