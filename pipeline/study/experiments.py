"""Running what a study lacks: every cell a DVC experiment in a copy of the repository, its numbers a row of the CSV.

A cell that is stopped goes on from its checkpoint, which is in the store; a finished one is never run again.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import files, launch, preset, store
from pipeline.errors import Stopped, UserError
from pipeline.params.schema import Params
from pipeline.progress import say
from pipeline.study import cells, rows

PATIENCE = 90  # seconds for a stopped experiment to save what it has


@dataclass(frozen=True)
class Wanted:
    """A cell, all its parameters and the key under which its row is known."""

    cell: cells.Cell
    params: Params
    key: str


def wanted(study: cells.Study) -> list[Wanted]:
    """Every cell of a study, in order."""
    resolved = [(cell, cells.resolve(cell)) for cell in study.cells]
    return [Wanted(cell, params, cells.key(params)) for cell, params in resolved]


def missing(asked: list[Wanted]) -> list[Wanted]:
    """What no row of any study has the key of; each key once."""
    done, found = {row["key"] for row in rows.everywhere()}, []
    for one in asked:
        if one.key not in done:
            done.add(one.key)
            found.append(one)
    return found


def adopt(study: cells.Study, asked: list[Wanted]) -> None:
    """Rows of other studies, and of other cells of this one, for cells that ask for the same."""
    here = {(row["cell"], row["key"]) for row in rows.read(study.memory)}
    known = {row["key"]: row for row in rows.everywhere()}
    for one in asked:
        if one.key in known and (one.cell.name, one.key) not in here:
            here.add((one.cell.name, one.key))
            rows.add(study.memory, known[one.key] | {"label": one.cell.label, "cell": one.cell.name})


def seconds(one: Wanted, known: list[dict]) -> float | None:
    """About how long it takes: the median of seconds an image drawn over rows of its method and width, or over all.

    None where there is no row yet.
    """
    t = one.params.pretrain
    alike = [row for row in known if (row["method"], row["width"]) == (t.method, str(t.backbone.width))] or known
    if not alike:
        return None
    return statistics.median(float(r["seconds"]) / int(r["images"]) for r in alike) * t.steps * t.batch_size


def run(study: cells.Study, parts: list[str] | None, minutes: float, jobs: int) -> None:
    """Run what is missing, `jobs` experiments at a time, for so many minutes; the rows so far are there at any time."""
    with files.lock(store.root() / f"study-{study.name}.lock", f"study {study.name}"), _signals() as stop:
        commit, end = rows.commit(), time.monotonic() + 60 * minutes
        asked = [one for one in wanted(study) if parts is None or one.cell.part in parts]
        adopt(study, asked)
        todo = missing(asked)
        say(f"study {study.name}: {len(todo)} of {len(asked)} cells to run, for {minutes:g} minutes")
        running: list[_Experiment] = []
        try:
            while todo or running:
                while todo and len(running) < jobs and not stop and time.monotonic() < end:
                    left, need = end - time.monotonic(), seconds(todo[0], rows.read(study.memory))
                    if need is not None and need > left:
                        say(f"{todo[0].cell.label}: about {need:.0f} s, and {left:.0f} are left: not started")
                        todo.clear()
                        break
                    running.append(_Experiment(study.name, todo.pop(0)))
                if not running:
                    break
                if stop or time.monotonic() >= end:
                    break
                for experiment in [e for e in running if e.ended]:
                    running.remove(experiment)
                    row = experiment.row(commit)
                    rows.add(study.memory, row)
                    adopt(study, asked)
                    say(f"{row['label']}: top-1 {row['top1_10k']:.2f} in {row['seconds']:.0f} s; {len(todo)} to start")
                time.sleep(0.2)
        finally:
            for experiment in running:
                experiment.stop()
        left = len(missing(asked))
        say(f"{study.memory}: {left} cells missing" + ("" if left else ", complete") + "; commit it")
        if stop:
            raise Stopped(f"stopped; `python -m pipeline.study run {study.name}` goes on", stop[0])


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The numbers of the signals that ask this process to stop, as they come."""
    came: list[int] = []
    kept = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


class _Experiment:
    """One `dvc exp run --temp`, in a process group of its own."""

    def __init__(self, study: str, wanted: Wanted):
        self.wanted, self.name, self.since = wanted, f"{study}-{wanted.cell.name}", time.monotonic()
        subprocess.run(["dvc", "exp", "remove", self.name], capture_output=True, check=False)  # of a lost row
        out, log = tempfile.mkstemp(".log", f"{self.name}-")
        words = ["dvc", "exp", "run", "--temp", "--name", self.name, *preset.words(wanted.cell.values)]
        self.process = subprocess.Popen(
            words,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # Or its name would be taken when the cell is run again. Its stage lives on, and what it makes is found.
            preexec_fn=lambda: launch.end_with_the_parent(signal.SIGKILL),
        )
        os.close(out)
        self.log = Path(log)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def row(self, commit: str) -> dict:
        """The row of a finished experiment, or a UserError with the end of what it said."""
        if self.process.returncode:
            said = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            what = f"failed: {' / '.join(line.strip()[-200:] for line in said[-3:])}"
            raise UserError(what, self.wanted.cell.label, f"all it said is in {self.log}", code=1)
        seconds = time.monotonic() - self.since
        refs = rows.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
        ref = next(ref for ref in refs if ref.endswith(f"/{self.name}"))
        metrics = {name: json.loads(rows.git("show", f"{ref}:metrics/{name}.json")) for name in rows.FILES}
        self.log.unlink()
        facts = {"seconds": round(seconds, 1), "commit": commit[:12], "key": self.wanted.key}
        return rows.setting(self.wanted.cell, self.wanted.params) | rows.measured(metrics) | facts

    def stop(self) -> None:
        """As Ctrl-C does: the stage saves and ends, DVC removes its copy. Killed if that takes too long."""
        say(f"stopping {self.wanted.cell.label}")
        for number, seconds in ((signal.SIGINT, PATIENCE), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
                break
        self.log.unlink(missing_ok=True)
