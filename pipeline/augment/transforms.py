"""Augmentations of a batch with given parameters: uint8 images -> float views, in batched tensor code.

Order (solo-learn's): random resized crop with flip, colour jitter, grayscale, blur, solarize. Cropping, resizing,
flipping and blurring are separable: two small matrices for each image, A_y X A_x^T. On small images the overhead of a
call is as large as its work, hence few calls on many rows (docs/performance.md).
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from pipeline.core.devices import constant, sent

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, as in torchvision
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
IDENTITY = (1.0, 1.0, 1.0, 0.0)  # the factors of these four that change nothing
BLUR_SIGMA = (0.1, 2.0)
SOLARIZE_ABOVE = 128 / 255
# Weights of the pixels around a point, as polynomials (powers 0 to 3, or to 1) of its distance from pixel 0: of pixels
# -1, 0, 1 and 2 (bicubic with a = -1/2, Keys 1981), or of 0 and 1.
KERNELS = {
    "bicubic": ((0.0, 1.0, 0.0, 0.0), (-0.5, 0.0, 0.5, 0.0), (1.0, -2.5, 2.0, -0.5), (-0.5, 1.5, -1.5, 0.5)),
    "bilinear": ((1.0, 0.0), (-1.0, 1.0)),
}
TABLE_SIZE = 32  # pixels of a line up to which all its crops are held: 8 MB, and 16 times as much at twice the size
BLOCK = 1 << 19  # numbers of the views that a CPU changes at a time, lest they leave its cache between two operations
TINY = 1e-12  # smaller than any non-zero chroma of float pixels, or weight that counts


@dataclass
class AugmentationParameters:
    """The random parameters of n images; every tensor has n rows.

    box: int64 (n, 4) top, left, height, width. order: int64 (n, 4), the jitter operations BRIGHTNESS, CONTRAST,
    SATURATION and HUE in the order they are applied. factors: float (n, 4), IDENTITY for no change. sigma: float (n,),
    0 for no blur. grey, solarize, flip: bool (n,).
    """

    box: torch.Tensor
    flip: torch.Tensor
    order: torch.Tensor
    factors: torch.Tensor
    grey: torch.Tensor
    sigma: torch.Tensor
    solarize: torch.Tensor

    def of(self, rows: torch.Tensor | slice) -> "AugmentationParameters":
        """The parameters of some of the images."""
        return AugmentationParameters(*(getattr(self, f.name)[rows] for f in fields(self)))

    def to(self, device: torch.device) -> "AugmentationParameters":
        """The same on a device."""
        return AugmentationParameters(*(sent(getattr(self, f.name), device) for f in fields(self)))


def apply(
    images: torch.Tensor, drawn: AugmentationParameters, size: int | None = None, kernel: str = "bicubic"
) -> torch.Tensor:
    """Augment images, uint8 (n, H, W, C). drawn: n rows, or 2 n for two views of each image, and so on, on the CPU:
    which rows want what is known there, and nobody waits for a GPU to tell.

    size: pixels of the crops' sides; None: those of the images. kernel: of KERNELS, for the crop. Returns float32
    (rows, C, H, W) in [0, 1].
    """
    order, begins = _sorted_for_jitter(drawn)
    drawn = drawn.of(order)
    device, there = images.device, drawn.to(images.device)
    x = _crop(images, sent(order % len(images), device), there, size, kernel)
    _jitter(x, there, begins, bool(drawn.factors[: begins[4], HUE].any()))
    for chosen, change in (
        (drawn.grey, lambda x, rows: luma(x).expand(-1, x.shape[1], -1, -1)),
        (drawn.sigma, lambda x, rows: blur(x, there.sigma[rows])),
        (drawn.solarize, lambda x, rows: solarized(x)),
    ):
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            rows = sent(rows, device)
            x.index_copy_(0, rows, change(x.index_select(0, rows), rows))
    return x.index_select(0, sent(order.argsort(), device))


def crop_matrices(
    drawn: AugmentationParameters, size: tuple[int, int], made: int | None, kernel: str = "bicubic"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights that crop, resize and flip images of `size` (H, W): down, float (n, made, H), and across, (n, made, W).

    A view is down @ x @ across^T in each channel. made: pixels of its sides; None: those of the image.
    """
    (top, left, rows, columns), (height, width) = drawn.box.unbind(1), size
    lines = (torch.zeros_like(drawn.flip), top, rows, height, made), (drawn.flip, left, columns, width, made)
    if height != width:
        return tuple(crop_matrix(*line, kernel) for line in lines)
    flip, start, length = (torch.cat(pair) for pair in zip(*(line[:3] for line in lines), strict=True))
    if height > TABLE_SIZE:
        return crop_matrix(flip, start, length, height, made, kernel).chunk(2)
    box = (flip * height + start) * height + length - 1
    return _all_crops(height, made or height, kernel, box.device).index_select(0, box).chunk(2)


@functools.cache
def _all_crops(size: int, made: int, kernel: str, device: torch.device) -> torch.Tensor:
    """crop_matrix of every box of a line: float (2 size size, made, size), by flip, start and length - 1."""
    axes = torch.meshgrid(*(torch.arange(n, device=device) for n in (2, size, size)), indexing="ij")
    flip, start, length = (axis.flatten() for axis in axes)
    return crop_matrix(flip.bool(), start, length + 1, size, made, kernel)


