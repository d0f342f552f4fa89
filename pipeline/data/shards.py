"""The HDF5 formats of real and generated images: write, seal, verify, read.

The manifest.json of a folder holds the sha256 of each file. Readers verify it before they use the first pixel.
"""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from pipeline.core import access, files, store
from pipeline.core.errors import UserError
from pipeline.core.progress import bar

SCHEMA = 1  # of an HDF5 file
FILE = "images.h5"  # in data/real and, of imported images, in data/generator
Part = tuple[np.ndarray, np.ndarray]  # images uint8 (N, H, W, C), labels int64 (N,)
# Codes of `split`. Only the probe uses LABELLED images; quality and theory use SPARE ones; CEILING ones may stand in
# for generated images.
TRAIN, VALIDATION, TEST, LABELLED, SPARE, CEILING = 0, 1, 2, 3, 4, 5
UNPACKS = 1_200  # a byte of deflate becomes 1,032 at most
COLUMNS = {"labels": np.int64, "split": np.uint8, "orig_index": np.int64}  # of real images, a value each

_UNREADABLE, _AGAIN = "not readable as HDF5", "delete it and make it again"


PART = 1000  # rows that are made, and kept, at once


@dataclass(frozen=True)
class RealSet:
    """Real images with their labels and split.

    images: uint8 (N, H, W, C), C = 1 (grey) or 3 (RGB); labels: int64 (N,), -1 = unlabelled;
    split: uint8 (N,); orig_index: int64 (N,), the row in the source's own order.
    """

    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    orig_index: np.ndarray
    classes: tuple[str, ...]
    source: str
    labelled_size: int
    resize: str | None = None  # how pictures became square

    def rows(self, *codes: int) -> np.ndarray:
        """int64: the rows of the images of the named splits, in the stored order."""
        return np.flatnonzero(np.isin(self.split, codes))

    def part(self, *codes: int) -> Part:
        """Images and labels of the named splits, in the stored order."""
        rows = self.rows(*codes)
        return self.images[rows], self.labels[rows]

    def labelled_rows(self) -> np.ndarray:
        """The probe's images: the same `labelled_size` for every train size, none of validation or test."""
        rows = self.rows(TRAIN, LABELLED)  # in a stratified order that train_size does not change
        return self.with_labels(rows)[: self.labelled_size]

    def with_labels(self, rows: np.ndarray) -> np.ndarray:
        """The rows whose image has a label."""
        return rows[self.labels[rows] >= 0]


