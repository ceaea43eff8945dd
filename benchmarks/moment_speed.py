"""How fast is MOMENT here, against the original package, side by side?

    python benchmarks/moment_speed.py [--quick] [--sizes small base] [--threads 2] [--rounds 5] [--fresh]

Makes an environment of its own for the original (.bench-venv: momentfm 0.1.4, numpy 1.25.2, transformers
4.33.3, torch 2.13.0), writes one checkpoint of random seeded weights a size, and lets both packages read it.
For each size and shape four processes take turns, one forward pass each a round: the original in fp32 and
under bf16 autocast, ours in fp32 and as it chooses. A case that stands in the results with the same versions,
processor and threads is not measured again; --fresh measures all.

256 steps are given to the original as its own datasets give them, padded on the left to 512 with an
`input_mask`; ours gets the same and leaves the padding out. Case 1x88x256d gives the bare 256 steps to both.

Every line of benchmarks/results/moment_speed.jsonl is one process's figures. Times are wall seconds; cpu_s is
the processor time of the same pass, which a busy machine does not stretch as much.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / ".bench-venv"
RESULTS = HERE / "results" / "moment_speed.jsonl"
GEOMETRY = json.loads((HERE / "moment_geometry.json").read_text())
ORIGINAL = ("momentfm==0.1.4",)
FIRST = ("torch==2.13.0", "numpy==1.25.2")
VARIANTS = ("original fp32", "original bf16", "ours fp32", "ours auto")
# name: batch, channels, steps the model is given, steps observed (the last ones)
CASES = {
    "8x1x512": (8, 1, 512, 512),
    "1x88x512": (1, 88, 512, 512),
    "1x88x256": (1, 88, 512, 256),
    "1x88x256d": (1, 88, 256, 256),
}
QUICK = ("8x1x512", "1x88x256")


# ---------------------------------------------------------------- one process's side


def inputs(case: str) -> tuple[Any, Any]:
    """Seeded walks, waves and noise (B, C, L), and which steps were observed (B, L)."""
    import numpy as np

    batch, channels, steps, observed = CASES[case]
    rng = np.random.default_rng(7)
    shape = (batch, channels, steps)
    walk = rng.normal(size=shape).cumsum(-1) * 0.2
    wave = np.sin(np.arange(steps) / rng.uniform(3, 40, (batch, channels, 1)))
    x = (walk + wave + 0.3 * rng.normal(size=shape)).astype(np.float32)
    mask = np.zeros((batch, steps), np.float32)
    mask[:, steps - observed :] = 1
    x[..., : steps - observed] = 0
    return x, mask


def make_forward(variant: str, folder: str, case: str) -> Any:
    """A function that runs one forward pass and gives the reconstruction as an array."""
    import torch

    x, mask = (torch.from_numpy(a) for a in inputs(case))
    if variant.startswith("original"):
        from momentfm import MOMENTPipeline  # type: ignore[import-not-found]

        options = {"task_name": "reconstruction", "enable_gradient_checkpointing": False}
        model = MOMENTPipeline.from_pretrained(folder, model_kwargs=options).eval()
        is_half = variant.endswith("bf16")

        def original() -> Any:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                return model.reconstruct(x_enc=x, input_mask=mask).reconstruction.float().numpy()

        return original
    from foreshock import load_moment

    ours = load_moment(folder, precision=variant.split()[1])
    seen = None if bool(mask.all()) else mask.bool()
    return lambda: ours.reconstruct(x, seen, skip_padding=seen is not None).numpy()


def matmul_peak(dtype_name: str) -> float:
    """Floating point operations a second of one large matrix product, as on a machine with no other work."""
    import torch

    n = 2048
    dtype = getattr(torch, dtype_name)
    a, b = torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.process_time()
        torch.mm(a, b)
        cpu = time.process_time() - start
        best = min(best, cpu / torch.get_num_threads())
    return 2 * n**3 / best


def peak_memory() -> int:
    """Bytes resident at most so far. Not getrusage's figure: a child begins with its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def work(variant: str, folder: str, case: str, out: str) -> None:
    """Serve the parent: `run` for one pass, `peak` for the matrix product, `stop`."""
    import numpy as np
    import torch

    forward = make_forward(variant, folder, case)
    np.save(out, forward())
    say({"ready": True, "torch": torch.__version__, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        command = line.strip()
        if command == "run":
            wall, cpu = time.perf_counter(), time.process_time()
            forward()
            say({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu})
        elif command == "memory":
            say({"peak_bytes": peak_memory()})
        elif command == "peak":
            say({name: matmul_peak(name) for name in ("float32", "bfloat16")})
        else:
            return


def say(record: dict[str, Any]) -> None:
    print("@" + json.dumps(record), flush=True)


# ---------------------------------------------------------------- the parent's side


class Worker:
    """A process that holds one model."""

    def __init__(self, variant: str, folder: Path, case: str, out: Path, threads: int) -> None:
        python = str(VENV / "bin" / "python") if variant.startswith("original") else sys.executable
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        env |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
        command = [python, __file__, "--worker", variant, str(folder), case, str(out)]
        self.process = subprocess.Popen(
            command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.about = self.listen()

    def listen(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                answer: dict[str, Any] = json.loads(line[1:])
                return answer
        assert self.process.stderr is not None
        raise SystemExit(f"a worker stopped:\n{self.process.stderr.read()[-2000:]}")

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.listen()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("stop\n")
        self.process.stdin.close()
        self.process.wait()


def original_environment() -> None:
    """Make .bench-venv with the original in it, unless it is there."""
    python = VENV / "bin" / "python"
    if (
        python.exists()
        and not subprocess.run([python, "-c", "import momentfm"], capture_output=True).returncode
    ):
        return
    maker = sys.executable if sys.version_info < (3, 12) else shutil.which("python3.11")
    if maker is None:
        raise SystemExit("momentfm 0.1.4 needs numpy 1.25.2 and with it python 3.11 or older; none was found")
    print(f"making {VENV.name} with the original package (several minutes, 1.5 GB)")
    subprocess.run([maker, "-m", "venv", VENV], check=True)
    for packages in (FIRST, ORIGINAL):
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)


def checkpoint(size: str) -> Path:
    """A folder with random seeded weights of a true geometry, made once."""
    folder = VENV / "weights" / size
    if not (folder / "SHA256SUMS").exists():
        import torch

        from foreshock.models.moment import Moment, MomentConfig

        torch.manual_seed(0)
        Moment(MomentConfig(**GEOMETRY[size])).save_pretrained(folder)
    return folder


def flops(size: str, case: str) -> float:
    """Multiplications and additions that the observed patches need."""
    g = GEOMETRY[size]
    batch, channels, _, observed = CASES[case]
    patches, inner = observed // 8, g["d_kv"] * g["num_heads"]
    a_patch = 8 * g["d_model"] * inner + 6 * g["d_model"] * g["d_ff"] + 4 * patches * inner
    return float(batch * channels * patches * g["num_layers"] * a_patch)


def facts(threads: int) -> dict[str, Any]:
    """Where and with what it was measured."""
    import foreshock

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    flags = set(text.split())
    return {
        "cpu": (named or [platform.processor()])[0],
        "cores": os.cpu_count(),
        "abilities": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni"}),
        "threads": threads,
        "foreshock": foreshock.__version__,
        "original": "momentfm 0.1.4, transformers 4.33.3, torch 2.13.0, numpy 1.25.2",
    }


def known(about: dict[str, Any]) -> set[tuple[str, str]]:
    """The cases that stand in the results with the same facts."""
    if not RESULTS.exists():
        return set()
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    same = [r for r in lines if all(r.get(k) == v for k, v in about.items())]
    return {(r["size"], r["case"]) for r in same if r["variant"] == VARIANTS[-1]}


def measure(size: str, case: str, rounds: int, threads: int) -> list[dict[str, Any]]:
    """All four variants of one case, taking turns."""
    import numpy as np

    from foreshock.models.engine import rank_correlation

    folder, x = checkpoint(size), inputs(case)[0]
    seen = slice(CASES[case][2] - CASES[case][3], None)
    with tempfile.TemporaryDirectory() as temporary:
        outs = {v: Path(temporary, v.replace(" ", "-") + ".npy") for v in VARIANTS}
        workers = {v: Worker(v, folder, case, outs[v], threads) for v in VARIANTS}
        times: dict[str, list[dict[str, Any]]] = {v: [] for v in VARIANTS}
        peak = {"float32": 0.0, "bfloat16": 0.0}
        memory = {}
        for turn in range(rounds):
            for variant, worker in workers.items():
                times[variant].append(worker.ask("run"))
                if turn == 0:
                    memory[variant] = worker.ask("memory")["peak_bytes"]
            # As often as the passes, so that other work on the machine troubles both alike.
            now = workers["ours auto"].ask("peak")
            peak = {name: max(best, now[name]) for name, best in peak.items()}
        for worker in workers.values():
            worker.stop()
        results = {v: np.load(outs[v])[..., seen] for v in VARIANTS}
    x, exact = x[..., seen], results["original fp32"]
    records = []
    for variant in VARIANTS:
        wall = sorted(t["wall_s"] for t in times[variant])
        cpu = sorted(t["cpu_s"] for t in times[variant])
        dtype = "float32" if variant.endswith("fp32") else "bfloat16"
        records.append(
            {
                "size": size,
                "case": case,
                "variant": variant,
                "wall_s": round(wall[0], 5),
                "wall_median_s": round(wall[len(wall) // 2], 5),
                "cpu_s": round(cpu[0], 5),
                "peak_bytes": memory[variant],
                "share_of_matmul_peak": round(flops(size, case) / wall[0] / peak[dtype], 3),
                "matmul_peak": round(peak[dtype]),
                "matmul_peak_by": "processor time",
                "rank_correlation": round(rank_correlation((exact - x) ** 2, (results[variant] - x) ** 2), 6),
                "largest_difference": float(np.abs(results[variant] - exact).max()),
                "rounds": rounds,
            }
        )
    return records


def show(records: list[dict[str, Any]]) -> None:
    """One case as a table."""
    base = records[0]
    print(f"\n{base['size']} {base['case']}")
    for r in records:
        print(
            f"  {r['variant']:14s} {r['wall_s']:9.3f} s  x{base['wall_s'] / r['wall_s']:5.2f}  "
            f"(cpu {r['cpu_s']:8.3f} s  x{base['cpu_s'] / r['cpu_s']:5.2f})  "
            f"{r['peak_bytes'] / 2**20:6.0f} MiB  {r['share_of_matmul_peak']:4.0%} of the matmul peak  "
            f"rank {r['rank_correlation']:.4f}  difference {r['largest_difference']:.1e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small alone, two shapes, three rounds")
    parser.add_argument("--sizes", nargs="+", choices=list(GEOMETRY), default=list(GEOMETRY))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, default=0, help="0: the cores that are free now")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fresh", action="store_true", help="measure again what stands in the results")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
        return
    if options.quick:
        options.sizes, options.cases, options.rounds = ["small"], list(QUICK), 3
    from foreshock.models.engine import free_threads

    original_environment()
    about = facts(options.threads or free_threads())
    if "amx_bf16" not in about["abilities"]:
        print("this processor has no AMX: bf16 gains of 6 to 12 times can't be measured here")
    done = set() if options.fresh else known(about)
    RESULTS.parent.mkdir(exist_ok=True)
    for size in options.sizes:
        for case in options.cases:
            if (size, case) in done:
                print(f"{size} {case} stands in {RESULTS.name}")
                continue
            records = measure(size, case, options.rounds, about["threads"])
            show(records)
            stamp = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "load": os.getloadavg()[0]}
            with RESULTS.open("a") as file:
                file.writelines(json.dumps({**r, **about, **stamp}) + "\n" for r in records)


if __name__ == "__main__":
    main()
