"""Strengths and what is drawn from them, against torchvision's distributions and the published numbers."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from pipeline.augment import recipes, transforms
from pipeline.augment.recipes import Recipe
from tests.batches import NOTHING, SHAPES, draws, noise, planes, section, worst


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", recipes.FAMILIES)
def test_views_stay_in_range_at_the_greatest_strength(shape, family):
    params = section(family, "colour" if shape[2] == 3 else "grey", 4.0)
    chosen = [recipes.recipe(params, view) for view in range(2)]
    for view in recipes.views(noise(32, shape), chosen, torch.Generator().manual_seed(0)):
        assert view.shape == (32, shape[2], *shape[:2])
        assert view.dtype == torch.float32
        assert view.min() >= 0
        assert view.max() <= 1 + 1e-6  # the rows of a blur sum to 1 but for float error


# ---- what is drawn


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Kolmogorov and Smirnov's largest distance of two samples' distribution functions, times sqrt(n m / (n + m))."""
    values = np.union1d(one, other)
    functions = [np.searchsorted(np.sort(x), values, side="right") / len(x) for x in (one, other)]
    return np.abs(functions[0] - functions[1]).max() * math.sqrt(len(one) * len(other) / (len(one) + len(other)))


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((32, 32), (0.08, 1.0)),
        ((28, 28), (0.2, 1.0)),
        ((32, 32), (0.9, 1.0)),
        ((31, 27), (0.02, 1.0)),
        ((31, 27), (0.97, 1.0)),
        ((32, 32), (0.08, 0.5)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(size, crop):
    n = 3000
    found = draws(dataclasses.replace(NOTHING, crop_min=crop[0], crop_max=crop[1]), n, size).box.numpy()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(1, *size)
        ratio = (3 / 4, 4 / 3)
        expected = np.array([RandomResizedCrop.get_params(image, crop, ratio) for _ in range(n)])

    def marks(boxes: np.ndarray) -> dict[str, np.ndarray]:
        top, left, height, width = boxes.T
        return {
            "top": top,
            "left": left,
            "height": height,
            "width": width,
            "area": height * width,
            "aspect": width / height,
            "room below": size[0] - top - height,
            "room to the right": size[1] - left - width,
        }

    theirs = marks(expected)
    for name, mine in marks(found).items():
        assert mine.min() >= 0, name
        assert distance(mine, theirs[name]) < 1.95, name  # exceeded by chance once in a thousand
        error = math.sqrt((mine.var() + theirs[name].var()) / n)
        assert abs(mine.mean() - theirs[name].mean()) <= 4 * error, name


def test_decisions_are_drawn_with_their_probabilities():
    n = 8000
    recipe = Recipe(0.2, 0.4, 0.4, 0.3, 0.2, 0.1, grayscale=0.2, blur=0.5, solarize=0.1, flip=0.3)
    drawn = draws(recipe, n, (8, 8))
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0])
    jittered = (drawn.factors != neutral).any(dim=1)
    assert torch.equal(jittered, (drawn.factors != neutral).all(dim=1)), "all four operations are jittered or none"
    flags = {"flip": drawn.flip, "jitter_probability": jittered, "grayscale": drawn.grey, "solarize": drawn.solarize}
    flags["blur"] = drawn.sigma > 0
    for name, flag in flags.items():
        p = getattr(recipe, name)
        assert abs(flag.float().mean() - p) < 4 * math.sqrt(p * (1 - p) / n), name
        for other in flags:  # independent: together as often as the product
            if other < name:
                both, q = (flag & flags[other]).float().mean(), p * getattr(recipe, other)
                assert abs(both - q) < 4 * math.sqrt(q / n), (name, other)


def test_magnitudes_are_uniform_over_their_ranges():
    recipe = Recipe(0.2, 1.0, 0.4, 1.6, 0.2, 0.1, grayscale=0, blur=1.0, solarize=0, flip=0)
    drawn = draws(recipe, 6000, (8, 8))
    # 1 +- 1.6 begins at 0, as in torchvision's ColorJitter
    ranges = [(0.6, 1.4), (0.0, 2.6), (0.8, 1.2), (-0.1, 0.1), (0.1, 2.0)]
    for values, (low, high) in zip([*drawn.factors.T, drawn.sigma], ranges, strict=True):
        evenly = np.linspace(low, high, 100_000)
        assert distance(values.double().numpy(), evenly) < 1.95, (low, high)
        assert low - 1e-6 <= values.min() <= values.max() <= high + 1e-6
    pairs = np.corrcoef(torch.cat([drawn.factors, drawn.sigma[:, None]], 1).T.numpy())
    assert np.abs(pairs - np.eye(5)).max() < 4 / math.sqrt(6000)


def test_all_orders_of_jitter_are_equally_likely():
    orders, counts = draws(NOTHING, 4800, (8, 8)).order.unique(dim=0, return_counts=True)
    assert orders.sort(dim=1).values.unique(dim=0).tolist() == [[0, 1, 2, 3]]
    assert len(orders) == 24
    assert ((counts - 200.0) ** 2 / 200).sum() < 58  # chi-square of 23 degrees of freedom: once in ten thousand


