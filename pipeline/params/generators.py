"""GENERATORS: the kinds of generators that are trained here, by their names; where images come from; how many."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.data import generated, shape, side
from pipeline.params.ranges import Commit, Count, Digest, Fraction, Positive, Probability, Seed
from pipeline.params.training import Training
from pipeline.params.types import Faults, Section, rule, told

PUBLISHED = 1000  # timesteps of published diffusion models


class DDPM(Training):
    """The diffusion model: its network, its noise schedule, its training."""

    channels: list[Count] = Field(min_length=1, max_length=6)
    """Channels of the UNet's levels, finest first; each level is half as large as the one before."""
    layers: Annotated[int, Field(gt=0, le=100)]
    """Residual blocks of each level."""
    groups: Count
    """Groups of the group normalisation; it divides all channels."""
    attention: list[Annotated[int, Field(ge=-6, le=5)]]
    """Levels with self-attention, 0 the finest, -1 the coarsest; with any, also in the middle of the UNet."""
    dropout: Fraction
    """Dropout in the residual blocks."""
    timesteps: Annotated[int, Field(gt=0, le=100_000)]
    """Steps of the noise schedule."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    """How the noise grows over these, in diffusers' names."""
    prediction: Literal["epsilon", "v_prediction", "sample"]
    """What the network predicts: noise, velocity, or the image."""
    timestep_sampling: Literal["uniform", "logit_normal"]
    """How often training shows which noise: all timesteps alike (DDPM), or mostly where images take shape."""
    logit_mean: Annotated[float, Field(ge=-10, le=10)] | None
    """logit_normal: the median timestep is this sigmoid's share of all; null with uniform."""
    logit_std: Annotated[float, Field(gt=0, le=10)] | None
    """logit_normal: how widely timesteps scatter around it, in logits; null with uniform."""
    flip: bool
    """Mirror half of the training images."""
    grad_clip: Positive
    """Largest norm of the gradient."""
    ema_decay: Fraction
    """Decay of the moving average of the weights, which is what samples."""

    @rule
    def normalisation(self) -> Faults:
        """Groups share the channels out."""
        for channels in self.channels:
            if channels % self.groups:
                yield "groups", f"{self.groups} does not divide {channels} of channels"

    @rule
    def scattered(self) -> Faults:
        """A logit-normal has a mean and a deviation."""
        for name in ("logit_mean", "logit_std"):
            given = getattr(self, name)
            if (given is None) != (self.timestep_sampling == "uniform"):
                wanted = "null" if given is not None else "a number"
                yield name, f"must be {wanted} with timestep_sampling {self.timestep_sampling}, not {told(given)}"

    @rule
    def attended(self) -> Faults:
        """Attention is at levels that there are."""
        depth = len(self.channels)
        for i, level in enumerate(self.attention):
            if not -depth <= level < depth:
                yield ("attention", i), f"no level {level}: channels has {depth}, 0 to {depth - 1}"


class GAN(Training):
    """The generative adversarial network.

    SNGAN: latent 128, channels 256 and 128, 5 steps of the discriminator for one of the generator, which has 100,000;
    batches of 64, learning rate 0.0002.
    """

    steps: Count
    """Steps of the discriminator."""
    lr: Positive
    """Adam's learning rate, of both networks."""
    latent: Annotated[int, Field(gt=0, lt=2**16)]
    """Length of the noise that an image is made of."""
    generator_channels: Count
    """Channels of the generator."""
    discriminator_channels: Count
    """Channels of the discriminator."""
    discriminator_steps: Count
    """Steps of the discriminator for one of the generator."""
    ema_decay: Fraction
    """Decay of the moving average of the generator's weights, which is what samples."""

    @rule
    def learns(self) -> Faults:
        """The generator has a step."""
        if self.discriminator_steps > self.steps:
            yield "discriminator_steps", f"{self.discriminator_steps} > steps {self.steps}, so no generator would learn"


