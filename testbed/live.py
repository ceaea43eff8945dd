"""A run of the bench: settle, stay quiet, inject fault after fault, and say what was found.

`python -m testbed.live` for all ten faults, `--small` for a check of two.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed.bench import Bench, Note, Size, running
from testbed.plan import FULL, SMALL, Fault, Plan
from testbed.processes import free_ports
from testbed.service import Watch, configuration, service

CALM_S = 120.0  # an incident that runs before a fault is waited for so long


@dataclass
class Outcome:
    """What became of one fault. Seconds are counted from its injection, None: it did not happen."""

    fault: Fault
    begun: float  # Unix seconds
    ended: float = 0.0
    incident: str | None = None
    found_after_s: float | None = None
    alert_after_s: float | None = None  # Alertmanager's message came
    resolved_after_end_s: float | None = None  # from the fault's end on
    first: str | None = None  # service ranked first while the fault lasted
    at_once: str | None = None  # service ranked first when it was found
    is_named: bool = False  # the headline names it rather than "unknown"
    confidence: float | None = None
    headline: str | None = None
    peak_share: float | None = None  # highest score so far, as a multiple of its threshold
    attempts: int = 1

    @property
    def is_found(self) -> bool:
        return self.found_after_s is not None

    @property
    def is_right(self) -> bool:
        return self.first == self.fault.service

    @property
    def is_whole(self) -> bool:
        """Found, told, and told as over."""
        return self.is_found and self.alert_after_s is not None and self.resolved_after_end_s is not None

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


def _told(bench: Bench, incident: str | None, status: str) -> Note | None:
    """The first message to the pager whose link leads to an incident (a sequel has its first one's name)."""
    return next((n for n in bench.notes if n.status == status and n.incident == incident and incident), None)


async def inject(bench: Bench, watch: Watch, fault: Fault, plan: Plan) -> Outcome:
    """Break one thing, mend it, and note what was told in between."""
    before = set(watch.sightings)
    outcome = Outcome(fault, time.time())
    await bench.fault(fault.service, fault.kind, fault.amount)
    while (lasted := time.time() - outcome.begun) < plan.fault_s:
        await asyncio.sleep(0.25)
        name = outcome.incident or next((i for i in watch.sightings if i not in before), None)
        if name is None:
            continue
        seen = watch.sightings[name]
        outcome.incident, outcome.found_after_s = name, seen.seen_at - outcome.begun
        outcome.at_once, outcome.first = seen.at_once, seen.first
        outcome.is_named, outcome.headline = seen.page["service"] is not None, seen.page["headline"]
        outcome.confidence = seen.page["confidence"]
        outcome.peak_share = _share(seen.page)
        if lasted >= plan.least_s and _told(bench, name, "firing"):
            break
    await bench.end(fault.service, fault.kind)
    outcome.ended = time.time()
    return outcome


def _share(page: dict[str, Any]) -> float | None:
    peak, level = page["peak_score"], page["threshold"]
    return None if peak is None or not level else peak / level


async def settled(bench: Bench, outcome: Outcome, plan: Plan) -> None:
    """Wait until the alert has ended, and at least the plan's rest."""
    while (since := time.time() - outcome.ended) < plan.late_s:
        fired, over = (_told(bench, outcome.incident, s) for s in ("firing", "resolved"))
        outcome.alert_after_s = fired.at - outcome.begun if fired else None
        outcome.resolved_after_end_s = over.at - outcome.ended if over else None
        if since >= plan.rest_s and (over or outcome.incident is None):
            return
        await asyncio.sleep(0.25)


async def calm(watch: Watch) -> None:
    """Wait for open incidents to end, so that none swallows a fault; two minutes at most."""
    began = time.time()
    while time.time() - began < CALM_S and any(s.is_open for s in watch.sightings.values()):
        await asyncio.sleep(0.5)


async def judged(bench: Bench, watch: Watch, fault: Fault, plan: Plan) -> Outcome:
    """Inject a fault, as often as the plan allows, until it is found, told and over."""
    for attempt in range(1, plan.tries + 1):
        await calm(watch)
        outcome = await inject(bench, watch, fault, plan)
        await settled(bench, outcome, plan)
        outcome.attempts = attempt
        say(outcome.line())
        if outcome.is_whole:
            break
        if attempt < plan.tries:
            say(f"{fault.name}: attempt {attempt + 1} of {plan.tries}")
    return outcome


async def run(plan: Plan, size: Size, folder: Path) -> dict[str, Any]:
    """One whole run; prints as it goes."""
    async with running(folder, size) as bench:
        began = time.time()
        say(f"shop up in {folder}; settling for {plan.settle_s:g} s")
        await asyncio.sleep(plan.blind_s)
        watch, watching = await _watched(bench, size, began)
        try:
            return await _judged_run(bench, watch, plan, size, began)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


async def _watched(bench: Bench, size: Size, began: float) -> tuple[Watch, asyncio.Task[None]]:
    """Start foreshock; it reads back to where rates have a whole window."""
    (port,) = free_ports(1)
    told = configuration(
        size, bench.folder / "foreshock", port, bench.prometheus_url, bench.alertmanager_url,
        backfill_s=time.time() - began - size.window_s,
    )  # fmt: skip
    started = time.time()
    await bench.add(service(bench.folder, port, told), within_s=120)
    say(f"foreshock answers {time.time() - started:.1f} s after its start")
    watch = Watch(bench.http, f"http://127.0.0.1:{port}")
    await watch.look()
    return watch, asyncio.ensure_future(watch.run())


async def _judged_run(bench: Bench, watch: Watch, plan: Plan, size: Size, began: float) -> dict[str, Any]:
    await asyncio.sleep(max(0.0, began + plan.settle_s - time.time()))
    early, quiet = set(watch.sightings), time.time()
    say(f"quiet for {plan.quiet_s:g} s; {len(early)} incidents while settling")
    await asyncio.sleep(plan.quiet_s)
    false = set(watch.sightings) - early
    false_alerts = sum(n.at >= quiet and n.status == "firing" for n in bench.notes)
    still = sum(s.is_open for s in watch.sightings.values())
    told = watch.status
    say(f"{len(false)} false in quiet time; {told['kpis']} KPIs, threshold {told['high']}")
    outcomes = [await judged(bench, watch, fault, plan) for fault in plan.faults]
    told, counts = watch.status, await watch.metrics()
    known = early | false | {o.incident for o in outcomes}
    between = [s for name, s in watch.sightings.items() if name not in known]
    return {
        "kind": "run",
        "watched_by": "foreshock serve",
        "began": round(began, 3),
        "plan": {k: v for k, v in asdict(plan).items() if k != "faults" and v != math.inf},
        "size": asdict(size),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "kpis": told["kpis"],
        "rows": told["rows"],
        "faults": len(outcomes),
        "attempts": sum(o.attempts for o in outcomes),
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
        "false_alerts_in_quiet": false_alerts,
        "open_after_quiet": still,
        "others_between_faults": [
            {"found_at": round(s.seen_at, 1), "headline": s.page["headline"]} for s in between
        ],
        "visitors": dict(bench.visitors.answers),
        "cycle_s": _quantiles(list(watch.cycle_s.values())),
        "service": {
            name: counts.get(f"foreshock_{name}")
            for name in ("cycles_total", "dropped_points_total", "resident_bytes")
        },
        "asked_in_vain": watch.misses,
        "outcomes": [_plain(o) for o in outcomes],
    }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {n: round(ordered[int(q * (len(ordered) - 1))], 4) for n, q in (("p50", 0.5), ("p99", 0.99))}


def _plain(outcome: Outcome) -> dict[str, Any]:
    fault = asdict(outcome.fault)
    told = {k: v for k, v in asdict(outcome).items() if k not in ("fault", "begun", "ended")}
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
    if told.small and (missed := shortcomings(record)):
        sys.exit(f"expected {record['faults']} of each, but {missed}")


def shortcomings(record: dict[str, Any]) -> str:
    """What a small run must show and did not; the ranking is asked for once only, on so short a past."""
    wanted = dict.fromkeys(("found", "alerts", "resolved"), record["faults"]) | {"right_first": 1}
    return ", ".join(f"{name} is {record[name]}" for name, least in wanted.items() if record[name] < least)


if __name__ == "__main__":
    main()
