"""A cell while it runs: a DVC experiment in a temporary copy of this clone, and the row that it gives."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import files, store
from pipeline.core.errors import UserError
from pipeline.params import presets
from pipeline.params.evaluation import spelled
from pipeline.params.schema import Params
from pipeline.run import launch
from pipeline.run.experiment import environment
from pipeline.study import cells, rows

_VISIBLE = "CUDA_VISIBLE_DEVICES"
PATIENCE = 90  # seconds for a stopped experiment to save what it has


@dataclass(frozen=True)
class Wanted:
    """A cell, all its parameters and the key of its row."""

    cell: cells.Cell
    params: Params
    key: str


class Experiment:
    """One `dvc exp run --temp`, in a process group of its own; it begins when it is made.

    gpus: those that it sees; None: all.
    """

    def __init__(self, study: str, one: Wanted, commit: str, gpus: list[str] | None = None):
        self.one, self.since, self._settled, self._commit = one, time.monotonic(), False, commit
        self._gpus = {} if gpus is None else {_VISIBLE: ",".join(gpus)}
        self._gpus |= {launch.VARIABLE: ""} if len(gpus or ()) == 1 else {}
        self.name = f"{study}-{one.cell.name}-{one.key[:6]}"
        self._begin()

    def forget(self) -> None:
        """Delete what git has of an earlier one, whose row was lost."""
        for lost in self._refs():
            rows.git("update-ref", "-d", lost)

    def _begin(self) -> None:
        self.forget()
        out, path = tempfile.mkstemp(".log", f"{self.name}-")
        self.log = Path(path)
        # Or the end of one fails while another begins: DVC would wait three seconds.
        dvc = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp", "--name", self.name]
        self._process = subprocess.Popen(
            [*dvc, *presets.words(self.one.cell.values)],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment() | self._gpus,
        )
        # Or its name would be taken when the cell is run again. Its stage lives on, and what it makes is found.
        self._guard = launch.guard(self._process, signal.SIGKILL)
        os.close(out)

    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        found = self._process.poll()
        if found is not None:
            self._guard.communicate()  # there is nothing left to guard
        return found

    def interrupt(self, number: int) -> None:
        """Send it and all its processes a signal, if it still runs."""
        if self.code() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def settled(self) -> bool:
        """Whether DVC has made the experiment's copy; True after PATIENCE seconds in any case.

        Until then DVC stashes this folder's changes and keeps the experiment's parameters here: a row that is added
        meanwhile is lost, params.yaml is not the committed one, and a second experiment fails.
        """
        self._settled = (
            self._settled or self.code() is not None or time.monotonic() > self.since + PATIENCE or self.begun()
        )
        return self._settled

    def begun(self) -> bool:
        """Whether DVC has made the copy."""
        return "Reproducing experiment" in self.log.read_text(errors="replace")

    def _refs(self) -> list[str]:
        """Where git has it, whatever commit DVC saw: a page may have been committed in between."""
        return rows.git("for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{self.name}").splitlines()

    def row(self) -> dict:
        """The row of a finished experiment."""
        (ref,), params = self._refs(), self.one.params
        wanted = {f: f"metrics/{f}.json" for f in rows.FILES if f != "positives" or cells.wants_positives(params)}
        if params.finetune.labels:
            there, share = rows.git("ls-tree", "--name-only", ref, "metrics/finetune/"), max(params.finetune.labels)
            named = (f"metrics/finetune/{text}.json" for text in spelled(share))
            wanted["finetune"] = next(path for path in named if path in there.splitlines())
        metrics = {name: json.loads(rows.git("show", f"{ref}:./{path}")) for name, path in wanted.items()}
        self.log.unlink(missing_ok=True)
        facts = {"seconds": round(self._spent(), 1), "commit": self._commit[:12], "key": self.one.key}
        clock(self.one.key).unlink(missing_ok=True)
        return rows.setting(self.one.cell, self.one.params) | rows.measured(metrics) | facts

    def fault(self) -> str:
        """The last lines of a failed experiment's output, and the file with all of it."""
        return f"failed, {last_words(self.log)} ({self.log})"

    def keep_time(self) -> None:
        """Save how many seconds a stopped experiment's cell has taken so far, for its later row."""
        files.write_json(clock(self.one.key), {"seconds": self._spent()})
        self.log.unlink()

    def _spent(self) -> float:
        return spent(clock(self.one.key)) + time.monotonic() - self.since


class Gpus:
    """The GPUs of this machine, of which each experiment has so many for itself: for `most` experiments at a time."""

    def __init__(self, each: int):
        """As many as CUDA_VISIBLE_DEVICES names, or as torch finds; UserError where they are too few for one."""
        self._each, self._taken, named = each, [], os.environ.get(_VISIBLE)
        if named is None:
            import torch

            named = ",".join(map(str, range(torch.cuda.device_count())))
        listed = [gpu.strip() for gpu in named.split(",")]
        self._all = list(
            dict.fromkeys(itertools.takewhile(lambda gpu: gpu not in ("", "-1"), listed))
        )  # as CUDA reads it
        self.most = len(self._all) // each
        if not self.most:
            raise UserError(f"this machine has {len(self._all)}", f"--gpus {each}", "ask for fewer, or for none")
        if each > 1 and not os.environ.get(launch.VARIABLE):
            what = "a process uses one GPU, and nothing starts several"
            raise UserError(what, f"--gpus {each}", f'export {launch.VARIABLE}="torchrun --nproc-per-node {each}"')

    def start(self, study: str, one: Wanted, commit: str) -> Experiment:
        """A cell on GPUs that no other has; UserError while too few are free."""
        self._taken = [(gpus, experiment) for gpus, experiment in self._taken if experiment.code() is None]
        busy = {gpu for gpus, _ in self._taken for gpu in gpus}
        free = [gpu for gpu in self._all if gpu not in busy][: self._each]
        if len(free) < self._each:
            raise UserError(f"only {len(free)} of {len(self._all)} GPUs are free", f"--gpus {self._each}")
        self._taken.append((free, Experiment(study, one, commit, free)))
        return self._taken[-1][1]


def clock(key: str) -> Path:
    """Where the seconds stand that an unfinished cell has taken."""
    return store.root() / "studies" / f"{key}.json"


def spent(path: Path) -> float:
    """The seconds of a clock; 0 where there is none."""
    return files.read_json(path)["seconds"] if path.exists() else 0.0


def last_words(log: Path) -> str:
    """The last lines of an experiment's output."""
    lines = [line.strip()[-200:] for line in log.read_text(errors="replace").splitlines()]
    lines = [line for line in dict.fromkeys(lines) if line and "dvc.org/support" not in line]
    return " / ".join(lines[-3:])
