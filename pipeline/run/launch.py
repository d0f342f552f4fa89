"""Many processes for one stage: under $PIPELINE_LAUNCH a stage starts itself again in each, and speaks with one voice.

PIPELINE_LAUNCH holds what stands before `-m stages.NAME`: "torchrun --nproc-per-node 2", "accelerate launch --multi_gpu
--num_processes 2". Who a process is, it reads from RANK and WORLD_SIZE (and its GPU from LOCAL_RANK), which those set.
"""

import contextlib
import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import RESOURCE, Stopped, UserError
from pipeline.core.processes import rank, size

LOST = "another process of the job is gone; run the same command to go on"
_STOPPED = "stopped; run the same command to go on"
_FOLDER, _SPEAK = "LEAVEN_RANKS", "LEAVEN_STDERR"
_PDEATHSIG = 1  # prctl.h of Linux
_LIBC = ctypes.CDLL(None)
_PATIENCE = "110"  # seconds that torchrun leaves its processes to stop in; its own 30 are less than a step may take


def leads() -> bool:
    """Whether this process speaks for its whole job: alone, or the first of one that no stage has started."""
    return _FOLDER not in os.environ and rank() == 0


def wanted() -> str | None:
    """The launcher that is asked for, unless this process came from one: of this or of the user."""
    started = _FOLDER in os.environ or "RANK" in os.environ
    return None if started else os.environ.get("PIPELINE_LAUNCH")


def run(module: str, launcher: str, root: Path) -> int:
    """Start `module` in as many processes as `launcher` makes of it; the exit code, after one line if it is not 0.

    root: a folder that all of them see, on whatever machine they run.
    """
    try:
        words = [*shlex.split(launcher), "-m", module]
    except ValueError as fault:
        raise UserError(f"{launcher}: {fault}", "PIPELINE_LAUNCH") from fault
    # A launcher tells of a process's end in dozens of lines: to a file here, and the processes write past it.
    with tempfile.TemporaryDirectory(prefix="job-", dir=root) as folder, tempfile.TemporaryFile() as log:
        variables = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": _PATIENCE} | os.environ
        variables |= {_FOLDER: folder, _SPEAK: f"{socket.gethostname()}:/proc/{os.getpid()}/fd/2"}
        try:
            process = subprocess.Popen(
                words,
                env=variables,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: end_with_the_parent(signal.SIGTERM),
            )
        except OSError as fault:
            raise UserError(f"{words[0]}: {fault.strerror}", "PIPELINE_LAUNCH", "name a launcher") from fault
        with _passing_signals_on(process) as received:
            code = process.wait()
        with contextlib.suppress(OSError):
            os.lseek(2, 0, os.SEEK_END)  # where it is a file: behind what the processes have appended
        if code:
            log.seek(0)
            code, said = _verdict(Path(folder), received, log.read().decode(errors="replace"))
            sys.stderr.write(said)
        return code


def enter() -> None:
    """What a process of a job does first: speak past the launcher, and take SIGTERM for an order to stop."""
    folder = _folder()
    if folder is None:
        return
    host, _, path = os.environ[_SPEAK].partition(":")
    with contextlib.suppress(OSError):
        if host == socket.gethostname():
            past = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.dup2(past, 2)
            os.close(past)
    (folder / f"{rank()}.began").write_text(str(size()))
    signal.signal(signal.SIGTERM, _stop)


def tell(code: int, said: str) -> None:
    """How this process ends: on standard error; in a job, to the one that started it, which tells it once for all."""
    folder = _folder()
    if folder is None:
        sys.stderr.write(said)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all is said
        temporary = folder / f".{rank()}"
        temporary.write_text(json.dumps([code, said]))
        temporary.rename(folder / f"{rank()}.ended")


def elsewhere() -> bool:
    """Whether this process's standard error is on another machine than that of the stage that started the job."""
    return _folder() is not None and os.environ[_SPEAK].partition(":")[0] != socket.gethostname()


def _folder() -> Path | None:
    folder = Path(os.environ.get(_FOLDER, ""))
    return folder if _FOLDER in os.environ and folder.is_dir() else None


def _verdict(folder: Path, received: list[int], log: str) -> tuple[int, str]:
    """The exit code of a job that failed and what its processes told; or an error, where they could tell nothing."""
    began = {int(path.stem): path.read_text() for path in folder.glob("*.began")}
    ends = {int(path.stem): tuple(json.loads(path.read_text())) for path in folder.glob("*.ended")}
    killed = sorted(set(began) - set(ends))
    told = [ends[number] for number in sorted(ends) if ends[number][0]]
    stops = [end for end in told if end[0] > 128]
    lost = [end for end in told if LOST in end[1]]
    bugs = [end for end in told if end[0] == 1 and end[1][:9] in ("", "Traceback")]  # told already, or with it
    refusals = [end for end in told if end not in stops + lost + bugs]
    if received:
        if stops:
            return 128 + received[0], stops[0][1]
        raise Stopped(_STOPPED, received[0])
    if killed and not refusals:
        names = ", ".join(f"{number + 1} of {began[number]}" for number in killed)
        raise UserError(f"process {names} was killed", remedy="run the same command to go on", code=RESOURCE)
    for found in (refusals, bugs, lost, stops):
        if found:
            return found[0]
    last = next((line.strip() for line in reversed(log.split("\n")) if line.strip()), "ended without a word")
    raise UserError(f"no process was started: {last}", "PIPELINE_LAUNCH")


def end_with_the_parent(number: int) -> None:
    """What a child calls before it becomes another program: it gets this signal when its parent ends, however that."""
    _LIBC.prctl(_PDEATHSIG, number)  # a killed stage must leave no job behind that holds its lock


@contextlib.contextmanager
def _passing_signals_on(process: subprocess.Popen) -> Iterator[list[int]]:
    received: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        process.send_signal(signal.SIGTERM)

    kept = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    raise Stopped(_STOPPED, number)
