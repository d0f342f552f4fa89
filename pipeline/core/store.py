"""Finished and resumable work, one folder a fingerprint, under $LEAVEN_STORE or $DVC_ROOT/.cache.

Work with the same fingerprint is the same work: the first to ask computes it, the others find its shards, checkpoints
and results. `LEAVEN_STORE=off` works in a folder that is deleted when the process ends.
"""

import atexit
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

from pipeline.core import access, files
from pipeline.core.errors import UserError

MANIFEST = "manifest.json"
_USED = "last-used"


class Job(Protocol):
    """The processes that share a piece of work: engine.distributed, or ALONE."""

    def first(self) -> bool: ...
    def rank(self) -> int: ...
    def size(self) -> int: ...
    def agreed(self, value: object) -> object: ...
    def differ(self, value: object) -> bool: ...
    def wait(self) -> None: ...


ALONE = SimpleNamespace(
    first=lambda: True,
    rank=lambda: 0,
    size=lambda: 1,
    agreed=lambda value: value,
    differ=lambda value: False,
    wait=lambda: None,
)


def root() -> Path:
    """Where the store is: the same folder for `dvc repro`, `dvc exp run`, `--temp` and queue workers of a clone.

    A relative path is one of the clone; `~` is the home folder, though no shell has seen it.
    """
    chosen = ".cache" if off() else os.environ.get("LEAVEN_STORE") or ".cache"
    return Path(os.environ.get("DVC_ROOT", "."), os.path.expanduser(chosen))


def off() -> bool:
    """Whether nothing is kept."""
    return os.environ.get("LEAVEN_STORE") == "off"


def place() -> Path:
    """Where work is done: in the store, or if it is off in the folder of temporary files."""
    return Path(tempfile.gettempdir()) if off() else root()


def fingerprint(**parts: object) -> str:
    """sha256 of everything that decides the bytes of a piece of work: values, digests, code, versions."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def once(kind: str, parts: dict, make: Callable[[Path, str], list[str]], job: Job = ALONE) -> Path:
    """The folder of a finished piece of work: found in the store and verified, or made, sealed and verified.

    parts: everything that decides its bytes, for `fingerprint`. make(folder, fingerprint) -> the names of the files
    that are the result; it goes on from what an interrupted run left in the folder. What else it leaves there is
    deleted. With several processes all of them make, the first seals, and all get the folder.
    """
    name = fingerprint(**parts)
    with _together(kind, name, job) as folder:
        if not job.agreed(job.first() and (folder / MANIFEST).exists()):
            made = make(folder, name)
            if job.first():
                seal(folder, made, {"fingerprint": name})
        if job.first():
            kept = verify(folder)["files"]
            for path in folder.iterdir():  # also if the process that sealed it was killed before it came to that
                if path.is_file() and path.name not in (*kept, MANIFEST, _USED):
                    path.unlink()
        return folder


def grow(
    kind: str,
    parts: dict,
    names: list[str],
    start: Callable[[list[str]], Callable[[Path], None]],
    job: Job = ALONE,
) -> dict[str, Path]:
    """Files of a set that only ever grows, name -> path: those that the store lacks are made, the others found.

    start(names) -> write(path): called once in each process with the names that are its to make, if there are any; a
    file counts once its sha256 lies beside it. Each file is locked by itself: what other programs make meanwhile is
    left to them, and waited for at the end.
    """
    folder = _agreed(kind, fingerprint(**parts), job)
    missing = job.agreed([name for name in names if job.first() and not _whole(folder / name)])
    mine = missing[job.rank() :: job.size()]
    if mine:
        write, busy = start(mine), []
        for name in mine:
            try:
                _write(folder / name, write, patient=False)
            except files.Busy:
                busy.append(name)
        for name in busy:
            _write(folder / name, write, patient=True)
    job.wait()
    return {name: folder / name for name in names}


def _write(path: Path, write: Callable[[Path], None], patient: bool) -> None:
    with files.lock(path.with_suffix(".lock"), path.name, patient):
        if _whole(path):  # another program made it
            return
        _clear(path.parent, f".{path.stem}.*.tmp")
        write(path)
        files.write_text(_digest_of(path), files.sha256(path))
        (path.parent / _USED).touch()


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _whole(path: Path) -> bool:
    digest = _digest_of(path)
    with access.read_faults(path):
        return path.exists() and digest.exists() and digest.read_text() == files.sha256(path)


@contextlib.contextmanager
def _together(kind: str, name: str, job: Job) -> Iterator[Path]:
    """`work` of all processes: the first holds the lock, all get its folder, and they leave together."""
    _same(name, job)
    with contextlib.ExitStack() as held:
        yield job.agreed(held.enter_context(work(kind, name)) if job.first() else None)
        job.wait()


def _agreed(kind: str, name: str, job: Job) -> Path:
    """The same folder for all processes, unlocked; it is used from now on, so nobody prunes it."""
    _same(name, job)
    folder = None
    if job.first():
        with contextlib.nullcontext() if off() else files.lock(_entry(kind, name).with_suffix(".lock"), kind):
            folder = _folder(kind, name)
    return job.agreed(folder)


def _same(name: str, job: Job) -> None:
    if job.differ(name):
        raise UserError("not the same code, parameters, data or hardware in all processes", "PIPELINE_LAUNCH")


@contextlib.contextmanager
def work(kind: str, name: str) -> Iterator[Path]:
    """The folder of one piece of work, locked against other processes; it may hold finished parts already."""
    if off():
        yield _folder(kind, name)
        return
    with files.lock(_entry(kind, name).with_suffix(".lock"), kind):
        folder = _folder(kind, name)
        _clear(folder, "**/.*.tmp")
        try:
            yield folder
        finally:
            (folder / _USED).touch()


def _entry(kind: str, name: str) -> Path:
    return root() / kind / name[:16]


def _folder(kind: str, name: str) -> Path:
    """A folder that is there, and was used just now; if the store is off, a fresh one."""
    if off():
        folder = Path(tempfile.mkdtemp(prefix="leaven-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # the stage copies from it later
        return folder
    folder = _entry(kind, name)
    with access.disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _USED).touch()
    return folder


def _clear(folder: Path, pattern: str) -> None:
    """Delete what a killed process was writing; the caller's lock says that none is now."""
    with access.disk_faults(folder):
        for torn in folder.glob(pattern):
            torn.unlink()


