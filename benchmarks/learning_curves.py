"""How many labels each way of learning needs: shots × seeds × detectors, on recordings nobody learned from.

    python benchmarks/learning_curves.py [--data FOLDER] [--seeds 0 1 2] [--shots 0 10 50 100 500 1000]
        [--only NAME ...] [--recordings NAME ...] [--minutes 50] [--cache FOLDER]

Recordings are those of benchmarks/labelled.py: simulated Train Ticket, judged on another seed and at roots
that were never taught; with --data (it holds `nezha/`, `smd/` and `asd/`) the recorded days, split in time,
and servers, which teach together and are judged one by one (AP: the mean over those that have a fault). A
shot is a window of 32 rows (8 of the recorded days) that somebody judged. Windows of one incident never stand
on both sides.
Of a simulated recording fewer shots have the beginning of what more have. "of 500" in a detector's name: the
shots are drawn from a recording of 500 windows, as `foreshock adapt --shots` draws them from a long one, so
that they are of more incidents. "from both ends": the judged recording is one that lies in the past, as
`foreshock detect` judges it; otherwise each row is scored by what came before it.

What a network sees of a recording lies in --cache, also what an adapted one sees: where only the verdict on
it changed, measuring anew (to another --out) takes seconds a job.

One JSON line a recording, detector, seed and number of shots goes to results/learning_curves.jsonl as it is
measured; what is there already is not measured again, so a run can be stopped and gone on with. The cheap
come first. AP is over rows; event F1 is at the threshold the detector takes in use, without looking at the
judged part (zero-shot: unlabelled, one false alarm a day, from the judged recording); `best_f1` is at the
best threshold there is, an oracle's. Of each judged fault it is noted whether it was found, its kind, its
root, what it was called and where the root stands in the detector's ranking.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import few_baselines
import labelled
import numpy as np
import torch
from labelled import SHOT_ROWS, Task

import foreshock
from foreshock.calibrate import Guess, Threshold, calibrate_finished, from_labels
from foreshock.cli.steps import finished_scores
from foreshock.config import Settings
from foreshock.decide import decide
from foreshock.frame import Frame
from foreshock.memory import MicroBatches
from foreshock.metrics import average_precision, count_events
from foreshock.models import bidirectional, judging, load_detector
from foreshock.models.finetune import FinetuneOptions
from foreshock.models.fitted import RowScale
from foreshock.models.known import load_known
from foreshock.models.lora import PooledStream
from foreshock.models.processes import Group
from foreshock.models.recognise import Recogniser
from foreshock.models.shots import FAULTY, Lesson, Shot, draw_shots
from foreshock.models.training import Run
from foreshock.models.verdict import Verdict, agreed, score_of
from foreshock.models.vigil import USUAL
from foreshock.runlog import git_commit
from foreshock.scores import Scores, layout
from foreshock.windows import to_grid

OUT = Path(__file__).parent / "results" / "learning_curves.jsonl"
SHOTS = (0, 10, 50, 100, 500, 1000)
SIMULATED = "simulated Train Ticket"
ZERO, PROBE, LORA, WHOLE = (
    "foreshock, zero-shot",
    "foreshock, linear probe",
    "foreshock, LoRA",
    "foreshock, whole network",
)
ALONE = "foreshock, evidence alone"  # the zero-shot score without what simulated systems taught
ENDS = ", from both ends"  # added to the name where what is judged lies in the past
SPREAD, FROM = ", of 500", 500  # what is added to the name where shots are drawn from so many windows
LENGTHS = tuple(labelled.QUIET_ROWS + n * SHOT_ROWS for n in (100, FROM, SHOTS[-1]))  # rows looked at
HEARD = ("evidence", "chances", "is_up", "values", "level", "spread")  # as `PooledStream.pool` takes them


class Whole(Run):
    """Every weight of the network is trained, at a fifth of LoRA's rate."""

    def wrapped(self) -> Any:
        import copy

        return copy.deepcopy(self.base.recogniser).requires_grad_(True)

    def tuned(self, base: Any) -> Any:
        self.restore_best()
        return self.network.eval()


