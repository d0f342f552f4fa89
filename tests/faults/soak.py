"""Short pipelines with random settings, killed and gone on with, for as long as asked; what must hold is checked.

    python -m tests.faults.soak --minutes 30

Two clones run every setting: one is left alone; the other is hit at random moments by SIGKILL, SIGTERM or SIGINT and
goes on, in the workspace (`dvc exp run`), in a temporary copy or in DVC's queue. Then all outputs are compared byte by
byte, and what lies in the hit clone's store is verified. One line a setting; counts at the end.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import psutil
import torch

from pipeline.core import store
from pipeline.params.methods import METHODS
from tests.pipeline import clones

CHOICES = {
    "inflation.ratio": (0.5, 1.0, 1.5, 2.0),
    "inflation.real_weight": (1.0, 3.0, 10.0),
    "inflation.order": ("slots", "copies"),
    "inflation.seed": (0, 1),
    "augment.strength": (0.5, 1.0, 2.0, 4.0),
    "pretrain.method": tuple(sorted(METHODS.keys() - {"mixed_ae", "joint_gan"})),  # on another backbone, with a GAN
    "positives.kind": ("none", "anchored"),
    "pretrain.seed": (0, 1, 2),
    "pretrain.batch_size": (32, 64),
    "generate.shard_size": (50, 100),
    "ddpm.seed": (0, 1),
}
FAMILY = {"simclr": "symmetric", "swav": "symmetric", "moco": "symmetric-weak"}  # asymmetric of the others
WAYS = ("workspace", "temp", "queue")
HITS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")


def soak(place: Path, minutes: float, seed: int) -> Counter:
    """Runs until the time is over; the counts. An AssertionError tells what did not hold, and under which setting."""
    chance, counts, end = random.Random(seed), Counter(), time.monotonic() + 60 * minutes
    alone = clones.smoke(place / "alone", compute__threads="1")
    hit = clones.copy(alone, place / "hit")
    while time.monotonic() < end:
        setting = {name: chance.choice(values) for name, values in CHOICES.items()}
        setting["augment.family"] = FAMILY.get(setting["pretrain.method"], "asymmetric")
        for method in ("clsp_simclr", "clsp_moco"):
            setting[f"{method}.third_view"] = "augmented" if setting["positives.kind"] == "none" else "candidate"
        for method in ("moco", "nnclr", "all4one", "clsp_moco", "swav"):
            setting[f"{method}.queue_size"] = setting["pretrain.batch_size"]
        way, since = chance.choice(WAYS), time.monotonic()
        told = f"{way}: {json.dumps(setting)}"
        before = sum(counts[name] for name in HITS)
        run(alone, "workspace", f"alone-{counts['runs']}", setting)
        run(hit, way, f"hit-{counts['runs']}", setting, lambda: chance.uniform(1, 25), chance, counts)
        counts["bytes"] += compared(alone, hit, told)
        counts.update(verified(hit, told))
        counts["runs"] += 1
        counts[way] += 1
        hits = sum(counts[name] for name in HITS) - before
        print(f"{time.monotonic() - since:4.0f} s, {hits} hits, {told}", flush=True)
    return counts


def run(clone: Path, way: str, name: str, setting: dict, moment=None, chance=None, counts=None) -> None:
    """One experiment to its end, hit at the moments that `moment()` gives, at most three times; applied at the end."""
    counts = Counter() if counts is None else counts
    words = [word for key, value in setting.items() for word in ("-S", f"{key}={value}")]
    for attempt in range(4):
        left = None if moment is None or attempt == 3 else moment()
        counts["resumes"] += attempt > 0
        clones.run(clone, "git", "checkout", "--quiet", "--", "params.yaml")
        if way == "queue":
            done = queued(clone, f"{name}-{attempt}", words, left, chance, counts)
        else:
            temp = ["--temp"] if way == "temp" else []
            command = ["dvc", "exp", "run", "--name", f"{name}-{attempt}", *temp, *words]
            done = direct(clone, command, left, chance, counts)
        counts["checkpoints read"] += readable(clone, name)
        if done:
            if way != "workspace":
                clones.run(clone, "dvc", "exp", "apply", f"{name}-{attempt}")
            return
    raise AssertionError(f"{name} did not end")


def direct(clone: Path, command: list[str], left: float | None, chance, counts: Counter) -> bool:
    """A command in the foreground, hit after so many seconds; whether it had ended well by then."""
    with clones.background(clone, *command) as (process, log):
        end = None if left is None else time.monotonic() + left
        while process.poll() is None:
            if end is not None and time.monotonic() > end:
                strike(process.pid, chance.choice(HITS), counts)
                break
            time.sleep(0.1)
        with contextlib.suppress(Exception):
            process.wait(60)
        if process.returncode == 0:
            return True
        assert left is not None, log.read_text()
        assert "Traceback" not in log.read_text() or "KeyboardInterrupt" in log.read_text(), log.read_text()
        return False


def queued(clone: Path, name: str, words: list[str], left: float | None, chance, counts: Counter) -> bool:
    """The same by DVC's queue; the hit is for the stage, whose worker takes the experiment for failed."""
    clones.run(clone, "dvc", "exp", "run", "--queue", "--name", name, *words)
    clones.run(clone, "dvc", "queue", "start")
    end = None if left is None else time.monotonic() + left
    try:
        while True:
            (line,) = [row for row in clones.run(clone, "dvc", "queue", "status").splitlines() if name in row]
            if "Success" in line or "Failed" in line:
                assert "Success" in line or left is not None, clones.run(clone, "dvc", "queue", "logs", name, code=None)
                return "Success" in line
            if end is not None and time.monotonic() > end:
                for process in stages(clone):
                    strike(process.pid, chance.choice(HITS), counts, group=False)
                end = time.monotonic() + 15
            time.sleep(1)
    finally:
        clones.run(clone, "dvc", "queue", "stop", "--kill")


