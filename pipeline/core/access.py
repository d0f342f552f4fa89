"""Why a file cannot be read or written: a fault of the system, told as what it is, or of the file's own bytes.

Only the second can mean that a file is damaged. A remedy for the first never asks to delete anything.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import REFUSED, RESOURCE, UserError, out_of_memory

# Numbers of which a file or its name can be the reason; any other is the system's.
_OF_THE_FILE = {errno.ENOENT, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG, errno.EBADF, errno.ESPIPE, errno.EPIPE}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_LACKING = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENODEV}  # locks, or memory maps
_TOO_MUCH = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@contextlib.contextmanager
def disk_faults(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn a full disk, a folder that cannot be written and the like into a UserError that names the path."""
    try:
        yield
    except (OSError, RuntimeError) as fault:
        told = of_the_system(fault, path, doing)
        if told:
            raise told from fault
        raise


def read_faults(path: Path) -> contextlib.AbstractContextManager[None]:
    """Turn what keeps a file from being read, and is no fault of its bytes, into a UserError that names the path."""
    return disk_faults(path, "read")


@contextlib.contextmanager
def reading(path: Path, what: str, remedy: str, *kinds: type[Exception]) -> Iterator[None]:
    """`read_faults`, and any other OSError or fault of these kinds is the file's own: a UserError of what and remedy.

    A UserError and a lack of memory pass.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, *kinds) as fault:
        if out_of_memory(fault):
            raise
        said = str(fault).strip().partition("\n")[0] or type(fault).__name__
        raise of_the_system(fault, path, "read") or UserError(f"{what}: {said}", path, remedy) from fault


def of_the_system(fault: Exception, path: Path, doing: str) -> UserError | None:
    """What to say of a fault of the system while it should read, write or lock (`doing`) a path; None of any other."""
    number = None if out_of_memory(fault) else _errno(fault, path, doing)
    if number in {None} | _OF_THE_FILE | (set() if doing in ("write", "lock") else _IN_THE_WAY):
        return None
    if number in _FULL:
        what = f"disk full, {shutil.disk_usage(existing(path)).free / 1e6:,.0f} MB free"
        return UserError(what, path, "make room and run the same command again; finished parts are kept", RESOURCE)
    remedy, code = "keep the file: its disk or network does not answer; run the same command again later", REFUSED
    if number in _IN_THE_WAY | _CLOSED:
        remedy = "check the path and its owner" if doing == "write" else "ask its owner for the permission"
    elif number in _LACKING:
        remedy = "use another disk, as a local one"
    elif number in _TOO_MUCH:
        remedy, code = "end other programs or raise the limit (ulimit), then run the same command again", RESOURCE
    return UserError(f"cannot {doing}: {os.strerror(number)}", path, remedy, code)


def _errno(fault: BaseException | None, path: Path, doing: str) -> int | None:
    """The system's number of a fault, which libraries tell in words alone, or of what they tell another fault of."""
    while fault:
        words, number = str(fault), getattr(fault, "errno", None)
        told = (n for n in map(int, re.findall(r"\b\d{1,3}\b", words)) if n and os.strerror(n) in words)
        number = number if isinstance(number, int) else next(told, None)
        if number:
            return number
        fault = fault.__cause__ or fault.__context__
    try:
        if doing == "read" and Path(path).is_file():  # safetensors says that a file is missing that it may not open
            open(path, "rb").close()
    except OSError as found:
        return found.errno
    return None


def existing(path: Path) -> Path:
    """The path, or the first folder above it that is there, as far as one may look."""
    for place in (Path(path), *Path(path).absolute().parents):
        with contextlib.suppress(PermissionError):
            if place.exists():
                return place
    return Path("/")
