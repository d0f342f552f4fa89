"""A folder of pictures, looked at before anything is asked of it: what is there, the parameters that fit, a picture.

The pictures are decoded once, at the size that is proposed: the stage `prepare` finds them in the store.
"""

import difflib
import math
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core import outputs
from pipeline.core.errors import UserError, UserErrors
from pipeline.data import datasets, decoding, folders, pictures
from pipeline.params import presets, reader, sizes
from pipeline.params.data import SETS, labelled, shape
from pipeline.params.schema import Dataset, Params
from pipeline.run import remarks

LARGEST = 64  # pixels of a side that is proposed; larger ones are for who asks, and has the time
SHEET = Path("dataset.png")
STEMS = {48: "3x3", 96: "3x3-pool", math.inf: "7x7"}  # of the ResNet, for images of fewer pixels a side
COARSEST, LEVELS = 16, 6  # pixels a side at which the UNet may attend, in its coarsest level; levels that it may have
CLASSES, COLUMNS = 12, 12  # of the sheet


class Wish(NamedTuple):
    """What a person has decided already; None where not. few: labels that may be used, of more."""

    labels: str | None = None
    label_column: str | None = None
    size: int | None = None
    channels: int | None = None
    resize: str | None = None
    few: int | None = None


@dataclass
class Survey:
    """What was found: words for people, the values that fit by their path in params.yaml, some pictures.

    labelled: whether pictures have classes. test: how many of them are test pictures.
    """

    words: list[str]
    values: dict[tuple, object]
    sheet: list[tuple[str, np.ndarray]]
    labelled: bool
    test: int


def survey(folder: Path, wish: Wish, params: Params) -> Survey:
    """Look at all pictures below the folder; UserErrors that name what must be mended first.

    params: the parameters that stand, whose sizes are kept where they fit.
    """
    if not folder.exists():
        near = difflib.get_close_matches(str(folder), SETS, 1)
        remedy = f"did you mean {near[0]}?" if near else f"name a folder of pictures, or one of {', '.join(SETS)}"
        raise UserError("no such folder", folder, remedy)
    asked = _asked(folder, wish, params.dataset)
    listing = folders.look(asked)
    if listing.faults:
        raise UserErrors(listing.faults)
    if wish.few and listing.classes == [""]:
        raise UserError("pictures without labels, of which none can be used", folder, "leave --labels out")
    if wish.few and wish.few > listing.known():
        what = f"{wish.few:,} labels are asked for, and {listing.known():,} are there"
        raise UserError(what, folder, "lower --labels, or leave it out")
    pictured = listing.train | (listing.test or {})
    named = pictures.headers(pictured)
    headers = list(named.values())
    asked = asked.model_copy(update=_shape(headers, wish))
    drawn, few = listing.test is None, wish.few or len(listing.train)
    _values(asked, params, len(listing.train), min(listing.known(), few), drawn)  # or refused, undecoded
    images, labels = datasets.decoded(asked, list(pictured)), datasets.numbers(pictured, listing.classes)
    if listing.test:
        datasets.refuse_copies(images, list(pictured), len(listing.train), asked.path)
    alone = datasets.without_copy(images)
    judging = alone & (labels >= 0 if (labels >= 0).any() else True)
    known = min(int(judging[: len(listing.train)].sum()), few)
    if known < sizes.FEWEST:
        what = f"{known} pictures to share out, with labels and without a copy, are fewer than {sizes.FEWEST}"
        what += f" ({int((~alone).sum()):,} equal another)" * (not alone.all())
        raise UserError(what, folder, "it takes more pictures to learn anything")
    values = _values(asked, params, len(listing.train), known, drawn)
    words = [
        f"{asked.path}: {listing.told()}",
        *remarks.looks(headers, asked),
        *remarks.small(named, asked.image_size),
        *remarks.unlabelled(listing.classes),
        *remarks.copies(alone),
        *remarks.unequal(labels),
    ]
    labelled, test = listing.classes != [""], values["dataset", "test_size"] or len(listing.test or ())
    words += [] if labelled else remarks.tables(folder)
    words += [remarks.shares(values, len(listing.train)), *remarks.kept(params.dataset, asked.path)]
    words += remarks.in_git(folder)
    words += remarks.warnings(values, test if labelled else None)
    return Survey(words, values, some(images, labels, listing.classes), labelled, test)


def path_of(folder: Path) -> str:
    """How params.yaml names a folder: from the clone if it lies there, else whole."""
    path, here = Path(os.path.abspath(folder)), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def _asked(folder: Path, wish: Wish, before: Dataset) -> Dataset:
    """The folder as a data set; its shape is not known yet."""
    own = all((folder / part).is_dir() for part in ("train", "test"))
    known = {
        "name": "folder",
        "path": path_of(folder),
        "image_size": LARGEST,
        "channels": 3,
        "resize": wish.resize or "crop",
        "labels": _inside(wish.labels, folder),
        "label_column": wish.label_column,
        "test_size": None if own else 2,
    }
    return Dataset(**before.model_dump() | known)


