"""The sections of the methods, each under its method's name, in the order of Pretrain.method."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.types import (
    Count,
    CountOrZero,
    Depth,
    Fraction,
    NonNegative,
    Positive,
    Probability,
    Section,
    Several,
)


class SimCLR(Section):
    """SimCLR's head and temperature. The papers' CIFAR values (solo-learn): 2048, 256, 0.2."""

    hidden_dim: Count
    output_dim: Count
    temperature: Positive


class MoCo(Section):
    """MoCo v2's head, temperature, negatives a queue, and its follower's momentum, from start to end along a cosine.

    solo-learn's CIFAR values: 2048, 256, 0.2, 32768, 0.99, 0.999.
    """

    hidden_dim: Count
    output_dim: Count
    temperature: Positive
    queue_size: Count
    momentum_start: Fraction
    momentum_end: Probability


class BYOL(Section):
    """BYOL's heads, and its follower's momentum, from start to end along a cosine.

    solo-learn's CIFAR values: 4096, 256, 4096, 0.99, 1.
    """

    hidden_dim: Count
    output_dim: Count
    predictor_dim: Count
    momentum_start: Fraction
    momentum_end: Probability


class BarlowTwins(Section):
    """Barlow Twins' head, the weight of redundancy (lambda) and of the whole loss.

    solo-learn's CIFAR values: 2048, 2048, 0.0051, 0.1.
    """

    hidden_dim: Count
    output_dim: Count
    redundancy: Positive
    scale: Positive


class SimSiam(Section):
    """SimSiam's projector and the bottleneck of its predictor. The paper's values: 2048, 2048, 512."""

    hidden_dim: Count
    output_dim: Count
    predictor_dim: Count


class NNCLR(Section):
    """NNCLR's projector, predictor and temperature, and how many earlier projections neighbours are sought among.

    solo-learn's CIFAR values: 2048, 256, 4096, 0.2, 65536.
    """

    hidden_dim: Count
    output_dim: Count
    predictor_dim: Count
    temperature: Positive
    queue_size: Count


class All4One(Section):
    """All4One's projector, predictors and temperature, its queue, its follower's momentum, its attention.

    attention_rate: a factor of pretrain.lr; dropout: inside attention. output_dim is a multiple of 8, the heads of
    attention. solo-learn's CIFAR values: 2048, 256, 4096, 0.2, 98304, 0.99, 1, 0.1 / pretrain.lr, 0.1.
    """

    hidden_dim: Count
    output_dim: Count
    predictor_dim: Count
    temperature: Positive
    queue_size: Count
    momentum_start: Fraction
    momentum_end: Probability
    attention_rate: Positive
    dropout: Fraction


class CLSPSimCLR(Section):
    """SimCLR with a third view: of a positive (candidate), or of the image itself (augmented), the control.

    alignment: lambda, the weight of the distance to it. The paper's CIFAR values: 4096, 256, 0.2, 1.
    """

    hidden_dim: Count
    output_dim: Count
    temperature: Positive
    alignment: NonNegative
    third_view: Literal["candidate", "augmented"]


class CLSPMoCo(Section):
    """MoCo v2 with a third view, as in CLSPSimCLR.

    The paper's values: 4096, 256, 0.2, 32768, 0.99, 0.999, and 0.5 on CIFAR-10, 0.2 on CIFAR-100.
    """

    hidden_dim: Count
    output_dim: Count
    temperature: Positive
    queue_size: Count
    momentum_start: Fraction
    momentum_end: Probability
    alignment: NonNegative
    third_view: Literal["candidate", "augmented"]


class SmallViews(Section):
    """Multi-crop: beside the two large views, small_views small ones of small_size pixels.

    Each shows between small_crop_min and small_crop_max of the image's area.
    """

    small_views: CountOrZero
    small_size: Annotated[int, Field(ge=8, le=1024)]
    small_crop_min: Annotated[float, Field(gt=0, le=1)]
    small_crop_max: Annotated[float, Field(gt=0, le=1)]


class SwAV(SmallViews):
    """SwAV's projector, prototypes and temperature, Sinkhorn's epsilon and iterations, its queue, its small views.

    queue_size: earlier projections of each large view over which codes are balanced too, 0 for none, once the queue is
    full and from step queue_start on. Prototypes stay where they are for freeze_steps steps. solo-learn's CIFAR values:
    2048, 128, 3000, 0.1, 0.05, 3, 3840 from epoch 50 on, 2 epochs; none, or six small views of 18 pixels, 0.08 to 0.5.
    """

    hidden_dim: Count
    output_dim: Count
    prototypes: Several
    temperature: Positive
    epsilon: Positive
    iterations: Count
    queue_size: CountOrZero
    queue_start: CountOrZero
    freeze_steps: CountOrZero


class VICReg(Section):
    """VICReg's projector and the weights of its three terms (lambda, mu, nu).

    The paper's weights: 25, 25, 1; a 25th of them under plain SGD. solo-learn's CIFAR values: 2048, 2048, the paper's.
    """

    hidden_dim: Count
    output_dim: Count
    invariance: Positive
    variance: NonNegative
    covariance: NonNegative


class DINO(SmallViews):
    """DINO's head, temperatures, centre, its teacher's momentum, from start to end along a cosine, its small views.

    temperature: the student's. The teacher's goes from start to end in teacher_warmup_steps steps; the last layer stays
    where it is for freeze_steps steps. solo-learn's CIFAR values: 2048, 256, 4096, 0.1, 0.04 to 0.07 in 50 epochs, 0.9,
    0.9995, 1, 1 epoch; no small views. The paper's small views show 0.05 to 0.4 of the image.
    """

    hidden_dim: Count
    bottleneck_dim: Count
    output_dim: Several
    temperature: Positive
    teacher_temperature_start: Positive
    teacher_temperature_end: Positive
    teacher_warmup_steps: CountOrZero
    center_momentum: Fraction
    momentum_start: Fraction
    momentum_end: Probability
    freeze_steps: CountOrZero


class MixedAE(Section):
    """MixedAE: how many images are mixed into one, by which means patches find their own image, the decoder.

    sources: images mixed into one, of each of which 1 / sources of the patches is seen. mixing: false is MAE,
    which sees as large a share of each image alone. mix: compose makes one image of a group; full as many as it
    has sources, by maps that together show every patch of each once, at so many times the cost. attention: each
    patch attends to the N / sources patches most like it alone; segments: tokens are told which of the images they
    are of; contrast: the weight (lambda) of the homologous contrastive loss, at this temperature. normalised: a
    patch's pixels are predicted as deviations from its own mean.
    Defaults at scale: 4, 0.1, 0.25 as recalled by our sources, not verified; decoder 512, 8, 16 (solo-learn's MAE).
    """

    sources: Several
    mixing: bool
    mix: Literal["compose", "full"]
    attention: bool
    segments: bool
    contrast: NonNegative
    temperature: Positive
    normalised: bool
    decoder_width: Count
    decoder_depth: Depth
    decoder_heads: Count


class JointGAN(Section):
    """Synthetic data can also teach: the arm, the head and temperature, the generators' game with the encoder.

    mode: static (samples of the pretrained GAN) and static_pair (a sample and one of its noise, mixed with a share
    `perturbation` of fresh noise) train no generator; hard, pair and both do. synthetic: generated identities, as a
    share of the batch, from step real_steps on; before it the encoder sees real images alone. In every `every`-th step
    generators and discriminator move too, by Adam at game_lr.
    weight is lambda_h, reached after ramp_steps steps of the ramp, in which the margin goes from start to end as well;
    while the Frechet distance of monitor_images images, measured every monitor_every steps, is more than `growth` above
    the pretrained generator's, the ramp waits, and each such measurement halves what is done of it. guard is rho: the
    largest norm of the weighted term's gradient at the generators' last layer, as a share of the adversarial one's.
    realism is lambda_r. snapshots: so many, evenly over the run, of snapshot_images images. The paper's values were not
    at hand: these are ours.
    """

    mode: Literal["static", "static_pair", "hard", "pair", "both"]
    hidden_dim: Count
    output_dim: Count
    temperature: Positive
    synthetic: Annotated[float, Field(gt=0, le=1)]
    perturbation: Probability
    real_steps: CountOrZero
    every: Count
    game_lr: Positive
    weight: NonNegative
    ramp_steps: Count
    guard: Positive
    realism: NonNegative
    margin_start: Annotated[float, Field(gt=0, le=2)]
    margin_end: Annotated[float, Field(gt=0, le=2)]
    monitor_images: Several
    monitor_every: Count
    growth: NonNegative
    snapshots: Several
    snapshot_images: Count
