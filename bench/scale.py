"""Which part of Leaven's bookkeeping gives first, at 1, 4 and 16 times as many cells, experiments, shards and entries.

python -m bench.scale              all, in a temporary clone of this repository: some four minutes
python -m bench.scale NAME ...     these alone

No network is trained: a study's cells are numbers from the air, shards hold noise. What is timed is the code that users
run, and real git and DVC.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipeline.core import outputs, store
from pipeline.data import shards
from pipeline.study import cells, rows, runner, tables
from pipeline.study.experiment import Wanted

TIMES = (1, 4, 16)
STUDY = """
title: many
presets: [smoke]
seed: [pretrain.seed]
parts:
"""
PART = """
  part_{k}:
    asks: how it grows
    seeds: 5
    first_seed: {first}
    arms: {{none: {{inflation: {{ratio: 0.0}}}}, some: {{inflation: {{ratio: 2.0}}}}}}
    grid: {{augment.strength: [0.5, 1.0, 1.5, 2.0, 2.5]}}
"""
A_PART = 50  # its cells
LAST = 10  # cells that are timed, beside those that are done


class Ended:
    """An experiment that has ended as soon as it begins."""

    def __init__(self, study: str, one: Wanted, commit: str):
        self.one, self.commit = one, commit

    def settled(self) -> bool:
        """Always."""
        return True

    begun = settled

    def code(self) -> int:
        """Well."""
        return 0

    def row(self) -> dict:
        """A row as a finished experiment gives it."""
        return row(self.one, self.commit)


def row(one: Wanted, commit: str) -> dict:
    """Numbers from the air, as many as a cell has."""
    drawn = np.random.default_rng(one.cell.seed)
    numbers = {name: float(drawn.uniform(0, 100)) for name in (*rows.PERCENT, *rows.LABEL_FREE)}
    made = {"seconds": 100.0, "commit": commit[:12], "key": one.key}
    return rows.setting(one.cell, one.params) | numbers | made


def _study(n: int) -> tuple[cells.Study, list[Wanted]]:
    for old in Path("studies").glob("*.csv"):
        old.unlink()
    parts = (PART.format(k=k, first=5 * k) for k in range(n // A_PART))
    Path("studies/many.yaml").write_text(STUDY + "".join(parts))
    study = cells.load("many")
    return study, runner.wanted(study)


def _filled(n: int, but: int) -> cells.Study:
    study, asked = _study(n)
    outputs.table(study.memory, rows.COLUMNS, [row(one, "0" * 40) for one in asked[: n - but]])
    return study


def plan(n: int) -> Iterator[None]:
    """`leaven study plan` of n cells, ten of them missing."""
    study = _filled(n, LAST)
    yield
    runner.plan(study)


def cell(n: int) -> Iterator[None]:
    """What a study of n cells does beside each cell's own run: ten of them, the others done."""
    study = _filled(n, LAST)
    yield
    runner.run(study, None, 1000, LAST, Ended)
    assert len(rows.read(study.memory)) == n


def table(n: int) -> Iterator[None]:
    """`leaven study table` of n cells."""
    study = _filled(n, 0)
    yield
    tables.table(study)


def _experiments(n: int) -> None:
    head, who = rows.git("rev-parse", "HEAD"), ("-c", "user.name=bench", "-c", "user.email=bench@example.org")
    lines = []
    for k in range(n):
        commit = rows.git(*who, "commit-tree", f"{head}^{{tree}}", "-p", head, "-m", f"experiment {k}")
        lines.append(f"create refs/exps/{head[:2]}/{head[2:]}/many-{k:06d} {commit}")
    subprocess.run(["git", "update-ref", "--stdin"], input="\n".join([*lines, ""]), text=True, check=True)


def named(n: int) -> Iterator[None]:
    """The experiment of a cell among n, by its name."""
    _experiments(n)
    yield
    assert rows.git("for-each-ref", "--format=%(refname)", f"refs/exps/*/*/many-{n - 1:06d}")


def shown(n: int) -> Iterator[None]:
    """`dvc exp show` of n experiments."""
    _experiments(n)
    yield
    _dvc("exp", "show", "--csv")