def test_images_of_a_batch_get_parameters_of_their_own():
    images = noise(4, (32, 32, 3))[3:].repeat(64, 1, 1, 1)
    chosen = [recipes.recipe(section(), view) for view in range(2)]
    one, two = recipes.views(images, chosen, torch.Generator().manual_seed(3))
    everything = torch.cat([one, two]).flatten(1)
    assert len(everything.unique(dim=0)) == 128


def test_views_are_a_function_of_the_generator():
    images, chosen = noise(16, (28, 28, 1)), [recipes.recipe(section(form="grey"), view) for view in range(2)]
    one, same, other = (recipes.views(images, chosen, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    for mine, again, another in zip(one, same, other, strict=True):
        assert torch.equal(mine, again)
        assert not torch.equal(mine, another)


# ---- recipes


def numbers(found: Recipe) -> tuple[float, ...]:
    """All of a recipe but solarize."""
    return tuple(getattr(found, name) for name in recipes.NUMBERS if name != "solarize")


# crop_min, jitter probability, brightness, contrast, saturation, hue, grayscale, blur, flip; solarize in views 1 and 2.
# The presets symmetric, symmetric_weak, asymmetric of solo-learn, their *_adainf forms, and CLSP's two. MAE's jitter of
# width 0 does nothing, with whatever probability.
PUBLISHED = {
    ("symmetric", 2.0): ((0.08, 0.8, 0.8, 0.8, 0.8, 0.2, 0.2, 0.5, 0.5), (0, 0)),
    ("symmetric", 1.0): ((0.20, 0.4, 0.4, 0.4, 0.4, 0.1, 0.2, 0.5, 0.5), (0, 0)),
    ("symmetric-weak", 2.0): ((0.08, 0.8, 0.4, 0.4, 0.4, 0.1, 0.2, 0.5, 0.5), (0, 0)),
    ("asymmetric", 2.0): ((0.08, 0.8, 0.4, 0.4, 0.2, 0.1, 0.2, 0.0, 0.5), (0, 0.2)),
    ("asymmetric", 1.0): ((0.20, 0.4, 0.4, 0.4, 0.2, 0.1, 0.2, 0.0, 0.5), (0, 0.2)),
    ("clsp-simclr", 2.0): ((0.08, 0.8, 0.4, 0.4, 0.4, 0.1, 0.2, 0.0, 0.5), (0, 0)),
    ("clsp-moco", 2.0): ((0.08, 0.8, 0.4, 0.4, 0.2, 0.1, 0.2, 0.0, 0.5), (0.2, 0.2)),
    ("crop", 1.0): ((0.20, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5), (0, 0)),  # MAE's
}


@pytest.mark.parametrize(("family", "strength"), PUBLISHED)
def test_recipes_are_the_published_ones(family, strength):
    expected, solarize = PUBLISHED[family, strength]
    for view in range(4):
        found = recipes.recipe(section(family, strength=strength), view)
        assert numbers(found) == pytest.approx(expected)
        assert found.solarize == solarize[min(view, 1)]


@pytest.mark.parametrize("family", recipes.FAMILIES)
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1)])
def test_strength_nothing_returns_the_images_themselves(family, shape):
    images, params = noise(64, shape), section(family, "colour" if shape[2] == 3 else "grey", 0.0)
    chosen = [recipes.recipe(params, view) for view in range(2)]
    for view in recipes.views(images, chosen, torch.Generator().manual_seed(0)):
        assert torch.equal(view, torch.stack([planes(image) for image in images]))


@pytest.mark.parametrize("family", recipes.FAMILIES)
def test_strength_only_ever_strengthens(family):
    for view in (0, 1):
        ladder = [recipes.recipe(section(family, strength=s / 16), view) for s in range(65)]
        for weaker, stronger in itertools.pairwise(ladder):
            assert stronger.crop_min < weaker.crop_min
            assert stronger.jitter_probability > weaker.jitter_probability
            for name in ("brightness", "contrast", "saturation", "hue", "grayscale", "blur", "solarize", "flip"):
                assert getattr(stronger, name) >= getattr(weaker, name), name
        assert ladder[0].crop_min == 1
        assert ladder[64].crop_min == pytest.approx(0.02)
        assert ladder[64].jitter_probability == 1
        assert ladder[64].brightness == pytest.approx(2 * ladder[32].brightness)


def test_between_the_knots_the_crop_moves_on_a_log_scale_and_the_rest_linearly():
    found = recipes.recipe(section(strength=3.0), 0)
    assert found.crop_min == pytest.approx(0.04)  # sqrt(0.08 x 0.02)
    assert found.jitter_probability == pytest.approx(0.9)
    assert found.brightness == pytest.approx(1.2)
    assert found.hue == pytest.approx(0.3)
    found = recipes.recipe(section(strength=0.5), 0)
    assert found.crop_min == pytest.approx(math.sqrt(0.2))
    assert numbers(found)[1:] == pytest.approx((0.2, 0.2, 0.2, 0.2, 0.05, 0.1, 0.25, 0.25))
    assert recipes.recipe(section("asymmetric", strength=0.5), 1).solarize == pytest.approx(0.1)


