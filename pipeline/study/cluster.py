"""Cells as jobs of SLURM, which submitit sends: each in a clone of its own, beside the store of the clone that asks.

All nodes see this clone, and the store, under the same path. A job that SLURM asks to leave saves, and SLURM starts it
again; one that was lost with its node is sent again. Nothing here schedules.
"""

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.core import files, store
from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.params import presets
from pipeline.run.experiment import environment
from pipeline.study import experiment, rows
from pipeline.study.experiment import Experiment, Wanted

AGAIN, REQUEUES = 3, 1_000  # times that a lost job is sent again, and that one may reach its time
LOOK, LATE = 5.0, 20.0  # seconds between looks at the queue, and until a result may be seen here
WARNED = 120  # seconds before its time in which a job is asked to leave


@dataclass(frozen=True)
class Resources:
    """What a job asks of SLURM: minutes until it must leave, and GPUs; a partition or SLURM's own."""

    minutes: int
    gpus: int = 0
    partition: str | None = None

    def send(self, study: str, one: Wanted, commit: str) -> "Job":
        """A cell as a job."""
        return Job(study, one, commit, self)


class Job(Experiment):
    """One cell's job, or those that followed it; it is in the queue when it is made."""

    _queue: tuple[float, dict[str, str]] = (-LOOK, {})  # when it was looked at, and what it had: name -> job and state

    def __init__(self, study: str, one: Wanted, commit: str, resources: Resources):
        self._resources, self._sent, self._missed = resources, 0, None
        super().__init__(study, one, commit)

    def _begin(self) -> None:
        """Send it, or take over what an earlier call has sent."""
        if store.off():
            raise UserError("keeps nothing that a job could go on from", "LEAVEN_STORE=off", "name a folder")
        submitit, folder = _submitit(), (store.root() / "jobs").absolute()
        self._stopping = False
        there = _queue().get(self.name)
        if there is not None and not self._sent:
            self._job = submitit.SlurmJob(folder=folder, job_id=there[0])
            log(f"{self.one.cell.label}: job {there[0]} of an earlier call is {there[1].lower()}")
        else:
            executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=REQUEUES)
            given = {"partition": self._resources.partition, "gpus_per_node": self._resources.gpus or None}
            executor.update_parameters(
                job_name=self.name,
                time=self._resources.minutes,
                cpus_per_task=self.one.params.compute.threads,
                signal_delay_s=min(WARNED, 30 * self._resources.minutes),
                additional_parameters={"requeue": True},
                **{name: value for name, value in given.items() if value is not None},
            )
            try:
                self._job = executor.submit(_work(self.name, self.one, self._commit))
            except (submitit.core.utils.FailedJobError, subprocess.SubprocessError) as fault:
                said = str(getattr(fault, "stderr", "") or fault).strip().splitlines()[-1]
                raise UserError(said, "sbatch", "see what SLURM wants of a job here") from fault
        self.log, self._sent, self._missed = self._job.paths.stderr, self._sent + 1, None

    def settled(self) -> bool:
        """A job touches nothing of this folder."""
        return True

    def begun(self) -> bool:
        """As far as this clone is concerned."""
        return True

    def code(self) -> int | None:
        """0 or 1 by its result, 130 if cancelled here, None while it waits or runs. One that was lost is sent again."""
        if self._result().exists():
            return 1 if self._outcome().fault else 0
        if self.name in _queue():
            self._missed = None
        elif self._stopping:
            return 130
        elif self._missed is None:
            self._missed = time.monotonic()
        elif time.monotonic() > self._missed + LATE:
            if self._sent >= AGAIN:
                return 1
            log(f"{self.one.cell.label}: job {self._job.job_id} was lost, sent again")
            self._clear()
            self._begin()
        return None

    def interrupt(self, number: int) -> None:
        """Cancel the job: SLURM tells all its processes, and kills them some time later."""
        self._stopping = True
        if self.name in _queue():
            self._job.cancel(check=False)

    def fault(self) -> str:
        """The last lines of a failed job, and its file."""
        if not self._result().exists():
            return f"its job was lost {self._sent} times ({self._job.paths.folder})"
        said = f"failed, {self._outcome().fault}"
        if self._job.exception() is None:  # of a bug, its files tell more
            self._clear()
        return said

    def keep_time(self) -> None:
        """The job itself did."""
        self._clear()

    def row(self) -> dict:
        """The row of a finished job, of which nothing else is kept."""
        found = super().row()
        self._clear()
        return found

    def _clear(self) -> None:
        """Delete what a job has left that is of no more use, and submitit's links to it."""
        folder = self._job.paths.folder
        for path in (*folder.glob(f"{self._job.job_id}_*"), *folder.glob(".submission_file_*")):
            if not path.is_symlink() or not path.exists():
                path.unlink(missing_ok=True)

    def _spent(self) -> float:
        return self._outcome().seconds

    def _result(self) -> Path:
        with contextlib.suppress(OSError):
            os.listdir(self._job.paths.folder)  # or a file system of a network may not show it for a while
        return self._job.paths.result_pickle

    def _outcome(self) -> "Outcome":
        """What a job said at its end; of one that raised, the last words of what it raised."""
        fault = self._job.exception()
        if fault is None:
            return self._job.result()
        lines = [line for line in str(fault).splitlines() if ": " in line and not line.startswith((" ", "You can"))]
        return Outcome(0.0, lines[-1] if lines else type(fault).__name__)


