"""Self-supervised methods, one file each, named by `pretrain.method`; the section of that name has the parameters.

A method is a subclass of `Method` with a `loss`. It overrides what differs from the defaults: the views that it wants,
the passes of the backbone that they cost, its phases (optimizer groups with a loss), what happens before and after a
step, and what it saves beside the encoder. A method that sets GENERATOR needs a trained generator of that kind.

All state (heads, momentum encoders, queues) is parameters and persistent buffers, so that checkpoints hold it. A
method has no loop, logging or device call of its own, and an optimizer only as `Phase.build`. The batch that reaches
a loss is a list of float tensors (B, C, H, W), one for each view, with this process's rows, of the part at hand where
a batch passes in parts. So a loss changes no state that it reads: queues and centres move in `after_step`. It compares
rows only after `distributed.gather`, and draws random numbers only from (seed, purpose, `distributed.of_part(step)`).
"""

import importlib
import statistics
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn

from pipeline.core import seeds
from pipeline.engine.loop import Phase, groups_of
from pipeline.networks.backbones import Encoder
from pipeline.params.parts import SmallViews, ThirdView
from pipeline.params.schema import Augment
from pipeline.params.types import Section


@dataclass(frozen=True)
class View:
    """One augmented copy of an image.

    source: "anchor", the image that the mixture drew, or "positive", another image in its place. recipe: the number of
    its augmentation, None for the image as it is. size: pixels of its sides, None for the image's own. crop: the
    smallest and the largest share of the image that it shows, None for what the augmentation says.
    """

    source: Literal["anchor", "positive"] = "anchor"
    recipe: int | None = 0
    size: int | None = None
    crop: tuple[float, float] | None = None


@dataclass(frozen=True)
class Given:
    """What a method with a generator gets in addition.

    generator: the folder of a trained one, its files checked. images: the train images, uint8 (N, H, W, C).
    augmentation: for views of images that the method generates itself.
    """

    generator: Path
    images: np.ndarray
    augmentation: Augment


class Method(nn.Module):
    """An encoder with heads and a loss; the defaults are those of two views and one optimizer."""

    GENERATOR: ClassVar[str | None] = None  # a kind of pipeline.generators
    HEADS: ClassVar[str] = "projector"  # the purpose of the random numbers that initialise the heads
    views: tuple[View, ...] = (View(recipe=0), View(recipe=1))

    def __init__(self, params: Section, encoder: Encoder, seed: int):
        super().__init__()
        self.params, self.seed = params, seed
        self.encoder = encoder

    @classmethod
    def build(cls, params: Section, encoder: Encoder, seed: int, *given: Given) -> Self:
        """The method around an encoder, with heads initialised from the seed; `given` if it wants a generator."""
        with seeds.scope(seed, cls.HEADS):
            return cls(params, encoder, seed, *given)

    @property
    def network(self) -> nn.Sequential:
        """Encoder and projector, one after the other: float (B, C, H, W) -> projections (B, D)."""
        return nn.Sequential(self.encoder, self.projector)

    def passes(self, step: int) -> tuple[float, ...]:
        """Passes of the backbone for each view of an image in a step; a backward pass counts as two forward passes."""
        return (3,) * len(self.views)

    def phases(self) -> list[Phase]:
        """What a step optimises, in order: by default all trainable parameters against `loss`."""
        return [Phase(groups_of(self), self.loss)]

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """Scalars of a batch of views; "loss" is minimised, the others are logged."""
        raise NotImplementedError

    def before_step(self, step: int, progress: float) -> None:
        """Called before each step, progress = step / steps."""

    def after_step(self, step: int, progress: float) -> None:
        """Called after each step, progress = (step + 1) / steps."""

    def save_artifacts(self, folder: Path, images: np.ndarray) -> list[str]:
        """Write what belongs beside the trained encoder; returns the files' names.

        images: those of validation, or of train where there are none, uint8 (N, H, W, C).
        """
        return []

    @staticmethod
    def pictures(made: dict[str, Path]) -> list[tuple[str, np.ndarray]]:
        """What the saved files (name -> path) show: titles and uint8 images (N, H, W, C)."""
        return []

    @staticmethod
    def outcomes(rows: list[dict], made: dict[str, Path]) -> dict[str, float]:
        """Numbers for metrics/pretrain.json beside the loss, from the log's rows and the saved files."""
        return {}


class MomentumMethod(Method):
    """A method whose `momentum_encoder`, of encoder and projector, sees the first two views."""

    def passes(self, step: int) -> tuple[float, ...]:
        """The momentum encoder adds a forward pass of each view that it sees."""
        return 4, 4, *[3] * (len(self.views) - 2)

    def after_step(self, step: int, progress: float) -> None:
        """Update the momentum encoder."""
        self.momentum_encoder.update(self.network, progress)


def third_view(params: ThirdView) -> View:
    """CLSP's: of a candidate or, in the control, of the image itself."""
    return View(source={"candidate": "positive", "augmented": "anchor"}[params.third_view], recipe=1)


def multi_crop_views(params: SmallViews) -> tuple[View, ...]:
    """Two large views, then the small ones."""
    small = View(recipe=1, size=params.small_size, crop=(params.small_crop_min, params.small_crop_max))
    return (View(recipe=0), View(recipe=1), *[small] * params.small_views)


def load(name: str) -> type[Method]:
    """The class of a method, which is the one subclass of `Method` in its module; imported on use."""
    module = importlib.import_module(f"pipeline.methods.{name}")
    (method,) = (value for value in vars(module).values() if is_method_of(module, value))
    return method


def is_method_of(module: ModuleType, value: object) -> bool:
    """Whether a value of a module is a method that the module defines, not one that it imports."""
    return isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__


def late_mean(rows: list[dict], name: str) -> float:
    """The mean of a number of the log over the rows of the last tenth of the steps."""
    return statistics.fmean(row[name] for row in rows if 10 * row["step"] > 9 * rows[-1]["step"])
