"""A folder of pictures as a data set: its classes and parts, what is passed over, and whether the sizes fit.

Only names, and a table of labels, are looked at, so all of it is known, and every fault told at once, before the first
picture is decoded.
"""

import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pipeline.core import links
from pipeline.core.errors import UserError, UserErrors
from pipeline.data import labels, pictures
from pipeline.params.schema import Dataset

# What people call the parts of a set, and the kinds of file in it. One of them may be a class, as CIFAR-100's `train`.
_PARTS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_PARTS |= {"images", "imgs", "jpegimages", "pictures", "masks", "labels", "annotations", "segmentations", "thumbnails"}
# Endings of pictures that are not read: of phones and cameras, of doctors, of painters.
_UNREAD = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".dcm", ".nii"}


class Listing(NamedTuple):
    """The pictures of a folder, each with its class, "" where there are none; in the order of the bytes of their paths.

    test: None where test images are to be drawn from `train`. passed_over: pictures that no part has, by folder.
    lost: files that a table of labels names and that are not there. faults: what is wrong with the folder, whatever
    the sizes.
    """

    train: dict[Path, str]
    test: dict[Path, str] | None
    classes: list[str]
    passed_over: dict[str, int]
    lost: list[str]
    faults: list[UserError]

    def told(self) -> str:
        """What was understood, in a line."""
        test = self.test or {}
        count = Counter([*self.train.values(), *test.values()])
        images, bare = count.total(), count.pop("", 0)
        each = ", ".join(f"{name} {n:,}" for name, n in sorted(count.items())[: labels.SHOWN])
        each += (
            f", ... ({min(count.values()):,} to {max(count.values()):,} a class)" if len(count) > labels.SHOWN else ""
        )
        found = f"{len(self.classes)} classes: {each}"
        if self.classes == [""]:
            found, bare = "no classes, since no picture lies in a class folder", 0
        over = "".join(f", {n:,} in {name}/ passed over" for name, n in self.passed_over.items())
        parts = f" ({len(self.train):,} in train/, {len(test):,} in test/)" if test else ""
        without = f", {bare:,} without a label" if bare else ""
        lost = f", {len(self.lost):,} of the table's files missing ({labels.some(self.lost)})" if self.lost else ""
        return f"{found}; {images:,} pictures{parts}{without}{over}{lost}"

    def known(self) -> int:
        """Pictures to learn from that have a label; all of them where none has one."""
        return sum(name != "" for name in self.train.values()) or len(self.train)


def read(dataset: Dataset) -> Listing:
    """The pictures of `dataset.path`; UserErrors that name all that is wrong with them or with the sizes."""
    listing = look(dataset)
    faults = [*listing.faults, *misfits(listing, dataset)]
    if faults:
        raise UserErrors(faults)
    return listing


def look(dataset: Dataset) -> Listing:
    """The pictures of `dataset.path`, whatever the sizes; UserErrors if they cannot be listed."""
    root, faults = Path(dataset.path), []
    if not root.is_dir():
        raise UserError("is no folder" if root.exists() else "not found", root, "let dataset.path lead to one")
    parts = [root / name for name in ("train", "test")]
    there = [part for part in parts if part.is_dir()]
    if dataset.test_size is None and len(there) == 1:
        missing = next(part for part in parts if part not in there)
        raise UserError(
            "not found", missing, "make it, or set test_size and let dataset.path lead to the class folders"
        )
    if dataset.test_size is not None and len(there) == 2:
        faults.append(UserError("holds train/ and test/", root, "set test_size to null: test/ is the test set"))
    drawn = not there if dataset.test_size is None else len(there) < 2
    found, lost = _labelled(dataset, [root] if drawn else parts, faults)
    train, test = (found[0], None) if drawn else found
    classes = sorted(set(train.values()) - {""}) or [""]
    strange = set((test or {}).values()) - set(classes)
    unnamed = [repr(path.name) for part in found for path in part if not _is_text(path.relative_to(root))]
    if unnamed:
        what = f"{len(unnamed):,} pictures have names that are no UTF-8, as DVC wants: {labels.some(unnamed)}"
        faults.append(UserError(what, root, "rename them (convmv does)"))
    if dataset.labels is not None and "" in strange:
        n = sum(label == "" for label in test.values())
        what = f"{n:,} pictures of test/ have no label"
        faults.append(UserError(what, root / dataset.labels, "give them one, or take them out of test/"))
        strange -= {""}
    if strange == {""}:
        remedy = f"let dataset.path lead to {root / 'train'} and set dataset.test_size, or give a table of labels"
        faults.append(UserError("has no class folders, and train/ has", root / "test", remedy))
    elif strange:
        what = f"{labels.some(sorted(name or 'no class' for name in strange))}: no class of train/"
        remedy = "put pictures of it into train/ too, or move it out of test/"
        faults.append(UserError(what, root / "test", remedy))
    if len(classes) == 1 and classes != [""]:
        n = sum(label != "" for label in train.values())
        what = f"all {n:,} pictures are of one class, {classes[0]!r}, so there is nothing to tell apart"
        inside = root / classes[0] if drawn else f"{root}/*/{classes[0]}"
        remedy = f"if {inside} holds the class folders, or pictures without classes, let dataset.path lead there"
        tables = sorted(path.name for path in root.glob("*.csv"))
        if tables:
            remedy = f"if {tables[0]} has the labels, set dataset.labels (leaven dataset {root} --labels {tables[0]})"
        if dataset.labels is not None:
            remedy = "let dataset.label_column name another column"
        faults.append(UserError(what, root, remedy))
    count = Counter(label for label in train.values() if label)
    if len(classes) > 2 and 2 * sum(n == 1 for n in count.values()) > len(count):
        what = f"{sum(n == 1 for n in count.values()):,} of {len(count):,} classes have one picture"
        remedy = "put them into the folders of real classes, or none at all if they have no classes"
        remedy = "name a column of classes in dataset.label_column" if dataset.labels else remedy
        faults.append(UserError(what, root, f"nothing is learned of such a class: {remedy}"))
    return Listing(train, test, classes, {} if drawn else _passed_over(root, parts), lost, faults)


