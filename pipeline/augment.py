"""A uint8 batch and a generator -> augmented float views, one set of parameters an image, all in batched tensor code.

`draw` makes the random parameters and `apply` uses them, so that a test can hand the same parameters to torchvision and
PIL. Order (solo-learn's): random resized crop with flip, colour jitter, grayscale, blur, solarize, clamp.
Cropping, resizing, flipping and blurring are separable: two small matrices an image, A_y X A_x^T.
"""

import itertools
import math
from dataclasses import dataclass

import torch

from pipeline.params.schema import Augment

GREY = torch.tensor([0.2989, 0.587, 0.114])  # ITU-R 601 luma, as in torchvision
ASPECT = (math.log(3 / 4), math.log(4 / 3))
BLUR_SIGMA = (0.1, 2.0)
SOLARIZE_ABOVE = 128 / 255
_TRIES = 10  # torchvision's RandomResizedCrop gives up after ten boxes that do not fit, and takes the whole image


@dataclass(frozen=True)
class Family:
    """One family of augmentations at full strength, as published; jitter is (brightness, contrast, saturation, hue)."""

    jitter: tuple[float, float, float, float]
    weak_jitter: tuple[float, float, float, float]  # at strength 1
    grayscale: float
    blur: float
    solarize: tuple[float, float]  # probability in the first view, in every later one


# The methods' strong augmentations and AdaInf's weak forms of them (github.com/PKU-ML/adainf@233a6bd,
# scripts/pretrain/cifar/augmentations; github.com/dewenzeng/clsp@91c8f9e). CLSP has no weak form; ours keeps jitter.
FAMILIES = {
    "symmetric": Family((0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.4, 0.1), 0.2, 0.5, (0.0, 0.0)),
    "symmetric-weak": Family((0.4, 0.4, 0.4, 0.1), (0.4, 0.4, 0.4, 0.1), 0.2, 0.5, (0.0, 0.0)),
    "asymmetric": Family((0.4, 0.4, 0.2, 0.1), (0.4, 0.4, 0.2, 0.1), 0.2, 0.0, (0.0, 0.2)),
    "clsp-simclr": Family((0.4, 0.4, 0.4, 0.1), (0.4, 0.4, 0.4, 0.1), 0.2, 0.0, (0.0, 0.0)),
    "clsp-moco": Family((0.4, 0.4, 0.2, 0.1), (0.4, 0.4, 0.2, 0.1), 0.2, 0.0, (0.2, 0.2)),
}
# Strength -> smallest crop area and jitter probability. 1 is AdaInf's weak form, 2 the methods' own.
KNOTS = (0.0, 1.0, 2.0, 4.0)
CROP_MIN = (1.0, 0.20, 0.08, 0.02)
JITTER_P = (0.0, 0.4, 0.8, 1.0)


@dataclass(frozen=True)
class Recipe:
    """The numbers of one view's augmentation: probabilities, magnitudes, smallest crop area."""

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


def recipe(params: Augment, view: int) -> Recipe:
    """What view number `view` (0, 1, ...) goes through."""
    family, s = FAMILIES[params.family], params.strength
    fade = min(s, 1.0)
    zeros = (0.0,) * 4
    colour = 1.0 if params.form == "colour" else 0.0
    ladder = (zeros, family.weak_jitter, family.jitter, tuple(2 * j for j in family.jitter))
    jitter = [_between(s, [rung[i] for rung in ladder]) for i in range(4)]
    given = Recipe(
        crop_min=math.exp(_between(s, [math.log(c) for c in CROP_MIN])),
        jitter_probability=_between(s, JITTER_P),
        brightness=jitter[0],
        contrast=jitter[1],
        saturation=jitter[2] * colour,
        hue=min(jitter[3], 0.5) * colour,
        grayscale=family.grayscale * fade * colour,
        blur=family.blur * fade,
        solarize=family.solarize[min(view, 1)] * fade,
        flip=0.5 * fade,
    )
    alone = {name: getattr(params, name) for name in Recipe.__dataclass_fields__}
    return Recipe(**{name: getattr(given, name) if v is None else v for name, v in alone.items()})


