"""How generated images and encoders are judged."""

from typing import Literal

from pydantic import Field

from pipeline.params.data import Dataset, SetName, its_own, labelled
from pipeline.params.ranges import Count, CountOrZero, Pixels, Positive, Seed, Several, Share, Strength
from pipeline.params.training import PretrainedWeights, Training
from pipeline.params.types import Faults, Section, rule, told


def spelled(share: float) -> tuple[str, ...]:
    """A share as DVC may call it: params.yaml has 1 or 1.0."""
    return tuple(dict.fromkeys((str(share), f"{share:g}")))


class Quality(Section):
    """Judging generated images beside real ones that no generator saw."""

    images: CountOrZero
    """Generated images that are judged, against twice as many validation images; 0 for none."""
    steps: Count
    """Training steps of the networks that judge: the features', and the classifier of generated and real images."""
    inception: str | None
    """A local file with torch-fidelity's Inception weights for the features; null: a network trained here."""
    seed: Seed
    """Seed of these trainings and of the choice of images."""

    @rule
    def spread(self) -> Faults:
        """One image has no spread."""
        if self.images == 1:
            yield "images", "must be 0 or at least 2, not 1"


class Baseline(PretrainedWeights):
    """A network that one can download, frozen, judged beside the encoder: does pretraining beat it?"""

    source: Literal["none", "file", "hub"]
    """Where its weights are; `none`: no such row."""
    name: str | None
    """timm's name of the network, such as `resnet18`; null without source. torchvision's ResNets fit timm's names."""
    size: Pixels | None
    """Pixels that images are enlarged to for it, such as the 224 of ImageNet; null: as they are."""

    @rule
    def named(self) -> Faults:
        """Weights want their network."""
        if (self.name is None) != (self.source == "none"):
            wanted = "null with source none" if self.source == "none" else f"given with source {self.source}"
            yield "name", f"must be {wanted}, not {told(self.name)}"
        if self.source == "none" and self.size is not None:
            yield "size", f"must be null with source none, not {self.size}"


class LinearEval(Section):
    """The linear probe on frozen features, and measures without labels."""

    l2: list[Positive] = Field(min_length=1)
    """Regularisation strengths of the probe; the best on validation is taken, without one in cross-validation."""
    clsp_lr: Positive
    """Learning rate of CLSP's protocol (1; 10 for CLSP's MoCo on CIFAR-100)."""
    view_strength: Strength
    """`augment.strength` of the views that measures without labels look at: one for all encoders to be compared."""
    offline: Literal["sgd", "lars"] | None
    """Also solo-learn's protocol: a linear layer trained by this on features of random crops and flips; null: not."""
    offline_lr: Positive | None
    """Its learning rate, of batches of 256 (solo-learn's SGD: 1 for SimCLR; AdaInf's LARS: 0.2)."""
    offline_epochs: Count | None
    """Its epochs (100)."""
    baseline: Baseline
    """A network from elsewhere beside the encoder."""
    seed: Seed
    """Seed of these views, of CLSP's and of the offline protocol."""

    @rule
    def offline_numbers(self) -> Faults:
        """The offline protocol has its rate and length, if it is asked for."""
        for name in ("offline_lr", "offline_epochs"):
            given = getattr(self, name)
            if (self.offline is None) != (given is None):
                wanted = f"a number with offline {self.offline}" if self.offline else "null without offline"
                yield name, f"must be {wanted}, not {told(given)}"


class TransferSet(Section):
    """Another data set for the frozen encoder; its images get the size and channels of the encoder's."""

    name: SetName
    """The data set; `folder` is a folder of your own pictures."""
    path: str
    """Where its files are; a dependency, so it must exist."""
    train_size: Count
    """Images with labels to learn from."""
    validation_size: CountOrZero
    """Validation images, for the choice of the regularisation; 0: by cross-validation on the train images."""
    test_size: Several | None
    """Test images taken from a folder; null if it has train/ and test/, and for a named set."""
    seed: Seed
    """Seed of the split."""

    @rule
    def spread(self) -> Faults:
        """One image chooses nothing."""
        if self.validation_size == 1:
            yield "validation_size", "must be 0 or at least 2, not 1"

    @rule
    def test_part(self) -> Faults:
        """A named set has its own test part."""
        if self.name != "folder" and self.test_size is not None:
            yield "test_size", its_own(self.name, self.test_size)

    @rule
    def split(self) -> Faults:
        """The split fits the set."""
        there = labelled(self.name)
        if there and self.train_size + self.validation_size > there:
            what = f"{self.train_size} + validation_size {self.validation_size} > {there} images with labels"
            yield "train_size", what

    def dataset(self, size: int | None, channels: int | None) -> Dataset:
        """The same as a data set of its own whose labels to learn from are `train_size`; a folder's at this size."""
        its = ("image_size", "channels", "resize", "labels", "label_column")
        pictured = {"image_size": size, "channels": channels, "resize": "crop"} if self.name == "folder" else {}
        asked = dict.fromkeys(its) | self.model_dump() | pictured
        return Dataset(**asked, labelled_size=self.train_size, spare_size=0, ceiling_size=0)


class FineTune(Training):
    """Training the whole network on few labels, beside the same from scratch."""

    batch_size: Several
    """Images of a batch."""
    labels: list[Share]
    """Shares of the fixed labelled images (0.01, 0.1), a stage for each."""
    head_lr: Positive
    """Learning rate of the linear layer, which starts from nothing, as a multiple of `lr`."""
    strength: Strength
    """`augment.strength` of the images, in the encoder's own family."""

    @rule
    def once(self) -> Faults:
        """A share of the labels is one stage."""
        for i, share in enumerate(self.labels):
            if share in self.labels[:i]:
                yield ("labels", i), f"{share:g} stands twice in finetune.labels"


def halves(p) -> Faults:
    """Generated images are judged beside two halves of the validation images, as many in each."""
    n, there = p.quality.images, p.dataset.validation_size
    if 2 * n > there:
        what = f"{n} generated images want 2 x {n} of validation; dataset.validation_size is {there}"
        yield ("quality", "images"), what


RULES = (halves,)
