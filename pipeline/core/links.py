"""Links among files that a user named: links to folders are followed, and none may lead where nobody said it may."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from pipeline.core.errors import UserError, UserErrors

ALLOWED = "LEAVEN_LINKS"  # folders that links may lead to, joined as in PATH


def walk(folder: Path, enter: Callable[[Path], bool] = lambda path: True) -> Iterator[Path]:
    """All below a folder that is no folder, links to folders followed; in no order.

    enter: whether to go into a folder. One that is not entered is given, as is one that was reached before, so that a
    circle of links has an end. UserErrors name, after all is given, the folders that cannot be listed.
    """
    top = Path(os.path.realpath(folder))
    seen, closed = {top, *top.parents}, []
    for place, folders, names in os.walk(folder, onerror=closed.append, followlinks=True):
        inside = [Path(place, name) for name in folders]
        folders.clear()
        for path in sorted(inside, key=lambda path: (path.is_symlink(), path)):
            real = Path(os.path.realpath(path))
            if real in seen or not enter(path):
                yield path
            else:
                seen.add(real)
                folders.append(path.name)
        yield from (Path(place, name) for name in names)
    if closed:
        remedy = "ask its owner, or leave it out"
        raise UserErrors([UserError(f"cannot be listed: {fault.strerror}", fault.filename, remedy) for fault in closed])


def rule(folder: Path) -> Callable[[Path], Path | None]:
    """A function: where does a link lead? None: inside the folder, to DVC's cache, or where $LEAVEN_LINKS allows."""
    here = Path(os.environ.get("DVC_ROOT", "."))  # the same for a run in a copy of the workspace
    named = [here / Path(name).expanduser() for name in os.environ.get(ALLOWED, "").split(os.pathsep) if name]
    allowed = [os.path.realpath(place) for place in (folder, *named)]

    def outside(path: Path) -> Path | None:
        target = Path(os.path.realpath(path))
        if any(target.is_relative_to(place) for place in allowed):
            return None
        kept = dvc_cache()  # a second, so only now
        return None if kept and target.is_relative_to(os.path.realpath(kept)) else target

    return outside


@cache
def dvc_cache() -> Path | None:
    """The folder of DVC's cache, as DVC's configuration of all levels says; None where there is no DVC project."""
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None
