"""Folders of pictures with links in them, with folders that may not be looked into, and with what leads nowhere."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core import files, links
from pipeline.core.errors import UserError, UserErrors
from pipeline.data import pictures
from tests.closed import another_user, by_root, open_folder
from tests.pipeline import clones


@pytest.fixture(autouse=True)
def no_project(monkeypatch):
    monkeypatch.setattr(links, "dvc_cache", lambda: None)


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path, "PNG")
    return path


def test_links_may_lead_where_the_user_says_and_the_refusal_says_how(tmp_path, monkeypatch, capsys):
    """As a hub's snapshot has its files, and as somebody has the classes of a set on another disk."""
    blobs = [picture(tmp_path / f"blobs/{i}/{i}") for i in range(12)]
    folder = tmp_path / "in"
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    (folder / "cat").mkdir(parents=True)
    picture(tmp_path / "other/dog/1.png")
    for i, file in enumerate(blobs):
        (folder / f"cat/{i:02}.png").symlink_to(os.path.relpath(file, folder / "cat"))
    with pytest.raises(UserErrors) as told:
        pictures.find(folder)
    place = tmp_path / "blobs"
    first, note = str(told.value).split("\n")
    assert first == (
        f"{folder}/cat/00.png: a link that leads out of the folder, to {blobs[0]} (and 11 more like it)"
        f" - set LEAVEN_LINKS={place} to allow it, or put the file in its place"
    )
    assert note.endswith("names all 12 that are refused")
    (folder / "dog").symlink_to(tmp_path / "other/dog")
    monkeypatch.setenv("LEAVEN_LINKS", str(place))
    with pytest.raises(UserErrors, match=f"in/dog: a link .* - set LEAVEN_LINKS={tmp_path}/other/dog to allow it"):
        pictures.find(folder)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in (f"{place}{os.pathsep}{tmp_path}/other/dog", f"blobs{os.pathsep}~/other"):
        monkeypatch.setenv("LEAVEN_LINKS", named)
        found = [path.relative_to(folder).as_posix() for path in pictures.find(folder)]
        assert found == [*(f"cat/{i:02}.png" for i in range(12)), "dog/1.png"]
    told = f"links to folders are followed ({folder}/dog); DVC does not look behind them"
    assert capsys.readouterr().err.count(told) == 1


def test_links_into_dvcs_cache_are_followed(tmp_path, monkeypatch):
    """DVC is asked where that is if a link leads out, and not before."""
    kept = picture(tmp_path / "cache/files/md5/ab/cdef")
    monkeypatch.setattr(links, "dvc_cache", lambda: 1 / 0)
    picture(tmp_path / "in/b.png")
    assert len(pictures.find(tmp_path / "in")) == 1
    (tmp_path / "in/a.png").symlink_to(kept)
    monkeypatch.setattr(links, "dvc_cache", lambda: tmp_path / "cache")
    assert [path.name for path in pictures.find(tmp_path / "in")] == ["a.png", "b.png"]


@pytest.mark.slow
def test_a_folder_that_dvc_itself_filled_with_links_is_read(tmp_path, monkeypatch):
    monkeypatch.undo()
    for name, value in clones.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "mine/a/1.png", 7)
    for words in (
        ["git", "init", "--quiet"],
        ["dvc", "init", "--quiet"],
        ["dvc", "config", "cache.type", "symlink"],
        ["dvc", "add", "--quiet", "mine"],
    ):
        subprocess.run(words, check=True, capture_output=True)
    assert (tmp_path / "mine/a/1.png").is_symlink()
    links.dvc_cache.cache_clear()
    assert (pictures.read_all(pictures.find(Path("mine")), 8, 1) == 7).all()
    links.dvc_cache.cache_clear()


def test_links_to_folders_end_where_a_folder_comes_twice(tmp_path):
    """In a circle, to a folder above, and two names of one folder, of which none may be a class of its own."""
    picture(tmp_path / "in/cat/1.png")
    for name, target in (("round", "."), ("up", "../.."), ("kitten", "cat"), ("cat/back", "..")):
        link = tmp_path / "in" / name
        link.symlink_to(target)
        with pytest.raises(
            UserErrors, match=f"in/{name}: (leads to a folder that is in the set|a link that leads out)"
        ):
            pictures.find(tmp_path / "in")
        assert files.tree_sha256(tmp_path / "in") == files.tree_sha256(tmp_path / "in")
        link.unlink()
    (tmp_path / "in/.all").mkdir()
    (tmp_path / "in/cat").rename(tmp_path / "in/.all/cat")
    (tmp_path / "in/cat").symlink_to(".all/cat")
    assert pictures.find(tmp_path / "in") == [tmp_path / "in/cat/1.png"]


def test_a_link_that_leads_nowhere_says_how_to_get_what_it_leads_to(tmp_path):
    picture(tmp_path / "in/b.png")
    for name in ("a.png", "cat"):  # a picture of git-annex, and a class folder on a disk that is not there
        (tmp_path / "in" / name).symlink_to("../.git/annex/objects/ab/cd")
        with pytest.raises(UserError) as told:
            pictures.find(tmp_path / "in")
        where = f"{tmp_path}/in/{name}: a link that leads nowhere, to ../.git/annex/objects/ab/cd"
        assert str(told.value).startswith(f"{where} - get what it leads to (git annex get, dvc checkout)")
        assert "remove" not in str(told.value)
        (tmp_path / "in" / name).unlink()


def test_a_folder_that_cannot_be_listed_is_refused_and_no_class_less(tmp_path, monkeypatch):
    """The modes do not bind root, who may run this test."""
    for name in ("cat", "cow", "dog"):
        picture(tmp_path / name / "1.png")
    scandir = os.scandir

    def closed(path):
        if str(path).endswith(("cat", "dog")):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    for look in (pictures.find, files.tree_sha256):
        with pytest.raises(UserErrors) as told:
            look(tmp_path)
        lines = [f"{tmp_path}/{name}: cannot be listed: Permission denied" for name in ("cat", "dog")]
        assert [line.partition(" - ")[0] for line in str(told.value).split("\n")] == lines


@by_root
def test_what_another_user_has_closed_is_refused_by_name():
    with open_folder() as folder:
        for name in ("cat/1.png", "dog/1.png", "cow/1.png"):
            picture(folder / name)
        (folder / "cow").chmod(0o755)
        (folder / "cat").chmod(0)  # not even listed
        (folder / "dog").chmod(0o744)  # listed, and no more
        with another_user(), pytest.raises(UserErrors) as told:
            pictures.find(folder)
        assert f"{folder}/cat: cannot be listed: Permission denied" in str(told.value)
        assert f"{folder}/dog/1.png: no file that can be read" in str(told.value)


def test_the_digest_of_a_folder_is_of_what_its_links_lead_to(tmp_path):
    """Of a folder without links it is what it always was; names may be no text."""
    for name in (b"b/2", b"a", b"\xff"):
        (tmp_path / "in" / os.fsdecode(name)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(name)
    lines = [
        name + b"\0" + files.sha256(tmp_path / "in" / os.fsdecode(name)).encode() for name in (b"a", b"b/2", b"\xff")
    ]
    assert files.tree_sha256(tmp_path / "in") == hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
    picture(tmp_path / "other/deep/1.png", 7)
    (tmp_path / "in/cat").symlink_to(tmp_path / "other")
    before = files.tree_sha256(tmp_path / "in")
    picture(tmp_path / "other/deep/1.png", 8)
    assert files.tree_sha256(tmp_path / "in") != before
    picture(tmp_path / "other/deep/1.png", 7)
    assert files.tree_sha256(tmp_path / "in") == before