def _labelled(dataset: Dataset, parts: list[Path], faults: list[UserError]) -> tuple[list[dict[Path, str]], list[str]]:
    """The pictures of each part with their classes, and the files of a table of labels that are none of them."""
    root, found, unread = Path(dataset.path), [], []
    for part in parts:
        try:
            if dataset.labels is None:
                found.append(_with_classes(part, root, faults))
            else:
                found.append(dict.fromkeys(pictures.find(part, root, root / dataset.labels), ""))
        except UserError as fault:
            unread += fault.faults
    if unread:
        raise UserErrors(faults + unread)
    if dataset.labels is None:
        return found, []
    table = labels.Table(root / dataset.labels, dataset.label_column)
    named, lost, wrong = table.of([path for part in found for path in part], root)
    faults += wrong
    return [{path: named[path] for path in part} for part in found], lost


def misfits(listing: Listing, dataset: Dataset) -> list[UserError]:
    """The sizes of `dataset` that ask for more pictures than there are."""
    images, drawn, faults = len(listing.train), dataset.test_size or 0, []
    if listing.test is None and dataset.test_size is None:
        faults.append(("test_size", "is null, and there is neither train/ nor test/"))
    if drawn >= images:
        faults.append(("test_size", f"{drawn} >= {images} pictures"))
    if listing.test is not None and len(listing.test) < 2:
        faults.append(("test_size", f"is null, and test/ holds {len(listing.test)} pictures: two at least are needed"))
    known = listing.known() if dataset.labels is not None else images
    faults += dataset.beyond(max(images - drawn, 0), max(known - drawn, 0))
    return [UserError(f"{name} {what}", dataset.path) for name, what in faults]


def _with_classes(root: Path, whole: Path, faults: list[UserError]) -> dict[Path, str]:
    """The pictures of a folder, and the class folder of each; "" for all if there are no class folders."""
    parts = {path: path.relative_to(root).parts for path in pictures.find(root, whole)}
    flat = [path.name for path, names in parts.items() if len(names) == 1]
    names = sorted({names[0] for names in parts.values() if len(names) > 1})
    odd = [repr(name) for name in names if not name.isprintable()]
    empty = _unread(root, names) if names else []
    if empty:
        what = f"class folders without a picture that can be read: {labels.some(empty)}"
        remedy = f"save them as one of {', '.join(pictures.ENDINGS)}, or take the folder away"
        faults.append(UserError(what, root, remedy))
    known = [name for name in names if name.casefold() in _PARTS]
    if odd:
        what = f"class folders {labels.some(odd)} have characters that do not print"
        faults.append(UserError(what, root, "rename them"))
    if flat and names:
        what = f"{len(flat):,} pictures lie beside class folders: {labels.some(flat)}"
        faults.append(UserError(what, root, "put every picture into a class folder, or none"))
    if len(known) > 1:
        remedy = (
            f"let dataset.path lead to {root / known[0]} if the class folders are there; a folder with a test part "
        )
        remedy += "of its own has train/ and test/ (links will do), and test_size is null"
        faults.append(UserError(f"{labels.some(known)}: parts of a set, taken for classes", root, remedy))
    elif _one_level_too_high(list(parts.values())):
        what = f"{labels.some(names)}: the same folders lie in each, so those may be the classes"
        remedy = (
            f"let dataset.path lead to {root / names[0]}; if not, put the pictures into {labels.some(names)} themselves"
        )
        faults.append(UserError(what, root, remedy))
    return {path: _name(names[0]) if len(names) > 1 else "" for path, names in parts.items()}


def _is_text(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def _name(folder: str) -> str:
    """A class's name: folders whose names look equal on a screen are one class (Unicode's forms, blanks at the end)."""
    return unicodedata.normalize("NFC", folder).strip()


def _unread(root: Path, classes: list[str]) -> list[str]:
    """Names of the folders, beside those of classes, of whose files most are pictures of formats that are not read."""
    beside = (path for path in root.iterdir() if path.is_dir() and path.name not in classes)
    found = {path.name: [file for file in links.walk(path) if file.name[0] != "."] for path in sorted(beside)}
    unread = {name: sum(file.suffix.lower() in _UNREAD for file in inside) for name, inside in found.items()}
    return [name for name, n in unread.items() if 2 * n > len(found[name]) and not name.startswith((".", "__"))]


def _one_level_too_high(parts: list[tuple[str, ...]]) -> bool:
    """Whether all pictures lie two folders deep, and most of the inner folders' names come in several outer ones."""
    if any(len(names) < 3 for names in parts):
        return False
    count = Counter(inner for _, inner in {names[:2] for names in parts})
    shared = sum(n > 1 for n in count.values())
    return shared > 1 and 2 * shared >= len(count)


def _passed_over(root: Path, parts: list[Path]) -> dict[str, int]:
    """Pictures beside train/ and test/, by the name of the folder that holds them; "." for those in no folder."""
    count: Counter[str] = Counter()
    for path in links.walk(root, lambda path: path not in parts and not path.name.startswith(".")):
        names = path.relative_to(root).parts
        if path.suffix.lower() in pictures.ENDINGS and not path.name.startswith("."):
            count[names[0] if len(names) > 1 else "."] += 1
    return dict(sorted(count.items()))