GENERATORS: dict[str, type[Training]] = {"ddpm": DDPM, "gan": GAN}
SOURCES = {  # of generated images, and what to say of those
    "train": "of a generator trained here",
    "pretrained": "of a generator trained elsewhere",
    "import": "imported",
    "real": "REAL IMAGES that no other part uses, in the place of generated ones: the ceiling of any generator",
    "none": "none",
}


def ceiling(source: str) -> dict[str, int]:
    """What marks metrics where real images stood in for generated ones."""
    return {"ceiling": 1} if source == "real" else {}


class Generator(Section):
    """What makes images, and where it comes from."""

    kind: Literal[tuple(GENERATORS)]
    """A diffusion model, or a GAN (with source `train` and `generate.sampler` `direct`)."""
    source: Literal[tuple(SOURCES)]
    """Train it here, load one, import images, take real ones instead (the ceiling of any generator), or have none."""
    path: str
    """The pretrained model's diffusers folder, or the images' file or folder; a dependency, so it must exist."""
    channel_order: Literal["rgb", "bgr"] | None
    """Order of imported images' channels; null: RGB, and refused if they look like BGR."""
    hub: str | None
    """A repository of the Hugging Face hub with the pretrained model, such as google/ddpm-cifar10-32."""
    revision: Commit | None
    """The commit of that repository."""
    sha256: Digest | None
    """The digest of its weights, which the hub shows beside the file."""

    @rule
    def kinds(self) -> Faults:
        """Only diffusion models are loaded."""
        if self.source == "pretrained" and self.kind != "ddpm":
            yield "source", f"pretrained is for kind ddpm; a {self.kind} is trained here, by train"

    @rule
    def from_hub(self) -> Faults:
        """A repository has a commit and a digest, and is for pretrained models."""
        if self.source != "pretrained" and self.hub is not None:
            yield "hub", f"is for source pretrained and must be null with source {self.source}, not {self.hub}"
        if self.source == "pretrained" and self.hub is not None and self.sha256 is None:
            yield "sha256", f"is needed with hub {self.hub}: that of its weights, which the hub shows"
        if self.sha256 is not None and self.source != "pretrained":
            yield "sha256", f"is for source pretrained and must be null with source {self.source}"

    @rule
    def commit(self) -> Faults:
        """A repository and its commit go together."""
        if (self.hub is None) != (self.revision is None):
            both = f"hub {told(self.hub)} and revision {told(self.revision)}"
            yield "revision", f"{both} go together: a repository and a commit of it (40 hex digits)"


class Generate(Section):
    """Sampling of the generated images."""

    sampler: Literal["ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++", "direct"]
    """How a diffusion model is sampled; `direct` is one pass of a GAN's generator."""
    steps: Count
    """Steps of the sampler; 1 with direct."""
    eta: Probability
    """DDIM's noise, 0 for none; 0 with the others."""
    clip: bool
    """Clamp predicted images to their range while sampling; true with direct."""
    batch_size: Count
    """Images that are sampled at once."""
    shard_size: Count
    """Images of a file, a multiple of `batch_size`."""
    seed: Seed
    """Seed of the noise."""

    @rule
    def direct(self) -> Faults:
        """A GAN has one pass and images in range."""
        if self.sampler == "direct":
            if self.steps != 1:
                yield "steps", f"must be 1 with sampler direct, one pass of the generator, not {self.steps}"
            if not self.clip:
                yield "clip", "must be true with sampler direct: a GAN's images are in range as they are"

    @rule
    def noise(self) -> Faults:
        """Only DDIM has an eta."""
        if self.eta != 0 and self.sampler != "ddim":
            yield "eta", f"is for the ddim sampler and must be 0 with {self.sampler}, not {self.eta}"

    @rule
    def whole_batches(self) -> Faults:
        """Batches tile shards."""
        if self.shard_size % self.batch_size:
            yield "shard_size", f"{self.shard_size} is not a multiple of batch_size {self.batch_size}"


