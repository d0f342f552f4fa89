"""Files that are whole or not there: write to a temporary name, fsync, rename. Digests and locks."""

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.core import links
from pipeline.core.access import disk_faults, read_faults, reading
from pipeline.core.errors import UserError
from pipeline.core.progress import bar, log

SEALED = 2  # the format of manifests and cards; 1 had no seal
_MANY = 1000  # files; to look at as many may take seconds
_AGAIN, _SILENT = 600, 20  # seconds until waiting for a lock is told again, and until a silent file system is told


def write(path: Path, writer: Callable[[Path], None]) -> None:
    """The only way to a final name: `writer` fills a temporary file in the same folder, which is then renamed."""
    path = Path(path)
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            writer(temporary)
            _fsync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with the line ends it has."""
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))


def write_json(path: Path, value: object) -> None:
    """Sorted, indented JSON; non-finite numbers are a bug and raise ValueError."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, largest: int = 100_000_000, remedy: str = "delete it and run `dvc repro`") -> dict:
    """The object in a JSON file of at most so many bytes, or a UserError that names it; remedy: of a damaged file."""
    path = Path(path)
    with reading(path, "not readable as JSON", remedy, ValueError, RecursionError):
        try:
            size = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError) as fault:
            raise UserError("not found", path, "run `dvc repro`, which makes it") from fault
        if size > largest:
            raise ValueError(f"more than {largest:,} bytes")
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("no file")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value


def write_sealed(path: Path, value: dict) -> None:
    """An object as JSON with its format and a seal: the sha256 of all of it, so that no value can change unnoticed."""
    value = {**json.loads(json.dumps(value, allow_nan=False)), "schema": SEALED}
    write_json(path, {**value, "seal": _seal(value)})


def read_sealed(path: Path, maker: str | None, kinds: dict[str, type]) -> dict:
    """What `write_sealed` wrote, without its format and seal; a UserError where it is anything else.

    maker: the stage that writes it, None of what lies in the store. kinds: what it must hold, and as what.
    """
    value = read_json(path)
    seal = value.pop("seal", None)
    odd = [f"{name} as {kind.__name__}" for name, kind in kinds.items() if not isinstance(value.get(name), kind)]
    if value.get("schema") != SEALED:
        fault = f"written by format {value.get('schema', 1)}; this reads {SEALED}"
    elif seal != _seal(value):
        fault = "damaged: its seal is not that of its values"
    elif odd:
        fault = f"lacks {', '.join(odd)}"
    else:
        return {name: item for name, item in value.items() if name != "schema"}
    raise UserError(fault, path, remade(path, Path(path).parent, maker))


def _seal(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_digests(folder: Path, digests: dict[str, str], listing: str, maker: str | None) -> None:
    """Refuse a folder whose files do not have these digests (name -> sha256), which `listing` in it has."""
    for name, digest in digests.items():
        path = Path(folder) / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"names {name[:100]}, which is not in its folder", Path(folder) / listing)
        found = None
        with contextlib.suppress(OSError), read_faults(path):  # what is left to suppress is the file's own fault
            found = sha256(path) if path.is_file() else None
        if found != digest:
            fault = "missing or not readable" if found is None else f"damaged: its sha256 is not that in {listing}"
            raise UserError(fault, path, remade(path, folder, maker))


def remade(path: Path, folder: Path, maker: str | None) -> str:
    """What to do about a damaged file of `folder`, an output of the stage `maker`, or of the store (None).

    The folder goes, since a stage whose output is there may not run; so does DVC's object, which DVC would put there
    again. In the store several stages can share one entry; the first to ask computes it.
    """
    if maker is None:
        return f"delete {folder}, then run the same command again"
    kept = _cached(path)
    gone = f"{folder} and {kept}" if kept else folder
    return f"delete {gone}, then run `dvc repro -f -s {maker}`"


