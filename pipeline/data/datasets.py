"""Real images from their source: uint8 NHWC + labels + split. Nothing is downloaded here.

The split depends on the seed and the labels alone. Validation images are taken first, so they do not depend on
`train_size`. Train images are a prefix of one stratified order, so that a larger set contains a smaller one. If only
some images have labels (STL-10), validation and the probe's images are taken from those.
"""

import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core import files, seeds
from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.data import pictures
from pipeline.data.shards import LABELLED, SPARE, TEST, TRAIN, VALIDATION, Part, RealSet, among
from pipeline.params.schema import Dataset, TransferSet

# sha256 of the four decompressed files of Fashion-MNIST, as Zalando Research published them
# (github.com/zalandoresearch/fashion-mnist). The archives here are recompressed, so torchvision's MD5s do not apply.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

SHOWN = 10  # names in an error message
TINY_IMAGENET = (64, 3, 100_000, 10_000)  # pixels, channels, pictures in train/ and in val/


class Source(NamedTuple):
    """A whole set: training images, test images, classes, and the rows of both in the source's own order.

    files: for a folder of pictures, those of the training images and of the test images.
    """

    train: Part
    test: Part
    classes: list[str]
    rows: tuple[np.ndarray, np.ndarray]
    files: tuple[list[Path], list[Path]] | None = None


def load(params: Dataset) -> RealSet:
    """The images that take part: train, further labelled ones, validation, spare ones, the official test set.

    Rows are stored in this order; train and labelled rows in one stratified order. If training images are test images
    too, a folder is refused; of published sets, whose split others report on, a message counts them.
    """
    path = Path(params.path)
    if not path.exists():
        raise UserError("not found", path, "put the data set there, or set the path to where it is")
    source = _READERS[params.name](params)
    (train_images, train_labels), (test_images, test_labels), rows = source.train, source.test, source.rows
    if len(test_labels) < 2:
        raise UserError(f"{len(test_labels)} test images", path, "an accuracy needs two at least")
    parts = split(params, train_labels)
    kept = np.concatenate([rows for _, rows in parts])
    copies = kept[among(train_images[kept], test_images)]
    if len(copies) and source.files:
        _refuse(copies, source, path)
    if len(copies):
        log(f"{len(copies):,} images of {params.name} are test images too: the published split has them so")
    codes = [*parts, (TEST, test_labels)]
    return RealSet(
        images=np.concatenate([train_images[kept], test_images]),
        labels=np.concatenate([train_labels[kept], test_labels]),
        split=np.concatenate([np.full(len(rows), code, np.uint8) for code, rows in codes]),
        orig_index=np.concatenate([rows[0][kept], rows[1]]),
        classes=tuple(source.classes),
        source=params.name,
        labelled_size=params.labelled_size,
    )


def digest(params: Dataset | TransferSet) -> str:
    """sha256 of the names and the bytes of all files at the set's path."""
    return files.tree_sha256(Path(params.path))


def _refuse(copies: np.ndarray, source: Source, root: Path) -> None:
    """copies: rows of training images that are among the test images."""
    twins = {image.tobytes(): name for image, name in zip(source.test[0], source.files[1], strict=True)}
    pairs = []
    for row in copies[:SHOWN]:
        one, two = source.files[0][row], twins[source.train[0][row].tobytes()]
        pairs.append(f"{str(one.relative_to(root))!r} = {str(two.relative_to(root))!r}")
    more = ", ..." if len(copies) > SHOWN else ""
    what = f"{len(copies):,} images to learn from are test images too: {', '.join(pairs)}{more}"
    raise UserError(what, root, "remove one of each pair, or the accuracy is of what was seen")


