"""The data that the parameters name, in the clone and in the copies of it that DVC makes for `--temp` and the queue.

A copy has what git or DVC tracks. What else the clone has at the named paths is linked into it: a run there sees the
data that a run in the clone would, and nothing is copied for each experiment.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.params.schema import Params


def absent(params: Params | SimpleNamespace, copied: bool = False) -> Iterator[UserError]:
    """A fault for each path that the parameters name and that is neither here nor, of a copy, in its clone.

    copied: whether this folder will be copied, if it is no copy itself.
    """
    for name, path in _named(params).items():
        if (copied or _clone()) and os.path.normpath(path).startswith(os.pardir):
            remedy = "write it as an absolute path: a run in a copy (--temp, --queue, a study) is in another folder"
            yield UserError(f"{path} leads out of the clone", f"params.yaml: {name}", remedy)
        elif path.parts[:1] == ("~",) and not origin(path).exists():
            remedy = f"write it out: {path.expanduser()}"
            yield UserError(f"{path} does not exist: ~ is not expanded here", f"params.yaml: {name}", remedy)
        elif not origin(path).exists():
            yield UserError(f"{path} does not exist", f"params.yaml: {name}", "set it to one that does")


def refuse_shallow(clone: Path = Path()) -> None:
    """Refuse a clone out of whose copies DVC, without a word, brings no experiment back."""
    words = ["git", "-C", str(clone), "rev-parse", "--is-shallow-repository"]
    if shutil.which("git") and subprocess.run(words, capture_output=True, check=False).stdout.strip() == b"true":
        what = "a shallow clone: DVC would lose the experiment of a copy (--temp, --queue, a study)"
        raise UserError(what, clone.absolute(), "git fetch --unshallow")


def origin(path: Path) -> Path:
    """The path itself, or that of the clone where this is a copy and does not have it yet."""
    return path if path.exists() else (_clone() or Path()) / path


def link(params: Params | SimpleNamespace) -> None:
    """In a copy: link what the clone has at the named paths and the copy has not, and keep it out of the copy's git.

    A folder that is not there becomes one link. Files get a second name: a link to one could come back by `exp apply`.
    """
    clone = _clone()
    if clone:
        refuse_shallow(clone)
    for path in _named(params).values() if clone else ():
        there = (clone / path).resolve()
        if path.is_absolute() or not there.exists() or (Path(f"{path}.dvc").exists() and path.exists()):
            continue
        with files.disk_faults(path):
            _unseen_by_git(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if there.is_file():
                _same(there, path)
            elif path.exists():
                shutil.copytree(there, path, copy_function=_same, dirs_exist_ok=True, ignore_dangling_symlinks=True)
            else:
                path.symlink_to(there)


def _named(params: Params | SimpleNamespace) -> dict[str, Path]:
    sections = dict(params) if isinstance(params, Params) else vars(params)
    paths = {f"{name}.path": section.path for name, section in sections.items() if hasattr(section, "path")}
    paths |= {f"transfer.{key}.path": found.path for key, found in params.transfer.items()}
    paths["linear_eval.baseline.path"] = params.linear_eval.baseline.path
    paths |= {"quality.inception": params.quality.inception} if params.quality.inception else {}
    return {name: Path(path) for name, path in paths.items()}


def _clone() -> Path | None:
    """The clone of which this folder is a copy, which lies below its .dvc/tmp; None where it is none."""
    above = (folder for folder in Path.cwd().parents if folder.parts[-2:] == (".dvc", "tmp"))
    return next((folder.parent.parent for folder in above), None)


def _same(source: str | Path, path: str | Path) -> None:
    if not os.path.lexists(path):
        try:
            os.link(os.path.realpath(source), path)
        except OSError:  # another disk
            shutil.copy2(source, path)


def _unseen_by_git(path: Path) -> None:
    """DVC puts dependencies that git does not ignore into the experiment's commit."""
    top = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / ".git").exists())
    pattern = re.sub(r"([\\*?\[ ])", r"\\\1", (Path.cwd() / path).relative_to(top).as_posix())
    with open(top / ".git/info/exclude", "a", encoding="utf-8") as file:
        file.write(f"/{pattern}\n")
