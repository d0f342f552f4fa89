"""What a damaged file's remedy names: its folder, and the object that DVC's cache has of it, by asking DVC itself."""

import re
from pathlib import Path

import pytest

from pipeline.core import files
from tests.pipeline import clones


@pytest.fixture
def project(tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    (clone / "data/set").mkdir(parents=True)
    (clone / "data/set/one.txt").write_text("one")
    (clone / "data/two.txt").write_text("two")
    (clone / "free.txt").write_text("free")
    clones.run(clone, "git", "init", "--quiet")
    clones.run(clone, "dvc", "init", "--quiet")
    monkeypatch.chdir(clone)
    for name, value in clones.environment(clone).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return clone


def cached(path: Path) -> Path | None:
    """The object that the remedy names."""
    remedy = files.remade(path, path.parent, "prepare")
    found = re.fullmatch(r"delete (\S+)(?: and (\S+))?, then run `dvc repro -f -s prepare`", remedy)
    assert found[1] == str(path.parent)
    return found[2] and Path(found[2])


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_object_of_a_file_is_the_one_that_has_its_content(project, tmp_path, elsewhere):
    """Of one alone, of one in a folder; also when the workspace has another content by now, or none."""
    if elsewhere:
        clones.run(project, "dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    clones.run(project, "dvc", "add", "--quiet", "data/set", "data/two.txt")
    place = tmp_path / "cache" if elsewhere else Path(".dvc/cache")
    for name, content in (("data/set/one.txt", "one"), ("data/two.txt", "two")):
        found = cached(Path(name))
        assert found.is_relative_to(place)
        assert found.read_text() == content
        Path(name).unlink()
        Path(name).write_text("harmed")
        assert cached(Path(name)) == found
        Path(name).unlink()
        assert cached(Path(name)) == found
        found.unlink()
        assert cached(Path(name)) is None


def test_there_is_none_of_what_dvc_does_not_keep(project, tmp_path, monkeypatch):
    assert cached(Path("free.txt")) is None
    assert cached(Path("nowhere.txt")) is None
    monkeypatch.chdir(tmp_path)
    assert cached(Path("clone/free.txt")) is None