def _cached(path: Path) -> Path | None:
    """The object of DVC's cache that dvc.lock names for a file; None where DVC knows of none."""
    with contextlib.suppress(Exception):  # or a fault of DVC would hide the fault that is being told
        from dvc.repo import Repo  # a second

        with Repo() as repo:
            found = Path(repo.cache.local.oid_to_path(repo.dvcfs.info(Path(path).as_posix())["dvc_info"]["md5"]))
        if found.exists():
            return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
    return None


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with read_faults(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digests(path: Path) -> dict[str, str]:
    """Name -> hex digest of a file ("."), or of all files below a folder by their paths in it, links followed."""
    path, digests = Path(path), {}
    found = [file for file in (sorted(links.walk(path)) if path.is_dir() else [path]) if os.path.isfile(file)]
    told = bar(f"looking at {path}", len(found), "file") if len(found) > _MANY else contextlib.nullcontext()
    with ThreadPoolExecutor(os.cpu_count()) as threads, told as progress:
        for file, content in zip(found, threads.map(sha256, found), strict=True):
            digests[file.relative_to(path).as_posix()] = content
            if progress is not None:
                progress.update()
    return digests


def stats(path: Path) -> dict[str, tuple[int, int]]:
    """Size and time (ns) of a file, or of all files below a folder, by their paths; of what is not there, or may not
    be listed, nothing."""
    found = {}
    with contextlib.suppress(UserError):
        for file in links.walk(path) if path.is_dir() else [path]:
            with contextlib.suppress(OSError):  # a link that leads nowhere
                seen = os.stat(file)
                found[str(file)] = seen.st_size, seen.st_mtime_ns
    return found


def tree_sha256(path: Path) -> str:
    """Hex digest of a file, or of the names and digests of all files below a folder, links to folders followed."""
    return joint_sha256(tree_digests(path))


def joint_sha256(digests: dict[str, str]) -> str:
    """One hex digest of names and digests, in their order."""
    lines = "".join(f"{name}\0{content}\n" for name, content in digests.items())
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()  # a name may be no text


def copy(source: Path, path: Path) -> None:
    """Copy a file to its final name."""
    write(path, lambda temporary: _copyfile(source, temporary))


def _copyfile(source: Path, path: Path) -> None:
    with read_faults(source):
        open(source, "rb").close()  # or its fault would be told as one of `path`
    shutil.copyfile(source, path)


def assemble(folder: Path, sources: dict[str, Path], finish: Callable[[Path], None] = lambda fresh: None) -> None:
    """Replace `folder` by copies of `sources` (name -> file) in one go; the old folder goes at the very end.

    finish(fresh) may add to the new folder before it gets its name.
    """
    folder = Path(folder)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with disk_faults(folder):
        for torn in folder.parent.glob(f".{folder.name}.*.tmp"):  # a killed process's
            shutil.rmtree(torn)
        fresh.mkdir(parents=True)
        try:
            for name, source in sources.items():
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                _copyfile(source, fresh / name)
            finish(fresh)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


class Busy(UserError):
    """Another process has the lock."""


@contextlib.contextmanager
def lock(path: Path, what: str, patient: bool = True) -> Iterator[None]:
    """Hold `path` locked; wait, and say so again and again, while another process has it. It dies with its process.

    Without patience it is refused (Busy). Also said: that the file system, as one of a network, does not answer.
    """
    held, wait = FileLock(path, fallback_to_soft=False), 0  # a soft lock outlives a killed process
    with disk_faults(Path(path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with disk_faults(Path(path), "lock"):
        while not held.is_locked:
            silent = threading.Timer(wait + _SILENT, log, [f"waiting: its file system does not answer ({path})", True])
            silent.daemon = True
            silent.start()
            try:
                held.acquire(timeout=wait)
            except Timeout as fault:
                busy, wait = f"another process works on {what}", _AGAIN
                if not patient:
                    raise Busy(busy, path, "wait for it, or stop it") from fault
                log(f"waiting: {busy} ({path})", all_speak=True)
            finally:
                silent.cancel()
    try:
        yield
    finally:
        held.release()


def locked(path: Path) -> bool:
    """Whether some process holds `path` locked; looking makes no file."""
    try:
        if Path(path).exists():
            with FileLock(path, timeout=0, fallback_to_soft=False):
                pass
    except OSError as fault:  # also of a file that one may not write, or of a disk without locks
        return isinstance(fault, Timeout)
    return False


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
