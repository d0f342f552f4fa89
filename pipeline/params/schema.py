"""The typed schema of params.yaml, a class a section. No value has a default: what runs is what the file says.

Here and not beside the code that uses them, so that the check stage tells a typo in half a second, without torch.
"""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.methods import (
    BYOL,
    DINO,
    NNCLR,
    All4One,
    BarlowTwins,
    CLSPMoCo,
    CLSPSimCLR,
    JointGAN,
    MixedAE,
    MoCo,
    SimCLR,
    SimSiam,
    SwAV,
    VICReg,
)
from pipeline.params.types import (
    Count,
    CountOrZero,
    Depth,
    Fraction,
    Key,
    NonNegative,
    Positive,
    Probability,
    Section,
    Seed,
    SetName,
)

Family = Literal["symmetric", "symmetric-weak", "asymmetric", "clsp-simclr", "clsp-moco", "crop"]


class Compute(Section):
    """Where and in what arithmetic the torch stages compute. Nothing here is decided at run time."""

    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    threads: Count
    compile: bool


class Dataset(Section):
    """Which images, and how many of them. labelled_size: images of the probe that does not depend on train_size.

    spare_size: further real images, for the judges of generated images, which want some that no generator saw.

    image_size (pixels), channels and test_size are for name folder and null for the others, which have their own.
    test_size null: the folder has train/ and test/ in it.
    """

    name: SetName
    path: str
    image_size: Annotated[int, Field(ge=8, le=1024)] | None
    channels: Literal[1, 3] | None
    test_size: Count | None
    train_size: Count
    validation_size: Count
    labelled_size: Count
    spare_size: CountOrZero
    seed: Seed


class Training(Section):
    """The numbers that every training has. batch_size is the total batch; lr is what the optimiser gets."""

    steps: Count
    batch_size: Count
    lr: Positive
    warmup_steps: CountOrZero
    weight_decay: NonNegative
    log_every: Count
    checkpoint_every: Count
    seed: Seed


class Generator(Section):
    """What makes images, and where it comes from.

    kind: a diffusion model, or a GAN, which is trained here. source: train it here; load a pretrained one (a local
    diffusers folder at `path`, or `hub`, a repository of the Hugging Face hub at the commit `revision`, whose weights
    have the digest `sha256`); import ready-made images (a file or folder at `path`, of the stated channel_order, or
    null: looked at); or none. `path` is a DVC dependency, so it names a place that exists.
    """

    kind: Literal["ddpm", "gan"]
    source: Literal["train", "pretrained", "import", "none"]
    path: str
    channel_order: Literal["rgb", "bgr"] | None
    hub: str | None
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None


class DDPM(Training):
    """The diffusion model: its network, its noise schedule, its training.

    channels: of the UNet's levels, finest first, each level half as large as the one before; groups: of its group
    normalisation; attention: self-attention at the coarsest level. flip: mirror half of the training images.
    """

    channels: list[Count] = Field(min_length=1, max_length=6)
    layers: Count
    groups: Count
    attention: bool
    dropout: Fraction
    timesteps: Count
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    prediction: Literal["epsilon", "v_prediction", "sample"]
    flip: bool
    grad_clip: Positive
    ema_decay: Fraction


class GAN(Training):
    """The generative adversarial network and its training, whose steps are the discriminator's.

    latent: numbers that an image is made of; discriminator_steps: to one of the generator. lr is Adam's, of both.
    SNGAN's: 128, 256, 128, 5 and 100,000 of the generator's steps; batches of 64 and 0.0002.
    """

    latent: Count
    generator_channels: Count
    discriminator_channels: Count
    discriminator_steps: Count
    ema_decay: Fraction


class Generate(Section):
    """The sampler and the grid of its images. shard_size is a multiple of batch_size: a batch is never cut.

    sampler direct: one pass of a GAN's generator, whose images are in range by their tanh; steps is 1, clip true.
    """

    sampler: Literal["ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++", "direct"]
    steps: Count
    eta: Probability
    clip: bool
    batch_size: Count
    shard_size: Count
    seed: Seed


