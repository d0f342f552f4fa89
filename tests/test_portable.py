"""Every module imports where what only Unix or Linux has is missing, as on Windows: a promise of the import alone."""

import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

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
