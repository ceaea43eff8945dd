"""`python -m foreshock.pretrain run CONFIG.json`, `... deny OUT.npy FOLDER…` and `... verdict`.

`foreshock pretrain CONFIG` is the usual way; this one needs no YAML and suits a bare machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from foreshock.errors import ConfigError, ForeshockError
from foreshock.models import weights
from foreshock.pretrain import (
    BatchPlan,
    CorpusPlan,
    Geometry,
    MaskMix,
    PretrainConfig,
    Source,
    build_deny,
    pretrain,
    write_deny,
)
from foreshock.pretrain.simulated import SimulatedPlan, teach

PARTS = {"model": Geometry, "batch": BatchPlan, "mask": MaskMix, "corpus": CorpusPlan}


def from_dict(raw: dict[str, Any]) -> PretrainConfig:
    """A config from plain dicts and lists, unknown keys refused."""
    raw = dict(raw)
    for name, kind in PARTS.items():
        if name in raw:
            raw[name] = _build(kind, raw[name], name)
    built: PretrainConfig = _build(PretrainConfig, raw, "pretrain")
    return built


def _build(kind: Any, raw: dict[str, Any], where: str) -> Any:
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(raw) - known):
        raise ConfigError(f"{where} has no option {unknown[0]!r}; it knows {', '.join(sorted(known))}.")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    if kind is CorpusPlan and "sources" in given:
        given["sources"] = tuple(_build(Source, one, "corpus.sources") for one in given["sources"])
    return kind(**given)


def main(arguments: list[str]) -> int:
    """0 when done, else the error's exit code."""
    parser = argparse.ArgumentParser(prog="python -m foreshock.pretrain", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run or go on with a pretraining run")
    run.add_argument("config", type=Path)
    deny = verbs.add_parser("deny", help="fingerprints of held-out data")
    deny.add_argument("out", type=Path)
    deny.add_argument("folders", type=Path, nargs="+")
    verdict = verbs.add_parser("verdict", help="what simulated systems teach of kinds and roots")
    verdict.add_argument("--model", default="nano")
    verdict.add_argument("--out", type=Path, help="folder to write to; the model's own if left out")
    verdict.add_argument(
        "--cache", type=Path, required=True, help="what was seen of each system; goes on there"
    )
    verdict.add_argument("--held-back", type=int, default=20, help="systems to judge on")
    for name, value in asdict(SimulatedPlan()).items():
        verdict.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.verb == "deny":
            write_deny(build_deny(chosen.folders), chosen.out)
        elif chosen.verb == "verdict":
            _teach(chosen)
        else:
            config = from_dict(json.loads(chosen.config.read_text(encoding="utf-8")))
            pretrain(config, on_step=lambda line: print(json.dumps(line), flush=True))
    except ForeshockError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _teach(chosen: argparse.Namespace) -> None:
    plan = SimulatedPlan(chosen.systems, chosen.rows, chosen.seed)
    out = chosen.out or weights.find(chosen.model)
    teach(
        plan,
        chosen.model,
        out,
        chosen.cache,
        chosen.held_back,
        lambda line: print(json.dumps(line), flush=True),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
