"""Several processes train what one trains, and write it once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foreshock.models.processes import Group, join

pytest.importorskip("accelerate")
pytest.importorskip("peft")
TESTS = Path(__file__).parent
START = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import torch
from dataclasses import replace
from pathlib import Path
torch.set_num_threads(1)
out = Path(sys.argv[1])
"""
ADAPT = (
    START
    + """
from test_finetune import QUICK, TINY, WINDOW, Moment, Recogniser, finetune, frame
torch.manual_seed(1)
still = replace(TINY, dropout=0.0, patch_dropout=0.0)  # noise would differ by who draws it
finetune(frame(), out / "a", Recogniser(Moment(still)).eval(), replace(QUICK, micro_batch=3), **WINDOW)
"""
)
PRETRAIN = (
    START
    + """
from test_pretrain import TINY, pretrain
pretrain(replace(TINY, out=str(out), steps=4, save_every=2, evaluate_every=4))
"""
)


def launch(code: str, out: Path, processes: int) -> None:
    """Start them as a launcher would, on this machine's loopback, and wait."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(processes):
        several = {
            "WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        env = {**os.environ, "OMP_NUM_THREADS": "1", **(several if processes > 1 else {})}
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", code, str(out)], env=env, stderr=subprocess.PIPE, text=True
            )
        )
    for one in running:
        _, told = one.communicate(timeout=300)
        assert one.returncode == 0, told


def losses(record: Path) -> list[float]:
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.mark.slow
@pytest.mark.parametrize(("code", "record"), [(ADAPT, "a.jsonl"), (PRETRAIN, "metrics.jsonl")])
def test_two_processes_learn_what_one_learns(tmp_path: Path, code: str, record: str):
    """The batch is shared out, so losses and weights are those of one process, and one of them writes."""
    from safetensors.torch import load_file

    for name, processes in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        launch(code, tmp_path / name, processes)
    alone, together = (losses(tmp_path / name / record) for name in ("one", "two"))
    assert len(alone) == len(together) > 1
    assert together == pytest.approx(alone, abs=2e-5)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.safetensors"))
    assert files
    for file in files:
        one, two = (load_file(tmp_path / name / file) for name in ("one", "two"))
        for name, tensor in one.items():
            torch.testing.assert_close(two[name].float(), tensor.float(), rtol=2e-3, atol=2e-4, msg=name)


def test_alone_unless_a_launcher_says_otherwise(monkeypatch: pytest.MonkeyPatch):
    """Without WORLD_SIZE there is one process, which does all; parts of several cover a batch once."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group = join()
    assert group.size == 1
    assert group.is_first
    assert group.part(7) == slice(0, 7)
    parts = [Group(rank, 3).part(10) for rank in range(3)]
    assert [i for part in parts for i in range(10)[part]] == list(range(10))
