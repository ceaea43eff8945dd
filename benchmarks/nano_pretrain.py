"""What did pretraining give: condenses a run's record and grades the checkpoint on windows held back.

    python benchmarks/nano_pretrain.py CONFIG.yaml RUN_FOLDER benchmarks/results/nano_pretrain.jsonl

CONFIG.yaml is the run's config. Reconstruction is graded beside the same network untrained, the last value,
the mean, and a linear auto-regression of order 16 fitted to each window; recognition of planted anomalies
beside the untrained network and one-liners. All on windows that the run never drew.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from foreshock.config.document import read_options
from foreshock.models.moment import load_moment
from foreshock.models.recognise import load_recogniser
from foreshock.pretrain import PretrainConfig, recognisable
from foreshock.pretrain.forecastable import exams
from foreshock.pretrain.loop import RECORD, fresh_model, open_planned

KEEP_EVERY = 500  # steps between two lines of the condensed record


def condensed(run: Path) -> list[dict[str, Any]]:
    """Starts, evaluations and every tenth step line of a run's record."""
    lines = [json.loads(line) for line in (run / RECORD).read_text(encoding="utf-8").splitlines()]
    return [
        x for x in lines if x["kind"] != "step" or x["step"] in (50, 100, 200) or x["step"] % KEEP_EVERY == 0
    ]


def graded(config_path: Path, run: Path) -> list[dict[str, Any]]:
    """One line for each number of hidden patches and each kind of series."""
    config = read_options(config_path, PretrainConfig, "pretrain")
    corpus = open_planned(config.corpus)
    trained = load_moment(run / "checkpoint", precision="fp32")
    untrained = fresh_model(config).backbone.eval()
    recogniser = load_recogniser(run / "checkpoint", trained)
    out = []
    for hidden in (1, 2, 4, 8):
        for name, exam in exams(corpus, config.seed + 1, 1024, 256, hidden).items():
            line = {"kind": "grade", "series": name, "hidden_patches": hidden, "windows": len(exam.x)}
            out.append({**line, **exam.grade(trained), "untrained": exam.grade(untrained)["model"]})
    recognition = recognisable.exam(replace(config, seed=config.seed + 1, evaluate_windows=1024), corpus)
    if recogniser is not None and recognition is not None:
        simple = recognition.grade(fresh_model(config).eval())["model"]
        line = {"kind": "grade", "series": "planted anomalies", "windows": len(recognition.values)}
        out.append({**line, **recognition.grade(recogniser), "untrained": simple})
    return out


def main(config: str, run: str, out: str) -> None:
    lines = condensed(Path(run)) + graded(Path(config), Path(run))
    Path(out).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for line in lines:
        if line["kind"] == "grade":
            print(json.dumps(line))


if __name__ == "__main__":
    main(*sys.argv[1:])
