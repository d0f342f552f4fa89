"""Augmentations that gradients pass through, back to the generator of the images: nothing is changed in place.

`apply` does the same to float images as transforms.apply to stored ones, with the same parameters and matrices.
`diff_augment` is for a discriminator (DiffAugment, Zhao et al., NeurIPS 2020, arXiv 2006.10738).
"""

import torch

from pipeline.augment import transforms
from pipeline.augment.transforms import CONTRAST, HUE, SATURATION, AugmentationParameters
from pipeline.core.devices import sent

GREYISH = 1e-6  # a pixel of less chroma has no hue to rotate
SHIFT, CUTOUT = 1 / 8, 1 / 2  # largest shift, side of the cut-out square: shares of the image's side (section 3.2)


def apply(images: torch.Tensor, drawn: AugmentationParameters, kernel: str = "bicubic") -> torch.Tensor:
    """images: float (n, C, H, W) in [0, 1]; drawn: of n rows, or of 2 n for two views each, and so on, on the CPU.

    kernel: of transforms.KERNELS, for the crop. Returns float (rows, C, H, W) in [0, 1], in the dtype of the images
    even under autocast.
    """
    with torch.autocast(images.device.type, enabled=False):
        x = images[torch.arange(len(drawn.flip), device=images.device) % len(images)]
        there = drawn.to(x.device)
        down, across = (m.to(x.dtype)[:, None] for m in transforms.crop_matrices(there, x.shape[2:], None, kernel))
        x = _jitter((down @ x @ across.transpose(2, 3)).clamp(0, 1), drawn, there)
        x = torch.where(_of_image(there.grey), transforms.luma(x), x)
        rows = sent(drawn.sigma.nonzero()[:, 0], x.device)
        if len(rows):
            x = x.index_copy(0, rows, transforms.blur(x[rows], there.sigma[rows]))
        return torch.where(_of_image(there.solarize), transforms.solarized(x), x)


def _jitter(x: torch.Tensor, drawn: AugmentationParameters, there: AugmentationParameters) -> torch.Tensor:
    """Brightness, contrast, saturation and hue in each image's own order. drawn: on the CPU; there: beside x."""
    turned = drawn.factors[:, HUE] != 0
    factors = there.factors.gather(1, there.order).to(x.dtype)
    for place in range(4):
        rows = sent((turned & (drawn.order[:, place] == HUE)).nonzero()[:, 0], x.device)
        which, factor = there.order[:, place], factors[:, place]
        grey = transforms.luma(x)
        mean = grey.mean(dim=(2, 3), keepdim=True)
        other = torch.where(_of_image(which == CONTRAST), mean, torch.where(_of_image(which == SATURATION), grey, 0.0))
        by = _of_image(factor)
        mixed = torch.where(_of_image((which != HUE) & (factor != 1)), (by * x + (1 - by) * other).clamp(0, 1), x)
        x = mixed.index_copy(0, rows, _hue(mixed[rows], factor[rows])) if len(rows) else mixed
    return x


def _hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """RGB images (n, 3, H, W) with their hue rotated by `shift` (n,) of a full circle (Smith 1978); grey ones stay."""
    r, g, b = x.unbind(1)
    value, low = x.amax(dim=1), x.amin(dim=1)
    chroma = value - low
    coloured = chroma > GREYISH
    by = torch.where(coloured, chroma, 1.0)  # otherwise the gradient of a grey pixel would be 0 / 0
    sixths = torch.where(value == r, (g - b) / by, torch.where(value == g, 2 + (b - r) / by, 4 + (r - g) / by))
    sixths = sixths + 6 * shift[:, None, None]
    channels = []
    for start in (5, 3, 1):
        k = (start + sixths).remainder(6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.where(coloured[:, None], torch.stack(channels, dim=1), x).clamp(0, 1)


def diff_augment(images: torch.Tensor, generator: torch.Generator, whole: tuple[int, slice]) -> torch.Tensor:
    """DiffAugment's colour, translation and cutout for images, float (n, C, H, W) in [-1, 1], each independently.

    Colour: brightness + U(-.5, .5), saturation x U(0, 2) about the pixel's mean, contrast x U(.5, 1.5) about the
    image's. Translation by up to an eighth of the side; a square of half the side is cut out; missing pixels are 0.
    whole = (n, rows): the images are these rows of a batch of n and are augmented as in the whole batch.
    """
    (n, rows), (height, width) = whole, images.shape[2:]
    u = torch.rand(n, 7, generator=generator, device=images.device)[rows].to(images.dtype)
    light, colour, contrast, *places = u.unbind(1)
    x = images + _of_image(light - 0.5)
    mean = x.mean(dim=1, keepdim=True)
    x = mean + _of_image(2 * colour) * (x - mean)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + _of_image(contrast + 0.5) * (x - mean)
    lines = []
    for side, moved, cut in ((height, *places[:2]), (width, *places[2:])):
        most, half = int(side * SHIFT + 0.5), int(side * CUTOUT + 0.5)
        shift = (moved * (2 * most + 1)).floor() - most
        start = (cut * (side + 1 - half % 2)).floor() - half // 2  # the middle may be anywhere
        at = torch.arange(side, device=x.device)
        source = at - shift[:, None]  # n side
        inside = (source >= 0) & (source < side)
        hidden = (at >= start[:, None]) & (at < (start + half)[:, None])
        lines.append((source.clamp(0, side - 1).long(), inside, hidden))
    (down, inside_y, hidden_y), (across, inside_x, hidden_x) = lines
    x = x.gather(2, down[:, None, :, None].expand(-1, x.shape[1], -1, width))
    x = x.gather(3, across[:, None, None, :].expand(-1, x.shape[1], height, -1))
    kept = (inside_y[:, :, None] & inside_x[:, None, :]) & ~(hidden_y[:, :, None] & hidden_x[:, None, :])
    return x * kept[:, None].to(x.dtype)


def _of_image(values: torch.Tensor) -> torch.Tensor:
    """One value an image, shaped to broadcast to (n, C, H, W)."""
    return values[:, None, None, None]
