"""The batched operations against torchvision and PIL, one image at a time, with the same drawn parameters."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pipeline.augment import recipes, transforms
from pipeline.augment.recipes import Recipe
from pipeline.augment.transforms import AugmentationParameters
from tests.batches import NOTHING, SHAPES, draws, noise, planes, section, worst

CROPS = dataclasses.replace(NOTHING, crop_min=0.02, flip=0.5)


def parameters(n: int, size: tuple[int, int], **changes: torch.Tensor) -> AugmentationParameters:
    """Parameters under which nothing happens, except for `changes`."""
    off = torch.zeros(n, dtype=torch.bool)
    neutral = {
        "box": torch.tensor([0, 0, *size]).expand(n, 4),
        "flip": off,
        "order": torch.arange(4).expand(n, 4),
        "factors": torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(n, 4),
        "grey": off,
        "sigma": torch.zeros(n),
        "solarize": off,
    }
    return AugmentationParameters(**{**neutral, **changes})


def picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.numpy() if image.shape[2] == 3 else image.numpy()[..., 0])


def of_picture(found: Image.Image) -> torch.Tensor:
    return planes(torch.from_numpy(np.array(found)).reshape(found.height, found.width, -1))


KERNELS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_crop_and_flip_are_torchvisions_resized_crop(shape, kernel):
    images, drawn = noise(24, shape), draws(CROPS, 24, shape[:2])
    expected = []
    for image, box, flip in zip(images, drawn.box.tolist(), drawn.flip, strict=True):
        view = F.resized_crop(planes(image), *box, shape[:2], KERNELS[kernel], antialias=True).clamp(0, 1)
        expected.append(F.horizontal_flip(view) if flip else view)
    assert 4 < drawn.flip.sum() < 20
    assert worst(transforms.apply(images, drawn, kernel=kernel), expected) < 0.01


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [9, 18, 40])
@pytest.mark.parametrize("shape", SHAPES)
def test_crops_of_another_size_are_torchvisions_with_antialiasing(shape, size, kernel):
    """Boxes of a few pixels, which are enlarged, and of the whole image, which is not when the crop is small."""
    images, drawn = noise(24, shape), draws(CROPS, 24, shape[:2])
    expected = []
    for image, box, flip in zip(images, drawn.box.tolist(), drawn.flip, strict=True):
        view = F.resized_crop(planes(image), *box, [size, size], KERNELS[kernel], antialias=True).clamp(0, 1)
        expected.append(F.horizontal_flip(view) if flip else view)
    assert drawn.box[:, 2:].min() < 9 < 18 < drawn.box[:, 2:].max()
    assert worst(transforms.apply(images, drawn, size, kernel), expected) < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_is_pils_but_for_its_rounding(shape):
    # PIL rounds to 8 bits after each of its two passes, and clips there too; on images of half contrast no overshoot of
    # the first pass is clipped, so that two roundings remain: 0.5 x 1.25 (the bicubic weights' absolute sum) + 0.5.
    images, drawn = noise(24, shape, 64, 192), draws(CROPS, 24, shape[:2])
    expected = []
    for image, box, flip in zip(images, drawn.box.tolist(), drawn.flip, strict=True):
        view = of_picture(F.resized_crop(picture(image), *box, shape[:2], InterpolationMode.BICUBIC))
        expected.append(view.flip(2) if flip else view)
    assert worst(transforms.apply(images, drawn), expected) < 1.2


def test_boxes_of_one_pixel_and_of_the_whole_image():
    images = noise(3, (5, 7, 3))
    boxes = torch.tensor([[0, 0, 5, 7], [4, 6, 1, 1], [2, 0, 1, 7]])
    whole, pixel, row = transforms.apply(images, parameters(3, (5, 7), box=boxes))
    assert torch.equal(whole, planes(images[0]))
    assert worst([pixel], [planes(images[1])[:, 4:, 6:].expand(3, 5, 7)]) < 0.001
    assert worst([row], [planes(images[2])[:, 2:3].expand(3, 5, 7)]) < 0.001


def colour(operation: int, image: torch.Tensor, factor: float) -> torch.Tensor:
    """torchvision's own: brightness, contrast, saturation, hue."""
    return (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)[operation](image, factor)


