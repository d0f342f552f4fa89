"""Files with random damage: the reader refuses them in one line, or reads what is there; no traceback, no wait."""

import contextlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from PIL import Image

from pipeline import checkpoint, imports, pictures
from pipeline.errors import UserError
from pipeline.params import reader
from pipeline.study import cells, rows
from tests.faults.edits import PLACES, apply, edits, in_time
from tests.pipeline.clones import ROOT
from tests.study.toy import STUDY

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
EXAMPLES = settings(max_examples=150, suppress_health_check=list(HealthCheck))


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
    "plain.npz": lambda path: np.savez(path, image=IMAGES),
    "packed.npz": lambda path: np.savez_compressed(path, image=IMAGES),
    "plain.h5": hdf5,
    "packed.h5": lambda path: hdf5(path, chunks=(2, 8, 8, 3), compression="gzip"),
}
PICTURES = {
    f"{mode}.{ending}": lambda path, mode=mode: Image.fromarray(IMAGES[0]).convert(mode).save(path)
    for mode, ending in [("RGB", "png"), ("P", "png"), ("RGB", "jpg"), ("RGB", "gif"), ("RGB", "webp"), ("RGB", "tif")]
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
            assert pictures.read(path, 8, 3).shape == (8, 8, 3)

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
    shutil.copytree(ROOT / "presets", "presets")
    path = Path("studies/toy.yaml")
    path.parent.mkdir()

    @EXAMPLES
    @given(edits())
    @example([("number", STUDY.index("seeds: ") * PLACES // len(STUDY), 11, b"a")])
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
