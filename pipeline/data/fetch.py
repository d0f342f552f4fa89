"""Get a published data set once, outside every stage; its checksum is verified."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.error import URLError

import numpy as np
from PIL import Image

from pipeline.core import files
from pipeline.core.errors import UserError

TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"


def _torchvision(kind: str, folder: Path, **which: str) -> Path:
    """torchvision's own download of a set, which checks and unpacks it."""
    from torchvision import datasets

    getattr(datasets, kind)(str(folder), download=True, **which)
    return folder


def _svhn(folder: Path) -> Path:
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import download_url

    for part in ("train", "test"):  # SVHN(download=True) would also read it, which needs scipy
        url, name, md5 = SVHN.split_list[part]
        download_url(url, str(folder), name, md5)
    return folder


def _tiny_imagenet(folder: Path) -> Path:
    from torchvision.datasets.utils import download_and_extract_archive

    url, md5 = TINY_IMAGENET
    download_and_extract_archive(url, str(folder), md5=md5)
    return folder / "tiny-imagenet-200"


def _digits(folder: Path) -> Path:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn includes, as pictures in class folders."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as fault:
        raise UserError("the digits come with scikit-learn", folder, "pip install scikit-learn") from fault
    digits = load_digits()
    grey = (digits.images * 255 / 16).round().astype(np.uint8)  # of 17 levels
    for i, (image, label) in enumerate(zip(grey, digits.target, strict=True)):
        path = folder / str(label) / f"{i:04}.png"
        if not path.exists():
            files.write(path, lambda temporary, image=image: Image.fromarray(image).save(temporary, format="PNG"))
    return folder


SETS: dict[str, Callable[[Path], Path]] = {
    "cifar10": partial(_torchvision, "CIFAR10"),
    "cifar100": partial(_torchvision, "CIFAR100"),
    "stl10": partial(_torchvision, "STL10", split="test"),  # downloads and unpacks all splits
    "svhn": _svhn,
    "tiny-imagenet": _tiny_imagenet,
    "digits": _digits,
}


def fetch(name: str, under: Path = Path("data")) -> Path:
    """Download and verify a set; returns the folder for dataset.path. Nothing complete is downloaded again."""
    if name not in SETS:
        raise UserError(f"no set {name!r} to fetch", remedy=f"there are {', '.join(SETS)}")
    folder = under / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return SETS[name](folder)
    except (URLError, TimeoutError, ConnectionError) as fault:
        raise UserError(f"cannot be reached: {fault}", name, "fetch the archive elsewhere and put it there") from fault
    except OSError as fault:
        raise UserError(str(fault), folder, "make room, or the folder writable") from fault
    except RuntimeError as fault:  # torchvision's for a checksum that is wrong
        raise UserError(str(fault), folder, "delete the archive and try again") from fault
