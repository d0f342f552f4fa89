"""Stages of tests without seconds of imports: forks of a process that has imported torch and the rest already.

`python -m stages.NAME` of a test's `dvc repro` is then the clone's own code, imported anew, in a process of its own.
The tests that kill and signal processes, and the default preset from nothing, use the interpreter itself.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
HIDDEN = ("scipy", "transformers")  # from diffusers, as counting/ does in the stages that use it
COLD = ("stages.positives",)  # its unCLIP wants transformers
# What stands for `python` on a test's PATH: hands a stage over, and becomes the interpreter for anything else.
_PYTHON = f"""#!{sys.executable} -IS
import json, os, socket, sys
if sys.argv[1:2] == ["-m"] and sys.argv[2].startswith("stages.") and sys.argv[2] not in {COLD}:
    given = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    given.connect(os.path.dirname(__file__) + "/socket")
    socket.send_fds(given, [json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
    sys.exit(int(given.recv(9)))
os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
"""


@functools.cache
def warmed() -> str:
    """A folder for the front of PATH. Its `python` works as long as this process lives."""
    made = tempfile.TemporaryDirectory(prefix="warm-")
    (Path(made.name) / "python").write_text(_PYTHON)
    (Path(made.name) / "python").chmod(0o755)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{made.name}/socket")
    listener.listen()
    words = [sys.executable, "-m", "tests.pipeline.warm", str(listener.fileno())]
    server = subprocess.Popen(words, cwd=ROOT, stdin=-1, pass_fds=[listener.fileno()], start_new_session=True)
    atexit.register(made.cleanup)
    atexit.register(server.stdin.close)  # at which it ends
    return made.name


def _serve(listener: socket.socket) -> None:
    gc.disable()
    sys.modules |= dict.fromkeys(HIDDEN)
    for file in (ROOT / "stages").glob("*.py"):
        importlib.import_module(f"stages.{file.stem}")
    importlib.import_module("torch._dynamo")  # an optimizer would import it
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pipeline", "stages", "tests"):
            del sys.modules[name]  # a clone has its own
    gc.freeze()  # or a search for garbage in a fork would copy all of it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        given, _ = listener.accept()
        if os.fork() == 0:
            return _watch(given)
        given.close()
    return None


def _watch(given: socket.socket) -> None:
    """One request: the stage as a child, killed if who asked is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, *_ = socket.recv_fds(given, 2**20, 3)
    child = os.fork()
    if child == 0:
        return _become(files, *json.loads(message))
    ended = os.pidfd_open(child)
    if ended not in select.select([given, ended], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    given.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    os._exit(0)


def _become(files: list[int], words: list[str], folder: str, environment: dict[str, str]) -> None:
    """What `python -m WORDS` does in the folder, with these open files and variables."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.orig_argv = [words[0], *words[1:]], ["python", "-m", *words]
    sys.path[:] = [folder, environment["PYTHONPATH"], *(path for path in sys.path if path not in ("", str(ROOT)))]
    for name in (*HIDDEN, "sitecustomize"):
        sys.modules.pop(name, None)
    counting = importlib.import_module("sitecustomize")
    for name in counting.AFTER_IMPORT.keys() & sys.modules.keys():
        counting.AFTER_IMPORT[name](sys.modules[name])
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)  # without taking all that was imported apart, module by module


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
