"""Generated images as others publish them."""

import io
import os
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.data import imports, pictures, shards
from pipeline.params.schema import Generator


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def refused(path, match, size=8, channels=3):
    with pytest.raises(UserError, match=match) as caught:
        imports.read(path, size, channels)
    assert caught.value.code == 2
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "labels"), [("image", "label"), ("images", "label"), ("arr_0", "arr_1")], ids=["AdaInf", "plain", "ADM"]
)
def test_an_npz_as_its_makers_publish_it(tmp_path, key, labels):
    images = noise(5, 8, 8, 3)
    np.savez(tmp_path / "a.npz", **{key: images, labels: np.full(5, -1)})
    assert np.array_equal(imports.read(tmp_path / "a.npz", 8, 3), images)
    assert imports.count(tmp_path / "a.npz") == 5


def test_an_npy_as_clsp_keeps_it_is_taken_candidate_by_candidate(tmp_path):
    images = noise(4, 3, 8, 8, 3)
    np.save(tmp_path / "a.npy", images)
    found = imports.read(tmp_path / "a.npy", 8, 3)
    assert found.shape == (12, 8, 8, 3)
    for i in range(4):
        for k in range(3):
            assert np.array_equal(found[4 * k + i], images[i, k])


def test_hdf5_channels_first_and_grey_without_a_channel(tmp_path):
    images = noise(5, 8, 8, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = images.transpose(0, 3, 1, 2)
    assert np.array_equal(imports.read(tmp_path / "a.h5", 8, 3), images)
    np.save(tmp_path / "grey.npy", images[..., 0])
    assert np.array_equal(imports.read(tmp_path / "grey.npy", 8, 1), images[..., :1])


def test_a_folder_of_pictures_in_the_order_of_their_names(tmp_path):
    images = noise(3, 8, 8, 3)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{2 - i}.png")
    assert np.array_equal(imports.read(tmp_path, 8, 3), images[::-1])


def test_other_sizes_are_resized_within_bounds(tmp_path):
    board = np.tile((np.indices((16, 16)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None], (2, 1, 1, 1))
    np.save(tmp_path / "a.npy", board)
    found = imports.read(tmp_path / "a.npy", 8, 1)
    assert found.shape == (2, 8, 8, 1)
    assert np.abs(found.astype(int) - 128).max() <= 4  # the edges weigh unevenly
    refused(tmp_path / "a.npy", "16 x 16 pixels, the data has 33 x 33", size=33, channels=1)
    refused(tmp_path / "a.npy", "16 x 16 pixels, the data has 3 x 3", size=3, channels=1)


@pytest.mark.fault(10)
def test_what_cannot_stand_beside_the_data_is_refused(tmp_path):
    for name, array, says in (
        ("float", noise(2, 8, 8, 3) / 255, "values are float64, not uint8"),
        ("long", noise(2, 8, 9, 3), "8 x 9 pixels"),
        ("flat", noise(2, 64), r"shape \(2, 64\) is no list of images"),
        ("none", noise(0, 8, 8, 3), "no list of images"),
        ("four", noise(2, 8, 8, 4), "1 or 3 channels"),
        ("grey", noise(2, 8, 8, 1), "images of 1 channels, the data has 3"),
        ("black", noise(2, 8, 8, 3) // 200, "no value above 1, so black images - save uint8 of 0 to 255"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        refused(tmp_path / f"{name}.npy", says)
    np.savez(tmp_path / "key.npz", data=noise(2, 8, 8, 3))
    refused(
        tmp_path / "key.npz", r"none of the keys image, images, arr_0 but data - save the images with the key images"
    )
    np.savez_compressed(tmp_path / "torn.npz", image=noise(2, 8, 8, 3))
    content = bytearray((tmp_path / "torn.npz").read_bytes())
    content[200:260] = b"\xff" * 60
    (tmp_path / "torn.npz").write_bytes(content)
    refused(tmp_path / "torn.npz", "not readable")
    np.savez(tmp_path / "is.npz", image=noise(2, 8, 8, 3))
    (tmp_path / "is.npz").rename(tmp_path / "is.npy")
    refused(tmp_path / "is.npy", "magic string is not correct")
    np.save(tmp_path / "is_not.npy", noise(2, 8, 8, 3))
    (tmp_path / "is_not.npy").rename(tmp_path / "is_not.npz")
    refused(tmp_path / "is_not.npz", "not readable")
    (tmp_path / "text.npz").write_bytes(b"hello")
    refused(tmp_path / "text.npz", "not readable")
    (tmp_path / "text.h5").write_bytes(b"hello")
    refused(tmp_path / "text.h5", "not readable")
    (tmp_path / "a.bin").write_bytes(b"hello")
    refused(tmp_path / "a.bin", "neither a folder nor")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no pictures")
    cut = (tmp_path / "long.npy").read_bytes()[:-50]
    (tmp_path / "cut.npy").write_bytes(cut)
    refused(tmp_path / "cut.npy", "not readable")


@pytest.mark.parametrize("ending", ["npz", "npy", "h5"])
def test_a_refusal_says_what_helps_against_its_cause(tmp_path, ending):
    path, images = tmp_path / f"a.{ending}", noise(2, 8, 8, 3)

    def save(array):
        if ending == "h5":
            with h5py.File(path, "w") as file:
                file["images"] = array
        else:
            np.save(path, array) if ending == "npy" else np.savez(path, images=array)

    save(images / 255)
    refused(path, "values are float64, not uint8 - save them as uint8, 0 to 255, rounded$")
    save(images[0, 0])
    refused(path, r"shape \(8, 3\) is no list of images - save \(N, H, W, C\)$")
    save(images)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "not readable: .* - copy it again from where it came, or make it again$")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n")
    refused(path, "is a Git LFS pointer: the content itself is not here - git lfs pull$")
    path.write_bytes(b"\n<!DOCTYPE html><html>404</html>")
    refused(path, "is a page of HTML, as a failed download leaves - download it again$")
    path.write_bytes(b"")
    refused(path, "is empty - copy it again from where it came$")


def test_a_set_under_another_key_or_in_another_packing_says_how_to_save_it(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = noise(2, 8, 8, 3)
    refused(tmp_path / "a.h5", "has none of the keys images but x - save the images with the key images$")
    np.savez(tmp_path / "a.npz", image=noise(2, 8, 8, 3))
    content = (tmp_path / "a.npz").read_bytes()
    odd = content.replace(b"PK\x03\x04\x14\x00\x00\x00\x00\x00", b"PK\x03\x04\x14\x00\x00\x00\x5d\x00")
    at = odd.index(b"PK\x01\x02") + 10  # the method in the directory: one that zipfile lacks
    (tmp_path / "a.npz").write_bytes(odd[:at] + b"\x5d" + odd[at + 1 :])
    refused(tmp_path / "a.npz", r"not readable: .* - save it again with numpy\.savez")


def test_a_file_that_may_not_be_read_keeps_its_content(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", noise(2, 8, 8, 3))

    def closed(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(UserError, match=r"a\.npy: cannot read: Permission denied - ask its owner"):
        imports.read(tmp_path / "a.npy", 8, 3)


@pytest.mark.fault(24)
@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_more_than_a_file_can_hold_is_refused_before_memory_is_taken(tmp_path, ending):
    """A kilobyte that claims a terabyte; images of one value, packed as well as can be, are believed."""
    huge, flat = tmp_path / f"huge.{ending}", tmp_path / f"flat.{ending}"
    if ending == "npz":
        head = io.BytesIO()
        facts = {"descr": "|u1", "fortran_order": False, "shape": (10**8, 64, 64, 3)}
        np.lib.format.write_array_header_1_0(head, facts)
        with zipfile.ZipFile(huge, "w") as archive:
            archive.writestr("image.npy", head.getvalue() + b"abc")
        np.savez_compressed(flat, image=np.full((2000, 8, 8, 3), 9, np.uint8))
    else:
        for path, n in ((huge, 10**8), (flat, 2000)):
            with h5py.File(path, "w") as file:
                how = {"chunks": (1000, 8, 8, 3), "compression": "gzip", "compression_opts": 9}
                file.create_dataset("images", shape=(n, 8, 8, 3), dtype=np.uint8, **how)
                file["images"][:2000] = np.full((2000, 8, 8, 3), 9, np.uint8)  # of a scalar h5py makes 2,000
    refused(huge, r"claims 1[\d,]+,000 bytes of images in a file of [\d,]+ - copy it again")
    assert imports.count(huge) == 0
    assert imports.read(flat, 8, 3).shape == (2000, 8, 8, 3)
    assert imports.count(flat) == 2000


def npy(shape):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return head.getvalue() + b"abc"


@pytest.mark.fault(24)
@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("shape", [(2**70, 8, 8, 3), (0, 2**70, 8, 3), (-5, 8, 8, 3), (10**9, 8, 8, 3)], ids=str)
def test_shapes_that_no_memory_has_are_refused(tmp_path, ending, shape):
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        path.write_bytes(npy(shape))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("image.npy", npy(shape))
    refused(path, "not readable|is no list of images")


@pytest.mark.fault(24)
def test_the_member_that_is_read_is_the_one_whose_size_was_looked_at(tmp_path):
    """numpy's own reader prefers an entry without the ending, which may be of any size."""
    images = noise(2, 8, 8, 3)
    small = io.BytesIO()
    np.save(small, images)
    with zipfile.ZipFile(tmp_path / "two.npz", "w") as archive:
        archive.writestr("image", npy((10**8, 64, 64, 3)))
        archive.writestr("image.npy", small.getvalue())
    assert np.array_equal(imports.read(tmp_path / "two.npz", 8, 3), images)
    with zipfile.ZipFile(tmp_path / "one.npz", "w") as archive:
        archive.writestr("image", npy((10**8, 64, 64, 3)))
    refused(tmp_path / "one.npz", "none of the keys")


@pytest.mark.fault(24)
def test_hdf5_whose_little_unpacks_to_much_is_refused(tmp_path):
    """One heap object that two hundred elements share; a chunk far larger than the images in it."""
    with h5py.File(tmp_path / "shared.h5", "w") as file:
        images = file.create_dataset("images", (200, 1, 1), dtype=h5py.vlen_dtype(np.uint8))
        images[0, 0, 0] = np.zeros(1000, np.uint8)
    refused(tmp_path / "shared.h5", "values are object, not uint8")
    with h5py.File(tmp_path / "chunk.h5", "w") as file:
        how = {"chunks": (10**6, 8, 8, 3), "compression": "gzip", "maxshape": (None, 8, 8, 3)}
        file.create_dataset("images", shape=(4, 8, 8, 3), dtype=np.uint8, **how)
    refused(tmp_path / "chunk.h5", "claims chunks of 192,000,000 bytes in a file of")


@pytest.mark.fault(24)
def test_a_header_of_brackets_and_a_pipe_are_refused(tmp_path):
    head = b"\x93NUMPY\x01\x00" + (8000).to_bytes(2, "little") + b"-" * 7999 + b"\n"
    (tmp_path / "a.npy").write_bytes(head)
    refused(tmp_path / "a.npy", "its header is none|not readable")
    assert imports.count(tmp_path / "a.npy") == 0
    os.mkfifo(tmp_path / "pipe.npy")
    refused(tmp_path / "pipe.npy", "no file")


def test_images_are_counted_by_their_headers(tmp_path):
    np.save(tmp_path / "five.npy", noise(4, 3, 8, 8, 3))
    np.savez(tmp_path / "a.npz", image=noise(5, 8, 8, 3))
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a.png")
    (tmp_path / "text.h5").write_bytes(b"hello")
    found = [imports.count(tmp_path / name) for name in ("five.npy", "a.npz", "", "text.h5", "none.npy", "a.bin")]
    assert found == [12, 5, 1, 0, 0, 0]


@pytest.mark.fault(24)
def test_hdf5_that_points_to_other_files_is_refused(tmp_path):
    """By a link, by a virtual dataset, by its bytes in another file: none is what the user named."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["images"] = noise(2, 8, 8, 3)
    (tmp_path / "secret.bin").write_bytes(noise(2, 8, 8, 3).tobytes())
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["images"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "images")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((2, 8, 8, 3), np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "images", (2, 8, 8, 3))
        file.create_virtual_dataset("images", layout)
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        outside = [(str(tmp_path / "secret.bin"), 0, 2 * 8 * 8 * 3)]
        file.create_dataset("images", shape=(2, 8, 8, 3), dtype=np.uint8, external=outside)
    for name in ("link", "virtual", "raw"):
        refused(tmp_path / f"{name}.h5", "has no `images` of its own")
        assert imports.count(tmp_path / f"{name}.h5") == 0


def test_a_header_that_numpy_makes_nothing_of_is_refused(tmp_path):
    """numpy raises tokenize.TokenError there."""
    np.save(tmp_path / "a.npy", noise(2, 8, 8, 3))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"(2, 8", b"((((("))
    refused(tmp_path / "a.npy", "not readable")


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.fault(21)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_nothing_pickled_is_opened(tmp_path, ending):
    trap = np.array([Trap(tmp_path / "touched")], dtype=object)
    if ending == "npy":
        np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    else:
        np.savez(tmp_path / "a.npz", image=trap)
    refused(tmp_path / f"a.{ending}", "values are object, not uint8")
    assert not (tmp_path / "touched").exists()


@pytest.mark.fault(30)
def test_blue_first_is_noticed_and_turned_round_when_stated(tmp_path):
    real = noise(50, 8, 8, 3) // np.array([1, 2, 4], np.uint8)  # red most, blue least
    made = noise(50, 8, 8, 3, seed=1) // np.array([1, 2, 4], np.uint8)
    turned = made[..., ::-1]
    assert np.array_equal(imports.in_order(made, real, None, tmp_path), made)
    with pytest.raises(UserError, match=r"nearer to the real .* reversed order.* - state generator\.channel_order"):
        imports.in_order(turned, real, None, tmp_path)
    assert np.array_equal(imports.in_order(turned, real, "bgr", tmp_path), made)
    assert np.array_equal(imports.in_order(turned, real, "rgb", tmp_path), turned)
    grey = noise(5, 8, 8, 1)
    assert imports.in_order(grey, grey, None, tmp_path) is grey


def test_a_set_that_is_sorted_is_shuffled_so_that_its_first_images_are_of_all_kinds(tmp_path):
    made = np.repeat(np.arange(10, dtype=np.uint8), 100)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    np.save(tmp_path / "sorted.npy", made)
    empty = np.zeros(0, np.int64)
    real = shards.RealSet(noise(4, 8, 8, 1), np.zeros(4, int), np.zeros(4, np.uint8), empty, (), "toy", 0)
    given = {"kind": "ddpm", "source": "import", "path": str(tmp_path / "sorted.npy"), "channel_order": None}
    found = imports.load(Generator(**given, hub=None, revision=None, sha256=None), real)[:, 0, 0, 0]
    assert np.array_equal(np.sort(found), made[:, 0, 0, 0])
    assert np.bincount(found[:100], minlength=10).min() >= 3


@pytest.mark.fault(35)
def test_images_that_no_generator_may_have_seen_among_the_imported_are_refused_with_their_count(tmp_path):
    """One of each, in another order and with the channels first; train images are no fault of an import."""
    images = noise(8, 8, 8, 3)
    split = np.array([shards.TRAIN, shards.TRAIN, shards.VALIDATION, shards.TEST, *4 * [shards.LABELLED]], np.uint8)
    real = shards.RealSet(images, np.zeros(8, int), split, np.zeros(0, np.int64), (), "toy", 0)
    fresh = noise(5, 8, 8, 3, seed=1)
    given = {"kind": "ddpm", "source": "import", "path": str(tmp_path / "a.npy"), "channel_order": "rgb"}
    params = Generator(**given, hub=None, revision=None, sha256=None)
    np.save(tmp_path / "a.npy", np.concatenate([fresh, images[:2]]))
    assert len(imports.load(params, real)) == 7
    np.save(tmp_path / "a.npy", np.concatenate([fresh, images[[3, 0, 2]]]).transpose(0, 3, 1, 2))
    with pytest.raises(
        UserError, match=r"a\.npy: 2 of 8 are test, validation or spare images, the first is number 5"
    ) as e:
        imports.load(params, real)
    assert e.value.code == 2


@pytest.mark.fault(35)
def test_pictures_become_square_as_the_real_ones_did_or_a_held_out_one_would_look_like_another(tmp_path):
    for i in range(6):
        Image.fromarray(noise(9, 16, 3, seed=i)).save(tmp_path / f"{i}.png")
    images = pictures.read_all(pictures.find(tmp_path), 8, 3, "pad")
    split = np.array([shards.TRAIN, shards.TRAIN, shards.TRAIN, shards.TEST, shards.TRAIN, shards.VALIDATION], np.uint8)
    real = shards.RealSet(images, np.zeros(6, int), split, np.zeros(0, np.int64), (), "toy", 0, "pad")
    given = {"kind": "ddpm", "source": "import", "path": str(tmp_path), "channel_order": "rgb"}
    with pytest.raises(UserError, match="2 of 6 are test, validation or spare images"):
        imports.load(Generator(**given, hub=None, revision=None, sha256=None), real)
