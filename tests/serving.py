"""`foreshock serve` as a process of its own, against a Prometheus that tests can break."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

CONFIG = """
prometheus:
  url: {url}
  step_s: 0.25
  delay_s: 0.1
  timeout_s: 1
  tries: 2
  queries:
    - {{query: cpu, kpi: cpu, service: service, unit: cores}}
    - {{query: latency, kpi: latency, service: service, unit: s}}
    - {{query: memory, kpi: memory, service: service, unit: B}}
serve: {{port: 0, data: {data}, backfill_s: 240, keep_s: 480{serve}}}
detector: {{name: {detector}}}
rules: {{confirm_s: 1.5, merge_s: 1.5, lead_s: 5, grace_s: 5, cool_down_s: 10}}
threshold: {{false_alarms_per_day: 0.01}}
alerts: {{pages_per_day: 50, resend_s: 1{alerts}}}
"""


class Serving:
    """The process, its log and its API."""

    def __init__(
        self,
        folder: Path,
        url: str,
        alerts: str = "",
        serve: str = ", backlog_s: 60",
        detector: str = "robust_z",
        more: str = "",
    ) -> None:
        self.folder, self.config = folder, folder / "serve.yaml"
        data = folder / "data"
        text = CONFIG.format(url=url, data=data, alerts=alerts, serve=serve, detector=detector)
        self.config.write_text(text + more)
        self.log = folder / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def spawn(self) -> int:
        """Start the process without waiting for it; the size of its log before."""
        at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            words = [sys.executable, "-m", "foreshock", "serve", str(self.config)]
            self.process = subprocess.Popen(words, stderr=log, stdout=log, env=dict(os.environ))
        return at

    def start(self, phase: str = "watching") -> Serving:
        at = self.spawn()
        listening = self.wait_for(lambda: self.notes("listening", at), 90)
        self.address = f"http://127.0.0.1:{listening[-1]['port']}"
        if phase:
            self.wait_for(lambda: self.notes("back_filled", at), 60)
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def reload(self) -> None:
        """Tell it to read its configuration anew."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(15)

    def notes(self, kind: str = "", from_byte: int = 0) -> list[dict[str, Any]]:
        text = self.log.read_bytes()[from_byte:].decode() if self.log.exists() else ""
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if kind in ("", line["kind"])]

    def wait_for(self, found: Any, seconds: float = 20) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if told := found():
                return told
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(
                    f"it ended with {self.process.returncode}: {self.log.read_text()[-2000:]}"
                )
            time.sleep(0.05)
        raise AssertionError(f"nothing within {seconds} s: {self.log.read_text()[-2000:]}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.address}{path}", timeout=20) as answer:
            text = answer.read().decode()
        return json.loads(text) if answer.headers["content-type"].startswith("application/json") else text

    def incidents(self) -> list[dict[str, Any]]:
        found = self.get("/api/v1/incidents?limit=200")
        return list(found["incidents"])

    def new_incidents(self, known: Any) -> list[dict[str, Any]]:
        """Those whose names are not among some."""
        return [i for i in self.incidents() if i["id"] not in known]

    def metric(self, name: str) -> float:
        line = next(line for line in self.get("/metrics").splitlines() if line.startswith(name + " "))
        return float(line.rpartition(" ")[2])
