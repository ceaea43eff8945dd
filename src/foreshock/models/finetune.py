"""Learn an adapter from a few labelled windows of a recording.

The network is adapted to the labels of each KPI (training), and a verdict is learned on what it then sees
(judging): is there an incident, of which kind, and from which service. Later incidents validate.

A run can be killed at any moment and goes on where it was: its state lies beside the adapter until that is
whole, and on a CPU the end is the same. Started by `accelerate launch`, all processes train one adapter.

Not here: files of adapters (lora), splitting off a test part (split).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foreshock.errors import ConfigError
from foreshock.frame import Frame
from foreshock.models import lora
from foreshock.models.judging import count_incidents, gains, judge, look, suspicion
from foreshock.models.known import load_known
from foreshock.models.processes import join
from foreshock.models.recognise import Recogniser
from foreshock.models.reconstruct import moment_detector
from foreshock.models.shots import divided_spans, draw_shots, require_labels, with_spans
from foreshock.models.training import FinetuneOptions, OnStep, Run
from foreshock.models.vigil import VigilDetector

__all__ = ["FinetuneOptions", "divided_spans", "finetune", "with_spans"]


def finetune(
    frame: Frame | Sequence[Frame],
    out: str | Path,
    model: str | Path | Recogniser = "nano",
    options: FinetuneOptions | None = None,
    on_step: OnStep | None = None,
    **detector: Any,
) -> lora.Adapter:
    """Learn an adapter from labelled recordings, and write it to the folder `out`.

    Args:
        frame: one recording with labels, or several, of any KPIs.
        model: a checkpoint with recognition, by name or folder, or a loaded network in float32.
        on_step: is told each line of the record, which also lies beside `out` (`.jsonl`).
        detector: options of the default detector, such as `length`.

    Raises:
        FrameError: no labels, no faulty or no quiet rows, or fewer shots than kinds of faults.
        ConfigError: an option out of range, peft missing, or a checkpoint without recognition.
        OutputError: `out` can't be written, or the state beside it belongs to another run.
    """
    options, out = options or FinetuneOptions(), Path(out)
    frames = [frame] if isinstance(frame, Frame) else list(frame)
    _require_peft()
    began = time.perf_counter()
    for one in frames:
        require_labels(one)
    group = join()
    # What scores is what judges: in the precision of scoring. What trains is in float32, or in fewer bits.
    base = _detector(model, "auto", **detector)
    trained = base if isinstance(model, Recogniser) else _detector(model, "fp32", **detector)
    digest = lora.base_sha256(model)
    known = load_known(model)
    before, finder = (None, None) if known is None else (known.verdict, known.finder)
    lessons = [look(one, base.recogniser, base.options) for one in frames]
    looks = None if before is None else [suspicion(lesson, before) for lesson in lessons]
    shots = draw_shots(lessons, options.shots, base.options.block, options.seed, options.validate, looks)
    run = Run(trained, lessons, shots, options, out, digest, on_step, group)
    run.resume()
    if count_incidents(lessons, shots) >= options.least_incidents:
        run.go()
    verdict, facts = judge(lessons, shots, options.least_incidents, before, finder)
    if run.best_step:  # else the network is as it was, and so is what it sees
        tuned = run.tuned(base.recogniser)
        seen = [look(one, tuned, base.options) for one in frames]
        tried, told = judge(seen, shots, options.least_incidents, before, finder)
        if options.least_incidents == 0 or gains((tried, told), (verdict, facts)):
            verdict, facts = tried, told
        else:  # what changed the network gained nothing that can be told from chance
            run.forget()
    facts |= {
        "options": asdict(options), "detector": asdict(base.options), "steps": run.step,
        "best_step": run.best_step, "final_loss": run.loss if run.step else None,
        "verdict_from": None if known is None else known.sha256,
        "processes": group.size, "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    run.restore_best()
    if group.is_first:
        lora.save_adapter(run.network, verdict, digest, facts, out)
        run.record(
            {"kind": "adapter", **{k: v for k, v in facts.items() if k not in ("options", "detector")}}
        )
        shutil.rmtree(run.folder, ignore_errors=True)
    group.wait()
    return lora.load_adapter(out)


def _detector(model: str | Path | Recogniser, precision: str, **options: Any) -> VigilDetector:
    made = moment_detector("foreshock", model, precision=precision, **options)
    if not isinstance(made, VigilDetector):
        raise ConfigError(
            f"{model} has no heads of recognition; an adapter needs them. Take nano, or a checkpoint that "
            "`foreshock pretrain` wrote."
        )
    return made


def _require_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise ConfigError("learning an adapter needs peft: pip install 'foreshock[adapt]'") from None
