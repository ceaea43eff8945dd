"""Recordings of Train Ticket and Online Boutique: the benchmark table, and Nezha's original folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from foreshock.errors import SourceError
from foreshock.sources import frames, read
from foreshock.sources.nezha import label_rows, read_faults, service_of_pod

DAYS = {"2022-08-22": "onlineboutique_2022-08-22.parquet", "2023-01-29": "trainticket_2023-01-29.parquet"}
FIELDS = ("anomaly", "fault_type", "root_cause", "ignore", "fault_id", "metric_visible")
T0 = 1_661_140_800  # 2022-08-22T04:00:00Z


@pytest.fixture
def recording(tmp_path):
    """recording(pods, faults): a small folder in Nezha's layout, 30 minutes from 04:00:00."""

    def make(
        pods: dict[str, range], faults: list[dict[str, str]] | None = None, day: str = "2022-08-22"
    ) -> Path:
        folder = tmp_path / "rca_data" / day
        (folder / "metric").mkdir(parents=True)
        for i, (pod, minutes) in enumerate(pods.items()):
            lines = ["Time,TimeStamp,PodName,CpuUsage(m),PodWorkload(Ops)"]
            for m in minutes:
                stamp = np.datetime64(T0 + 60 * m, "s").astype(str).replace("T", " ")
                lines.append(f"{stamp}.{i}07158889 +0000 UTC m=+{60 * m}.1,{T0 - 99999},{pod},{m + 100 * i},")
            (folder / "metric" / f"{pod}_metric.csv").write_text("\n".join(lines) + "\n")
        if faults is not None:
            (folder / f"{day}-fault_list.json").write_text(json.dumps({"04": faults}))
        return folder

    return make


def fault(
    time: str, stamp: int, kind: str = "cpu_contention", pod: str = "cart-5f6585d649-fnmft"
) -> dict[str, str]:
    return {"inject_time": time, "inject_timestamp": str(stamp), "inject_pod": pod, "inject_type": kind}


# ---- the real ones


@pytest.mark.data
@pytest.mark.parametrize("day", DAYS)
def test_folder_gives_the_prepared_table(data_dir, day):
    """From the original files, every value, stamp and label row of the table made of them, exactly."""
    ours = read(data_dir / "nezha" / "raw", day=day)
    table = read(data_dir / "nezha" / DAYS[day])
    assert ours.kpis == table.kpis
    assert ours.step_s == table.step_s == 60
    np.testing.assert_array_equal(ours.time_ns, table.time_ns)
    np.testing.assert_array_equal(ours.values, table.values)
    for field in FIELDS:
        np.testing.assert_array_equal(
            getattr(ours.labels, field), getattr(table.labels, field), err_msg=field
        )


@pytest.mark.data
@pytest.mark.parametrize("day", DAYS)
def test_fault_list(data_dir, day):
    """Start, end, type, service and visibility of every fault, clocks repaired."""
    nezha = data_dir / "nezha"
    ours = read_faults(nezha / "raw" / "rca_data" / day / f"{day}-fault_list.json")
    with (nezha / f"faults_{day}.csv").open() as f:
        known = list(csv.DictReader(f))
    assert len(ours) == len(known)
    for got, row in zip(ours, known, strict=True):
        assert got.start_ns == np.datetime64(row["start"].replace(" ", "T"), "ns").astype(int)
        assert got.end_ns == np.datetime64(row["end"].replace(" ", "T"), "ns").astype(int)
        assert (got.fault_type, got.service, got.pod) == (row["fault_type"], row["service"], row["pod"])
        assert got.metric_visible == (row["metric_visible"] == "1")


