"""The batches of a pretraining: which real, generated and positive images its views show. Inflation acts here."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.augment import recipes
from pipeline.core import seeds
from pipeline.data import mixture, shards
from pipeline.data.bank import ImageBank
from pipeline.engine import distributed
from pipeline.methods import View
from pipeline.params.schema import Augment
from pipeline.training.online_head import UNLABELLED


@dataclass(frozen=True)
class Images:
    """What a pretraining sees. generated, positives: parts of a set, uint8 (N, H, W, C) each, maybe none.

    positives: as many candidates for each train image of `real`, candidate by candidate. source: where the generated
    ones come from, generator.source. weights: float (n,), how often each of these is drawn; None: all alike.
    """

    real: shards.RealSet
    generated: list[np.ndarray]
    positives: list[np.ndarray]
    source: str = "none"
    weights: np.ndarray | None = None


STEPS, NUMBERS = 8, 3 << 20  # steps whose views are made at once, at most, and how many numbers these may be


class Batches:
    """batches(step) -> one float tensor (b, C, H, W) a view, this process's rows; a pure function of the step.

    draw: which images the mixture draws in a step. candidates: positives of each real image, 0 for none; then `bank`
    holds no positives. Steps are made in groups that begin at multiples of their length, so that a resumed run makes
    the same ones: on small images the overhead of a call is as large as its work. Batches in parts come one by one.
    """

    def __init__(
        self,
        draw: mixture.Mixture | mixture.Copies,
        bank: ImageBank,
        candidates: int,
        views: tuple[View, ...],
        augmentation: Augment,
    ):
        self.draw, self.bank, self.candidates, self.views = draw, bank, candidates, views
        self.augmentation = augmentation
        self.recipes = [view_recipe(augmentation, view) for view in views]
        self.replaced = replaced_views(augmentation, views)
        self._steps, self._made = range(0), []

    def __call__(self, step: int) -> list[torch.Tensor]:
        steps = self._group(step)
        if len(steps) == 1:
            return self._views(steps)
        if steps != self._steps:
            self._steps, self._made = range(0), []  # the group before goes before the next one is made
            self._made = [view.chunk(len(steps)) for view in self._views(steps)]
            self._steps = steps
        return [view[steps.index(step)] for view in self._made]

    def _group(self, step: int) -> range:
        height, width, channels = self.bank.shape
        pixels = sum(height * width if view.size is None else view.size**2 for view in self.views)
        images = len(range(self.draw.batch_size)[distributed.share(self.draw.batch_size)])
        n = max(1, min(STEPS, NUMBERS // (pixels * channels * images))) if distributed.parts() == 1 else 1
        return range(step - step % n, step - step % n + n)

    def _views(self, steps: range) -> list[torch.Tensor]:
        """Float (len(steps) b, C, H, W) a view, step by step."""
        local, n = distributed.share(self.draw.batch_size), self.draw.batch_size
        drawn = [self.draw.rows(step) for step in steps]  # real and generated images, in the shares of `inflation`
        rows = [
            np.concatenate([self._rows(each, k, step)[local] for each, step in zip(drawn, steps, strict=True)])
            for k in range(len(self.views))
        ]
        apart = {found.tobytes(): found for found in rows}  # views of the same images look them up once
        images = {key: self.bank[found] for key, found in apart.items()}
        random = [seeds.generator(self.augmentation.seed, "views", step) for step in steps]
        return recipes.views([images[found.tobytes()] for found in rows], self.recipes, random, (n, local))

    def labels(self, step: int, answers: torch.Tensor) -> torch.Tensor:
        """Of the whole batch, int64 (B,): `answers` (n_real,) of the real images, UNLABELLED of generated ones."""
        drawn = torch.from_numpy(self.draw.rows(step))
        real = drawn < self.draw.n_real
        return torch.where(real, answers[drawn.where(real, 0)], UNLABELLED)

    def _rows(self, drawn: np.ndarray, k: int, step: int) -> np.ndarray:
        """Rows of the bank that view k shows of the whole batch, int64 (B,)."""
        there = self.draw.n_real, self.draw.n_generated, self.candidates, self.augmentation.seed, step
        if k in self.replaced:
            return mixture.replaced(drawn, self.augmentation.replace, *there, k)
        return mixture.positives(drawn, *there) if self.views[k].source == "positive" else drawn


def view_recipe(augmentation: Augment, view: View) -> recipes.Recipe:
    """What a method's view goes through."""
    if view.recipe is None:
        return recipes.PLAIN
    least, most = view.crop or (None, 1.0)
    numbers = augmentation if least is None else augmentation.model_copy(update={"crop_min": least})
    return dataclasses.replace(recipes.recipe(numbers, view.recipe), crop_max=most, size=view.size)


def replaced_views(augmentation: Augment, views: tuple[View, ...]) -> list[int]:
    """Which of a method's views may show a positive in the image's place, where `augment.replace` is above 0.

    Only augmented views of the image itself: what a method wants as it is, for a real image, stays that image.
    """
    if augmentation.replace == 0:
        return []
    first = {"second": 1, "both": 0}[augmentation.replaced]
    augmented = [k for k, view in enumerate(views) if view.source == "anchor" and view.recipe is not None]
    return [k for k in augmented if k >= first]