@pytest.mark.parametrize("family", recipes.FAMILIES)
@pytest.mark.parametrize("strength", [0.5, 2.0, 4.0])
def test_the_grey_form_turns_off_what_one_channel_has_not(family, strength):
    colour, grey = (recipes.recipe(section(family, form, strength), 1) for form in ("colour", "grey"))
    assert grey == dataclasses.replace(colour, saturation=0.0, hue=0.0, grayscale=0.0)
    assert (colour.saturation * colour.hue * colour.grayscale > 0) == (family != "crop")


def test_a_crop_and_a_flip_are_all_that_the_family_crop_does():
    """Pixels of the views are those of boxes, resized and mirrored: no factor of jitter, blur or grey changes them."""
    images = noise(64, (32, 32, 3))
    found = recipes.recipe(section("crop", strength=1.0), 0)
    assert found.crop_min == 0.2
    drawn = draws(found, 64, (32, 32))
    plain = dataclasses.replace(NOTHING, crop_min=0.2, flip=0.5)
    assert 0 < draws(plain, 64, (32, 32)).flip.sum() < 64
    assert worst(transforms.apply(images, drawn), transforms.apply(images, draws(plain, 64, (32, 32)))) < 0.01


def test_a_number_given_alone_overrides_the_strengths():
    for name in recipes.NUMBERS:
        for view in (0, 1):
            for value in (0.03,) if name == "crop_min" else (0.03, 0.0):  # 0 is a number too
                found = recipes.recipe(section("asymmetric", **{name: value}), view)
                usual = recipes.recipe(section("asymmetric"), view)
                assert found == dataclasses.replace(usual, **{name: value})


def test_views_of_each_recipe_are_drawn_from_it_alone():
    chosen = [
        dataclasses.replace(NOTHING, crop_min=0.9, flip=1.0, brightness=0.4, jitter_probability=1.0),
        dataclasses.replace(NOTHING, crop_min=0.1, grayscale=1.0, blur=1.0, hue=0.1, jitter_probability=1.0),
    ]
    drawn = recipes.draw(chosen, 500, (32, 32), torch.Generator().manual_seed(0))
    one, two = drawn.of(slice(0, 500)), drawn.of(slice(500, 1000))
    assert one.flip.all()
    assert not two.flip.any()
    assert two.grey.all()
    assert not one.grey.any()
    assert (two.sigma > 0).all()
    assert not one.sigma.any()
    area = [(d.box[:, 2] * d.box[:, 3]).float() / 32**2 for d in (one, two)]
    assert area[0].min() > 0.85
    assert 0.4 < area[1].mean() < 0.65
    assert (one.factors[:, 3] == 0).all()
    assert one.factors[:, 0].std() == pytest.approx(0.8 / math.sqrt(12), rel=0.1)
    assert (two.factors[:, 0] == 1).all()
    assert two.factors[:, 3].abs().max() <= 0.1


def test_views_of_other_images_and_sizes_are_those_of_each_alone():
    """Four views, the second of other images, the last two smaller: each as it is made of its images by itself."""
    n, strong = 7, recipes.recipe(section(), 0)
    one, other = noise(n, (32, 32, 3)), noise(n, (32, 32, 3), 0, 200)
    small = dataclasses.replace(strong, crop_min=0.08, crop_max=0.5, size=18)
    chosen, sources = [strong, strong, small, small], [one, other, one, other]
    found = recipes.views(sources, chosen, torch.Generator().manual_seed(5))
    drawn = recipes.draw(chosen, n, (32, 32), torch.Generator().manual_seed(5))
    assert [view.shape[2:] for view in found] == [(32, 32), (32, 32), (18, 18), (18, 18)]
    for k, (view, images, recipe) in enumerate(zip(found, sources, chosen, strict=True)):
        alone = transforms.apply(images, drawn.of(slice(k * n, (k + 1) * n)), recipe.size)
        assert worst(view, alone) < 0.01
    part = recipes.views(
        [images[2:5] for images in sources], chosen, torch.Generator().manual_seed(5), (n, slice(2, 5))
    )
    assert all(worst(few, view[2:5]) < 0.01 for few, view in zip(part, found, strict=True))


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_views_are_resized_as_the_augmentation_says(kernel):
    images = noise(8, (12, 12, 1))
    made = [recipes.recipe(section(form="grey", strength=1.0, interpolation=kernel), view) for view in range(2)]
    found = recipes.views(images, made, torch.Generator().manual_seed(0))
    drawn = recipes.draw(made, 8, (12, 12), torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(found), transforms.apply(images, drawn, kernel=kernel))
    other = transforms.apply(images, drawn, kernel={"bicubic": "bilinear", "bilinear": "bicubic"}[kernel])
    assert not torch.equal(torch.cat(found), other)
