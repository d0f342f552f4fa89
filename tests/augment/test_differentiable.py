"""Against transforms.apply on the same draws, DiffAugment against loops, and every gradient against differences."""

import dataclasses

import pytest
import torch

from pipeline.augment import differentiable, recipes, transforms
from pipeline.augment.transforms import HUE
from pipeline.core import seeds
from tests.batches import NOTHING, SHAPES, draws, noise, planes, section, worst

EVERYTHING = dataclasses.replace(recipes.recipe(section(strength=2.0), 1), solarize=0.3)
GREY = dataclasses.replace(recipes.recipe(section(form="grey", strength=2.0), 1), solarize=0.3)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_stored_images_for_the_same_draws(shape):
    images = noise(24, shape)
    drawn = draws(EVERYTHING if shape[2] == 3 else GREY, 48, shape[:2])
    drawn.factors[:24, HUE] += 0.03 * (shape[2] == 3)  # no hue is left alone
    drawn.solarize[:12] = False  # it jumps at a value that the two sides may round to different sides
    drawn.sigma[12:24] = 0
    found = differentiable.apply(torch.stack([planes(image) for image in images]), drawn)
    stored = transforms.apply(images, drawn)
    assert worst(found[~drawn.solarize], stored[~drawn.solarize]) < 0.02
    apart = ((found - stored).abs() * 255 > 0.02).float()[drawn.solarize]
    assert apart.mean() < 1e-3
    assert found.shape == (48, shape[2], *shape[:2])


def test_nothing_drawn_changes_nothing():
    images = torch.rand(5, 3, 8, 8)
    plain = dataclasses.replace(NOTHING, crop_min=1.0)
    assert torch.equal(differentiable.apply(images, draws(plain, 5, (8, 8))), images)
    assert plain == recipes.PLAIN


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_min": 0.1, "flip": 0.5},
        {"jitter_probability": 1.0, "brightness": 0.3, "contrast": 0.3},
        {"jitter_probability": 1.0, "saturation": 0.4},
        {"jitter_probability": 1.0, "hue": 0.2},
        {"grayscale": 0.5, "blur": 1.0},
        {"solarize": 0.5},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_gradients_are_those_of_finite_differences(changes):
    """Away from clamps and ties, where there is none."""
    drawn = draws(dataclasses.replace(NOTHING, **{"crop_min": 1.0} | changes), 3, (5, 4))
    x = 0.3 + 0.15 * torch.rand(3, 3, 5, 4, dtype=torch.float64, generator=seeds.generator(0, "x"))
    x = (x + torch.tensor([0.0, 0.16, 0.32], dtype=torch.float64)[:, None, None]).requires_grad_()  # ordered channels
    assert torch.autograd.gradcheck(lambda x: differentiable.apply(x, drawn), (x,))


def test_a_grey_pixel_has_a_finite_gradient_where_hues_are_turned():
    x = torch.full((1, 3, 2, 2), 0.4, requires_grad=True)
    drawn = draws(dataclasses.replace(NOTHING, crop_min=1.0, jitter_probability=1.0, hue=0.2), 1, (2, 2))
    differentiable.apply(x, drawn).square().sum().backward()
    assert torch.allclose(x.grad, torch.full_like(x, 0.8))


def test_views_under_autocast_are_those_without():
    x, drawn = torch.rand(4, 3, 8, 8), draws(EVERYTHING, 4, (8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        found = differentiable.apply(x, drawn)
    assert torch.equal(found, differentiable.apply(x, drawn))


def slow_diff_augment(image, u):
    """One image (C, H, W) by its seven numbers, pixel by pixel."""
    _, height, width = image.shape
    x = image + (u[0] - 0.5)
    grey = x.mean(dim=0)
    x = grey + 2 * u[1] * (x - grey)
    x = x.mean() + (u[2] + 0.5) * (x - x.mean())
    (most_y, half_y), (most_x, half_x) = ((int(side / 8 + 0.5), int(side / 2 + 0.5)) for side in (height, width))
    dy, dx = int(u[3] * (2 * most_y + 1)) - most_y, int(u[5] * (2 * most_x + 1)) - most_x
    top = int(u[4] * (height + 1 - half_y % 2)) - half_y // 2
    left = int(u[6] * (width + 1 - half_x % 2)) - half_x // 2
    made = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            cut = top <= i < top + half_y and left <= j < left + half_x
            if not cut and 0 <= i - dy < height and 0 <= j - dx < width:
                made[:, i, j] = x[:, i - dy, j - dx]
    return made


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 12, 9)])
def test_diff_augment_is_the_slow_one_and_a_share_gets_its_rows(shape):
    x = torch.rand(6, *shape, dtype=torch.float64) * 2 - 1
    draw = lambda: seeds.generator(0, "diff")  # noqa: E731
    found = differentiable.diff_augment(x, draw(), (6, slice(0, 6)))
    numbers = torch.rand(6, 7, generator=draw()).double()
    wanted = torch.stack([slow_diff_augment(image, u) for image, u in zip(x, numbers, strict=True)])
    assert (found - wanted).abs().max() < 1e-12
    assert 0.05 < (found == 0).float().mean() < 0.6
    share = differentiable.diff_augment(x[2:4], draw(), (6, slice(2, 4)))
    assert torch.equal(share, found[2:4])


def test_diff_augments_gradient_is_that_of_finite_differences():
    x = (torch.rand(2, 3, 8, 8, dtype=torch.float64) * 2 - 1).requires_grad_()
    one = lambda x: differentiable.diff_augment(x, seeds.generator(1, "diff"), (2, slice(0, 2)))  # noqa: E731
    assert torch.autograd.gradcheck(one, (x,))
