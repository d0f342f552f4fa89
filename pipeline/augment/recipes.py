"""How strongly views are augmented (a recipe for each view), and the random parameters of each image of a batch.

`draw` draws the parameters and transforms.py applies them, so that tests can give the same ones to torchvision and PIL.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from pipeline.augment.transforms import BLUR_SIGMA, IDENTITY, AugmentationParameters, apply
from pipeline.params.schema import Augment

ASPECT = (math.log(3 / 4), math.log(4 / 3))
_TRIES = 10  # after ten boxes that do not fit, torchvision's RandomResizedCrop takes the whole image


@dataclass(frozen=True)
class Family:
    """One family of augmentations at full strength, as published; jitter is (brightness, contrast, saturation, hue)."""

    jitter: tuple[float, float, float, float]
    weak_jitter: tuple[float, float, float, float]  # at strength 1
    grayscale: float
    blur: float
    solarize: tuple[float, float]  # probability in the first view and in each later one


# The strong augmentations of the methods and AdaInf's weak forms of them (github.com/PKU-ML/adainf@233a6bd,
# scripts/pretrain/cifar/augmentations; github.com/dewenzeng/clsp@91c8f9e). CLSP has no weak form; ours keeps jitter.
# MAE uses a crop and a flip; strength 1 is its smallest area of 0.2 (He et al., CVPR 2022, appendix A.1).
FAMILIES = {
    "symmetric": Family((0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.4, 0.1), 0.2, 0.5, (0.0, 0.0)),
    "symmetric-weak": Family((0.4, 0.4, 0.4, 0.1), (0.4, 0.4, 0.4, 0.1), 0.2, 0.5, (0.0, 0.0)),
    "asymmetric": Family((0.4, 0.4, 0.2, 0.1), (0.4, 0.4, 0.2, 0.1), 0.2, 0.0, (0.0, 0.2)),
    "clsp-simclr": Family((0.4, 0.4, 0.4, 0.1), (0.4, 0.4, 0.4, 0.1), 0.2, 0.0, (0.0, 0.0)),
    "clsp-moco": Family((0.4, 0.4, 0.2, 0.1), (0.4, 0.4, 0.2, 0.1), 0.2, 0.0, (0.2, 0.2)),
    "crop": Family((0.0,) * 4, (0.0,) * 4, 0.0, 0.0, (0.0, 0.0)),
}
# Strength -> smallest crop area and jitter probability. 1 is AdaInf's weak form, 2 that of the methods.
KNOTS = (0.0, 1.0, 2.0, 4.0)
CROP_MIN = (1.0, 0.20, 0.08, 0.02)
JITTER_P = (0.0, 0.4, 0.8, 1.0)


@dataclass(frozen=True)
class Recipe:
    """The numbers of one view's augmentation: probabilities, magnitudes, smallest crop area.

    The method sets crop_max, the largest crop area, and size, pixels of the view's sides (None: those of the image).
    interpolation: of the crop, the same in all views of a batch.
    """

    crop_min: float
    jitter_probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grayscale: float
    blur: float
    solarize: float
    flip: float
    crop_max: float = 1.0
    size: int | None = None
    interpolation: str = "bicubic"


NUMBERS = tuple(field.name for field in fields(Recipe) if field.name not in ("crop_max", "size", "interpolation"))
PLAIN = Recipe(**dict.fromkeys(NUMBERS, 0.0) | {"crop_min": 1.0})  # the image as it is


def recipe(params: Augment, view: int) -> Recipe:
    """The recipe of view number `view` (0, 1, ...)."""
    family, s = FAMILIES[params.family], params.strength
    fade = min(s, 1.0)
    colour = 1.0 if params.form == "colour" else 0.0
    rungs = zip((0.0,) * 4, family.weak_jitter, family.jitter, (2 * j for j in family.jitter), strict=True)
    brightness, contrast, saturation, hue = (_between(s, rung) for rung in rungs)
    given = Recipe(
        crop_min=math.exp(_between(s, [math.log(c) for c in CROP_MIN])),
        jitter_probability=_between(s, JITTER_P),
        brightness=brightness,
        contrast=contrast,
        saturation=saturation * colour,
        hue=min(hue, 0.5) * colour,
        grayscale=family.grayscale * fade * colour,
        blur=family.blur * fade,
        solarize=family.solarize[min(view, 1)] * fade,
        flip=0.5 * fade,
        interpolation=params.interpolation,
    )
    return replace(given, **{name: v for name in NUMBERS if (v := getattr(params, name)) is not None})


def _between(s: float, values) -> float:
    for (low, a), (high, b) in itertools.pairwise(zip(KNOTS, values, strict=True)):
        if s <= high:
            return a + (b - a) * (s - low) / (high - low)
    raise ValueError(f"strength {s} > {KNOTS[-1]}")


def draw(recipes: list[Recipe], n: int, size: tuple[int, int], *generators: torch.Generator) -> AugmentationParameters:
    """Random parameters for n images of `size` (H, W): of each generator n rows for each recipe.

    generators: of the CPU, as `apply` wants them; so a run on a GPU has the views that a CPU draws.
    """
    numbers = torch.tensor([_columns(recipe) for recipe in recipes]).repeat_interleave(n, dim=0)
    numbers = numbers.repeat(len(generators), 1)
    crop, low, span, chance = numbers.split([2, 4, 4, 5], dim=1)
    sizes = [_TRIES, _TRIES, 2, 4, 4, 1, 5]
    u = torch.cat([torch.rand(n * len(recipes), sum(sizes), generator=generator) for generator in generators])
    areas, aspects, corner, ranks, factors, sigma, decisions = u.split(sizes, dim=1)
    jitter, grey, blur, solarize, flip = (decisions < chance).unbind(1)
    return AugmentationParameters(
        box=_boxes(crop, size, areas, aspects, corner),
        flip=flip,
        order=ranks.argsort(dim=1),
        factors=torch.where(jitter[:, None], low + span * factors, u.new_tensor(IDENTITY)),
        grey=grey,
        sigma=(BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * sigma[:, 0]) * blur,
        solarize=solarize,
    )


def _columns(r: Recipe) -> list[float]:
    """Smallest and largest crop; minimum and range of each jitter factor; the probability of each decision."""
    widths = (r.brightness, r.contrast, r.saturation)
    low = [*(max(0.0, 1 - width) for width in widths), -r.hue]
    high = [*(1 + width for width in widths), r.hue]
    span = [b - a for a, b in zip(low, high, strict=True)]
    return [r.crop_min, r.crop_max, *low, *span, r.jitter_probability, r.grayscale, r.blur, r.solarize, r.flip]


def _boxes(crop: torch.Tensor, size: tuple[int, int], areas, aspects, corner) -> torch.Tensor:
    # RandomResizedCrop of torchvision: area uniform, aspect log-uniform, the first of ten boxes that fits.
    whole, (least, most) = crop.new_tensor(size), crop.split(1, dim=1)
    area = (least + (most - least) * areas) * (size[0] * size[1])
    aspect = (ASPECT[0] + (ASPECT[1] - ASPECT[0]) * aspects).exp()
    sides = torch.stack([area / aspect, area * aspect], dim=2).sqrt().round()  # n tries 2: height, width
    fits = ((sides >= 1) & (sides <= whole)).all(dim=2)
    first = fits.float().argmax(dim=1)[:, None, None].expand(-1, 1, 2)
    side = torch.where(fits.any(dim=1, keepdim=True), sides.gather(1, first)[:, 0], whole)
    room = whole - side
    return torch.cat([torch.minimum((corner * (room + 1)).floor(), room), side], dim=1).long()


def views(
    images: torch.Tensor | Sequence[torch.Tensor],
    recipes: list[Recipe],
    generator: torch.Generator | Sequence[torch.Generator],
    whole: tuple[int, slice] | None = None,
) -> list[torch.Tensor]:
    """An augmented copy of the images for each recipe: uint8 (B, H, W, C) -> float32 (B, C, H, W) in [0, 1] each.

    images: the same for all recipes, or one tensor for each. H and W of a view are its recipe's `size`, if it has one.
    generator: of several, the images are as many batches of one size, one after the other, each with its own numbers.
    whole = (n, rows): a batch is these rows of one of n images and gets the same views as in the whole.
    """
    sources = [images] * len(recipes) if isinstance(images, torch.Tensor) else images
    generators = [generator] if isinstance(generator, torch.Generator) else generator
    n, rows = whole or (len(sources[0]) // len(generators), slice(None))
    drawn = draw(recipes, n, tuple(sources[0].shape[1:3]), *generators)
    places = torch.arange(len(drawn.flip)).view(len(generators), -1, n).transpose(0, 1)[..., rows]  # by recipe
    found = {}
    for size in {recipe.size for recipe in recipes}:
        alike = [k for k, recipe in enumerate(recipes) if recipe.size == size]
        one = all(sources[k] is sources[alike[0]] for k in alike)
        whose = sources[alike[0]] if one else torch.cat([sources[k] for k in alike])
        kernel = recipes[alike[0]].interpolation
        made = apply(whose, drawn.of(places[alike].flatten()), size, kernel).chunk(len(alike))
        found |= dict(zip(alike, made, strict=True))
    return [found[k] for k in range(len(recipes))]
