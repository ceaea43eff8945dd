"""A real Prometheus for tests, on a free port of the loopback address, gone when the test is."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.processes import free_ports


def needed() -> None:
    """Skip the test where Prometheus is not installed."""
    if not (shutil.which("prometheus") and shutil.which("promtool")):
        pytest.skip("Prometheus is not installed")


@contextlib.contextmanager
def running(folder: Path, *flags: str, config: str = "{}\n") -> Iterator[str]:
    """Its address, once it is ready; data in `folder`/data. Skips where it is not installed."""
    needed()
    (folder / "prometheus.yml").write_text(config)
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
             f"--web.listen-address={url.removeprefix('http://')}", *flags],
            cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        for _ in range(150):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/-/ready", timeout=2)
                break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(10)
