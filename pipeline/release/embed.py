"""Features of a folder of pictures, or of the images of an HDF5 file, by a finished encoder.

Pictures become what the encoder was trained on: its size, channels and way to the square. Parts are kept in the store
as they are made, so that an interrupted run goes on.
"""

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from pipeline.core import files, sources
from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.data import pictures, shards
from pipeline.engine import arithmetic
from pipeline.measures import probes
from pipeline.networks import backbones
from pipeline.params.schema import Compute


class _Source(NamedTuple):
    """Images to embed. names: of each; content: a digest of them all.

    read(rows, progress) -> uint8 (n, size, size, channels), and what is wrong with those that cannot be read, by their
    number among the rows.
    """

    names: list[str]
    content: str
    read: Callable[[range, tqdm], tuple[np.ndarray, dict[int, UserError]]]


def embed(folder: Path, source: Path, out: Path, compute: Compute, skip: bool = False) -> tuple[int, int]:
    """Write the features of `source` to `out`, by the encoder in `folder`; how many there are, and how long each is.

    source: a folder of pictures, or an HDF5 file with `images`, uint8 (N, H, H, 1 or 3). out: .npy (with names beside
    it), .h5 or .parquet: features, float32 (N, D), and names. skip: leave out pictures that cannot be read, which are
    counted; without it they are UserErrors, once all were tried.
    """
    writer = _writer(out)
    if out.resolve() == source.resolve():
        raise UserError("is what is to be embedded", out, "give another name for the features")
    arithmetic.prepare(compute)
    encoder = backbones.load(folder)
    size, channels, resize = _form(encoder.card, folder)
    given = _pictures(source, size, channels, resize) if source.is_dir() else _stored(source, size, channels)
    encoder.to(compute.device)
    decided = {
        "encoder": encoder.card["sha256"],
        "images": given.content,
        "form": [size, channels, resize],
        "code": sources.digest("release/embed"),
        "arithmetic": arithmetic.facts(compute),
        "versions": backbones.versions() | {"pillow": version("pillow")},
    }
    refused: list[UserError] = []

    def make(rows: range, progress: tqdm) -> dict[str, np.ndarray]:
        images, faults = given.read(rows, progress)
        refused.extend(faults.values())
        kept = np.array([i not in faults for i in range(len(images))])
        found = np.zeros((len(images), encoder.width), np.float32)
        if kept.any():
            found[kept] = probes.features(encoder, images[kept], compute).numpy()
        return {"features": found, "kept": kept}

    made = shards.in_parts("features", decided, len(given.names), "embedding", "image", lambda: make)
    features, kept = ({path: shards.read_array(path, name) for path in made} for name in ("features", "kept"))
    there = np.concatenate(list(kept.values()))
    if not there.all() and not skip:
        for path in (path for path, whole in kept.items() if not whole.all()):
            path.unlink(missing_ok=True)  # or they would not be tried again
        raise pictures.refusal(refused) if refused else UserError("was left out before", source, "run it once more")
    if not there.all():
        log(f"{(~there).sum():,} of {len(there):,} pictures cannot be read and are left out")
    names = [name for name, is_there in zip(given.names, there, strict=True) if is_there]
    writer(out, np.concatenate(list(features.values()))[there], names, encoder.card["sha256"])
    return len(names), encoder.width


def _form(card: dict, folder: Path) -> tuple[int, int, str]:
    """Height and width, channels, and the way to the square, of what an encoder was trained on."""
    if card.get("size") is None:
        raise UserError("does not say how large its images were", folder / "card.json", "run `dvc repro pretrain`")
    return card["size"], len(card["mean"]), card.get("resize") or "crop"


def _pictures(root: Path, size: int, channels: int, resize: str) -> _Source:
    """All pictures below a folder."""
    paths = pictures.find(root)
    white = pictures.white_of(paths, channels)

    def read(rows: range, progress: tqdm) -> tuple[np.ndarray, dict[int, UserError]]:
        odd: dict[str, list[Path]] = {}
        found = pictures.read_each(paths[rows.start : rows.stop], size, channels, resize, progress, white, odd)
        pictures.tell_odd(odd)
        return found

    places = [path.relative_to(root).as_posix() for path in paths]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        digests = dict(zip(places, threads.map(_digest, paths), strict=True))
    names = [os.fsencode(place).decode("utf-8", "backslashreplace") for place in places]
    return _Source(names, files.joint_sha256(digests | {"white": str(white)}), read)


def _digest(path: Path) -> str:
    """What tells a picture from another; of one that cannot be read, that it cannot."""
    try:
        return files.sha256(path)
    except UserError:
        return "unreadable"


def _stored(path: Path, size: int, channels: int) -> _Source:
    """The images of an HDF5 file, brought to the encoder's size and channels; their names are their rows."""
    remedy = "give a folder of pictures, or an HDF5 file with `images`"
    if not path.exists():
        raise UserError("not found", path, remedy)
    images = shards.map_file(path, remedy)
    if not len(images) or images.shape[1] != images.shape[2]:
        what = f"holds images of {images.shape[1]} x {images.shape[2]} pixels" if len(images) else "holds no images"
        raise UserError(what, path, "give square ones")

    def read(rows: range, progress: tqdm) -> tuple[np.ndarray, dict[int, UserError]]:
        found = pictures.resized(images[rows.start : rows.stop], size, channels)
        progress.update(len(rows))
        return found, {}

    return _Source([str(row) for row in range(len(images))], files.sha256(path), read)


def _writer(out: Path) -> Callable[[Path, np.ndarray, list[str], str], None]:
    """What writes features of this file's kind: (path, float32 (N, D), names, digest of the encoder)."""
    writers = {".npy": _npy, ".h5": _hdf5, ".parquet": _parquet}
    if out.suffix not in writers:
        raise UserError("is no kind of file for features", out, f"end it in {' or '.join(writers)}")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError("wants pyarrow", out, "pip install -e '.[export]', or end it in .h5")
    return writers[out.suffix]


def _npy(out: Path, features: np.ndarray, names: list[str], encoder: str) -> None:
    def save(temporary: Path) -> None:  # not by np.save, which would add an ending
        mapped = np.lib.format.open_memmap(temporary, "w+", features.dtype, features.shape)
        mapped[:] = features
        mapped.flush()

    files.write(out, save)
    files.write_json(out.with_suffix(".names.json"), {"encoder_sha256": encoder, "names": names})


def _hdf5(out: Path, features: np.ndarray, names: list[str], encoder: str) -> None:
    text = np.array(names, h5py.string_dtype())
    shards.write_arrays(out, {"features": features, "names": text}, {"encoder_sha256": encoder})


def _parquet(out: Path, features: np.ndarray, names: list[str], encoder: str) -> None:
    import pandas as pd

    table = pd.DataFrame({"name": names, "feature": list(features)})
    table.attrs["encoder_sha256"] = encoder
    files.write(out, lambda temporary: table.to_parquet(temporary, engine="pyarrow", index=False))
