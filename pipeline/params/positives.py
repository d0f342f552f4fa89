"""KINDS: the kinds of positives by their names. Positives are generated images that stand beside each train image."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.params.generators import DDPM, PUBLISHED, is_ddpm, timesteps
from pipeline.params.ranges import Count, Fraction, NonNegative, Probability, Seed
from pipeline.params.training import RealOnly
from pipeline.params.types import Faults, Section, rule, told


class Conditioned(DDPM):
    """With kind `conditioned`: a DDPM whose condition is an encoder's features of the image."""

    condition_dropout: Fraction
    """How often training leaves the condition out, which guidance needs."""
    hidden_dim: Count
    """Width of the two layers that embed the features."""
    encoder: RealOnly
    """The encoder whose features they are."""


class UnCLIP(Section):
    """With kind `unclip`: a pretrained `StableUnCLIPImg2ImgPipeline`. It has seen other images: OUTSIDE DATA."""

    path: str
    """Its folder, as diffusers saves it; a dependency, so it must exist."""
    size: Annotated[int, Field(ge=8, le=2048)] | None
    """Height and width of the images that it makes, in pixels; null: those of its training."""
    noise_level: Annotated[int, Field(ge=0, le=999)]
    """Noise on CLIP's embedding of the image."""


class Kind(NamedTuple):
    """What one kind of positives brings: its own section if it has one, the field of `positives` that it uses.

    timesteps: of parameters, those that its steps divide, and what to call them; None for a kind without steps.
    packages: what it needs that Leaven's own dependencies lack.
    """

    section: type[Section] | None
    uses: Literal["weight", "guidance"]
    timesteps: Callable[[object], tuple[str, int]] | None = None
    packages: tuple[str, ...] = ()


KINDS = {
    "anchored": Kind(None, "weight", timesteps),
    "conditioned": Kind(Conditioned, "guidance", lambda p: ("conditioned.timesteps", p.conditioned.timesteps)),
    "unclip": Kind(
        UnCLIP, "guidance", lambda p: ("a published pipeline's timesteps", PUBLISHED), packages=("transformers",)
    ),
}


def absent(kind: str) -> Iterator[UserError]:
    """A fault for each package that the kind needs and this machine lacks."""
    for package in KINDS[kind].packages if kind in KINDS else ():
        if importlib.util.find_spec(package) is None:
            what = f"{kind} needs {package}, which is not installed"
            yield UserError(what, "params.yaml: positives.kind", f"pip install {package}, or choose another")


class Positives(Section):
    """Generated images as positives of real ones: for CLSP's methods, and for `augment.replace`.

    CLSP: weight 0.1, 8 candidates, 100 steps, eta 0.1, no clipping.
    """

    kind: Literal[("none", *KINDS)]
    """`anchored`: CLSP's; `conditioned`: GenSSL's; `unclip`: GenSSL's with OUTSIDE DATA; or none."""
    candidates: Count
    """Generated images for each train image."""
    weight: Probability | None
    """With anchored: the sample's own share of the UNet's bottleneck, the rest is the image's; else null."""
    guidance: NonNegative | None
    """With conditioned and unclip: 1 the plain model, above it more of the condition; else null."""
    steps: Count
    """DDIM's steps; they divide the timesteps."""
    eta: Probability
    """DDIM's noise; 0 for none."""
    clip: bool
    """Clamp predicted images to their range while sampling; false with unclip."""
    batch_size: Count
    """Images that are sampled at once."""
    shard_size: Count
    """Images of a file, a multiple of `batch_size`."""
    seed: Seed
    """Seed of the noise."""

    @rule
    def options(self) -> Faults:
        """A kind has its own field and not the other's."""
        for name in ("weight", "guidance") if self.kind != "none" else ():
            own, given = name == KINDS[self.kind].uses, getattr(self, name)
            if own != (given is not None):
                yield name, f"must be {'a number' if own else 'null'} with kind {self.kind}, not {told(given)}"

    @rule
    def whole_batches(self) -> Faults:
        """Batches tile shards."""
        if self.kind != "none" and self.shard_size % self.batch_size:
            yield "shard_size", f"{self.shard_size} is not a multiple of batch_size {self.batch_size}"

    @rule
    def unclips(self) -> Faults:
        """The pipeline's guidance starts at 1, and latents have no range."""
        if self.kind == "unclip" and self.clip:
            yield "clip", "must be false with kind unclip: latents have no range"
        if self.kind == "unclip" and self.guidance is not None and self.guidance < 1:
            yield "guidance", f"must be at least 1 with kind unclip, which has no less, not {self.guidance}"


def wanted(p) -> Faults:
    """A view shows a positive only if there are any."""
    if p.positives.kind == "none" and p.augment.replace > 0:
        yield ("augment", "replace"), f"must be 0 with positives.kind none, not {p.augment.replace}"


def anchored(p) -> Faults:
    """Anchored sampling mixes the bottlenecks of the DDPM."""
    if p.positives.kind == "anchored" and not is_ddpm(p):
        yield ("positives", "kind"), "anchored needs a DDPM: generator.kind ddpm, source train or pretrained"


def grid(p) -> Faults:
    """Steps are on DDIM's whole grid."""
    timesteps = None if p.positives.kind == "none" else KINDS[p.positives.kind].timesteps
    if timesteps is None:
        return
    name, there = timesteps(p)
    if there % p.positives.steps:  # more than these do not divide them either
        yield ("positives", "steps"), f"{p.positives.steps} does not divide {name} {there}"


RULES = (wanted, anchored, grid)