def _crop(
    images: torch.Tensor, chosen: torch.Tensor, drawn: AugmentationParameters, size: int | None, kernel: str
) -> torch.Tensor:
    """Crops of the chosen images, int64 (n,), by n rows of parameters: float (n, C, made, made)."""
    _, height, width, channels = images.shape
    down, across = crop_matrices(drawn, (height, width), size, kernel)
    lines = images.permute(0, 3, 1, 2).reshape(-1, channels * height, width)
    made = down.new_empty(len(chosen), channels, down.shape[1], across.shape[1])

    def crop(out: torch.Tensor, rows: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> None:
        x = lines.index_select(0, rows).float().div_(255)
        _resampled(x.view(-1, channels, height, width), down, across, out).clamp_(0, 1)

    _in_blocks(crop, made, chosen, down, across)
    return made


def _in_blocks(change: Callable[..., object], x: torch.Tensor, *beside: torch.Tensor) -> None:
    """change(x, ...), on a CPU block by block of rows, which stay in its cache from one operation to the next."""
    blocks = max(1, math.ceil(x.numel() / BLOCK)) if x.device.type == "cpu" else 1
    for part in zip(*(each.chunk(blocks) for each in (x, *beside)), strict=True):
        change(*part)


def _resampled(
    x: torch.Tensor, down: torch.Tensor, across: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """down @ x @ across^T in each channel; x: (n, C, H, W), down: (n, tall, H), across: (n, wide, W). out: its place.

    A product for each channel by copies of `down`: to put the channels beside one another costs more.
    """
    n, channels, height, width = x.shape
    tall, wide = down.shape[1], across.shape[1]
    x = x.reshape(n, channels * height, width) @ across.transpose(1, 2)
    down = down.repeat_interleave(channels, dim=0)
    out = None if out is None else out.view(n * channels, tall, wide)
    return torch.bmm(down, x.view(n * channels, height, wide), out=out).view(n, channels, tall, wide)


def blur(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Images (n, C, H, W), each blurred by a Gaussian of its standard deviation in `sigma` (n,), in pixels."""
    height, width = x.shape[2:]
    across = blur_matrix(sigma, width).to(x.dtype)
    return _resampled(x, across if height == width else blur_matrix(sigma, height).to(x.dtype), across)


def _sorted_for_jitter(drawn: AugmentationParameters) -> tuple[torch.Tensor, list[int]]:
    """The rows in the order that `_jitter` needs, and the first position of each of five groups.

    The groups: images whose hue changes last of the four operations, third, second, first, and unchanged images.
    """
    place = drawn.order.argsort(dim=1)[:, HUE]
    alone = (drawn.factors == drawn.factors.new_tensor(IDENTITY)).all(dim=1)
    group = torch.where(alone, 4, 3 - place)
    counts = torch.bincount(group, minlength=5).tolist()
    return group.argsort(stable=True), list(itertools.accumulate(counts, initial=0))


def _jitter(x: torch.Tensor, drawn: AugmentationParameters, begins: list[int], hue: bool) -> None:
    """Colour jitter in place: for each image the operations before hue, then hue, then those after it.

    hue: whether that of any image changes.
    As the rows are sorted, an operation changes adjacent rows, and hue, the costly one, passes over each once.
    """
    factor = drawn.factors.gather(1, drawn.order)  # n 4, by place
    contrast, saturation = ((drawn.order == which).to(x.dtype) for which in (CONTRAST, SATURATION))

    def blend(rows: slice, place: int) -> None:
        if rows.start < rows.stop:
            numbers = (each[rows, place, None, None] for each in (factor, contrast, saturation))
            _in_blocks(_blend, x[rows], *numbers)

    for place in range(3):
        blend(slice(0, begins[3 - place]), place)
    if hue:
        _in_blocks(_hue, x[: begins[4]], drawn.factors[: begins[4], HUE])
    for place in range(1, 4):
        blend(slice(begins[4 - place], begins[4]), place)


def _blend(x: torch.Tensor, factor: torch.Tensor, contrast: torch.Tensor, saturation: torch.Tensor) -> None:
    """Change brightness, contrast or saturation of (n, C, H, W) in place: clamp(other + factor (x - other)).

    factor, contrast, saturation: (n, 1, 1) each; other is the image's mean luma where contrast is 1, its luma where
    saturation is 1, else black.
    """
    grey = _luma(x)
    mean = contrast * grey.mean(dim=(1, 2), keepdim=True)
    torch.lerp(grey.mul_(saturation).add_(mean)[:, None], x, factor[:, None], out=x).clamp_(0, 1)


def _hue(x: torch.Tensor, shift: torch.Tensor) -> None:
    """Rotate the hue of RGB images (n, 3, H, W) in place by `shift` (n,) of a full circle; value and chroma stay.

    Smith 1978 without branches, for a hue of -3 to 3 sixths of a circle from red: green lies the share
    clamp(|hue + 1| - 1, 0, 1) of the way from the least channel's number to the greatest's, blue clamp(|hue - 1| - 1,
    0, 1), and red clamp(|hue| - 1, 0, 1) of the way back.
    """
    r, g, b = x.unbind(1)
    value, least, side = torch.maximum(g, b), torch.minimum(g, b), g - b
    # The angle from red, times chroma: first the greatest rises, then r falls, then the least rises. Planes are written
    # over as soon as they are read: half as many stay in the cache.
    angle, low = side.abs(), torch.minimum(least, r)
    torch.maximum(value, r, out=value)
    angle.add_(value).sub_(r).add_(least, alpha=2).sub_(low, alpha=2).copysign_(side)
    chroma = torch.sub(value, low, out=least)
    hue = angle.div_(chroma.clamp_(min=TINY)).add_(6 * shift[:, None, None])
    hue.sub_(torch.mul(hue, 1 / 6, out=side).round_(), alpha=6)
    torch.lerp(value, low, torch.abs(hue, out=side).sub_(1).clamp_(0, 1), out=r)
    for channel, place in ((g, 1), (b, -1)):
        torch.lerp(low, value, torch.add(hue, place, out=side).abs_().sub_(1).clamp_(0, 1), out=channel)


def solarized(x: torch.Tensor) -> torch.Tensor:
    """Images with their bright pixels inverted."""
    return torch.where(x >= SOLARIZE_ABOVE, 1 - x, x)


def luma(x: torch.Tensor) -> torch.Tensor:
    """Grey value of RGB or grey images: (n, C, H, W) -> (n, 1, H, W)."""
    return _luma(x)[:, None]


def _luma(x: torch.Tensor) -> torch.Tensor:
    if x.shape[1] == 1:
        return x[:, 0].clone()
    r, g, b = x.unbind(1)
    return (r * LUMA[0]).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])


def crop_matrix(
    mirror: torch.Tensor,
    start: torch.Tensor,
    length: torch.Tensor,
    size: int,
    made: int | None = None,
    kernel: str = "bicubic",
) -> torch.Tensor:
    """Weights that resize pixels start..start+length-1 of a line of `size` to `made` pixels (None: `size`).

    Returns float (n, made, size). Weights of the kernel outside the box are dropped and the rest normalised, as in PIL.
    If the line becomes shorter, the kernel is widened by the same factor (antialiasing).
    """
    made = size if made is None else made
    out = torch.arange(made, device=start.device)
    out = torch.where(mirror[:, None], made - 1 - out, out)
    scale = (length / made)[:, None]
    centre = start[:, None] + (out + 0.5) * scale - 0.5  # n made
    if made < size:
        weight, taps = _wide_weights(centre, scale.clamp(min=1), size, kernel)
    else:  # four pixels, or two, are enough: a box is never larger than the line
        before, table = centre.floor(), constant(KERNELS[kernel], centre.device)
        t, reach = centre - before, len(table) // 2
        powers = torch.stack([torch.ones_like(t), t, t * t, t * t * t][: len(table)], dim=2)
        weight = powers @ table  # n made 4, or 2
        taps = before[:, :, None] + torch.arange(1.0 - reach, 1.0 + reach, device=start.device)
    weight *= ((taps >= start[:, None, None]) & (taps < (start + length)[:, None, None])).float()
    weight /= weight @ weight.new_ones(weight.shape[2], 1)
    if made < size:
        return weight
    taps = taps.clamp_(0, size - 1).long()  # what lies outside the line has no weight
    return weight.new_zeros(len(start), made, size).scatter_add_(2, taps, weight)


def _wide_weights(
    centre: torch.Tensor, scale: torch.Tensor, size: int, kernel: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel, widened `scale` (n, 1) times, around each centre (n, made) at all pixels of the line; the pixels."""
    taps = torch.arange(float(size), device=centre.device)[None, None]  # 1 1 size
    x = ((taps - centre[:, :, None]) / scale[:, :, None]).abs()
    if kernel == "bilinear":
        return (1 - x).clamp(min=0), taps
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0)), taps


def blur_matrix(sigma: torch.Tensor, size: int) -> torch.Tensor:
    """Weights of a Gaussian blur of a line (`sigma`: (n,), pixels), edge pixels repeated: float (n, size, size)."""
    reach = math.ceil(4 * BLUR_SIGMA[1])
    offset = torch.arange(-reach, reach + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # (n, 2 reach + 1)
    kernel = torch.nn.functional.threshold(kernel, TINY, 0.0)  # some processors take long over subnormal numbers
    return (kernel @ _seen(size, reach, sigma.device)).view(-1, size, size)


@functools.cache
def _seen(size: int, reach: int, device: torch.device) -> torch.Tensor:
    """Whether a pixel of a line sees another one so many pixels away: float (2 reach + 1, size size), 0 or 1.

    A product with it adds weights up in an order that is the same on every device, which scattering sorts for.
    """
    at = torch.arange(size, device=device)
    seen = (at + torch.arange(-reach, reach + 1, device=device)[:, None]).clamp(0, size - 1)
    return torch.nn.functional.one_hot(seen, size).float().flatten(1)
