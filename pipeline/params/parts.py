"""What the sections of several methods have in common."""

from typing import Literal

from pipeline.params.ranges import Count, CountOrZero, Fraction, NonNegative, Pixels, Positive, Probability, Share
from pipeline.params.types import Section


class Head(Section):
    """A projector of two or three layers behind the backbone."""

    hidden_dim: Count
    """Width of the projector's hidden layers."""
    output_dim: Count
    """Length of a projection."""


class Predictor(Section):
    """A second head, on one of two branches."""

    predictor_dim: Count
    """Width of the predictor's hidden layer."""


class Temperature(Section):
    """A softmax over similarities."""

    temperature: Positive
    """Temperature of the softmax: the lower, the more the nearest count."""


class Queue(Section):
    """Projections of earlier batches."""

    queue_size: Count
    """Projections of earlier batches that are kept, a multiple of `pretrain.batch_size`."""


class Momentum(Section):
    """A momentum encoder, whose momentum goes from start to end along a cosine."""

    momentum_start: Fraction
    """Momentum of the momentum encoder at the first step."""
    momentum_end: Probability
    """Momentum of the momentum encoder at the last step."""


class Apart(Section):
    """On a ViT no image of a batch changes what another one adds to the loss; so a batch may pass in parts."""


class ThirdView(Section):
    """CLSP's third view."""

    alignment: NonNegative
    """Weight of the third view's distance (lambda)."""
    third_view: Literal["candidate", "augmented"]
    """What the third view shows: a positive (`candidate`), or the image itself (`augmented`, the control)."""


class SmallViews(Section):
    """Multi-crop: small views beside the two large ones."""

    small_views: CountOrZero
    """Small views of each image; 0 for none."""
    small_size: Pixels
    """Height and width of a small view, in pixels."""
    small_crop_min: Share
    """Smallest area that a small view shows, as a share of the image."""
    small_crop_max: Share
    """Largest area that a small view shows, as a share of the image."""
