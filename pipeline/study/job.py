"""What a job of SLURM does at its node: a cell as a DVC experiment in a clone of its own; submitit calls it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pipeline.core import files, store
from pipeline.run.experiment import environment
from pipeline.study import experiment


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
        self._process, self._told, self._from = None, False, None

    def __call__(self) -> Outcome:
        """Run the experiment in a clone below this one's .dvc/tmp, where stages find the data; push it to this one."""
        self._from, self._told = time.monotonic(), False  # it may come back from a queue, where it was told to leave
        signal.signal(signal.SIGTERM, self._leave)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        clone = self._cloned()
        words = [sys.executable, "-m", "dvc", "exp", "run", "--name", self.name, *self.words]
        with open(clone / "log", "ab") as out:
            self._process = subprocess.Popen(
                words,
                cwd=clone / self.prefix,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=environment() | {"LEAVEN_STORE": self.store},
                preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),  # which SLURM sends to all
            )
            code = self._process.wait()
        if code and self._told:
            self._wait_for_the_end()
        if code:
            self._keep_time()
            return Outcome(0.0, f"{experiment.last_words(clone / 'log')} ({clone / 'log'})")
        ref = self._do("git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{self.name}", where=clone)
        self._do("git", "push", "--quiet", "origin", f"+{ref}:{ref}", where=clone)
        shutil.rmtree(clone, ignore_errors=True)
        return Outcome(self._seconds())

    def checkpoint(self):
        """Told to leave before its time or for another job: save, and come again; submitit calls it so."""
        self._interrupt()
        self._keep_time()
        self._process = None  # which cannot be pickled
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _cloned(self) -> Path:
        """A clone of the clone that asks, at the commit, with its cache, its identity and its own settings of DVC."""
        origin = self.top / self.prefix
        clone = origin / ".dvc/tmp/jobs" / self.name
        shutil.rmtree(clone, ignore_errors=True)  # of a job that was killed
        self._do("git", "clone", "--quiet", "--shared", "--no-checkout", str(self.top), str(clone), where=self.top)
        self._do("git", "checkout", "--quiet", "--detach", self.commit, where=clone)
        for name in ("user.name", "user.email"):
            own = subprocess.run(["git", "config", name], cwd=self.top, capture_output=True, text=True, check=False)
            if own.stdout.strip():
                self._do("git", "config", name, own.stdout.strip(), where=clone)
        local = origin / ".dvc/config.local"
        if local.exists():
            shutil.copyfile(local, clone / self.prefix / ".dvc/config.local")
        self._do(sys.executable, "-m", "dvc", "cache", "dir", "--local", self.cache, where=clone / self.prefix)
        return clone

    def _leave(self, number: int, frame: object) -> None:
        """Where SLURM tracks processes by cgroup, it tells this one alone."""
        self._told = True
        self._signal()

    def _signal(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGINT)

    def _interrupt(self) -> None:
        """Have the experiment save and end, inside the handler of a signal.

        By waitid: `wait` would wait for the one that the handler has broken off.
        """
        self._signal()
        end = time.monotonic() + experiment.PATIENCE
        with contextlib.suppress(ChildProcessError):
            while self._process is not None and time.monotonic() < end:
                if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    break
                time.sleep(0.2)

    def _wait_for_the_end(self) -> None:
        """Told to end, as its stages were: what follows is SLURM's to say, and an answer of this job would be none."""
        self._keep_time()
        time.sleep(24 * 3600)

    def _keep_time(self) -> None:
        files.write_json(self.clock, {"seconds": self._seconds()})
        self._from = time.monotonic()

    def _seconds(self) -> float:
        now = time.monotonic()
        return experiment.spent(self.clock) + now - (now if self._from is None else self._from)

    def _do(self, *words: str, where: Path) -> str:
        """What a command prints, stripped."""
        done = subprocess.run(words, cwd=where, capture_output=True, text=True, check=False)
        if done.returncode and self._told:
            self._wait_for_the_end()
        if done.returncode:
            raise RuntimeError(f"{' '.join(words[:4])}: {done.stderr.strip()}")
        return done.stdout.strip()
