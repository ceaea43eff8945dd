"""Writes docs/testbed.md: what the bench is, and the table of the last recorded run. Run by `make docs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks/results/testbed.jsonl"
PAGE = ROOT / "docs/testbed.md"

ABOUT = """\
# The test bed

<!-- Written by: python -m testbed.document, from benchmarks/results/testbed.jsonl -->

`testbed/` is a small shop that breaks on command: twelve HTTP services, each a process of its own with
Prometheus client metrics, a SQLite database that three of them share through small connection pools, and
a cache.

```
front ─┬─ catalog ── cache, database          checkout ─┬─ cart ── cache
       ├─ recommend ── catalog                          ├─ inventory ── database
       ├─ cart ── cache                                 ├─ shipping ── cache
       └─ checkout ─────────────────────────────────▶   ├─ payment ── fraud
                                                        └─ orders ── database, notify
```

Visitors come at random and don't wait for each other; a day's curve is pressed into 20 minutes. A real
Prometheus scrapes every second. `foreshock serve` is started a little later with a configuration of its
own (`testbed/service.py`), reads back what it missed, scores each step, and pushes one alert an incident
to a real Alertmanager, which tells a webhook. What was found, and when, is asked of its API.

```
make live        ten faults in about half an hour; appends a record
make live-test   two faults in three to four minutes
```

In `make live` a fault lasts a minute, found or not. In `make live-test` it lasts until it is found and its
alert has come, at least 10 and at most 45 seconds; then its alert has 75 seconds to end. What is missed is
injected once more, which is printed as attempt 2. It fails unless both faults are found, told and told as
over, and the right service was ranked first for one of them.

Both need Prometheus and Alertmanager (Debian: `apt-get install prometheus prometheus-alertmanager`). They
run on free ports of the loopback address, with configuration and data in a temporary folder, and
everything that was started is stopped at the end.

The faults are real: a thread that burns CPU, memory that is held, queries that read 100,000 rows too many,
connections that are never given back, answers that wait, answers that fail, a process that dies, three
times the visitors. Nothing writes a metric but the services themselves.

**Time is pressed.** A row each 2 s stands for one each 30 s: the rules' times (`rules.confirm_s`,
`merge_s`, `lead_s`, `grace_s`, `cool_down_s`) are divided by 15, so that the same numbers of rows decide, and
one false alarm is asked for in a fifteenth of a day. Limits and the detector are as they come. Up to 100
alerts a day may page, since ten faults in half an hour are no usual day.
"""


def _after(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.0f} s"


def table(record: dict[str, Any]) -> list[str]:
    """One run: figures first, then fault by fault."""
    r, plan, cycle = record, record["plan"], record["cycle_s"]
    quiet, settle, between = plan["quiet_s"] / 60, plan["settle_s"] / 60, len(r["others_between_faults"])
    lines = [
        "| Figure | Wanted | Found |",
        "|---|---|---|",
        f"| Faults found within 60 s | 8 of 10 | {r['found_within_60_s']} of {r['faults']} |",
        f"| Right service ranked first while it lasts | 7 of 10 | {r['right_first']} of {r['faults']} |",
        f"| False alerts in {quiet:g} quiet minutes | 0 | {r['false_in_quiet']} |",
        "",
        f"{r['kpis']} KPIs, {r['rows']:,} rows. Settled for {settle:g} minutes; alerts in that time:",
        f"{r['false_while_settling']}. Incidents between faults that belong to none: {between}.",
        f'Named without doubt: {r["named"]}, wrongly {r["named_wrong"]}; the others say "unknown" and rank',
        f"the services all the same. Alerts at the webhook: {r['alerts']}, resolved {r['resolved']}. A cycle",
        f"(ask, score, decide, keep) took {cycle['p50'] * 1000:.0f} ms, p99 {cycle['p99'] * 1000:.0f} ms",
        "on one core beside the shop and other work.",
        "",
        "| Fault | Found after | Alert after | Resolved after its end | Ranked first | What was told |",
        "|---|---|---|---|---|---|",
    ]
    for o in record["outcomes"]:
        first = "–" if o["first"] is None else o["first"] + ("" if o["is_right"] else " (wrong)")
        lines.append(
            f"| {o['service']}: {o['kind'].replace('_', ' ')} | {_after(o['found_after_s'])} "
            f"| {_after(o['alert_after_s'])} | {_after(o['resolved_after_end_s'])} | {first} "
            f"| {o['headline'] or 'not found'} |"
        )
    return lines


def whole() -> str:
    """The page."""
    records = RECORD.read_text().splitlines() if RECORD.exists() else []
    lines = [ABOUT, "## The last recorded run", ""]
    if records:
        lines += ["One run; the spread over runs has not been measured.", "", *table(json.loads(records[-1]))]
    else:
        lines += ["None yet: `make live` makes one."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(whole())
