"""Runs a stage's main: its parameters in, UserError -> one line and an exit code, a guard against edits meanwhile."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from types import SimpleNamespace

import psutil

from pipeline import files, launch, store
from pipeline.errors import RESOURCE, Stopped, UserError
from pipeline.params import reader
from pipeline.params.schema import Params

PARALLEL = ("generator", "generate", "pretrain")  # the stages that PIPELINE_LAUNCH starts in several processes
_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")
_NO_PEER = ("onnection closed by peer", "onnection reset by peer", "roken pipe", "imed out", "remote process exited")
_OWN = re.compile(r"\$\{(\w+)\.(\w+)\}")


def run(name: str, main: Callable[[SimpleNamespace], None], reads: tuple[str, ...]) -> None:
    """Run `main` with the parameters that dvc.yaml names for this stage, and no others; exit with its code.

    reads: as in dvc.yaml. A section ("inflation"), a value ("inflation.ratio"), or the section that a value names
    ("${pretrain.method}"), which `main` finds under the name `own`.
    """
    sys.exit(_code(name, main, reads))


def command(main: Callable[[], None]) -> None:
    """Run the main of a command that is no stage: a UserError is one line and its exit code."""
    code = _told(main, "")
    if code:
        sys.exit(code)


def _code(name: str, main: Callable, reads: tuple[str, ...]) -> int:
    launcher = launch.wanted()
    if launcher and name in PARALLEL:
        return _told(lambda: _launched(f"stages.{name}", launcher), f"{name}: ")
    launch.enter()

    def work() -> None:
        sources, params = _sources(), reader.load()
        main(select(params, reads))
        if launch.rank() == 0:
            _unchanged(sources, select(params, reads), reads)
            _record(name, params)

    return _told(work, f"{name}: ")


def _launched(module: str, launcher: str) -> int:
    with files.disk_faults(store.root()):
        store.root().mkdir(parents=True, exist_ok=True)
        return launch.run(module, launcher, store.root())


def _told(work: Callable[[], int | None], before: str) -> int:
    """The exit code of some work; what stopped it is told in lines that begin with `before`."""
    try:
        code, said = work() or 0, ""
    except UserError as error:
        said, code = "".join(f"{before}{line}\n" for line in str(error).splitlines()), error.code
    except Stopped as stop:
        said, code = f"\n{before}{stop}\n", 128 + stop.signum
    except KeyboardInterrupt:
        said, code = f"\n{before}interrupted; run the same command to go on\n", 130
    except Exception as fault:
        known = _resource(fault)
        if not known:
            launch.tell(1, traceback.format_exc() if launch.elsewhere() else "")
            raise
        said, code = f"{before}{known}\n", RESOURCE
        if os.environ.get("LEAVEN_DEBUG"):
            traceback.print_exc()
    launch.tell(code, said)
    return code


def select(params: Params, reads: tuple[str, ...]) -> SimpleNamespace:
    """The named parts of the parameters, as attributes of their own names."""
    chosen = SimpleNamespace()
    for words in reads:
        own = _OWN.fullmatch(words)
        if own:
            chosen.own = getattr(params, getattr(getattr(params, own[1]), own[2]))
            continue
        section, _, value = words.partition(".")
        if value:
            part = getattr(chosen, section, SimpleNamespace())
            setattr(part, value, getattr(getattr(params, section), value))
            setattr(chosen, section, part)
        else:
            setattr(chosen, section, getattr(params, section))
    return chosen


def _sources() -> dict[str, str]:
    package = store.PACKAGE
    found = [*package.rglob("*.py"), *(package.parent / "stages").glob("*.py")]
    return {str(file.resolve()): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def _unchanged(before: dict[str, str], params: SimpleNamespace, reads: tuple[str, ...]) -> None:
    # DVC records dependencies as they are after the command (dvc#11058): an edit meanwhile would pass for what ran.
    after = _sources()
    loaded = {os.path.realpath(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
    edited = [path for path, digest in before.items() if path in loaded and after.get(path) != digest]
    if select(reader.load(), reads) != params:
        edited.append(str(reader.FILE))
    if edited:
        raise UserError("changed while the stage ran", ", ".join(edited), "run the same command again", code=1)


def _record(name: str, params: Params) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    facts = {
        "stage": name,
        "seconds": round(time.time() - psutil.Process().create_time(), 2),  # imports included
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "commit": commit,
        "python": sys.version.split()[0],
        "params": params.model_dump(),
    }
    files.write_json(store.root() / "records" / f"{name}.json", facts)


def _resource(fault: Exception) -> str:
    """What to say of a fault that is the machine's and not the code's; nothing of any other."""
    words = str(fault)
    if isinstance(fault, MemoryError) or (isinstance(fault, RuntimeError) and any(w in words for w in _NO_MEMORY)):
        return "out of memory - lower the batch size, or the number of images; finished parts are kept"
    if launch.size() > 1 and isinstance(fault, RuntimeError) and any(w in words for w in _NO_PEER):
        return launch.LOST
    return ""
