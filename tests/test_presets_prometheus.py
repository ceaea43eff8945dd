"""The queries that ship, asked of a real Prometheus that holds what the exporters write."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

import foreshock

pytest.importorskip("aiohttp", reason="aiohttp is not installed")

from foreshock.changes import kind
from foreshock.frame import Kpi
from real_prometheus import running

PRESETS = ("prometheus", "prometheus-trainticket")
FOLDER = Path(foreshock.__file__).parent / "presets"
STEP, ROWS = 15, 60
RATE = "60s"
POD = "ts-order-service-6d4f8b7c9d-x2x7k"
AWAY = {"container": "ts-order-service", "pod": POD, "namespace": "ts"}
NODE = {"instance": "10.0.0.7:9100", "job": "node"}
APP = {"job": "cart", "instance": "10.0.0.8:8080"}
CALL = {"destination_workload": "ts-order-service", "source_workload": "istio-ingressgateway"}
ONWARD = {"destination_workload": "ts-station-service", "source_workload": "ts-order-service"}
SECONDS = ("0.005", "0.05", "0.5", "+Inf")
MILLISECONDS = ("5", "50", "500", "+Inf")

# Counters: growth a second. What the queries make of them can be said beforehand.
COUNTERS = [
    ("container_cpu_usage_seconds_total", AWAY, 0.5),
    ("container_cpu_cfs_throttled_periods_total", AWAY, 1.0),
    ("container_cpu_cfs_periods_total", AWAY, 10.0),
    ("container_fs_reads_bytes_total", AWAY, 1_000.0),
    ("container_fs_writes_bytes_total", AWAY, 3_000.0),
    ("container_network_receive_bytes_total", {"pod": POD, "interface": "eth0"}, 5_000.0),
    ("container_network_transmit_bytes_total", {"pod": POD, "interface": "eth0"}, 6_000.0),
    ("kube_pod_container_status_restarts_total", AWAY, 0.0),
    ("node_cpu_seconds_total", {**NODE, "cpu": "0", "mode": "idle"}, 0.75),
    ("node_cpu_seconds_total", {**NODE, "cpu": "0", "mode": "user"}, 0.25),
    ("node_disk_io_time_seconds_total", {**NODE, "device": "sda"}, 0.1),
    ("node_network_receive_bytes_total", {**NODE, "device": "eth0"}, 9_000.0),
    ("node_network_receive_bytes_total", {**NODE, "device": "lo"}, 99_000.0),
    ("node_network_transmit_bytes_total", {**NODE, "device": "eth0"}, 8_000.0),
    ("node_network_receive_drop_total", {**NODE, "device": "eth0"}, 0.0),
    ("node_network_receive_errs_total", {**NODE, "device": "eth0"}, 0.0),
    ("process_cpu_seconds_total", APP, 0.2),
    ("http_requests_total", {**APP, "code": "200"}, 9.0),
    ("http_requests_total", {**APP, "code": "503"}, 1.0),
    ("grpc_server_handled_total", {**APP, "grpc_code": "OK"}, 4.0),
    ("istio_requests_total", {**CALL, "reporter": "destination", "response_code": "200"}, 19.0),
    ("istio_requests_total", {**CALL, "reporter": "destination", "response_code": "500"}, 1.0),
    ("istio_requests_total", {**ONWARD, "reporter": "source", "response_code": "200"}, 20.0),
    ("jvm_gc_pause_seconds_sum", {**AWAY, "action": "end of minor GC"}, 0.01),
]  # fmt: skip
HISTOGRAMS = [  # 10 a second: 5 in the first bucket, 4 in the second, 1 in the third
    ("http_request_duration_seconds", APP, SECONDS),
    ("http_server_request_duration_seconds", {**APP, "http_response_status_code": "200"}, SECONDS),
    ("http_server_requests_seconds", {**APP, "status": "200"}, SECONDS),
    ("grpc_server_handling_seconds", APP, SECONDS),
    ("grpc_client_handling_seconds", APP, SECONDS),
    ("istio_request_duration_milliseconds", {**CALL, "reporter": "destination"}, MILLISECONDS),
    ("istio_request_duration_milliseconds", {**CALL, "reporter": "source"}, MILLISECONDS),
    ("istio_request_duration_milliseconds", {**ONWARD, "reporter": "source"}, MILLISECONDS),
]  # fmt: skip
GAUGES = [
    ("container_memory_working_set_bytes", AWAY, 300 * 2**20),
    ("container_memory_working_set_bytes", {**AWAY, "container": ""}, 900 * 2**20),  # the pod's own sum
    ("kube_pod_container_status_ready", AWAY, 1),
    ("node_load1", NODE, 1.5),
    ("node_memory_MemAvailable_bytes", NODE, 6e9),
    ("node_memory_MemTotal_bytes", NODE, 8e9),
    ("node_filesystem_avail_bytes", {**NODE, "mountpoint": "/", "fstype": "ext4"}, 40e9),
    ("node_filesystem_size_bytes", {**NODE, "mountpoint": "/", "fstype": "ext4"}, 100e9),
    ("up", APP, 1),
    ("process_resident_memory_bytes", APP, 50e6),
    ("process_open_fds", APP, 12),
    ("jvm_memory_used_bytes", {**AWAY, "area": "heap"}, 200e6),
    ("jvm_threads_live_threads", AWAY, 40),
    ("hikaricp_connections_active", AWAY, 3),
    ("hikaricp_connections_pending", AWAY, 0),
]  # fmt: skip

EXPECTED = {  # (preset, service, KPI): value
    ("prometheus", "ts-order-service", "cpu_cores"): 0.5,
    ("prometheus", "ts-order-service", "cpu_throttled"): 0.1,
    ("prometheus", "ts-order-service", "memory_bytes"): 300 * 2**20,
    ("prometheus", "ts-order-service", "disk_bytes_per_s"): 4_000,
    ("prometheus", "ts-order-service", "net_rx_bytes_per_s"): 5_000,
    ("prometheus", "10.0.0.7:9100", "node_cpu"): 0.25,
    ("prometheus", "10.0.0.7:9100", "node_memory"): 0.25,
    ("prometheus", "10.0.0.7:9100", "node_disk_full"): 0.6,
    ("prometheus", "10.0.0.7:9100", "node_net_rx_bytes_per_s"): 9_000,
    ("prometheus", "cart", "http_requests_per_s"): 10,
    ("prometheus", "cart", "http_errors_per_s"): 1,
    ("prometheus", "cart", "http_latency_p90_s"): 0.05,
    ("prometheus", "cart", "otel_http_errors_per_s"): 0,
    ("prometheus", "cart", "grpc_errors_per_s"): 0,
    ("prometheus", "ts-order-service", "requests_per_s"): 20,
    ("prometheus", "ts-order-service", "errors_per_s"): 1,
    ("prometheus", "ts-order-service", "latency_p90_ms"): 50,
    ("prometheus", "ts-order-service", "client_latency_p90_ms"): 50,
    ("prometheus-trainticket", "ts-order-service", "cpu_pct"): 50,
    ("prometheus-trainticket", "ts-order-service", "mem_mi"): 300,
    ("prometheus-trainticket", "ts-order-service", "workload_ops"): 20,
    ("prometheus-trainticket", "ts-order-service", "success_pct"): 95,
    ("prometheus-trainticket", "ts-order-service", "server_lat_p90_s"): 0.05,
    ("prometheus-trainticket", "istio-ingressgateway", "lat_p99_s"): 0.455,
}


def queries(preset):
    return yaml.safe_load((FOLDER / f"{preset}.yaml").read_text())["prometheus"]["queries"]


def sample(name, labels, value, at):
    told = ",".join(f'{k}="{v}"' for k, v in labels.items())
    return f"{name}{{{told}}} {value:g} {at}"


def open_metrics(start):
    """The text of all series, one family after the other, as promtool wants it."""
    families: dict[tuple[str, str], list[str]] = {}
    rows = range(ROWS)

    def add(family, kind_, name, labels, value_of):
        lines = families.setdefault((family, kind_), [])
        lines.extend(sample(name, labels, value_of(row), start + row * STEP) for row in rows)

    for name, labels, speed in COUNTERS:
        family = name.removesuffix("_total")
        kind_ = "counter" if name.endswith("_total") else "unknown"
        add(family, kind_, name, labels, lambda row, speed=speed: 100 + row * STEP * speed)
    for name, labels, bounds in HISTOGRAMS:
        for bound, below in zip(bounds, (5, 9, 10, 10), strict=True):
            more = {**labels, "le": bound}
            add(f"{name}_bucket", "unknown", f"{name}_bucket", more, lambda row, n=below: row * STEP * n)
        add(f"{name}_count", "unknown", f"{name}_count", labels, lambda row: row * STEP * 10)
        add(f"{name}_sum", "unknown", f"{name}_sum", labels, lambda row: row * STEP * 0.3)
    for name, labels, value in GAUGES:
        add(name, "gauge", name, labels, lambda row, value=value: value)
    lines = []
    for (family, kind_), samples in families.items():
        lines += [f"# TYPE {family} {kind_}", *samples]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A real Prometheus on an hour-old quarter of an hour: (address, last stamp)."""
    if not shutil.which("promtool"):
        pytest.skip("Prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    start = (int(time.time()) - 3600) // STEP * STEP
    (folder / "all.om").write_text(open_metrics(start))
    made = subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", "all.om", "data"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with running(folder) as url:
        yield url, start + (ROWS - 1) * STEP


def ask(url, query, at):
    """{labels: value} of an instant query; an error of syntax is Prometheus' own message."""
    wish = urllib.parse.urlencode({"query": query.replace("$rate", RATE), "time": at})
    with urllib.request.urlopen(f"{url}/api/v1/query?{wish}", timeout=20) as answer:
        told = json.load(answer)
    assert told["status"] == "success", told
    return [(series["metric"], float(series["value"][1])) for series in told["data"]["result"]]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_query_gives_series_by_service(preset, prometheus):
    """One KPI, one series a service, a number in each: no query that can't be asked, none that is empty."""
    url, at = prometheus
    found = {}
    for query in queries(preset):
        series = ask(url, query["query"], at)
        assert series, f"{query['kpi']}: no series"
        for labels, value in series:
            assert set(labels) - {"__name__"} == {query["service"]}, query["kpi"]
            assert value == value, f"{query['kpi']} of {labels} is NaN"
            key = (preset, labels[query["service"]], query["kpi"])
            assert key not in found, f"{key} comes from two queries"
            found[key] = value
    for key, value in EXPECTED.items():
        if key[0] == preset:
            assert found[key] == pytest.approx(value, rel=0.01), key


@pytest.mark.parametrize("preset", PRESETS)
def test_every_query_has_a_name_and_a_meaning(preset):
    """Names of KPIs differ, and explanations know what most of them measure."""
    told = queries(preset)
    assert all(set(q) <= {"query", "service", "kpi", "unit", "counter"} for q in told)
    names = [q["kpi"] for q in told]
    assert len(names) == len(set(names))
    kinds = {
        name: kind(Kpi(f"s__{name}", "s", name, q.get("unit", "")))
        for name, q in zip(names, told, strict=True)
    }
    assert {n for n, k in kinds.items() if k == "other"} <= {"up", "ready"}
    assert {k for n, k in kinds.items() if n.startswith("node_")} <= {"shared", "errors"}
    assert kinds.get("client_latency_p90_ms", "waiting") == "waiting"