def seal(folder: Path, names: list[str], facts: dict[str, object]) -> None:
    """Write the manifest of a folder: the digest of each named file, and `facts` (no times, no host)."""
    digests = {name: files.sha256(Path(folder) / name) for name in names}
    files.write_sealed(Path(folder) / MANIFEST, {"files": digests, **facts})


def verify(folder: Path, maker: str | None = None) -> dict:
    """The manifest of a sealed folder, after each file's digest was checked.

    maker: the stage whose output it is; None: finished work in the store.
    """
    folder = Path(folder)
    with access.read_faults(folder):
        there = (folder / MANIFEST).exists()
    if maker is not None and not there:
        raise UserError("not made yet", folder, f"run `dvc repro {maker}`, or `python -m stages.{maker}`")
    manifest = files.read_sealed(folder / MANIFEST, maker, {"files": dict})
    files.check_digests(folder, manifest["files"], MANIFEST, maker)
    return manifest


def entries() -> list[tuple[Path, int, float]]:
    """(folder, bytes, seconds since it was last used) of every piece of work in the store."""
    found = []
    for mark in sorted(root().glob(f"*/*/{_USED}")):
        with contextlib.suppress(FileNotFoundError):  # another process deletes it
            size = sum(file.stat().st_size for file in mark.parent.rglob("*") if file.is_file())
            found.append((mark.parent, size, _age(mark.parent)))
    return found


def _age(folder: Path) -> float:
    return time.time() - (folder / _USED).stat().st_mtime


def _delete(folder: Path) -> None:
    """Broken off anywhere, it leaves nothing that passes for finished work, and what `entries` finds again."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for inside in folder.iterdir():
        if inside.is_dir():
            shutil.rmtree(inside)
        elif inside.name != _USED:
            inside.unlink()
    shutil.rmtree(folder)


def note(name: str, lines: list[str]) -> Path:
    """Write a list that is too long for a message, a line each, and say where it is: it outlives a temporary copy."""
    files.write_text(place() / name, "".join(f"{line}\n" for line in lines))
    return place() / name


def listing(days: float | None = None) -> Iterator[str]:
    """A line for each piece of work: its size and when it was last used. days: delete what was not used for so long."""
    whole = gone = 0
    for folder, size, age in entries():
        old = days is not None and age >= days * 86400
        if old:
            with files.lock(folder.with_suffix(".lock"), folder.name):
                # Whoever held the lock has used it since; and parts of a set may be at work.
                old = (folder / _USED).exists() and _age(folder) >= days * 86400
                old = old and not any(map(files.locked, folder.glob("*.lock")))
                if old:
                    with access.disk_faults(folder):
                        _delete(folder)
        whole, gone = whole + size, gone + size * old
        yield f"{folder}  {size / 1e6:9.1f} MB  used {age / 86400:6.1f} days ago  {'deleted' if old else 'kept'}"
    yield f"{root()}  {whole / 1e6:9.1f} MB in all, {gone / 1e6:.1f} MB deleted"
