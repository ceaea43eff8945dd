"""What `foreshock serve` makes of bad days: kills, a Prometheus in trouble, clocks that jump, wrong settings.

    python benchmarks/serve_trouble.py kill       # kill -9 at 50 random moments; 6 to 10 minutes
    python benchmarks/serve_trouble.py trouble    # one trouble after the other; about 8 minutes
    python benchmarks/serve_trouble.py --page     # write the table of docs/operations.md from the record

A made-up Prometheus (tests/fake_prometheus.py) tells three services' metrics at a row each 0.25 s; faults are
planted in one of them. A second process that nobody harms sees the same while the first is killed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from fake_prometheus import Fake  # noqa: E402
from serving import Serving  # noqa: E402

RECORD = ROOT / "benchmarks/results/serve_trouble.jsonl"
PAGE = ROOT / "docs/operations.md"
STEP_S, SERIES = 0.25, 9  # as in tests/serving.py
FAULT_S, EACH_S = 6.0, 40.0  # a planted fault lasts so long; the next one begins so long after it began
SLACK_S = (3.0, 8.0)  # an incident may begin so long before a fault was told, and end so long after it
KILLS = 50
STARTING, STARTING_S, RUNNING_S = 0.3, 6.0, 6.0  # share killed so soon after its start; after it listens
BEGIN = re.compile(r"<!-- table: troubles.*?<!-- end -->", re.S)


@dataclass
class Pager:
    """Takes a webhook's messages."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Pager:
        pager = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["content-length"])))
                pager.messages.append({"key": self.headers["X-Foreshock-Message"], **told})
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def watched(
    fake: Fake, serve: str = ", backlog_s: 300", detector: str = "robust_z"
) -> Iterator[tuple[Serving, Pager]]:
    """A service and who it tells, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, Pager() as pager:
        told = f", webhook: {{url: {pager.url}}}"
        with Serving(Path(folder), fake.url, alerts=told, serve=serve, detector=detector) as serving:
            yield serving, pager


def seconds(stamp: str | None) -> float:
    """Unix seconds of an ISO 8601 stamp; now for None."""
    if stamp is None:
        return time.time()
    from datetime import datetime

    return datetime.fromisoformat(stamp).timestamp()


def meets(start: float, end: float, fault: tuple[float, float]) -> bool:
    return start <= fault[1] + SLACK_S[1] and end >= fault[0] - SLACK_S[0]


def told_of(message: dict[str, Any]) -> tuple[str, str]:
    """Alert and incident of a webhook's message."""
    return message["labels"]["incident"], message["incident"]["id"]


def counted(
    faults: list[tuple[float, float]], incidents: list[dict[str, Any]], pager: Pager
) -> dict[str, int]:
    """Which planted faults became one incident and one alert that ended, and what else was told."""
    known = {i["id"]: (seconds(i["start"]), seconds(i["end"])) for i in incidents}
    spans = list(known.values())
    alerts: dict[
        tuple[str, str], tuple[float, float]
    ] = {}  # an alert goes on with sequels: (alert, incident)
    last = {told_of(m)[0]: m["status"] for m in pager.messages}
    for m in pager.messages:
        event, id = m["incident"]["event"], m["incident"]["id"]
        span = (seconds(event["start_time"]), seconds(event["end_time"]))
        alerts[told_of(m)] = known.get(id, span)  # where a sequel went on, its end was not told on its own
    out: Counter[str] = Counter()
    for fault in faults:
        found = sum(meets(*span, fault) for span in spans)
        names = [name for name, span in alerts.items() if meets(*span, fault)]
        out["incidents_lost"] += found == 0
        out["incidents_twice"] += max(0, found - 1)
        out["alerts_lost"] += not names
        out["alerts_twice"] += max(0, len(names) - 1)
        out["alerts_without_end"] += sum(last[name] != "resolved" for name, _ in names)
    out["false_incidents"] = sum(not any(meets(*span, f) for f in faults) for span in spans)
    out["false_alerts"] = sum(not any(meets(*span, f) for f in faults) for span in alerts.values())
    out["open_at_the_end"] = sum(i["state"] == "open" for i in incidents)
    keys = Counter(m["key"] for m in pager.messages)
    out["messages"] = len(pager.messages)
    out["messages_again"] = sum(count - 1 for count in keys.values())
    return {"faults": len(faults), **out}


