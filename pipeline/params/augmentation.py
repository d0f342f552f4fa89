"""How images are augmented into views."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.data import shape
from pipeline.params.ranges import Probability, Seed, Share, Strength
from pipeline.params.types import Faults, Section, rule

Family = Literal["symmetric", "symmetric-weak", "asymmetric", "clsp-simclr", "clsp-moco", "crop"]
Factor = Annotated[float, Field(ge=0, le=2)]


class Augment(Section):
    """Augmentation of the training views: a family and one strength; null below means what the strength gives."""

    family: Family
    """Which augmentations, and whether the two views get the same."""
    form: Literal["colour", "grey"]
    """`grey` leaves out saturation, hue and grayscale, which images of one channel do not have."""
    strength: Strength
    """0: none; 1: AdaInf's weak; 2: the methods' strong; up to 4. It moves the crop's smallest area and the jitter."""
    crop_min: Share | None
    """Smallest area of the random crop, as a share of the image."""
    jitter_probability: Probability | None
    """How often brightness, contrast, saturation and hue are jittered."""
    brightness: Factor | None
    """Largest relative change of brightness."""
    contrast: Factor | None
    """Largest relative change of contrast."""
    saturation: Factor | None
    """Largest relative change of saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] | None
    """Largest shift of the hue, in turns of the colour circle."""
    grayscale: Probability | None
    """How often a view is made grey."""
    blur: Probability | None
    """How often a view is blurred."""
    solarize: Probability | None
    """How often a view is solarized; given here, in every view."""
    flip: Probability | None
    """How often a view is mirrored."""
    interpolation: Literal["bicubic", "bilinear"]
    """How crops are resized, with antialiasing: solo-learn's way, or CLSP's and that of SwAV's authors."""
    replace: Probability
    """How often a view shows one of the image's positives instead of the image (GenSSL's p0)."""
    replaced: Literal["second", "both"]
    """Which views may do so: every view but the first, or every view."""
    seed: Seed
    """Seed of the augmentations."""

    @rule
    def colours(self) -> Faults:
        """Grey images have no colours to change."""
        for name in ("saturation", "hue", "grayscale"):
            if self.form == "grey" and getattr(self, name):
                yield name, f"must be null or 0 with form grey, not {getattr(self, name)}"


def form(p) -> Faults:
    """The form is that of the images' channels."""
    a, (_, channels, _) = p.augment, shape(p.dataset)
    if channels == 1 and a.form != "grey":
        what = f"{p.dataset.name} has one channel, without saturation, hue or grayscale"
        yield ("augment", "form"), f"must be grey, not {a.form}: {what}"
    if channels == 3 and a.form == "grey":
        yield ("augment", "form"), f"must be colour, not {a.form}: {p.dataset.name} has three channels"


RULES = (form,)
