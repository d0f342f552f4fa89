import hashlib
import json
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.core import files, store
from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.data.bank import ImageBank

ARRAYS = {"images": np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3), "labels": np.array([7, -1])}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refusal(names, function, *arguments):
    """The one line of a UserError with code 2 that names a file."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    line = str(caught.value)
    assert caught.value.code == 2
    assert "\n" not in line
    assert names in line
    return line


def real_set(channels=1):
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, channels), dtype=np.uint8)
    split = np.array([0, 0, 0, 3, 3, 1, 1, 2, 2], dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    return shards.RealSet(images, labels, split, np.arange(9) * 10, ("cat", "dog", "á fish"), "toy", 4)


def generated_folder(folder, sizes=(4, 4, 4), n=10):
    folder.mkdir()
    images = np.random.default_rng(1).integers(0, 256, (sum(sizes), 3, 3, 1), dtype=np.uint8)
    names, start = [], 0
    for k, size in enumerate(sizes):
        names.append(shards.shard_name(k))
        shards.write_arrays(folder / names[-1], {"images": images[start : start + size]}, {"shard": k})
        start += size
    store.seal(folder, names, {"n": n})
    return images


def test_a_file_written_again_later_has_the_same_bytes(tmp_path):
    shards.write_arrays(tmp_path / "a.h5", ARRAYS, {"b": 1, "a": "text"})
    time.sleep(1.1)  # HDF5 can store times, in seconds
    shards.write_arrays(tmp_path / "other.h5", ARRAYS, {"a": "text", "b": 1})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "other.h5").read_bytes()


@pytest.mark.skipif(not h5py.__version__.startswith("3.16."), reason="the digest is of the bytes that h5py 3.16 writes")
def test_the_bytes_of_a_tiny_file_are_those_of_the_first_release(tmp_path):
    shards.write_arrays(tmp_path / "a.h5", ARRAYS, {"b": 1, "a": "text"})
    assert digest(tmp_path / "a.h5") == "365918df5b893c73e138bd3efa7acb8d551d2b9426cf10439e335938617fc1ec"


def test_arrays_are_stored_whole_and_uncompressed_with_their_attributes(tmp_path):
    shards.write_arrays(tmp_path / "a.h5", ARRAYS, {"note": "x"})
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert file[name].dtype == array.dtype
            assert np.array_equal(file[name][:], array)
            assert (file[name].chunks, file[name].compression) == (None, None)
        assert dict(file.attrs) == {"schema": shards.SCHEMA, "note": "x"}


@pytest.mark.parametrize("channels", [1, 3])
def test_real_images_come_back_as_they_were(tmp_path, channels):
    real = real_set(channels)
    shards.write_real(tmp_path, real)
    found = shards.read_real(tmp_path)
    for name in ("images", "labels", "split", "orig_index"):
        assert np.array_equal(getattr(found, name), getattr(real, name))
        assert getattr(found, name).dtype == getattr(real, name).dtype
    assert (found.classes, found.source, found.labelled_size) == (real.classes, "toy", 4)


def test_parts_keep_the_stored_order_and_the_labelled_ones_are_a_prefix_of_train_and_labelled():
    real = real_set()
    images, labels = real.part(shards.VALIDATION, shards.TRAIN)
    assert np.array_equal(images, real.images[[0, 1, 2, 5, 6]])
    assert labels.tolist() == [0, 1, 2, 2, 0]
    assert real.labelled_rows().tolist() == [0, 1, 2, 3]


def flip_a_bit(folder):
    path = folder / shards.shard_name(1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 4  # the last bytes of a contiguous file are pixels
    path.write_bytes(content)


def truncate(folder):
    path = folder / shards.shard_name(1)
    path.write_bytes(path.read_bytes()[:-7])


def lose(folder):
    (folder / shards.shard_name(1)).unlink()


@pytest.mark.fault(8, 9)
@pytest.mark.parametrize("harm", [flip_a_bit, truncate, lose])
def test_a_harmed_shard_is_refused_by_its_name(tmp_path, harm):
    generated_folder(tmp_path / "set")
    harm(tmp_path / "set")
    refusal(shards.shard_name(1), store.verify, tmp_path / "set", "generate")
    assert "dvc repro -f -s generate" in refusal(shards.shard_name(1), shards.read_generated, tmp_path / "set")


@pytest.mark.fault(9)
def test_a_flipped_bit_is_one_that_hdf5_reads_without_complaint(tmp_path):
    """So the digest is what finds it."""
    images = generated_folder(tmp_path / "set")
    flip_a_bit(tmp_path / "set")
    with h5py.File(tmp_path / "set" / shards.shard_name(1)) as file:
        assert (file["images"][:] != images[4:8]).sum() == 1


@pytest.mark.fault(11, 33)
@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest | {"schema": 0},
        lambda manifest: manifest | {"files": manifest["files"] | {"shard-00009.h5": "0" * 64}},
        lambda manifest: manifest | {"files": None},
        lambda manifest: {k: v for k, v in manifest.items() if k != "files"},
        lambda manifest: manifest | {"n": 13},
        lambda manifest: manifest | {"n": -1},
        lambda manifest: manifest | {"n": "10"},
        lambda manifest: {k: v for k, v in manifest.items() if k != "n"},
        lambda manifest: [manifest],
    ],
)
def test_a_manifest_that_does_not_fit_its_folder_is_refused(tmp_path, change):
    """Changed by hand, which breaks its seal, or written so."""
    generated_folder(tmp_path / "set")
    path = tmp_path / "set" / "manifest.json"
    changed = change(files.read_json(path))
    path.write_text(json.dumps(changed))
    refusal(str(tmp_path / "set"), shards.read_generated, tmp_path / "set")
    if isinstance(changed, dict) and changed.pop("schema") == files.SEALED:
        changed.pop("seal")
        files.write_sealed(path, changed)
        refusal(str(tmp_path / "set"), shards.read_generated, tmp_path / "set")


def test_every_value_of_a_manifest_is_under_its_seal(tmp_path):
    generated_folder(tmp_path / "set")
    path = tmp_path / "set" / "manifest.json"
    whole = files.read_json(path)
    assert store.verify(tmp_path / "set", "generate") == {k: v for k, v in whole.items() if k not in ("seal", "schema")}
    for name in whole:
        path.write_text(json.dumps(whole | {name: 1}))
        refusal("manifest.json", store.verify, tmp_path / "set", "generate")
        path.write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        refusal("manifest.json", store.verify, tmp_path / "set", "generate")


@pytest.mark.parametrize("name", ["../outside.h5", "/outside.h5", "a/../../outside.h5"])
def test_a_manifest_that_names_what_is_not_in_its_folder_is_refused(tmp_path, name):
    generated_folder(tmp_path / "set")
    (tmp_path / "outside.h5").write_bytes(b"mine")
    path = tmp_path / "set" / "manifest.json"
    manifest = files.read_sealed(path, "generate", {})
    manifest["files"][name] = files.sha256(tmp_path / "outside.h5")
    files.write_sealed(path, manifest)
    assert "which is not in its folder" in refusal("manifest.json", store.verify, tmp_path / "set", "generate")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path, content):
    generated_folder(tmp_path / "set")
    (tmp_path / "set" / "manifest.json").write_bytes(content)
    refusal("manifest.json", store.verify, tmp_path / "set", "generate")


def test_a_folder_without_a_manifest_names_the_stage_that_makes_it(tmp_path):
    assert "dvc repro pretrain" in refusal(str(tmp_path), store.verify, tmp_path, "pretrain")


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 4, 4, 1), np.float32),
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 3, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 2), np.uint8),
    ],
    ids=["float", "no channel", "channels first", "two channels"],
)
def test_sealed_images_of_another_type_or_shape_are_refused(tmp_path, images):
    shards.write_arrays(tmp_path / shards.shard_name(0), {"images": images}, {})
    store.seal(tmp_path, [shards.shard_name(0)], {"n": 2})
    line = refusal(shards.shard_name(0), shards.read_generated, tmp_path)
    assert f"{images.dtype} {images.shape}" in line


def test_a_sealed_file_without_images_or_that_is_not_hdf5_is_refused(tmp_path):
    shards.write_arrays(tmp_path / shards.shard_name(0), {"pixels": ARRAYS["images"]}, {})
    store.seal(tmp_path, [shards.shard_name(0)], {"n": 2})
    assert "no `images`" in refusal(shards.shard_name(0), shards.read_generated, tmp_path)
    (tmp_path / shards.shard_name(0)).write_text("not HDF5")
    store.seal(tmp_path, [shards.shard_name(0)], {"n": 2})
    refusal(shards.shard_name(0), shards.read_generated, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", None),
        ("labels", np.zeros(8, np.int64)),
        ("split", np.zeros(9, np.int64)),
        ("orig_index", np.zeros(9, np.float64)),
    ],
)
def test_real_columns_that_do_not_fit_the_images_are_refused(tmp_path, name, value):
    real = real_set()
    arrays = {"images": real.images, "labels": real.labels, "split": real.split, "orig_index": real.orig_index}
    arrays = {k: v for k, v in (arrays | {name: value}).items() if v is not None}
    shards.write_arrays(tmp_path / "images.h5", arrays, {"classes": "a", "source": "toy", "labelled_size": 1})
    store.seal(tmp_path, ["images.h5"], {"n": 9})
    assert name in refusal("images.h5", shards.read_real, tmp_path)


@pytest.mark.parametrize("n", [0, 1, 4, 10, 12])
def test_a_generated_set_is_the_first_n_images_of_its_shards_in_order(tmp_path, n):
    images = generated_folder(tmp_path / "set", n=n)
    assert np.array_equal(shards.read_generated(tmp_path / "set"), images[:n])
    for rows in (np.arange(0), np.arange(n), np.arange(n)[::3], np.arange(n)[-2:]):
        found = shards.read_generated(tmp_path / "set", rows)
        assert np.array_equal(found, images[rows]) if len(rows) else not len(found)


def test_shards_of_several_sizes_are_refused(tmp_path):
    for k, size in enumerate((5, 6)):
        shards.write_arrays(tmp_path / shards.shard_name(k), {"images": np.zeros((2, size, size, 1), np.uint8)}, {})
    store.seal(tmp_path, [shards.shard_name(0), shards.shard_name(1)], {"n": 3})
    assert "(6, 6, 1) beside (5, 5, 1)" in refusal(shards.shard_name(1), shards.read_generated, tmp_path)


def test_a_set_without_shards_is_empty(tmp_path):
    store.seal(tmp_path, [], {"n": 0})
    assert shards.read_generated(tmp_path).shape == (0, 0, 0, 0)


def test_shard_names_sort_as_their_numbers():
    names = [shards.shard_name(k) for k in (0, 9, 10, 99, 100, 20_000)]
    assert sorted(names) == names


def test_a_bank_holds_the_real_images_first_and_is_indexed_by_row():
    real, generated = np.full((3, 2, 2, 1), 7, np.uint8), np.arange(16, dtype=np.uint8).reshape(4, 2, 2, 1)
    for parts in ([generated], [generated[:1], generated[1:]], [generated[:2], generated[2:2], generated[2:]]):
        bank = ImageBank(real, parts, "cpu")
        assert (bank.n_real, bank.n_generated) == (3, 4)
        found = bank[np.array([6, 0, 3, 6, 4, 5])].numpy()
        assert np.array_equal(found, np.stack([generated[3], real[0], *generated[[0, 3, 1, 2]]]))
        assert np.array_equal(bank[np.array([2, 1])].numpy(), real[[2, 1]])
        assert np.array_equal(bank[np.array([5, 6])].numpy(), generated[2:])


@pytest.mark.parametrize(("room", "place"), [(28, "meta"), (27, "cpu")])
def test_a_bank_that_would_crowd_a_device_stays_where_it_is_and_sends_batches(room, place, monkeypatch):
    """On a device without values, of seven images of four bytes."""
    monkeypatch.setattr(ImageBank, "_room", lambda self: room)
    real, generated = np.zeros((3, 2, 2, 1), np.uint8), np.ones((4, 2, 2, 1), np.uint8)
    bank = ImageBank(real, [generated], "meta")
    assert {part.device.type for part in bank.parts} == {place}
    for rows in ([6, 0, 3], [2, 1], [5]):
        found = bank[np.array(rows)]
        assert (found.device.type, found.shape) == ("meta", (len(rows), 2, 2, 1))


def test_a_bank_takes_no_generated_images_and_refuses_those_of_another_shape():
    real = np.zeros((3, 2, 2, 1), np.uint8)
    for nothing in ([], [np.zeros((0, 0, 0, 0), np.uint8)]):
        assert ImageBank(real, nothing, "cpu")[np.array([2])].shape == (1, 2, 2, 1)
    line = refusal("data/generated", ImageBank, real, [np.zeros((3, 2, 2, 3), np.uint8)], "cpu")
    assert "(2, 2, 1)" in line
    assert "(2, 2, 3)" in line


def test_a_bank_of_mapped_shards_takes_no_memory_of_its_own(tmp_path):
    """Private memory, in which a copy of a quarter of the 40 MB would show; what is mapped the system can take back."""

    def private() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    folder = tmp_path / "set"
    folder.mkdir()
    names = [shards.shard_name(k) for k in range(4)]
    for k, name in enumerate(names):
        shards.write_arrays(folder / name, {"images": np.full((10_000, 32, 32, 1), k, np.uint8)}, {"shard": k})
    store.seal(folder, names, {"n": 40_000})
    real, before = np.zeros((3, 32, 32, 1), np.uint8), private()
    bank = ImageBank(real, shards.map_generated(folder), "cpu")
    for first in range(3, 40_000, 1000):
        bank[np.arange(first, first + 1000)]
    assert private() - before < 10_000_000
    assert bank[np.array([3, 10_003, 40_002])][:, 0, 0, 0].tolist() == [0, 1, 3]


def test_mapped_images_can_be_changed_without_changing_the_file(tmp_path):
    images = generated_folder(tmp_path / "set")
    parts = shards.map_generated(tmp_path / "set")
    assert [len(part) for part in parts] == [4, 4, 2]
    parts[0][:] = 0
    assert np.array_equal(shards.read_generated(tmp_path / "set"), images[:10])


def test_images_in_chunks_are_read_too(tmp_path):
    """Nothing here writes them so."""
    images = np.arange(32, dtype=np.uint8).reshape(8, 2, 2, 1)
    with h5py.File(tmp_path / shards.shard_name(0), "w") as file:
        file.create_dataset("images", data=images, chunks=(2, 2, 2, 1), compression="gzip")
    store.seal(tmp_path, [shards.shard_name(0)], {"n": 8})
    assert np.array_equal(shards.read_generated(tmp_path), images)


@pytest.mark.fault(10)
@pytest.mark.parametrize("kind", ["link", "virtual", "group"])
def test_sealed_images_that_lie_elsewhere_are_refused(tmp_path, kind):
    """Their place in the other file would be looked for in this one."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros((3, 4, 4, 1), np.uint8)
    with h5py.File(tmp_path / "images.h5", "w") as file:
        if kind == "link":
            file["images"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "images")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3, 4, 4, 1), np.uint8)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "images", (3, 4, 4, 1))
            file.create_virtual_dataset("images", layout)
        else:
            file.create_group("images")
    store.seal(tmp_path, ["images.h5"], {"n": 3})
    assert "has no `images` of its own" in refusal("images.h5", shards.read_real, tmp_path)
