"""Where training computes, what every training has, and the encoder's."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.augmentation import Family
from pipeline.params.data import side
from pipeline.params.methods import METHODS, SimCLR
from pipeline.params.ranges import (
    Commit,
    Count,
    CountOrZero,
    Depth,
    Digest,
    Fraction,
    NonNegative,
    Positive,
    Seed,
    Several,
    Strength,
)
from pipeline.params.types import Faults, Section, rule, told


class Compute(Section):
    """Where and in what arithmetic the stages compute. Nothing here is decided at run time."""

    device: Literal["cpu", "cuda"]
    """Processor or GPU."""
    precision: Literal["fp32", "bf16"]
    """Arithmetic of networks; where the other one is notably faster, the first training says so."""
    threads: Count
    """Threads of the processor; another number gives other bits."""
    compile: bool
    """Use torch.compile, which pays off on long runs only."""


class Training(Section):
    """The numbers that every training has."""

    steps: Count
    """Steps of the training."""
    batch_size: Count
    """Images of a batch, over all processes together."""
    lr: Positive
    """Learning rate after the warm-up, as the optimizer gets it."""
    min_lr: NonNegative
    """Rate to which it falls along half a cosine; equal to `lr`, it is constant."""
    warmup_steps: CountOrZero
    """First steps, in which the learning rate rises linearly to `lr`."""
    warmup_lr: NonNegative | None
    """Rate of the first of these steps (solo-learn: 3e-5); null: `lr` / `warmup_steps`."""
    weight_decay: NonNegative
    """Weight decay of the optimizer."""
    log_every: Count
    """Steps between rows of the log."""
    checkpoint_every: Count
    """Steps between checkpoints."""
    seed: Seed
    """Seed of the initialisation and of the order of images."""

    @rule
    def warm_up(self) -> Faults:
        """Warm-up ends before the training does."""
        if self.warmup_steps >= self.steps:
            yield "warmup_steps", f"{self.warmup_steps} >= steps {self.steps}"

    @rule
    def rates(self) -> Faults:
        """No rate is above `lr`, and what has no warm-up does not begin one."""
        for name in ("min_lr", "warmup_lr"):
            given = getattr(self, name)
            if given is not None and given > self.lr:
                yield name, f"{given} > lr {self.lr}"
        if self.warmup_lr is not None and not self.warmup_steps:
            yield "warmup_lr", f"must be null with warmup_steps 0, not {self.warmup_lr}"


OF_KIND = {  # fields that a kind of backbone has, and others have not
    "resnet": ("width", "stem", "block", "blocks"),
    "vit": ("width", "depth", "heads", "patch"),
    "timm": ("name",),
}


class Backbone(Section):
    """The encoder's network: a ResNet, a vision Transformer, or any network of timm's."""

    kind: Literal["resnet", "vit", "timm"]
    """Which of them."""
    name: str | None
    """timm's name of the network, such as `resnet18` or `convnext_atto`; null with the others."""
    width: Count | None
    """Channels of the ResNet's first stage (ResNet-18 and -50: 64), or width of the ViT's tokens; null with timm."""
    stem: Literal["3x3", "3x3-pad2", "3x3-pool", "7x7"] | None
    """First layers of a ResNet: 3x3 (CLSP), -pad2 (solo-learn), -pool (STL-10), 7x7 (ImageNet); null with others."""
    block: Literal["basic", "bottleneck"] | None
    """Blocks of the ResNet: `basic` (18), `bottleneck` (50, with four times the features); null with others."""
    blocks: Annotated[list[Depth], Field(min_length=4, max_length=4)] | None
    """Blocks in each of the ResNet's four stages (18: 2, 2, 2, 2; 50: 3, 4, 6, 3); null with others."""
    depth: Depth | None
    """Blocks of the ViT; null with others."""
    heads: Count | None
    """Attention heads of the ViT; null with others."""
    patch: Count | None
    """Height and width of the ViT's patches in pixels; null with others."""

    @rule
    def of_its_kind(self) -> Faults:
        """A backbone has what its kind wants and nothing of the other's."""
        for name in dict.fromkeys(name for names in OF_KIND.values() for name in names):
            given, owners = getattr(self, name), [kind for kind, names in OF_KIND.items() if name in names]
            if self.kind in owners and given is None:
                yield name, f"must be given with kind {self.kind}, not null"
            if self.kind not in owners and given is not None:
                yield name, f"is for kind {' or '.join(owners)} and must be null with kind {self.kind}, not {given}"

    @rule
    def of_parts(self) -> Faults:
        """Heads share the ViT's width out, and a position's code has four parts."""
        if self.kind == "vit" and self.width is not None:
            if self.heads is not None and self.width % self.heads:
                yield "heads", f"{self.heads} do not divide width {self.width}"
            if self.width % 4:
                yield "width", f"{self.width} is no multiple of 4, the parts of a position's code"


def untiled(backbone: Backbone, size: int) -> Faults:
    """Patches tile images of `size` pixels a side."""
    if backbone.kind == "vit" and backbone.patch is not None and size % backbone.patch:
        yield "patch", f"{backbone.patch} does not divide the image's {size} pixels"


