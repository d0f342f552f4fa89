"""CIFAR-10 for a rung: JPEG copies in an archive of the user's, or at toy sizes random images."""

import lzma
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from bench.gpu.rung import Setting, defaults
from pipeline.core import access
from pipeline.core.errors import UserError
from pipeline.data import shards, splits

ARCHIVE = "cifar10-jpeg.tar.xz"  # of train/CLASS/NAME.jpg and test/CLASS/NAME.jpg


def refuse_absent(data: Path | None) -> None:
    """A UserError where there are no images."""
    if data is None:
        raise UserError("this rung wants CIFAR-10", "--data", f"name a folder with {ARCHIVE}")
    if not (data / ARCHIVE).is_file():
        raise UserError("not found", data / ARCHIVE, "name the folder that holds it")


@cache
def cifar10(setting: Setting, train: int, validation: int = 0) -> shards.RealSet:
    """The set with so many of its 50,000 images to train on and to validate; the others of them are LABELLED.

    At toy sizes both numbers are divided by 250.
    """
    if setting.toy:
        (parts, classes), train, validation = noise(), train // 250, validation // 250
    else:
        refuse_absent(setting.data)
        parts, classes = unpacked(setting.data / ARCHIVE)
    (images, labels), test = parts
    sizes = {"train_size": train, "validation_size": validation, "spare_size": 0, "ceiling_size": 0}
    sizes["labelled_size"] = len(labels) - validation
    found, _ = splits.split(defaults().dataset.model_copy(update=sizes), labels)
    rows = np.concatenate([some for _, some in found] + [len(labels) + np.arange(len(test[1]))])
    codes = [*found, (shards.TEST, test[1])]
    return shards.RealSet(
        images=np.concatenate([images, test[0]])[rows],
        labels=np.concatenate([labels, test[1]])[rows],
        split=np.concatenate([np.full(len(some), code, np.uint8) for code, some in codes]),
        orig_index=rows,
        classes=tuple(classes),
        source="cifar10",
        labelled_size=sizes["labelled_size"],
    )


def unpacked(archive: Path) -> tuple[list[shards.Part], list[str]]:
    """Train and test images in the order of their names, and the classes. In memory: 60,000 files take minutes."""
    damage = tarfile.TarError, lzma.LZMAError, EOFError
    with access.reading(archive, "not readable", "copy it again", *damage), tarfile.open(archive) as packed:
        read = {m.name: np.asarray(Image.open(packed.extractfile(m)).convert("RGB")) for m in packed if m.isfile()}
    names, classes = sorted(read), sorted({name.split("/")[-2] for name in read})
    parts = [[name for name in names if name.split("/")[-3] == part] for part in ("train", "test")]
    numbers = [np.array([classes.index(name.split("/")[-2]) for name in part]) for part in parts]
    return [(np.stack([read[name] for name in part]), y) for part, y in zip(parts, numbers, strict=True)], classes


def noise() -> tuple[list[shards.Part], list[str]]:
    """Random images of ten classes, 200 and 60."""
    random = np.random.default_rng(0)
    sizes = {n: random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for n in (200, 60)}
    return [(images, np.arange(n) % 10) for n, images in sizes.items()], [str(k) for k in range(10)]