class Positives(Section):
    """Generated images that stand beside each train image as positives of it.

    kind: none; anchored, CLSP's: sampled by DDIM while the UNet's bottleneck is `weight` times the sample's own and
    1 - weight times that of the image; or conditioned, GenSSL's: sampled by DDIM from a DDPM that is told the image's
    features, with that guidance (1: as it is, 0: not told); or unclip, GenSSL's with outside data: by a pretrained
    pipeline that is told CLIP's embedding. weight is for anchored and null with the others, guidance the other way
    round. candidates: so many of each image. clip: clamp predicted images to [-1, 1]. CLSP's: weight 0.1, 8 candidates,
    100 steps, eta 0.1, no clipping.
    """

    kind: Literal["none", "anchored", "conditioned", "unclip"]
    candidates: Count
    weight: Probability | None
    guidance: NonNegative | None
    steps: Count
    eta: Probability
    clip: bool
    batch_size: Count
    shard_size: Count
    seed: Seed


class Inflation(Section):
    """How many generated images take part (ratio x train_size), and how often a real one is drawn beside them.

    order: slots, an exact share in every batch and none of its images twice; or copies, the authors' shuffled list,
    for which real_weight is whole.
    """

    ratio: NonNegative
    real_weight: Positive
    order: Literal["slots", "copies"]
    seed: Seed


class Augment(Section):
    """A family of augmentations, its form for grey images, one strength; each number can also be set alone.

    strength: 0 nothing at all, 1 AdaInf's weak, 2 the methods' strong, up to 4. It moves the crop's smallest area
    (between knots on a log scale), the jitter's probability and its magnitude together (linearly); below 1 it also
    fades flip, grayscale, blur and solarize out. null in a number below means: what strength gives. replace: how often
    a view is of one of the image's positives instead (GenSSL's p0), before it is augmented; replaced: every view but
    the first (second), or every one (both).
    """

    family: Family
    form: Literal["colour", "grey"]  # grey: no saturation, hue or grayscale, which one channel does not have
    strength: Annotated[float, Field(ge=0, le=4)]
    crop_min: Annotated[float, Field(gt=0, le=1)] | None
    jitter_probability: Probability | None
    brightness: Annotated[float, Field(ge=0, le=2)] | None
    contrast: Annotated[float, Field(ge=0, le=2)] | None
    saturation: Annotated[float, Field(ge=0, le=2)] | None
    hue: Annotated[float, Field(ge=0, le=0.5)] | None
    grayscale: Probability | None
    blur: Probability | None
    solarize: Probability | None  # in every view
    flip: Probability | None
    replace: Probability
    replaced: Literal["second", "both"]
    seed: Seed


class Backbone(Section):
    """A ResNet with the small-image stem, or a vision Transformer.

    width: of the ResNet's first stage, or of the ViT's tokens. blocks: the ResNet's basic blocks in each of its four
    stages. depth: the ViT's blocks; heads: of attention; patch: pixels of a patch's sides. null: the other kind's.
    """

    kind: Literal["resnet", "vit"]
    width: Count
    blocks: Annotated[list[Depth], Field(min_length=4, max_length=4)] | None
    depth: Depth | None
    heads: Count | None
    patch: Count | None


class Pretrain(Training):
    """Method, backbone, optimiser. trust_coefficient: LARS's eta (the papers': 0.02), null with the others.

    momentum: of AdamW, beta1; beta2: its own (MAE's: 0.95), null with the others.
    evaluate_every: steps between kNN measurements on the validation images, a multiple of log_every.
    """

    method: Literal[
        "simclr",
        "moco",
        "byol",
        "barlow_twins",
        "simsiam",
        "nnclr",
        "all4one",
        "clsp_simclr",
        "clsp_moco",
        "swav",
        "vicreg",
        "dino",
        "mixed_ae",
        "joint_gan",
    ]
    backbone: Backbone
    optimizer: Literal["sgd", "lars", "adamw"]
    momentum: Fraction
    beta2: Fraction | None
    trust_coefficient: Positive | None
    evaluate_every: Count


