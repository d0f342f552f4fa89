"""Batches of labelled images, of which each is seen as one view: what supervised networks here learn from."""

from collections.abc import Callable

import torch

from pipeline.augment import recipes
from pipeline.core import seeds
from pipeline.core.devices import sent
from pipeline.data import mixture, shards


def batches(
    part: shards.Part, recipe: recipes.Recipe, size: int, seed: int, purpose: str, device: torch.device
) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """batch(step) -> views, float (size, C, H, W), and labels, int64 (size,), of images that are drawn in passes.

    purpose: of the views' random numbers, in which no other use of the seed may share.
    """
    images, labels = part
    bank, answers = shards.ImageBank(images, [], device.type), torch.from_numpy(labels).to(device)
    walk = mixture.Mixture(len(images), 0, 1.0, size, seed)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = walk.rows(step)
        (views,) = recipes.views(bank[rows], [recipe], seeds.generator(seed, purpose, step))
        return views, answers[sent(torch.from_numpy(rows), device)]

    return batch
