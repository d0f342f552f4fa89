"""Features of a folder of pictures, or of the images of an HDF5 file, by a finished encoder.

Pictures become what the encoder was trained on: its size, channels and way to the square. Parts are kept in the store
as they are made, so that an interrupted run goes on.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from pipeline.core import files, sources, store
from pipeline.core.errors import UserError, UserErrors
from pipeline.core.progress import bar, log
from pipeline.data import decoding, pictures, shards
from pipeline.engine import arithmetic
from pipeline.measures import probes
from pipeline.networks import backbones
from pipeline.params.schema import Compute

PART = 1000  # images that are decoded and embedded at once


class _Source(NamedTuple):
    """Images to embed. names: of each; content: a digest of them all; parts: rows that are read together.

    read(rows, progress) -> uint8 (n, size, size, channels), and bool (n,): which could be read. refused(numbers) ->
    what is wrong with these, which could not.
    """

    names: list[str]
    content: str
    parts: list[range]
    read: Callable[[range, tqdm], tuple[np.ndarray, np.ndarray]]
    refused: Callable[[np.ndarray], UserErrors]


def embed(folder: Path, source: Path, out: Path, compute: Compute, skip: bool = False) -> tuple[int, int]:
    """Write the features of `source` to `out`, by the encoder in `folder`; how many there are, and how long each is.

    source: a folder of pictures, or an HDF5 file with `images`, uint8 (N, H, H, 1 or 3). out: .npy (with names beside
    it), .h5 or .parquet: features, float32 (N, D), and names. skip: leave out pictures that cannot be read, which are
    counted; without it they are UserErrors, once all were tried.
    """
    writer = _writer(out)
    arithmetic.prepare(compute)
    encoder = backbones.load(folder)
    size, channels, resize = _form(encoder.card, folder)
    given = _pictures(source, size, channels, resize) if source.is_dir() else _stored(source, size, channels)
    encoder.to(compute.device)
    parts = {f"part-{k:06d}.h5": rows for k, rows in enumerate(given.parts)}
    decided = {
        "encoder": encoder.card["sha256"],
        "images": given.content,
        "form": [size, channels, resize],
        "code": sources.digest("release/embed"),
        "arithmetic": arithmetic.facts(compute),
    }
    with bar("embedding", len(given.names), "image") as progress:

        def start(missing: list[str]) -> Callable[[Path], None]:
            progress.update(sum(len(rows) for name, rows in parts.items() if name not in missing))
            return write

        def write(path: Path) -> None:
            images, kept = given.read(parts[path.name], progress)
            found = np.zeros((len(images), encoder.width), np.float32)
            if kept.any():
                found[kept] = probes.features(encoder, images[kept], compute).numpy()
            shards.write_arrays(path, {"features": found, "kept": kept}, {})

        made = store.grow("features", decided, list(parts), start)
    found, kept = (np.concatenate(column) for column in zip(*map(_part, made.values()), strict=True))
    if not kept.all():
        if not skip:
            raise given.refused(np.flatnonzero(~kept))
        log(f"{(~kept).sum():,} of {len(kept):,} pictures cannot be read and are left out")
    names = [name for name, there in zip(given.names, kept, strict=True) if there]
    writer(out, found[kept], names, encoder.card["sha256"])
    return len(names), encoder.width


def _form(card: dict, folder: Path) -> tuple[int, int, str]:
    """Height and width, channels, and the way to the square, of what an encoder was trained on."""
    if card.get("size") is None:
        raise UserError("does not say how large its images were", folder / "card.json", "run `dvc repro pretrain`")
    return card["size"], len(card["mean"]), card.get("resize") or "crop"


def _part(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with shards.open_file(path) as file:
        return shards.dataset_of(file, "features")[:], shards.dataset_of(file, "kept")[:]


def _pictures(root: Path, size: int, channels: int, resize: str) -> _Source:
    """All pictures below a folder; together where one has 16 bits: the largest value of all says what is white."""
    paths = pictures.find(root)

    def read(rows: range, progress: tqdm) -> tuple[np.ndarray, np.ndarray]:
        images, faults = pictures.read_each(paths[rows.start : rows.stop], size, channels, resize, progress)
        return images, np.array([i not in faults for i in range(len(rows))])

    def refused(numbers: np.ndarray) -> UserErrors:
        bad = [paths[i] for i in numbers]
        with bar("reading again what was refused", len(bad), "picture") as progress:
            _, faults = pictures.read_each(bad, size, channels, resize, progress)
        return pictures.refusal(list(faults.values()))

    with bar("looking at pictures", len(paths), "picture") as progress:
        deep = False
        for path in paths:
            with contextlib.suppress(UserError):  # told when it is read
                deep |= decoding.header(path).deep
            progress.update()
    names = [os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace") for path in paths]
    return _Source(names, files.tree_sha256(root), _parts(len(paths), len(paths) if deep else PART), read, refused)


def _stored(path: Path, size: int, channels: int) -> _Source:
    """The images of an HDF5 file, brought to the encoder's size and channels; their names are their rows."""
    images = shards.map_file(path)
    if images.shape[1] != images.shape[2]:
        raise UserError(f"holds images of {images.shape[1]} x {images.shape[2]} pixels", path, "give square ones")

    def read(rows: range, progress: tqdm) -> tuple[np.ndarray, np.ndarray]:
        found = pictures.resized(images[rows.start : rows.stop], size, channels)
        progress.update(len(rows))
        return found, np.ones(len(rows), bool)

    names = [str(row) for row in range(len(images))]
    return _Source(names, files.sha256(path), _parts(len(images), PART), read, lambda numbers: UserErrors([]))


def _parts(n: int, step: int) -> list[range]:
    return [range(first, min(first + step, n)) for first in range(0, n, step)]


def _writer(out: Path) -> Callable[[Path, np.ndarray, list[str], str], None]:
    """What writes features of this file's kind: (path, float32 (N, D), names, digest of the encoder)."""
    writers = {".npy": _npy, ".h5": _hdf5, ".parquet": _parquet}
    if out.suffix not in writers:
        raise UserError("is no kind of file for features", out, f"end it in {' or '.join(writers)}")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError("wants pyarrow", out, "pip install pyarrow, or end it in .h5")
    return writers[out.suffix]


def _npy(out: Path, features: np.ndarray, names: list[str], encoder: str) -> None:
    def save(temporary: Path) -> None:  # not by np.save, which would add an ending
        mapped = np.lib.format.open_memmap(temporary, "w+", features.dtype, features.shape)
        mapped[:] = features
        mapped.flush()

    files.write_json(out.with_suffix(".names.json"), {"encoder_sha256": encoder, "names": names})
    files.write(out, save)


def _hdf5(out: Path, features: np.ndarray, names: list[str], encoder: str) -> None:
    text = np.array(names, h5py.string_dtype())
    shards.write_arrays(out, {"features": features, "names": text}, {"encoder_sha256": encoder})


def _parquet(out: Path, features: np.ndarray, names: list[str], encoder: str) -> None:
    import pandas as pd

    table = pd.DataFrame({"name": names, "feature": list(features)})
    table.attrs["encoder_sha256"] = encoder
    files.write(out, lambda temporary: table.to_parquet(temporary, engine="pyarrow", index=False))
