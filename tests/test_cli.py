"""The command line: answers, exit codes, one-line errors, nothing overwritten."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import foreshock
from foreshock import __version__, runlog
from foreshock.cli import run
from foreshock.cli.console import counted, table
from foreshock.metrics import fault_spans

QUICK = ("--detector", "past_median")  # no weights, starts at once
START = pd.Timestamp("2026-03-02T08:00:00Z")


@pytest.fixture
def ask(capsys):
    """ask(*words) -> (exit code, stdout, stderr)."""

    def call(*words):
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def shop(tmp_path):
    """A small CSV: 3 services, 400 rows, and a jump of one KPI."""
    rng = np.random.default_rng(3)
    columns = {f"s{i}__{kpi}": rng.gamma(9, 1, 400) for i in range(3) for kpi in ("cpu_pct", "latency_ms")}
    columns["s1__cpu_pct"][300:330] += 200
    frame = pd.DataFrame({"timestamp": START + pd.to_timedelta(np.arange(400), "min"), **columns})
    path = tmp_path / "shop.csv"
    frame.to_csv(path, index=False)
    return path


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# ------------------------------------------------------------------------------------------------ start-up


def seconds_of(folder: Path, *words: str) -> float:
    """Processor time of a start, the best of several, from compiled files as an installation has them.

    Starting is one thread that never waits, so on an idle machine this is what the clock shows; beside
    other work the clock would show theirs.
    """
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder)}
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(times)


def test_help_is_instant(tmp_path: Path):
    """--help in under 0.3 s, interpreter included."""
    assert seconds_of(tmp_path, "-m", "foreshock", "--help") < 0.3


def test_import_is_instant(tmp_path: Path):
    """`import foreshock` in under 0.2 s, interpreter included."""
    assert seconds_of(tmp_path, "-c", "import foreshock") < 0.2


def test_version_and_help(ask):
    """Both answer on stdout; without a command help comes with exit code 2."""
    assert ask("--version")[:2] == (0, f"foreshock {__version__}\n")
    code, out, _ = ask("--help")
    assert code == 0
    for command in (
        "score",
        "detect",
        "inspect",
        "weights",
        "data",
        "doctor",
        "config",
        "runs",
        "simulate",
        "pretrain",
    ):
        assert f"\n  {command} " in out
    assert ask()[0] == 2


# --------------------------------------------------------------------------------------------------- score


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_score_writes_its_columns(ask, shop, tmp_path, ending):
    """timestamp, score, threshold, anomaly, then service:<name>; the jump is anomalous."""
    out = tmp_path / f"scores.{ending}"
    code, text, _ = ask("score", shop, "--out", out, *QUICK)
    assert code == 0
    assert "400 rows" in text
    table = pd.read_parquet(out) if ending == "parquet" else pd.read_csv(out)
    assert list(table) == [
        "timestamp", "score", "threshold", "anomaly", "service:s0", "service:s1", "service:s2",
    ]  # fmt: skip
    assert len(table) == 400
    assert pd.to_datetime(table["timestamp"], utc=True).iloc[0] == START
    assert table["anomaly"].dtype == bool
    assert table["anomaly"][300:320].any()
    assert (table["score"] >= table["threshold"])[table["anomaly"]].mean() > 0.5
    assert table["service:s1"][302] > table["service:s0"][302]


def test_pieces_give_what_the_whole_gives(ask, shop, tmp_path, monkeypatch):
    """Scores and thresholds do not depend on how many rows are read at once."""
    ask("score", shop, "--out", tmp_path / "whole.parquet", *QUICK)
    monkeypatch.setenv("FORESHOCK__MEMORY__ROWS", "37")
    assert ask("score", shop, "--out", tmp_path / "pieces.parquet", *QUICK)[0] == 0
    whole, pieces = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("whole", "pieces"))
    pd.testing.assert_frame_equal(whole, pieces)


def test_json_is_alone_on_stdout(ask, shop, tmp_path):
    """--json gives one document; notes and progress go elsewhere."""
    code, out, _ = ask("score", shop, "--out", tmp_path / "s.parquet", "--json", *QUICK)
    facts = json.loads(out)
    assert code == 0
    assert facts["rows"] == 400
    assert facts["detector"] == "past_median"


def test_score_offline(ask, shop, tmp_path):
    """--offline has one threshold for the whole recording."""
    out = tmp_path / "s.parquet"
    code, _, err = ask("score", shop, "--out", out, "--offline", *QUICK)
    assert code == 0, err
    assert pd.read_parquet(out)["threshold"].nunique() == 1


@pytest.fixture(scope="module", params=[(), ("--offline",)], ids=["asked for nothing", "offline"])
def answer(request, tmp_path_factory):
    """The demo's incidents in JSON, and the folder with report and run log; judged once, however many ask."""
    folder = tmp_path_factory.mktemp("demo")
    asked = [sys.executable, "-m", "foreshock", "detect", "demo:", "--json", *request.param]
    kept = ["--report", folder / "r.html", "--log", folder / "runs"]
    done = subprocess.run([*asked, *kept], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


def test_detect_looks_both_ways(answer):
    """The demo's five faults are its five incidents, from a few rows before each to a few rows behind."""
    facts, _ = answer
    assert facts["causal"] is False
    assert facts["rows_in_hindsight"] == facts["rows"]
    assert {incident["detected_time"] for incident in facts["incidents"]} == {None}  # later rows helped
    assert {incident["fault_type_from"] for incident in facts["incidents"]} == {"simulated systems"}
    for incident in facts["incidents"]:
        assert (incident["fault_chance"] >= 0.5) == (incident["fault_type"] != "unknown")
    faults = fault_spans(foreshock.read("demo:").labels.fault_id)
    assert len(facts["incidents"]) == len(faults) == 5
    for (first, last), incident in zip(faults, facts["incidents"], strict=True):
        assert first - 6 <= incident["start"] < last
        assert first < incident["end"] <= last + 12


def test_nothing_is_overwritten(ask, shop, tmp_path):
    """An existing file is refused before the work, and replaced only with --force."""
    out = write(tmp_path / "s.parquet", "mine")
    code, _, err = ask("score", shop, "--out", out, *QUICK)
    assert code == 2
    assert err == f"error: {out} exists; overwrite it with --force or choose another name with --out.\n"
    assert out.read_text() == "mine"
    assert ask("score", shop, "--out", out, "--force", *QUICK)[0] == 0
    assert len(pd.read_parquet(out)) == 400


def test_the_input_is_never_the_output(ask, shop):
    """Not even with --force."""
    code, _, err = ask("score", shop, "--out", shop, "--force", *QUICK)
    assert code == 2
    assert "is the input itself" in err
    assert len(pd.read_csv(shop)) == 400


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("s.xlsx", "--out needs .parquet or .csv"),
        ("shop.csv/s.csv", "can't be written"),
        ("folder.csv", "is a folder"),
        ("s", "--out needs"),
    ],
)
def test_an_output_that_cannot_be(ask, shop, tmp_path, name, words):
    """A wrong ending, a place that can't be written, a folder: exit code 2 before the work."""
    (tmp_path / "folder.csv").mkdir()
    code, out, err = ask("score", tmp_path / "not-even-there.csv", "--out", tmp_path / name, *QUICK)
    assert (code, out) == (2, "")
    assert words in err


