"""Real images from their source: uint8 NHWC + labels + split. Nothing is downloaded here.

The split depends on the seed and on the labels alone. Validation comes out of the training images first, so it is the
same whatever `train_size` is; train images are a prefix of one stratified order, so a larger set contains a smaller.
"""

import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline import files, seeds
from pipeline.errors import UserError
from pipeline.params.schema import Dataset
from pipeline.shards import LABELLED, TEST, TRAIN, VALIDATION, Part, RealSet

# sha256 of the four decompressed files of Fashion-MNIST, as Zalando Research published them
# (github.com/zalandoresearch/fashion-mnist). The archives here are recompressed, so torchvision's MD5s do not apply.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def load(params: Dataset) -> RealSet:
    """The images that take part: train, validation, the probe's further labelled images, the official test set.

    Rows are stored train, labelled, validation, test; train and labelled rows in one stratified order.
    """
    path = Path(params.path)
    if not path.exists():
        raise UserError("not found", path, "put the data set there, or set dataset.path")
    (train_images, train_labels), (test_images, test_labels), classes = _READERS[params.name](path)
    order = stratified_order(train_labels, params.seed)
    validation, pool = order[: params.validation_size], order[params.validation_size :]
    for name in ("train_size", "labelled_size"):
        if getattr(params, name) > len(pool):
            raise UserError(
                f"{name} {getattr(params, name)} + validation_size {params.validation_size} > {len(order)} images",
                "params.yaml: dataset",
                "lower one of them",
            )
    train, labelled = pool[: params.train_size], pool[params.train_size : params.labelled_size]
    kept = np.concatenate([train, labelled, validation])
    codes = [(TRAIN, train), (LABELLED, labelled), (VALIDATION, validation), (TEST, test_labels)]
    return RealSet(
        images=np.concatenate([train_images[kept], test_images]),
        labels=np.concatenate([train_labels[kept], test_labels]),
        split=np.concatenate([np.full(len(rows), code, np.uint8) for code, rows in codes]),
        orig_index=np.concatenate([kept, np.arange(len(test_labels))]),
        classes=tuple(classes),
        source=params.name,
        labelled_size=params.labelled_size,
    )


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A seeded order of all rows in which every prefix holds the classes in proportion (to within an image or two).

    labels: int64 (N,). Returns int64 (N,): row j of a class of n_c images gets rank (j + 1/2) / n_c; ties by chance.
    """
    shuffled = seeds.permutation(seed, "split", 0, len(labels), np.arange(len(labels)))
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[shuffled] == label)
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(rank, kind="stable")]


def _fashion_mnist(path: Path) -> tuple[Part, Part, list[str]]:
    from torchvision.datasets import FashionMNIST

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
    return train, test, sets[0].classes


def _cifar10(path: Path) -> tuple[Part, Part, list[str]]:
    from torchvision.datasets import CIFAR10

    try:
        sets = [CIFAR10(str(path), train=train) for train in (True, False)]  # torchvision checks the MD5s
    except RuntimeError as fault:
        raise UserError(
            "CIFAR-10 is not there or damaged (MD5)",
            path,
            "unpack cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html there",
        ) from fault
    train, test = ((s.data, np.asarray(s.targets, dtype=np.int64)) for s in sets)
    return train, test, sets[0].classes


_READERS: dict[str, Callable[[Path], tuple[Part, Part, list[str]]]] = {
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
}
