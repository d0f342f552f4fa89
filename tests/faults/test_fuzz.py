"""Files with random damage: the reader refuses them in one line, or reads what is there; no traceback, no wait."""

import contextlib
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.core import files, store
from pipeline.core.errors import UserError
from pipeline.data import imports, pictures, shards
from pipeline.engine import checkpoint
from pipeline.generators import cards, ddpm, diffusers_folder, pretrained
from pipeline.networks import backbones
from pipeline.params import reader
from pipeline.params.schema import Generator
from pipeline.study import cells, rows
from tests.faults.edits import PLACES, apply, edits, in_time
from tests.pipeline.clones import ROOT
from tests.study.toy import STUDY
from tests.toys import ddpm_params

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
# FUZZ=5000 python -m pytest tests/faults/test_fuzz.py   looks further than a test run has the time for
EXAMPLES = settings(max_examples=int(os.environ.get("FUZZ", "15")), suppress_health_check=list(HealthCheck))


@contextlib.contextmanager
def refused_or_read(path):
    """The block reads the file in time, or a UserError says why not: one line that names it, exit code 2."""
    try:
        with in_time():
            yield
    except UserError as fault:
        if fault.code != 2 or "\n" in str(fault) or str(path) not in str(fault):
            raise AssertionError("no line as it should be") from fault


def hdf5(path, **how):
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=IMAGES, **how)


IMPORTED = {
    "plain.npy": lambda path: np.save(path, IMAGES),
    "plain.npz": lambda path: np.savez(path, image=IMAGES),
    "packed.npz": lambda path: np.savez_compressed(path, image=IMAGES),
    "plain.h5": hdf5,
    "packed.h5": lambda path: hdf5(path, chunks=(2, 8, 8, 3), compression="gzip"),
}
PICTURES = {
    f"{mode}.{ending}": lambda path, mode=mode: Image.fromarray(IMAGES[0]).convert(mode).save(path)
    for mode, ending in [("RGB", "png"), ("P", "png"), ("RGB", "jpg"), ("RGB", "gif"), ("RGB", "webp"), ("RGB", "tif")]
}
PICTURES |= {
    "deep.png": lambda path: Image.fromarray(IMAGES[0, ..., 0].astype(np.uint16) << 4).save(path),
    "packed.tif": lambda path: Image.fromarray(IMAGES[0]).save(path, compression="tiff_lzw"),
    "phone.jpg": lambda path: Image.fromarray(IMAGES[0]).save(path, "MPO", save_all=True),
}


@pytest.mark.parametrize("name", IMPORTED)
def test_imported_images(tmp_path, name):
    path = tmp_path / name
    IMPORTED[name](path)
    whole = path.read_bytes()
    assert np.array_equal(imports.read(path, 8, 3), IMAGES)

    @EXAMPLES
    @given(edits())
    def harmed(changes):
        path.write_bytes(apply(whole, changes))
        with refused_or_read(path):
            found = imports.read(path, 8, 3)
            assert found.dtype == np.uint8
            assert found.shape[1:] == (8, 8, 3)
            if name.endswith(".npz"):  # which has checksums
                assert np.array_equal(found, IMAGES[: len(found)])

    harmed()


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(tmp_path, name):
    path = tmp_path / name
    PICTURES[name](path)
    whole = path.read_bytes()

    @EXAMPLES
    @given(edits())
    def harmed(changes):
        path.write_bytes(apply(whole, changes))
        with refused_or_read(path):
            assert pictures.read_all([path], 8, 3).shape == (1, 8, 8, 3)

    harmed()


def real_set(folder):
    labels, split = np.array([0, 1, 0, -1, 1, 0]), np.array([0, 0, 1, 1, 2, 2], np.uint8)
    shards.write_real(folder, shards.RealSet(IMAGES, labels, split, np.arange(6), ("a", "b"), "toy", 2))

    def read():
        found = shards.read_real(folder)
        assert np.array_equal(found.images, IMAGES)
        assert np.array_equal(found.labels, labels)
        assert np.array_equal(found.split, split)
        assert (found.classes, found.source, found.labelled_size) == (("a", "b"), "toy", 2)

    return read


