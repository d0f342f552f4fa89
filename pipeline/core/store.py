"""Resumable work, one folder a fingerprint, under $LEAVEN_STORE or $DVC_ROOT/.cache.

Work with the same fingerprint is the same work: whoever asks second finds the first one's shards, checkpoints
and results. `LEAVEN_STORE=off` works in a folder that is thrown away when the process ends.
"""

import ast
import atexit
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pipeline.core import files

PACKAGE = Path(__file__).parent.parent
# Modules that move results about but cannot change one: no part of any fingerprint, no dependency of any stage.
PLUMBING = (
    "core/errors",
    "core/processes",
    "core/progress",
    "core/files",
    "core/dvc_cache",
    "core/store",
    "core/outputs",
    "params",
    "engine/checkpoint",
    "run",
    "report",
    "generators/cards",
)
_USED = "last-used"


def root() -> Path:
    """Where the store is: the same folder for `dvc repro`, `dvc exp run`, `--temp` and queue workers of a clone."""
    chosen = os.environ.get("LEAVEN_STORE")
    return Path(chosen) if chosen and chosen != "off" else Path(os.environ.get("DVC_ROOT", ".")) / ".cache"


@contextlib.contextmanager
def work(kind: str, fingerprint: str) -> Iterator[Path]:
    """The folder of one piece of work, locked against other processes; it may hold finished parts already."""
    if os.environ.get("LEAVEN_STORE") == "off":
        folder = Path(tempfile.mkdtemp(prefix="leaven-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # the stage copies from it after the block
        yield folder
        return
    folder = root() / kind / fingerprint[:16]
    with files.lock(folder.with_suffix(".lock"), kind):
        with files.disk_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _USED).touch()
            for torn in folder.rglob(".*.tmp"):  # what a killed process was writing; the lock says that none is now
                torn.unlink()
        try:
            yield folder
        finally:
            (folder / _USED).touch()


def fingerprint(**parts: object) -> str:
    """sha256 of everything that decides the bytes of a piece of work: values, digests, code, versions."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


@cache
def code(*modules: str) -> str:
    """Digest of the named modules of this package and of all that they import from it, plumbing left out.

    Modules are named by their path inside the package ("methods/simclr"). Comments, docstrings and layout do not
    count; names and constants do.
    """
    return hashlib.sha256("".join(_meaning(name) for name in closure(*modules)).encode()).hexdigest()


def closure(*modules: str) -> list[str]:
    """Names of the modules and of everything they import from this package, sorted, plumbing left out."""
    seen, todo = set(), list(modules)
    while todo:
        name = todo.pop()
        if name not in seen and not _is_plumbing(name):
            seen.add(name)
            todo += imports(module_file(name))
    return sorted(seen)


def _is_plumbing(name: str) -> bool:
    return any(name == plumbing or name.startswith(f"{plumbing}/") for plumbing in PLUMBING)


def module_file(name: str) -> Path:
    """The source file of a module named by its path inside the package."""
    file = PACKAGE / f"{name}.py"
    return file if file.exists() else PACKAGE / name / "__init__.py"


def imports(file: Path) -> list[str]:
    """Modules of this package that a source file imports anywhere in it, by their path inside the package."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            dotted = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        paths = ["/".join(name.split(".")[1:]) for name in dotted if name.startswith("pipeline.")]
        found += [path for path in paths if module_file(path).exists()]
    return found


def _meaning(name: str) -> str:
    tree = ast.parse(module_file(name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            isinstance(body[0] if body else None, ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:]
    return f"{name}\n{ast.dump(tree)}\n"


def entries() -> list[tuple[Path, int, float]]:
    """(folder, bytes, seconds since it was last used) of every piece of work in the store."""
    found = []
    for mark in sorted(root().glob(f"*/*/{_USED}")):
        size = sum(file.stat().st_size for file in mark.parent.rglob("*") if file.is_file())
        found.append((mark.parent, size, _age(mark.parent)))
    return found


def _age(folder: Path) -> float:
    return time.time() - (folder / _USED).stat().st_mtime


def prune(days: float | None) -> Iterator[str]:
    """A line for each entry, one for the whole; what was not used for `days` days is deleted (None: nothing is)."""
    whole = gone = 0
    for folder, size, age in entries():
        old = days is not None and age >= days * 86400
        if old:
            with files.lock(folder.with_suffix(".lock"), folder.name):
                old = _age(folder) >= days * 86400  # whoever held the lock has used it since
                if old:
                    shutil.rmtree(folder)
        fate = "deleted" if old else "kept"
        whole, gone = whole + size, gone + size * old
        yield f"{folder}  {size / 1e6:9.1f} MB  used {age / 86400:6.1f} days ago  {fate}"
    yield f"{root()}  {whole / 1e6:9.1f} MB in all, {gone / 1e6:.1f} MB deleted"
