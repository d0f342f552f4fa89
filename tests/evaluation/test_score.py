"""Scores of generated images, against planted sets and slow readings of their definitions."""

import numpy as np
import pytest
import torch

from pipeline.evaluation import score
from pipeline.params import reader
from tests.toys import COMPUTE


@pytest.fixture
def params():
    return reader.load().quality.model_copy(update={"steps": 60})


def stripes(n, seed, noise=25):
    """Grey images of stripes across or down at a random place."""
    random = np.random.default_rng(seed)
    wave = np.where((np.arange(16) + random.integers(0, 4, (n, 1))) % 4 < 2, 180, 70)
    across = np.repeat(wave[:, :, None], 16, axis=2)
    images = np.where(random.random((n, 1, 1)) < 0.5, across, across.transpose(0, 2, 1))
    return (images + random.normal(0, noise, images.shape)).clip(0, 255).astype(np.uint8)[..., None]


def blurred(images):
    return np.repeat(images.mean(axis=(1, 2), keepdims=True), 16, 1).repeat(16, 2).astype(np.uint8)


def test_images_like_the_real_ones_get_higher_density_ratios_than_spoiled_ones(params, monkeypatch, tmp_path):
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path))
    good, bad = stripes(150, 1), blurred(stripes(150, 2))
    mixed = np.empty((300, 16, 16, 1), np.uint8)
    mixed[::2], mixed[1::2] = good, bad
    mixed = mixed[(order := np.random.default_rng(0).permutation(300))]
    ratio, facts = score.density_ratio(stripes(300, 3), [mixed[:70], mixed[70:]], params, COMPUTE)
    spoiled = order % 2 == 1
    assert (ratio[~spoiled][:, None] > ratio[spoiled]).mean() > 0.99
    # Half of the generated images are of the real distribution: p / q is 2 there and 0 elsewhere. At best 75 % are told
    # apart, all real ones and half of the others. So few images and steps give 1.37 to 1.67, and 65 to 72 %, by seed.
    assert np.exp(np.median(ratio[~spoiled])) == pytest.approx(2, rel=0.35)
    assert np.exp(np.median(ratio[spoiled])) < 0.3
    assert 63 < facts["told_apart"] < 80


def test_a_perfect_generators_ratios_are_about_one(params, monkeypatch, tmp_path):
    """However sure of itself the classifier is: the temperature takes that back."""
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path))
    ratio, facts = score.density_ratio(stripes(200, 1), [stripes(200, 2)], params, COMPUTE)
    assert np.abs(ratio).mean() < 0.25
    assert facts["told_apart"] == pytest.approx(50, abs=12)
    assert facts["temperature"] > 1


def test_no_image_is_scored_by_a_classifier_that_saw_it(params, monkeypatch, tmp_path):
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path))
    learned, scored = [], []
    monkeypatch.setattr(score.classifier, "train", lambda what, plan, images, labels, *rest: learned.append(images))
    monkeypatch.setattr(score, "_odds", lambda model, images, compute: scored.append(images) or np.zeros(len(images)))
    real, made = stripes(31, 1), stripes(47, 2)
    score.density_ratio(real, [made[:20], made[20:21], made[21:]], params, COMPUTE)
    for k in (0, 1):
        seen = {image.tobytes() for image in learned[k]}
        judged = [image.tobytes() for part in scored[4 * k : 4 * k + 4] for image in part]
        assert not seen & set(judged)
    assert sorted(image.tobytes() for part in scored for image in part) == sorted(
        image.tobytes() for image in (*real, *made)
    )


def test_the_temperature_is_the_one_of_least_loss():
    random = np.random.default_rng(0)
    true = random.normal(0, 2, 40_000)
    labels = random.random(40_000) < 1 / (1 + np.exp(-true))
    told = 3.0 * true  # thrice as sure as it should be
    # Both kinds are counted alike, so they must be about as many.
    assert score.calibrated(told[labels], told[~labels]) == pytest.approx(3.0, rel=0.08)


def test_ranks_against_a_slow_reading_of_their_definition():
    random = np.random.default_rng(1)
    real, made = random.normal(size=(40, 3)), random.normal(size=(60, 3))
    best = np.full(60, np.inf)
    for x in real:
        order = sorted(range(60), key=lambda j: np.linalg.norm(x - made[j]))
        for place, j in enumerate(order, 1):
            near = np.linalg.norm(x - made[j])
            best[j] = min(best[j], place + near / (1 + near))
    found = score.ranked(torch.from_numpy(real), torch.from_numpy(made))
    assert found == pytest.approx(-best)
    nearest = {min(range(60), key=lambda j: np.linalg.norm(x - made[j])) for x in real}
    assert set(np.argsort(-found)[: len(nearest)]) == nearest  # they come first


def test_the_first_by_coverage_come_near_every_kind_and_copies_come_last(params, monkeypatch, tmp_path):
    """Nine in ten generated images are one image; the rest shows what real images show."""
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path))
    real, varied = stripes(80, 1, noise=5), stripes(20, 2, noise=5)
    made = np.concatenate([np.repeat(varied[:1], 180, axis=0), varied])
    found, _ = score.coverage(real, [made[:100], made[100:]], params, COMPUTE)
    first = np.argsort(-found, kind="stable")[:10]
    assert (first >= 180).sum() >= 7