def test_a_failed_run_leaves_no_file(ask, tmp_path):
    """An error in the middle leaves neither the result nor its beginning."""
    rows = [f"{1_700_000_000 + 60 * i},1" for i in range(300)]
    rows[250] = f"{1_700_000_000 + 60 * 250},broken"
    table = write(tmp_path / "t.csv", "timestamp,a\n" + "\n".join(rows) + "\n")
    assert ask("score", table, "--out", tmp_path / "s.parquet", *QUICK)[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]


# ----------------------------------------------------------------------------------------------- bad input

STAMPS = [f"2026-03-02T08:{minute:02d}:00Z" for minute in range(60)]
BAD = {
    "empty": b"",
    "header only": b"timestamp,a\n",
    "text in numbers": b"timestamp,a\n2026-03-02T08:00:00Z,1\n2026-03-02T08:01:00Z,abc\n",
    "mixed zones": b"timestamp,a\n2026-03-02T08:00:00Z,1\n2026-03-02T08:01:00,2\n",
    "a NUL byte": b"timestamp,a\n2026-03-02T08:00:00Z,1\n2026-03-02T08:01:00Z,\x002\n",
    "no timestamp": b"a,b\n1,2\n3,4\n",
    "only a timestamp": b"timestamp\n2026-03-02T08:00:00Z\n",
    "blank lines": b"\n\n  \n",
    "a NUL byte in the header": b"timest\x00amp,a\n1,2\n",
    "a row too long": b"timestamp,a\n2026-03-02T08:00:00Z,1\n2026-03-02T08:01:00Z,2,3\n",
    "no stamp in a row": b"timestamp,a\n2026-03-02T08:00:00Z,1\n,2\n",
    "a stamp in words": b"timestamp,a\nyesterday,1\n",
    "a stamp before 1970": b"timestamp,a\n-5,1\n-4,2\n",
    "Latin-1": "timestamp,é\n2026-03-02T08:00:00Z,1\n".encode("latin-1"),
    "bytes": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("command", ["score", "detect", "inspect"])
@pytest.mark.parametrize("what", BAD)
def test_bad_tables_are_one_clear_error(ask, tmp_path, what, command):
    """Exit code 2, one line that names the file, no traceback, no output."""
    path = write(tmp_path / "bad.csv", BAD[what])
    more = {"score": ("--out", tmp_path / "s.csv", *QUICK), "detect": QUICK, "inspect": ()}[command]
    code, out, err = ask(command, path, *more)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "bad.csv" in err
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize("command", ["score", "detect", "inspect"])
@pytest.mark.parametrize("what", ["half", "without its end", "flipped bytes", "half a gzip"])
def test_files_cut_short_or_damaged(ask, tmp_path, what, command):
    """Parts of a Parquet or gzip file, and flipped bytes in one, are an input error."""
    table = pd.DataFrame(
        {"timestamp": pd.to_datetime(STAMPS * 5), "a": np.random.default_rng(0).normal(size=300)}
    )
    table.to_parquet(tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    zipped = gzip.compress(table.to_csv(index=False).encode())
    damaged = bytearray(content)
    damaged[60] ^= 0xFF
    damaged[200] ^= 0xFF
    bad = {
        "half": content[: len(content) // 2],
        "without its end": content[:-3],
        "flipped bytes": bytes(damaged),
        "half a gzip": zipped[: len(zipped) // 2],
    }[what]
    path = write(tmp_path / "bad.parquet", bad)
    more = {"score": ("--out", tmp_path / "s.csv", *QUICK), "detect": QUICK, "inspect": ()}[command]
    code, out, err = ask(command, path, *more)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "bad.parquet" in err
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize("command", ["score", "detect", "verify"])
def test_weights_with_a_flipped_byte(ask, shop, tmp_path, command):
    """One bit of a checkpoint that is not as its sums say: refused by whoever loads it, nothing written."""
    assert ask("weights", "export", "nano", tmp_path / "w")[0] == 0
    file = tmp_path / "w" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    words = {
        "score": ("score", shop, "--model", tmp_path / "w", "--out", tmp_path / "s.csv"),
        "detect": ("detect", shop, "--model", tmp_path / "w"),
        "verify": ("weights", "verify", tmp_path / "w"),
    }[command]
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert "it is damaged, get it again" in err
    assert not (tmp_path / "s.csv").exists()


def test_each_output_that_is_there_already(ask, shop, tmp_path):
    """A file, a folder, an impossible place: each command that writes refuses, and leaves what is there."""
    mine = write(tmp_path / "mine.csv", "mine")
    page = write(tmp_path / "mine.html", "mine")
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    (folder / "recording.csv").write_text("mine")
    inside = mine / "below"
    config = write(tmp_path / "p.yaml", f"out: {mine}\nsteps: 1\n")
    for words in [
        ("score", shop, "--out", mine, *QUICK),
        ("score", shop, "--out", folder, "--force", *QUICK),
        ("score", shop, "--out", mine / "s.csv", *QUICK),
        ("detect", shop, "--report", page, *QUICK),
        ("detect", shop, "--report", page / "r.html", *QUICK),
        ("detect", shop, "--log", mine, *QUICK),
        ("inspect", shop, "--repair", mine),
        ("inspect", shop, "--repair", folder, "--force"),
        ("inspect", shop, "--repair", mine / "s.csv"),
        ("simulate", "--out", mine),
        ("simulate", "--out", inside),
        ("simulate", "--out", folder),
        ("weights", "export", "nano", mine),
        ("weights", "export", "nano", inside),
        ("weights", "export", "nano", folder),
        ("pretrain", config),
    ]:
        code, out, err = ask(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), (words, out, err)
        assert err.startswith("error: ")
    assert {p.name for p in tmp_path.iterdir()} == {
        "shop.csv",
        "mine.csv",
        "mine.html",
        "folder.csv",
        "p.yaml",
    }
    assert mine.read_text() == page.read_text() == (folder / "recording.csv").read_text() == "mine"


def test_a_table_without_any_value(ask, tmp_path):
    """Missing data is not called healthy."""
    path = write(tmp_path / "t.csv", "timestamp,a\n" + "".join(f"{stamp},\n" for stamp in STAMPS))
    code, out, _ = ask("detect", path, *QUICK)
    assert code == 0
    assert "nothing can be said" in out
    assert "no incidents" not in out
    code, out, err = ask("score", path, "--out", tmp_path / "s.parquet", "--json", *QUICK)
    assert (code, json.loads(out)["observed_rows"]) == (0, 0)
    assert "nothing can be said" in err
    assert pd.read_parquet(tmp_path / "s.parquet")["score"].isna().all()


def test_missing_file_and_unknown_names(ask, shop, tmp_path):
    """Files, detectors, presets, configs, commands and flags that are not there: exit code 2."""
    out = ("--out", tmp_path / "s.csv")
    for words, expected in [
        (("score", tmp_path / "none.csv", *out), "none.csv"),
        (("score", "nowhere:x", *out), "nowhere"),
        (("score", shop, *out, "--detector", "forshock"), "did you mean 'foreshock'?"),
        (("score", shop, *out, "--preset", "cpuu"), "did you mean 'cpu'?"),
        (("score", shop, *out, "--config", tmp_path / "c.yaml"), "c.yaml"),
        (("score", shop, *out, "--false-alarms", "-1"), "--false-alarms"),
        (("score", shop, *out, "--where", "a"), "COLUMN=WORD"),
        (("score", shop, *out, "--outt", "x"), "--outt"),
        (("scor", shop), "scor"),
        (("score",), "INPUT"),
        (("weights", "verify", tmp_path / "none"), "none"),
        (("runs", "show", "--log", tmp_path), "--log"),
    ]:
        code, _, err = ask(*words)
        assert code == 2, words
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert expected in err


def test_a_typing_mistake_in_the_config(ask, shop, tmp_path):
    """File, line and the nearest name."""
    config = write(tmp_path / "shop.yaml", "window:\n  strid: 3\n")
    code, _, err = ask("score", shop, "--out", tmp_path / "s.csv", "--config", config)
    assert (code, err) == (
        2,
        f"error: {config}:2: there is no setting 'window.strid'; did you mean 'window.stride'?\n",
    )


def test_defined_results(ask, tmp_path):
    """One row, one constant KPI, doubled, unsorted and infinite values: a result, and notes on repairs."""
    tables = {
        "one row": "timestamp,a\n2026-03-02T08:00:00Z,1\n",
        "constant": "timestamp,a\n" + "".join(f"{stamp},5\n" for stamp in STAMPS),
        "doubled": "timestamp,a\n"
        + "".join(f"{stamp},{i}\n" for i, stamp in enumerate(STAMPS + STAMPS[-1:])),
        "unsorted": "timestamp,a\n" + "".join(f"{stamp},1\n" for stamp in reversed(STAMPS)),
        "infinite": "timestamp,a\n"
        + "".join(f"{stamp},{'inf' if i == 5 else i}\n" for i, stamp in enumerate(STAMPS)),
    }
    for name, text in tables.items():
        path, out = write(tmp_path / "t.csv", text), tmp_path / "s.parquet"
        code, _, err = ask("score", path, "--out", out, "--force", *QUICK)
        assert code == 0, (name, err)
        scores = pd.read_parquet(out)
        assert len(scores) == (1 if name == "one row" else 60)
        assert scores["timestamp"].is_monotonic_increasing
        assert not scores["anomaly"].any()
        assert ("repaired: " in err) == (name in ("doubled", "unsorted", "infinite"))


@pytest.mark.parametrize("value", [0, 5, 1e6])
def test_nothing_ever_happens(ask, tmp_path, value):
    """Five hours of one constant value: a score of 0, and no incident by either threshold."""
    text = "timestamp,a__x,b__y\n" + "".join(f"{1_700_000_000 + 60 * i},{value},1\n" for i in range(300))
    path, out = write(tmp_path / "t.csv", text), tmp_path / "s.parquet"
    assert ask("score", path, "--out", out, *QUICK)[0] == 0
    scores = pd.read_parquet(out)
    assert (scores["score"] == 0).all()
    assert not scores["anomaly"].any()
    assert "no incidents" in ask("detect", path, *QUICK)[1]


def test_ten_thousand_kpis(ask, tmp_path):
    """A very wide table is scored like another."""
    names = [f"s{i % 50}__kpi{i}" for i in range(10_000)]
    values = np.random.default_rng(0).normal(5, 1, (40, 10_000))
    stamps = pd.DataFrame({"timestamp": START + pd.to_timedelta(np.arange(40), "min")})
    pd.concat([stamps, pd.DataFrame(values, columns=names)], axis=1).to_parquet(tmp_path / "wide.parquet")
    out = tmp_path / "s.parquet"
    code, _, err = ask("score", tmp_path / "wide.parquet", "--out", out, *QUICK)
    assert code == 0, err
    assert pd.read_parquet(out).shape == (40, 54)


def test_unsorted_pieces_are_refused(ask, tmp_path, monkeypatch):
    """What streaming can't sort is said, with the way out; that way works."""
    monkeypatch.setenv("FORESHOCK__MEMORY__ROWS", "10")
    text = "timestamp,a\n" + "".join(f"{stamp},1\n" for stamp in reversed(STAMPS))
    path = write(tmp_path / "t.csv", text)
    code, _, err = ask("score", path, "--out", tmp_path / "s.csv", *QUICK)
    assert code == 2
    assert "foreshock inspect INPUT --repair OUT" in err
    assert ask("inspect", path, "--repair", tmp_path / "fixed.csv")[0] == 0
    assert ask("score", tmp_path / "fixed.csv", "--out", tmp_path / "s.csv", *QUICK)[0] == 0


# -------------------------------------------------------------------------------------- detect and inspect


def test_detect_names_the_service(ask, shop):
    """The jump becomes an incident whose first service is the right one."""
    code, out, err = ask("detect", shop, "--json", *QUICK)
    assert code == 0, err
    facts = json.loads(out)
    assert facts["rows"] == 400
    surest = max(facts["incidents"], key=lambda incident: incident["peak_score"])
    assert surest["cause"]["services"][0]["name"] == "s1"
    assert "2026-03-02T12:5" in surest["start_time"] or "2026-03-02T13:0" in surest["start_time"]
    assert 0.9 <= surest["confidence"] <= 1
    assert facts["threshold"]["false_alarms_per_day"] == 1.0


def test_detect_in_words(ask, shop):
    """People get since when, which service, how sure."""
    code, out, _ = ask("detect", shop, *QUICK)
    assert code == 0
    assert "since 2026-03-02T1" in out
    assert "s1" in out
    assert "% sure" in out


def test_quiet_data_has_no_incidents(ask, tmp_path):
    """Exit code 0 and the words for it."""
    text = "timestamp,a\n" + "".join(f"{stamp},5\n" for stamp in STAMPS)
    code, out, _ = ask("detect", write(tmp_path / "t.csv", text), *QUICK)
    assert code == 0
    assert "no incidents" in out


def test_detect_checks_the_report_first(ask, shop, tmp_path):
    """A report that exists or has a wrong ending is refused before anything is read."""
    page = write(tmp_path / "r.html", "mine")
    assert ask("detect", tmp_path / "none.csv", "--report", page)[2].startswith(f"error: {page} exists")
    assert "needs .html" in ask("detect", shop, "--report", tmp_path / "r.pdf")[2]


def test_inspect_tells_and_repairs(ask, tmp_path):
    """Doubled rows are found; the mended table reads back without them."""
    text = "timestamp,a,b\n" + "".join(f"{stamp},{i},1\n" for i, stamp in enumerate(STAMPS + STAMPS[-1:]))
    path, out = write(tmp_path / "t.csv", text), tmp_path / "fixed.parquet"
    code, told, _ = ask("inspect", path, "--repair", out)
    assert code == 0
    assert "written: " in told
    assert len(pd.read_parquet(out)) == 60
    facts = json.loads(ask("inspect", path, "--json")[1])
    assert facts["rows"] == 61
    assert facts["duplicates"] + facts["conflicts"] == 1
    assert ask("inspect", path, "--repair", out)[0] == 2


# ------------------------------------------------------------------------------------------ runs and config


def test_runs_are_kept_when_asked(ask, shop, tmp_path):
    """--log keeps config, model facts and peaks; list, show and compare read them."""
    log = tmp_path / "runs"
    for k in (1, 2):
        words = ("score", shop, "--out", tmp_path / f"{k}.csv", "--log", log, "--false-alarms", k, *QUICK)
        assert ask(*words)[0] == 0
    listed = json.loads(ask("runs", "list", "--log", log, "--json")[1])
    assert [entry["status"] for entry in listed] == ["done", "done"]
    shown = json.loads(ask("runs", "show", "latest", "--log", log, "--json")[1])
    assert {line["kind"] for line in shown["metrics"]} >= {"phase", "score"}
    a, b = (entry["id"] for entry in listed)
    different = json.loads(ask("runs", "compare", a, b, "--log", log, "--json")[1])["config"]
    assert sorted(different["threshold.false_alarms_per_day.value"]) == [1.0, 2.0]
    for words in (("list",), ("show", a), ("compare", a, b)):
        assert a in ask("runs", *words, "--log", log)[1]


def test_a_failed_run_is_logged(ask, tmp_path):
    """The log of a run that failed says so."""
    path = write(tmp_path / "t.csv", "timestamp,a\n")
    ask("score", path, "--out", tmp_path / "s.csv", "--log", tmp_path / "runs", *QUICK)
    (entry,) = json.loads(ask("runs", "list", "--log", tmp_path / "runs", "--json")[1])
    assert entry["status"] == "failed"


def test_config_show_tells_origins(ask, monkeypatch):
    """Each value with the layer it comes from."""
    monkeypatch.setenv("FORESHOCK__WINDOW__STRIDE", "16")
    facts = json.loads(ask("config", "show", "--preset", "cpu", "--offline", "--json")[1])
    assert facts["window.stride"] == {"value": 16, "origin": "environment FORESHOCK__WINDOW__STRIDE"}
    assert facts["window.length"]["origin"] == "preset cpu"
    assert facts["detector.causal"] == {"value": False, "origin": "flag --offline"}
    assert "flag --offline" in ask("config", "show", "--offline")[1]
    assert "properties" in json.loads(ask("config", "schema")[1])


def test_simulate_makes_a_readable_recording(ask, tmp_path):
    """The files exist, are not overwritten, and can be scored."""
    assert ask("simulate", "--out", tmp_path, "--rows", 100)[0] == 0
    assert ask("simulate", "--out", tmp_path, "--rows", 100)[0] == 2
    assert "100 rows" in ask("inspect", tmp_path / "recording.parquet")[1]


def test_simulate_knows_its_systems(ask, tmp_path):
    """Train Ticket unless asked otherwise; Parquet alone when no CSV is wanted; a mistake is named."""
    code, out, _ = ask("simulate", "--out", tmp_path / "a", "--rows", 60, "--no-csv", "--json")
    facts = json.loads(out)
    assert (code, facts["system"], facts["kpis"], facts["rows"]) == (0, "trainticket", 88, 60)
    assert not (tmp_path / "a" / "recording.csv").exists()
    out = ask("simulate", "--out", tmp_path / "b", "--rows", 60, "--system", "shop", "--json")[1]
    assert json.loads(out)["kpis"] == 50
    code, _, err = ask("simulate", "--out", tmp_path / "c", "--system", "shops")
    assert code == 2
    assert "did you mean 'shop'?" in err


# ---------------------------------------------------------------------------- weights, training, the machine


def test_weights_are_listed_verified_and_copied(ask, tmp_path):
    """nano is here and whole; a copy is too, until one byte of it flips."""
    (nano,) = [one for one in json.loads(ask("weights", "list", "--json")[1]) if one["name"] == "nano"]
    assert nano["parameters"] > 100_000
    assert nano["has_sha256"]
    assert Path(ask("weights", "path")[1].strip()) == Path(nano["folder"])
    copy = tmp_path / "copy"
    assert ask("weights", "export", "nano", copy)[0] == 0
    assert ask("weights", "export", "nano", copy)[0] == 2
    assert ask("weights", "verify", copy)[0] == 0
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    code, _, err = ask("weights", "verify", copy)
    assert code == 2
    assert "sha256" in err
    code, _, err = ask("score", "demo:", "--model", copy, "--out", tmp_path / "s.csv")
    assert code == 2
    assert "model.safetensors" in err


def test_pulling_without_a_network(ask, monkeypatch):
    """Exit code 2 at once, and what to do instead."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = ask("weights", "pull", "AutonLab/MOMENT-1-none")
    assert code == 2
    assert "config.json" in err


def test_training_makes_a_checkpoint(ask, tmp_path):
    """A config of a few lines, a tiny network, three steps; mistakes have their line."""
    config = write(
        tmp_path / "p.yaml",
        f"out: {tmp_path / 'run'}\nmodel: {{d_model: 32, d_ff: 32, d_kv: 16, num_heads: 2, num_layers: 1}}\n",
    )
    code, out, err = ask("pretrain", config, "--steps", 3, "--json")
    assert code == 0, err
    assert (Path(json.loads(out)["folder"]) / "model.safetensors").is_file()
    config.write_text("model:\n  d_modle: 32\n")
    assert (
        "p.yaml:2: there is no setting 'model.d_modle'; did you mean 'd_model'?" in ask("pretrain", config)[2]
    )


def test_doctor_looks_at_everything(ask):
    """All is well here, or it says what is broken."""
    code, out, _ = ask("doctor", "--json")
    facts = json.loads(out)
    assert code == (0 if facts["ok"] else 1)
    found = {check["what"]: check["found"] for check in facts["checks"]}
    assert {"python", "torch", "memory", "threads", "weights nano", "speed", "extra hub"} <= set(found)


def test_a_budget_too_small(ask, shop, tmp_path, monkeypatch):
    """Nothing fits: exit code 3, with what is needed."""
    monkeypatch.setenv("FORESHOCK__MEMORY__BUDGET", "1MB")
    for words in (("score", shop, "--out", tmp_path / "s.csv"), ("detect", shop)):
        code, _, err = ask(*words, *QUICK)
        assert code == 3, words
        assert "memory.budget" in err


def test_as_live_is_not_offline(ask, shop):
    code, _, err = ask("detect", shop, "--as-live", "--offline")
    assert code == 2
    assert "leave one of them out" in err


@pytest.mark.parametrize("command", ["score", "detect"])
@pytest.mark.parametrize("detector", ["past_median", "rolling_variance"])
def test_memory_that_runs_out_half_way(ask, shop, tmp_path, monkeypatch, command, detector):
    """Rows are scored again in smaller batches, with the same result, and that is said and logged."""
    from foreshock.models.evidence import EvidenceStream
    from foreshock.models.oneline import _OneLinerStream

    def answer(name):
        more = ("--out", tmp_path / f"{name}.csv") if command == "score" else ("--json",)
        words = (command, shop, *more, "--detector", detector, "--log", tmp_path / name)
        code, out, err = ask(*words)
        assert code == 0, err
        if command == "score":
            return pd.read_csv(tmp_path / f"{name}.csv"), err
        return pd.DataFrame(json.loads(out)["incidents"])[["start_time", "end_time", "peak_score"]], err

    wanted, _ = answer("roomy")
    for kind in (EvidenceStream, _OneLinerStream):
        whole = kind.push

        def push(stream, piece, whole=whole):
            if len(piece) > 120:
                whole(stream, piece.rows(slice(0, 70)))  # its state has changed when memory runs out
                raise MemoryError
            return whole(stream, piece)

        monkeypatch.setattr(kind, "push", push)
    got, err = answer("tight")
    pd.testing.assert_frame_equal(got, wanted, rtol=1e-5)
    passes = 1 if command == "score" else 2  # the first rows once more, in hindsight
    assert err.count("rows at once from here on: memory ran out") == 2 * passes  # 400, 200, 100
    lines = next((tmp_path / "tight").glob("*/metrics.jsonl")).read_text().splitlines()
    assert [line["rows"] for line in map(json.loads, lines) if line["kind"] == "shrink"] == [
        200,
        100,
    ] * passes


def test_a_budget_that_is_near(ask, shop, tmp_path, monkeypatch):
    """Batches shrink before it is passed; only where one row doesn't fit is it exit code 3."""
    from foreshock import memory
    from foreshock.cli.steps import SCORED_CELL_BYTES

    held = {"bytes": 10_000_000}
    row = SCORED_CELL_BYTES * 6
    monkeypatch.setattr("foreshock.cli.steps.KPI_BYTES", 0)
    monkeypatch.setattr("foreshock.cli.steps.NETWORK_CELL_BYTES", SCORED_CELL_BYTES)  # other tests load torch
    monkeypatch.setattr(memory, "resident_bytes", lambda: held["bytes"])
    monkeypatch.setattr(memory, "_high_water_bytes", lambda: 0)
    monkeypatch.setenv("FORESHOCK__MEMORY__BUDGET", f"{10_000_000 + 30 * row}B")
    code, _, err = ask("detect", shop, *QUICK)
    assert code == 0, err
    assert "scoring 25 rows at once from here on: the next batch would have passed the budget" in err
    ask("score", shop, "--out", tmp_path / "near.parquet", *QUICK)
    monkeypatch.delenv("FORESHOCK__MEMORY__BUDGET")
    ask("score", shop, "--out", tmp_path / "roomy.parquet", *QUICK)
    near, roomy = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("near", "roomy"))
    pd.testing.assert_frame_equal(near, roomy)
    held["bytes"] += 30 * row
    monkeypatch.setenv("FORESHOCK__MEMORY__BUDGET", f"{10_000_000 + 30 * row}B")
    for words in (("detect", shop), ("score", shop, "--out", tmp_path / "none.csv")):
        code, _, err = ask(*words, *QUICK)
        assert (code, err.startswith("error: one row needs about")) == (3, True), err
    assert not (tmp_path / "none.csv").exists()


def test_settings_that_mean_nothing(ask, shop, tmp_path, monkeypatch):
    """A setting that somebody wrote is never dropped silently; one from a preset may be."""
    out = tmp_path / "s.csv"
    code, _, err = ask("score", shop, "--out", out, "--detector", "past_median", "--model", "nano")
    assert (code, err) == (2, "error: flag --model: detector.model means nothing to past_median.\n")
    assert ask("score", shop, "--out", out, "--preset", "cpu", *QUICK)[0] == 0


def test_the_whole_way_with_a_report(ask, answer):
    """nano, a recording with faults, a page: the services that failed are named."""
    facts, folder = answer
    named = {
        incident["cause"]["services"][0]["name"]
        for incident in facts["incidents"]
        if incident["cause"]["services"]
    }
    assert "payment" in named
    assert "<html" in (folder / "r.html").read_text("utf-8")
    run_ = json.loads(ask("runs", "show", "--log", folder / "runs", "--json")[1])
    assert run_["model"]["weights_sha256"]
    assert {line["phase"] for line in run_["metrics"] if line["kind"] == "phase"} == {
        "read",
        "score",
        "decide",
        "report",
    }


# ------------------------------------------------------------------------------------------- how it behaves


def test_a_killed_run_tells_how_far_it_came(shop, tmp_path):
    """Killed in the middle of a long table: every line of its log is whole, and `runs list` says killed."""
    long = tmp_path / "long.csv"
    lines = shop.read_text().splitlines()
    tails = [line.partition(",")[2] for line in lines[1:]]
    with long.open("w") as file:
        file.write(lines[0] + "\n")
        file.writelines(f"{1_700_000_000 + 60 * i},{tails[i % 400]}\n" for i in range(400_000))
    words = ["score", long, "--out", tmp_path / "s.csv", "--log", tmp_path / "runs", *QUICK]
    process = subprocess.Popen(
        [sys.executable, "-m", "foreshock", *map(str, words)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = list((tmp_path / "runs").glob("*/metrics.jsonl"))
        if found and found[0].stat().st_size:
            break
        time.sleep(0.05)
    process.kill()
    assert process.wait() != 0, "it was killed before it came to its end"
    facts = [json.loads(line) for line in found[0].read_text().splitlines()]
    assert facts[0]["kind"] == "progress"
    assert 0 < facts[0]["rows"] < 400_000
    [run_] = runlog.list_runs(tmp_path / "runs")
    assert run_.status == "killed"
    assert not (tmp_path / "s.csv").exists()


def test_unexpected_errors_are_ours(ask, shop, monkeypatch):
    """Exit code 1 and a hint; the traceback only with --debug."""

    def boom(*_, **__):
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("foreshock.sources.read", boom)
    code, _, err = ask("inspect", shop)
    assert code == 1
    assert err.startswith("error: ZeroDivisionError: boom (this is our bug")
    with pytest.raises(ZeroDivisionError):
        run(["inspect", str(shop)], debug=True)


@pytest.mark.parametrize(("error", "expected"), [(KeyboardInterrupt, 130), (MemoryError, 3)])
def test_interrupt_and_memory(ask, shop, monkeypatch, error, expected):
    """Ctrl-C is 130, memory that ran out is 3; one line each."""

    def boom(*_, **__):
        raise error

    monkeypatch.setattr("foreshock.sources.read", boom)
    code, _, err = ask("inspect", shop)
    assert code == expected
    assert err.count("\n") <= 1  # some versions of typer end an interrupt without a word


def test_openmp_waits_passively():
    """Set before torch is loaded, unless the user said otherwise."""
    code = "import foreshock.cli, os; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        more = {} if given is None else {"OMP_WAIT_POLICY": given}
        out = subprocess.run(
            [sys.executable, "-c", code], env=environment | more, capture_output=True, text=True
        )
        assert out.stdout.strip() == expected


def test_table_aligns():
    """Columns as wide as their widest cell, no blanks at the end."""
    assert table([("a", "bb"), ("ccc", "d")], ("x", "y")) == "x    y\na    bb\nccc  d"
    assert table([]) == ""


def test_one_is_not_counted_as_many():
    """1 row, 0 rows, thousands with commas."""
    assert [counted(n, "row") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
