"""Tables: wide and long, CSV and Parquet, whole and in pieces, and every way a file can be broken."""

from __future__ import annotations

import gzip
import string
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from foreshock.errors import ForeshockError, ResourceError, SourceError
from foreshock.frame import NO_SERVICE, Frame
from foreshock.sources import frames, read
from foreshock.sources.clock import step_of
from foreshock.sources.naming import guess_unit, kpis_of, unit_of

T0 = 1_700_000_000  # 2023-11-14T22:13:20Z
HEADER = "timestamp,cart__cpu_pct,cart__lat_ms\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


@pytest.fixture
def csv(tmp_path):
    """csv(text, name='t.csv'): a file with this text."""
    return lambda text, name="t.csv": write(tmp_path / name, text)


@pytest.fixture
def small() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    values = rng.normal(10, 2, (300, 4))
    values[5:9, 2] = np.nan
    table = pd.DataFrame(values, columns=["cart__cpu_pct", "cart__mem_mi", "pay__cpu_pct", "pay__lat_p90_s"])
    table.insert(0, "timestamp", pd.to_datetime(T0 + 15 * np.arange(300), unit="s", utc=True))
    table["label"] = 0
    table.loc[100:110, "label"] = 1
    table.loc[200:203, "label"] = 1
    table["fault_type"] = np.where(table.label == 1, "cpu", "")
    table["root_cause_service"] = np.where(table.label == 1, "cart", "")
    return table


def same(a: Frame, b: Frame) -> None:
    assert a.kpis == b.kpis
    np.testing.assert_array_equal(a.time_ns, b.time_ns)
    np.testing.assert_array_equal(a.values, b.values)
    assert a.step_s == b.step_s
    assert (a.labels is None) == (b.labels is None)
    if a.labels is not None and b.labels is not None:
        for field in ("anomaly", "fault_type", "root_cause", "ignore", "fault_id", "metric_visible"):
            np.testing.assert_array_equal(getattr(a.labels, field), getattr(b.labels, field))


# ---- formats


@pytest.mark.parametrize("form", ["csv", "csv.gz", "csv.zst", "parquet", "wrong.parquet", "noname"])
def test_every_format_gives_the_same_frame(small, tmp_path, form):
    """The content tells the format, not the name; stamps, values, names and labels come through whole."""
    path = tmp_path / f"t.{form}"
    text = small.to_csv(index=False).encode()
    if form == "parquet":
        small.to_parquet(path)
    else:
        write(path, {"csv.gz": gzip.compress, "csv.zst": zstd}.get(form, bytes)(text))
    f = read(path)
    assert f.values.shape == (300, 4)
    assert f.step_s == 15
    assert f.services == ("cart", "pay")
    assert [k.unit for k in f.kpis] == ["%", "MiB", "%", "s"]
    np.testing.assert_array_equal(f.values, small.iloc[:, 1:5].to_numpy())
    assert f.time_ns[0] == T0 * 10**9
    assert f.labels.anomaly.sum() == 15
    assert f.labels.fault_id.max() == 1
    assert set(f.labels.root_cause) == {"", "cart"}
    assert f.labels.metric_visible.all()
    assert not f.labels.ignore.any()


@pytest.mark.parametrize("rows", [1, 7, 100, 300, 1000])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_pieces_are_the_whole(small, tmp_path, rows, form):
    """Put together again, pieces give exactly what `read` gives, with the same KPIs and fault numbers."""
    path = tmp_path / f"t.{form}"
    small.to_csv(path, index=False) if form == "csv" else small.to_parquet(path, row_group_size=64)
    whole, pieces = read(path), list(frames(path, rows))
    assert [len(p) for p in pieces[:-1]] == [rows] * (len(pieces) - 1)
    assert all(p.kpis == whole.kpis and p.step_s == whole.step_s for p in pieces)
    np.testing.assert_array_equal(np.concatenate([p.values for p in pieces]), whole.values)
    np.testing.assert_array_equal(np.concatenate([p.time_ns for p in pieces]), whole.time_ns)
    np.testing.assert_array_equal(np.concatenate([p.labels.fault_id for p in pieces]), whole.labels.fault_id)


