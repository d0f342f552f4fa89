"""Runs a stage's main: its parameters in, UserError -> one line and an exit code, a guard against edits meanwhile.

python -m stages.NAME            do the work, after a look at what it needs of the machine
python -m stages.NAME --check    only that look: what is needed and what there is
python -m stages.NAME --no-wait  refuse, instead of waiting, while another process runs this stage here
python -m stages.NAME KEY        of a stage that there is once for each entry of a parameter (DVC's foreach): that one
"""

import argparse
import contextlib
import gc
import hashlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil

from pipeline.core import access, files, processes, sources, store
from pipeline.core.errors import RESOURCE, Stopped, UserError, UserErrors, out_of_memory
from pipeline.core.progress import ended_bars, log
from pipeline.params import reader
from pipeline.params.schema import Params
from pipeline.run import graph, launch, machine

_NO_PEER = ("onnection closed by peer", "onnection reset by peer", "roken pipe", "imed out", "remote process exited")


def run(
    name: str,
    main: Callable[[SimpleNamespace], None],
    needs: Callable[[SimpleNamespace], machine.Needs],
    parallel: bool = False,
) -> None:
    """Run `main` with the parameters that dvc.yaml names for this stage, and no others; exit with its code.

    needs: of the same parameters, what must be there. parallel: whether PIPELINE_LAUNCH starts it in many processes.
    """
    gc.freeze()  # what was imported stays, and is looked through no more
    gc.enable()
    called = "@".join([name, *(word for word in sys.argv[1:2] if not word.startswith("-"))])  # finetune@0.1
    code = _told(lambda: _run(name, main, needs, parallel), f"{called}: ", called)
    gc.freeze()  # or Python would look through everything once more, for a second or two, before it ends
    sys.exit(code)


def _run(name: str, main: Callable, needs: Callable, parallel: bool) -> int:
    described = graph.load(name)
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}", description=sys.modules[main.__module__].__doc__)
    parser.add_argument("--check", action="store_true", help="say what is needed and what there is, and do no work")
    parser.add_argument("--no-wait", action="store_true", help="refuse while another process runs this stage here")
    if described.foreach:
        parser.add_argument("key", metavar="KEY", help=f"which entry of {described.foreach} in params.yaml")
    asked = parser.parse_args()
    key = getattr(asked, "key", None)
    name = f"{name}@{key}" if key else name
    launcher = launch.wanted() if parallel else None
    if not launcher:
        launch.enter()
    sources, params = _sources(), reader.load()
    data = described.read(params, key) if processes.rank() == 0 else []
    there = _stats(data)
    given = described.select(params, key)
    with _ready(name, needs, given, asked) if launch.leads() else contextlib.nullcontext():
        if asked.check:
            return 0
        if launcher:
            with access.disk_faults(store.root()):
                store.root().mkdir(parents=True, exist_ok=True)
                return launch.run(f"stages.{name}", launcher, store.root())
        main(given)
    if processes.rank() == 0:
        _unchanged(sources, given, described, key)
        _as_before(there, _stats(data))
        _record(name, params)
    return 0


def command(main: Callable[[], None]) -> None:
    """Run the main of a command that is no stage: a UserError is one line and its exit code."""
    code = _told(main, "")
    if code:
        sys.exit(code)


@contextlib.contextmanager
def _ready(name: str, needs: Callable, params: SimpleNamespace, asked: argparse.Namespace) -> Iterator[None]:
    """No other process runs the stage in this folder, and the machine has what it needs; asked for a check, no more."""
    place = Path("data") / f".{name}.lock"
    # The others of a job would not wait for its first process as long as that would for the lock.
    patient = not asked.no_wait and processes.size() == 1
    blocked = contextlib.nullcontext() if asked.check else files.lock(place, f"{name} in this folder", patient)
    with blocked:
        wanted = needs(params)
        if asked.check:
            busy = "; another process runs it here" if files.locked(place) else ""
            log(f"{name}: {machine.told(wanted)}{busy}")
        faults = machine.lacking(wanted, name)
        if faults:
            raise UserErrors(faults)
        warning = machine.tight(wanted)
        if warning:
            log(f"{name}: {warning}")
        yield


def _told(work: Callable[[], int | None], before: str, stage: str = "") -> int:
    """The exit code of some work; what stopped it is told in lines that begin with `before`."""
    try:
        code, said = _outcome(work, before, stage)
        launch.tell(code, said)
    except Stopped as stop:  # while the words for the work's end were found; no second one comes (`launch.enter`)
        code = 128 + stop.signum
        launch.tell(code, f"\n{before}{stop}\n")
    return code


def _outcome(work: Callable[[], int | None], before: str, stage: str) -> tuple[int, str]:
    """The exit code of some work and what to say of how it ended."""
    try:
        with ended_bars():
            return work() or 0, ""
    except UserError as error:
        return error.code, "".join(f"{before}{line}\n" for line in str(error).split("\n"))
    except Stopped as stop:
        return 128 + stop.signum, f"\n{before}{stop}\n"
    except KeyboardInterrupt:
        return 130, f"\n{before}interrupted; run the same command to go on\n"
    except BrokenPipeError:  # nobody reads any more, as in `| head`: the command's own main ends in silence
        raise
    except Exception as fault:
        known = _resource(fault, stage)
        if not known:
            return 1, traceback.format_exc()
        if os.environ.get("LEAVEN_DEBUG"):
            traceback.print_exc()
        return known.code, f"{before}{known}\n"


def _sources() -> dict[str, str]:
    package = sources.PACKAGE
    found = [*package.rglob("*.py"), *(package.parent / "stages").glob("*.py")]
    return {str(file.resolve()): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def _unchanged(before: dict[str, str], params: SimpleNamespace, described: graph.Described, key: str | None) -> None:
    # DVC records dependencies as they are after the command (dvc#11058): an edit meanwhile would pass for what ran.
    after = _sources()
    loaded = {os.path.realpath(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
    edited = [path for path, digest in before.items() if path in loaded and after.get(path) != digest]
    if described.select(reader.load(), key) != params:
        edited.append(str(reader.FILE))
    if edited:
        raise UserError("changed while the stage ran", ", ".join(edited), "run the same command again", code=1)


def _stats(data: list[Path]) -> dict[str, tuple[int, int]]:
    """Size and time of every file of some files and folders."""
    return {name: seen for path in data for name, seen in files.stats(path).items()}


def _as_before(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> None:
    """As of code: DVC would record the new data beside what was made of the old."""
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if changed:
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        what, remedy = f"changed while the stage ran{more}", "run the same command again"
        raise UserError(what, changed[0], remedy, code=1)


def _record(name: str, params: Params) -> None:
    facts = {
        "stage": name,
        "seconds": round(time.time() - psutil.Process().create_time(), 2),  # imports included
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "commit": sources.commit(),
        "python": sys.version.split()[0],
        "params": params.model_dump(),
    }
    files.write_json(store.root() / "records" / f"{name}.json", facts)


def _resource(fault: Exception, stage: str) -> UserError | None:
    """What to say of a fault that is the machine's and not the code's; None of any other."""
    if out_of_memory(fault):
        return UserError("out of memory", remedy=f"{machine.lower(stage)}; finished parts are kept", code=RESOURCE)
    if processes.size() > 1 and isinstance(fault, RuntimeError) and any(w in str(fault) for w in _NO_PEER):
        return UserError(launch.LOST, code=RESOURCE)
    where = getattr(fault, "filename", None)  # of a file that nobody else told of
    return access.of_the_system(fault, Path(where), "open") if isinstance(where, str) else None
