"""METHODS: the self-supervised methods by their names, each with the class of its section; a new one is a row here.

A method's module in pipeline/methods has the method's name. Docstrings give the values that are usual on CIFAR.
"""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.parts import Apart, Head, Momentum, Predictor, Queue, SmallViews, Temperature, ThirdView
from pipeline.params.ranges import (
    Count,
    CountOrZero,
    Depth,
    Fraction,
    NonNegative,
    Positive,
    Probability,
    Several,
    Share,
)
from pipeline.params.types import Section


class SimCLR(Temperature, Head):
    """SimCLR. solo-learn on CIFAR: heads 2048 and 256, temperature 0.2."""

    views_together: bool
    """Batch normalisation sees both views at once, as in the paper, or one after the other, as in solo-learn."""


class MoCo(Apart, Momentum, Queue, Temperature, Head):
    """MoCo v2; its queue holds negatives.

    solo-learn on CIFAR: heads 2048 and 256, temperature 0.2, queue 32768, momentum 0.99 to 0.999.
    """


class BYOL(Momentum, Predictor, Head):
    """BYOL. solo-learn on CIFAR: heads 4096 and 256, predictor 4096, momentum 0.99 to 1."""


class BarlowTwins(Head):
    """Barlow Twins. solo-learn on CIFAR: heads 2048 and 2048, redundancy 0.0051, scale 0.1."""

    redundancy: Positive
    """Weight of the off-diagonal term (lambda)."""
    scale: Positive
    """Factor of the whole loss."""


class SimSiam(Predictor, Head):
    """SimSiam; its predictor is a bottleneck. The paper: heads 2048 and 2048, predictor 512, at a constant rate."""

    constant_predictor: bool
    """The predictor's learning rate is `pretrain.lr` in every step."""


class NNCLR(Queue, Temperature, Predictor, Head):
    """NNCLR; the nearest in its queue are the positives.

    solo-learn on CIFAR: heads 2048 and 256, predictor 4096, temperature 0.2, queue 65536.
    """


class All4One(Momentum, Queue, Temperature, Predictor, Head):
    """All4One. `output_dim` is a multiple of 8, the heads of its attention.

    solo-learn on CIFAR: heads 2048 and 256, predictor 4096, temperature 0.2, queue 98304, momentum 0.99 to 1,
    attention_rate 0.1 / pretrain.lr, dropout 0.1.
    """

    attention_rate: Positive
    """Learning rate of the attention, as a multiple of `pretrain.lr`."""
    dropout: Fraction
    """Dropout inside the attention."""


class CLSPSimCLR(ThirdView, Temperature, Head):
    """SimCLR with CLSP's third view. The paper on CIFAR: heads 4096 and 256, temperature 0.2, alignment 1."""


class CLSPMoCo(Apart, ThirdView, Momentum, Queue, Temperature, Head):
    """MoCo v2 with CLSP's third view.

    The paper: heads 4096 and 256, temperature 0.2, queue 32768, momentum 0.99 to 0.999; alignment 0.5 on CIFAR-10 and
    0.2 on CIFAR-100.
    """


class SwAV(Temperature, Head, SmallViews):
    """SwAV.

    solo-learn on CIFAR: heads 2048 and 128, 3000 prototypes, temperature 0.1, epsilon 0.05, 3 iterations, a queue of
    3840 from epoch 50 on, prototypes frozen for 2 epochs; no small views, or six of 18 pixels that show 0.08 to 0.5.
    """

    prototypes: Several
    """Prototypes that images are assigned to."""
    epsilon: Positive
    """Entropy of the codes in Sinkhorn's iterations: the lower, the harder they are."""
    iterations: Count
    """Sinkhorn's iterations."""
    queue_size: CountOrZero
    """Earlier projections of each large view over which codes are balanced too; 0 for none."""
    queue_start: CountOrZero
    """First step at which the queue is used, once it is full."""
    freeze_steps: CountOrZero
    """First steps in which the prototypes are not updated."""


class VICReg(Head):
    """VICReg.

    solo-learn on CIFAR: heads 2048 and 2048. The paper's weights: 25, 25, 1; a 25th of these under plain SGD.
    """

    invariance: Positive
    """Weight of the distance between the two views (lambda)."""
    variance: NonNegative
    """Weight of the variance term (mu)."""
    covariance: NonNegative
    """Weight of the covariance term (nu)."""


