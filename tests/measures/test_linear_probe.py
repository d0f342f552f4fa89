import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from pipeline.measures import linear_probe
from pipeline.measures.linear_probe import Logistic
from tests.toys import clusters


def sklearn_fit(x, y, l2):
    """The same objective in scikit-learn's terms: C multiplies the summed loss."""
    return LogisticRegression(C=1 / (len(x) * l2), tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())


def objective(weights, x, y, l2):
    return float(F.cross_entropy(F.linear(x, *weights), y) + l2 / 2 * weights[0].pow(2).sum())


def largest_fault(x, l2, classes):
    """How far above its minimum the objective can end, and how far W from the best one.

    In the scaled unknowns V = W Q / s, s^2 = 1 / (lambda / 4 + l2), it is l2 s^2 >= m = l2 / (largest lambda / 4 + l2)
    strongly convex, and every entry of the gradient ends below 1e-4: a gradient of norm g leaves at most g^2 / 2m, and
    a point at most g / m away in V, |W| <= |V| / sqrt(l2).
    """
    norm = 1e-4 * ((x.shape[1] + 1) * classes) ** 0.5
    convexity = l2 / (float(torch.linalg.eigvalsh(x.T @ x / len(x)).max()) / 4 + l2)
    return norm**2 / (2 * convexity), norm / convexity / l2**0.5


@pytest.mark.parametrize("l2", [1e-3, 1e-2, 0.3])
@pytest.mark.parametrize("classes", [3, 6])
def test_logistic_finds_the_minimum_of_scikit_learn(l2, classes):
    x, y = clusters(150, 7, classes, seed=0)
    weights = Logistic(x, y, classes).solve(l2)
    theirs = sklearn_fit(x, y, l2)
    best = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
    above, away = largest_fault(x, l2, classes)
    assert -1e-9 <= objective(weights, x, y, l2) - objective(best, x, y, l2) <= above < 1e-3
    assert (weights[0] - best[0]).norm() <= away
    found = F.linear(x, *weights).softmax(dim=1)
    assert np.allclose(found, theirs.predict_proba(x.numpy()), atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_its_solution_the_gradient_vanishes(dtype):
    x, y = clusters(200, 5, 4, seed=1)
    l2 = 0.01
    weight, bias = (w.double().numpy() for w in Logistic(x.to(dtype), y, 4).solve(l2))
    logits = x.numpy() @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    error = (p - np.eye(4)[y]) / 200
    steepest = float(torch.linalg.eigvalsh(x.T @ x / len(x)).max()) / 4 + l2  # turns the scaled gradient back
    assert np.abs(error.T @ x.numpy() + l2 * weight).max() < 1e-4 * (5 * steepest) ** 0.5
    assert np.abs(error.sum(axis=0)).max() < 1e-4  # the bias is free


def test_features_that_say_the_same_twice_or_nothing_are_no_trouble():
    """X'X is singular: the weights of equal columns are equal, and that of a column of zeros is zero."""
    x, y = clusters(100, 3, 3, seed=4)
    wide = torch.cat([x, x[:, :1], torch.zeros(100, 1).double()], dim=1)
    weight, _ = Logistic(wide, y, 3).solve(0.01)
    assert torch.allclose(weight[:, 0], weight[:, 3], atol=1e-6)
    assert weight[:, 4].abs().max() < 1e-6
    assert (F.linear(wide, weight).argmax(dim=1) == y).float().mean() > 0.5


def test_a_warm_start_ends_where_a_cold_one_does():
    x, y = clusters(150, 7, 3, seed=2)
    logistic = Logistic(x, y, 3)
    start = logistic.solve(1.0)
    kept = [w.clone() for w in start]
    warm, cold = logistic.solve(0.01, start)[0], logistic.solve(0.01)[0]
    assert (warm - cold).norm() <= 2 * largest_fault(x, 0.01, 3)[1]  # each is that near to the minimum
    assert (warm - start[0]).norm() > 10 * (warm - cold).norm()
    assert all(torch.equal(w, k) for w, k in zip(start, kept, strict=True))


def test_standardised_features_have_mean_zero_and_mean_square_one_with_one_scale_for_all():
    x, _ = clusters(100, 4, 3, seed=3)
    x[:, 2] *= 50
    found = linear_probe.standardiser(x)(x).numpy()
    assert np.allclose(found.mean(axis=0), 0)
    assert (found**2).mean() == pytest.approx(1)
    assert np.allclose(found[:, 2].std() / found[:, 0].std(), x[:, 2].std() / x[:, 0].std())


def test_constant_features_stay_finite():
    x = torch.full((5, 3), 2.0)
    assert (linear_probe.standardiser(x)(x) == 0).all()


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
    predicted, l2 = linear_probe.linear_probe(train, validation, test[0], 4, grid)
    assert l2 == best
    assert (predicted.numpy() == models[best].predict(((test[0] - mean) / scale).numpy())).all()


def test_of_equally_good_regularisations_the_strongest_is_taken():
    x, y = clusters(60, 5, 3, seed=7, spread=0.01)
    assert linear_probe.linear_probe((x, y), (x, y), x, 3, [1e-3, 1e-2, 1e-1])[1] == 1e-1


def test_the_probe_never_sees_the_other_test_images():
    train, validation, test = (clusters(n, 8, 3, seed, spread=2.0) for n, seed in ((50, 8), (50, 9), (40, 10)))
    grid = [1e-3, 1e-1]
    predicted, l2 = linear_probe.linear_probe(train, validation, test[0], 3, grid)
    changed = test[0].clone()
    changed[20:] = 1e3 * torch.randn(20, 8, generator=torch.Generator().manual_seed(0)).double()
    again, l2_again = linear_probe.linear_probe(train, validation, changed, 3, grid)
    assert l2 == l2_again
    assert torch.equal(predicted[:20], again[:20])
    assert not torch.equal(predicted[20:], again[20:])
    alone, _ = linear_probe.linear_probe(train, validation, test[0][:1], 3, grid)
    assert alone[0] == predicted[0]


# ---- without validation: cross-validation on the train images


def without(dim):
    """A validation that is empty."""
    return torch.zeros(0, dim).double(), torch.zeros(0, dtype=torch.int64)


def slowly_chosen(x, y, grid):
    """By the definition: images are dealt out to five folds class by class; of equals the stronger, by right ones."""
    dealt = [i for c in sorted(set(y.tolist())) for i in range(len(y)) if y[i] == c]
    right = dict.fromkeys(grid, 0)
    for out in range(5):
        held, kept = dealt[out::5], [i for i in range(len(y)) if i not in dealt[out::5]]
        mean = x[kept].mean(dim=0)
        scale = math.sqrt(((x[kept] - mean) ** 2).mean())
        for l2 in grid:
            model = sklearn_fit((x[kept] - mean) / scale, y[kept], l2)
            right[l2] += int((model.predict(((x[held] - mean) / scale).numpy()) == y[held].numpy()).sum())
    return max(grid, key=lambda l2: (right[l2], l2)), right


@pytest.mark.parametrize(("n", "seed", "spread"), [(60, 4, 3.0), (83, 12, 2.0), (41, 20, 2.0)])
def test_without_validation_the_choice_is_that_of_a_slow_cross_validation_with_scikit_learn(n, seed, spread):
    (x, y), test = clusters(n, 30, 4, seed, spread), clusters(80, 30, 4, seed + 1, spread)[0]
    grid = [1e-2, 10.0, 1e-4, 1.0, 0.1]
    best, right = slowly_chosen(x, y, grid)
    assert best not in (1e-4, 10.0)  # or the choice would be none
    assert len(set(right.values())) > 2
    predicted, l2 = linear_probe.linear_probe((x, y), without(30), test, 4, grid)
    assert l2 == best
    mean = x.mean(dim=0)
    scale = math.sqrt(((x - mean) ** 2).mean())
    whole = sklearn_fit((x - mean) / scale, y, best)  # of all train images, no fold left out
    assert (predicted.numpy() == whole.predict(((test - mean) / scale).numpy())).all()


@pytest.mark.parametrize("counts", [(10, 10, 10), (7, 1, 13, 4), (1, 1), (3,), (6, 0, 9)], ids=str)
def test_every_fold_has_as_many_of_each_class_up_to_one(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    fold = linear_probe.folds(labels)
    for rows in (labels >= 0, *(labels == c for c in labels.unique())):
        each = torch.bincount(fold[rows], minlength=linear_probe.FOLDS)
        assert each.max() - each.min() <= 1
        assert len(each) == 5


def test_the_order_of_classes_among_each_other_changes_no_fold():
    one, two = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2]), torch.tensor([2, 1, 0, 0, 1, 2, 0, 2, 1, 0])
    for c in range(3):
        assert torch.equal(linear_probe.folds(one)[one == c], linear_probe.folds(two)[two == c])