class Heard(PooledStream):
    """Keeps what it heard of each KPI, so that figures can be made of it again."""

    def __init__(self, *options: Any) -> None:
        super().__init__(*options)
        self.heard: list[tuple[np.ndarray, ...]] = []

    def pool(self, *heard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.heard.append(heard)
        return super().pool(*heard)


class Looks:
    """Recordings as a network sees them, each read once; figures are made of that anew."""

    def __init__(self, cache: Path, model: str) -> None:
        self.cache, self.base = cache, load_detector("foreshock", model=model, known=False)
        known = load_known(model)
        self.known = None if known is None else known.verdict
        self.finder = None if known is None else known.finder
        self.zero_shot = load_detector("foreshock", model=model)  # with what simulated systems taught
        self.told = "" if known is None else f"-{known.sha256[:12]}"
        self.exact = load_detector("foreshock", model=model, precision="fp32")
        self.lately: dict[str, Lesson] = {}

    def beginning(self, frame: Frame, whose: str, rows: int) -> Lesson:
        """The first rows of a recording; any look that goes as far serves, as rows are seen by none later."""
        enough = [n for n in LENGTHS if n >= rows]
        most = next((n for n in enough if self._file(f"{whose}-{n}.npz").exists()), enough[0])
        return first_rows(self.of(frame.rows(slice(0, most)), f"{whose}-{most}"), rows)

    def of(self, frame: Frame, name: str, recogniser: Recogniser | None = None) -> Lesson:
        """With the frozen network, or with an adapted one, which the name then has to tell."""
        if name not in self.lately:
            path = self._file(f"{name}.npz")
            if not path.exists():
                self._read(frame, recogniser or self.base.recogniser, path)
            self.lately = dict(list(self.lately.items())[-3:]) | {name: self._lesson(frame, path)}
        return self.lately[name]

    def _file(self, name: str) -> Path:
        """Where something of these weights is kept."""
        return self.cache / f"{self.base.facts['weights_sha256'][:12]}-{name}"

    def _read(self, frame: Frame, recogniser: Recogniser, path: Path) -> None:
        stream, hidden = Heard(recogniser, self.base.options, ""), frame.without_labels()
        pieces = [hidden.rows(slice(at, at + judging.PIECE)) for at in range(0, len(frame), judging.PIECE)]
        system = np.concatenate([stream.push_pooled(piece)[0].system for piece in pieces])
        found = dict(zip(HEARD, zip(*stream.heard, strict=True), strict=True))
        whole = {n: np.concatenate(parts, 1 if n == "chances" else 0) for n, parts in found.items()}
        slots = to_grid(frame.time_ns, frame.step_s, None, self.base.options.length).slots
        self.cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, system=np.nan_to_num(system), slots=slots, **whole)
        part.replace(path)

    def _lesson(self, frame: Frame, path: Path) -> Lesson:
        with np.load(path) as kept:
            heard = [kept[name] for name in HEARD]
            system, slots = kept["system"], kept["slots"]
        stream = PooledStream(self.base.recogniser, self.base.options, "")
        stream.kpis, stream.layout = frame.kpis, layout(frame.kpis)
        figures, services = (made[slots] for made in stream.pool(*heard))
        assert stream.groups is not None
        truth, columns = judging.truth_of(frame), stream.groups.columns
        return Lesson(frame, truth, heard[0][slots], system, figures, services, columns)

    def finished(self, judged: Lesson, name: str, is_zero_shot: bool) -> tuple[np.ndarray, Threshold]:
        """Without labels: the scores of a recording that lies in the past, and its threshold.

        Args:
            is_zero_shot: as it is scored without labels; else evidence alone, beside which labels count.
        """
        hidden = judged.frame.without_labels()
        detector, own = (self.zero_shot, self.told) if is_zero_shot else (self.base, "")
        ahead = judging.unlabelled(judged, self.finder if is_zero_shot else None)
        path = self._file(f"{name}{own}.npz")
        if not path.exists():

            def score(detector: Any, part: Frame) -> Scores:
                return _scores(part, ahead if part is hidden else detector.score(part).system)

            chosen, found = finished_scores(detector, hidden, score, Settings())
            np.savez(path, system=found.system, both=chosen is not detector)
        with np.load(path) as kept:
            system, guess = kept["system"], bidirectional.USUAL if kept["both"] else USUAL
        return system, unlabelled(hidden, system, guess)

    def facts(self, name: str, facts: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """What is known of an adapted network that recordings were looked at with; kept when given."""
        path = self._file(f"{name}.json")
        if facts is not None:
            path.write_text(json.dumps(facts))
        return json.loads(path.read_text()) if path.exists() else None


def first_rows(lesson: Lesson, rows: int) -> Lesson:
    names = ("truth", "evidence", "system", "figures", "services")
    parts = (getattr(lesson, name)[:rows] for name in names)
    return Lesson(lesson.frame.rows(slice(0, rows)), *parts, lesson.columns)


# ----------------------------------------------------------------------------------------------- judging


def judge(
    task: Task, system: np.ndarray, threshold: Threshold, kinds: np.ndarray | None = None,
    names: tuple[str, ...] = (), origins: np.ndarray | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The figures of one score on the judged part."""
    frame, ignore = task.judged, task.ignore
    labels, rows = frame.labels, len(task.judged)
    assert labels is not None
    seen = labels.anomaly & ~ignore
    events = decide(_scores(frame, system), threshold)
    counts = count_events(events, task.faults, rows, frame.step_s, ignore)
    excused = ignore.copy()
    for first, last in task.faults:
        excused[first : last + 2] = True
    false = [e.start for e in events if not excused[e.start : max(e.end, e.start + 1)].any()]
    faults = []
    for first, last in task.faults:
        fault = {
            "kind": str(labels.fault_type[first]), "root": str(labels.root_cause[first]),
            "found": any(e.start < last + 2 and e.end > first for e in events),
        }  # fmt: skip
        if kinds is not None and names:
            mean = kinds[first:last].mean(0)
            fault |= {"named": names[int(mean.argmax())], "chance": round(float(mean.max()), 4)}
        if origins is not None and fault["root"] in frame.services:
            order = np.argsort(-origins[first:last].mean(0), kind="stable")
            fault["root_rank"] = int(np.flatnonzero(order == frame.services.index(fault["root"]))[0]) + 1
        faults.append(fault)
    return {
        "average_precision": average_precision(system, seen, ignore), "event_f1": counts.f1,
        "found": counts.found, "faults": len(faults), "alarms": counts.alarms,
        "false_alarms": counts.false_alarms, "hours": counts.hours, "best_f1": best_f1(task, system),
        "threshold": threshold.high, "false_at": false, "each": faults,
    }  # fmt: skip


def together(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of several judged recordings as one: means of AP and of best F1, sums of the rest."""
    if len(found) == 1:
        return found[0]
    faulty = [one for one in found if one["faults"]]
    sums = {name: sum(one[name] for one in found)
            for name in ("found", "faults", "alarms", "false_alarms", "hours")}  # fmt: skip
    told = sums["found"] + sums["faults"] + sums["false_alarms"]
    means = {name: statistics.mean(one[name] for one in faulty) for name in ("average_precision", "best_f1")}
    parts = [{name: one[name] for name in ("found", "faults", "false_alarms")} for one in found]
    return {**means, **sums, "event_f1": 2 * sums["found"] / told, "threshold": found[0]["threshold"],
            "each": [fault for one in found for fault in one["each"]], "parts": parts}  # fmt: skip


def _scores(frame: Frame, system: np.ndarray) -> Scores:
    empty = np.zeros((len(frame), 1), np.float32)
    return Scores(
        frame.time_ns,
        empty,
        empty,
        system.astype(np.float32),
        frame.kpis[:1],
        frame.services[:1],
        frame.step_s,
    )


def best_f1(task: Task, system: np.ndarray) -> float:
    """At the best of 40 thresholds, chosen with the judged labels: an oracle's."""
    told = system[~task.ignore]
    best = 0.0
    for level in np.unique(np.quantile(told, 1 - np.geomspace(0.002, 0.4, 40))):
        events = decide(_scores(task.judged, system), from_labels(float(level), task.judged.step_s))
        counts = count_events(events, task.faults, len(system), task.judged.step_s, task.ignore)
        best = max(best, counts.f1)
    return best


def unlabelled(frame: Frame, system: np.ndarray, usual: Guess = USUAL) -> Threshold:
    """As `foreshock detect` takes it for a finished recording."""
    return calibrate_finished(system, frame.step_s, guess=usual.over(len(frame.kpis)), is_beginning=True)


def fixed(chance: float, step_s: float) -> Threshold:
    return from_labels(float(score_of(np.log(chance / (1 - chance)))), step_s)


# ------------------------------------------------------------------------------------------- ways to learn


Finished = tuple[np.ndarray, Threshold]


def by_verdicts(
    case: Case, verdict: Verdict, looks: Looks, judged: Sequence[Lesson] | None = None
) -> dict[str, Any]:
    """The figures of a verdict on all that is judged; with what both ends show where that is asked for."""
    ends = [
        looks.finished(one, f"{own}-finished", not verdict.detects) if case.ends else None
        for one, own in zip(case.judged, case.whose, strict=True)
    ]
    every = zip(case.tasks, case.judged if judged is None else judged, ends, strict=True)
    return together([by_verdict(task, verdict, one, end, looks.finder) for task, one, end in every])


def by_verdict(
    task: Task, verdict: Verdict, judged: Lesson, finished: Finished | None, finder: Verdict | None
) -> dict[str, Any]:
    odds, kinds, origins = judging.read(judged, verdict)
    score, threshold = score_of(odds), fixed(verdict.threshold, task.judged.step_s)
    if not verdict.detects:
        system = judging.unlabelled(judged, finder)
        score, threshold = finished or (system, unlabelled(task.judged, system))
    elif finished is not None:
        score = agreed(score, threshold.high, finished[0], finished[1].high)
    else:
        score = verdict.weighed(odds, judged.system)[0]
    return judge(task, score, threshold, kinds, verdict.kinds, origins)


def probe(case: Case, shots: list[Shot], looks: Looks) -> dict[str, Any]:
    verdict, facts = judging.judge(case.taught, shots, known=looks.known, finder=looks.finder)
    return {**by_verdicts(case, verdict, looks), "facts": facts}


def adapted(
    case: Case, shots: list[Shot], looks: Looks, detector: str, seed: int, whose: str
) -> dict[str, Any]:
    """LoRA, or the whole network; then a verdict on what the network sees now."""
    rows = sum(len(task.teaching) for task in case.tasks)
    name = f"{whose}-{rows}-{len(shots)}-{detector}-{seed}".replace(" ", "-").replace(",", "")
    about = looks.facts(name)
    if about is None:
        began = time.process_time()
        kind, rate = (Run, 1.0) if detector == LORA else (Whole, 0.2)
        options = FinetuneOptions(shots=len(shots), seed=seed, rate=rate * FinetuneOptions().rate)
        with tempfile.TemporaryDirectory() as folder:
            run = kind(looks.exact, case.taught, shots, options, Path(folder) / "a", "", None, Group())
            run.pieces = MicroBatches(options.batch)
            run.resume()
            if judging.count_incidents(case.taught, shots) >= judging.LEAST_INCIDENTS:
                run.go()
        if run.best_step:
            case.looked_at(looks, name, run.tuned(looks.base.recogniser))
        spent = round(time.process_time() - began, 2)
        about = looks.facts(name, {"steps": run.step, "best_step": run.best_step, "adapting_cpu_s": spent})
        assert about is not None
    verdict, facts = judging.judge(case.taught, shots, known=looks.known, finder=looks.finder)
    judged, is_kept = case.judged, False
    if about["best_step"]:  # else the network is as it was, and so is what it sees
        taught, tuned = case.looked_at(looks, name)
        tried, told = judging.judge(taught, shots, known=looks.known, finder=looks.finder)
        if judging.gains((tried, told), (verdict, facts)):
            judged, verdict, facts, is_kept = tuned, tried, told, True
    return {**by_verdicts(case, verdict, looks, judged), "facts": facts | about | {"is_kept": is_kept}}


def baseline(case: Case, shots: list[Shot], fit: few_baselines.Fit, seed: int) -> dict[str, Any]:
    """Fitted on the shots' rows; its threshold from windows it did not see, as an adapter's.

    Of several servers each is scaled by its own teaching part.
    """
    pairs = zip(case.taught, case.tasks, strict=True)
    frames = [(one.frame.values, task.judged.values) for one, task in pairs]
    if len(frames) > 1:
        frames = [(scale(a), scale(b)) for a, b in frames for scale in (RowScale(a),)]
    values = np.concatenate([a for a, _ in frames])
    begins = np.cumsum([0, *(len(a) for a, _ in frames)])
    truth = np.concatenate([one.truth for one in case.taught])
    counted = [begins[shot.lesson] + judging.counted(case.taught[shot.lesson], shot) for shot in shots]
    rows, shot = np.concatenate(counted), np.repeat(np.arange(len(shots)), [len(c) for c in counted])
    bad = truth[rows] == FAULTY
    incident = judging.incidents(case.taught, shots)[0]
    fold = judging.folds(incident)[shot]
    odds = np.zeros(len(rows))
    for one in np.unique(fold):
        use = fold != one
        if bad[use].any() and not bad[use].all():
            odds[~use] = fit(values, rows[use], bad[use], seed)(values)[rows[~use]]
    step_s = case.tasks[0].judged.step_s
    level, facts = judging.choose(
        *judging.levels(shots, incident, shot, bad, odds, step_s), case.tasks[0].shot_rows * step_s
    )
    fitted = fit(values, rows, bad, seed)
    found = [
        judge(task, score_of(fitted(b)), fixed(level, step_s))
        for task, (_, b) in zip(case.tasks, frames, strict=True)
    ]
    return {**together(found), "facts": facts}


# ---------------------------------------------------------------------------------------------------- jobs


def jobs(names: list[str], seeds: list[int], shots: list[int]) -> Iterator[tuple[str, str, int, int]]:
    """Recording, detector, seed, shots: the cheap first, each round complete over seeds before the next."""
    forest, boosted, wide = "random forest", "gradient boosting, KPIs alone", "gradient boosting"
    rounds: list[tuple[str, list[int]]] = [(ZERO, [0]), (ALONE, [0]), (PROBE, [10, 50, 100])]
    rounds += [(forest, [100]), (boosted, [100]), ("LSTM", [100]), (boosted, [500, 1000])]
    rounds += [(LORA, [100]), (forest, [500]), (PROBE, [500]), (forest, [1000]), (LORA, [10])]
    rounds += [(wide, [100]), (LORA, [500]), ("LSTM", [500]), (WHOLE, [10, 100]), (PROBE, [1000])]
    rounds += [(PROBE + SPREAD, [50, 100])]
    rounds += [(ZERO + ENDS, [0]), (PROBE + ENDS, [50, 100, 500]), (PROBE + SPREAD + ENDS, [50, 100])]
    rounds += [(name + SPREAD, [100]) for name in (boosted, forest, "LSTM", LORA)]
    rounds += [(name, [50, 10]) for name in (boosted, forest, "LSTM")]
    rounds += [(WHOLE, [500]), ("LSTM", [1000]), (wide, [500, 50, 10, 1000])]
    rounds += [(name, [count]) for count in (50, 1000) for name in (LORA, WHOLE)]
    for detector, counts in rounds:
        for name in names if SPREAD not in detector else {SIMULATED}.intersection(names):
            is_drawn = ZERO not in detector and detector != ALONE
            for seed in seeds if is_drawn or name == SIMULATED else seeds[:1]:
                for count in counts:
                    if count in shots and (name == SIMULATED or count <= 100):
                        yield name, detector, seed, count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--shots", type=int, nargs="*", default=list(SHOTS))
    parser.add_argument("--only", nargs="*", help="detectors")
    parser.add_argument("--recordings", nargs="*", help="these alone")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of processor time, then stop")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "foreshock-curves")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    looks = Looks(args.cache, args.model)
    weights = looks.base.facts["weights_sha256"]
    args.out.parent.mkdir(exist_ok=True)
    old = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    names = [SIMULATED, *((*labelled.REAL, *labelled.SERVERS) if args.data else ())]
    names = [name for name in names if not args.recordings or name in args.recordings]
    for name, detector, seed, shots in jobs(names, args.seeds, args.shots):
        key = {
            "recording": name,
            "detector": detector,
            "seed": seed,
            "shots": shots,
            "weights_sha256": weights,
        }
        if (args.only and detector not in args.only) or any(
            all(r.get(k) == v for k, v in key.items()) for r in old
        ):
            continue
        if time.process_time() > 60 * args.minutes:
            break
        began, cpu = time.perf_counter(), time.process_time()
        try:
            found = measure(name, detector, seed, shots, looks, args.data)
        except foreshock.ForeshockError as error:
            found = {"skipped": str(error)}
        record = {
            "kind": "learning_curve", **key, **found, "wall_s": round(time.perf_counter() - began, 2),
            "cpu_s": round(time.process_time() - cpu, 2), "threads": torch.get_num_threads(),
            "commit": git_commit(), "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        told = {k: record.get(k) for k in ("average_precision", "event_f1", "best_f1", "cpu_s", "skipped")}
        print(name, detector, seed, shots, told, flush=True)


class Case(NamedTuple):
    """What is judged, and what is learned from: a recording each, as a network sees it."""

    tasks: list[Task]
    taught: list[Lesson]
    judged: list[Lesson]
    whose: list[str]  # what is kept of each is called
    ends: bool  # whether what is judged lies in the past

    def looked_at(
        self, looks: Looks, name: str, tuned: Recogniser | None = None
    ) -> tuple[list[Lesson], list[Lesson]]:
        """What is learned from and what is judged, by an adapted network of this name."""
        taught, judged = [], []
        for number, (task, one) in enumerate(zip(self.tasks, self.taught, strict=True)):
            own = name if len(self.tasks) == 1 else f"{name}-{number}"
            judged.append(looks.of(task.judged, f"{own}-judged", tuned))
            if len(self.tasks) == 1:
                taught.append(looks.of(one.frame, f"{own}-taught", tuned))
            else:  # servers teach by the beginning of what is judged
                taught.append(first_rows(judged[-1], len(task.teaching)))
        return taught, judged


def measure(
    name: str, detector: str, seed: int, shots: int, looks: Looks, data: Path | None
) -> dict[str, Any]:
    tasks = list(_tasks(name, seed, data))
    detector, ends, _ = detector.partition(ENDS)
    detector, spread, _ = detector.partition(SPREAD)
    is_baseline = detector in few_baselines.BASELINES
    whose = [_whose(task, seed if name == SIMULATED else 0) for task in tasks]
    judged = [
        unseen(task.judged) if is_baseline else looks.of(task.judged, f"{own}-judged")
        for task, own in zip(tasks, whose, strict=True)
    ]
    case = Case(tasks, [], judged, whose, bool(ends))
    if detector == ZERO and looks.known is not None:
        return by_verdicts(case, looks.known, looks)  # it names, and does not find by itself
    if detector in (ZERO, ALONE):
        alone = zip(tasks, judged, strict=True)
        return together([judge(t, j.system, unlabelled(t.judged, j.system)) for t, j in alone])
    if name == SIMULATED:
        rows = labelled.QUIET_ROWS + (FROM if spread else shots) * SHOT_ROWS
        whole = tasks[0].teaching
        tasks[0] = replace(tasks[0], teaching=whole.rows(slice(0, rows)))
        if is_baseline and shots > 100:
            taught = [unseen(tasks[0].teaching)]
        else:
            taught = [looks.beginning(whole, f"{whose[0]}-taught", rows)]
    elif len(tasks) == 1:
        taught = [looks.of(tasks[0].teaching, f"{whose[0]}-taught")]
    else:
        seen = judged
        if is_baseline:  # it looks at nothing, but learns from the same windows
            seen = [looks.of(task.judged, f"{own}-judged") for task, own in zip(tasks, whose, strict=True)]
        taught = [first_rows(one, len(task.teaching)) for task, one in zip(tasks, seen, strict=True)]
    looks_bad = None if looks.known is None or not taught[0].columns.size else [
        judging.suspicion(one, looks.known) for one in taught
    ]  # fmt: skip
    case = case._replace(taught=taught)
    drawn = draw_shots(taught, shots, tasks[0].shot_rows, seed, suspicion=looks_bad)
    told = {
        "shots_drawn": len(drawn),
        "incidents": len({i for i in judging.incidents(taught, drawn)[0] if i >= 0}),
    }
    if detector == PROBE:
        found = probe(case, drawn, looks)
    elif detector in (LORA, WHOLE):
        found = adapted(case, drawn, looks, detector, seed, whose[0])
    else:
        found = baseline(case, drawn, few_baselines.BASELINES[detector], seed)
    return {**found, **told}


def _whose(task: Task, seed: int) -> str:
    return f"{task.name}-{seed}".replace(" ", "-").replace(",", "")


def unseen(frame: Frame) -> Lesson:
    """No look at all: quiet windows are drawn by chance, which a classifier does not mind."""
    rows = len(frame)
    empty = np.zeros((rows, 0))
    score = np.random.default_rng(0).random(rows)
    return Lesson(
        frame, judging.truth_of(frame), empty, score, empty, np.zeros((rows, 0, 0)), np.zeros(0, int)
    )


@lru_cache(maxsize=2)
def _tasks(name: str, seed: int, data: Path | None) -> tuple[Task, ...]:
    if name == SIMULATED:
        return (labelled.simulated(seed, max(SHOTS)),)
    assert data is not None
    return labelled.servers(name, data) if name in labelled.SERVERS else (labelled.real(name, data),)


if __name__ == "__main__":
    main()