def test_long_with_services(csv):
    """timestamp, service, metric, value: one KPI a pair, NaN where a pair is not told."""
    f = read(
        csv(
            "time,service,metric,value\n"
            "2026-05-02T00:00:00Z,cart,cpu_pct,1\n2026-05-02T00:00:00Z,pay,cpu_pct,2\n"
            "2026-05-02T00:01:00Z,cart,cpu_pct,3\n2026-05-02T00:01:00Z,cart,mem_mi,4\n"
        )
    )
    assert f.names == ("cart__cpu_pct", "pay__cpu_pct", "cart__mem_mi")
    assert f.services == ("cart", "pay")
    np.testing.assert_array_equal(f.values, [[1, 2, np.nan], [3, np.nan, 4]])
    assert f.step_s == 60


def test_long_without_services(csv):
    """The metric's own name is the column's name."""
    f = read(csv("timestamp,kpi,value\n0,cart__cpu,1\n0,load,2\n60,cart__cpu,3\n"))
    assert [(k.name, k.service) for k in f.kpis] == [("cart__cpu", "cart"), ("load", NO_SERVICE)]
    np.testing.assert_array_equal(f.values, [[1, 2], [3, np.nan]])


def test_one_row_a_service(csv):
    """A wide table with a service column is turned: a KPI for every service and column."""
    f = read(csv("timestamp,service,cpu,mem,label\n0,a,1,2,0\n0,b,3,4,1\n60,a,5,6,0\n60,b,7,8,0\n"))
    assert f.names == ("a__cpu", "a__mem", "b__cpu", "b__mem")
    np.testing.assert_array_equal(f.values, [[1, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_array_equal(f.labels.anomaly, [True, False])


@pytest.mark.parametrize("rows", [1, 5, 50])
def test_long_pieces_are_the_whole(small, tmp_path, rows):
    """A long table in time order streams too, though a stamp's rows may lie in two batches."""
    long = small.drop(columns=["label", "fault_type", "root_cause_service"]).melt(
        "timestamp", var_name="metric", value_name="value"
    )
    path = tmp_path / "t.parquet"
    long.sort_values("timestamp", kind="stable").to_parquet(path)
    whole, pieces = read(path), list(frames(path, rows))
    assert whole.values.shape == (300, 4)
    assert all(p.kpis == whole.kpis for p in pieces)
    np.testing.assert_array_equal(np.concatenate([p.values for p in pieces]), whole.values)


def test_unsorted_long_is_read_whole_and_refused_in_pieces(csv):
    path = csv("timestamp,metric,value\n60,a,2\n0,a,1\n120,a,3\n")
    np.testing.assert_array_equal(read(path).values[:, 0], [1, 2, 3])
    with pytest.raises(SourceError, match="fall back"):
        list(frames(path))


def test_long_with_two_values_for_one_cell(csv):
    with pytest.raises(SourceError, match="'a' stands twice at 1970-01-01T00:00:00"):
        read(csv("timestamp,metric,value\n0,a,2\n0,a,1\n"))


def test_ignored_columns(csv):
    """Notes in words are refused with both ways out; ignored, a column is no KPI and no label."""
    path = csv("timestamp,a,note,b,label\n0,1,fine,2,0\n60,3,bad,4,1\n")
    with pytest.raises(SourceError, match=r"ignore note\), or keep the rows of one value: where note=fine"):
        read(path)
    assert read(path, ignore=["note"]).names == ("a", "b")
    frame = read(path, ignore=["note", "label", "b"])
    assert (frame.names, frame.labels) == (("a",), None)
    pieces = list(frames(path, rows=1, ignore=["note"]))
    assert [piece.names for piece in pieces] == [("a", "b")] * 2
    with pytest.raises(SourceError, match="no column 'nota' to leave out"):
        read(path, ignore=["nota"])


def test_options_that_mean_nothing_here(csv, tmp_path):
    """Never dropped silently: a day of a file, a filter on a folder."""
    with pytest.raises(SourceError, match="is a file; day"):
        read(csv("timestamp,a\n0,1\n"), day="2022-08-22")
    for option in ({"where": {"a": "b"}}, {"ignore": ["a"]}, {"timestamp": "a"}):
        with pytest.raises(SourceError, match=f"is a folder; {next(iter(option))}"):
            read(tmp_path, **option)


def test_where_keeps_rows(csv):
    """A text column nobody can use is refused, unless `where` picks the rows of one value."""
    path = csv("t,split,m0\n0,train,1\n60,test,2\n120,test,3\n")
    with pytest.raises(SourceError, match=r"'split' holds text \('train'\)"):
        read(path)
    np.testing.assert_array_equal(read(path, where={"split": "test"}).values[:, 0], [2, 3])
    with pytest.raises(SourceError, match="no row is left"):
        read(path, where={"split": "dev"})
    with pytest.raises(SourceError, match="no column 'part'"):
        read(path, where={"part": "dev"})


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_delimiters(csv, mark):
    f = read(csv(f"timestamp{mark}a{mark}b\n0{mark}1.5{mark}2\n60{mark}3{mark}4.25\n"))
    np.testing.assert_array_equal(f.values, [[1.5, 2], [3, 4.25]])


def test_decimal_comma_beside_semicolons(csv):
    np.testing.assert_array_equal(
        read(csv("timestamp;a;b\n0;1,5;2\n60;3;4,25\n")).values, [[1.5, 2], [3, 4.25]]
    )


def test_blanks_quotes_bom_and_windows_lines(csv):
    """What spreadsheets write is read all the same."""
    f = read(csv('\ufefftimestamp, "a" ,b\r\n0, 1 ,"2"\r\n60,3 , 4\r\n\r\n'))
    np.testing.assert_array_equal(f.values, [[1, 2], [3, 4]])


def test_blanks_only_late_in_the_file(csv):
    """The fast parser gives up in the middle; nothing is lost or doubled."""
    rows = [f"{60 * i},{i},{i}.5\n" for i in range(400_000)]
    rows[390_000] = f"{60 * 390_000}, 390000 ,7\n"
    f = read(csv("timestamp,a,b\n" + "".join(rows)))
    np.testing.assert_array_equal(f.values[:, 0], np.arange(400_000))
    assert f.values[390_000, 1] == 7


@pytest.mark.parametrize("word", ["", "NaN", "nan", "NA", "null", "N/A", "None"])
def test_missing_is_nan_and_never_zero(csv, word):
    f = read(csv(f"timestamp,a,b\n0,1,{word}\n60,{word},0\n"))
    np.testing.assert_array_equal(f.values, [[1, np.nan], [np.nan, 0]])


def test_infinite_values_are_kept_for_inspect(csv):
    f = read(csv("timestamp,a\n0,inf\n60,-Infinity\n120,1e400\n"))
    np.testing.assert_array_equal(f.values[:, 0], [np.inf, -np.inf, np.inf])


def test_true_and_false_are_one_and_zero(csv):
    np.testing.assert_array_equal(
        read(csv("timestamp,up\n0,true\n1,False\n2,\n")).values[:, 0], [1, 0, np.nan]
    )


def test_row_numbers_written_by_pandas_are_no_kpi(small, tmp_path):
    small.to_csv(tmp_path / "t.csv")
    assert len(read(tmp_path / "t.csv").kpis) == 4


def test_time_as_the_index(small, tmp_path):
    """A frame saved with its time index, unnamed in the CSV, `__index_level_0__` in Parquet."""
    table = small.set_index("timestamp").drop(columns=["fault_type", "root_cause_service"])
    table.index.name = None
    table.to_csv(tmp_path / "t.csv")
    table.to_parquet(tmp_path / "t.parquet")
    same(read(tmp_path / "t.csv"), Frame(**{**fields(read(tmp_path / "t.parquet")), "source": "x"}))


def fields(frame: Frame) -> dict[str, object]:
    return {n: getattr(frame, n) for n in ("time_ns", "values", "kpis", "step_s", "labels")}


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint64(), pa.float32(), pa.float16(), pa.bool_(), pa.decimal128(9, 3)]
)
def test_every_number_type_of_parquet(tmp_path, kind):
    table = pa.table(
        {"timestamp": [0, 60, 120], "a": pa.array([1, 0, None], pa.int8()).cast(pa.float64()).cast(kind)}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    np.testing.assert_array_equal(read(tmp_path / "t.parquet").values[:, 0], [1, 0, np.nan])


def test_numbers_written_as_text_in_parquet(tmp_path):
    pq.write_table(pa.table({"timestamp": [0, 60], "a": ["1.5", None]}), tmp_path / "t.parquet")
    np.testing.assert_array_equal(read(tmp_path / "t.parquet").values[:, 0], [1.5, np.nan])


def test_ten_thousand_kpis(tmp_path):
    """Many columns cost time in proportion, not more."""
    names = [f"s{i // 100}__k{i % 100}" for i in range(10_000)]
    values = np.arange(40_000.0).reshape(4, 10_000)
    body = "\n".join(",".join([str(60 * i), *map(str, row)]) for i, row in enumerate(values))
    f = read(write(tmp_path / "t.csv", "timestamp," + ",".join(names) + "\n" + body))
    np.testing.assert_array_equal(f.values, values)
    assert len(f.services) == 100


# ---- stamps


@pytest.mark.parametrize(
    "stamps",
    [
        ["1700000000", "1700000060"],
        ["1700000000.0", "1700000060.0"],
        ["1.7e9", "1.70000006e9"],
        ["1700000000000", "1700000060000"],
        ["1700000000000000", "1700000060000000"],
        ["1700000000000000000", "1700000060000000000"],
        ["2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z"],
        ["2023-11-14 22:13:20", "2023-11-14 22:14:20"],
        ["2023-11-14 22:13:20.000", "2023-11-14 22:14:20.000000000"],
        ["2023-11-14T23:13:20+01:00", "2023-11-14T14:14:20-0800"],
        ["20231114T221320Z", "20231114T221420Z"],
        ["2023-11-14 22:13:20 +0000 UTC m=+0.11", "2023-11-14 22:14:20 +0000 UTC m=+60.1"],
        ["2023-11-14 22:13:20 UTC", "2023-11-14 22:14:20 GMT"],
        ['"2023-11-14 22:13:20"', '"2023-11-14 22:14:20"'],
    ],
)
def test_stamps(csv, stamps):
    """Each spelling is the same instant; a stamp without a zone is UTC."""
    f = read(csv("timestamp,a\n" + "".join(f"{s},1\n" for s in stamps)))
    np.testing.assert_array_equal(f.time_ns, np.array([T0, T0 + 60]) * 10**9)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_arrow_stamps(tmp_path, unit, zone):
    stamps = pa.array([T0, T0 + 60], pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp(unit))
    if zone:
        stamps = stamps.cast(pa.timestamp(unit, tz=zone))
    pq.write_table(pa.table({"when": stamps, "a": [1, 2]}), tmp_path / "t.parquet")
    np.testing.assert_array_equal(
        read(tmp_path / "t.parquet", timestamp="when").time_ns, [T0 * 10**9, (T0 + 60) * 10**9]
    )


def test_mixed_zones_are_refused(csv):
    """Some stamps with a zone and some without: one error that shows one of each."""
    with pytest.raises(SourceError, match=r"t\.csv:3: timestamp \('2026-05-02 14:01:00'\) has no zone"):
        read(csv("timestamp,a\n2026-05-02T14:00:00Z,1\n2026-05-02 14:01:00,2\n"))
    with pytest.raises(SourceError, match="has a zone, the first stamp"):
        read(csv("timestamp,a\n2026-05-02T14:00:00,1\n2026-05-02 14:01:00+02:00,2\n"))


@pytest.mark.parametrize(
    "stamp",
    ["yesterday", "today", "now", "02/05/2026", "2026-13-01", "", "1e30", "-5", "nan", "2e", "9999-01-01"],
)
def test_unreadable_stamps(csv, stamp):
    with pytest.raises(SourceError, match=r"t\.csv"):
        read(csv(f"timestamp,a\n{stamp},1\n"))
    with pytest.raises(SourceError, match=r"t\.csv:3"):
        read(csv(f"timestamp,a\n2026-05-02,1\n{stamp},1\n"))


def test_order_is_kept(csv):
    """Unsorted and doubled stamps are read as they stand; quality tells."""
    f = read(csv("timestamp,a\n120,3\n0,1\n60,2\n60,2\n"))
    np.testing.assert_array_equal(f.time_ns, np.array([120, 0, 60, 60]) * 10**9)
    assert f.step_s == 60


@given(
    step=st.sampled_from([0.25, 1.0, 15.0, 60.0, 300.0]),
    jitter=st.lists(st.floats(-0.01, 0.01), min_size=40, max_size=80),
    lost=st.sets(st.integers(0, 39), max_size=8),
)
def test_step_is_robust(step, jitter, lost):
    """Neither jitter of 1 % nor rows lost here and there move the step."""
    at = (np.arange(len(jitter)) + np.array(jitter)) * step
    at = np.delete(at, sorted(lost))
    assert step_of((at * 1e9).astype(np.int64)) == pytest.approx(step, rel=0.021)


def test_step_of_one_row(csv):
    assert read(csv("timestamp,a\n5,1\n")).step_s == 60


def test_numeric_time_beside_a_written_one(csv):
    """Of two time columns the written one counts, and neither becomes a KPI."""
    f = read(csv("Time,TimeStamp,cpu\n2023-11-14 22:13:20,5,1\n2023-11-14 22:14:20,6,2\n"))
    assert f.names == ("cpu",)
    assert f.time_ns[0] == T0 * 10**9


# ---- names, services, units


@pytest.mark.parametrize(
    ("names", "services"),
    [
        (["cart__cpu", "cart__a__b", "x"], ["cart", "cart", NO_SERVICE]),
        (["cart_cpu_pct", "cart_mem_mi", "pay_cpu_pct"], ["cart", "cart", "pay"]),
        (["front_end_latency_p90", "front_end_rps"], ["front_end", "front_end"]),
        (["ts-order-service_cpu", "ts-seat-service_cpu"], ["ts-order-service", "ts-seat-service"]),
        (["a_foo", "a_bar", "b_foo", "b_bar"], ["a", "a", "b", "b"]),
        (["a.foo", "a.bar", "b.foo", "b.bar"], ["a", "a", "b", "b"]),
        (["cpu_usage", "mem_usage", "disk_read_bytes"], [NO_SERVICE] * 3),
        (["node_cpu", "node_memory"], [NO_SERVICE] * 2),
        (["user_cpu", "cart_cpu", "user_rps", "cart_rps"], ["user", "cart", "user", "cart"]),
        (["user-service_cpu", "user-service_rps"], ["user-service", "user-service"]),
        (["cart_service_cpu", "cart_service_rps"], ["cart_service", "cart_service"]),
        (["cart__cpu", "cart_mem", "cart-db_mem"], ["cart", "cart", "cart-db"]),
        (["f0", "f1", "f2"], [NO_SERVICE] * 3),
        (["m_00", "m_01"], [NO_SERVICE] * 2),
        (["frontend__cpu", "cart__cpu", "frontend_cart__src_p50"], ["frontend", "cart", "cart"]),
    ],
)
def test_services_told_by_names(names, services):
    assert [k.service for k in kpis_of(names)] == services


@pytest.mark.parametrize(
    "rules",
    [
        {"ca*": "cart", "pa*": "pay"},
        ["ca*=cart", "pa*=pay"],
        "ca*=cart, pa*=pay",
        {"re:^ca": "cart", "re:^(pay)_": r"\1"},
        ["cart", "pay"],
        "cart,pay",
    ],
)
def test_service_rules(csv, rules):
    """Every spelling of the rules; names that no rule meets are told as without."""
    path = csv("timestamp,cart_x,pay_x,other__x\n0,1,2,3\n")
    assert [k.service for k in read(path, services=rules).kpis] == ["cart", "pay", "other"]
    assert [k.metric for k in read(path, services=rules).kpis] == ["x", "x", "x"]


@pytest.mark.parametrize("rules", [{"re:(": "x"}, ["=x"], ["a="], {"re:^cart": r"\2"}])
def test_bad_service_rules(csv, rules):
    with pytest.raises(SourceError, match="service rule"):
        read(csv("timestamp,cart_x\n0,1\n"), services=rules)


def test_units_by_name():
    told = {
        "cpu_pct": "%",
        "CpuUsageRate(%)": "%",
        "latency_ms": "ms",
        "latencySeconds": "s",
        "lat_p90_s": "s",
        "net_rx_bytes": "B",
        "http_requests_per_second": "1/s",
        "requests_total": "count",
        "load": "",
        "s": "",
    }
    assert {m: unit_of(m) for m in told} == told


def test_units_by_values():
    """Only where such a metric's values leave no doubt."""
    rng = np.random.default_rng(0)
    cases = {
        ("cpu", 1): "ratio",
        ("cpu", 100): "%",
        ("latency", 300): "ms",
        ("latency", 0.5): "s",
        ("level", 50): "",
    }
    for (name, high), unit in cases.items():
        assert guess_unit(kpis_of([name])[0], rng.uniform(0.2 * high, high, 100)) == unit
    assert guess_unit(kpis_of(["cpu"])[0], np.full(5, np.nan)) == ""


# ---- labels


@pytest.mark.parametrize("header", ["label", "Label", "is_anomaly", "anomaly", "fault"])
def test_label_spellings(csv, header):
    f = read(csv(f"timestamp,a,{header}\n0,1,0\n60,2,1\n120,3,1.0\n180,1,true\n240,1,False\n"))
    np.testing.assert_array_equal(f.labels.anomaly, [False, True, True, True, False])
    np.testing.assert_array_equal(f.labels.fault_id, [-1, 0, 0, 0, -1])
    assert f.names == ("a",)


def test_wrong_label_names_row_and_value(csv, tmp_path):
    with pytest.raises(SourceError, match=r"t\.csv:3: label is '2'; it must be 0 or 1"):
        read(csv("timestamp,a,label\n0,1,0\n60,2,2\n"))
    pq.write_table(pa.table({"timestamp": [0, 60], "a": [1, 2], "label": [0, -1]}), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"t\.parquet: row 1: label is -1"):
        read(tmp_path / "t.parquet")


def test_empty_label_is_ignored_not_healthy(csv):
    f = read(csv("timestamp,a,label\n0,1,0\n60,2,\n"))
    np.testing.assert_array_equal(f.labels.ignore, [False, True])


def test_fault_numbers_change_with_the_fault(csv):
    """Two faults back to back are two, even without a healthy row between."""
    f = read(csv("timestamp,a,label,fault_type\n0,1,1,cpu\n1,1,1,mem\n2,1,0,\n3,1,1,mem\n"))
    np.testing.assert_array_equal(f.labels.fault_id, [0, 1, -1, 2])


def test_recovery_and_suspect_are_ignored(csv):
    f = read(
        csv("timestamp,a,label,recovery,suspect,suspect_service\n0,1,1,0,0,\n1,1,0,1,0,\n2,1,0,0,1,pay\n")
    )
    np.testing.assert_array_equal(f.labels.ignore, [False, True, True])
    assert f.names == ("a",)


# ---- bad input


BROKEN = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n  \n", "is empty"),
    "header only": (HEADER, "a header but no rows"),
    "text in numbers": (HEADER + "0,1,2\n60,abc,4\n", r"t\.csv:3: cart__cpu_pct is 'abc'; it must be"),
    "thousands": (HEADER + '0,1,2\n60,"1,234",4\n', r"t\.csv:3: .*thousands"),
    "unit": (HEADER + "0,1,2\n60,12%,4\n", r"t\.csv:3: .*without its unit"),
    "decimal comma": (HEADER + '0,1,2\n60,"12,5",4\n', r"t\.csv:3: .*decimal point"),
    "ragged short": (HEADER + "0,1,2\n60,3\n", r"t\.csv:3: 2 cells where the header has 3"),
    "ragged long": (HEADER + "0,1,2\n60,3,4,5\n", r"t\.csv:3: 4 cells where the header has 3"),
    "NUL": (HEADER + "0,1,2\n60,3\0,4\n", r"t\.csv:3: a NUL byte"),
    "NUL in header": ("time\0stamp,a\n0,1\n", r"t\.csv:1: a NUL byte"),
    "latin-1 header": ("timestamp,caf\xe9\n0,1\n".encode("latin-1"), r"t\.csv:1: the byte 0xe9 is not UTF-8"),
    "latin-1 cell": (HEADER.encode() + b"0,1,2\n60,\xb5,3\n", r"t\.csv:3: the byte 0xb5 is not UTF-8"),
    "UTF-16": (HEADER.encode("utf-16"), "UTF-16"),
    "doubled column": ("timestamp,a,a\n0,1,2\n", "'a' stands twice"),
    "nameless column": ("timestamp,a,\n0,1,2\n", "column 3 of 3 has no name"),
    "no stamps": ("when,a\n0,1\n", "no time stamp column.*'when', 'a'"),
    "no KPI": ("timestamp,label\n0,1\n", "no KPI column"),
    "no header": ("1700000000,1.5,2\n1700000060,1,2\n", "a header with column names must come first"),
    "zip": (b"PK\x03\x04rest", "a zip archive"),
    "open quote in a label": (
        "timestamp,a,label,fault_type\n0,1,0,\n1,2,1,\"cpu\n2,3,0,\n3,4,1,\"\n",
        r"t\.csv:3: fault_type runs over several lines",
    ),
    "HTML": ("<html>404</html>", "holds HTML"),
    "JSON": ('[{"timestamp": 1}]', "holds JSON"),
    "units everywhere": ("timestamp,a\n0,12%\n60,13%\n", "column 'a' holds '12%'; .*without its unit"),
    "seconds and milliseconds": (HEADER + "1700000000,1,2\n1700000060000,1,2\n", r"t\.csv:3: .*like Unix ms"),
    "no stamp in a row": (HEADER + "0,1,2\n,1,2\n", r"t\.csv:3: timestamp is empty"),
    "no date in a row": (HEADER + "2026-05-02,1,2\n,1,2\n", r"t\.csv:3: timestamp is empty"),
    "quote left open": ('timestamp,"a\n0,1\n', "quote"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_gives_one_clear_error(csv, case):
    """Every broken file is a SourceError that says what and where."""
    data, told = BROKEN[case]
    path = csv(data)
    for reading in (lambda: read(path), lambda: list(frames(path, 10))):
        with pytest.raises(SourceError, match=told):
            reading()


@pytest.mark.parametrize("form", ["gz", "zst", "parquet"])
def test_cut_short(small, tmp_path, form):
    """A file that ends too early says so, and is not read as a shorter recording."""
    big = pd.concat([small] * 30)
    path = tmp_path / f"t.{form}"
    if form == "parquet":
        big.to_parquet(path)
    else:
        write(path, {"gz": gzip.compress, "zst": zstd}[form](big.to_csv(index=False).encode()))
    data = path.read_bytes()
    for share in (0.5, 0.9):
        write(path, data[: int(len(data) * share)])
        with pytest.raises(SourceError, match="cut short or damaged"):
            read(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(SourceError, match="folder without metric files"):
        read(tmp_path)


def test_text_in_a_late_block_names_its_line(csv):
    """The line is right even far into a file that is read in blocks."""
    rows = [f"{60 * i},{i},{i}\n" for i in range(300_000)]
    rows[299_000] = f"{60 * 299_000},oops,1\n"
    with pytest.raises(SourceError, match=r"t\.csv:299002: cart__cpu_pct is 'oops'"):
        read(csv(HEADER + "".join(rows)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
@example(data=b"timestamp,a\n0,1\n\x00")
@example(data=b"\x1f\x8b\x08")
@example(data=b"\x28\xb5\x2f\xfd")
@example(data=b"PAR1PAR1")
@example(data=b"timestamp,a\n0,1" + b"9" * 400)
def test_any_bytes(tmp_path, data):
    """Whatever lies in a file: a frame or an error of ours, nothing else."""
    tried(write(tmp_path / "t.csv", data))


cells = st.one_of(
    st.text(alphabet=string.printable + "é\0", max_size=12),
    st.sampled_from(
        ["0", "60", "1e9", "nan", "inf", "2026-05-02", "2026-05-02T10:00:00Z", "label", "timestamp", '"']
    ),
    st.floats().map(str),
    st.integers(-(10**20), 10**20).map(str),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.lists(
        st.sampled_from(["timestamp", "a", "b__c", "label", "service", "metric", "value", "fault_type", ""]),
        min_size=1,
        max_size=6,
    ),
    rows=st.lists(st.lists(cells, min_size=1, max_size=6), max_size=6),
)  # fmt: skip
def test_any_cells(tmp_path, header, rows):
    """Odd cells under plausible headers: a frame or an error of ours."""
    tried(
        write(
            tmp_path / "t.csv",
            "\n".join(",".join(r) for r in [header, *rows]).encode("utf-8", "surrogatepass"),
        )
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    byte=st.integers(0, 255),
    form=st.integers(0, 2),
)
def test_any_flipped_bytes(tmp_path, at, byte, form):
    """Damaged Parquet, gzip and zstd files: a frame or an error of ours."""
    table = pa.table({"timestamp": list(range(50)), "a": [float(i) for i in range(50)], "label": [0] * 50})
    if form == 0:
        pq.write_table(table, tmp_path / "t")
        data = bytearray((tmp_path / "t").read_bytes())
    else:
        text = table.to_pandas().to_csv(index=False).encode()
        data = bytearray(gzip.compress(text) if form == 1 else zstd(text))
    for i in at:
        data[i % len(data)] = byte
    tried(write(tmp_path / "t", bytes(data)))


def tried(path: Path) -> None:
    try:
        frame = read(path)
        pieces = list(frames(path, 3))
    except ForeshockError as e:
        message = str(e)
    else:
        message = "fine"
        assert len(frame) == sum(len(p) for p in pieces) > 0
    assert 0 < len(message) < 1500


# ---- what only Parquet can do wrong


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"timestamp": list(range(400)), "a": ["1"] * 390 + ["x"] * 10}, "row 390: a is 'x'"),
        ({"timestamp": [0, 1], "a": [[1], [2]]}, "'a' has type list"),
        ({"timestamp": pa.array([1, 2], pa.duration("s")), "a": [1, 2]}, "'timestamp' has type duration"),
        ({"timestamp": pa.array(["2026-05-02", None]), "a": [1, 2]}, "row 1: timestamp is empty"),
        ({"timestamp": [1.0, float("nan")], "a": [1, 2]}, "row 1: timestamp .nan. is not a time stamp"),
        ({"timestamp": [1, 2], "metric": ["a", None], "value": [1, 2]}, "row 1: metric is empty"),
        (
            {"timestamp": pa.array([10**14], pa.int64()).cast(pa.timestamp("s")), "a": [1]},
            "outside the years",
        ),
        ({"timestamp": pa.array([], pa.int64()), "a": pa.array([], pa.float64())}, "no rows"),
    ],
)
def test_parquet_with_odd_columns(tmp_path, columns, told):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=told):
        read(tmp_path / "t.parquet")


def test_categories_and_other_text_types(tmp_path):
    """pandas' categories and Arrow's large strings are text as any other."""
    table = pa.table(
        {
            "timestamp": pa.array(["2026-05-02", "2026-05-02"]).dictionary_encode(),
            "metric": pa.array(["a", "b"]).dictionary_encode(),
            "value": pa.array(["1", "2.5"], pa.large_string()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    np.testing.assert_array_equal(read(tmp_path / "t.parquet").values, [[1, 2.5]])


def test_a_table_that_outgrows_memory(csv, monkeypatch):
    """Read whole it is refused before the machine gives way; in pieces it is read."""
    from foreshock.sources import tables

    path = csv("timestamp,a\n" + "".join(f"{i},1\n" for i in range(100)))
    monkeypatch.setattr(tables, "_LEFT_BYTES", 1 << 60)
    assert len(read(path)) == 100  # a small table never is
    monkeypatch.setattr(tables.psutil, "virtual_memory", lambda: type("M", (), {"available": 10}))
    monkeypatch.setattr(tables, "_LEFT_BYTES", 100)
    with pytest.raises(ResourceError, match=r"100 rows fill .* read it in pieces"):
        read(path)
    assert sum(len(p) for p in frames(path, 10)) == 100
