"""How long one step of `foreshock serve` takes, and how much memory it holds, for large systems.

    python benchmarks/serve_cycle.py                                          # 41 services × 88 KPIs at 15 s
    python benchmarks/serve_cycle.py --services 2000 --kpis 10 --step 60

The service's own loop, on a clock that is set forward: a server in a process of its own answers every
query as Prometheus does (a query a KPI, a series a service: noisy waves and counts, every 97 rows one
service goes wrong for 20), rows are read, scored, kept and told as in use. A cycle ends when its incidents
are stored; what is prepared for the next row is counted apart, since in use it happens while the next row
is waited for. A line of benchmarks/results/serve_cycle.jsonl each; the table stands in RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import records
import torch

from foreshock.alerts.outbox import make_outbox
from foreshock.config import resolve
from foreshock.memory import resident_bytes
from foreshock.runlog import git_commit, processor
from foreshock.service.live import Live
from foreshock.service.loop import Loop
from foreshock.service.process import STORE, load
from foreshock.service.settings import ServeOptions, ServeSettings
from foreshock.sources.prometheus import PrometheusClient, PrometheusOptions, Query
from foreshock.store import Store
from foreshock.stream import Monitor

FAULT_EVERY, FAULT_ROWS = 97, 20


def row(slot: int, services: int, kpis: int) -> np.ndarray:
    """(services, kpis): the same whenever it is asked for."""
    kind = np.random.default_rng(1)
    period, size = kind.uniform(20, 400, (services, kpis)), kind.gamma(2, 20, (services, kpis))
    noise = np.random.default_rng(slot)
    level = size * (1 + 0.2 * np.sin(slot / period))
    out = level + 0.1 * size * noise.standard_normal((services, kpis), np.float32)
    counts = noise.poisson(np.broadcast_to(level[:, : kpis // 4], (services, kpis // 4)))
    out[:, : kpis // 4] = counts
    if slot % FAULT_EVERY < FAULT_ROWS:
        out[slot // FAULT_EVERY % services] *= 2
    return np.asarray(out)


def answer(form: dict[str, str], services: int, kpis: int, known: dict[int, np.ndarray]) -> bytes:
    """What Prometheus says to one query over a range."""
    result: list[dict[str, Any]] = []
    if "step" in form:
        step = float(form["step"])
        slots = range(round(float(form["start"]) / step), round(float(form["end"]) / step) + 1)
        for slot in slots:
            if slot not in known:
                known[slot] = row(slot, services, kpis)
        column = int(form["query"].removeprefix("k"))
        for service in range(services):
            told = [[slot * step, f"{known[slot][service, column]:.6g}"] for slot in slots]
            result.append({"metric": {"service": f"s{service}"}, "values": told})
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


def answering(services: int, kpis: int, port: Any) -> None:
    """The server's process."""
    known: dict[int, np.ndarray] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm, wbufsize = True, 1 << 16  # one packet an answer, at once, as Prometheus

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            told = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            body = answer({name: values[0] for name, values in told.items()}, services, kpis, known)
            while len(known) > 2000:
                del known[min(known)]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_address[1])
    server.serve_forever()


class Clocked(PrometheusClient):
    """A client whose clock is set by hand."""

    at_s = 1.8e9

    def now_s(self) -> float:
        return self.at_s


async def run(told: argparse.Namespace, port: int, folder: Path) -> dict[str, Any]:
    queries = tuple(Query(f"k{k}", f"k{k}", "service") for k in range(told.kpis))
    settings = ServeSettings(
        PrometheusOptions(f"http://127.0.0.1:{port}", told.step, queries),
        ServeOptions(data=str(folder), backfill_s=told.backfill * told.step, keep_s=told.keep * told.step),
        score=resolve(None, None, {}).settings,
    )
    with Store(folder / STORE) as store:
        live = Live(
            Monitor(load(settings, store), told.step, settings.score, settings.keep_rows), store, settings
        )
        torch.set_num_threads(told.threads)
        loop = Loop(
            live, Clocked(settings.prometheus), make_outbox(settings.alerts, store, settings.external_url),
            lambda new: load(new, store), lambda new: Clocked(new.prometheus),
        )  # fmt: skip
        client, began, load_before = loop.client, time.perf_counter(), os.getloadavg()[0]
        await loop._start()
        backfill_s = time.perf_counter() - began
        print(f"{told.backfill} rows read back in {backfill_s:.1f} s", flush=True)
        cycles, ahead, memory = [], [], []
        used = time.process_time()
        for i in range(told.rows):
            began = time.perf_counter()
            await loop._prepare(told.step)
            ahead.append(time.perf_counter() - began)
            client.at_s += told.step
            began = time.perf_counter()
            await loop._cycle()
            cycles.append(time.perf_counter() - began)
            if i % max(1, told.rows // 12) == 0 or i == told.rows - 1:
                memory.append(resident_bytes())
                print(f"row {i}: {cycles[-1]:.2f} s, {memory[-1] / 2**20:.0f} MiB", flush=True)
        used = time.process_time() - used
        await loop.client.close()
        return {
            "kind": "serve_cycle",
            "services": told.services,
            "kpis": told.kpis,
            "step_s": told.step,
            "rows": told.rows,
            "backfill_rows": told.backfill,
            "backfill_s": round(backfill_s, 1),
            "keep_rows": live.settings.keep_rows,
            "cycle_s": quantiles(cycles),
            "ahead_s": quantiles(ahead),
            "cpu_s_a_row": round(used / told.rows, 3),
            "memory_bytes": memory,
            "incidents": len(store.incidents(limit=100_000)),
            "threads": told.threads,
            "load_before": round(load_before, 1),
            "machine": processor(),
            "commit": git_commit(),
            "date": datetime.now(UTC).date().isoformat(),
        }


def quantiles(seconds: list[float]) -> dict[str, float]:
    told = np.quantile(seconds, (0.5, 0.9, 0.99, 1))
    return {n: round(float(q), 3) for n, q in zip(("p50", "p90", "p99", "most"), told, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=41)
    parser.add_argument("--kpis", type=int, default=88, help="a service")
    parser.add_argument("--step", type=float, default=15.0, metavar="SECONDS")
    parser.add_argument("--rows", type=int, default=480, help="that are timed")
    parser.add_argument("--backfill", type=int, default=480, help="rows read before")
    parser.add_argument("--keep", type=int, default=720, help="rows that the page can look back on")
    parser.add_argument("--threads", type=int, default=2)
    told = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=answering, args=(told.services, told.kpis, theirs), daemon=True
    )
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            record = asyncio.run(run(told, ours.recv(), Path(folder)))
    finally:
        server.terminate()
    records.put("serve_cycle.jsonl", record, same=("services", "kpis", "step_s", "rows"))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
