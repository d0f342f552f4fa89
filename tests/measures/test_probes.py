import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.stats import binomtest
from sklearn import metrics

from pipeline.measures import probes
from pipeline.networks import backbones
from tests.toys import COMPUTE, clusters


def slow_knn(bank, labels, queries, k, temperature):
    found = []
    for query in queries:
        cosines = [float(query @ row / (np.linalg.norm(query) * np.linalg.norm(row))) for row in bank]
        votes = {}
        for i in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
            votes[labels[i]] = votes.get(labels[i], 0.0) + math.exp(cosines[i] / temperature)
        found.append(max(sorted(votes), key=votes.get))
    return found


@pytest.mark.parametrize("k", [1, 5, 20, 300])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_votes_as_a_plain_loop_does(k, temperature):
    bank, labels = clusters(120, 6, 4, seed=11, spread=2.0)
    queries, _ = clusters(60, 6, 4, seed=12, spread=2.0)
    found = probes.knn(bank.float(), labels, queries.float(), k, temperature)
    assert found.tolist() == slow_knn(bank.numpy(), labels.tolist(), queries.numpy(), k, temperature)


def test_knn_looks_at_directions_and_not_at_lengths():
    bank = torch.tensor([[100.0, 0.0], [0.0, 0.01]])
    assert probes.knn(bank, torch.tensor([3, 5]), torch.tensor([[0.1, 9.0], [50.0, 1.0]]), k=1).tolist() == [5, 3]


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (7, 10), (8123, 10_000)])
def test_wilsons_interval_is_scipys(correct, n):
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert probes.wilson(correct, n) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)


def test_a_paired_difference_worked_out_by_hand():
    """d = 0, 1, 0, 1: mean 1/2, deviation sqrt(1/3), half an interval 1.96 sqrt(1/3) / sqrt(4) = 0.5658."""
    found = probes.paired_difference(np.array([1, 1, 0, 1], bool), np.array([1, 0, 0, 0], bool))
    assert found == pytest.approx((50, 50 - 56.579, 50 + 56.579), abs=1e-2)


def test_a_paired_difference_of_equals_is_nothing_and_swapping_turns_its_sign():
    a, b = np.array([1, 1, 0, 1, 0], bool), np.array([0, 1, 1, 0, 0], bool)
    assert probes.paired_difference(a, a) == (0, 0, 0)
    mean, low, high = probes.paired_difference(a, b)
    assert probes.paired_difference(b, a) == pytest.approx((-mean, -high, -low))


def test_accuracy_is_in_percent():
    assert probes.accuracy(torch.tensor([1, 2, 3, 4]), np.array([1, 2, 3, 0])) == 75.0


def test_balanced_measures_by_hand():
    """Six of class 0, of which 5 are right; two of class 1, 1 right; class 2 is guessed once and never there."""
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    guessed = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
    found = probes.balanced(guessed, labels)
    assert found["balanced_accuracy"] == pytest.approx(100 * (5 / 6 + 1 / 2) / 2)
    assert found["macro_f1"] == pytest.approx(100 * (2 * 5 / (6 + 5) + 2 * 1 / (2 + 2)) / 2)


@pytest.mark.filterwarnings("ignore")  # of classes that are guessed and not there
def test_balanced_measures_are_scikit_learns():
    draw = np.random.default_rng(0)
    labels = draw.choice(5, 300, p=[0.6, 0.2, 0.1, 0.07, 0.03])
    guessed = np.where(draw.random(300) < 0.6, labels, draw.integers(0, 5, 300))
    found = probes.balanced(torch.from_numpy(guessed), labels)
    assert found["balanced_accuracy"] == pytest.approx(100 * metrics.balanced_accuracy_score(labels, guessed))
    assert found["macro_f1"] == pytest.approx(100 * metrics.f1_score(labels, guessed, average="macro"))


def test_pixels_are_the_image_flattened_between_0_and_1():
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3) * 10
    assert np.allclose(probes.pixels(images), images.reshape(2, 12) / 255)


def test_features_are_made_in_evaluation_mode_in_order_and_leave_the_encoder_as_it_was():
    images = np.random.default_rng(0).integers(0, 256, (1203, 2, 2, 3), dtype=np.uint8)  # more than two chunks
    encoder = torch.nn.Sequential(torch.nn.BatchNorm2d(3, affine=False), torch.nn.Flatten())
    encoder[0].running_mean += 0.25
    encoder.train()
    found = probes.features(encoder, images, COMPUTE)
    expected = (images.transpose(0, 3, 1, 2).reshape(1203, 12) / 255 - 0.25) / math.sqrt(1 + 1e-5)
    assert np.allclose(found, expected, atol=1e-5)
    assert encoder.training
    assert (encoder[0].running_mean == 0.25).all()
    assert encoder[0].num_batches_tracked == 0


def test_features_of_a_vit_are_what_it_gives_itself_in_any_precision():
    """Which has no batch normalisation to fold."""
    encoder = backbones.build(backbones.vit(8, 2, 2, 4), [0.4] * 3, [0.2] * 3, 0, 12)
    images = np.random.default_rng(0).integers(0, 256, (7, 12, 12, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = encoder.eval()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    encoder.train()
    assert torch.equal(probes.features(encoder, images, COMPUTE), expected)
    assert encoder.training
    bf16 = probes.features(encoder, images, COMPUTE.model_copy(update={"precision": "bf16"}))
    assert bf16.dtype == torch.float32
    assert 0 < (bf16 - expected).norm() < 0.05 * expected.norm()


def test_features_of_an_encoder_are_what_it_gives_itself():
    """Although its batch normalisation, with statistics and scales of any size, is folded into the convolutions."""
    encoder = backbones.build(backbones.resnet(4, [1, 2, 1, 1]), [0.4] * 3, [0.2] * 3, 0)
    draw = torch.Generator().manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.copy_(torch.rand(values.shape, generator=draw) + 0.5)
    images = np.random.default_rng(0).integers(0, 256, (7, 12, 12, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = encoder.eval()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    found = probes.features(encoder, images, COMPUTE)
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert isinstance(encoder.backbone.bn1, torch.nn.BatchNorm2d)


@pytest.mark.parametrize(("n", "m", "dim"), [(300, 250, 6), (500, 500, 64)])
def test_the_frechet_distance_is_the_formula_by_scipy(n, m, dim):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(n, dim)), random.normal(size=(m, dim)) @ random.normal(size=(dim, dim)) / 4 + 0.2
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(ca @ cb).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root)
    assert probes.frechet(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_by_hand():
    """One dimension: (difference of means)^2 + (difference of deviations)^2."""
    x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0], [7.0]])  # means 0, 4; deviations sqrt 2, 3 sqrt 2
    assert probes.frechet(x, y) == pytest.approx(16 + 8, rel=1e-6)
    assert probes.frechet(x, x) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("images", [np.zeros((2, 4, 4, 1), np.float32), np.zeros((4, 4, 1), np.uint8)])
def test_images_that_are_not_as_they_are_stored_are_refused(images):
    encoder = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.5], [0.25], 0)
    with pytest.raises(TypeError, match="as uint8 "):
        probes.features(encoder, images, COMPUTE)
    with pytest.raises(TypeError, match="as uint8 "):
        probes.pixels(images)