def _between(s: float, values) -> float:
    for (low, a), (high, b) in itertools.pairwise(zip(KNOTS, values, strict=True)):
        if s <= high:
            return a + (b - a) * (s - low) / (high - low)
    raise ValueError(f"strength {s} > {KNOTS[-1]}")


@dataclass
class Drawn:
    """The random parameters of n images; every tensor has n rows.

    box: int64 (n, 4) top, left, height, width. order: int64 (n, 4), the jitter operations (0 brightness, 1 contrast,
    2 saturation, 3 hue) in the order they are applied. factors: float (n, 4), 1, 1, 1, 0 where nothing is to happen.
    sigma: float (n,), 0 where there is no blur. grey, solarize, flip: bool (n,).
    """

    box: torch.Tensor
    flip: torch.Tensor
    order: torch.Tensor
    factors: torch.Tensor
    grey: torch.Tensor
    sigma: torch.Tensor
    solarize: torch.Tensor


def draw(recipe: Recipe, n: int, size: tuple[int, int], generator: torch.Generator) -> Drawn:
    """Random parameters for n images of `size` (H, W), on the generator's device."""
    device = generator.device

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, device=device)

    limits = torch.tensor([recipe.brightness, recipe.contrast, recipe.saturation], device=device)
    low, high = (1 - limits).clamp(min=0), 1 + limits
    factors = torch.cat([low + (high - low) * uniform(n, 3), uniform(n, 1, low=-recipe.hue, high=recipe.hue)], dim=1)
    jittered = uniform(n, 1) < recipe.jitter_probability
    factors = torch.where(jittered, factors, torch.tensor([1.0, 1.0, 1.0, 0.0], device=device))
    sigma = uniform(n, low=BLUR_SIGMA[0], high=BLUR_SIGMA[1])
    return Drawn(
        box=_boxes(recipe.crop_min, n, size, uniform),
        flip=uniform(n) < recipe.flip,
        order=uniform(n, 4).argsort(dim=1),
        factors=factors,
        grey=uniform(n) < recipe.grayscale,
        sigma=torch.where(uniform(n) < recipe.blur, sigma, torch.zeros_like(sigma)),
        solarize=uniform(n) < recipe.solarize,
    )


def _boxes(crop_min: float, n: int, size: tuple[int, int], uniform) -> torch.Tensor:
    # RandomResizedCrop of torchvision: area uniform, aspect log-uniform, the first of ten boxes that fits.
    rows, columns = size
    area = uniform(n, _TRIES, low=crop_min, high=1.0) * rows * columns
    aspect = uniform(n, _TRIES, low=ASPECT[0], high=ASPECT[1]).exp()
    height, width = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
    fits = (height >= 1) & (width >= 1) & (height <= rows) & (width <= columns)
    first = fits.long().argmax(dim=1, keepdim=True)
    none = ~fits.any(dim=1)
    height, width = height.gather(1, first)[:, 0], width.gather(1, first)[:, 0]
    height, width = torch.where(none, rows, height), torch.where(none, columns, width)
    top = (uniform(n) * (rows - height + 1)).long()
    left = (uniform(n) * (columns - width + 1)).long()
    return torch.stack([top, left, height, width], dim=1)


