"""Features of other pictures: those of the probes, with the pictures' names, whatever kind of file they go to."""

import json
import os
import signal
import time

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.core import files, store
from pipeline.core.errors import UserError
from pipeline.data import pictures, shards
from pipeline.measures import probes
from pipeline.networks import backbones
from pipeline.release import embed
from tests.toys import COMPUTE, forked

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def encoder(tmp_path):
    built = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.5] * 3, [0.25] * 3, 0, 12)
    backbones.save(built, tmp_path / "encoder", resize="pad")
    return tmp_path / "encoder"


def album(folder, n=7, size=(20, 14)):
    random = np.random.default_rng(0)
    (folder / "b c").mkdir(parents=True)
    for i in range(n):
        pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("b c" if i % 2 else ".") / f"picture {i}.png")
    return folder


def run(encoder, source, out, **options):
    return embed.embed(encoder, source, out, COMPUTE, **options)


def expected(encoder, folder):
    paths = pictures.find(folder)
    images = pictures.read_all(paths, 12, 3, "pad")
    names = [path.relative_to(folder).as_posix() for path in paths]
    return names, probes.features(backbones.load(encoder), images, COMPUTE).numpy()


@pytest.mark.parametrize("ending", ["npy", "h5", "parquet"])
def test_each_kind_of_file_has_the_features_of_the_probes_and_the_names(encoder, tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    folder, out = album(tmp_path / "album"), tmp_path / f"features.{ending}"
    assert run(encoder, folder, out) == (7, 32)
    if ending == "npy":
        names, found = json.loads((tmp_path / "features.names.json").read_text())["names"], np.load(out)
    elif ending == "h5":
        with h5py.File(out) as file:
            names, found = list(file["names"].asstr()), file["features"][:]
    else:
        table = pd.read_parquet(out)
        names, found = list(table["name"]), np.stack(table["feature"])
    their_names, theirs = expected(encoder, folder)
    assert names == their_names
    assert found.dtype == np.float32
    assert np.array_equal(found, theirs)


def test_images_of_an_hdf5_file_are_brought_to_the_encoders_size_and_channels(encoder, tmp_path):
    grey = np.random.default_rng(1).integers(0, 256, (5, 24, 24, 1), dtype=np.uint8)
    shards.write_arrays(tmp_path / "images.h5", {"images": grey}, {})
    assert run(encoder, tmp_path / "images.h5", tmp_path / "out.npy") == (5, 32)
    images = pictures.resized(grey, 12, 3)
    assert np.array_equal(np.load(tmp_path / "out.npy"), probes.features(backbones.load(encoder), images, COMPUTE))
    assert json.loads((tmp_path / "out.names.json").read_text())["names"] == ["0", "1", "2", "3", "4"]


def test_pictures_that_cannot_be_read_are_named_at_the_end_and_may_be_left_out(encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shards, "PART", 3)
    folder, out = album(tmp_path / "album"), tmp_path / "out.npy"
    before = expected(encoder, folder)
    for name in ("a.png", "z.jpg"):
        (folder / name).write_text("no picture")
    with pytest.raises(UserError) as caught:
        run(encoder, folder, out)
    assert all(name in str(caught.value) for name in ("a.png", "z.jpg"))
    assert not out.exists()
    seen, compute = [], probes.features
    monkeypatch.setattr(probes, "features", lambda *given: seen.append(len(given[1])) or compute(*given))
    assert run(encoder, folder, out, skip=True) == (7, 32)
    assert sum(seen) < 7  # parts without a fault were made before
    monkeypatch.setattr(probes, "features", compute)
    assert "2 of 9 pictures cannot be read and are left out" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.names.json").read_text())["names"] == before[0]
    assert np.allclose(np.load(out), before[1], rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="left out before"):
        run(encoder, folder, out)
    with pytest.raises(UserError, match=r"a\.png"):
        run(encoder, folder, out)


def test_what_is_no_picture_is_not_read_and_a_picture_that_may_not_be_opened_is_left_out(
    encoder, tmp_path, monkeypatch
):
    folder, seen, digest = album(tmp_path / "album"), [], files.sha256
    (folder / "film.mp4").write_bytes(b"0" * 100)
    (folder / "shut.png").write_text("no picture")

    def sha256(path):
        seen.append(path.name)
        if path.name == "shut.png":
            raise UserError("cannot read: Permission denied", path)
        return digest(path)

    monkeypatch.setattr(files, "sha256", sha256)
    assert run(encoder, folder, tmp_path / "out.npy", skip=True) == (7, 32)
    assert "shut.png" in seen
    assert "film.mp4" not in seen


def test_sixteen_bits_have_the_white_of_the_whole_folder(encoder, tmp_path, monkeypatch):
    """Parts are of one picture each; the first alone would be read as eight bits."""
    monkeypatch.setattr(shards, "PART", 1)
    folder = tmp_path / "deep"
    folder.mkdir()
    for i, top in enumerate((200, 4000)):
        Image.fromarray(np.linspace(0, top, 144).reshape(12, 12).astype(np.uint16)).save(folder / f"{i}.png")
    run(encoder, folder, tmp_path / "out.npy")
    assert np.allclose(np.load(tmp_path / "out.npy"), expected(encoder, folder)[1], rtol=1e-4, atol=1e-6)


def test_a_killed_run_goes_on_where_it_was(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PART", 2)
    folder, out, mark = album(tmp_path / "album"), tmp_path / "out.npy", tmp_path / "mark"

    def work():
        compute, done = probes.features, []

        def slow(*given):
            if len(done) == 2:
                mark.touch()
                time.sleep(60)
            done.append(1)
            return compute(*given)

        probes.features = slow
        run(encoder, folder, out)

    process = forked(work)
    while not mark.exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not out.exists()
    seen, compute = [], probes.features
    monkeypatch.setattr(probes, "features", lambda *given: seen.append(len(given[1])) or compute(*given))
    assert run(encoder, folder, out) == (7, 32)
    assert seen == [2, 1]  # of parts of 2, 2, 2 and 1
    monkeypatch.setattr(probes, "features", compute)
    assert np.allclose(np.load(out), expected(encoder, folder)[1], rtol=1e-4, atol=1e-6)  # of other batches


def test_names_that_are_no_text_are_told_all_the_same(encoder, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    Image.new("RGB", (12, 12)).save(folder / "plain.png")
    os.rename(os.fsencode(folder / "plain.png"), os.fsencode(folder) + b"/caf\xe9.png")
    for out in ("out.npy", "out.h5"):
        run(encoder, folder, tmp_path / out)
    assert json.loads((tmp_path / "out.names.json").read_text())["names"] == ["caf\\xe9.png"]
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file["names"].asstr()) == ["caf\\xe9.png"]


@pytest.mark.parametrize(("out", "said"), [("x.csv", "no kind of file for features"), ("x", "no kind of file")])
def test_another_kind_of_file_is_refused_before_any_work(encoder, tmp_path, out, said):
    with pytest.raises(UserError, match=said):
        run(encoder, album(tmp_path / "album"), tmp_path / out)
    assert store.entries() == []


def test_what_cannot_be_embedded_is_refused_and_never_advised_to_be_deleted(encoder, tmp_path):
    Image.new("RGB", (12, 12)).save(tmp_path / "cat.jpg")
    shards.write_arrays(tmp_path / "none.h5", {"images": np.empty((0, 4, 4, 1), np.uint8)}, {})
    shards.write_arrays(tmp_path / "long.h5", {"images": np.zeros((1, 4, 6, 1), np.uint8)}, {})
    for name, said in (
        ("cat.jpg", "give a folder of pictures, or an HDF5 file"),
        ("nowhere", "not found - give a folder"),
        ("none.h5", "holds no images"),
        ("long.h5", "4 x 6 pixels - give square ones"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            run(encoder, tmp_path / name, tmp_path / "out.h5")
        assert "delete" not in str(caught.value)
    with pytest.raises(UserError, match="is what is to be embedded"):
        run(encoder, tmp_path / "long.h5", tmp_path / "long.h5")


def test_an_encoder_whose_card_has_no_size_is_refused(tmp_path):
    built = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.5], [0.25], 0)
    backbones.save(built, tmp_path / "encoder")
    with pytest.raises(UserError, match="how large its images were"):
        run(tmp_path / "encoder", album(tmp_path / "album"), tmp_path / "out.npy")
    assert torch.is_tensor(built.mean)
