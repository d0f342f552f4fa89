"""Cells as jobs of SLURM, which submitit sends: each in a clone of its own, beside the store of the clone that asks.

All nodes see this clone, and the store, under the same path. A job that SLURM tells to leave saves, and goes on when
SLURM starts it again; one that was lost is sent again. Nothing here schedules.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import files, links, store
from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.params import presets
from pipeline.study import rows
from pipeline.study.experiment import Experiment, Wanted
from pipeline.study.job import Outcome, Work

AGAIN, REQUEUES = 3, 1_000  # times that a lost job is sent, and that one may reach its time
LOOK, LATE = 5.0, 20.0  # seconds between looks at the queue, and until all that a job wrote can be seen here
WARNED = 120  # seconds before its time at which a job is told to leave
PROGRAMS = ("sbatch", "squeue", "scancel", "srun")


@dataclass(frozen=True)
class Resources:
    """What a job asks of SLURM: minutes until it must leave, and GPUs; a partition or SLURM's own."""

    minutes: int
    gpus: int = 0
    partition: str | None = None

    def send(self, study: str, one: Wanted, commit: str) -> "Job":
        """A cell as a job."""
        return Job(study, one, commit, self)


class Queue:
    """This user's jobs that wait or run, looked at every LOOK seconds."""

    def __init__(self):
        self.seen, self._tried, self._jobs = -LOOK, -LOOK, set()  # the last look that SLURM answered

    def has(self, job: str) -> bool:
        """Whether the last look showed it."""
        if time.monotonic() > self._tried + LOOK:
            self._tried = time.monotonic()
            found = _slurm("squeue", "--noheader", "--format", "%A", "--user", str(os.getuid()))
            if found.returncode == 0:
                self.seen, self._jobs = self._tried, set(found.stdout.split())
        return job in self._jobs


QUEUE = Queue()