def unfit(backbone: Backbone, size: int | None) -> Faults:
    """(field, fault) of a backbone for images of `size` pixels a side; a ResNet takes any."""
    for check in Backbone.rules():
        yield from check(backbone)
    yield from untiled(backbone, size)


OPTIONS = {"trust_coefficient": "lars", "trust_clip": "lars", "beta2": "adamw"}  # of one optimizer each


class Pretrain(Training):
    """Pretraining of the encoder: method, backbone, optimizer."""

    batch_size: Several
    """Images of a batch, over all processes together."""
    method: Literal[tuple(METHODS)]
    """The self-supervised method; its own parameters are in the section of its name."""
    backbone: Backbone
    """The encoder's network."""
    optimizer: Literal["sgd", "lars", "adamw"]
    """The optimizer."""
    momentum: Fraction
    """Momentum of SGD and LARS; AdamW's beta1."""
    beta2: Fraction | None
    """AdamW's beta2 (MAE: 0.95); null with the others."""
    trust_coefficient: Positive | None
    """Eta of LARS (solo-learn on CIFAR: 0.02); null with the others."""
    trust_clip: bool | None
    """Whether LARS takes no longer step than the rate itself (solo-learn: clip_lr); null with the others."""
    decay_vectors: bool
    """Decay biases and normalisation too, as solo-learn and CLSP do under SGD; under LARS adapt their steps, too."""
    accumulate: Count
    """Parts in which a batch passes, so that memory holds one; negatives and batch statistics are of a part."""
    online_head: Positive | None
    """Rate, a multiple of `lr`, of a linear layer that learns labels beside the encoder, to be logged; null: none."""
    evaluate_every: Count
    """Steps between measurements (kNN on validation, or RankMe without it), a multiple of `log_every`."""

    @rule
    def options(self) -> Faults:
        """LARS has its coefficient and clips or not, AdamW has its second moment's beta."""
        for name, owner in OPTIONS.items():
            value = getattr(self, name)
            if (self.optimizer == owner) != (value is not None):
                kind = "true or false" if name == "trust_clip" else "a number"
                wanted = f"{kind} with {owner}" if self.optimizer == owner else f"null with {self.optimizer}"
                yield name, f"must be {wanted}, not {told(value)}"

    @rule
    def parts(self) -> Faults:
        """Parts of a batch are equal, and of two images at least."""
        each, rest = divmod(self.batch_size, self.accumulate)
        if rest:
            yield "accumulate", f"{self.accumulate} does not divide batch_size {self.batch_size}"
        elif each < 2:
            yield "accumulate", f"{self.accumulate} leaves {each} image of batch_size {self.batch_size} to a part"

    @rule
    def measurements(self) -> Faults:
        """A measurement joins a row of the log."""
        if self.evaluate_every % self.log_every:
            yield "evaluate_every", f"{self.evaluate_every} is not a multiple of log_every {self.log_every}"


class RealOnly(SimCLR, Pretrain):
    """An encoder pretrained by SimCLR on the train images alone, with its head and its augmentation."""

    method: Literal["simclr"]
    """The method of this encoder."""
    family: Family
    """Its augmentations, as `augment.family`."""
    strength: Strength
    """Their strength, as `augment.strength`."""


class PretrainedWeights(Section):
    """Weights that were trained elsewhere, in safetensors: a pickle can run anything and is not read."""

    path: str
    """The file, with source file; a dependency, so it must exist."""
    hub: str | None
    """The repository of the Hugging Face hub, with source hub, such as timm/resnet18.a1_in1k."""
    revision: Commit | None
    """The commit of that repository."""
    sha256: Digest | None
    """The digest of the weights; needed with source hub, which shows it beside model.safetensors."""

    @rule
    def from_hub(self) -> Faults:
        """A repository has a commit and a digest; none of them is for weights that are not used."""
        for name in ("hub", "revision", "sha256"):
            given = getattr(self, name)
            if self.source == "hub" and given is None:
                yield name, "must be given with source hub, not null"
            if given is not None and (self.source == "none" or (self.source == "file" and name != "sha256")):
                yield name, f"must be null with source {self.source}, not {given}"

    @rule
    def safetensors(self) -> Faults:
        """Of a local file the name says that it is no pickle."""
        if self.source == "file" and not self.path.endswith(".safetensors"):
            yield "path", f"must be a .safetensors file, not {self.path}"


class Start(PretrainedWeights):
    """Weights of the encoder's network before its first step."""

    source: Literal["none", "file", "hub"]
    """`none`: fresh ones, by `pretrain.seed`. Else those of a file or of the hub, in torchvision's or timm's names."""


def patches(p) -> Faults:
    """Patches tile the images."""
    for name, fault in untiled(p.pretrain.backbone, side(p)):
        yield ("pretrain", "backbone", name), fault


def condition_patches(p) -> Faults:
    """Those of a condition's encoder, too."""
    for name, fault in untiled(p.conditioned.encoder.backbone, side(p)):
        yield ("conditioned", "encoder", "backbone", name), fault


RULES = (patches, condition_patches)