def listed(n: int) -> Iterator[None]:
    """`dvc exp list` of n experiments."""
    _experiments(n)
    yield
    _dvc("exp", "list")


def _dvc(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], check=True, stdout=subprocess.DEVNULL)


def entries(n: int) -> Iterator[None]:
    """`leaven store`, of n finished pieces of work."""
    for k in range(n):
        store.once("encoder", {"k": k}, _one_file)
    yield
    assert len(list(store.listing())) == n + 1


def found(n: int) -> Iterator[None]:
    """Ten finished pieces of work in a store of n."""
    for k in range(n):
        store.once("encoder", {"k": k}, _one_file)
    yield
    for k in range(min(n, 10)):
        store.once("encoder", {"k": k}, _missed)


def _missed(folder: Path, name: str) -> list[str]:
    raise AssertionError(f"{name} is not found")


def _one_file(folder: Path, name: str) -> list[str]:
    (folder / "result").write_text(name)
    return ["result"]


def _grown(n: int) -> dict[str, Path]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)  # 0.2 MB

    def write(path: Path) -> None:
        shards.write_arrays(path, {"images": noise}, {"shard": int(path.stem[-5:])})

    return store.grow("shards", {}, [shards.shard_name(k) for k in range(n)], lambda missing: write)


def checked(n: int) -> Iterator[None]:
    """A set of n shards that the store has, found and verified."""
    _grown(n)
    yield
    _grown(n)


def mapped(n: int) -> Iterator[None]:
    """A sealed set of n shards, verified and mapped."""
    folder = Path("data/set")
    folder.mkdir(parents=True)
    made = _grown(n)
    for name, path in made.items():
        os.link(path, folder / name)
    store.seal(folder, sorted(made), {"n": 64 * n})
    import torch  # noqa: F401  # seconds, which every stage takes once

    yield
    assert sum(map(len, shards.map_generated(folder))) == 64 * n


def hashed(n: int) -> Iterator[None]:
    """`dvc add` of a folder of n shards."""
    folder = Path("many")
    folder.mkdir()
    for name, path in _grown(n).items():
        with open(folder / name, "wb") as file:
            file.write(path.read_bytes() + os.urandom(8))  # or DVC would know most of them
    yield
    _dvc("add", "many")


MEASURES: dict[str, tuple[Callable[[int], Iterator[None]], int]] = {  # and how many are once as many
    "plan": (plan, 250),
    "cell": (cell, 250),
    "table": (table, 250),
    "named": (named, 250),
    "listed": (listed, 250),
    "shown": (shown, 10),  # so slow is it
    "entries": (entries, 250),
    "found": (found, 250),
    "checked": (checked, 125),
    "mapped": (mapped, 125),
    "hashed": (hashed, 125),
}


def measured(name: str, n: int, of: Path | None = None) -> float:
    """Seconds of one measure with n of its things, in a clone and a store of its own; of: another repository."""
    work, source = MEASURES[name][0](n), of or Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", "--local", str(source), folder], check=True)
        os.environ["LEAVEN_STORE"] = str(Path(folder) / ".cache")
        with contextlib.chdir(folder):
            next(work)
            since = time.monotonic()
            next(work, None)
            return time.monotonic() - since


def main() -> None:
    """Print a line for each measure."""
    print(f"{'what':<9} {'things':>18} {'seconds':>26}   growth from 4 to 16 times")
    for name in sys.argv[1:] or MEASURES:
        counts = [MEASURES[name][1] * k for k in TIMES]
        took = []
        for n in counts:
            here = f"import sys; sys.path[0] = {str(Path.cwd())!r}"  # not the clone's code, whose folder it works in
            words = [sys.executable, "-c", f"{here}; from bench import scale; print(scale.measured({name!r}, {n}))"]
            done = subprocess.run(words, check=True, stdout=-1, text=True)
            took.append(float(done.stdout.splitlines()[-1]))
        things, seconds = " ".join(f"{n:>5,}" for n in counts), " ".join(f"{s:>8.2f}" for s in took)
        print(f"{name:<9} {things:>18} {seconds:>26}   {took[2] / took[1]:.1f} times", flush=True)


if __name__ == "__main__":
    main()
