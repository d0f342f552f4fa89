"""Clones of this working tree, and real `dvc`, `git` and stage processes in them. The user's settings stay out."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.pipeline.warm import warmed

ROOT = Path(__file__).parents[2]
STAGES = ("check", "prepare", "generator", "generate", "score", "positives", "quality", "pretrain", "linear_eval")
MADE = ("data", "metrics", "plots")


def environment(clone: Path, hold: str = "", warm: bool = False) -> dict[str, str]:
    """This interpreter's `python` and `dvc`, a git identity, no setting of the user; counts go beside the clone.

    warm: stages are forks of a process that has imported torch (tests/pipeline/warm.py), for what kills no process.
    """
    first = [warmed()] if warm else []
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_", "LEAVEN_"))}
    beside = clone.parent / f"{clone.name}-beside"
    (beside / "counts").mkdir(parents=True, exist_ok=True)
    names = [f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
    return (
        kept
        | dict.fromkeys(names, "test@example.org")
        | {
            "PATH": os.pathsep.join([*first, str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT / "tests/pipeline/counting"),
            "COUNTS": str(beside / "counts"),
            "HOLD": hold,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "DVC_SITE_CACHE_DIR": str(beside / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(beside / "none"),
            "DVC_SYSTEM_CONFIG_DIR": str(beside / "none"),
            "DVC_NO_ANALYTICS": "1",
        }
    )


def run(clone: Path, *words: str, code: int | None = 0, timeout: float = 1200, warm: bool = True) -> str:
    """Both outputs of a command in the clone, which must exit with `code` (None: with anything but 0)."""
    given = environment(clone, warm=warm and words[0] in ("dvc", "python"))
    done = subprocess.run(words, cwd=clone, env=given, stdout=-1, stderr=-2, text=True, timeout=timeout, check=False)
    as_told = done.returncode == code if code is not None else done.returncode != 0
    assert as_told, f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def stage(clone: Path, name: str, code: int | None = 0) -> str:
    """`python -m stages.NAME` in the clone."""
    return run(clone, "python", "-m", f"stages.{name}", code=code)


def fault(output: str) -> str:
    """The one line of a stage that cannot run; warnings may stand before it, which depend on the machine."""
    *before, line = output.splitlines()
    assert all(words.startswith("warning: ") for words in before), output
    return line


def commit(clone: Path, message: str) -> None:
    """Commit all that is there and not ignored."""
    run(clone, "git", "add", "--all")
    run(clone, "git", "commit", "--quiet", "--allow-empty", "--message", message)


def of_working_tree(clone: Path) -> Path:
    """A repository of one commit: the files of this one as they are now, uncommitted edits and new files included."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, stdout=-1, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():  # a file may be deleted and not yet committed so
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    run(clone, "git", "init", "--quiet", "--initial-branch=main")
    commit(clone, "The working tree")
    return clone


def smoke(clone: Path, **values: str) -> Path:
    """The working tree at the smoke preset with these edits of params.yaml; nothing was run in it; one commit more."""
    of_working_tree(clone)
    run(clone, "git", "rm", "-r", "--quiet", "--ignore-unmatch", "dvc.lock", "metrics", "plots")  # the default's
    run(clone, "python", "-m", "pipeline", "preset", "--write", "smoke")
    edit(clone, **values)
    commit(clone, "Smoke")
    return clone


def copy(clone: Path, to: Path) -> Path:
    """The whole clone again, with its outputs, DVC cache and store; counts begin anew."""
    return shutil.copytree(clone, to, symlinks=True)


def fresh(clone: Path, to: Path) -> Path:
    """What `git clone` gives: the last commit, and nothing that was made."""
    run(clone, "git", "clone", "--quiet", ".", str(to))
    return to


def edit(clone: Path, **values: str) -> None:
    """Set SECTION__KEY=text in params.yaml, the text as it is; a list under the key goes."""
    path = clone / "params.yaml"
    text = path.read_text()
    for name, value in values.items():
        section, key = name.split("__")
        pattern = rf"(?m)(^{section}:.*\n(?:[ #].*\n)*?  {key}:).*\n(?:    .*\n)*"
        text, found = re.subn(pattern, lambda match, value=value: f"{match[1]} {value}\n", text, count=1)
        assert found, name
    path.write_text(text)