def used(p) -> Faults:
    """A generator that is none makes no images, real ones must be there, and only colours have an order."""
    g = p.generator
    if g.source == "real" and generated(p) > p.dataset.ceiling_size:
        what = f"{p.dataset.ceiling_size} < {generated(p)} real images that stand in for generated ones"
        yield ("dataset", "ceiling_size"), f"{what} at inflation.ratio {p.inflation.ratio}"
    if g.source == "none" and p.inflation.ratio > 0:
        yield ("inflation", "ratio"), f"must be 0 with generator.source none, not {p.inflation.ratio}"
    if g.channel_order is not None and (g.source != "import" or shape(p.dataset)[1] == 1):
        what = f"is for importing RGB images and must be null otherwise, not {g.channel_order}"
        yield ("generator", "channel_order"), what


def trained(p) -> list[tuple[str, object]]:
    """The generators that are trained here: the names of their sections, and these."""
    found = [(p.generator.kind, getattr(p, p.generator.kind))] if p.generator.source == "train" else []
    return found + ([("conditioned", p.conditioned)] if p.positives.kind == "conditioned" else [])


def batches(p) -> Faults:
    """A batch of a generator's training, and of a condition's encoder, fits the train images."""
    sections = [((name,), own) for name, own in trained(p)]
    if p.positives.kind == "conditioned":
        sections.append((("conditioned", "encoder"), p.conditioned.encoder))
    for path, own in sections:
        if own.batch_size > p.dataset.train_size:
            yield (*path, "batch_size"), f"{own.batch_size} > dataset.train_size {p.dataset.train_size}"


def levels(p) -> Faults:
    """A UNet's levels halve the image's side without a rest."""
    size = side(p)
    for name, own in trained(p):
        halvings = len(own.channels) - 1 if hasattr(own, "channels") else 0
        if size % 2**halvings:
            yield (name, "channels"), f"{halvings + 1} levels halve {halvings} times; {size} pixels do not allow it"


def gan(p) -> Faults:
    """A GAN halves the image's side until it has at most seven pixels, which the generator begins with."""
    if p.generator.kind != "gan" or p.generator.source != "train":
        return
    size = rest = side(p)
    while rest > 7 and not rest % 2:
        rest //= 2
    if rest > 7:
        yield ("generator", "kind"), f"gan halves {size} pixels to 7 or fewer, and {rest} is odd"


def sampler(p) -> Faults:
    """A sampler is of the generator's kind."""
    g = p.generate
    if (g.sampler == "direct") != (p.generator.kind == "gan"):
        wanted = "direct for a gan, which has no other" if p.generator.kind == "gan" else "one of a ddpm's"
        yield ("generate", "sampler"), f"must be {wanted}, not {g.sampler}"


def timesteps(p) -> tuple[str, int]:
    """The timesteps of the DDPM, and what to call them."""
    trained_here = p.generator.source == "train"
    return ("ddpm.timesteps", p.ddpm.timesteps) if trained_here else ("a published DDPM's timesteps", PUBLISHED)


def is_ddpm(p) -> bool:
    """Whether there is a diffusion model to sample from."""
    return p.generator.kind == "ddpm" and p.generator.source in ("train", "pretrained")


def grid(p) -> Faults:
    """A sampler's steps are on the grid of the timesteps: diffusers rounds the stride, not the grid."""
    if not is_ddpm(p):
        return
    g, (name, there) = p.generate, timesteps(p)
    if g.steps > there:
        yield ("generate", "steps"), f"{g.steps} > {name} {there}"
    elif g.sampler in ("ddpm", "ddim") and there % g.steps:
        yield ("generate", "steps"), f"{g.steps} does not divide {name} {there}, as sampler {g.sampler} needs"


RULES = (used, batches, levels, gan, sampler, grid)
