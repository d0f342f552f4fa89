import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from pipeline import probes
from pipeline.params.schema import Compute

COMPUTE = Compute(device="cpu", precision="fp32", threads=1, compile=False)


def clusters(n, dim, classes, seed, spread=1.0):
    """Features around one centre a class."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, n)
    x = np.random.default_rng(99).normal(size=(classes, dim))[y] + spread * random.normal(size=(n, dim))
    return torch.from_numpy(x), torch.from_numpy(y)


def sklearn_fit(x, y, l2):
    """The same objective in scikit-learn's terms: C multiplies the summed loss."""
    return LogisticRegression(C=1 / (len(x) * l2), tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())


@pytest.mark.parametrize("l2", [1e-3, 1e-2, 0.3])
@pytest.mark.parametrize("classes", [3, 6])
def test_logistic_finds_the_minimum_of_scikit_learn(l2, classes):
    """The objective is l2-strongly convex in W: a gradient of norm g is at most g^2 / (2 l2) above its minimum, and
    its point at most g / l2 away. All entries of the gradient are below 1e-4 at the end."""
    x, y = clusters(150, 7, classes, seed=0)
    weights = probes.logistic(x, y, classes, l2)
    theirs = sklearn_fit(x, y, l2)
    best = torch.from_numpy(np.vstack([theirs.coef_.T, theirs.intercept_]))

    def objective(w):
        return F.cross_entropy(probes.predict(w, x), y) + l2 / 2 * w[:-1].pow(2).sum()

    norm = 1e-4 * (8 * classes) ** 0.5
    assert -1e-9 <= objective(weights) - objective(best) <= norm**2 / (2 * l2)
    assert (weights[:-1] - best[:-1]).norm() <= norm / l2
    found = probes.predict(weights, x).softmax(dim=1)
    assert np.allclose(found, theirs.predict_proba(x.numpy()), atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_its_solution_the_gradient_vanishes(dtype):
    x, y = clusters(200, 5, 4, seed=1)
    l2 = 0.01
    weights = probes.logistic(x.to(dtype), y, 4, l2).double().numpy()
    with_one = np.hstack([x.numpy(), np.ones((200, 1))])
    logits = with_one @ weights
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    gradient = with_one.T @ (p - np.eye(4)[y]) / 200
    gradient[:-1] += l2 * weights[:-1]  # the bias is free
    assert np.abs(gradient).max() < 1e-4


def test_a_warm_start_ends_where_a_cold_one_does():
    x, y = clusters(150, 7, 3, seed=2)
    start = probes.logistic(x, y, 3, 1.0)
    kept = start.clone()
    warm, cold = probes.logistic(x, y, 3, 0.01, start), probes.logistic(x, y, 3, 0.01)
    assert (warm - cold)[:-1].norm() <= 2 * 1e-4 * 24**0.5 / 0.01  # each is within norm / l2 of the minimum
    assert (warm - start).norm() > 10 * (warm - cold).norm()
    assert torch.equal(start, kept)


def test_standardised_features_have_mean_zero_and_mean_square_one_with_one_scale_for_all():
    x, _ = clusters(100, 4, 3, seed=3)
    x[:, 2] *= 50
    found = probes.Standardise(x)(x).numpy()
    assert np.allclose(found.mean(axis=0), 0)
    assert (found**2).mean() == pytest.approx(1)
    assert np.allclose(found[:, 2].std() / found[:, 0].std(), x[:, 2].std() / x[:, 0].std())


def test_constant_features_stay_finite():
    x = torch.full((5, 3), 2.0)
    assert (probes.Standardise(x)(x) == 0).all()


def test_the_probe_chooses_by_validation_as_a_search_with_scikit_learn_does():
    train, validation, test = (clusters(n, 30, 4, seed, spread=3.0) for n, seed in ((60, 4), (200, 5), (80, 6)))
    grid = [1e-4, 1e-2, 0.1, 1.0, 10.0]
    mean = train[0].mean(dim=0)
    scale = math.sqrt(((train[0] - mean) ** 2).mean())
    models = {l2: sklearn_fit((train[0] - mean) / scale, train[1], l2) for l2 in grid}
    scores = {l2: models[l2].score(((validation[0] - mean) / scale).numpy(), validation[1]) for l2 in grid}
    best = max(grid, key=lambda l2: (scores[l2], l2))
    assert best not in (grid[0], grid[-1])  # or the choice would be none
    assert len(set(scores.values())) > 2
    predicted, l2 = probes.linear_probe(train, validation, test[0], 4, grid)
    assert l2 == best
    assert (predicted.numpy() == models[best].predict(((test[0] - mean) / scale).numpy())).all()


def test_of_equally_good_regularisations_the_strongest_is_taken():
    x, y = clusters(60, 5, 3, seed=7, spread=0.01)
    assert probes.linear_probe((x, y), (x, y), x, 3, [1e-3, 1e-2, 1e-1])[1] == 1e-1


def test_the_probe_never_sees_the_other_test_images():
    train, validation, test = (clusters(n, 8, 3, seed, spread=2.0) for n, seed in ((50, 8), (50, 9), (40, 10)))
    grid = [1e-3, 1e-1]
    predicted, l2 = probes.linear_probe(train, validation, test[0], 3, grid)
    changed = test[0].clone()
    changed[20:] = 1e3 * torch.randn(20, 8, generator=torch.Generator().manual_seed(0)).double()
    again, l2_again = probes.linear_probe(train, validation, changed, 3, grid)
    assert l2 == l2_again
    assert torch.equal(predicted[:20], again[:20])
    assert not torch.equal(predicted[20:], again[20:])
    alone, _ = probes.linear_probe(train, validation, test[0][:1], 3, grid)
    assert alone[0] == predicted[0]


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


@pytest.mark.parametrize("n", [1, 4, 16])
def test_the_rank_of_n_orthonormal_rows_is_n(n):
    q, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    assert probes.rankme(q[:n]) == pytest.approx(n, rel=1e-4)


def test_the_rank_of_copies_of_one_feature_is_one_also_when_it_is_zero():
    row = torch.arange(1.0, 9.0)
    assert probes.rankme(row.repeat(20, 1)) == pytest.approx(1, abs=1e-3)
    assert probes.rankme(torch.zeros(20, 8)) == pytest.approx(1, abs=1e-3)  # a dead network; nan would be no metric


def test_the_rank_of_two_unequal_directions_by_hand():
    """Singular values 3 and 1: exp of the entropy of (3/4, 1/4)."""
    x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert probes.rankme(x) == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)), rel=1e-5)


def test_alignment_of_identical_views_is_zero_and_of_opposite_ones_four():
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    assert probes.alignment(x, 3 * x) == pytest.approx(0, abs=1e-10)
    assert probes.alignment(x, -x) == pytest.approx(4, rel=1e-5)
    assert probes.alignment(torch.eye(2), torch.eye(2).flip(0)) == pytest.approx(2, rel=1e-6)


def test_uniformity_is_a_mean_over_pairs():
    x = np.random.default_rng(0).normal(size=(9, 4))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [math.exp(-2 * float(((unit[i] - unit[j]) ** 2).sum())) for i in range(9) for j in range(i)]
    assert probes.uniformity(torch.from_numpy(x)) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-9)
    assert probes.uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-9)


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