@pytest.mark.data
def test_benchmark_table(data_dir):
    """88 KPIs of 22 services, each with a unit; labels apart; the code faults known as invisible."""
    f = read(data_dir / "nezha" / "trainticket88_2023-01-29.csv.gz")
    assert f.values.shape == (919, 88)
    assert len(f.services) == 22
    assert all(k.unit for k in f.kpis)
    assert f.labels.anomaly.sum() == 112
    assert len(set(f.labels.fault_id[f.labels.anomaly & f.labels.metric_visible])) == 4
    assert set(f.labels.fault_type[~f.labels.metric_visible]) == {"exception", "return"}
    assert sum(len(p) for p in frames(data_dir / "nezha" / "trainticket88_2023-01-29.csv.gz", 100)) == 919


@pytest.mark.data
def test_calls_belong_to_the_answering_service(data_dir):
    """Latencies between two services add no service of their own."""
    f = read(data_dir / "nezha" / DAYS["2022-08-22"])
    assert len(f.services) == 11
    edge = next(k for k in f.kpis if k.name == "checkoutservice_paymentservice__src_p50")
    assert edge.service == "paymentservice"


# ---- the benchmark table's spellings


@pytest.mark.parametrize(
    "header",
    ["label,fault type", "Label,Fault Type", "anomaly,fault", "is_anomaly,fault_type", "label,fault_name"],
)
def test_spellings_of_the_label_columns(tmp_path, header):
    """88 KPIs stay 88, however the two label columns are called; healthy rows have no fault type."""
    names = [
        f"ts-{s}-service_{m}" for s in range(22) for m in ("cpu_pct", "mem_mi", "workload_ops", "latency_ms")
    ]
    rows = [
        ",".join([str(60 * i), *["1.5"] * 88, str(int(i > 80)), "cpu" if i > 80 else "normal"])
        for i in range(90)
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([",".join(["timestamp", *names, header]), *rows]))
    f = read(path)
    assert f.values.shape == (90, 88)
    assert len(f.services) == 22
    np.testing.assert_array_equal(f.labels.anomaly, np.arange(90) > 80)
    np.testing.assert_array_equal(f.labels.fault_type, np.where(np.arange(90) > 80, "cpu", ""))