class RealOnly(Pretrain):
    """An encoder that is pretrained by SimCLR on the train images alone, with its head and its augmentation."""

    method: Literal["simclr"]
    hidden_dim: Count
    output_dim: Count
    temperature: Positive
    family: Family
    strength: Annotated[float, Field(ge=0, le=4)]


class Conditioned(DDPM):
    """A DDPM that is told the features that an encoder has of an image, for positives.kind conditioned.

    condition_dropout: how often it is told nothing in training, which guidance needs; hidden_dim: of the two layers
    that embed the features.
    """

    condition_dropout: Fraction
    hidden_dim: Count
    encoder: RealOnly


class UnCLIP(Section):
    """A pretrained `StableUnCLIPImg2ImgPipeline`, for positives.kind unclip, which has seen other images.

    path: a local folder, as diffusers saves it. It is a DVC dependency, so it names a place that exists. size: of the
    images that it makes, in pixels; null: that of its training. noise_level: of the noise on CLIP's embedding.
    """

    path: str
    size: Annotated[int, Field(ge=8, le=2048)] | None
    noise_level: Annotated[int, Field(ge=0, le=999)]


class Quality(Section):
    """Judging generated images. images: how many of them, against two halves of as many validation images; 0: none.

    steps: of the feature network's training, and of the classifier's that tells generated from real. inception: a local
    file with torch-fidelity's Inception weights, as the feature network instead; null: the one trained here.
    """

    images: CountOrZero
    steps: Count
    inception: str | None
    seed: Seed


class LinearEval(Section):
    """l2: the probe's regularisation strengths, to choose among on validation. seed: of views and of CLSP's protocol.

    view_strength: augment.strength of the views in which measures without labels see an image: one for all encoders
    that are to be compared, whatever they were trained with.
    """

    l2: list[Positive] = Field(min_length=1)
    clsp_lr: Positive  # of CLSP's protocol: 1 there, 10 for its MoCo on CIFAR-100
    view_strength: Annotated[float, Field(ge=0, le=4)]
    seed: Seed


class TransferSet(Section):
    """Another set on which the frozen encoder is judged, its images brought to the size and channels of the encoder's.

    train_size: images with labels to learn from; test_size: as in `dataset`, null for sets with a test part of their
    own.
    """

    name: SetName
    path: str
    train_size: Count
    validation_size: Count
    test_size: Count | None
    seed: Seed


class FineTune(Training):
    """Training the whole network on few labels. labels: shares of the fixed labelled images, a stage each.

    head_lr: the linear layer's rate, as a multiple of lr; strength: augment.strength of the images it sees, in the
    encoder's own family.
    """

    labels: list[Annotated[float, Field(gt=0, le=1)]]
    head_lr: Positive
    strength: Annotated[float, Field(ge=0, le=4)]


class Params(Section):
    """All of params.yaml, in the order of the stages. A method's or generator's own section bears its name."""

    compute: Compute
    dataset: Dataset
    generator: Generator
    ddpm: DDPM
    gan: GAN
    generate: Generate
    positives: Positives
    conditioned: Conditioned
    unclip: UnCLIP
    quality: Quality
    inflation: Inflation
    augment: Augment
    pretrain: Pretrain
    simclr: SimCLR
    moco: MoCo
    byol: BYOL
    barlow_twins: BarlowTwins
    simsiam: SimSiam
    nnclr: NNCLR
    all4one: All4One
    clsp_simclr: CLSPSimCLR
    clsp_moco: CLSPMoCo
    swav: SwAV
    vicreg: VICReg
    dino: DINO
    mixed_ae: MixedAE
    joint_gan: JointGAN
    linear_eval: LinearEval
    transfer: dict[Key, TransferSet]
    finetune: FineTune
