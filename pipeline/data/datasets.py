"""Real images from their source: uint8 NHWC + labels + split. Nothing is downloaded here."""

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from pipeline.core import access, files, sources, store
from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.data import folders, pictures, splits
from pipeline.data.labels import SHOWN
from pipeline.data.shards import CEILING, TEST, Part, RealSet, among, digests, in_parts, read_array
from pipeline.params.schema import Dataset

# sha256 of the four decompressed files of Fashion-MNIST, as Zalando Research published them
# (github.com/zalandoresearch/fashion-mnist). The archives here are recompressed, so torchvision's MD5s do not apply.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

TINY_IMAGENET = (64, 3, 100_000, 10_000)  # pixels, channels, pictures in train/ and in val/


class Source(NamedTuple):
    """A whole set: training images, test images, classes.

    rows: of the training and of the test images, in the folder's own order, where one list of pictures was split.
    alone: bool (N,), the training images that equal no other; None of a published set, whose split others report on.
    """

    train: Part
    test: Part
    classes: list[str]
    rows: tuple[np.ndarray, np.ndarray] | None = None
    alone: np.ndarray | None = None


def load(params: Dataset, content: dict[str, str] | None = None) -> RealSet:
    """The images that take part: train, labelled, validation, spare and ceiling ones, the official test set.

    content: files.tree_digests of `params.path`, where the caller has it already.
    Rows are stored in this order; train and labelled rows in one stratified order. Of pictures that are there twice
    none is a validation, spare or drawn test image; a ceiling image equals no other at all. If training images are
    test images too, a folder with train/ and test/ is refused; of published sets, whose split others report on, a
    message counts them.
    """
    path = Path(params.path)
    if not path.exists():
        raise UserError("not found", path, "put the data set there, or set the path to where it is")
    source = _folder(params, content) if params.name == "folder" else _READERS[params.name](params)
    (train_images, train_labels), (test_images, test_labels) = source.train, source.test
    parts, left = splits.split(params, train_labels, source.alone)
    kept = np.concatenate([rows for _, rows in parts])
    if params.ceiling_size:
        left = left[_fresh(train_images[left], train_images[kept], test_images)]
        if params.ceiling_size > len(left):
            what = f"ceiling_size {params.ceiling_size} > {len(left)} images left that equal no other"
            raise UserError(what, params.path, "lower it")
        parts.append((CEILING, left[: params.ceiling_size]))
        kept = np.concatenate([kept, parts[-1][1]])
    copies = int(among(train_images[kept], test_images).sum())
    if copies:
        log(f"{copies:,} images of {params.name} are test images too: the published split has them so")
    train_rows, test_rows = source.rows or (np.arange(len(train_labels)), np.arange(len(test_labels)))
    codes = [*parts, (TEST, test_labels)]
    return RealSet(
        images=np.concatenate([train_images[kept], test_images]),
        labels=np.concatenate([train_labels[kept], test_labels]),
        split=np.concatenate([np.full(len(rows), code, np.uint8) for code, rows in codes]),
        orig_index=np.concatenate([train_rows[kept], test_rows]),
        classes=tuple(source.classes),
        source=params.name,
        labelled_size=params.labelled_size,
        resize=params.resize,
    )


