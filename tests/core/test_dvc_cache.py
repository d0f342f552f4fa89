"""Where DVC keeps things, beside what DVC itself does: a project of one file and one folder."""

from pathlib import Path

import pytest

from pipeline.core import dvc_cache
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


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_object_of_a_file_is_the_one_that_has_its_content(project, tmp_path, elsewhere):
    """Of one alone, of one in a folder; also when the workspace has another content by now, or none."""
    if elsewhere:
        clones.run(project, "dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    clones.run(project, "dvc", "add", "--quiet", "data/set", "data/two.txt")
    place = tmp_path / "cache" if elsewhere else Path(".dvc/cache")
    assert dvc_cache.place().resolve() == place.resolve()
    for name, content in (("data/set/one.txt", "one"), ("data/two.txt", "two")):
        found = dvc_cache.kept(Path(name))
        assert found.is_relative_to(place)
        assert found.read_text() == content
        Path(name).unlink()
        Path(name).write_text("harmed")
        assert dvc_cache.kept(Path(name)) == found
        Path(name).unlink()
        assert dvc_cache.kept(Path(name)) == found
        found.unlink()
        assert dvc_cache.kept(Path(name)) is None


def test_there_is_none_of_what_dvc_does_not_keep(project, tmp_path, monkeypatch):
    assert dvc_cache.kept(Path("free.txt")) is None
    assert dvc_cache.kept(Path("nowhere.txt")) is None
    monkeypatch.chdir(tmp_path)
    assert dvc_cache.kept(Path("clone/free.txt")) is None
    assert dvc_cache.place() == Path(".dvc/cache")  # where it would be


def test_a_run_in_a_copy_has_the_cache_of_its_project(project, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir(tmp_path)
    assert dvc_cache.place() == project / ".dvc/cache"
