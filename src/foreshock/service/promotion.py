"""An adapter's way into use and out again, while the service runs: shadow trial, promotion, roll-back.

The detector in use is exchanged between two cycles. What was told stays told, every adapter stays on disk,
and after a crash the service comes up with the one that the store names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from foreshock.calibrate import DAY_S
from foreshock.decide import decide, iso
from foreshock.errors import NotFoundError, StateError
from foreshock.service import views
from foreshock.service.learn import detector_with, span, threshold_of
from foreshock.service.views import Alive, View
from foreshock.store import Store


async def trial(live: Alive, id: str) -> dict[str, Any]:
    """Score the kept window with an adapter, in a thread beside the cycles, and note what it would have told.

    Raises:
        NotFoundError: no such adapter.
        StateError: there is no window yet.
        WeightsError: its files are damaged or of another base.
    """
    adapter = await asyncio.to_thread(live.store.adapter, id)
    view = await views.look(live)
    known = await asyncio.to_thread(live.store.incidents, None, None, None, 1000)
    counted = {v["incident"]: v["verdict"] for v in await asyncio.to_thread(live.store.verdicts, None, True)}
    facts = await asyncio.to_thread(_shadow, view, adapter["path"], known, counted, live.settings.score)
    return await asyncio.to_thread(live.store.note_trial, id, {"trial": facts})


def _shadow(
    view: View, path: str, known: Sequence[Mapping[str, Any]], said: Mapping[str, str], score: Any
) -> dict[str, Any]:
    if view.frame is None or len(view.frame) < 2:
        raise StateError("there is no window to try an adapter on yet; wait until rows have come in.")
    detector = detector_with(score, path)
    scores = detector.score(view.frame)
    events = decide(scores, threshold_of(detector, scores, score), score.rules)
    first_ns, last_ns = int(scores.time_ns[0]), int(scores.time_ns[-1])
    real = [(one["id"], *span(one)) for one in known if said.get(one["id"]) != "false_alarm"]
    real = [one for one in real if one[2] >= first_ns and one[1] <= last_ns]
    told, extra = set(), 0
    for event in events:
        end_ns = int(scores.time_ns[event.end - 1])
        touched = {id for id, start, end in real if event.start_ns <= end and end_ns >= start}
        told |= touched
        extra += not touched
    days = ((last_ns - first_ns) / 1e9 + scores.step_s) / DAY_S
    confirmed = {one[0] for one in real if said.get(one[0]) == "confirmed"}
    allowed = 1 + score.threshold.false_alarms_per_day * days
    return {
        "from": iso(first_ns), "to": iso(last_ns), "days": round(days, 3), "alarms": len(events),
        "incidents_told_again": len(told), "incidents_known": len(real), "extra_alarms": extra,
        "extra_alarms_allowed": round(allowed, 2), "confirmed_missed": sorted(confirmed - told),
        "is_passed": extra <= allowed and not confirmed - told,
    }  # fmt: skip


async def promote(live: Alive, id: str, note: str = "", force: bool = False) -> dict[str, Any]:
    """Put an adapter into use, after a shadow trial if it had none.

    Raises:
        StateError: it was not better on held-back incidents, or did not pass its trial, and no `force`.
    """
    adapter = await asyncio.to_thread(live.store.adapter, id)
    if adapter["state"] == "promoted":
        raise StateError(f"{id} is in use already.")
    if "trial" not in adapter["facts"]:
        adapter = await trial(live, id)
    facts = adapter["facts"]
    if not force and not facts.get("is_better"):
        raise StateError(
            f"{id} was not better than the detector in use on held-back incidents; it stays out."
        )
    if not force and not facts["trial"]["is_passed"]:
        raise StateError(f"{id} did not pass its trial on recent data; it stays out.")
    await _exchange(live, adapter["path"])
    return await asyncio.to_thread(live.store.promote, id, note)


async def roll_back(live: Alive, note: str = "") -> dict[str, Any] | None:
    """Take the adapter in use out again; gives the one that is in use now, None for zero-shot.

    Raises:
        NotFoundError: none is in use.
    """
    store: Store = live.store
    now = await asyncio.to_thread(store.promoted)
    if now is None:
        raise NotFoundError("no adapter is in use; there is nothing to roll back.")
    earlier = await asyncio.to_thread(store.before, now["id"])
    await _exchange(live, earlier["path"] if earlier else "")
    return await asyncio.to_thread(store.roll_back, note)


async def _exchange(live: Alive, path: str) -> None:
    detector = await asyncio.to_thread(detector_with, live.settings.score, path)
    async with live.lock:  # no cycle runs meanwhile; its rows are read by the next
        changes = await asyncio.to_thread(live.monitor.replace_detector, detector)
    await live.keep(changes)