def split(params: Dataset, labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(code of `split`, rows of the training images) of every part, test left out; labels: int64 (N,), -1 = none."""
    order = stratified_order(labels, params.seed)
    known = order[labels[order] >= 0] if (labels >= 0).any() else order
    validation = known[: params.validation_size]
    pool, known = (rows[~np.isin(rows, validation)] for rows in (order, known))
    for name, there in (("train_size", pool), ("labelled_size", known)):
        if getattr(params, name) > len(there):
            alike = "" if len(known) == len(pool) or name == "train_size" else " with labels"
            raise UserError(
                f"{name} {getattr(params, name)} + validation_size {params.validation_size} > "
                f"{len(there) + len(validation)} images{alike}",
                params.path,
                "lower one of them",
            )
    train, labelled = pool[: params.train_size], known[: params.labelled_size]
    labelled = labelled[~np.isin(labelled, train)]
    left = pool[~np.isin(pool, np.concatenate([train, labelled]))]
    if params.spare_size > len(left):
        raise UserError(f"spare_size {params.spare_size} > {len(left)} images left", params.path, "lower it")
    return [(TRAIN, train), (LABELLED, labelled), (VALIDATION, validation), (SPARE, left[: params.spare_size])]


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A seeded order of all rows; every prefix holds the classes in proportion (to within an image or two).

    labels: int64 (N,). Returns int64 (N,): row j of a class of n_c images gets rank (j + 1/2) / n_c; ties by chance.
    """
    shuffled = seeds.permutation(seed, "split", 0, len(labels), np.arange(len(labels)))
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[shuffled] == label)
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(rank, kind="stable")]


def _official(train: Part, test: Part, classes: list[str]) -> Source:
    return Source(train, test, classes, (np.arange(len(train[1])), np.arange(len(test[1]))))


def _fashion_mnist(params: Dataset) -> Source:
    from torchvision.datasets import FashionMNIST

    path = Path(params.path)
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root) / "FashionMNIST" / "raw"  # torchvision's layout
        raw.mkdir(parents=True)
        for name, digest in FASHION_MNIST.items():
            archive = path / "raw" / f"{name}.gz"
            try:
                payload = gzip.decompress(archive.read_bytes())
            except (OSError, EOFError, zlib.error) as fault:
                raise UserError(f"not readable: {fault}", archive, "restore it: git checkout -- data") from fault
            if hashlib.sha256(payload).hexdigest() != digest:
                raise UserError(
                    "its content is not Fashion-MNIST's (sha256)", archive, "restore it: git checkout -- data"
                )
            files.write(raw / name, lambda temporary, payload=payload: temporary.write_bytes(payload))
        sets = [FashionMNIST(root, train=train) for train in (True, False)]
        train, test = ((s.data.numpy()[..., None].copy(), s.targets.numpy().astype(np.int64)) for s in sets)
    return _official(train, test, sets[0].classes)


def _cifar(params: Dataset) -> Source:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[params.name]
    sets = [_torchvision(kind, kind.filename, params, train=train) for train in (True, False)]
    train, test = ((s.data, np.asarray(s.targets, dtype=np.int64)) for s in sets)
    return _official(train, test, sets[0].classes)


def _stl10(params: Dataset) -> Source:
    """Training images are the 5,000 with labels, then the 100,000 without."""
    from torchvision.datasets import STL10

    sets = [_torchvision(STL10, STL10.filename, params, split=part) for part in ("train+unlabeled", "test")]
    train, test = ((s.data.transpose(0, 2, 3, 1), s.labels.astype(np.int64)) for s in sets)
    names = getattr(sets[0], "classes", [f"class {k}" for k in range(10)])  # from a file without a checksum
    return _official(train, test, names)


def _svhn(params: Dataset) -> Source:
    """The 73,257 images of `train` and the 26,032 of `test`, without the half million easier ones of `extra`."""
    from torchvision.datasets import SVHN

    try:
        sets = [_torchvision(SVHN, f"{part}_32x32.mat", params, split=part) for part in ("train", "test")]
    except ImportError as fault:
        raise UserError("reading SVHN's MATLAB files needs scipy", params.path, "pip install scipy") from fault
    train, test = ((s.data.transpose(0, 2, 3, 1), s.labels) for s in sets)
    return _official(train, test, [str(digit) for digit in range(10)])


def _torchvision(kind, archive: str, params: Dataset, **which: object):
    """A set as torchvision reads it, after it has checked the MD5s."""
    try:
        return kind(params.path, **which)
    except RuntimeError as fault:
        remedy = f"`make data NAME={params.name}` fetches it, or put {archive} there, unpacked if it is an archive"
        raise UserError(f"{params.name} is not there or damaged (MD5)", params.path, remedy) from fault