def test_fault_type_alone_makes_the_label(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("timestamp,a,fault type\n0,1,\n60,1,cpu\n120,1,normal\n")
    np.testing.assert_array_equal(read(path).labels.anomaly, [False, True, False])


# ---- Nezha's layout, made up


def test_clock_repair():
    """The epoch counts while it is within 120 s of the written time, else the written time."""
    path_free = [
        (fault("2022-08-22 04:10:00", T0 + 600 + 120), T0 + 720),
        (fault("2022-08-22 04:10:00", T0 + 600 - 121), T0 + 600),
        (fault("2022-08-22 04:10:00", T0 + 600 - 8 * 3600), T0 + 600),
    ]
    for entry, start in path_free:
        got = faults_of([entry])[0]
        assert got.start_ns == start * 10**9
        assert got.end_ns == (start + 180) * 10**9
        assert got.service == "cart"


def faults_of(entries: list[dict[str, str]]):
    from foreshock.sources.nezha import _fault

    return tuple(_fault(e) for e in entries)


def test_rows_cover_the_minute_before_them():
    """A row is positive if its minute overlaps the fault; those of the 240 s after it are recovery."""
    stamps = (T0 + 60 * np.arange(30)) * 10**9
    labels = label_rows(stamps, faults_of([fault("2022-08-22 04:10:30", T0 + 630)]))
    assert np.flatnonzero(labels.anomaly).tolist() == [11, 12, 13, 14]
    assert np.flatnonzero(labels.ignore).tolist() == [15, 16, 17, 18]
    assert set(labels.root_cause[11:15]) == {"cart"}
    exact = label_rows(stamps, faults_of([fault("2022-08-22 04:10:00", T0 + 600)]))
    assert np.flatnonzero(exact.anomaly).tolist() == [11, 12, 13]


def test_code_faults_of_train_ticket_are_invisible():
    seen = [
        fault("2022-08-22 04:10:00", T0 + 600, kind, pod)
        for kind, pod in (
            ("return", "ts-seat-service-866bd68c97-xcqfx"),
            ("cpu_contention", "ts-seat-service-866bd68c97-xcqfx"),
            ("exception", "frontend-579b9bff58-t2dbm"),
        )
    ]
    assert [f.metric_visible for f in faults_of(seen)] == [False, True, True]


def test_pods_meet_on_the_minute_grid(recording):
    """A pod that starts late or skips minutes has NaN there; one service's pods show their mean."""
    folder = recording(
        {
            "frontend-579b9bff58-t2dbm": range(30),
            "cart-5f6585d649-fnmft": range(10, 30, 2),
            "pay-5f6585d649-aaaaa": range(20),
            "pay-5f6585d649-bbbbb": range(15, 30),
        },
        [fault("2022-08-22 04:10:30", T0 + 630)],
    )
    f = read(folder)
    assert f.services == ("cart", "frontend", "pay")
    got = dict(zip(f.names, f.values.T, strict=True))
    assert np.flatnonzero(~np.isnan(got["cart__cpu_m"])).tolist() == list(range(10, 30, 2))
    np.testing.assert_array_equal(got["frontend__cpu_m"], np.arange(30))
    minutes = np.arange(30)
    expected = np.where(minutes < 15, 200 + minutes, np.where(minutes < 20, 250 + minutes, 300 + minutes))
    np.testing.assert_array_equal(got["pay__cpu_m"], expected)
    assert np.isnan(got["cart__workload_ops"]).all()
    assert f.time_ns[0] == T0 * 10**9
    assert f.labels.anomaly.sum() == 4


def test_folder_without_a_fault_list_has_no_labels(recording):
    assert read(recording({"frontend-579b9bff58-t2dbm": range(5)})).labels is None


def test_several_days_need_a_choice(recording):
    folder = recording({"frontend-579b9bff58-t2dbm": range(5)}, day="2022-08-22")
    recording({"frontend-579b9bff58-t2dbm": range(7)}, day="2022-08-23")
    parent = folder.parent.parent
    with pytest.raises(SourceError, match=r"holds 2 days \(2022-08-22, 2022-08-23\); choose one"):
        read(parent)
    with pytest.raises(SourceError, match="has no day '2022-08-24'"):
        read(parent, day="2022-08-24")
    assert len(read(parent, day="2022-08-23")) == 7
    assert len(read(folder.parent, day="2022-08-22")) == 5


@pytest.mark.parametrize(
    "text", ["", "[]", "{}x", '{"04": [{"inject_time": "x"}]}', '{"04": 3}', "[1]", '{"a": ["b"]}']
)
def test_broken_fault_list(recording, text):
    folder = recording({"frontend-579b9bff58-t2dbm": range(5)}, [])
    next(folder.glob("*.json")).write_text(text)
    with pytest.raises(SourceError, match="no Nezha fault list"):
        read(folder)


@pytest.mark.parametrize(
    "text", ["", "Time,a\n", "x,y\n1,2\n", "Time,a\nnever,1\n", "Time,a\n2022-08-22 04:00:00,x\n"]
)
def test_broken_metric_file(recording, text):
    folder = recording({"frontend-579b9bff58-t2dbm": range(5)})
    (folder / "metric" / "cart-5f6585d649-fnmft_metric.csv").write_text(text)
    with pytest.raises(SourceError, match="cart-5f6585d649"):
        read(folder)


def test_service_of_pod():
    names = [
        "frontend-579b9bff58-t2dbm",
        "currencyservice-cf787dd48-vpjrd",
        "ts-food-service-f5756978c-k8vqf",
        "redis-0",
    ]
    assert [service_of_pod(n) for n in names] == ["frontend", "currencyservice", "ts-food-service", "redis-0"]


def test_a_metric_file_on_its_own(recording):
    """One file of the folder reads as a table; its written time counts, not its broken epoch."""
    folder = recording({"frontend-579b9bff58-t2dbm": range(5)})
    f = read(next((folder / "metric").glob("*.csv")))
    assert f.time[0] == np.datetime64("2022-08-22T04:00:00.007158889")
    assert len(f.kpis) == 2
