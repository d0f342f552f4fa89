"""One stage in several processes: under $PIPELINE_LAUNCH a stage starts itself again in each, and reports for all.

PIPELINE_LAUNCH holds what stands before `-m stages.NAME`: "torchrun --nproc-per-node 2", "accelerate launch --multi_gpu
--num_processes 2". Processes read who they are from RANK, WORLD_SIZE and LOCAL_RANK, which the launcher sets.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.core import files
from pipeline.core.errors import RESOURCE, Stopped, UserError
from pipeline.core.processes import rank, signals, size

LOST = "another process of the job is gone; run the same command to go on"
_STOPPED = "stopped; run the same command to go on"
VARIABLE = "PIPELINE_LAUNCH"
_FOLDER = "LEAVEN_RANKS"
_PATIENCE = "110"  # seconds that torchrun gives its processes to stop; a step may take longer than its default, 30
_GUARD = "import psutil, sys; p = psutil.Process(int(sys.argv[1])); sys.stdin.read(); p.send_signal(int(sys.argv[2]))"


def leads() -> bool:
    """Whether this process speaks for its whole job: alone, or the first of one that no stage has started."""
    return _FOLDER not in os.environ and rank() == 0


def wanted() -> str | None:
    """The launcher to use; None inside a job, whether a stage or the user started it."""
    started = _FOLDER in os.environ or "RANK" in os.environ
    return None if started else os.environ.get(VARIABLE)


def run(module: str, launcher: str, root: Path) -> int:
    """Start `module` in as many processes as `launcher` makes of it; the exit code, after one line if it is not 0.

    root: a folder that all of them see, on whatever machine they run.
    """
    try:
        words = [*shlex.split(launcher), "-m", module]
    except ValueError as fault:
        raise UserError(f"{launcher}: {fault}", VARIABLE) from fault
    with tempfile.TemporaryDirectory(prefix="job-", dir=root) as folder, tempfile.TemporaryFile() as log:
        variables = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": _PATIENCE} | os.environ | {_FOLDER: folder}
        try:
            # Launchers report the end of a process in dozens of lines on standard error, which goes to a file. What
            # they pass on as standard output is this stage's standard error; `enter` has the processes write there.
            process = subprocess.Popen(words, env=variables, stdout=2, stderr=log, start_new_session=True)
        except OSError as fault:
            raise UserError(f"{words[0]}: {fault.strerror}", VARIABLE, "name a launcher") from fault
        with guard(process, signal.SIGTERM), signals(lambda number: process.terminate()) as received:
            code = process.wait()
        if code:
            log.seek(0)
            code, said = _verdict(Path(folder), received, log.read().decode(errors="replace"))
            sys.stderr.write(said)
        return code


def enter() -> None:
    """Begin as one process of a job: write where the stage writes, and let SIGTERM stop the work."""
    if _FOLDER in os.environ:
        os.dup2(1, 2)
        signal.signal(signal.SIGTERM, _stop)
    folder = _folder()
    if folder:
        files.write_json(folder / f"{rank()}", [None, size()])


def tell(code: int, said: str) -> None:
    """Say how this process ends: on standard error, or in a job to the stage, which says it once for all."""
    folder = _folder()
    if folder:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or a launcher that stops the rest would be told as well
        files.write_json(folder / f"{rank()}", [code, said])
    else:
        sys.stderr.write(said)


def guard(process: subprocess.Popen, number: int) -> subprocess.Popen:
    """Start a helper that sends `process` this signal when the present process ends, even by SIGKILL.

    It waits at a pipe whose other end is here, so it acts as soon as the returned object is closed or forgotten, too;
    a process that has ended before is left alone, whoever has its number by then.
    """
    words = [sys.executable, "-c", _GUARD, str(process.pid), str(int(number))]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def _folder() -> Path | None:
    """Where the processes of a job leave how they ended; None outside a job, or where this machine does not see it."""
    folder = Path(os.environ.get(_FOLDER, ""))
    return folder if _FOLDER in os.environ and folder.is_dir() else None


def _verdict(folder: Path, received: list[int], log: str) -> tuple[int, str]:
    """The exit code of a job that failed and what its processes told; or an error, where they could tell nothing."""
    ends = sorted((int(path.name), *json.loads(path.read_text())) for path in folder.glob("[0-9]*"))
    killed = ", ".join(f"{number + 1} of {of}" for number, code, of in ends if code is None)
    told = [(code, said) for _, code, said in ends if code]
    stops = [end for end in told if end[0] > 128]
    lost = [end for end in told if LOST in end[1]]
    bugs = [end for end in told if end[1].startswith("Traceback")]
    refusals = [end for end in told if end not in stops + lost + bugs]
    if received and stops:
        return 128 + received[0], stops[0][1]
    if received:
        raise Stopped(_STOPPED, received[0])
    if killed and not refusals + bugs:
        raise UserError(f"process {killed} was killed", remedy="run the same command to go on", code=RESOURCE)
    if told:
        return (refusals + bugs + lost + stops)[0]
    last = next((line.strip() for line in reversed(log.split("\n")) if line.strip()), "ended without a word")
    raise UserError(f"no process was started: {last}", VARIABLE)


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would cut off what the first is told with
    raise Stopped(_STOPPED, number)