def _fresh(images: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Which images (N, H, W, C) equal none of the others, nor one before them: bool (N,)."""
    known = {digest for part in others for digest in digests(part)}
    own = digests(images)
    first = {digest: k for k, digest in reversed(list(enumerate(own)))}
    return np.array([digest not in known and first[digest] == k for k, digest in enumerate(own)], bool)


def _fashion_mnist(params: Dataset) -> Source:
    found = []
    for name, digest in FASHION_MNIST.items():
        archive = Path(params.path) / "raw" / f"{name}.gz"
        with access.reading(archive, "not readable", "restore it: git checkout -- data", EOFError, zlib.error):
            payload = gzip.decompress(archive.read_bytes())
        if hashlib.sha256(payload).hexdigest() != digest:
            raise UserError("its content is not Fashion-MNIST's (sha256)", archive, "restore it: git checkout -- data")
        found.append(np.frombuffer(payload, np.uint8, offset=16 if "images" in name else 8))  # after the idx header
    train, test = ((x.reshape(-1, 28, 28, 1), y.astype(np.int64)) for x, y in (found[:2], found[2:]))
    return Source(train, test, list(_CLOTHES))


_TORCHVISION = {  # set -> its class in torchvision, which of its images are ours to learn from, and which to test
    "cifar10": ("CIFAR10", {"train": True}, {"train": False}),
    "cifar100": ("CIFAR100", {"train": True}, {"train": False}),
    "stl10": ("STL10", {"split": "train+unlabeled"}, {"split": "test"}),  # 5,000 with labels, then 100,000 without
    "svhn": ("SVHN", {"split": "train"}, {"split": "test"}),  # not the half million easier images of `extra`
}


def _torchvision(params: Dataset) -> Source:
    """A set as torchvision reads it, after it has checked the MD5s."""
    from torchvision import datasets

    name, *halves = _TORCHVISION[params.name]
    kind, parts = getattr(datasets, name), []
    for which in halves:
        try:
            with access.read_faults(params.path):
                found = kind(params.path, **which)
        except ImportError as fault:
            needed = (getattr(fault, "name", None) or "scipy").partition(".")[0]  # scipy: for SVHN's MATLAB files
            raise UserError(f"reading {params.name} needs {needed}", params.path, f"pip install {needed}") from fault
        except RuntimeError as fault:
            archive = getattr(kind, "filename", None) or f"{which['split']}_32x32.mat"
            remedy = f"`leaven fetch {params.name}` fetches it, or put {archive} there, unpacked if it is an archive"
            raise UserError(f"{params.name} is not there or damaged (MD5)", params.path, remedy) from fault
        images = found.data.transpose(0, 2, 3, 1) if found.data.shape[1] == 3 else found.data
        labels = found.targets if hasattr(found, "targets") else found.labels
        parts.append((images, np.asarray(labels, np.int64)))
    # SVHN's classes are digits; STL-10's names are in a file without a checksum, which may be missing
    return Source(*parts, getattr(found, "classes", [str(k) for k in range(10)]))


def _tiny_imagenet(params: Dataset) -> Source:
    """The layout of tiny-imagenet-200.zip: train/CLASS/images/, and val/ with its annotations, the test set."""
    root = Path(params.path)
    notes = root / "val" / "val_annotations.txt"
    if not notes.exists():
        raise UserError("not found", notes, "unpack tiny-imagenet-200.zip and set the path to its folder")
    size, channels, *counts = TINY_IMAGENET
    train, test = pictures.find(root / "train", root), pictures.find(root / "val" / "images", root)
    if [len(train), len(test)] != counts:
        found = f"{len(train):,} pictures in train/, {len(test):,} in val/images/"
        raise UserError(f"{found}, not {counts[0]:,} and {counts[1]:,}", root, "unpack tiny-imagenet-200.zip again")
    with access.reading(notes, "not readable", "unpack tiny-imagenet-200.zip again", UnicodeDecodeError):
        lines = notes.read_text(encoding="utf-8").splitlines()
    class_of = dict(line.split("\t")[:2] for line in lines if "\t" in line)
    train = {path: path.relative_to(root / "train").parts[0] for path in train}
    test = {path: class_of.get(path.name) for path in test}
    classes = sorted(set(train.values()))
    for path, name in test.items():
        if name not in classes:
            raise UserError(f"says {name} of {path.name}, which is no class of train/", notes)
    return _pictured(train, test, classes, pictures.read_all([*train, *test], size, channels))


def _folder(params: Dataset, content: dict[str, str] | None) -> Source:
    """Pictures in class folders, or without classes; below train/ and test/, or with test images drawn by the seed."""
    listing = folders.read(params)
    pictured = listing.train | (listing.test or {})
    images_of_all = decoded(params, list(pictured), content)
    source = _pictured(listing.train, listing.test or {}, listing.classes, images_of_all)
    (images, labels), test = source.train, source.test
    alone = without_copy(images)
    if len(alone) > alone.sum():
        log(f"{(~alone).sum():,} of {len(alone):,} pictures equal another: they are for learning alone, none judges")
    if listing.test:
        refuse_copies(images_of_all, list(pictured), len(listing.train), params.path)
        return source._replace(alone=alone)
    order = splits.stratified_order(labels, params.seed)
    judging = alone & (labels >= 0 if (labels >= 0).any() else True)
    drawn = order[judging[order]][: params.test_size]
    if len(drawn) < params.test_size:
        named = "" if (labels >= 0).all() or (labels < 0).all() else "with a label and "
        what = f"test_size {params.test_size} > {len(drawn)} pictures {named}without a copy"
        raise UserError(what, params.path, "lower it, or remove the copies")
    rows = np.setdiff1d(order, drawn), np.sort(drawn)
    (train, test) = ((images[part], labels[part]) for part in rows)
    return Source(train, test, source.classes, rows, alone[rows[0]])


def without_copy(images: np.ndarray) -> np.ndarray:
    """Which images (N, H, W, C) equal no other byte for byte: bool (N,)."""
    _, which, count = np.unique(digests(images), return_inverse=True, return_counts=True)
    return count[which] == 1


def refuse_copies(images: np.ndarray, paths: list[Path], train: int, root: str) -> None:
    """A UserError that names every picture of train/, the first so many, whose pixels are those of one of test/."""
    found = list(zip(digests(images), paths, strict=True))
    twins = dict(found[train:])
    pairs = [(path, twins[digest]) for digest, path in found[:train] if digest in twins]
    if not pairs:
        return
    names = [" = ".join(repr(str(path.relative_to(root))) for path in pair) for pair in pairs]
    what = f"{len(pairs):,} images to learn from are test images too: {', '.join(names[:SHOWN])}"
    if len(pairs) > SHOWN:
        what += f", ...; all of them: {store.note('copies.txt', names)}"
    raise UserError(what, root, "remove one of each pair, or the accuracy is of what was seen")


def decoded(params: Dataset, paths: list[Path], content: dict[str, str] | None = None) -> np.ndarray:
    """uint8 (N, H, W, C) of these pictures of a folder: from the store, where they were read before, or read; what was
    read before an interruption is kept. UserErrors name all that cannot be read.

    Sizes of the splits, the seed and the table of labels may change, and no picture is decoded again.
    """
    root = Path(params.path)
    known = _digests(root, paths, content or files.tree_digests(root))
    how = params.image_size, params.channels, params.resize
    decided = {
        "pictures": files.joint_sha256(known),
        "how": how,
        "code": sources.digest("data/pictures"),
        "versions": {name: version(name) for name in ("numpy", "pillow")},
    }
    refused: list[UserError] = []
    odd: dict[str, list[Path]] = {}

    def begin() -> Callable[[range, tqdm], dict[str, np.ndarray]]:
        white = pictures.white_of(paths, params.channels)

        def make(rows: range, progress: tqdm) -> dict[str, np.ndarray]:
            some = paths[rows.start : rows.stop]
            images, faults = pictures.read_each(some, *how, progress, white, odd)
            if not _digests(root, some, {}).items() <= known.items():
                raise UserError("changed while it was read", root, "run the same command again", code=1)
            refused.extend(faults.values())
            return {"images": images, "whole": np.array([not faults])}

        return make

    made = in_parts("pictures", decided, len(paths), "reading pictures", "picture", begin)
    pictures.tell_odd(odd)
    torn = [path for path in made if not path.exists() or not read_array(path, "whole").all()]
    for path in torn:  # or they would not be tried again; another process may be first
        path.unlink(missing_ok=True)
    if torn:
        raise pictures.refusal(refused) if refused else UserError("could not be read before", root, "run it once more")
    images, row = np.empty((len(paths), params.image_size, params.image_size, params.channels), np.uint8), 0
    for path in made:  # not all of them twice in memory
        part = read_array(path, "images")
        images[row : row + len(part)], row = part, row + len(part)
    return images


def _digests(root: Path, paths: list[Path], known: dict[str, str]) -> dict[str, str]:
    """Name -> digest of some pictures. known: of what one walk found, which enters what links lead to but once."""
    names = [path.relative_to(root).as_posix() for path in paths]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(lambda name, path: known.get(name) or files.sha256(path), names, paths)
        return dict(zip(names, found, strict=True))


def _pictured(train: dict[Path, str], test: dict[Path, str], classes: list[str], images: np.ndarray) -> Source:
    """The set of these pictures, path -> class each, and their images, those of `train` first."""
    parts = zip(np.split(images, [len(train)]), (numbers(part, classes) for part in (train, test)), strict=True)
    return Source(*parts, [name or "no class" for name in classes])


def numbers(pictured: dict[Path, str], classes: list[str]) -> np.ndarray:
    """Class numbers, int64; -1 of what has no label."""
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    return np.array([number[name] for name in pictured.values()], np.int64)


_READERS: dict[str, Callable[[Dataset], Source]] = {
    "fashion-mnist": _fashion_mnist,
    **dict.fromkeys(_TORCHVISION, _torchvision),
    "tiny-imagenet": _tiny_imagenet,
}