@pytest.mark.parametrize("operation", range(4), ids=["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("factor", [0.0, 0.2, 0.5, 0.999, 1.0, 1.3, 2.6])
def test_a_colour_operation_is_torchvisions(operation, factor):
    factor = factor if operation < 3 else (factor - 1.3) / 2.6  # -0.5 .. 0.5 of the circle
    images = noise(6, (32, 32, 3))
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(6, 1)
    factors[:, operation] = factor
    found = transforms.apply(images, parameters(6, (32, 32), factors=factors))
    assert worst(found, [colour(operation, planes(image), factor) for image in images]) < 0.02


@pytest.mark.parametrize("operation", range(2), ids=["brightness", "contrast"])
def test_a_colour_operation_on_grey_images_is_torchvisions(operation):
    images, factors = noise(6, (28, 28, 1)), torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(6, 1)
    factors[:, operation] = torch.linspace(0, 2.6, 6)
    found = transforms.apply(images, parameters(6, (28, 28), factors=factors))
    expected = [colour(operation, planes(i), f[operation].item()) for i, f in zip(images, factors, strict=True)]
    assert worst(found, expected) < 0.01


@pytest.mark.parametrize("shape", [(32, 32, 3), (31, 27, 3)])
def test_colour_jitter_follows_the_drawn_order(shape):
    recipe = dataclasses.replace(
        NOTHING, crop_min=1.0, jitter_probability=0.9, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2
    )
    images, drawn = noise(72, shape), draws(recipe, 72, shape[:2])
    drawn.box = torch.tensor([0, 0, *shape[:2]]).expand(72, 4)
    expected, unordered = [], []
    for image, order, factors in zip(images, drawn.order.tolist(), drawn.factors.tolist(), strict=True):
        ordered = fixed = planes(image)
        for place in range(4):
            ordered = colour(order[place], ordered, factors[order[place]])
            fixed = colour(place, fixed, factors[place])
        expected.append(ordered)
        unordered.append(fixed)
    found = transforms.apply(images, drawn)
    assert len({tuple(order) for order in drawn.order.tolist()}) > 12
    assert worst(found, expected) < 0.1
    assert worst(found, unordered) > 20, "the images do not tell one order from another"


def test_grayscale_is_torchvisions_and_pils():
    images, chosen = noise(6, (32, 32, 3)), torch.tensor([True, False, True, True, False, True])
    found = transforms.apply(images, parameters(6, (32, 32), grey=chosen))
    expected = [F.rgb_to_grayscale(planes(i), 3) if yes else planes(i) for i, yes in zip(images, chosen, strict=True)]
    assert worst(found, expected) < 0.001
    pils = [of_picture(picture(i).convert("L").convert("RGB")) for i, yes in zip(images, chosen, strict=True) if yes]
    assert worst(found[chosen], pils) < 1


def test_solarize_is_pils_on_every_value():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(2, 1, 1, 1)
    found = transforms.apply(images, parameters(2, (16, 16), solarize=torch.tensor([True, False])))
    expected = [of_picture(ImageOps.solarize(picture(images[0]), 128)), planes(images[1])]
    assert worst(found, expected) < 0.001
    solarized = F.solarize(planes(images[0]), 128 / 255)
    assert worst(found[:1], [solarized]) < 0.001


def dense_gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur by its definition in float64: (H, W) -> (H, W), edge pixels repeated without end."""
    rows, columns, reach = *image.shape, 24
    away = np.arange(-reach, reach + 1)
    kernel = np.exp(-(away[:, None] ** 2 + away**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    wide = np.pad(image, reach, mode="edge")
    out = np.zeros_like(image)
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            out += kernel[i, j] * wide[i : i + rows, j : j + columns]
    return out


@pytest.mark.parametrize("shape", [(28, 28, 1), (31, 27, 3)])
def test_blur_is_a_gaussian_with_repeated_edges(shape):
    sigmas = torch.tensor([0.0, 0.1, 0.37, 0.8, 1.0, 1.6, 2.0])
    images = noise(7, shape)
    found = transforms.apply(images, parameters(7, shape[:2], sigma=sigmas)).double().numpy()
    assert np.array_equal(found[0], planes(images[0]).double().numpy())
    for image, view, sigma in zip(images[1:], found[1:], sigmas[1:].double().numpy(), strict=True):
        expected = [dense_gaussian(plane, sigma) for plane in planes(image).double().numpy()]
        assert np.abs(view - expected).max() < 1e-4, sigma


def test_no_weight_of_a_blur_is_a_subnormal_number():
    """Which some processors multiply a hundred times as slowly."""
    sigma = torch.linspace(*transforms.BLUR_SIGMA, 400)
    weights = transforms.blur_matrix(sigma, 32).numpy()
    assert not ((weights != 0) & (np.abs(weights) < np.finfo(np.float32).tiny)).any()
    exact = np.exp(-0.5 * (np.arange(-8, 9) / sigma.double().numpy()[:, None]) ** 2)
    exact /= exact.sum(axis=1, keepdims=True)
    assert np.abs(weights[:, 16, 8:25] - exact).max() < 1e-6


@pytest.mark.parametrize("sigma", [1.0, 1.25, 1.5, 1.75, 2.0])
def test_blur_is_near_pils_away_from_the_edges(sigma):
    # PIL's filter is three box blurs, with 8-bit rounding and repeated edges in each. Near an edge that is another
    # extension of the image, and below a sigma of 1 a box of a pixel and a bit is no good Gaussian (at 0.3 it is off by
    # a tenth on noise): there the definition above is the oracle.
    images = noise(8, (40, 44, 3), 64, 192)
    found = transforms.apply(images, parameters(8, (40, 44), sigma=torch.full((8,), sigma)))
    expected = [of_picture(picture(image).filter(ImageFilter.GaussianBlur(sigma))) for image in images]
    inside = (slice(None), slice(8, -8), slice(8, -8))
    assert worst([view[inside] for view in found], [view[inside] for view in expected]) < 4


def test_all_operations_follow_each_other_in_the_published_order():
    recipe = Recipe(0.08, 0.8, 0.8, 0.8, 0.8, 0.2, grayscale=0.3, blur=0.6, solarize=0.5, flip=0.5)
    images, drawn = noise(48, (32, 32, 3)), draws(recipe, 48, (32, 32))
    expected = []
    for i, image in enumerate(images):
        view = F.resized_crop(planes(image), *drawn.box[i].tolist(), (32, 32), InterpolationMode.BICUBIC, True)
        view = F.horizontal_flip(view) if drawn.flip[i] else view
        view = view.clamp(0, 1)
        for operation in drawn.order[i].tolist():
            view = colour(operation, view, drawn.factors[i, operation].item())
        view = F.rgb_to_grayscale(view, 3) if drawn.grey[i] else view
        sigma = drawn.sigma[i].item()
        if sigma:
            view = torch.from_numpy(np.stack([dense_gaussian(p, sigma) for p in view.double().numpy()])).float()
        expected.append(F.solarize(view, 128 / 255) if drawn.solarize[i] else view)
    found = transforms.apply(images, drawn)
    assert all(0 < flags.sum() < 48 for flags in (drawn.flip, drawn.grey, drawn.sigma, drawn.solarize))
    close = (found - torch.stack(expected)).abs() * 255 < 0.1
    # Solarization jumps at its threshold: a pixel within float error of it may fall on either side.
    assert close.float().mean() > 0.9999


@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_is_augmented_the_same_alone_and_in_a_batch(shape):
    params = section(form="colour" if shape[2] == 3 else "grey", solarize=0.3)
    images, drawn = noise(16, shape), draws(recipes.recipe(params, 0), 16, shape[:2])
    given = images.clone()
    together = transforms.apply(images, drawn)
    assert torch.equal(images, given), "the image bank was written to"
    for i in range(16):
        alone = AugmentationParameters(
            **{
                field.name: getattr(drawn, field.name)[i : i + 1]
                for field in dataclasses.fields(AugmentationParameters)
            }
        )
        assert worst(transforms.apply(images[i : i + 1], alone), together[i : i + 1]) < 0.01


def test_views_of_several_batches_are_those_of_each_alone():
    images = noise(12, (32, 32, 3))
    drawn = draws(recipes.recipe(section(solarize=0.3), 0), 24, (32, 32))
    both = transforms.apply(images, drawn)
    for view in range(2):
        rows = slice(12 * view, 12 * view + 12)
        assert worst(transforms.apply(images, drawn.of(rows)), both[rows]) < 0.01