def test_without_validation_test_images_choose_nothing_and_the_order_of_the_grid_neither():
    train, test = clusters(60, 30, 4, 4, 3.0), clusters(40, 30, 4, 5, 3.0)[0]
    grid = [1e-3, 1e-1, 10.0]
    predicted, l2 = linear_probe.linear_probe(train, without(30), test, 4, grid)
    assert l2 != max(grid)
    changed = torch.cat([test[:20], 1e3 * test[20:].flip(0)])
    again, l2_again = linear_probe.linear_probe(train, without(30), changed, 4, grid[::-1])
    assert l2_again == l2
    assert torch.equal(again[:20], predicted[:20])
    assert not torch.equal(again[20:], predicted[20:])


def test_without_validation_too_the_strongest_of_equally_good_regularisations_is_taken():
    x, y = clusters(60, 5, 3, seed=7, spread=0.01)
    assert linear_probe.linear_probe((x, y), without(5), x, 3, [1e-2, 1e-1, 1e-3])[1] == 1e-1


def test_without_validation_a_single_regularisation_is_taken_as_it_is(monkeypatch):
    def refused(labels):
        raise AssertionError("nothing is to be chosen")

    monkeypatch.setattr(linear_probe, "folds", refused)
    (x, y), test = clusters(60, 8, 3, 8, 2.0), clusters(40, 8, 3, 9, 2.0)[0]
    predicted, l2 = linear_probe.linear_probe((x, y), without(8), test, 3, [0.02])
    mean = x.mean(dim=0)
    scale = math.sqrt(((x - mean) ** 2).mean())
    expected = sklearn_fit((x - mean) / scale, y, 0.02).predict(((test - mean) / scale).numpy())
    assert l2 == 0.02
    assert (predicted.numpy() == expected).all()


def test_without_validation_two_labelled_images_are_enough():
    """Each is left out once, and the other says nothing of it."""
    x, y = torch.tensor([[1.0, 0.0, 2.0], [-1.0, 0.5, 0.0]]), torch.tensor([2, 0])
    empty = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    predicted, l2 = linear_probe.linear_probe((x, y), empty, x + 0.1, 3, [1e-3, 1e-1])
    assert predicted.tolist() == [2, 0]
    assert l2 == 1e-1


def test_without_validation_a_single_labelled_image_has_the_strongest_regularisation():
    x, y = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([2])
    empty = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    predicted, l2 = linear_probe.linear_probe((x, y), empty, torch.cat([x, -x]), 3, [1e-3, 1e-1])
    assert predicted.tolist() == [2, 2]
    assert l2 == 1e-1
