"""What a file is, by its first bytes and whatever its name says; no more of it is read, and nothing is decoded."""

from pathlib import Path

from PIL import Image

from pipeline.core import access
from pipeline.core.errors import UserError

_MARKS = (  # (place, bytes, what it is, what helps); letters count in either case
    (0, b"version https://git-lfs", "is a Git LFS pointer: the content itself is not here", "git lfs pull"),
    (0, b"/annex/objects/", "is a git-annex pointer: the content itself is not here", "git annex get"),
    (0, b"<!doctype html", "is a page of HTML, as a failed download leaves", "download it again"),
    (0, b"<html", "is a page of HTML, as a failed download leaves", "download it again"),
)
_KINDS = (  # (place, bytes, kind) of what is no kind of Pillow's
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftyphevc", "HEIC"),
    (4, b"ftypmif1", "HEIC or AVIF"),
    (4, b"ftypmsf1", "HEIC or AVIF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyp", "a video or a raw photograph"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML, as SVG is"),
    (0, b"%PDF", "PDF"),
    (0, b"\0\0\x02\0\0\0\0\0", "TGA"),  # which Pillow takes for a cursor
    (0, b"\0\0\x0a\0\0\0\0\0", "TGA"),
    (128, b"DICM", "DICOM"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "HDF5"),
)
_READ = 512


def head(path: Path) -> bytes:
    """The first bytes of a file."""
    with open(path, "rb") as file:
        return file.read(_READ)


def absent(path: Path, fault: Exception) -> UserError | None:
    """What to say if a reader failed with no content of its kind: the system's refusal, or what stands in its place."""
    told = access.of_the_system(fault, path, "read")
    if told:
        return told
    first = head(path)
    if not first.strip(b"\0"):
        what = "begins with nothing but zeros, as a full disk or a crash leaves" if first else "is empty"
        return UserError(what, path, "copy it again from where it came")
    found = ((what, remedy) for place, mark, what, remedy in _MARKS if _has(first, place, mark))
    return next((UserError(what, path, remedy) for what, remedy in found), None)


def kind(first: bytes) -> str | None:
    """The kind of picture or document; None if there is no telling. Pillow's names where it knows the kind."""
    own = next((name for place, mark, name in _KINDS if _has(first, place, mark)), None)
    if own:
        return own
    Image.init()  # only now: it imports all of Pillow's formats, of which none opens anything
    return next((name for name in Image.ID if _accepts(name, first)), None)


def _accepts(name: str, first: bytes) -> bool:
    try:
        return Image.OPEN[name][1](first) is True
    except Exception:  # some unpack what a short file lacks, others have no such look
        return False


def _has(first: bytes, place: int, mark: bytes) -> bool:
    text = first.lstrip() if mark.startswith(b"<") else first
    return text[place : place + len(mark)].lower() == mark.lower()