def generated_set(folder):
    for k in range(2):
        shards.write_arrays(folder / shards.shard_name(k), {"images": IMAGES[3 * k : 3 * k + 3]}, {"shard": k})
    store.seal(folder, [shards.shard_name(k) for k in range(2)], {"n": 5})
    return lambda: np.testing.assert_array_equal(shards.read_generated(folder), IMAGES[:5])


def encoder(folder):
    made = backbones.build(backbones.resnet(2, [1, 1, 1, 1]), [0.25, 0.5, 0.75], [0.1, 0.2, 0.3], 7)
    backbones.save(made, folder, method="simclr")

    def read():
        found = backbones.load(folder)
        assert all(torch.equal(a, b) for a, b in zip(made.parameters(), found.parameters(), strict=True))
        assert (torch.equal(found.mean, made.mean), torch.equal(found.std, made.std)) == (True, True)
        assert found.card["method"] == "simclr"

    return read


def diffusion_model(folder):
    """As a stranger gives it, without digests: what can be loaded can be sampled."""
    own = ddpm_params(timesteps=100)
    ddpm.save(ddpm.unet(own, 8, 1), ddpm.scheduler(own), folder)

    given = {"kind": "ddpm", "source": "pretrained", "path": str(folder), "channel_order": None}
    params = Generator(**given, hub=None, revision=None, sha256=None)

    def read():
        pretrained.load(params, (8, 8), 1)
        model, noise = ddpm.load(folder)
        assert isinstance(model, UNet2DModel)
        assert model.config.out_channels == model.config.in_channels
        assert 1 <= noise.config.num_train_timesteps <= diffusers_folder.TIMESTEPS

    return read


def generator(folder):
    """data/generator, by its card."""
    diffusion_model(folder)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    card = {path.relative_to(folder).as_posix(): files.sha256(path) for path in paths}
    files.write_sealed(folder / "card.json", {"kind": "ddpm", "source": "train", "files": card})

    def read():
        assert cards.of_generator(folder)["files"] == card

    return read


FOLDERS = [real_set, generated_set, encoder, diffusion_model, generator]


@pytest.mark.slow
@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_folders(tmp_path, make):
    """Any of their files."""
    read = make(tmp_path)
    read()
    whole = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    @EXAMPLES
    @given(st.sampled_from(list(whole)), edits())
    def harmed(path, changes):
        path.write_bytes(apply(whole[path], changes))
        try:
            with refused_or_read(tmp_path):
                read()
        finally:
            path.write_bytes(whole[path])

    harmed()


def test_checkpoints(tmp_path):
    path, rows = tmp_path / "checkpoint.pt", [{"step": 3, "loss": 0.5}]
    torch.manual_seed(0)
    saved = torch.nn.Linear(3, 2)
    checkpoint.save(path, "work", 3, {"module": saved}, rows)
    whole = path.read_bytes()

    @EXAMPLES
    @given(edits())
    @example([("cut", 0, 1, b"a")])
    def harmed(changes):
        path.write_bytes(apply(whole, changes))
        found = torch.nn.Linear(3, 2)
        with refused_or_read(path):
            assert checkpoint.load(path, "work", {"module": found}) == (3, rows)
            assert torch.equal(found.weight, saved.weight)
            assert torch.equal(found.bias, saved.bias)

    harmed()


def test_studies(tmp_path, monkeypatch):
    base = reader.load(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)

    path = Path("studies/toy.yaml")
    path.parent.mkdir()

    @EXAMPLES
    @given(edits())
    @example([("number", STUDY.index("seeds: ") * PLACES // len(STUDY), 11, b"a")])
    @example([("flip", STUDY.index("smoke") * PLACES // len(STUDY) + 1, 1, b"a")])
    def harmed(changes):
        path.write_bytes(apply(STUDY.encode(), changes))
        found = []
        with refused_or_read(path):
            found = cells.load("toy").cells[:3]
        for cell in found:
            with refused_or_read(cell.part):
                cells.resolve(cell, base)

    harmed()


def test_memories_of_studies(tmp_path):
    path, whole = tmp_path / "memory.csv", (ROOT / "studies/pilot.csv").read_bytes()

    @EXAMPLES
    @given(edits())
    def harmed(changes):
        path.write_bytes(apply(whole, changes))
        with refused_or_read(path):
            rows.read(path)

    harmed()