def _tiny_imagenet(params: Dataset) -> Source:
    """The layout of tiny-imagenet-200.zip: train/CLASS/images/, and val/ with its annotations, the test set."""
    root = Path(params.path)
    notes = root / "val" / "val_annotations.txt"
    if not notes.exists():
        raise UserError("not found", notes, "unpack tiny-imagenet-200.zip and set the path to its folder")
    size, channels, *counts = TINY_IMAGENET
    train, test = pictures.find(root / "train"), pictures.find(root / "val" / "images")
    if [len(train), len(test)] != counts:
        found = f"{len(train):,} pictures in train/, {len(test):,} in val/images/"
        raise UserError(f"{found}, not {counts[0]:,} and {counts[1]:,}", root, "unpack tiny-imagenet-200.zip again")
    names = [path.relative_to(root / "train").parts[0] for path in train]
    classes = sorted(set(names))
    label_of = {}
    for line in notes.read_text(encoding="utf-8").splitlines():
        file, _, rest = line.partition("\t")
        label_of[file] = rest.partition("\t")[0]
    for path in test:
        if label_of.get(path.name) not in classes:
            raise UserError(f"says {label_of.get(path.name)} of {path.name}, which is no class of train/", notes)
    return _official(
        (pictures.read_all(train, size, channels), _numbers(names, classes)),
        (pictures.read_all(test, size, channels), _numbers([label_of[path.name] for path in test], classes)),
        classes,
    )


def _folder(params: Dataset) -> Source:
    """Pictures in class folders, or without classes; below train/ and test/, or with test images drawn by the seed."""
    root, size, channels = Path(params.path), params.image_size, params.channels
    if params.test_size is None:
        for part in ("train", "test"):
            if not (root / part).is_dir():
                raise UserError("not found", root / part, "make it, or set test_size")
        (train, names), (test, test_names) = (_with_classes(root / part) for part in ("train", "test"))
        classes = sorted(set(names))
        strange = sorted(set(test_names) - set(classes))
        if strange:
            raise UserError(f"{strange[0] or 'no class'} is no class of train/", root / "test", "remove it")
        images = [pictures.read_all(found, size, channels) for found in (train, test)]
        labels = [_numbers(found, classes) for found in (names, test_names)]
        return _official(*zip(images, labels, strict=True), _shown(classes))._replace(files=(train, test))
    if (root / "train").is_dir() and (root / "test").is_dir():
        raise UserError("holds train/ and test/", root, "set test_size to null: test/ is the test set")
    found, names = _with_classes(root)
    if params.test_size >= len(found):
        raise UserError(f"test_size {params.test_size} >= {len(found)} pictures", root, "lower test_size")
    classes = sorted(set(names))
    images, labels = pictures.read_all(found, size, channels), _numbers(names, classes)
    order = stratified_order(labels, params.seed)
    test, train = np.sort(order[: params.test_size]), np.sort(order[params.test_size :])
    paths = tuple([found[row] for row in rows] for rows in (train, test))
    return Source((images[train], labels[train]), (images[test], labels[test]), _shown(classes), (train, test), paths)


def _with_classes(root: Path) -> tuple[list[Path], list[str]]:
    """The pictures of a folder and the class folder of each; "" for all if there are no class folders."""
    found = pictures.find(root)
    parts = [path.relative_to(root).parts for path in found]
    odd = [names[0] for names in parts if len(names) > 1 and not names[0].isprintable()]
    if odd:
        raise UserError(f"class folder {odd[0]!r} has characters that do not print", root, "rename it")
    flat = [path for path, names in zip(found, parts, strict=True) if len(names) == 1]
    if flat and len(flat) < len(found):
        raise UserError("lies beside class folders", flat[0], "put every picture into a class folder, or none")
    return found, ["" if flat else names[0] for names in parts]


def _numbers(names: list[str], classes: list[str]) -> np.ndarray:
    """Class numbers, int64; -1 where there are no classes."""
    number = {name: -1 if name == "" else i for i, name in enumerate(classes)}
    return np.array([number[name] for name in names], np.int64)


def _shown(classes: list[str]) -> list[str]:
    return [name or "no class" for name in classes]


_READERS: dict[str, Callable[[Dataset], Source]] = {
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "stl10": _stl10,
    "svhn": _svhn,
    "tiny-imagenet": _tiny_imagenet,
    "folder": _folder,
}
