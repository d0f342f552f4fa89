"""CIFAR-10 for a rung: JPEG copies in a folder of the user's, or at toy sizes random images."""

import lzma
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from bench.gpu.rung import Setting
from pipeline.core import access, seeds
from pipeline.core.errors import UserError
from pipeline.data import datasets, shards
from pipeline.params import reader

ARCHIVE = "cifar10-jpeg.tar.xz"  # of train/ and test/, a folder a class in each


def refuse_absent(data: Path | None) -> None:
    """A UserError where there are no images."""
    if data is None:
        raise UserError("this rung wants CIFAR-10", "--data", f"name a folder with {ARCHIVE} or its train/ and test/")
    if not (data / "train").is_dir() and not (data / ARCHIVE).is_file():
        raise UserError(f"holds neither {ARCHIVE} nor train/", data, "name the folder that does")


@cache
def cifar10(setting: Setting, train: int, validation: int = 0) -> shards.RealSet:
    """The set with so many of its 50,000 images to train on and to validate; the others of them are LABELLED.

    At toy sizes both numbers are divided by 250.
    """
    sizes = {"train_size": train, "validation_size": validation, "spare_size": 0}
    sizes["labelled_size"] = 50_000 - validation
    if setting.toy:
        return noise({name: size // 250 for name, size in sizes.items()})
    refuse_absent(setting.data)
    kind = {"name": "folder", "image_size": 32, "channels": 3, "test_size": None}
    with tempfile.TemporaryDirectory(prefix="leaven-") as place:
        folder = setting.data
        if not (folder / "train").is_dir():
            folder, archive = Path(place), folder / ARCHIVE
            damage = tarfile.TarError, lzma.LZMAError, EOFError
            with access.reading(archive, "not readable", "copy it again", *damage), tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
        return datasets.load(reader.load().dataset.model_copy(update={**kind, **sizes, "path": str(folder)}))


def noise(sizes: dict[str, int]) -> shards.RealSet:
    """Random images of ten classes, split as `datasets` splits."""
    random, (n, n_test) = np.random.default_rng(seeds.key(0, "toy images")), (200, 60)
    images = random.integers(0, 256, (n + n_test, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(n + n_test) % 10
    parts = datasets.split(reader.load().dataset.model_copy(update=sizes), labels[:n])
    parts.append((shards.TEST, np.arange(n, n + n_test)))
    rows = np.concatenate([found for _, found in parts])
    split = np.concatenate([np.full(len(found), code, np.uint8) for code, found in parts])
    classes = tuple(str(k) for k in range(10))
    return shards.RealSet(images[rows], labels[rows], split, rows, classes, "noise", sizes["labelled_size"])