class Job(Experiment):
    """One cell's job, or those that followed it; it is in the queue when it is made."""

    def __init__(self, study: str, one: Wanted, commit: str, resources: Resources):
        self._resources, self._sent, self._cancelled = resources, 0, None
        super().__init__(study, one, commit)

    def _begin(self) -> None:
        """Take over what an earlier call has sent, or send it."""
        if store.off():
            raise UserError("keeps nothing that a job could go on from", "LEAVEN_STORE=off", "name a folder")
        self._submitit, self._folder = _submitit(), Path(".dvc/tmp/submitted").absolute()
        self._note = self._folder / f"{self.name}.json"
        if not (self._note.exists() and self._taken_over(files.read_json(self._note))):
            self._send()

    def _taken_over(self, sent: dict) -> bool:
        """Whether that job is to be waited for: it has ended well, or still runs today's code."""
        self._job, self._since = self._submitit.SlurmJob(self._folder, sent["job"]), time.monotonic()
        self.log, label = self._job.paths.stderr, self.one.cell.label
        ended = self._result().exists()
        there = QUEUE.has(sent["job"]) or not (ended or self._gone())  # a look that fails shows no job
        if rows.alike(sent["commit"], self._commit) and (there or (ended and not self._outcome().fault)):
            log(f"{label}: job {sent['job']} of an earlier call {'has ended' if ended else 'is in the queue'}")
            self._commit = sent["commit"]
            return True
        if there:
            _slurm("scancel", sent["job"])
        self._clear()
        return False

    def _send(self) -> None:
        self.forget()
        work, threads = _work(self.name, self.one, self._commit), self.one.params.compute.threads
        given = {"partition": self._resources.partition, "gpus_per_node": self._resources.gpus or None}
        try:
            with _bare():
                executor = self._submitit.SlurmExecutor(folder=self._folder, max_num_timeout=REQUEUES)
                executor.update_parameters(
                    job_name=self.name,
                    time=self._resources.minutes,
                    cpus_per_task=threads,
                    srun_args=[f"--cpus-per-task={threads}"],  # which srun does not inherit from 22.05 to 23.02
                    signal_delay_s=min(WARNED, 30 * self._resources.minutes),
                    additional_parameters={"requeue": True},
                    **{name: value for name, value in given.items() if value is not None},
                )
                self._job = executor.submit(work)
        except RuntimeError as fault:  # as all that submitit raises here
            for left in self._folder.glob("?" * 32 + ".pkl"):
                left.unlink(missing_ok=True)
            lines = str(getattr(fault, "stderr", "") or fault).strip().splitlines()
            raise UserError(lines[-1] if lines else "was broken off", "sbatch", "see what SLURM wants here") from fault
        self._job.paths.result_pickle.unlink(missing_ok=True)  # of a job of this number on another cluster
        self.log, self._sent, self._since = self._job.paths.stderr, self._sent + 1, time.monotonic()
        files.write_json(self._note, {"job": self._job.job_id, "commit": self._commit})

    def settled(self) -> bool:
        """A job touches nothing of this folder."""
        return True

    def begun(self) -> bool:
        """Whether a node has started it."""
        return self._result().exists() or self._job.paths.stdout.exists()

    def code(self) -> int | None:
        """0 or 1 by its result, 130 if cancelled here, None while it waits or runs. One that was lost is sent again."""
        if self._result().exists():
            return 1 if self._outcome().fault else 0
        if QUEUE.has(self._job.job_id):
            return None
        if self._cancelled is not None:
            return 130 if QUEUE.seen > self._cancelled else None
        if QUEUE.seen < self._since + LATE or not self._gone():
            return None
        if self._sent >= AGAIN:
            return 1
        log(f"{self.one.cell.label}: job {self._job.job_id} was lost, sent again{self._said()}")
        self._clear()
        try:
            self._send()
        except UserError as fault:
            log(f"{self.one.cell.label}: {fault}")
            self._sent, self._since = self._sent + 1, time.monotonic()
        return None

    def _gone(self) -> bool:
        """Whether SLURM says so of this one job, and it left no result in the meantime."""
        found = _slurm("squeue", "--noheader", "--jobs", self._job.job_id)
        unknown = found.returncode != 0 and "nvalid job id" in found.stderr
        gone = unknown or (found.returncode == 0 and not found.stdout.strip())
        return gone and not self._result().exists()

    def interrupt(self, number: int) -> None:
        """Cancel the job: SLURM tells its processes, and kills them some time later."""
        if not self._result().exists():
            _slurm("scancel", self._job.job_id)
            self._cancelled = time.monotonic()

    def fault(self) -> str:
        """What went wrong in a job, or why there was none."""
        if not self._result().exists():
            said = self._said()
            self._clear()
            return f"its job was lost {AGAIN} times{said}"
        said = f"failed, {self._outcome().fault}"
        if self._job.exception() is None:  # of a bug, its files tell more
            self._clear(clone=False)
        return said

    def keep_time(self) -> None:
        """The job itself did; one that has ended meanwhile is found by the next call."""
        if not self._result().exists():
            self._clear()

    def row(self) -> dict:
        """The row of a finished job, of which nothing else is kept."""
        found = super().row()
        self._clear()
        return found

    def _clear(self, clone: bool = True) -> None:
        """Delete what a job has left that is of no more use: its files, submitit's links to them, its clone."""
        for path in (*self._folder.glob(f"{self._job.job_id}_*"), *self._folder.glob(".submission_file_*")):
            if not path.is_symlink() or not path.exists():
                path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        if clone:
            shutil.rmtree(Path(".dvc/tmp/jobs") / self.name, ignore_errors=True)

    def _said(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return f" ({lines[-1][-200:]})" if lines else ""

    def _spent(self) -> float:
        return self._outcome().seconds

    def _result(self) -> Path:
        with contextlib.suppress(OSError):
            os.listdir(self._job.paths.folder)  # or a file system of a network may not show it for a while
        return self._job.paths.result_pickle

    def _outcome(self) -> Outcome:
        """What a job said at its end; of one that raised, the last words of what it raised."""
        fault = self._job.exception()
        if fault is None:
            return self._job.result()
        lines = [line for line in str(fault).splitlines() if ": " in line and not line.startswith((" ", "You can"))]
        return Outcome(0.0, lines[-1] if lines else type(fault).__name__)


def _slurm(*words: str) -> subprocess.CompletedProcess:
    """A command of SLURM's, without what the user's own settings would filter."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=own, start_new_session=True)


@contextlib.contextmanager
def _bare() -> Iterator[None]:
    """Without what a job or a launcher around this process has set, which would count for the jobs that it sends."""
    kept = dict(os.environ)
    for name in kept:
        if (name.startswith("SLURM_") and name != "SLURM_CONF") or name in ("RANK", "WORLD_SIZE", "SBATCH_JOB_NAME"):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)


def _submitit():
    try:
        import submitit
    except ImportError as fault:
        raise UserError("submitit is not installed", "--executor slurm", "pip install -e '.[cluster]'") from fault
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        what = f"{lacking[0]} is not here"
        raise UserError(what, "--executor slurm", "run it where SLURM's commands are")
    return submitit


def _work(name: str, one: Wanted, commit: str) -> Work:
    top, prefix = Path(rows.git("rev-parse", "--show-toplevel")), rows.git("rev-parse", "--show-prefix")
    return Work(name, commit, presets.words(one.cell.values), top, prefix, str(links.dvc_cache()), one.key)
