"""What a stage asks of the machine: counted where it is, refused by name, in places that do not let it write."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.params import reader
from pipeline.run import machine
from pipeline.run.machine import Needs
from stages import prepare
from tests.closed import OTHER, another_user, by_root, open_folder
from tests.pipeline import clones

REPOSITORY = Path(machine.__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A workspace with its store; 8 GB of memory, 10 GB of disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("PIPELINE_LAUNCH", raising=False)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=8_000_000_000))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000_000))
    monkeypatch.setattr(machine, "_dvc_cache", lambda: Path(".dvc/cache"))
    return tmp_path


def lines(needs: Needs) -> list[str]:
    return [str(fault) for fault in machine.lacking(needs)]


def test_enough_of_everything_is_told_in_one_line():
    needs = Needs(("data/encoder", "metrics/pretrain.json"), made=20e6, kept=200e6, memory=47e6)
    assert lines(needs) == []
    # made stands in the workspace and in DVC's cache
    assert machine.told(needs) == (
        "needs up to 240 MB of disk for images (10,000 MB free), at least 47 MB of memory (8,000 MB free), cpu; "
        "writes data/encoder, metrics/pretrain.json"
    )
    assert machine.tight(needs) == ""


def test_what_surely_does_not_fit_is_refused_and_what_may_not_is_told(here):
    """10 GB free: 11 in the workspace are too many; 6 there, 6 in DVC's cache and 3 in the store may be."""
    (fault,) = machine.lacking(Needs((), made=11e9))
    assert fault.code == 3
    assert str(fault).startswith(f"disk of {here}: 10,000 MB free, at least 11,000 MB needed")
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
        machine.access, "existing", lambda path: SimpleNamespace(stat=lambda: SimpleNamespace(st_dev=path == other))
    )
    free = iter([4_100_000_000, 2_900_000_000])
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda there: SimpleNamespace(free=next(free)))
    assert machine.disks(Needs((), made=2e9, kept=3e9)) == [
        (str(here), 4e9, 4_100_000_000),
        (str(other), 3e9, 2_900_000_000),
    ]


def test_without_a_store_what_is_kept_surely_takes_the_disk_of_temporary_files(here, monkeypatch):
    """On one file system with the workspace: 6 GB and 6 of 10."""
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(here))
    assert lines(Needs((), made=6e9, kept=6e9)) == []
    monkeypatch.setenv("LEAVEN_STORE", "off")
    (line,) = lines(Needs((), made=6e9, kept=6e9))
    assert line.startswith(f"disk of {here}: 10,000 MB free, at least 12,000 MB needed")


def test_preparing_counts_the_images_in_the_store_and_in_the_workspace():
    params = SimpleNamespace(outs=(), dataset=reader.load(REPOSITORY / "params.yaml").dataset)
    needs = prepare.needs(params)
    assert needs.kept == needs.made > 0


@pytest.fixture
def shared(monkeypatch):
    """A clone of another user, who stands in it, in a folder open to all: their workspace is `shared/clone`."""
    with open_folder() as folder:
        (folder / "clone/data").mkdir(parents=True)
        for path in (folder / "clone", folder / "clone/data"):
            os.chown(path, OTHER, -1)
        monkeypatch.chdir(folder / "clone")
        monkeypatch.setenv("LEAVEN_STORE", str(folder / "store"))
        yield folder
        monkeypatch.undo()


def of_another(*writes: str) -> list[str]:
    with another_user():
        return lines(Needs(writes or ("data/real", "metrics/prepare.json")))


@by_root
def test_an_own_store_may_lie_in_a_folder_that_is_closed(shared):
    assert of_another() == [f"{shared}/store: cannot write: Permission denied - check the path and its owner"]
    (shared / "store").mkdir()
    os.chown(shared / "store", OTHER, -1)
    assert of_another() == []


@by_root
@pytest.mark.parametrize("closed", [".", "records", "encoder"])
def test_a_store_of_somebody_else_is_refused_before_any_work_wherever_it_would_be_written(shared, closed):
    shared.chmod(0o777)
    for name in ("records", "encoder"):
        (shared / "store" / name).mkdir(parents=True)
    (shared / "store/encoder/a.lock").touch()
    (shared / "store/lost+found").mkdir(mode=0o700)  # as on a volume of its own: no folder of work
    for name in {".", "records", "encoder"} - {closed}:
        os.chown(shared / "store" / name, OTHER, -1)
    place = (shared / "store" / closed).resolve()
    assert of_another() == [f"{place}: cannot write: Permission denied - check the path and its owner"]
    os.chown(place, OTHER, -1)
    assert of_another() == []


@by_root
def test_an_output_of_somebody_else_is_refused_before_any_work(shared):
    """As of a container that ran as root: a new one could be made, and the old one not be deleted."""
    os.chown(shared, OTHER, -1)
    (shared / "clone/data/real").mkdir()
    (shared / "clone/data/params.ok").touch()  # a file is replaced whoever has the old one
    said = "data/real: cannot write: Permission denied - check the path and its owner"
    assert of_another("data/real", "data/params.ok") == [said]
    os.chown(shared / "clone/data/real", OTHER, -1)
    assert of_another("data/real", "data/params.ok") == []


