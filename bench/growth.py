"""How time and memory of generate, pretrain and linear_eval grow with the number of images: the stages themselves.

python -m bench.growth      about six minutes on two cores

Each stage runs in a process of its own at 1, 4 and 16 times as many images. If a quantity is a + b n^e, then
e = log4((q16 - q4) / (q4 - q1)), whatever a is, which for a stage is its imports.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).parent.parent
TIMES = (1, 4, 16)
REAL = {"validation_size": 1000, "labelled_size": 1000, "spare_size": 0}
UNET = {"channels": [8, 16], "groups": 4, "steps": 1, "batch_size": 32, "warmup_steps": 0, "checkpoint_every": 1}
SMALL = {"backbone": {"width": 16, "blocks": [1, 1, 1, 1]}, "warmup_steps": 0, "log_every": 5, "checkpoint_every": 100}
IMPORTED = "imported.npz"
PIPELINE = ("prepare", "generator", "generate", "pretrain", "linear_eval")


def stages() -> dict[str, tuple[str, list[dict]]]:
    """Stage -> (what grows, changes of the parameters at each size)."""
    return {
        "generate": (
            "images sampled: 500, 2,000, 8,000",
            [{"inflation": {"ratio": 0.5 * k}, "generate": {"steps": 4, "shard_size": 500}} for k in TIMES],
        ),
        "pretrain": (
            "generated images: 20,000, 80,000, 320,000, each drawn once in twenty",
            [
                {
                    "generator": {"source": "import", "path": IMPORTED},
                    "generate": {"shard_size": 10000},
                    "inflation": {"ratio": 20.0 * k},
                    "pretrain": SMALL | {"steps": 10 * k, "evaluate_every": 10 * k},
                }
                for k in TIMES
            ],
        ),
        "linear_eval": (
            "train images and labels: 3,000, 12,000, 48,000",
            [{"dataset": {"train_size": 3000 * k}, "inflation": {"ratio": 0.0}} for k in TIMES],
        ),
    }


def workspace(folder: Path, changes: dict) -> None:
    """The code and the data of the repository, with other parameters; nothing is made in it yet."""
    for name in ("pipeline", "stages"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data").mkdir()
    (folder / "data/FashionMNIST").symlink_to(ROOT / "data/FashionMNIST")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    few = {"pretrain": SMALL | {"steps": 10, "evaluate_every": 10}, "quality": {"images": 0}}
    for part in ({"dataset": REAL | {"train_size": 1000}, "ddpm": UNET}, few, changes):
        for section, values in part.items():
            params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def run(folder: Path, stage: str) -> tuple[float, float]:
    """Seconds of a stage, and the most private memory (MB) that it held: what the system could not have back."""
    start, most = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env=os.environ | {"LEAVEN_STORE": str(folder / "store")},
        stderr=subprocess.PIPE,
        text=True,
    )
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        private = status.read_text().partition("RssAnon:")[2].split()
        most = max(most, int(private[0]) if private else 0)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(process.stderr.read())
    return time.perf_counter() - start, most / 1024


def exponent(values: list[float]) -> float | None:
    """e of a + b n^e through three values at n, 4 n and 16 n; None where they grow by less than a tenth in all."""
    one, four, sixteen = values
    if sixteen < 1.1 * one or not one < four < sixteen:
        return None
    return math.log((sixteen - four) / (four - one), 4)


def main() -> None:
    """Measure and print a table."""
    print("stage         seconds at 1, 4, 16 times     exponent    private MB            exponent")
    for stage, (what, sizes) in stages().items():
        found = []
        for changes in sizes:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                workspace(folder, changes)
                if changes.get("generator"):
                    images = np.random.default_rng(0).integers(0, 256, (20_000 * TIMES[-1], 28, 28, 1), np.uint8)
                    np.savez(folder / IMPORTED, image=images)
                for earlier in PIPELINE[: PIPELINE.index(stage)]:
                    run(folder, earlier)
                found.append(run(folder, stage))
        columns = []
        for values in zip(*found, strict=True):
            e = exponent(list(values))
            columns += ["".join(f"{value:9.1f}" for value in values), "flat" if e is None else f"{e:.2f}"]
        print(f"{stage:<12} {columns[0]:<30} {columns[1]:<10} {columns[2]:<25} {columns[3]:<6} {what}", flush=True)


if __name__ == "__main__":
    main()
