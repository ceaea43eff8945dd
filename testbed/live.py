"""A run of the bench: settle, stay quiet, inject fault after fault, and say what was found.

`python -m testbed.live` for all ten faults, `--small` for a check of two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from testbed.bench import SPARE, Bench, Note, Size, running
from testbed.plan import FULL, SMALL, Fault, Plan
from testbed.processes import Child, free_ports

CALM_S = 120.0  # an incident of the start is waited for so long
LATE_S = 120.0  # an alert that does not end so long after its fault is told as not ended


@dataclass
class Outcome:
    """What became of one fault. Seconds are counted from its injection, None: it did not happen."""

    fault: Fault
    begun: float  # Unix seconds
    ended: float = 0.0
    incident: int | None = None
    found_after_s: float | None = None
    alert_after_s: float | None = None  # Alertmanager's message came
    resolved_after_end_s: float | None = None  # from the fault's end on
    first: str | None = None  # service ranked first while the fault lasted
    at_once: str | None = None  # service ranked first when it was found
    is_named: bool = False  # the headline names it rather than "unknown"
    confidence: float | None = None
    headline: str | None = None
    told: float = field(default=0.0, repr=False)

    @property
    def is_found(self) -> bool:
        return self.found_after_s is not None

    @property
    def is_right(self) -> bool:
        return self.first == self.fault.service

    def line(self) -> str:
        if self.found_after_s is None:
            return f"{self.fault.name:<22} not found"

        def after(seconds: float | None, word: str) -> str:
            return f"no {word}" if seconds is None else f"{word} {seconds:5.1f} s"

        return (
            f"{self.fault.name:<22} found after {self.found_after_s:5.1f} s, "
            f"{after(self.alert_after_s, 'alert')}, "
            f"{after(self.resolved_after_end_s, 'resolved')} after its end, "
            f"first {self.first or 'none'}{'' if self.is_right else ' (wrong)'} · {self.headline}"
        )


async def _asked(bench: Bench, url: str) -> dict[str, Any]:
    async with bench.http.get(url, timeout=aiohttp.ClientTimeout(total=10)) as answer:
        told: dict[str, Any] = await answer.json()
    return told


async def inject(bench: Bench, url: str, fault: Fault, seconds: float) -> Outcome:
    """Break one thing, mend it, and note what was told in between."""
    before = {i["id"] for i in (await _asked(bench, url))["incidents"]}
    outcome = Outcome(fault, time.time())
    await bench.fault(fault.service, fault.kind, fault.amount)
    while time.time() - outcome.begun < seconds:
        await asyncio.sleep(0.5)
        told = await _asked(bench, url)
        new = [i for i in told["incidents"] if i["id"] not in before]
        if not new:
            continue
        incident = new[0]
        cause = incident["cause"]
        if outcome.incident is None:
            outcome.incident = incident["id"]
            outcome.found_after_s = incident["found_at"] - outcome.begun
            first = incident["first_cause"]["services"]
            outcome.at_once = first[0]["name"] if first else None
        outcome.first = cause["services"][0]["name"] if cause["services"] else None
        outcome.is_named, outcome.headline = cause["is_known"], cause["headline"]
        outcome.confidence = cause["confidence"]
    await bench.end(fault.service, fault.kind)
    outcome.ended = time.time()
    return outcome


def _note(bench: Bench, incident: int | None, status: str) -> Note | None:
    return next(
        (n for n in bench.notes if n.status == status and n.labels.get("incident") == str(incident)), None
    )


async def settled(bench: Bench, outcome: Outcome, rest_s: float) -> None:
    """Wait until the alert has ended, and at least `rest_s`."""
    while time.time() - outcome.ended < LATE_S:
        fired, over = (_note(bench, outcome.incident, s) for s in ("firing", "resolved"))
        outcome.alert_after_s = fired.at - outcome.begun if fired else None
        outcome.resolved_after_end_s = over.at - outcome.ended if over else None
        if time.time() - outcome.ended >= rest_s and (over or outcome.incident is None):
            return
        await asyncio.sleep(0.5)


async def calm(bench: Bench, url: str) -> None:
    """Wait for open incidents to end, so that none swallows the first fault; two minutes at most."""
    began = time.time()
    while time.time() - began < CALM_S:
        told = await _asked(bench, url)
        if all(i["ended_at"] is not None for i in told["incidents"]):
            return
        await asyncio.sleep(1.0)


async def run(plan: Plan, size: Size, folder: Path) -> dict[str, Any]:
    """One whole run; prints as it goes."""
    async with running(folder, size) as bench:
        began = time.time()
        say(f"shop up in {folder}; settling for {plan.settle_s:g} s")
        port = free_ports(1)[0]
        url = f"http://127.0.0.1:{port}/"
        await asyncio.sleep(plan.blind_s)
        command = [
            sys.executable, "-m", "testbed.watch", "--prometheus", bench.prometheus_url,
            "--alertmanager", bench.alertmanager_url, "--port", str(port),
            "--since", f"{began + size.window_s:.0f}",
            "--step-s", f"{size.step_s:g}", "--window-s", f"{size.window_s:g}", "--press", f"{size.press:g}",
        ]  # fmt: skip
        await bench.add(Child("watch", command, folder / "watch.log", url, SPARE))
        await asyncio.sleep(max(0.0, began + plan.settle_s - time.time()))
        early = (await _asked(bench, url))["incidents"]
        quiet = time.time()
        say(f"quiet for {plan.quiet_s:g} s; {len(early)} incidents while settling")
        await asyncio.sleep(plan.quiet_s)
        told = await _asked(bench, url)
        false = [i for i in told["incidents"] if i["found_at"] >= quiet]
        still = [i["id"] for i in told["incidents"] if i["ended_at"] is None]
        say(f"{len(false)} false in quiet time; {told['kpis']} KPIs, threshold {told['threshold']}")
        await calm(bench, url)
        outcomes = []
        for fault in plan.faults:
            outcome = await inject(bench, url, fault, plan.fault_s)
            await settled(bench, outcome, plan.rest_s)
            outcomes.append(outcome)
            say(outcome.line())
        told = await _asked(bench, url)
    known = {i["id"] for i in (*early, *false)} | {o.incident for o in outcomes}
    between = [i for i in told["incidents"] if i["id"] not in known]
    return {
        "kind": "run",
        "began": round(began, 3),
        "plan": {k: v for k, v in asdict(plan).items() if k != "faults"},
        "size": asdict(size),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "kpis": told["kpis"],
        "rows": told["rows"],
        "faults": len(outcomes),
        "found": sum(o.is_found for o in outcomes),
        "found_within_60_s": sum(o.is_found and (o.found_after_s or 0) <= 60 for o in outcomes),
        "right_first": sum(o.is_right for o in outcomes),
        "right_first_at_once": sum(o.at_once == o.fault.service for o in outcomes),
        "named": sum(o.is_named for o in outcomes),
        "named_wrong": sum(o.is_named and not o.is_right for o in outcomes),
        "alerts": sum(o.alert_after_s is not None for o in outcomes),
        "resolved": sum(o.resolved_after_end_s is not None for o in outcomes),
        "false_while_settling": len(early),
        "false_in_quiet": len(false),
        "open_after_quiet": len(still),
        "others_between_faults": [
            {"found_at": round(i["found_at"], 1), "headline": i["cause"]["headline"]} for i in between
        ],
        "visitors": dict(bench.visitors.answers),
        "cycle_s": _quantiles(told["cycle_s"]),
        "outcomes": [_plain(o) for o in outcomes],
    }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {n: round(ordered[int(q * (len(ordered) - 1))], 4) for n, q in (("p50", 0.5), ("p99", 0.99))}


def _plain(outcome: Outcome) -> dict[str, Any]:
    fault = asdict(outcome.fault)
    told = {k: v for k, v in asdict(outcome).items() if k not in ("fault", "told", "begun", "ended")}
    rounded = {k: round(v, 2) if isinstance(v, float) else v for k, v in told.items()}
    return {
        **fault, **rounded, "lasted_s": round(outcome.ended - outcome.begun, 1), "is_right": outcome.is_right,
    }  # fmt: skip


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S', time.gmtime())}  {text}", flush=True)


def verdict(record: dict[str, Any]) -> str:
    return (
        f"{record['found_within_60_s']} of {record['faults']} found within 60 s, right service first in "
        f"{record['right_first']}, {record['alerts']} alerts, {record['resolved']} resolved; "
        f"{record['false_in_quiet']} false in {record['plan']['quiet_s'] / 60:g} quiet minutes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="testbed.live", description=__doc__)
    parser.add_argument("--small", action="store_true", help="two faults; fails if one is missed")
    parser.add_argument("--record", type=Path, help="append what was found to this JSONL file")
    parser.add_argument("--folder", type=Path, help="where logs and data go (default: a temporary folder)")
    told = parser.parse_args()
    plan, size = SMALL if told.small else FULL
    with tempfile.TemporaryDirectory(prefix="testbed-") as spare:
        record = asyncio.run(run(plan, size, told.folder or Path(spare)))
    say(verdict(record))
    if told.record:
        told.record.parent.mkdir(parents=True, exist_ok=True)
        with told.record.open("a") as out:
            out.write(json.dumps(record, sort_keys=True) + "\n")
    if told.small:
        wanted = record["faults"]
        missed = [n for n in ("found_within_60_s", "alerts", "resolved") if record[n] < wanted]
        if missed:
            sys.exit(f"expected {wanted} of each, but {', '.join(f'{n} is {record[n]}' for n in missed)}")


if __name__ == "__main__":
    main()
