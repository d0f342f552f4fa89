"""Images, recipes and measures that the tests of augmentations share."""

import numpy as np
import torch

from pipeline.augment import recipes
from pipeline.augment.recipes import Recipe
from pipeline.augment.transforms import AugmentationParameters
from pipeline.params.schema import Augment

SHAPES = [(32, 32, 3), (28, 28, 1), (31, 27, 3), (31, 27, 1)]
NOTHING = Recipe(**dict.fromkeys(recipes.NUMBERS, 0.0))


def noise(n: int, shape: tuple[int, int, int], low: int = 0, high: int = 256) -> torch.Tensor:
    """Images that hide no fault of a filter behind smoothness, with pure colours, greys, black and white among them."""
    rng = np.random.default_rng(n + sum(shape))
    images = rng.integers(low, high, (n, *shape), dtype=np.uint8)
    if (low, high) == (0, 256):
        images[0, :8] = 0
        images[0, 8:16] = 255
        images[1, :, :, :] = images[1, :, :, :1]  # grey: no hue
        images[1, :8, :, 0] = 255
        images[2] = 255 * (images[2] > 127)  # corners of the colour cube: ties among the channels
    return torch.from_numpy(images)


def planes(image: torch.Tensor) -> torch.Tensor:
    """uint8 (H, W, C) -> float (C, H, W) in [0, 1]."""
    return image.permute(2, 0, 1).float() / 255


def worst(one, other) -> float:
    """The largest difference of any pixel, in steps of 1/255."""
    return max((a - b).abs().max().item() * 255 for a, b in zip(one, other, strict=True))


def draws(recipe: Recipe, n: int, size: tuple[int, int], seed: int = 0) -> AugmentationParameters:
    return recipes.draw([recipe], n, size, torch.Generator().manual_seed(seed))


def section(family: str = "symmetric", form: str = "colour", strength: float = 2.0, **alone: float) -> Augment:
    numbers = {name: alone.get(name) for name in recipes.NUMBERS}
    fixed = {"interpolation": alone.get("interpolation", "bicubic"), "replace": 0.0, "replaced": "second", "seed": 0}
    return Augment(family=family, form=form, strength=strength, **fixed | numbers)
