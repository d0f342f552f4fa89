"""Ready-made generated images from any source -> uint8 RGB or grey of the data's size, checked before use.

Formats: .npz with the key `image` (as AdaInf publishes), `images` or `arr_0` (as the samples of the diffusion
repositories have it); .npy of (N, H, W, C), or of (N, K, H, W, C): K candidates of each of N images (as CLSP stores
them), read candidate by candidate; .h5 with `images`; a folder of pictures. Channels may come first. Nothing pickled is
opened. The images are shuffled: a set may be sorted by class, and a small ratio takes the first ones.
"""

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import h5py
import numpy as np

from pipeline.core import seeds
from pipeline.core.errors import UserError, out_of_memory
from pipeline.data import contents, pictures, shards
from pipeline.params.schema import Generator

ENDINGS = (".npz", ".npy", ".h5", ".hdf5")
KEYS = ("image", "images", "arr_0")
# NotImplementedError: a compression that zipfile lacks; TokenError: a header that numpy cannot parse.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, SyntaxError, OverflowError)
_DAMAGED += (zipfile.BadZipFile, zlib.error, NotImplementedError, tokenize.TokenError)


def load(params: Generator, real: shards.RealSet) -> np.ndarray:
    """The images at `generator.path`, in the form of the real ones and shuffled: uint8 (N, H, W, C), RGB or grey."""
    _, size, _, channels = real.images.shape
    images = read(Path(params.path), size, channels, real.resize or "crop")
    seen, _ = real.part(shards.TRAIN)
    images = in_order(images, seen, params.channel_order, params.path)
    refuse_leaks(images, real, params.path, shards.VALIDATION, shards.TEST, shards.SPARE)
    return images[seeds.permutation(0, "import", 0, len(images), np.arange(len(images)))]


def refuse_leaks(images: np.ndarray, real: shards.RealSet, where: Path | str, *splits: int) -> None:
    """UserError if images in the place of generated ones are among those of these splits."""
    others, _ = real.part(*splits)
    leaked = np.flatnonzero(shards.among(images, others))
    if len(leaked):
        kinds = "test, validation or spare images" if shards.TRAIN not in splits else "images of another part"
        what = f"{len(leaked):,} of {len(images):,} are {kinds}"
        what = f"{what}, the first is number {leaked[0]}"
        raise UserError(what, where, "remove them, or every number is of what was seen")


def read(path: Path, size: int, channels: int, resize: str = "crop") -> np.ndarray:
    """uint8 (N, size, size, channels) of a file or folder; UserError if the images do not fit such data.

    resize: how the pictures of a folder become square, as the real ones did.
    """
    path = Path(path)
    if path.is_dir():
        return pictures.read_all(pictures.find(path), size, channels, resize)
    if path.suffix not in ENDINGS:
        raise UserError("neither a folder nor .npz, .npy or .h5", path, "name one of these in generator.path")
    try:
        _shape(path)
        images = _array(path)
    except _DAMAGED as fault:
        if out_of_memory(fault):
            raise
        what = f"not readable: {str(fault) or type(fault).__name__}"
        raise contents.absent(path, fault) or UserError(what, path, _remedy(fault)) from fault
    images = _arranged(images, path)
    if images.size and images.max() <= 1:
        raise UserError("no value above 1, so black images", path, "save uint8 of 0 to 255")
    if images.shape[3] != channels:
        raise UserError(f"images of {images.shape[3]} channels, the data has {channels}", path, "import images alike")
    height, width = images.shape[1:3]
    if height != width or not size / 2 <= height <= 4 * size:
        what = f"images of {height} x {width} pixels, the data has {size} x {size}"
        raise UserError(what, path, "they must be square, at least half and at most four times as wide")
    return pictures.resized(images, size, channels)


def _remedy(fault: Exception) -> str:
    """What helps against a fault of a file's bytes."""
    if isinstance(fault, NotImplementedError) or "password" in str(fault):
        return "save it again with numpy.savez or savez_compressed"
    if "filter" in str(fault):
        return "save it again with gzip or without compression"
    return "copy it again from where it came, or make it again"