class DINO(Apart, Momentum, SmallViews):
    """DINO.

    solo-learn on CIFAR: head 2048, 256 and 4096, temperature 0.1, the teacher's 0.04 to 0.07 in 50 epochs,
    center_momentum 0.9, momentum 0.9995 to 1, the last layer frozen for 1 epoch, no small views. The paper's small
    views show 0.05 to 0.4 of the image.
    """

    hidden_dim: Count
    """Width of the head's hidden layers."""
    bottleneck_dim: Count
    """Width of the head's bottleneck."""
    output_dim: Several
    """Length of the head's output."""
    temperature: Positive
    """The student's temperature."""
    teacher_temperature_start: Positive
    """The teacher's temperature at the first step."""
    teacher_temperature_end: Positive
    """The teacher's temperature after its warm-up."""
    teacher_warmup_steps: CountOrZero
    """Steps in which the teacher's temperature goes from start to end."""
    center_momentum: Fraction
    """Momentum of the centre of the teacher's outputs."""
    freeze_steps: CountOrZero
    """First steps in which the last layer is not updated."""


class MixedAE(Section):
    """MixedAE, and MAE without mixing.

    The paper, as our sources recall it and not verified: 4 sources, contrast 0.1, temperature 0.25. solo-learn's MAE: a
    decoder of width 512, depth 8, 16 heads.
    """

    sources: Several
    """Images mixed into one; 1 / sources of each image's patches is seen."""
    mixing: bool
    """false: MAE, which sees as large a share of each image alone."""
    mix: Literal["compose", "full"]
    """`compose`: one mixed image of a group. `full`: as many as sources, which show every patch once."""
    attention: bool
    """Each patch attends to the N / sources patches most like it alone."""
    segments: bool
    """Tokens carry the number of the image that they come from."""
    contrast: NonNegative
    """Weight of the homologous contrastive loss (lambda); 0 for none."""
    temperature: Positive
    """Temperature of the homologous contrastive loss."""
    normalised: bool
    """Predict a patch's pixels as deviations from the patch's own mean."""
    decoder_width: Count
    """Width of the decoder's tokens."""
    decoder_depth: Depth
    """Blocks of the decoder."""
    decoder_heads: Count
    """Attention heads of the decoder."""


class JointGAN(Temperature, Head):
    """SimCLR and a GAN that plays a game with it. The paper's values were not at hand: ours are in params.yaml."""

    mode: Literal["static", "static_pair", "hard", "pair", "both"]
    """Arm. static, static_pair: images of the pretrained GAN. hard, pair, both: the generators are trained too."""
    synthetic: Share
    """Generated identities, of four views each, as a share of the batch."""
    perturbation: Probability
    """With static_pair: the share of fresh noise in the second image's noise."""
    real_steps: CountOrZero
    """First steps, on real images alone."""
    every: Count
    """Steps of the encoder for one step of the generators and the discriminator."""
    game_lr: Positive
    """Adam's learning rate of the generators and the discriminator."""
    weight: NonNegative
    """Weight of the encoder's term in the generators' loss at the end of the ramp (lambda_h)."""
    ramp_steps: Count
    """Steps in which the weight and the margin reach their end; the ramp waits while images get worse."""
    guard: Positive
    """Largest gradient norm of that term at the generators' last layer, as a share of the adversarial one's (rho)."""
    realism: NonNegative
    """Weight of the realism term (lambda_r)."""
    margin_start: Annotated[float, Field(gt=0, le=2)]
    """Margin at the start of the ramp."""
    margin_end: Annotated[float, Field(gt=0, le=2)]
    """Margin at the end of the ramp."""
    monitor_images: Several
    """Images for each measurement of the Frechet distance."""
    monitor_every: Count
    """Steps between measurements of the Frechet distance."""
    growth: NonNegative
    """Growth of the Frechet distance over the pretrained generator's above which the ramp is halved and waits."""
    snapshots: Several
    """Snapshots of generated images, evenly over the run."""
    snapshot_images: Count
    """Images of a snapshot."""


METHODS: dict[str, type[Section]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "byol": BYOL,
    "barlow_twins": BarlowTwins,
    "simsiam": SimSiam,
    "nnclr": NNCLR,
    "all4one": All4One,
    "clsp_simclr": CLSPSimCLR,
    "clsp_moco": CLSPMoCo,
    "swav": SwAV,
    "vicreg": VICReg,
    "dino": DINO,
    "mixed_ae": MixedAE,
    "joint_gan": JointGAN,
}
