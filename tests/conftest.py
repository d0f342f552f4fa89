"""Clones that tests of the whole pipeline share. A stage costs seconds of imports, so each runs as seldom as can be."""

import fcntl
import gc
import json
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings

from tests.pipeline import clones

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)  # one commit, one verdict
settings.load_profile("repeatable")


torch.set_num_threads(1)  # as `make test` has it; what forks off a process with OpenMP's threads would hang
gc.disable()  # while all is imported and collected; it would be looked through again and again


def pytest_collection_finish():
    """What is there by now stays."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of the test's own, and one thread, since the bits depend on their number."""
    torch.set_num_threads(1)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def package(tmp_path):
    """A folder with the package, params.yaml and an empty stages/."""
    shutil.copytree(clones.ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(clones.ROOT / "params.yaml", tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").touch()
    return tmp_path


@pytest.fixture(scope="session")
def once(request, tmp_path_factory):
    """once(name, make): what `make(folder)` returned and left in `folder/clone`, of which every worker has a copy.

    The first worker that asks makes it, the others wait.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if hasattr(request.config, "workerinput") else own

    def given(name, make):
        folder = shared / f"once-{name}"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "seen.json").exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed at it
                folder.mkdir()
                (folder / "seen.json").write_text(json.dumps(make(folder)))
        clone = clones.copy(folder / "clone", tmp_path_factory.mktemp(name) / "clone")
        return SimpleNamespace(clone=clone, **json.loads((folder / "seen.json").read_text()))

    return given


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A commit of the working tree; nothing was run in it. Not to be changed."""
    return clones.of_working_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The tree at the smoke preset, committed; nothing was run in it. Not to be changed.

    One thread, because another process may have the other core; log rows that no checkpoint coincides with; a third
    checkpoint in pretraining.
    """
    pretrain = {"pretrain__steps": "12", "pretrain__log_every": "3", "pretrain__evaluate_every": "12"}
    folder = tmp_path_factory.mktemp("small")
    return clones.smoke(folder / "clone", compute__threads="1", ddpm__log_every="3", **pretrain)


@pytest.fixture(scope="session")
def base(small, once):
    """One uninterrupted `dvc repro` from nothing, committed: `clone` (not to be changed), and what was seen of it."""

    def made(folder):
        clone = clones.copy(small, folder / "clone")
        since = time.monotonic()
        seen = {"output": clones.run(clone, "dvc", "repro"), "seconds": time.monotonic() - since}
        seen["counts"] = clones.counts(clone)
        seen["status"] = clones.run(clone, "git", "status", "--porcelain")
        clones.commit(clone, "Run")
        return seen

    return once("base", made)
