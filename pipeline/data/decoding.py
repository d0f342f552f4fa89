"""One picture file -> 8-bit pixels, upright, grey or RGB; or the words of why not, and what helps."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError
from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.data import contents

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")  # by content; others start programs (EPS) or are rare
LARGEST = 100_000_000  # pixels; a small file can decode to more memory than there is
WHITES = (255, 1023, 4095, 16383, 65_535)  # of 8, 10, 12, 14 and 16 bits
_TURNS = {  # EXIF orientation -> what makes it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_SUBFILE, _BITS, _PHOTOMETRIC, _PLANAR = 254, 258, 262, 284  # tags of TIFF
_TAGS = ("TIFFFetch", "TIFFReadDirectory")  # how libtiff begins when it speaks of tags, not of pixels
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # 64 MB of text beside good pixels are no harm


class Header(NamedTuple):
    """What a file says of its picture before that is decoded: (width, height), its kind, whether it is grey.

    deep: of 16 bits.
    """

    size: tuple[int, int]
    kind: str
    grey: bool
    deep: bool


class Picture(NamedTuple):
    """image: mode L or RGB. top: the largest value, of a picture with 16 bits a channel.

    coarse: of those 16 bits the upper eight alone were read, as Pillow does with colour. odd: what was passed over.
    """

    image: Image.Image
    top: int | None
    coarse: bool
    odd: str


def read(path: Path, channels: int, white: int = WHITES[-1], enough: int | None = None) -> Picture:
    """The picture in a file; white: the value of 16-bit grey that becomes 255. UserError if it cannot be read.

    enough: pixels; a JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and all of its sides at which neither is below.
    """
    said: list[str] = []
    try:
        with _opened(path) as picture:
            _choose(picture, path)
            if enough is not None:
                picture.draft(None, (enough, enough))  # of other formats it does nothing
            deep = picture.format in ("PNG", "TIFF") and ";16" in str(picture.tile)
            with _heard(said) if picture.format == "TIFF" else contextlib.nullcontext():
                picture.load()
            if any(not line.startswith(_TAGS) for line in said):
                raise ValueError("its pixels are damaged")
            image, odd = _upright(picture)
            inverted = picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0  # 0 is white
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError as fault:
        raise UserError(f"has more than {LARGEST:,} pixels", path, "make it smaller") from fault
    except Exception as fault:  # a foreign file can raise anything inside Pillow
        raise _unreadable(path, fault, said) from fault
    if image.mode == "F":
        raise UserError("has floating-point pixels, whose white is unknown", path, "save it with 8 or 16 bits")
    top = None
    if image.mode in _SIXTEEN_BITS:
        image, top, deep = *_grey(image, white, inverted, path), False
    elif deep:
        extremes = dict(zip(image.getbands(), image.getextrema(), strict=True))
        top = max(high for band, (_, high) in extremes.items() if band != "A") << 8
    return Picture(_plain(image, channels, path), top, deep, odd or (said and "tags that libtiff cannot read") or "")


def header(path: Path) -> Header:
    """What a picture's file says of it; UserError if it is none."""
    try:
        with warnings.catch_warnings(action="ignore"), _opened(path) as picture:
            deep = picture.mode in _SIXTEEN_BITS or ";16" in str(picture.tile)
            return Header(picture.size, picture.format, picture.mode in ("1", "L", "LA", *_SIXTEEN_BITS), deep)
    except Exception as fault:  # a foreign file can raise anything inside Pillow
        raise _unreadable(path, fault, []) from fault