def among(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which images (N, H, W, C) equal one of the others (M, H, W, C) byte for byte: bool (N,)."""
    known = set(digests(others))
    return np.array([digest in known for digest in digests(images)], dtype=bool)


def digests(images: np.ndarray) -> list[bytes]:
    """16 bytes of each image (N, H, W, C), the same for equal bytes alone."""
    return [hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest() for image in images]


def write_arrays(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, object]) -> None:
    """Write an HDF5 file; equal content gives equal bytes (default libver, contiguous, no times, sorted attributes)."""

    def writer(temporary: Path) -> None:
        with h5py.File(temporary, "w", locking=False) as file:  # nobody else knows its name
            for name, array in arrays.items():
                file.create_dataset(name, data=array, track_times=False)
            for name, value in sorted({"schema": SCHEMA, **attributes}.items()):
                file.attrs[name] = value

    files.write(path, writer)


def in_parts(
    kind: str,
    decided: dict,
    n: int,
    what: str,
    unit: str,
    begin: Callable[[], Callable[[range, tqdm], dict[str, np.ndarray]]],
) -> list[Path]:
    """Files of n rows in the store, in order; those that it lacks are made one by one, so that a stopped run goes on.

    begin() -> make(rows, progress) -> arrays: asked for once, if there is anything to make; `make` moves the bar.
    """
    parts = {f"part-{k:06d}.h5": range(first, min(first + PART, n)) for k, first in enumerate(range(0, n, PART))}
    with contextlib.ExitStack() as shown:

        def start(missing: list[str]) -> Callable[[Path], None]:
            make, progress = begin(), shown.enter_context(bar(what, n, unit))
            progress.update(sum(len(rows) for name, rows in parts.items() if name not in missing))
            return lambda path: write_arrays(path, make(parts[path.name], progress), {})

        return list(store.grow(kind, decided | {"part": PART}, list(parts), start).values())


def write_real(folder: Path, real: RealSet) -> None:
    """Write data/real: images.h5 and its manifest."""
    write_arrays(
        Path(folder) / FILE,
        {name: getattr(real, name) for name in ("images", *COLUMNS)},
        {
            "source": real.source,
            "resize": real.resize or "",
            "labelled_size": real.labelled_size,
            "classes": "\n".join(real.classes),
            "channels": "grey" if real.images.shape[3] == 1 else "RGB",
        },
    )
    store.seal(folder, [FILE], {"n": len(real.images)})


def counts(real: RealSet) -> dict[str, int]:
    """Images of each split, and how many of the others are test images too; classes, and images of the extreme ones."""
    codes = {"train": TRAIN, "labelled_only": LABELLED, "validation": VALIDATION, "spare": SPARE, "ceiling": CEILING}
    codes["test"] = TEST
    found = {name: int((real.split == code).sum()) for name, code in codes.items()}
    test = real.split == TEST
    found["shared_with_test"] = int(among(real.images[~test], real.images[test]).sum())
    each = np.bincount(real.labels[real.labels >= 0], minlength=len(real.classes))
    if not each.any():
        return found | {"classes": 0}
    return found | {"classes": len(each), "rarest_class": int(each.min()), "commonest_class": int(each.max())}


def read_real(folder: Path) -> RealSet:
    """The real images of data/real, verified."""
    store.verify(folder, "prepare")
    path = Path(folder) / FILE
    images = map_file(path)
    with open_file(path) as file:
        columns = {name: dataset_of(file, name) for name in COLUMNS}
        for name, kind in COLUMNS.items():  # before any is read, whose shape may be endless
            dtype, shape = columns[name].dtype, columns[name].shape
            if (dtype, shape) != (kind, (len(images),)):
                what = f"expected {name} as {np.dtype(kind)} ({len(images)},), found {dtype} {shape}"
                raise UserError(what, path)
        columns = {name: column[:] for name, column in columns.items()}
        facts = {name: file.attrs.get(name) for name in ("classes", "source", "labelled_size", "resize")}
    if not isinstance(facts["classes"], str) or not isinstance(facts["labelled_size"], np.integer):
        raise UserError("lacks the classes, or the number of labels for the probe", path)
    known = {"source": facts["source"], "resize": facts["resize"] or None}
    known |= {"classes": tuple(facts["classes"].split("\n")), "labelled_size": int(facts["labelled_size"])}
    return RealSet(images, **columns, **known)


def shard_name(k: int) -> str:
    """File name of shard k."""
    return f"shard-{k:05d}.h5"


def read_generated(folder: Path, rows: np.ndarray | None = None) -> np.ndarray:
    """The first n images of a generated set, n from its manifest, verified: uint8 (n, H, W, C); (0, 0, 0, 0) if n = 0.

    rows: int64 (k,), ascending, of those to read; None: all.
    """
    parts = map_generated(folder)
    parts = parts if rows is None else of_parts(parts, rows)
    return np.concatenate(parts) if parts else np.empty((0, 0, 0, 0), np.uint8)


def of_parts(parts: list[np.ndarray], rows: np.ndarray) -> list[np.ndarray]:
    """These rows of a set in parts, ascending: uint8 (n, H, W, C) each; a part that is whole stays as it is, mapped."""
    found, first = [], 0
    for part in parts:
        mine = rows[(rows >= first) & (rows < first + len(part))] - first
        if len(mine):
            found.append(part if len(mine) == len(part) else part[mine])
        first += len(part)
    return found


def map_generated(folder: Path, maker: str = "generate") -> list[np.ndarray]:
    """The same images, verified, as a memory map for each shard; the system can reclaim that memory at any time.

    maker: the stage that makes the set.
    """
    manifest, again = store.verify(folder, maker), f"run `dvc repro -f -s {maker}`"
    paths = [Path(folder) / name for name in sorted(manifest["files"])]
    found = [map_file(path) for path in paths]
    n, held = manifest.get("n"), sum(map(len, found))
    if not isinstance(n, int) or not 0 <= n <= held:
        raise UserError(f"holds {held} images, its manifest says {n}", folder, again)
    left, parts = n, []
    for path, part in zip(paths, found, strict=True):
        if parts and not left:
            break
        if part.shape[1:] != found[0].shape[1:]:
            raise UserError(f"images of {part.shape[1:]} beside {found[0].shape[1:]}", path, again)
        parts.append(part[:left])
        left -= len(parts[-1])
    return parts


def map_positives(folder: Path, anchors: np.ndarray) -> list[np.ndarray]:
    """Positives of every anchor, candidate by candidate, verified and mapped: uint8 (N, H, W, C) a shard; maybe none.

    anchors: int64 (n,), the `orig_index` of the train images in order, with which each shard must agree.
    """
    parts = map_generated(folder, maker="positives")
    first, again = 0, "run `dvc repro -f -s positives`"
    for k, part in enumerate(parts):
        path = Path(folder) / shard_name(k)
        with open_file(path) as file:
            found = dataset_of(file, "anchor_index")
            whose = found[: len(part)] if found.dtype == np.int64 and found.ndim == 1 else None
        if not np.array_equal(whose, anchors[np.arange(first, first + len(part)) % len(anchors)]):
            raise UserError("holds positives of other images than the train images", path, again)
        first += len(part)
    if first % len(anchors):
        raise UserError(f"holds {first} images, not as many of each of {len(anchors)} train images", folder, again)
    return parts


@contextlib.contextmanager
def open_file(path: Path, remedy: str = _AGAIN) -> Iterator[h5py.File]:
    """An HDF5 file opened for reading, or a UserError that names it.

    It is not locked: what has its final name never changes, and another program's lock would be in the way.
    """
    with access.reading(path, _UNREADABLE, remedy), h5py.File(path, "r", locking=False) as file:
        yield file


def dataset_of(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that is stored in the file itself; HDF5 can also point to other files, which is refused."""
    found = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise UserError(f"has no `{name}` of its own", file.filename)
    return found


def read_array(path: Path, name: str) -> np.ndarray:
    """A dataset of a file, whole."""
    with open_file(path) as file:
        return dataset_of(file, name)[:]


def map_file(path: Path, remedy: str = _AGAIN) -> np.ndarray:
    """`images` of a file, mapped; writing to the array does not change the file. remedy: of one that is no HDF5."""
    with open_file(path, remedy) as file:
        images = dataset_of(file, "images")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            found = f"{images.dtype} {images.shape}"
            raise UserError(f"expected images as uint8 (N, H, W, 1 or 3), found {found}", path)
        shape, place = images.shape, images.id.get_offset()
        if place is None:  # empty, or in chunks, which `write_arrays` never writes
            size, there = max(images.size, math.prod(images.chunks or ())), path.stat().st_size
            if size > UNPACKS * there:
                raise UserError(f"claims {size:,} bytes of images in a file of {there:,}", path)
            return images[:]
    # Not numpy's memory map, which keeps the file open: a thousand shards would be a thousand open files.
    import torch

    with access.reading(path, _UNREADABLE, _AGAIN, RuntimeError):
        whole = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
        return whole[place : place + math.prod(shape)].view(shape).numpy()
