"""A command of foreshock's as a process of its own, and what the system says it took."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence


def run(
    words: Sequence[str], out: str = os.devnull, environment: Mapping[str, str] = os.environ
) -> dict[str, float]:
    """Seconds and peak bytes of `foreshock WORDS`, start-up included; what it prints goes to the file `out`.

    The system counts a child's peak from its parent's: let this process stay the smaller one.
    """
    to = (os.POSIX_SPAWN_OPEN, 1, out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    command = [sys.executable, "-m", "foreshock", *words]
    began = time.perf_counter()
    child = os.posix_spawn(sys.executable, command, environment, file_actions=[to])
    _, status, used = os.wait4(child, 0)
    wall = time.perf_counter() - began
    if status:
        raise SystemExit(f"foreshock {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}
