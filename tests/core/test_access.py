"""What is told of a file that cannot be read: the system's fault as what it is; only damage asks to delete."""

import errno
import fcntl
import os
import resource
import zipfile

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from pipeline.core import access, files, store, weights
from pipeline.core.errors import REFUSED, RESOURCE, UserError
from pipeline.data import imports, pictures, shards
from pipeline.engine import checkpoint
from pipeline.params import reader
from pipeline.study import rows
from tests.closed import another_user, by_root, open_folder

DESTROYS = ("delete", "replace", "remove", "get it again", "checkout", "mend", "make it again")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def readers():
    """Of each kind of file one, whole, in a folder open to all: what reads it, by the file's path."""
    with open_folder() as folder:
        net = torch.nn.Linear(2, 2)
        shards.write_arrays(folder / "images.h5", {"images": IMAGES}, {})
        files.write_json(folder / "card.json", {"n": 1})
        store.seal(folder, ["card.json"], {})
        weights.save(folder / "w.safetensors", net)
        checkpoint.save(folder / "c.pt", "f", 3, {"net": net}, [])
        np.save(folder / "i.npy", IMAGES)
        np.savez(folder / "i.npz", images=IMAGES)
        shards.write_arrays(folder / "i.h5", {"images": IMAGES}, {})
        Image.fromarray(IMAGES[0, ..., 0]).save(folder / "p.png")
        (folder / "s.yaml").write_text("a: 1\n")
        (folder / "s.csv").write_text(",".join(rows.COLUMNS) + "\n")
        yield {
            folder / "images.h5": shards.map_file,
            folder / "card.json": files.read_json,
            folder / "manifest.json": lambda path: store.verify(path.parent),
            folder / "w.safetensors": lambda path: weights.load(path, lambda: torch.nn.Linear(2, 2)),
            folder / "c.pt": lambda path: checkpoint.load(path, "f", {"net": net}),
            folder / "i.npy": lambda path: imports.read(path, 8, 1),
            folder / "i.npz": lambda path: imports.read(path, 8, 1),
            folder / "i.h5": lambda path: imports.read(path, 8, 1),
            folder / "p.png": lambda path: pictures.read_all([path], 8, 1),
            folder / "s.yaml": reader.text_of,
            folder / "s.csv": rows.read,
        }


def refusal(path, read) -> UserError:
    with pytest.raises(UserError) as caught:
        read(path)
    (fault,) = caught.value.faults
    assert fault.where == str(path)
    return fault


@by_root
def test_a_file_of_any_kind_that_this_user_may_not_read_is_whole_and_to_be_asked_for(readers):
    for path, read in readers.items():
        path.chmod(0o600)
        read(path)
        with another_user():
            fault = refusal(path, read)
        assert (fault.what, fault.code) == ("cannot read: Permission denied", REFUSED)
        assert fault.remedy == "ask its owner for the permission"


def test_a_file_of_any_kind_is_whole_where_too_many_are_open(readers):
    for path, read in readers.items():
        read(path)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            fault = refusal(path, read)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert (fault.what, fault.code) == ("cannot read: Too many open files", RESOURCE)
        assert not any(word in fault.remedy for word in DESTROYS)


