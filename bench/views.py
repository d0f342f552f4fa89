"""Two SimCLR views of 32 x 32 RGB images: ours, lightly's in a DataLoader of two workers, kornia's.

python -m bench views
"""

import collections
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench import pairs
from pipeline.augment import recipes
from pipeline.core import seeds
from pipeline.evaluation.quality import plain

SIZE, IMAGES, BATCH, WORKERS = 32, 4096, 512, 2  # the paper's batch
RECIPE = recipes.recipe(plain(3, strength=2.0), 0)


def images() -> np.ndarray:
    """Smooth coloured noise, uint8 (IMAGES, 32, 32, 3)."""
    coarse = seeds.noise((IMAGES, 3, 8, 8), 0, "bench images")
    smooth = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic")
    return (128 + 50 * smooth).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def ours(pixels: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Two views of every image, a batch at a time: float (B, 3, 32, 32) each."""
    for step, batch in enumerate(pixels.split(BATCH)):
        yield recipes.views(batch, [RECIPE, RECIPE], seeds.generator(0, "bench views", step))


class Pictures(Dataset):
    """PIL images through lightly's transform, as its tutorials have it."""

    def __init__(self, pixels: np.ndarray):
        from lightly.transforms import SimCLRTransform

        self.pictures = [Image.fromarray(image) for image in pixels]
        self.transform = SimCLRTransform(
            input_size=SIZE,
            cj_prob=RECIPE.jitter_probability,
            cj_bright=RECIPE.brightness,
            cj_contrast=RECIPE.contrast,
            cj_sat=RECIPE.saturation,
            cj_hue=RECIPE.hue,
            min_scale=RECIPE.crop_min,
            random_gray_scale=RECIPE.grayscale,
            gaussian_blur=RECIPE.blur,
            sigmas=recipes.BLUR_SIGMA,
            hf_prob=RECIPE.flip,
            normalize=None,
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> list[torch.Tensor]:
        return self.transform(self.pictures[i])


def kornia_views(pixels: torch.Tensor, transform: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The same of kornia: one forward a view, as its augmentations draw once a call and image."""
    for batch in pixels.split(BATCH):
        x = batch.permute(0, 3, 1, 2).float() / 255
        yield [transform(x), transform(x)]


def kornia_transform() -> torch.nn.Module:
    """The recipe in kornia's words; its blur has the width that the largest sigma needs."""
    import kornia.augmentation as k

    reach = 2 * int(4 * recipes.BLUR_SIGMA[1]) + 1
    return torch.nn.Sequential(
        k.RandomResizedCrop(
            (SIZE, SIZE),
            scale=(RECIPE.crop_min, 1.0),
            resample="BICUBIC",
            cropping_mode="resample",  # its default crops image by image, four times as slowly
        ),
        k.RandomHorizontalFlip(p=RECIPE.flip),
        k.ColorJitter(RECIPE.brightness, RECIPE.contrast, RECIPE.saturation, RECIPE.hue, p=RECIPE.jitter_probability),
        k.RandomGrayscale(p=RECIPE.grayscale),
        k.RandomGaussianBlur((reach, reach), recipes.BLUR_SIGMA, p=RECIPE.blur),
    )


def lightly_views(array: np.ndarray) -> Callable[[], None]:
    """Every view once through lightly's transform in a DataLoader."""
    loader = DataLoader(Pictures(array), BATCH, num_workers=WORKERS, persistent_workers=True)
    return lambda: used(loader)


def kornias(array: np.ndarray) -> Callable[[], None]:
    """Every view once through kornia."""
    pixels, transform = torch.from_numpy(array), kornia_transform()
    return lambda: used(kornia_views(pixels, transform))


def used(batches: Iterable) -> None:
    """Take every batch and drop it, as training does."""
    collections.deque(batches, maxlen=0)


def alike(a: Iterable[list[torch.Tensor]], b: Iterable[list[torch.Tensor]], what: str) -> None:
    """Both are views of the same distribution: mean, spread, roughness and share of grey images agree."""

    def facts(batches: Iterable[list[torch.Tensor]]) -> dict[str, float]:
        x = torch.cat([view for batch in batches for view in batch]).clamp(0, 1)
        return {
            "mean": float(x.mean()),
            "deviation": float(x.std()),
            "deviation of means": float(x.mean(dim=(1, 2, 3)).std()),
            "roughness": float((x[..., 1:] - x[..., :-1]).abs().mean()),
            "grey share": float(((x[:, 0] - x[:, 1]).abs().amax(dim=(1, 2)) < 2 / 255).float().mean()),
        }

    near = {"mean": 0.01, "deviation": 0.02, "deviation of means": 0.02, "roughness": 0.006, "grey share": 0.02}
    one, two = facts(a), facts(b)
    for name, most in near.items():
        if abs(one[name] - two[name]) > most:
            raise SystemExit(f"views: {name} {one[name]:.4f} here and {two[name]:.4f} in {what}: not the same work")


def rows() -> list[pairs.Row]:
    """Both comparisons."""
    array = images()
    pixels = torch.from_numpy(array)
    alike(ours(pixels), DataLoader(Pictures(array), BATCH, num_workers=WORKERS), "lightly")
    with seeds.scope(0, "bench kornia"):
        alike(ours(pixels), kornia_views(pixels, kornia_transform()), "kornia")
    done = f"{2 * IMAGES:,} views of {SIZE} x {SIZE} x 3, {BATCH} images at a time"

    def mine() -> None:
        used(ours(pixels))

    found = []
    with pairs.apart(lightly_views, array) as theirs:
        found.append(pairs.compare("views", mine, theirs, 10, note=f"{done}; lightly with {WORKERS} workers"))
    with pairs.apart(kornias, array) as theirs:
        found.append(pairs.compare("views_kornia", mine, theirs, 4, note=done))
    return found
