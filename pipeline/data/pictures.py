"""Picture files of any kind -> uint8 (H, W, C) of one size, always by the same rule.

A picture is turned as its EXIF orientation says. Grey of 16 bits becomes 8 bits, by the white that the whole set has:
255, 1,023, 4,095, 16,383 or 65,535, the smallest that is no less than the largest value in any of its 16-bit pictures
(microscopes and CT keep 12 bits in 16), so that v becomes v * 255 / white, rounded. Transparent pixels are blended with
white. Palettes, CMYK and the like become RGB; one channel is the ITU-R 601 luma. Then it becomes a square, as `resize`
says: `crop` takes the middle square, `pad` adds black beside the shorter side, `stretch` changes the shape; then it is
resized to `size` (bicubic, antialiased). A large JPEG is decoded at 1/8, 1/4 or 1/2 of its sides, the smallest at which
both are twice `size` or more. Files with several frames, floating-point pixels or damage are refused by name; a JPEG's
first picture and a TIFF's only full one are read, whatever follows them.
"""

import contextlib
import functools
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from pipeline.core import links, store
from pipeline.core.errors import UserError, UserErrors
from pipeline.core.progress import bar, log
from pipeline.data import decoding
from pipeline.data.decoding import WHITES

ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo", ".bmp", ".webp", ".tif", ".tiff", ".gif")
SHOWN = 10  # lines of a refusal
_AT_ONCE = 256  # pictures that threads are given before the first of them is asked for
_SQUARES: dict[str, Callable[[Image.Image, int], Image.Image]] = {  # `dataset.resize` -> (picture, size) -> square
    "crop": lambda picture, size: ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC),
    "pad": lambda picture, size: ImageOps.pad(picture, (size, size), Image.Resampling.BICUBIC),
    "stretch": lambda picture, size: picture.resize((size, size), Image.Resampling.BICUBIC),
}
_once = functools.cache(log)  # a stage looks at its folder more than once


def find(folder: Path, within: Path | None = None, table: Path | None = None) -> list[Path]:
    """All pictures below a folder, in the order of the bytes of their paths; hidden files are skipped silently.

    within: the folder of which this is a part, and out of which no link may lead; None: this one. table: the file with
    their labels, of which nothing need be said.

    Other files, by their ending, are reported and skipped. UserErrors if there is no picture, or of links that lead
    nowhere or where nobody said they may (core/links.py).
    """
    folder, outside = Path(folder), links.rule(Path(within or folder))
    found: dict[str, list[Path]] = defaultdict(list)
    faults, followed = [], []

    def enter(path: Path) -> bool:
        link = path.is_symlink()
        allowed = not path.name.startswith(".") and not (link and outside(path))
        followed.extend([path] if link and allowed else [])
        return allowed

    try:
        for path in links.walk(folder, enter):
            found[_kind(path, outside)].append(path)
    except UserErrors as closed:
        faults += closed.faults
    for paths in found.values():
        paths.sort(key=os.fsencode)
    for path in found["twice"]:
        faults.append(UserError("leads to a folder that is in the set already", path, "keep one of the two"))
    for path in found["odd"]:
        faults.append(UserError("no file that can be read", path, "see what it is, and who owns it"))
    for path in found["lost"]:
        remedy = "get what it leads to (git annex get, dvc checkout), or put the file in its place"
        faults.append(UserError(f"a link that leads nowhere, to {os.readlink(path)}", path, remedy))
    targets = {path: outside(path) for path in found["out"]}
    remedy = f"set {links.ALLOWED}={_above(targets.values())} to allow it, or put the file in its place"
    for path, target in targets.items():
        faults.append(UserError(f"a link that leads out of the folder, to {target}", path, remedy))
    if faults:
        raise refusal(faults)
    others = Counter(path.suffix.lower() or path.name for path in found["other"] if path != table)
    kinds = ", ".join(f"{n:,} {ending}" for ending, n in others.most_common(SHOWN)) + ", ..." * (len(others) > SHOWN)
    if not found["picture"]:
        what = f"holds no pictures but {kinds}" if others else "holds no pictures"
        raise UserErrors([UserError(what, folder, f"they end in {', '.join(ENDINGS)}")])
    if others:
        _once(f"{folder}: {others.total():,} files are left out for their endings: {kinds}")
    if followed:
        more = f" and {len(followed) - 1:,} more" if followed[1:] else ""
        what = f"{folder}: links to folders are followed ({followed[0]}{more}); DVC does not look behind them"
        _once(f"{what}: after a change there, `dvc repro -f -s` and the stage's name")
    return found["picture"]


def _kind(path: Path, outside: Callable[[Path], Path | None]) -> str:
    """What is to be done with something that `links.walk` gives."""
    link = os.path.islink(path)  # unlike pathlib's, these are False where one may not look
    if path.name.startswith("."):
        return "hidden"
    if link and not os.path.exists(path):
        return "lost"
    folder = os.path.isdir(path)
    if not folder and path.suffix.lower() not in ENDINGS:
        return "other"
    if link and outside(path):
        return "out"
    return "twice" if folder else "picture" if os.path.isfile(path) else "odd"


def _above(targets: Iterable[Path]) -> str:
    """The folder of all that links lead to; all their folders, where only the root has them in common."""
    places = sorted({str(target if target.is_dir() else target.parent) for target in targets})
    common = os.path.commonpath(places) if places else ""
    return os.pathsep.join(places) if common == Path(common).anchor else common