def _queue() -> dict[str, tuple[str, str]]:
    """This user's jobs that wait or run: name -> number and state. What was seen last, where SLURM does not answer."""
    seen, there = Job._queue
    if time.monotonic() > seen + LOOK:
        words = ["squeue", "--noheader", "--format", "%A %T %j", "--user", getpass.getuser()]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            lines = (line.split(maxsplit=2) for line in found.stdout.splitlines())
            there = {name: (number, state) for number, state, name in lines}
        Job._queue = time.monotonic(), there
    return there


def _submitit():
    try:
        import submitit
    except ImportError as fault:
        raise UserError("submitit is not installed", "--executor slurm", "pip install -e '.[cluster]'") from fault
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not here", "--executor slurm", "run it where SLURM's commands are")
    return submitit


def _work(name: str, one: Wanted, commit: str) -> "Work":
    top, prefix = Path(rows.git("rev-parse", "--show-toplevel")), rows.git("rev-parse", "--show-prefix")
    cache = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=True)
    return Work(name, commit, presets.words(one.cell.values), top, prefix, cache.stdout.strip(), one.key)


class Outcome(NamedTuple):
    """The seconds that a job took in all, and what went wrong; "" if nothing did."""

    seconds: float
    fault: str = ""


class Work:
    """What a job does, at whichever node, as often as SLURM starts it."""

    def __init__(self, name: str, commit: str, words: list[str], top: Path, prefix: str, cache: str, key: str):
        self.name, self.commit, self.words = name, commit, words
        self.top, self.prefix, self.cache = top, prefix, cache
        self.store, self.clock = str(store.root().absolute()), experiment.clock(key).absolute()

    def __call__(self) -> Outcome:
        """Run the experiment in a clone below this one's .dvc/tmp, where stages find the data; push it to this one."""
        self._since, self._told = time.monotonic(), False
        signal.signal(signal.SIGTERM, self._leave)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        origin = self.top / self.prefix
        clone = origin / ".dvc/tmp/jobs" / self.name
        shutil.rmtree(clone, ignore_errors=True)  # of a job that was killed
        _do(["git", "clone", "--quiet", "--shared", "--no-checkout", str(self.top), str(clone)], self.top)
        _do(["git", "checkout", "--quiet", "--detach", self.commit], clone)
        here = clone / self.prefix
        local = origin / ".dvc/config.local"
        if local.exists():
            shutil.copyfile(local, here / ".dvc/config.local")
        _do([sys.executable, "-m", "dvc", "cache", "dir", "--local", self.cache], here)
        dvc = [sys.executable, "-m", "dvc", "exp", "run", "--name", self.name, *self.words]
        with open(clone / "log", "w", encoding="utf-8") as out:
            self._process = subprocess.Popen(
                dvc,
                cwd=here,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=environment() | {"LEAVEN_STORE": self.store},
                preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),  # which SLURM sends to all
            )
            code = self._process.wait()
        if self._told:
            self._wait_for_the_end()
        if code:
            return Outcome(self._seconds(), f"{experiment.last_words(clone / 'log')} ({clone / 'log'})")
        ref = _do(["git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{self.name}"], clone)
        _do(["git", "push", "--quiet", "origin", f"+{ref}:{ref}"], clone)
        shutil.rmtree(clone, ignore_errors=True)
        return Outcome(self._seconds())

    def checkpoint(self):
        """Asked to leave before its time or for another job: save, and come again; submitit calls it so."""
        self._stop()
        files.write_json(self.clock, {"seconds": self._seconds()})
        self.__dict__.pop("_process", None)  # it cannot be pickled
        return _submitit().helpers.DelayedSubmission(self)

    def _leave(self, number: int, frame: object) -> None:
        self._told = True

    def _stop(self) -> None:
        process, end = getattr(self, "_process", None), time.monotonic() + experiment.PATIENCE
        if process is None:
            return
        # By waitid: `wait` would wait for the one that this handler of a signal has broken off.
        look = os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(process.pid, signal.SIGINT)
            while os.waitid(*look) is None and time.monotonic() < end:
                time.sleep(0.2)

    def _wait_for_the_end(self) -> None:
        """Told to end, as its stages were: what follows is SLURM's to say, and an answer of this job would be none."""
        files.write_json(self.clock, {"seconds": self._seconds()})
        time.sleep(24 * 3600)

    def _seconds(self) -> float:
        now = time.monotonic()
        return experiment.spent(self.clock) + now - getattr(self, "_since", now)


def _do(words: list[str], where: Path) -> str:
    """What a command prints, stripped."""
    done = subprocess.run(words, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:4])}: {done.stderr.strip()}")
    return done.stdout.strip()