def apply(images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
    """images: uint8 (n, H, W, C). Returns float32 (n, C, H, W) in [0, 1]."""
    x = images.permute(0, 3, 1, 2).float() / 255
    height, width = x.shape[2:]
    top, left, rows, columns = drawn.box.unbind(1)
    none = torch.zeros_like(drawn.flip)
    x = _separable(x, crop_matrix(top, rows, height, none), crop_matrix(left, columns, width, drawn.flip)).clamp(0, 1)
    for place in range(4):
        for operation, change in enumerate(_JITTER):
            chosen = drawn.order[:, place] == operation
            chosen &= drawn.factors[:, operation] != (0 if operation == 3 else 1)
            rows = chosen.nonzero()[:, 0]
            if len(rows):
                x[rows] = change(x[rows], drawn.factors[rows, operation, None, None, None])
    rows = drawn.grey.nonzero()[:, 0]
    if len(rows):
        x[rows] = luma(x[rows]).expand(-1, x.shape[1], -1, -1)
    rows = drawn.sigma.nonzero()[:, 0]
    if len(rows):
        sigma = drawn.sigma[rows]
        x[rows] = _separable(x[rows], blur_matrix(sigma, height), blur_matrix(sigma, width))
    return torch.where(drawn.solarize[:, None, None, None] & (x >= SOLARIZE_ABOVE), 1 - x, x)


def views(images: torch.Tensor, recipes: list[Recipe], generator: torch.Generator) -> list[torch.Tensor]:
    """One augmented copy of the batch a recipe: uint8 (B, H, W, C) -> float32 (B, C, H, W) in [0, 1] each."""
    return [apply(images, draw(r, len(images), tuple(images.shape[1:3]), generator)) for r in recipes]


def crop_matrix(start: torch.Tensor, length: torch.Tensor, size: int, mirror: torch.Tensor) -> torch.Tensor:
    """Weights that take pixels start..start+length-1 of a line of `size` to a whole line: float (n, size, size).

    Bicubic with a = -1/2 (Keys 1981), weights outside the box dropped and the rest normalised, as PIL does it. A box is
    never larger than the line, so nothing is scaled down and no anti-aliasing is due.
    """
    out = torch.arange(size, device=start.device)
    out = torch.where(mirror[:, None], size - 1 - out, out)  # (n, size)
    centre = start[:, None] + (out + 0.5) * (length / size)[:, None] - 0.5
    source = torch.arange(size, device=start.device)
    d = (centre[:, :, None] - source).abs()
    weight = torch.where(d < 1, (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2)
    inside = (source >= start[:, None]) & (source < (start + length)[:, None])
    weight = weight * (d < 2) * inside[:, None, :]
    return weight / weight.sum(dim=2, keepdim=True)


def blur_matrix(sigma: torch.Tensor, size: int) -> torch.Tensor:
    """Weights of a Gaussian of deviation `sigma` pixels along a line, edge pixels repeated: float (n, size, size)."""
    reach = math.ceil(4 * BLUR_SIGMA[1])
    offset = torch.arange(-reach, reach + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # (n, 2 reach + 1)
    source = (torch.arange(size, device=sigma.device)[:, None] + offset).clamp(0, size - 1)
    matrix = kernel.new_zeros(len(sigma), size, size)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, size, -1))


def _separable(x: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    return down[:, None] @ x @ across[:, None].transpose(2, 3)


def luma(x: torch.Tensor) -> torch.Tensor:
    """Grey value of RGB or grey images: (n, C, H, W) -> (n, 1, H, W)."""
    return x if x.shape[1] == 1 else (x * GREY.to(x.device)[:, None, None]).sum(1, keepdim=True)


def _blend(x: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def _brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (factor * x).clamp(0, 1)


def _contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(x, luma(x).mean(dim=(1, 2, 3), keepdim=True), factor)


def _saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(x, luma(x), factor)


def _hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    # RGB -> hue, turned by `shift` of a full circle -> RGB with the same value (maximum) and chroma (Smith 1978).
    value, top = x.max(dim=1, keepdim=True)
    chroma = value - x.min(dim=1, keepdim=True).values
    r, g, b = x.unbind(1)
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))[:, 0]
    sector = torch.stack([(g - b) / safe, 2 + (b - r) / safe, 4 + (r - g) / safe], dim=1)
    hue = sector.gather(1, top) + 6 * shift  # in sixths of the circle
    phase = (hue + torch.tensor([5.0, 3.0, 1.0], device=x.device)[:, None, None]) % 6
    return value - chroma * torch.minimum(phase, 4 - phase).clamp(0, 1)


_JITTER = (_brightness, _contrast, _saturation, _hue)
