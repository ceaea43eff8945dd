"""A Prometheus that misbehaves on demand: made-up series over real time, answers late, wrong or never."""

from __future__ import annotations

import email.utils
import json
import math
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

SERVICES = ("cart", "front", "pay")
KPIS = ("cpu", "latency", "memory")


def value(service: str, kpi: str, at: float) -> float:
    """Quiet noise around 1, by seconds since the server began: the same in every run."""
    seed = math.sin(at * 12.9898 + 78.233 * (SERVICES.index(service) * 7 + KPIS.index(kpi))) * 43758.5453
    return 1.0 + 0.1 * (seed - math.floor(seed) - 0.5)


@dataclass
class Fake:
    """`with Fake() as prometheus: prometheus.url …`"""

    mode: str = "ok"  # "ok", "500", "503", "malformed", "html", "slow", "cut", "refuse", "empty"
    clock_s: float = 0.0  # its clock is so much ahead
    faults: list[tuple[float, float]] = field(default_factory=list)  # when pay jumps, Unix seconds
    gone: dict[str, float] = field(default_factory=dict)  # service → vanished when
    born: dict[str, float] = field(default_factory=dict)  # service → appeared when
    holes: list[tuple[float, float]] = field(default_factory=list)  # no samples then, Unix seconds
    twice: bool = False  # samples come twice
    late_s: float = 0.0  # a sample of pay can be had so long after its time; until then the one before it
    behind_s: float = 0.0  # no sample can be had before so long after its time
    asked: list[dict[str, str]] = field(default_factory=list)
    auth: list[str] = field(default_factory=list)
    began_s: int = field(default_factory=lambda: int(time.time()))

    def __enter__(self) -> Fake:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def date_time_string(self, timestamp: float | None = None) -> str:
                return email.utils.formatdate(fake.now_s, usegmt=True)

            def do_POST(self) -> None:
                told = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                form = {name: values[0] for name, values in told.items()}
                fake.asked.append({"path": self.path, **form})
                fake.auth.append(self.headers.get("authorization", ""))
                status, body = fake.answer(self.path, form)
                if fake.mode == "slow":
                    time.sleep(3)
                if fake.mode == "cut" or fake.is_away:
                    self.close_connection = True
                    return
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass

        self._handler, self._port = Handler, 0
        self.come_back()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Nobody listens any more; connections that are open are hung up when they ask."""
        self.is_away = True
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        """Listen, on the port of before."""
        self.is_away = False
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        self.url = f"http://127.0.0.1:{self._port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def now_s(self) -> float:
        """Its own clock."""
        return time.time() + self.clock_s

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, bytes]:
        match self.mode:
            case "500":
                return 500, b'{"status":"error","errorType":"internal","error":"no disk"}'
            case "503":
                return 503, b'{"status":"error","errorType":"timeout","error":"query timed out"}'
            case "malformed":
                return 200, b'{"status":"success","data":{"resultType":"matrix","result":[{"metr'
            case "html":
                return 200, b"<html>please log in</html>"
            case "refuse":
                return 400, b'{"status":"error","errorType":"bad_data","error":"parse error"}'
        if path.endswith("/query"):
            result = {"resultType": "vector", "result": [{"metric": {}, "value": [self.now_s, "1"]}]}
        else:
            result = {"resultType": "matrix", "result": [] if self.mode == "empty" else self.matrix(form)}
        return 200, json.dumps({"status": "success", "data": result}).encode()

    def matrix(self, form: dict[str, str]) -> list[dict[str, object]]:
        kpi = re.search("|".join(KPIS), form["query"])
        if kpi is None:
            return []
        start, end, step = (float(form[name]) for name in ("start", "end", "step"))
        stamps = [round(start + i * step, 3) for i in range(math.floor((end - start) / step + 1e-6) + 1)]
        now = self.now_s
        stamps = [at for at in stamps if not any(start <= at < end for start, end in self.holes)]
        out = []
        for service in SERVICES:
            low, high = (
                self.born.get(service, 0.0),
                min(now - self.behind_s, self.gone.get(service, math.inf)),
            )
            newest = now - self.late_s if service == "pay" else math.inf
            pairs = [
                [at, str(self.told(service, kpi[0], min(at, newest)))] for at in stamps if low <= at <= high
            ]
            if pairs:
                out.append({"metric": {"service": service}, "values": pairs * (2 if self.twice else 1)})
        return out

    def told(self, service: str, kpi: str, at: float) -> float:
        is_off = service == "pay" and any(start <= at < end for start, end in self.faults)
        return value(service, kpi, at - self.began_s) * (6 if is_off else 1)