def stages(clone: Path) -> list[psutil.Process]:
    """The stages that run in this clone or in a copy of it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(word.startswith("stages.") for word in process.cmdline()) and process.cwd().startswith(str(clone)):
                found.append(process)
    return found


def strike(pid: int, name: str, counts: Counter, group: bool = True) -> None:
    """A signal to a process, or to all of its group; counted if it was still there."""
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, getattr(signal, name))
        counts[name] += 1


def compared(alone: Path, hit: Path, told: str) -> int:
    """Bytes of all outputs, which are the same in both clones."""
    one, two = clones.digests(alone), clones.digests(hit)
    for found in (one, two):
        found.pop("data/params.ok", None)  # which DVC does not keep
    different = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    assert not different, f"{told}: {', '.join(different)}"
    return sum((alone / name).stat().st_size for name in one)


def readable(clone: Path, told: str) -> int:
    """How many checkpoints a hit left in the store; all are whole."""
    paths = list((clone / ".cache").rglob("checkpoint.pt"))
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None, f"{told}: {path}"
        assert torch.load(path, weights_only=True)["step"] > 0, f"{told}: {path}"
    return len(paths)


def verified(clone: Path, told: str) -> Counter:
    """Files of the store whose digest their manifest or their own note has; nothing half made is among them."""
    kept, found = clone / ".cache", Counter()
    assert not [p for p in kept.rglob(".*.tmp") if not stages(clone)], f"{told}: temporary files"
    for manifest in kept.rglob("manifest.json"):
        found["files verified"] += len(store.verify(manifest.parent, "nothing")["files"])
    for note in kept.rglob("shard-*.sha256"):
        assert clones.sha256(note.with_suffix(".h5")) == note.read_text().strip(), f"{told}: {note}"
        found["files verified"] += 1
    facts = json.loads((clone / "metrics/generate.json").read_text())
    held = store.verify(clone / "data/generated/inflation", "generate")
    assert held["n"] == facts["images"], told
    return found


def main() -> None:
    """Soak, and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=main.__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    counts = soak(place, asked.minutes, asked.seed)
    print(", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())))
    shutil.rmtree(place)


if __name__ == "__main__":
    sys.exit(main())