def test_a_file_of_any_kind_that_is_damaged_is_told_to_be(readers):
    for path, read in readers.items():
        path.write_bytes(b"\xff" + path.read_bytes()[: path.stat().st_size // 2])
        fault = refusal(path, read)
        assert not fault.what.startswith("cannot read"), path
        assert fault.code == REFUSED


def test_a_lock_of_another_program_keeps_nobody_from_reading_a_finished_file(readers):
    for path, read in readers.items():
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            read(path)


NETWORK = "EAGAIN EIO ESTALE ETIMEDOUT EREMOTEIO ENOTCONN EHOSTDOWN ENETUNREACH EBUSY"
OTHERS = "EACCES EPERM ENOLCK EMFILE ENFILE ENOMEM ENOSYS EOPNOTSUPP"


@pytest.mark.parametrize("name", [*NETWORK.split(), *OTHERS.split()])
def test_a_fault_of_the_system_is_told_by_its_name_and_destroys_nothing(tmp_path, name):
    number = getattr(errno, name)
    with pytest.raises(UserError) as caught, access.reading(tmp_path, "damaged", "delete it"):
        raise OSError(number, os.strerror(number))
    assert caught.value.what == f"cannot read: {os.strerror(number)}"
    assert not any(word in caught.value.remedy for word in DESTROYS)
    assert ("same command again" in caught.value.remedy) == (name in NETWORK or name in ("EMFILE", "ENFILE", "ENOMEM"))
    with pytest.raises(UserError, match=r"cannot (write|lock): "), access.disk_faults(tmp_path):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "fault",
    [
        OSError("Can't read data (file read failed: errno = 5, error message = 'Input/output error', offset = 0)"),
        RuntimeError("unable to mmap 16 bytes from file <x>: Input/output error (5)"),
        SafetensorError("Error while deserializing header: I/O: Input/output error (os error 5)"),
    ],
    ids=["hdf5", "torch", "rust"],
)
def test_a_number_that_a_library_tells_in_words_or_as_a_cause_is_understood(tmp_path, fault):
    for raised in (fault, ValueError("cannot load")):
        with pytest.raises(UserError) as caught, access.reading(tmp_path, "damaged", "delete it", Exception):
            raise raised from (fault if raised is not fault else None)
        assert "cannot read: Input/output error - keep the file" in str(caught.value)


@pytest.mark.parametrize(
    "fault",
    [
        OSError("Unable to open file (truncated file: eof = 13, sblock->base_addr = 0, stored_eof = 5)"),
        zipfile.BadZipFile("not a zip file"),
        OSError(errno.EINVAL, "Invalid argument"),
        RuntimeError("shape '[13]' is invalid for input of size 5"),
    ],
    ids=str,
)
def test_what_only_looks_like_a_number_of_the_system_is_damage(tmp_path, fault):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError) as caught, access.reading(tmp_path / "file", "damaged", "delete it", Exception):
        raise fault
    assert caught.value.remedy == "delete it"


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=str)
def test_a_lack_of_memory_is_no_fault_of_a_file(tmp_path, fault):
    with pytest.raises(type(fault)), access.reading(tmp_path, "damaged", "delete it", Exception):
        raise fault


@by_root
def test_digests_of_a_closed_file_are_not_those_of_a_damaged_one():
    with open_folder() as folder:
        (folder / "a").write_text("a")
        (folder / "a").chmod(0)
        for path in (folder / "a", folder / "closed/a"):
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o755 if path.parent == folder else 0)
            with another_user(), pytest.raises(UserError, match=r"/a: cannot read: Permission denied - ask"):
                files.check_digests(path.parent, {"a": "0" * 64}, "manifest.json", "prepare")
        with another_user(), pytest.raises(UserError, match=r"closed: cannot read: Permission denied - ask"):
            store.verify(folder / "closed", "prepare")


@by_root
@pytest.mark.parametrize("how", ["copy", "assemble"])
def test_a_source_that_cannot_be_read_is_named_and_not_the_copy(how):
    with open_folder() as folder:
        (folder / "source").write_text("s")
        (folder / "source").chmod(0)
        (folder / "mine").mkdir()
        os.chown(folder / "mine", 12345, -1)
        copied = {
            "copy": lambda: files.copy(folder / "source", folder / "mine/copy"),
            "assemble": lambda: files.assemble(folder / "mine/copy", {"a": folder / "source"}),
        }
        with another_user(), pytest.raises(UserError, match=r"source: cannot read: Permission denied"):
            copied[how]()


def test_a_strangers_json_is_not_asked_to_be_made_by_the_pipeline(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"not readable as JSON: .* - get it again"):
        files.read_json(tmp_path / "config.json", 100, "get it again")


@pytest.mark.parametrize("name", ["images", "labels"])
def test_an_endless_column_is_refused_before_it_is_read(tmp_path, name):
    """Two to the power of fifty values that the file claims and does not hold."""
    with h5py.File(tmp_path / "images.h5", "w") as file:
        for column, kind in ({"images": np.uint8} | shards.COLUMNS).items():
            shape = (3, 8, 8, 1) if column == "images" else (3,)
            if column == name:
                file.create_dataset(column, shape=(2**50, *shape[1:]), dtype=kind, chunks=(1, *shape[1:]))
            else:
                file[column] = np.zeros(shape, kind)
        file.attrs.update({"classes": "a", "source": "toy", "labelled_size": 1})
    store.seal(tmp_path, ["images.h5"], {"n": 3})
    with pytest.raises(
        UserError, match="claims 72,057,594,037,927,936 bytes" if name == "images" else "expected labels"
    ):
        shards.read_real(tmp_path)