def _shape(headers: list[decoding.Header], wish: Wish) -> dict[str, int]:
    """Sides of a multiple of four, which the default's UNet halves twice, and channels."""
    middle = statistics.median(min(header.size) for header in headers) if headers else LARGEST
    side = max(8, min(LARGEST, int(middle) // 4 * 4))
    grey = bool(headers) and all(header.grey for header in headers)
    return {"image_size": wish.size or side, "channels": wish.channels or (1 if grey else 3)}


def _values(asked: Dataset, params: Params, images: int, known: int, drawn: bool) -> dict[tuple, object]:
    """Values by their path: the data set, sizes of its parts that fit, what goes with its images' size and colour."""
    asked = asked.model_copy(update={"test_size": None})
    fitting = sizes.fitting(params.model_copy(update={"dataset": asked}), images, known, drawn)
    values = {("dataset", name): value for name, value in asked.model_dump().items()}
    side, channels, _ = shape(asked)
    values |= _recipe(side, channels, params)
    values |= fitting
    _refuse_faults(values, params)
    return values


def _recipe(side: int, channels: int, params: Params) -> dict[tuple, object]:
    """What images of this size and colour want of augmentation and networks, by its path.

    Strong augmentation of colour is learned too slowly for the default's length (docs/guide/own-images.md has the
    numbers). A stem that halves or quarters costs less and sees more of a large image. Attention in the UNet's coarsest
    level costs as the fourth power of its side, so a large image has more levels.
    """
    found = {
        ("augment", "form"): "grey" if channels == 1 else "colour",
        ("augment", "strength"): params.augment.strength,
    }
    if channels == 3:
        found["augment", "strength"] = min(1.0, params.augment.strength)
    stem = next(name for most, name in STEMS.items() if side < most)
    for path, backbone in (
        (("pretrain",), params.pretrain.backbone),
        (("conditioned", "encoder"), params.conditioned.encoder.backbone),
    ):
        if backbone.kind == "resnet":
            found[*path, "backbone", "stem"] = stem
    for name in ("ddpm", "conditioned"):
        given = getattr(params, name).channels
        levels = [*given, *[given[-1]] * LEVELS][:LEVELS]
        enough = (k for k in range(LEVELS) if side % 2 ** (k + 1) or (k + 1 >= len(given) and side >> k <= COARSEST))
        found[name, "channels"] = levels[: next(enough, LEVELS - 1) + 1]
    return found


def _refuse_faults(values: dict[tuple, object], params: Params) -> None:
    """UserErrors that name what the parameters, with these values, cannot have."""
    _, faults = reader.changed(params, values)
    if faults:
        raise UserErrors([UserError(what, ".".join(map(str, where))) for where, what in faults])


def few_labels(params: Params, few: int) -> dict[tuple, object]:
    """Sizes by their path, for a published set of which so many labels may be used; those alone that must change."""
    (_, _, images), known = shape(params.dataset), labelled(params.dataset.name)
    if few > known:
        raise UserError(f"{few:,} labels are asked for, and {known:,} are there", params.dataset.name, "lower --labels")
    return sizes.fitting(params, images, few, drawn=False)


_UNPACKED = {"fashion-mnist": "data/FashionMNIST", "tiny-imagenet": "data/tiny-imagenet/tiny-imagenet-200"}


def named(name: str, params: Params) -> dict[tuple, object]:
    """The values of a published set in data/NAME, with sizes that fit it."""
    path = _UNPACKED.get(name, f"data/{name}")
    if not Path(path).exists():
        raise UserError("neither a folder nor a fetched set", name, f"leaven fetch {name}")
    own = dict.fromkeys(("image_size", "channels", "resize", "labels", "label_column"))
    asked = params.dataset.model_copy(update={"name": name, "path": path, **own})
    _, _, images = shape(asked)
    return _values(asked, params, images, labelled(name), drawn=False)


def _inside(labels: str | None, folder: Path) -> str | None:
    """The table's name as seen from the folder, also of one that was named from here."""
    if labels is None or not Path(labels).exists() or (not Path(labels).is_absolute() and (folder / labels).exists()):
        return labels
    table, folder = Path(labels).resolve(), folder.resolve()
    if not table.is_relative_to(folder):
        raise UserError("lies outside the folder, whose changes DVC watches", labels, f"put it into {folder}")
    return table.relative_to(folder).as_posix()


def some(images: np.ndarray, labels: np.ndarray, classes: list[str]) -> list[tuple[str, np.ndarray]]:
    """Pictures of each class, evenly chosen, under its name and their number, for outputs.contact_sheet."""
    names = [(k, name) for k, name in enumerate(classes[:CLASSES]) if name]
    names += [(-1, "no label" if names else "pictures")] * bool((labels < 0).any())
    rows = {name: np.flatnonzero(labels == k) for k, name in names}
    return [
        (f"{name} ({len(row):,})", images[row[np.linspace(0, len(row) - 1, min(COLUMNS, len(row))).astype(int)]])
        for name, row in rows.items()
    ]


def propose(folder: Path, wish: Wish, write: bool) -> None:
    """Print what a folder, or a published set, holds and the parameters that fit it; write: into params.yaml.

    UserErrors, and nothing written, where a wish makes parameters that cannot be.
    """
    params = reader.load()
    if str(folder) in SETS and not folder.exists():
        if any(wish):
            raise UserError("has its own size and labels", folder, "leave the options out")
        values = named(str(folder), params)
        for line in remarks.kept(params.dataset, values["dataset", "path"]):
            print(line)
    else:
        found = survey(folder, wish, params)
        outputs.contact_sheet(SHEET, found.sheet, columns=COLUMNS, rows=1)
        print("\n".join([*found.words, f"contact sheet: {SHEET}"]))
        values = found.values
    before = presets.leaves(params.model_dump())
    changed = {where: value for where, value in values.items() if before[where] != value}
    for where, value in changed.items():
        print(f"  {'.'.join(where)}: {'null' if value is None else value}")
    if not changed:
        print("params.yaml has all of it already")
    elif write:
        presets.write(values)
        print("written into params.yaml; next: dvc repro")