def refusal(faults: list[UserError]) -> UserErrors:
    """All of them if they are few; else the first of each cause, and a file that names all."""
    if len(faults) <= SHOWN:
        return UserErrors(faults)
    causes: dict[tuple[str, str], list[UserError]] = defaultdict(list)
    for fault in faults:
        cause = re.sub(r"\d[\d,.]*", "#", fault.what).partition(",")[0]
        causes[cause, fault.remedy].append(fault)
    shown = []
    for first, *others in list(causes.values())[:SHOWN]:
        more = f" (and {len(others):,} more like it)" if others else ""
        shown.append(UserError(f"{first.what}{more}", first.where, first.remedy))
    note = store.note("refused-pictures.txt", [str(fault) for fault in faults])
    return UserErrors([*shown, UserError(f"names all {len(faults):,} that are refused", note)])


def read_all(paths: list[Path], size: int, channels: int, resize: str = "crop") -> np.ndarray:
    """uint8 (N, size, size, channels) of N files, 1 or 3 channels; UserErrors name all that cannot be read.

    Give all pictures of a set at once: the white of 16-bit pictures is that of all of them.
    """
    white, odd = white_of(paths, channels), {}
    with bar("reading pictures", len(paths), "picture") as progress:
        images, faults = read_each(paths, size, channels, resize, progress, white, odd)
    tell_odd(odd)
    if faults:
        raise refusal(list(faults.values()))
    return images


def read_each(
    paths: list[Path],
    size: int,
    channels: int,
    resize: str,
    progress: tqdm,
    white: int,
    odd: dict[str, list[Path]],
) -> tuple[np.ndarray, dict[int, UserError]]:
    """As `read_all`, of what can be read; and what is wrong with the others, by their number. The progress moves.

    white: the value of 16-bit grey that becomes 255 in this set (`white_of`). odd: gets what is to be told of pictures
    that are read (`tell_odd`).
    """
    images = np.zeros((len(paths), size, size, channels), np.uint8)
    faults: dict[int, UserError] = {}
    read: dict[int, decoding.Picture] = {}

    def put(i: int) -> decoding.Picture:
        """Write a picture to its place; what is known of it beside its pixels."""
        picture = decoding.read(paths[i], channels, white, 2 * size)
        images[i] = np.asarray(_SQUARES[resize](picture.image, size), np.uint8).reshape(images[i].shape)
        return picture._replace(image=None)

    for i, found in enumerate(_in_threads(put, paths)):
        if isinstance(found, UserError):
            faults[i] = found
        else:
            read[i] = found
        progress.update()
    if white < WHITES[-1]:
        deep = {i: picture for i, picture in read.items() if picture.top is not None}
        what = f"is colour of 16 bits: the upper 8 are read, the set uses the lower {white.bit_length()}"
        remedy = "save it with 8 bits a channel"
        faults |= {i: UserError(what, paths[i], remedy) for i, picture in deep.items() if picture.coarse}
    for i, picture in read.items():
        if picture.odd:
            odd.setdefault(picture.odd, []).append(paths[i])
    return images, faults


def tell_odd(odd: dict[str, list[Path]]) -> None:
    """A line for each oddity of pictures that were read all the same."""
    for words, named in odd.items():
        log(f"{len(named):,} pictures have {words}; the first is {named[0]}")


def headers(paths: Collection[Path]) -> dict[Path, decoding.Header]:
    """Of the files that are pictures; what is wrong with the others is told when they are read."""
    found = {}
    with bar("looking at pictures", len(paths), "picture") as progress:
        for path in paths:
            with contextlib.suppress(UserError):
                found[path] = decoding.header(path)
            progress.update()
    return found


def white_of(paths: list[Path], channels: int) -> int:
    """The white of a set's 16-bit pictures, which are decoded for it; others, and what cannot be read, do not count."""
    tops, deep = [], [path for path, header in headers(paths).items() if header.deep]
    if not deep:
        return WHITES[-1]
    with bar("looking for white", len(deep), "picture") as progress:
        for path in deep:
            with contextlib.suppress(UserError):
                tops.append(decoding.read(path, channels).top)
            progress.update()
    top = max((top for top in tops if top is not None), default=WHITES[-1])
    white = next(white for white in WHITES if white >= top)
    if white < WHITES[-1]:
        log(f"{len(deep):,} pictures of 16 bits hold at most {white:,}: read as {white.bit_length()} bits")
    return white


def _in_threads(put: Callable[[int], decoding.Picture], paths: list[Path]) -> Iterator[decoding.Picture | UserError]:
    """What `put` makes of each picture in order, or its refusal. Pillow's decoders run beside each other.

    TIFFs are for the asking thread alone: what libtiff says is heard on the process's standard error, where nobody else
    may speak meanwhile.
    """

    def of(i: int) -> decoding.Picture | UserError:
        try:
            return put(i)
        except UserError as fault:
            return fault

    with (
        warnings.catch_warnings(action="ignore"),  # they are about odd metadata; here, since threads share the filter
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        for first in range(0, len(paths), _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, len(paths)))
            begun = {i: threads.submit(of, i) for i in some if not decoding.speaks(paths[i])}
            for i in some:
                yield begun[i].result() if i in begun else of(i)


def resized(images: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Square uint8 images (N, H, H, 1 or 3) -> (N, size, size, channels): luma or grey thrice, antialiased bicubic."""
    if images.shape[1:] == (size, size, channels):
        return images
    found = np.empty((len(images), size, size, channels), np.uint8)
    with bar("resizing images", len(images), "image") as progress:
        for image, place in zip(images, found, strict=True):
            picture = Image.fromarray(np.ascontiguousarray(image.squeeze(2) if image.shape[2] == 1 else image))
            plain = picture.convert("L" if channels == 1 else "RGB")
            place[:] = np.asarray(plain.resize((size, size), Image.Resampling.BICUBIC)).reshape(place.shape)
            progress.update()
    return found
