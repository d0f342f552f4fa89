"""A person's own pictures, and generated images that somebody else made, through the whole pipeline under real DVC."""

import json
import re

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.pipeline import clones

SIZE, CLASSES, EACH = 16, ("red", "rust", "wine"), 200


def images(n, seed):
    """n RGB images, mostly red: stripes across, down, or none, by number mod 3."""
    random = np.random.default_rng(seed)
    stripes = np.where(np.arange(SIZE) % 4 < 2, 40, -40)
    patterns = np.stack([np.tile(stripes, (SIZE, 1)), np.tile(stripes[:, None], (1, SIZE)), np.zeros((SIZE, SIZE))])
    levels = 110 + patterns[np.arange(n) % 3][..., None] + random.normal(0, 25, (n, SIZE, SIZE, 1))
    return (levels * [1.3, 0.8, 0.4]).clip(0, 255).astype(np.uint8)


def pictures(folder):
    """Class folders of the images above in every kind of file and mode that keeps their look."""
    for i, image in enumerate(images(EACH * len(CLASSES), 0)):
        path = folder / CLASSES[i % 3] / f"{i:04}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image)
        if i % 5 == 0:
            picture.save(path.with_suffix(".jpg"), quality=95)
        elif i % 5 == 1:
            picture.convert("RGBA").save(path.with_suffix(".png"))
        elif i % 5 == 2:
            picture.quantize(64).save(path.with_suffix(".png"))
        elif i % 5 == 3:
            picture.resize((2 * SIZE, 3 * SIZE)).save(path.with_suffix(".webp"), lossless=True)
        else:
            picture.convert("CMYK").save(path.with_suffix(".tiff"))


def generated(clone):
    folder = clone / "data/generated/inflation"
    return np.concatenate([h5py.File(path)["images"][:] for path in sorted(folder.glob("*.h5"))])


def alike(images):
    """The images as a set, whatever their order."""
    return {image.tobytes() for image in images}


@pytest.mark.slow
def test_real_images_stand_in_for_generated_ones_and_every_number_says_so(small, tmp_path):
    clone = clones.copy(small, tmp_path / "clone")
    clones.edit(clone, generator__source="real", dataset__ceiling_size="100")
    output = clones.run(clone, "dvc", "repro", code=None)
    n = int(re.search(r"dataset.ceiling_size: 100 < (\d+) real images that stand in", output)[1])
    clones.edit(clone, dataset__ceiling_size=str(n + 7))
    clones.run(clone, "dvc", "repro")
    with h5py.File(clone / "data/real/images.h5") as file:
        real, split, labels = file["images"][:], file["split"][:], file["labels"][:]
    assert np.array_equal(generated(clone)[:n], real[split == 5][:n])
    assert np.bincount(labels[split == 5][:n]).min() >= n // 10 - 1
    assert not alike(generated(clone)) & alike(real[split != 5])
    for name in ("generate", "quality", "pretrain", "linear_eval"):
        assert json.loads((clone / f"metrics/{name}.json").read_text())["ceiling"] == 1
    for name in ("quality", "linear_eval"):
        assert "REAL IMAGES" in (clone / f"metrics/{name}.protocol.json").read_text()
    assert "REAL IMAGES" in clones.run(clone, "python", "-m", "pipeline", "table")


@pytest.mark.slow
def test_own_pictures_and_imported_images_go_through_the_whole_pipeline(small, tmp_path):
    clone = clones.copy(small, tmp_path / "clone")
    pictures(clone / "data/mine")
    made = images(500, 1)
    np.savez(clone / "data/adainf.npz", image=made[..., ::-1])  # blue first, as AdaInf's script writes it
    np.save(clone / "data/clsp.npy", made.reshape(100, 5, SIZE, SIZE, 3))
    sizes = {
        "train_size": 400,
        "validation_size": 50,
        "labelled_size": 100,
        "image_size": SIZE,
        "resize": "crop",
        "test_size": 100,
    }
    sizes["spare_size"] = "40"
    clones.edit(clone, **{f"dataset__{name}": str(value) for name, value in sizes.items()})
    clones.edit(clone, quality__images="25")
    clones.edit(clone, dataset__name="folder", dataset__path="data/mine", dataset__channels="3", augment__form="colour")
    clones.edit(clone, generator__source="import", generator__path="data/adainf.npz")
    output = clones.run(clone, "dvc", "repro", code=None)
    assert "generator: data/adainf.npz: mean colour" in output
    assert "state generator.channel_order: bgr, or rgb" in output
    assert not (clone / "data/generator").exists()

    clones.edit(clone, generator__path="data/clsp.npy")
    clones.run(clone, "dvc", "repro", "generate")
    assert len(generated(clone)) == 400
    assert alike(generated(clone)) <= alike(made)

    clones.edit(clone, generator__channel_order="bgr", generator__path="data/adainf.npz")
    clones.run(clone, "dvc", "repro")
    assert len(generated(clone)) == 400
    assert alike(generated(clone)) <= alike(made)
    assert json.loads((clone / "metrics/prepare.json").read_text())["test"] == 100
    judged = json.loads((clone / "metrics/linear_eval.json").read_text())
    assert judged["pixels"] > 50  # three classes

    clones.counts(clone)
    clones.edit(clone, inflation__ratio="2.0")
    assert "asks for 800 images and data/generator has 500 (import)" in clones.run(clone, "dvc", "repro", code=None)
    clones.edit(clone, inflation__ratio="1.0")
    clones.run(clone, "dvc", "repro")

    assert "Data and pipelines are up to date." in clones.run(clone, "dvc", "status")
    victim = next((clone / "data/mine/rust").glob("*.jpg"))
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1
    victim.write_bytes(content)
    assert "data/mine" in clones.run(clone, "dvc", "status")
