"""A copy of the clone, as DVC makes it for `--temp`: what the parameters name and git does not track is found there."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.core.errors import UserError
from pipeline.params import reader
from pipeline.run import copies
from tests.pipeline import clones


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone in a folder of a larger repository; its copy, as DVC makes one, is the working folder."""
    clone = tmp_path / "outer/sub"
    for name in ("pretrained/README.md", "half/cat/0.png", "half/cat/1.png", "mine/dog/0.png", "one.npz"):
        (clone / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / "data" / name).write_text(name)
    git(tmp_path / "outer", "init", "-q")
    git(tmp_path / "outer", "add", "sub/data/pretrained", "sub/data/half/cat/0.png")
    git(tmp_path / "outer", "commit", "-qm", "x")
    copy = clone / ".dvc/tmp/exps/x/sub"
    git(tmp_path / "outer", "clone", "-q", ".", str(copy.parent))
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(clone))
    return clone


def git(folder: Path, *words: str) -> str:
    given = clones.environment(folder)
    return subprocess.run(["git", *words], cwd=folder, env=given, check=True, capture_output=True, text=True).stdout


def asked(inception=None, **paths) -> SimpleNamespace:
    inside = ("digits", "baseline")
    sections = {name: SimpleNamespace(path=str(path)) for name, path in paths.items() if name not in inside}
    transfer = {"digits": SimpleNamespace(path=paths["digits"])} if "digits" in paths else {}
    judged = SimpleNamespace(baseline=SimpleNamespace(path=paths.get("baseline", "data/pretrained")))
    return SimpleNamespace(
        **sections, transfer=transfer, linear_eval=judged, quality=SimpleNamespace(inception=inception)
    )


def test_a_copy_finds_all_that_its_clone_has_at_the_named_paths_and_nothing_is_copied(clone):
    params = asked("data/one.npz", dataset="data/half", generator="data/pretrained", unclip="data/pretrained")
    params.transfer["mine"] = SimpleNamespace(path="data/mine")
    assert list(copies.absent(params)) == []
    copies.link(params)
    copies.link(params)
    assert Path("data/mine").readlink() == clone / "data/mine"
    assert sorted(str(path) for path in Path("data").rglob("*.png")) == ["data/half/cat/0.png", "data/half/cat/1.png"]
    assert Path("data/half/cat/1.png").samefile(clone / "data/half/cat/1.png")
    assert not Path("data/half/cat/0.png").samefile(clone / "data/half/cat/0.png")  # git's own, as it was committed
    assert Path("data/one.npz").samefile(clone / "data/one.npz")
    assert not Path("data/one.npz").is_symlink()  # DVC would commit the link, and `exp apply` put it over the file
    assert git(Path(), "status", "--porcelain") == ""  # what git does not ignore, DVC commits
    shutil.rmtree(Path.cwd())  # as DVC does at the end
    assert (clone / "data/mine/dog/0.png").read_text() == "mine/dog/0.png"


def test_a_name_with_marks_of_patterns_is_kept_out_of_git_too(clone):
    (clone / "some [x]*").mkdir()
    (clone / "some [x]*/a.png").touch()
    copies.link(asked(dataset="some [x]*"))
    assert Path("some [x]*/a.png").exists()
    assert git(Path(), "status", "--porcelain") == ""


def test_what_dvc_tracks_is_left_as_dvc_checked_it_out(clone):
    Path("data/mine/dog").mkdir(parents=True)
    Path("data/mine.dvc").touch()
    copies.link(asked(dataset="data/mine"))
    assert list(Path("data/mine/dog").iterdir()) == []


def test_nothing_is_linked_in_the_clone_itself_nor_in_any_other_folder(clone, monkeypatch):
    for folder in (clone, clone.parent):
        monkeypatch.chdir(folder)
        before = sorted(folder.rglob("*"))
        copies.link(asked(dataset="data/mine"))
        assert sorted(folder.rglob("*")) == before


def test_what_neither_has_and_what_leads_out_is_refused_with_what_can_be_done(clone, monkeypatch):
    (clone.parent / "beside").mkdir()
    wanted = {"unclip": clone / "data/mine", "digits": "data/mine", "baseline": "data/pretrained"}
    params = asked(dataset="../beside", generator="data/none", **wanted)
    remedy = "write it as an absolute path: a run in a copy (--temp, --queue, a study) is in another folder"
    line = "params.yaml: generator.path: data/none does not exist - set it to one that does"
    out = f"params.yaml: dataset.path: ../beside leads out of the clone - {remedy}"
    assert list(map(str, copies.absent(params))) == [out, line]
    monkeypatch.chdir(clone)
    assert list(map(str, copies.absent(params))) == [line]
    assert list(map(str, copies.absent(params, copied=True))) == [out, line]


def test_the_default_names_what_git_has(monkeypatch):
    monkeypatch.chdir(clones.ROOT)
    assert list(copies.absent(reader.load(), copied=True)) == []


def test_a_copy_of_a_shallow_clone_is_refused(clone):
    (clone.parent / ".git/shallow").write_text(git(clone, "rev-parse", "HEAD"))
    with pytest.raises(UserError, match=f"^{clone}: a shallow clone: .* - git fetch --unshallow$"):
        copies.link(asked(dataset="data/mine"))
    assert not os.path.lexists("data/mine")
