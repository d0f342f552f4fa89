"""What a stage asks of the machine: counted where it is, refused by name, in places that do not let it write."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import psutil
import pytest

from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.run import machine
from pipeline.run.machine import Needs


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A workspace with its store; 8 GB of memory, 10 GB of disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=8_000_000_000))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000_000))
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "no-groups")
    return tmp_path


def lines(needs: Needs) -> list[str]:
    return [str(fault) for fault in machine.lacking(needs)]


def test_enough_of_everything_is_told_in_one_line():
    needs = Needs(("data/encoder", "metrics/pretrain.json"), made=20e6, kept=200e6, memory=47e6)
    assert lines(needs) == []
    # made stands in the workspace and in DVC's cache
    assert machine.told(needs) == (
        "needs up to 240 MB of disk for images (10,000 MB free), at least 47 MB of memory (8,000 MB available), cpu; "
        "writes data/encoder, metrics/pretrain.json"
    )
    assert machine.tight(needs) == ""


def test_what_surely_does_not_fit_is_refused_and_what_may_not_is_told(here):
    """10 GB free: 11 in the workspace are too many; 6 there, 6 in DVC's cache and 3 in the store may be."""
    (fault,) = machine.lacking(Needs((), made=11e9))
    assert fault.code == 3
    assert str(fault).startswith("this disk: 10,000 MB free, at least 11,000 MB needed")
    assert lines(Needs((), made=6e9, kept=3e9)) == []
    assert machine.tight(Needs((), made=6e9, kept=3e9)) == (
        f"warning: {here}: 10,000 MB free, up to 15,000 MB of images"
    )


@pytest.mark.parametrize("kept_in", ["store", "temporary"])
def test_every_file_system_is_asked_for_its_own_part(here, monkeypatch, kept_in):
    """The store, or with LEAVEN_STORE=off the folder of temporary files, on another disk: 3 GB of 2.9."""
    monkeypatch.setenv("LEAVEN_STORE", str(here / "store") if kept_in == "store" else "off")
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(here / "temporary"))
    other = here / kept_in
    monkeypatch.setattr(
        machine.files, "existing", lambda path: SimpleNamespace(stat=lambda: SimpleNamespace(st_dev=path == other))
    )
    free = iter([4_100_000_000, 2_900_000_000])
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda there: SimpleNamespace(free=next(free)))
    assert machine.disks(Needs((), made=2e9, kept=3e9)) == [
        (str(here), 4e9, 4_100_000_000),
        (str(other), 3e9, 2_900_000_000),
    ]


def test_too_little_memory_is_refused_with_what_there_is():
    (fault,) = machine.lacking(Needs((), memory=9e9))
    assert fault.code == 3
    assert str(fault).startswith("memory: 8,000 MB available, at least 9,000 MB needed")


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("data", "data/encoder: cannot write: Not a directory"),
        ("data/encoder", "data/encoder: cannot write: a file is in the way"),
        ("store", "store: cannot write: a file is in the way"),
    ],
)
def test_a_file_where_a_folder_must_be_is_refused_before_any_work(here, place, said):
    path = here / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("in the way")
    (line,) = lines(Needs(("data/encoder", "metrics/pretrain.json")))
    assert said in line
    assert path.read_text() == "in the way"


def test_a_store_may_have_a_name_with_a_point_and_be_where_one_must_not_look(here, monkeypatch):
    (here / "store-0.1").mkdir()
    monkeypatch.setenv("LEAVEN_STORE", str(here / "store-0.1"))
    assert lines(Needs(("metrics/x.json",))) == []

    def hidden(path, real=Path.exists):
        if path.name == "store-0.1":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "exists", hidden)
    (line,) = lines(Needs(("metrics/x.json",)))
    assert "store-0.1: cannot write: Permission denied" in line


def test_a_folder_where_a_file_must_be_is_refused_too(here):
    (here / "metrics/pretrain.json").mkdir(parents=True)
    (line,) = lines(Needs(("metrics/pretrain.json",)))
    assert line.startswith("metrics/pretrain.json: cannot write: a folder is in the way")


def test_looking_leaves_nothing_behind(here):
    assert lines(Needs(("data/real", "metrics/prepare.json"), made=1, kept=1)) == []
    assert list(here.iterdir()) == []


def test_what_the_stage_itself_found_missing_comes_first():
    found = lines(Needs((), memory=9e9, faults=(UserError("x does not exist"),)))
    assert found[0] == "x does not exist"
    assert len(found) == 2


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_control_groups_leave_what_is_not_held_by_anyone_and_caches_come_back(here, monkeypatch):
    """Version 2: the group's own limit, 1 GB of which .7 are held, .2 of them caches; its parent's, a wider one."""
    monkeypatch.setattr(machine, "_GROUPS", here / "fs")
    (here / "no-groups").write_text("0::/slice/job\n")
    stat = "anon 500000000\nactive_file 50000000\ninactive_file 150000000\n"
    group(here / "fs/slice/job", memory__max="1000000000", memory__current="700000000", memory__stat=stat)
    group(here / "fs/slice", memory__max="4000000000", memory__current="900000000", memory__stat=stat)
    group(here / "fs", memory__max="max", memory__current="1", memory__stat="")
    assert machine.available() == 500_000_000
    (here / "fs/slice/job/memory.max").write_text("max\n")
    assert machine.available() == 3_300_000_000
    (here / "fs/slice/memory.max").unlink()
    assert machine.available() == 8_000_000_000


def test_control_groups_of_the_first_version_count_too(here, monkeypatch):
    """In a container the path is that of the host, and the container's own group stands at the root."""
    monkeypatch.setattr(machine, "_GROUPS", here / "fs")
    (here / "no-groups").write_text("5:cpu:/\n4:memory:/docker/abc\n0::/\n")
    group(
        here / "fs/memory",
        memory__limit_in_bytes="2000000000",
        memory__usage_in_bytes="1500000000",
        memory__stat="cache 1\ntotal_inactive_file 300000000\n",
    )
    assert machine.available() == 800_000_000


def test_the_limit_of_the_process_itself_counts():
    program = (
        "import resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pipeline.run import machine\n"
        "resource.setrlimit(resource.RLIMIT_AS, (machine.psutil.Process().memory_info().vms + 50_000_000, -1))\n"
        "print(machine.available())"
    )
    root = str(Path(machine.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", program, root], capture_output=True, text=True, check=True)
    assert 40_000_000 < int(done.stdout) <= 50_000_000


def test_memory_of_this_machine_is_what_psutil_says_at_most(monkeypatch):
    monkeypatch.undo()
    assert 0 < machine.available() <= psutil.virtual_memory().available * 1.2


def test_images_are_counted_by_split_and_nothing_is_what_cannot_be_read(here):
    with h5py.File(here / "images.h5", "w") as file:
        file["images"] = np.zeros((5, 4, 4, 3), np.uint8)
        file["split"] = np.array([0, 0, 2, 0, 1], np.uint8)
    assert machine.images(here, shards.TRAIN) == (3, 48)
    assert machine.images(here, shards.TRAIN, shards.TEST) == (4, 48)
    (here / "images.h5").write_bytes(b"no HDF5")
    assert machine.images(here, shards.TRAIN) == (0, 0)
    assert machine.images(here / "nowhere", shards.TRAIN) == (0, 0)
