"""Real images and their mixture with generated ones; facts of the named data sets, known before a byte is read."""

import os
from fractions import Fraction
from math import ceil
from pathlib import PurePath
from typing import Literal

from pipeline.core.shares import real_share, rounded
from pipeline.params.ranges import Count, CountOrZero, NonNegative, Pixels, Positive, Probability, Seed, Several, Share
from pipeline.params.types import Faults, Refused, Section, rule

# Height = width, channels and training images of the named sets.
SETS = {
    "fashion-mnist": (28, 1, 60_000),
    "cifar10": (32, 3, 50_000),
    "cifar100": (32, 3, 50_000),
    "stl10": (96, 3, 105_000),
    "svhn": (32, 3, 73_257),
    "tiny-imagenet": (64, 3, 100_000),
}
WITH_LABELS = {"stl10": 5_000}  # of the training images, where not all of them
TESTS = {"stl10": 8_000, "svhn": 26_032}  # test images, where not 10,000
SetName = Literal[(*SETS, "folder")]


def shape(dataset: "Dataset") -> tuple[int, int, int | None]:
    """Height = width, channels and training images of a set; None where only its files can tell."""
    return SETS.get(dataset.name) or (dataset.image_size, dataset.channels, None)


def side(p) -> int:
    """Height = width of the images that the parameters name, for a rule: refused where a folder lacks it."""
    size, _, _ = shape(p.dataset)
    if size is None:
        raise Refused
    return size


def labelled(name: str) -> int | None:
    """How many training images of a set have labels; None where only its files can tell."""
    return WITH_LABELS.get(name, SETS[name][2] if name in SETS else None)


def tested(name: str) -> int | None:
    """How many test images a set has; None where only its files can tell."""
    return TESTS.get(name, 10_000) if name in SETS else None


def its_own(name: str, given: int) -> str:
    """What to say of a number that a named set brings along."""
    return f"must be null for {name}, which has its own, not {given}"


class Dataset(Section):
    """The real images: which, how many, and how they are split."""

    name: SetName
    """The data set; `folder` is a folder of your own pictures."""
    path: str
    """Where its files are."""
    image_size: Pixels | None
    """Height and width of a folder's pictures in pixels; null for a named set, which has its own."""
    channels: Literal[1, 3] | None
    """Channels of a folder's pictures, 1 (grey) or 3 (RGB); null for a named set."""
    resize: Literal["crop", "pad", "stretch"] | None
    """How a folder's picture becomes a square: its middle, black beside it, or another shape; null for a named set."""
    labels: str | None
    """A CSV in the folder that gives pictures their labels; null: the class folders do."""
    label_column: str | None
    """Its column of labels; null where it has but one."""
    test_size: Several | None
    """Test images taken from a folder; null if it has train/ and test/, and for a named set."""
    train_size: Count
    """Real images that the generator and the encoder are trained on."""
    validation_size: CountOrZero
    """Validation images, for every choice, that no generator or encoder sees; 0: the probe cross-validates on train."""
    labelled_size: Count
    """Labelled images of the second linear probe, the same whatever `train_size` is."""
    spare_size: CountOrZero
    """Further real images for the judges of generated images; no generator or encoder sees them."""
    ceiling_size: CountOrZero
    """Further real images for `generator.source` real, where they stand in for generated ones; 0: none."""
    seed: Seed
    """Seed of the split."""

    @rule
    def folder(self) -> Faults:
        """A folder's size and channels are chosen; those of a named set are its own."""
        needed = {"image_size": "a number", "channels": "1 or 3", "resize": "crop, pad or stretch"}
        for name in (*needed, "labels", "label_column", "test_size"):
            given = getattr(self, name)
            if self.name != "folder" and given is not None:
                yield name, its_own(self.name, given)
            if self.name == "folder" and given is None and name in needed:
                yield name, f"must be {needed[name]} for a folder of pictures, not null"
        table = os.path.normpath(os.path.join(self.path, self.labels or ""))
        if self.labels is not None and not PurePath(table).is_relative_to(os.path.normpath(self.path)):
            yield "labels", f"{self.labels} lies outside the folder, whose changes DVC watches: put it into {self.path}"
        if self.name == "folder" and PurePath("data/real").is_relative_to(os.path.normpath(self.path)):
            yield "path", f"{self.path} is where the pipeline writes: put the pictures into a folder of their own"
        if self.label_column is not None and self.labels is None:
            yield "label_column", f"{self.label_column!r} is a column of dataset.labels, which is null"

    @rule
    def split(self) -> Faults:
        """The split fits the set."""
        _, _, images = shape(self)
        if images is not None:
            yield from self.beyond(images, labelled(self.name))

    def beyond(self, images: int, known: int) -> Faults:
        """The parts that are larger than what there is: training images, of which so many have a label."""
        alike = " with labels" if known < images else ""
        for name, there, words in (("train_size", images, ""), ("labelled_size", known, alike)):
            wanted = getattr(self, name)
            if wanted + self.validation_size > there:
                yield name, f"{wanted} + validation_size {self.validation_size} > {there} images{words}"
        left = images - self.validation_size - max(self.train_size, self.labelled_size)  # at most
        for name in ("spare_size", "ceiling_size"):
            if 0 <= left < getattr(self, name):
                yield name, f"{getattr(self, name)} > {left} images that the other parts leave"
            left -= getattr(self, name)

    @rule
    def spread(self) -> Faults:
        """One image has no spread."""
        for name in ("validation_size", "spare_size"):
            if getattr(self, name) == 1:
                yield name, "must be 0 or at least 2, not 1"