def counts(clone: Path) -> dict[str, int]:
    """STAGE.starts, .steps, .forwards since the clone is there, or since they were last taken; zeros are left out."""
    found = {}
    for path in sorted((clone.parent / f"{clone.name}-beside" / "counts").glob("*.*")):
        found[path.name] = path.stat().st_size
        path.unlink()
    return found


def starts(counted: dict[str, int]) -> list[str]:
    """Stages that were started, in the pipeline's order, as often as they were."""
    return [name for name in STAGES for _ in range(counted.get(f"{name}.starts", 0))]


def digests(clone: Path, *folders: str) -> dict[str, str]:
    """File -> sha256 of all that the stages made: data (shipped data and locks left out), metrics, plots."""
    shipped = ("data/FashionMNIST/", "data/pretrained/", "data/unclip/", "data/weights/")
    return {
        name: sha256(clone / name)
        for name in stats(clone, *folders)
        if not name.startswith(shipped) and not name.endswith(".lock")
    }


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stats(clone: Path, *folders: str) -> dict[str, tuple[int, int, int]]:
    """File -> (inode, size, time of the last change) of every file in the folders."""
    found = {}
    for folder in folders or MADE:
        for path in sorted((clone / folder).rglob("*")):
            if path.is_file():
                facts = path.stat()
                found[str(path.relative_to(clone))] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return found


@contextlib.contextmanager
def background(clone: Path, *words: str, hold: str = ""):
    """A process group of its own for a command, and the file of its output; killed at the end, whatever happens."""
    number, name = tempfile.mkstemp(".log", dir=clone.parent)
    log = Path(name)
    with open(number, "w") as file:
        process = subprocess.Popen(
            words, cwd=clone, env=environment(clone, hold), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process, log
    finally:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the whole group: dvc, the shell, the stage."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def experiment(clone: Path, name: str, path: str) -> str:
    """A file as the named experiment has it."""
    refs = run(clone, "git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return run(clone, "git", "show", f"{next(ref for ref in refs if ref.endswith(f'/{name}'))}:{path}")


def killed_at(clone: Path, hold: str, *words: str) -> None:
    """Run a command until one of its stages comes to the point `hold` (STAGE.steps:N), and SIGKILL all of it there."""
    with background(clone, *words, hold=hold) as (process, log):
        held(clone, process, log)


def held(clone: Path, process: subprocess.Popen, log: Path) -> int:
    """Wait until a process stands still where it was told to; its number."""
    mark = clone.parent / f"{clone.name}-beside" / "counts" / "held"
    until(mark.exists, process, log)
    number = int(mark.read_text())
    mark.unlink()
    return number


def until(true, process: subprocess.Popen, log: Path, timeout: float = 900) -> None:
    """Wait for a condition; fail with the process's output if it ends before, or in time."""
    end = time.monotonic() + timeout
    while not true():
        assert process.poll() is None, f"ended with {process.poll()}\n{log.read_text()}"
        assert time.monotonic() < end, f"waited {timeout} s\n{log.read_text()}"
        time.sleep(0.05)


def would_run(clone: Path) -> list[str]:
    """Stages that a `dvc repro` would run, data that is only absent not counting."""
    done = subprocess.run(
        ["dvc", "repro", "--dry", "--allow-missing"],
        cwd=clone,
        env=environment(clone),
        stdout=-1,
        stderr=-2,
        text=True,
        check=False,
    )
    asked = re.findall(r"Running stage '([\w@.-]+)'", done.stdout)
    if not asked:
        assert done.returncode == 0, done.stdout
        unchanged = re.findall(r"Stage '([\w@.-]+)' didn't change", done.stdout)
        assert [name for name in unchanged if "@" not in name] == list(STAGES), done.stdout
    return asked