# ------------------------------------------------------------------------------------------------- kill


def killed(kills: int, seed: int, each_s: float, detector: str) -> dict[str, Any]:
    """kill -9 at random moments of a process's life, start and back-fill included."""
    chance = random.Random(seed)
    with (
        Fake() as fake,
        watched(fake, detector=detector) as (calm, calm_pager),
        watched(fake, detector=detector) as (harmed, pager),
    ):
        calm.start()
        began = time.time()
        every = [(began + 8 + each_s * i, began + 8 + each_s * i + FAULT_S) for i in range(1_000)]
        fake.faults = every
        phases: Counter[str] = Counter()
        for number in range(kills):
            if chance.random() < STARTING:
                at = harmed.spawn()
                time.sleep(chance.uniform(0, STARTING_S))
            else:
                at = harmed.log.stat().st_size if harmed.log.exists() else 0
                harmed.start(phase="")
                time.sleep(chance.uniform(0, RUNNING_S))
            kinds = {note["kind"] for note in harmed.notes("", at)}
            phase = "watching" if "back_filled" in kinds else "reading back" if kinds else "starting"
            phases[phase] += 1
            harmed.kill()
            print(f"kill {number + 1}: {phase}", flush=True)
        fake.faults = faults = [f for f in every if f[0] < time.time()]
        harmed.start()
        ended = time.time()
        time.sleep(max(0.0, faults[-1][1] - time.time()) + 15)
        out = counted(faults, harmed.incidents(), pager)
        beside = counted(faults, calm.incidents(), calm_pager)
        assert harmed.stop() == 0
    return {
        "kind": "kill", "detector": detector, "kills": kills, "seed": seed, "each_s": each_s,
        "seconds": round(ended - began, 1), "killed_while": dict(phases), "harmed": out, "unharmed": beside,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- trouble


def during(mode: str, lasting_s: float) -> Callable[[Fake, Serving], None]:
    """Answers of this kind for so long, with a fault in the middle of it."""

    def work(fake: Fake, serving: Serving) -> None:
        fake.mode = mode
        plant(fake, time.time() + lasting_s / 2 - FAULT_S / 2)
        time.sleep(lasting_s)
        fake.mode = "ok"

    return work


def plant(fake: Fake, start: float) -> None:
    fake.faults.append((start, start + FAULT_S))


def away(lasting_s: float) -> Callable[[Fake, Serving], None]:
    """Nobody listens for so long; a fault happens meanwhile."""

    def work(fake: Fake, serving: Serving) -> None:
        fake.leave()
        plant(fake, time.time() + lasting_s / 2)
        time.sleep(lasting_s)
        fake.come_back()

    return work


def no_answers_in_it(fake: Fake, serving: Serving) -> None:
    """Success without any series for ten seconds, then a fault."""
    fake.mode = "empty"
    time.sleep(10)
    fake.mode = "ok"
    plant(fake, time.time() + 2)
    time.sleep(FAULT_S + 2)


def doubled(fake: Fake, serving: Serving) -> None:
    """Each sample twice, a fault among them."""
    fake.twice = True
    plant(fake, time.time() + 5)
    time.sleep(FAULT_S + 10)
    fake.twice = False


def late(fake: Fake, serving: Serving) -> None:
    """A service's samples come two seconds late, eight rows, before, in and after a fault."""
    fake.late_s = 2.0
    plant(fake, time.time() + 5)
    time.sleep(FAULT_S + 10)
    fake.late_s = 0.0


def clock_ahead(fake: Fake, serving: Serving) -> None:
    """Prometheus's clock jumps half an hour ahead: no samples in between; a fault afterwards."""
    fake.holes.append((time.time() + 0.5, time.time() + 1_800))
    time.sleep(0.5)
    fake.clock_s = 1_800
    time.sleep(5)
    plant(fake, fake.now_s + 2)
    time.sleep(FAULT_S + 4)


def clock_back(fake: Fake, serving: Serving) -> None:
    """It jumps back by that half hour; a fault afterwards."""
    fake.holes.clear()
    fake.clock_s = 0
    time.sleep(5)
    plant(fake, fake.now_s + 2)
    time.sleep(FAULT_S + 4)


def clock_a_little_back(fake: Fake, serving: Serving) -> None:
    """Three seconds back, as NTP may do, with a fault afterwards."""
    fake.clock_s -= 3
    time.sleep(5)
    plant(fake, fake.now_s + 2)
    time.sleep(FAULT_S + 4)
    fake.clock_s += 3


def bad_reload(fake: Fake, serving: Serving) -> None:
    """A mistake in the configuration, told to read anew in the middle of a fault: the old one stays."""
    text = serving.config.read_text()
    plant(fake, time.time() + 1)
    time.sleep(3)
    for wrong in (text + "nonsense: 1\n", text.replace("step_s: 0.25", "step_s: -1"), "a: [", ""):
        serving.config.write_text(wrong)
        serving.reload()
        serving.wait_for(lambda: serving.metric("foreshock_config_reload_success") == 0, 10)
    serving.config.write_text(text)
    serving.reload()
    serving.wait_for(lambda: serving.metric("foreshock_config_reload_success") == 1, 10)
    time.sleep(FAULT_S)


def good_reload(fake: Fake, serving: Serving) -> None:
    """Another threshold and other rules, so that everything is scored anew, in the middle of a fault."""
    text = serving.config.read_text()
    plant(fake, time.time() + 1)
    time.sleep(4)
    new = text.replace("lead_s: 5", "lead_s: 4").replace("per_day: 0.01", "per_day: 0.02")
    assert new != text
    serving.config.write_text(new)
    at = serving.log.stat().st_size
    serving.reload()
    serving.wait_for(lambda: serving.notes("back_filled", at), 20)
    (note,) = serving.notes("reloaded", at)
    assert note["changed"] == ["score"]
    time.sleep(FAULT_S)


TROUBLES: dict[str, tuple[str, Callable[[Fake, Serving], None]]] = {
    "away": ("away for two minutes", away(120)),
    "500": ("answers 500 for 15 s", during("500", 15)),
    "503": ("answers 503 for 15 s", during("503", 15)),
    "malformed": ("answers cut JSON for 15 s", during("malformed", 15)),
    "html": ("answers a page of HTML for 15 s", during("html", 15)),
    "slow": ("answers after 3 s, the time-out is 1 s, for 15 s", during("slow", 15)),
    "cut": ("hangs up for 15 s", during("cut", 15)),
    "empty": ("tells of no series for 10 s", no_answers_in_it),
    "doubled": ("tells each sample twice", doubled),
    "late": ("a service's samples come 2 s (8 rows) late", late),
    "clock_a_little_back": ("its clock goes back by 3 s", clock_a_little_back),
    "clock_ahead": ("its clock jumps ahead by 30 minutes", clock_ahead),
    "clock_back": ("and back by 30 minutes", clock_back),
    "bad_reload": ("four wrong configurations are read in a fault", bad_reload),
    "good_reload": ("another threshold and other rules are read in a fault", good_reload),
}  # fmt: skip


def troubled(names: list[str]) -> Iterator[dict[str, Any]]:
    """One trouble after the other, all in one process."""
    with Fake() as fake, watched(fake) as (serving, pager):
        serving.start()
        time.sleep(10)
        for name in names:
            words, work = TROUBLES[name]
            before = {i["id"] for i in serving.incidents()}
            pager.messages.clear()
            fake.faults.clear()
            dropped, rows = serving.metric("foreshock_dropped_points_total"), cycles(serving)
            work(fake, serving)
            back = time.monotonic()
            serving.wait_for(lambda: serving.metric("foreshock_lag_seconds") < 6 * STEP_S, 60)
            recovery_s = time.monotonic() - back
            wait = max(0.0, fake.faults[-1][1] - fake.now_s)
            time.sleep(wait + 14)
            new = [i for i in serving.incidents() if i["id"] not in before]
            yield {
                "kind": "trouble", "trouble": name, "words": words,
                "recovery_s": round(recovery_s, 2), "cycles": cycles(serving) - rows,
                "dropped_points": serving.metric("foreshock_dropped_points_total") - dropped,
                **counted(list(fake.faults), new, pager),
            }  # fmt: skip
        assert serving.stop() == 0


def cycles(serving: Serving) -> float:
    return serving.metric("foreshock_cycles_total")


def backlogged() -> dict[str, Any]:
    """Away for longer than the backlog: the oldest rows are dropped and counted, the newest scored."""
    kept_s, lasting_s = 15.0, 30.0
    with Fake() as fake, watched(fake, serve=f", backlog_s: {kept_s:g}") as (serving, pager):
        serving.start()
        time.sleep(5)
        before = {i["id"] for i in serving.incidents()}
        pager.messages.clear()
        fake.leave()
        began = time.time()
        plant(fake, began + 2)  # among the rows that are dropped
        plant(fake, began + lasting_s - FAULT_S - 2)  # among those that are not
        time.sleep(lasting_s)
        fake.come_back()
        serving.wait_for(lambda: serving.metric("foreshock_lag_seconds") < 6 * STEP_S, 60)
        gone_s = time.time() - began
        time.sleep(14)
        told = {
            "kind": "backlog", "away_s": round(gone_s, 1), "backlog_s": kept_s,
            "dropped_points": serving.metric("foreshock_dropped_points_total"),
            "expected_points": round((gone_s - kept_s) / STEP_S * SERIES),
            **counted(fake.faults[1:], [i for i in serving.incidents() if i["id"] not in before], pager),
        }  # fmt: skip
        assert serving.stop() == 0
    return told


# ------------------------------------------------------------------------------------------------- page


def table(records: list[dict[str, Any]]) -> str:
    """The newest record of each kind, of kills of each detector and seed."""
    newest = {(r["kind"], r.get("trouble", "")): r for r in records}
    kills = {(r["detector"], r["seed"]): r for r in records if r["kind"] == "kill"}
    lines = [
        "| What | Faults planted | Incidents lost, twice, false | Alerts lost, twice, false | Back after |",
        "|---|---|---|---|---|",
    ]

    def line(what: str, r: dict[str, Any], back: str) -> str:
        incidents, alerts = (
            ", ".join(str(r[n]) for n in (f"{k}_lost", f"{k}_twice", f"false_{k}"))
            for k in ("incidents", "alerts")
        )
        return f"| {what} | {r['faults']} | {incidents} | {alerts} | {back} |"

    for r in kills.values():
        what = f"killed at {r['kills']} random moments in {r['seconds'] / 60:.0f} minutes, a fault each "
        what += f"{r['each_s']:.0f} s ({r['detector']})"
        lines.append(line(what, r["harmed"], "–"))
        lines.append(line("the process beside it that nobody harmed", r["unharmed"], "–"))
    for name, (words, _) in TROUBLES.items():
        if r := newest.get(("trouble", name)):
            lines.append(line(f"Prometheus: {words}" if "reload" not in name else words, r,
                              f"{r['recovery_s']:.1f} s"))  # fmt: skip
    if r := newest.get(("backlog", "")):
        what = f"Prometheus: away for {r['away_s']:.0f} s with `backlog_s` at {r['backlog_s']:g}"
        dropped = f"{r['dropped_points']:,.0f} values dropped, {r['expected_points']:,} expected"
        lines.append(line(f"{what}; {dropped}", r, "–"))
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its table written anew."""
    records = [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []
    block = "<!-- table: troubles, written by: python benchmarks/serve_trouble.py --page -->"
    return BEGIN.sub(lambda _: f"{block}\n{table(records)}\n<!-- end -->", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", help="kill, trouble, backlog, or single troubles")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--each", type=float, default=EACH_S, help="seconds from fault to fault while killing"
    )
    parser.add_argument("--detector", default="robust_z", help="that watches while processes are killed")
    parser.add_argument("--record", type=Path, default=RECORD)
    told = parser.parse_args()
    for what in told.what:
        if what == "kill":
            keep(told.record, killed(told.kills, told.seed, told.each, told.detector))
        elif what == "backlog":
            keep(told.record, backlogged())
        else:
            for record in troubled(list(TROUBLES) if what == "trouble" else what.split(",")):
                keep(told.record, record)
    if told.page:
        PAGE.write_text(page(PAGE.read_text("utf-8")), encoding="utf-8")


def keep(path: Path, record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as out:
        out.write(json.dumps(record, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