def speaks(path: Path) -> bool:
    """Whether the file is a TIFF, whose reader writes to the process's standard error."""
    try:
        return contents.head(path)[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    except OSError:
        return False


def _opened(path: Path) -> Image.Image:
    """Of a JPEG the first picture alone: what follows in the files of phones and drones (MPO) is not looked at."""
    if contents.head(path).startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(path)
    return Image.open(path, formats=FORMATS)


def _choose(picture: Image.Image, path: Path) -> None:
    """Go to the one picture of a file; reduced copies of a TIFF (overviews) do not count."""
    count = getattr(picture, "n_frames", 1)
    frames = list(range(count))
    if picture.format == "TIFF" and count > 1:
        frames = [frame for frame in frames if not _reduced(picture, frame)]
        picture.seek(frames[0] if frames else 0)
    if len(frames) != 1:
        raise UserError(f"has {count} frames", path, "save the one that you want alone")
    if picture.format == "TIFF" and picture.tag_v2.get(_PLANAR) == 2 and max(picture.tag_v2.get(_BITS, (8,))) > 8:
        what = "has channels of 16 bits one behind the other, which Pillow mixes up"
        raise UserError(what, path, "save it with 8 bits a channel, or as PNG")
    width, height = picture.size
    if width * height > LARGEST:
        raise UserError(f"{width} x {height} pixels are more than {LARGEST:,}", path, "make it smaller")


def _reduced(picture: TiffImagePlugin.TiffImageFile, frame: int) -> bool:
    picture.seek(frame)
    return bool(picture.tag_v2.get(_SUBFILE, 0) & 1)


@contextlib.contextmanager
def _heard(said: list[str]) -> Iterator[None]:
    """Catch what libtiff writes to the standard error, where it tells faults without a file's name.

    Progress bars, which a thread of tqdm's may draw at any time, wait meanwhile.
    """
    shown = os.dup(2)
    with tqdm.get_lock(), tempfile.TemporaryFile() as words:
        os.dup2(words.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            words.seek(0)
            said += words.read().decode(errors="replace").splitlines()


def _upright(picture: Image.Image) -> tuple[Image.Image, str]:
    """A loaded picture as its EXIF orientation says, which Pillow obeys itself in a TIFF; and what is odd with it."""
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a foreign block can raise anything inside Pillow
        return picture, "EXIF that cannot be read, and are taken as upright"
    return picture if turn is None else picture.transpose(turn), ""


def _grey(picture: Image.Image, white: int, inverted: bool, path: Path) -> tuple[Image.Image, int]:
    """Sixteen-bit grey with 8 bits, rounded, and its largest value."""
    values = np.asarray(picture, np.int32)
    if values.min() < 0:
        raise UserError("has pixels below 0, whose black is unknown", path, "save it with values from 0 to 65,535")
    if values.max() > WHITES[-1]:
        raise UserError("has more than 16 bits a pixel", path, "save it with 8 or 16 bits")
    grey = ((510 * values + white) // (2 * white)).astype(np.uint8)  # white is odd: no value lies half-way
    grey = 255 - grey if inverted else grey
    if isinstance(clear := picture.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey), int(values.max())


def _plain(picture: Image.Image, channels: int, path: Path) -> Image.Image:
    try:
        if "A" in picture.getbands() or "transparency" in picture.info:
            above = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
        return picture.convert("L" if channels == 1 else "RGB")
    except ValueError as fault:
        raise UserError(f"has pixels of the kind {picture.mode}, which are not read", path, "save it as RGB") from fault


def _unreadable(path: Path, fault: Exception, said: list[str]) -> UserError:
    """What to say of a file with which its reader failed. said: what the reader told beside."""
    absent = contents.absent(path, fault)
    if absent:
        return absent
    kind, unknown = contents.kind(contents.head(path)), isinstance(fault, UnidentifiedImageError)
    if kind is None:
        return UserError("not readable as a picture: of no known kind", path, "save it as PNG or JPEG")
    if kind not in FORMATS:
        return UserError(f"its content is {kind}, which is not read", path, "convert it to PNG or JPEG")
    words = f"{kind}, damaged or of a rare kind" if unknown else str(fault) or type(fault).__name__
    words = "; ".join(said[:3]) or words
    return UserError(
        f"not readable as a picture: {words}", path, "copy it again, save it as PNG, or move it out of the folder"
    )