def in_order(images: np.ndarray, real: np.ndarray, order: str | None, where: Path) -> np.ndarray:
    """The images as RGB. order: "rgb" or "bgr", as stated; None: refuse them if their mean colour is nearer to BGR.

    AdaInf's published script (generated_data.py) writes images as OpenCV reads them, blue first.
    """
    if images.shape[3] == 1:
        return images
    if order is not None:
        return images[..., ::-1] if order == "bgr" else images
    mean, wanted = (x.mean(axis=(0, 1, 2), dtype=np.float64) for x in (images, real))
    as_is, turned = np.abs(mean - wanted).sum(), np.abs(mean[::-1] - wanted).sum()
    if turned < as_is:
        found, near = (", ".join(f"{value:.0f}" for value in values) for values in (mean, wanted))
        what = f"mean colour ({found}) is nearer to the real ({near}) in the reversed order: blue may come first"
        raise UserError(what, where, "state generator.channel_order: bgr, or rgb if it is right as it is")
    return images


def count(path: Path) -> int:
    """How many images a file or folder holds, by its header or its file names; 0 if `read` would refuse it."""
    path = Path(path)
    try:
        if path.is_dir():
            return len(pictures.find(path))
        shape = _shape(path)
        return shape[0] * (shape[1] if len(shape) == 5 else 1)
    except (UserError, *_DAMAGED):
        return 0


def _shape(path: Path) -> tuple[int, ...]:
    """The shape in the file's header, if a file of this size can hold such images."""
    if not path.is_file():  # reading a pipe would wait for ever
        raise UserError("no file that can be read", path, "set generator.path to a file or folder of images")
    shape, kind = _header(path)
    if kind != np.uint8:
        raise UserError(f"values are {kind}, not uint8", path, "save them as uint8, 0 to 255, rounded")
    if not 3 <= len(shape) <= 5 or any(not 0 < side < 2**40 for side in shape):
        raise UserError(f"shape {shape} is no list of images", path, "save (N, H, W, C)")
    size, there = math.prod(shape), path.stat().st_size
    if size > shards.UNPACKS * there:
        raise ValueError(f"claims {size:,} bytes of images in a file of {there:,}")
    return shape


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the images in a file."""
    if path.suffix in (".h5", ".hdf5"):
        with h5py.File(path, "r", locking=False) as file:
            if "images" not in list(file):
                raise _no_key(("images",), list(file), path)
            images = shards.dataset_of(file, "images")
            chunk = math.prod(images.chunks or ())
            if chunk > shards.UNPACKS * path.stat().st_size:  # a chunk is unpacked as a whole
                what = f"claims chunks of {chunk:,} bytes in a file of {path.stat().st_size:,}"
                raise UserError(what, path, "save it with chunks of few images")
            return images.shape, images.dtype
    with _npy(path) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            shape, _, kind = read(file)
        except (MemoryError, RecursionError) as fault:  # brackets in the header can exhaust the parser
            raise ValueError("its header is none") from fault
    return shape, kind


def _array(path: Path) -> np.ndarray:
    """The images in a file whose header was looked at; those of an .npy file are mapped."""
    if path.suffix in (".h5", ".hdf5"):
        with h5py.File(path, "r", locking=False) as file:
            return file["images"][:]
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False, mmap_mode="r")
    with _npy(path) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@contextlib.contextmanager
def _npy(path: Path) -> Iterator[IO[bytes]]:
    """An .npy file, or the entry of an .npz file that holds the images."""
    if path.suffix == ".npy":
        with open(path, "rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        found = next((f"{key}.npy" for key in KEYS if f"{key}.npy" in names), None)
        if found is None:
            raise _no_key(KEYS, [name.removesuffix(".npy") for name in names], path)
        with archive.open(found) as file:
            yield file


def _no_key(keys: tuple[str, ...], names: list[str], path: Path) -> UserError:
    what = f"has none of the keys {', '.join(keys)} but {', '.join(names[:5]) or 'nothing'}"
    return UserError(what, path, "save the images with the key images")


def _arranged(images: np.ndarray, path: Path) -> np.ndarray:
    """(N, H, W, C) of images in any of the forms that are read."""
    if images.ndim == 5:  # candidate by candidate, so that fewer candidates are a prefix
        images = images.swapaxes(0, 1).reshape(-1, *images.shape[2:])
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] in (1, 3):
        return images
    if images.shape[1] in (1, 3):
        return images.transpose(0, 2, 3, 1)
    raise UserError(f"shape {images.shape}: neither first nor last has 1 or 3 channels", path, "save (N, H, W, C)")


def write(images: np.ndarray, folder: Path, source: str) -> None:
    """Write the file of data/generator that the stage generate cuts into shards; source: import or real."""
    shards.write_arrays(folder / shards.FILE, {"images": np.ascontiguousarray(images)}, {"source": source})
