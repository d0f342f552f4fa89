"""What holds on other systems: every module imports without what only Unix has; git keeps bytes as they are.

The first is a promise of the import alone.
"""

import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from tests.pipeline import clones

REPOSITORY = Path(pipeline.__file__).parent.parent
# Missing for Leaven's own modules; what other packages do with them is for those to know.
PROGRAM = """
import builtins, ctypes, gc, importlib, pkgutil, sys

gc.disable()
UNIX = {"resource", "fcntl", "pwd", "grp", "termios"}
given, library = builtins.__import__, ctypes.CDLL


def ours(namespace):
    return (namespace or {}).get("__name__", "").partition(".")[0] in ("pipeline", "stages")


def imported(name, globals=None, locals=None, fromlist=(), level=0):
    if ours(globals) and name in UNIX:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return given(name, globals, locals, fromlist, level)


def opened(name, *words, **more):
    if name is None and ours(sys._getframe(1).f_globals):
        raise TypeError("LoadLibrary() argument 1 must be str, not None")
    return library(name, *words, **more)


builtins.__import__, ctypes.CDLL = imported, opened
names = [found.name for top in ("pipeline", "stages")
         for found in pkgutil.walk_packages(importlib.import_module(top).__path__, f"{top}.")]
assert len(names) > 80
faults = []
for name in names:
    try:
        importlib.import_module(name)
    except Exception as fault:
        faults.append(f"{name}: {fault!r}")
print("\\n".join(faults))
"""


@pytest.mark.slow
def test_every_module_imports_without_what_windows_lacks():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.strip(), done.stdout


def test_a_clone_with_the_line_ends_of_windows_has_the_bytes_that_were_committed(tree, tmp_path):
    """Or every dependency would count as changed."""
    clones.run(tree, "git", "-c", "core.autocrlf=true", "clone", "--quiet", ".", str(tmp_path / "there"))
    assert "w/crlf" not in clones.run(tmp_path / "there", "git", "ls-files", "--eol")
    for name in ("params.yaml", "stages/check.py", "docs/images/report.png"):
        assert (tmp_path / "there" / name).read_bytes() == (tree / name).read_bytes()
    clones.run(tree, "git", "add", "--renormalize", ".")
    assert clones.run(tree, "git", "status", "--porcelain") == ""


def test_git_takes_what_dvc_writes_of_a_users_data_and_not_the_data(tree):
    ignored = clones.run(tree, "git", "check-ignore", "data/mine.dvc", "data/mine/a.png", "data/mine.npz")
    assert ignored.split() == ["data/mine/a.png", "data/mine.npz"]
