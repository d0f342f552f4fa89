"""Pixels between storage, uint8 (n, H, W, C), and networks, float (n, C, H, W) in [-1, 1]."""

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.core.errors import DIVERGED, UserError


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 (n, H, W, C) -> float32 (n, C, H, W) in [-1, 1]; a TypeError of floats, whose range nobody knows."""
    if images.dtype != torch.uint8:
        raise TypeError(f"takes images as uint8 (n, H, W, C), not {images.dtype}")
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(x: torch.Tensor, size: int | None = None) -> np.ndarray:
    """float (n, C, S, S) in [-1, 1] -> uint8 (n, size, size, C), clamped and rounded.

    Images of another size are resized (antialiased bicubic); without `size` they keep theirs.
    """
    if size not in (None, x.shape[-1]):
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    x = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return x.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def refuse_non_finite(x: torch.Tensor, numbers: range, remedy: str) -> None:
    """Raise a UserError (code 4) that names the first sampled image (a row of x) with a value that is not finite."""
    bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero()
    if len(bad):
        what = f"image {numbers[int(bad[0])]} has values that are not finite"
        raise UserError(what, "the generator", remedy, DIVERGED)
