"""Picture files of any kind -> uint8 (H, W, C) of one size, always by the same rule.

A picture is turned as its EXIF orientation says. Sixteen-bit grey is divided by 257. Transparent pixels are blended
with white. Palettes, CMYK and the like become RGB; one channel is the ITU-R 601 luma. Then the central square is
cropped and resized to `size` (bicubic, antialiased). Files with several frames, floating-point pixels or damage are
refused by name.
"""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from pipeline.core import access
from pipeline.core.errors import UserError
from pipeline.core.progress import bar, log

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")  # by content; others start programs (EPS) or are rare
LARGEST = 100_000_000  # pixels; a small file can decode to more memory than there is
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


def find(folder: Path) -> list[Path]:
    """All pictures below a folder, in the order of the bytes of their paths; hidden files are skipped silently.

    Other files, by their ending, are reported and skipped. UserError if there is no picture, or if a link leads out of
    the folder.
    """
    folder = Path(folder)
    pictures, others = [], []
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_dir():
            raise UserError("a link to a folder, which is not followed", path, "copy the folder there")
        if not _leads_inside(path, folder):
            raise UserError("a link that leads out of the folder", path, "copy the file there, or remove the link")
        if not path.is_file():
            raise UserError("no file that can be read", path, "remove it")
        (pictures if path.suffix.lower() in ENDINGS else others).append(path)
    if not pictures:
        raise UserError("holds no pictures", folder, f"they end in {', '.join(ENDINGS)}")
    if others:
        first = ", ".join(sorted(path.name for path in others)[:3])
        log(f"{folder}: {len(others)} files are no pictures and are left out ({first}{', ...' if others[3:] else ''})")
    return sorted(pictures, key=lambda path: os.fsencode(path.relative_to(folder)))


def _leads_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that form a circle
        return False


def read_all(paths: list[Path], size: int, channels: int) -> np.ndarray:
    """uint8 (N, size, size, channels) of N files."""
    images = np.empty((len(paths), size, size, channels), np.uint8)
    with bar("reading pictures", len(paths), "picture") as progress:
        for i, path in enumerate(paths):
            images[i] = read(path, size, channels)
            progress.update()
    return images


def read(path: Path, size: int, channels: int) -> np.ndarray:
    """One picture as uint8 (size, size, channels), channels 1 or 3; UserError if that is impossible."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata, and about size, which LARGEST limits
            with Image.open(path, formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > LARGEST:
                    raise UserError(f"{width} x {height} pixels are more than {LARGEST:,}", path, "make it smaller")
                if getattr(picture, "n_frames", 1) > 1:
                    raise UserError(f"has {picture.n_frames} frames", path, "save the one that you want alone")
                turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
                plain = _plain(picture if turn is None else picture.transpose(turn), channels, path)
    except (UserError, MemoryError):
        raise
    except Exception as fault:  # a foreign file can raise anything inside Pillow
        what = f"not readable as a picture: {str(fault) or type(fault).__name__}"
        raise access.of_the_system(fault, path, "read") or UserError(what, path, "replace or remove it") from fault
    fitted = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(fitted, np.uint8).reshape(size, size, channels)


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


def _plain(picture: Image.Image, channels: int, path: Path) -> Image.Image:
    if picture.mode == "F":
        raise UserError("has floating-point pixels, whose white is unknown", path, "save it with 8 or 16 bits")
    if picture.mode in _SIXTEEN_BITS:
        values = np.asarray(picture, np.int32)
        if values.min() < 0 or values.max() > 65_535:
            raise UserError("has more than 16 bits a pixel", path, "save it with 8 or 16 bits")
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        above = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return picture.convert("L" if channels == 1 else "RGB")