def test_too_little_memory_is_refused_with_what_there_is():
    (fault,) = machine.lacking(Needs((), memory=9e9))
    assert fault.code == 3
    assert str(fault).startswith("memory: 8,000 MB free, at least 9,000 MB needed")


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


@pytest.fixture
def card(monkeypatch):
    """As if there were a GPU; what it can do."""
    able = SimpleNamespace(capability=(9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card 1")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: able.capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_120", "compute_120"])
    return able


def test_a_gpu_that_is_full_is_refused_and_its_room_told(monkeypatch, card):
    free = SimpleNamespace(now=400_000_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free.now, 8_000_000_000))
    needs = Needs((), device="cuda")
    (fault,) = machine.lacking(needs)
    assert fault.code == 3
    assert str(fault).startswith("GPU memory: 400 MB free, at least 500 MB needed - ")
    assert "at least 500 MB of cuda (400 MB free)" in machine.told(needs)
    assert machine.lacking(Needs(())) == []
    monkeypatch.setenv("PIPELINE_LAUNCH", "torchrun")  # its processes ask; this one would hold memory to no end
    assert machine.lacking(needs) == []
    monkeypatch.delenv("PIPELINE_LAUNCH")
    free.now = 600_000_000
    assert machine.lacking(needs) == []

    def full():
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    assert str(*machine.lacking(needs)).startswith("GPU memory: 0 MB free")


def test_a_step_that_does_not_fit_on_the_gpu_is_refused_with_what_to_lower(monkeypatch, card):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8_000_000_000, 9_000_000_000))
    needs = Needs((), device="cuda", gpu=7.4e9)
    assert "at least 7,900 MB of cuda (8,000 MB free)" in machine.told(needs)
    assert machine.lacking(needs, "pretrain") == []
    (fault,) = machine.lacking(needs._replace(gpu=7.6e9), "pretrain")
    assert fault.code == 3
    assert str(fault) == (
        "GPU memory: 8,000 MB free, at least 8,100 MB needed - stop what else runs there, set compute.device: cpu, "
        "raise pretrain.accumulate, lower pretrain.batch_size, or take a smaller pretrain.backbone, or "
        "take fewer images"
    )


def test_what_to_lower_are_parameters():
    names = set(map(".".join, reader.keys()))
    words = {word for said in machine._LOWER.values() for word in said.replace(",", "").split() if "." in word}
    assert words
    assert words <= names
    assert machine.lower("finetune@0.1") == "lower finetune.batch_size, or take fewer images"
    assert machine.lower("prepare") == "take fewer images"


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert lines(Needs((), device="cuda")) == [
        "params.yaml: compute.device: torch finds no CUDA device - set it to cpu"
    ]


def test_a_card_that_torch_has_no_kernels_for_is_refused(monkeypatch, card):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8_000_000_000, 9_000_000_000))
    for card.capability in ((7, 5), (12, 0), (12, 1)):
        assert lines(Needs((), device="cuda")) == []
    for card.capability, told in (((7, 0), "7.0"), ((6, 1), "6.1")):
        assert lines(Needs((), device="cuda")) == [
            f"params.yaml: compute.device: Card 1 has compute capability {told}, and this torch needs 7.5 - "
            "set it to cpu, or install a torch for this card"
        ]


@pytest.mark.slow
def test_dvcs_cache_is_where_any_level_of_its_configuration_says(here, monkeypatch):
    monkeypatch.undo()
    clone = here / "clone"
    clone.mkdir()
    for name, value in clones.environment(clone).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(here / "global"))
    monkeypatch.chdir(clone)

    def found(*words: str) -> Path | None:
        if words:
            subprocess.run(words, capture_output=True, check=True)
        machine._dvc_cache.cache_clear()
        return machine._dvc_cache()

    assert found() is None  # no project
    subprocess.run(["git", "init", "--quiet"], check=True)
    assert found("dvc", "init", "--quiet") == clone / ".dvc/cache"
    assert found("dvc", "cache", "dir", "--global", str(here / "shared")) == here / "shared"
    assert found("dvc", "cache", "dir", "--local", str(here / "own")) == here / "own"
    machine._dvc_cache.cache_clear()


def test_dvc_is_not_asked_for_a_stage_that_makes_no_images(monkeypatch):
    monkeypatch.setattr(machine, "_dvc_cache", lambda: 1 / 0)
    assert machine.disks(Needs(("metrics/x.json",), kept=1))


def test_images_are_counted_by_split_and_nothing_is_what_cannot_be_read(here):
    with h5py.File(here / "images.h5", "w") as file:
        file["images"] = np.zeros((5, 4, 4, 3), np.uint8)
        file["split"] = np.array([0, 0, 2, 0, 1], np.uint8)
    assert machine.images(here, shards.TRAIN) == (3, 48)
    assert machine.images(here, shards.TRAIN, shards.TEST) == (4, 48)
    (here / "images.h5").write_bytes(b"no HDF5")
    assert machine.images(here, shards.TRAIN) == (0, 0)
    assert machine.images(here / "nowhere", shards.TRAIN) == (0, 0)