class Inflation(Section):
    """The mixture of real and generated images that the encoder is trained on (AdaInf's data inflation)."""

    ratio: NonNegative
    """Generated images, as a multiple of `dataset.train_size`; 0 for none."""
    score: Literal["none", "density_ratio", "coverage"]
    """What each generated image is scored by: how real a classifier finds it, or which train images it comes near."""
    select: Share
    """The share of generated images that take part, those of the highest scores; 1 for all."""
    weighting: Literal["uniform", "density_ratio"]
    """How often each of these is drawn: all alike, or in proportion to the density ratio."""
    real_weight: Positive
    """How often a real image is drawn for one draw of a generated image (AdaInf: N = 10)."""
    final_real_share: Probability | None
    """The real share of batches at the end, to which it moves in a line; null: it stays as the others make it."""
    order: Literal["slots", "copies"]
    """`slots`: an exact share of every batch, no image twice in it. `copies`: the authors' shuffled list."""
    seed: Seed
    """Seed of the order in which images are drawn."""

    @rule
    def whole_copies(self) -> Faults:
        """A list holds whole copies of an image."""
        if self.order == "copies" and self.real_weight % 1:
            yield "real_weight", f"must be whole with order copies, not {self.real_weight}"

    @rule
    def in_slots(self) -> Faults:
        """A list has neither weights but whole copies, nor an end."""
        if self.order == "copies":
            if self.weighting != "uniform":
                yield "weighting", f"must be uniform with order copies, not {self.weighting}"
            if self.final_real_share is not None:
                yield "final_real_share", f"must be null with order copies, not {self.final_real_share}"

    @rule
    def scored(self) -> Faults:
        """What is chosen by scores has scores."""
        if self.select < 1 and self.score == "none":
            yield "select", f"must be 1 with inflation.score none, not {self.select}"
        if self.weighting == "density_ratio" and self.score != "density_ratio":
            yield "weighting", f"density_ratio needs inflation.score density_ratio, not {self.score}"


def generated(p) -> int:
    """Generated images that are sampled."""
    return rounded(p.inflation.ratio, p.dataset.train_size)


def kept(p) -> int:
    """Generated images that take part."""
    return rounded(p.inflation.select, generated(p))


def real_shares(p) -> tuple[Fraction, Fraction]:
    """The real share of the first and of the last batch."""
    first, end = real_share(p.dataset.train_size, kept(p), p.inflation.real_weight), p.inflation.final_real_share
    return first, first if end is None else Fraction(str(end))


def scored(p) -> Faults:
    """Halves of real and of generated images have one of each, and a share holds an image."""
    n, made, wanted = p.dataset.train_size, generated(p), p.inflation
    if made and wanted.score == "density_ratio" and min(n, made) < 2:
        yield ("inflation", "score"), f"density_ratio needs two train images and two generated ones, not {n} and {made}"
    if made and not kept(p):
        yield ("inflation", "select"), f"{wanted.select} of {made} generated images is none"


def mixture(p) -> Faults:
    """No batch needs more images of a kind than there are."""
    if p.inflation.order == "copies":
        return
    n, made, batch, shares = p.dataset.train_size, kept(p), p.pretrain.batch_size, real_shares(p)
    for kind, share, there in (("real", max(shares), n), ("generated", 1 - min(shares), made)):
        needed = ceil(share * batch)
        if needed > there:
            what = f"a batch of {batch} at inflation.ratio {p.inflation.ratio} needs {needed} {kind} images"
            yield ("pretrain", "batch_size"), f"{what}; there are {there}"


RULES = (scored, mixture)
