import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from pipeline.core import seeds
from pipeline.measures import geometry
from tests.toys import clusters


@pytest.mark.parametrize("n", [1, 4, 16])
def test_the_rank_of_n_orthonormal_rows_is_n(n):
    q, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    assert geometry.rankme(q[:n]) == pytest.approx(n, rel=1e-4)


def test_the_rank_of_copies_of_one_feature_is_one_also_when_it_is_zero():
    row = torch.arange(1.0, 9.0)
    assert geometry.rankme(row.repeat(20, 1)) == pytest.approx(1, abs=1e-3)
    assert geometry.rankme(torch.zeros(20, 8)) == pytest.approx(1, abs=1e-3)  # a dead network; nan would be no metric


def test_the_rank_of_two_unequal_directions_by_hand():
    """Singular values 3 and 1: exp of the entropy of (3/4, 1/4)."""
    x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert geometry.rankme(x) == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)), rel=1e-5)


def slow_lidar(views):
    """By the paper's definition: the covariances by loops, the inverse root by an eigendecomposition, in numpy."""
    x = views.double().numpy()
    n, q, d = x.shape
    x = x / np.sqrt(np.mean([x[..., k].var() for k in range(d)]))
    grand = x.reshape(-1, d).mean(axis=0)
    between, within = np.zeros((d, d)), 1e-4 * np.eye(d)
    for of_one in x:
        mean = of_one.mean(axis=0)
        between += np.outer(mean - grand, mean - grand) / n
        for view in of_one:
            within += np.outer(view - mean, view - mean) / (n * q)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    p = np.linalg.eigvalsh(root @ between @ root).clip(min=0)
    p = p / p.sum() + 1e-7
    return np.exp(-(p * np.log(p)).sum())


def test_lidar_is_the_papers():
    draw = torch.Generator().manual_seed(0)
    means = torch.randn(30, 1, 6, generator=draw) * torch.tensor([3.0, 1, 1, 0.3, 0.1, 0])
    views = means + 0.5 * torch.randn(30, 4, 6, generator=draw)
    assert geometry.lidar(views) == pytest.approx(slow_lidar(views), rel=1e-6)
    assert geometry.lidar(7 * views + 3) == pytest.approx(geometry.lidar(views), rel=1e-6)


def test_lidar_counts_directions_in_which_images_differ_and_views_do_not():
    # Four images at the corners of a square, their views left and right of it along a third axis that is all noise:
    # two directions tell images apart, by as much; RankMe would count the third as well.
    corners = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    views = corners[:, None] + torch.tensor([[0, 0, 1.0], [0, 0, -1.0]])
    assert geometry.lidar(views) == pytest.approx(2, rel=1e-4)
    assert geometry.rankme(views.flatten(0, 1)) > 2.9


@pytest.mark.parametrize(
    ("two", "expected"),
    [
        ([[1.0, 0.1], [0.1, 1.0], [-1.0, 0.1]], 0.0),  # each beside its own
        ([[0.1, 1.0], [1.0, 0.1], [-1.0, 0.1]], 200 / 3),  # the first two exchanged
        ([[-1.0, 0.1], [0.1, 1.0], [1.0, 0.1]], 200 / 3),
    ],
)
def test_connectivity_by_hand(two, expected):
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert geometry.connectivity(one, torch.tensor(two)) == pytest.approx(expected)
    assert geometry.connectivity(3 * torch.tensor(two), one) == pytest.approx(expected)


def test_alignment_of_identical_views_is_zero_and_of_opposite_ones_four():
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    assert geometry.alignment(x, 3 * x) == pytest.approx(0, abs=1e-10)
    assert geometry.alignment(x, -x) == pytest.approx(4, rel=1e-5)
    assert geometry.alignment(torch.eye(2), torch.eye(2).flip(0)) == pytest.approx(2, rel=1e-6)


def test_uniformity_is_a_mean_over_pairs():
    x = np.random.default_rng(0).normal(size=(9, 4))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [math.exp(-2 * float(((unit[i] - unit[j]) ** 2).sum())) for i in range(9) for j in range(i)]
    assert geometry.uniformity(torch.from_numpy(x)) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-9)
    assert geometry.uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-9)


def test_clusters_far_apart_are_all_learned_but_for_the_first_image_of_each():
    """Four heaps of 20 around the corners of a square, in turn: only the first of each has none of its own before it.

    k-means begins from four of the 80, so it may halve a heap and join two; neighbours then still agree.
    """
    corners = torch.tensor([[1.0, 0, 0.2], [-1, 0, 0.2], [0, 1, 0.2], [0, -1, 0.2]])
    x = corners.repeat(20, 1) + 0.01 * seeds.noise((80, 3), 0, "heaps")
    found = [geometry.cluster_learnability(x, seeds.generator(k, "start")) for k in range(40)]
    assert max(found) == pytest.approx(100 * 76 / 79, rel=1e-5)
    assert min(found) > 80


def test_cluster_learnability_is_scikit_learns_nearest_neighbour_one_image_at_a_time():
    x, _ = clusters(200, 6, 4, seed=3, spread=2.0)
    unit = torch.nn.functional.normalize(x.float(), dim=1)
    start = unit[torch.randperm(200, generator=seeds.generator(0, "start"))[:10]].numpy()
    theirs = KMeans(10, init=start, n_init=1, max_iter=20, tol=0, algorithm="lloyd").fit(unit.numpy()).labels_
    right = 0
    for i in range(1, 200):
        told = KNeighborsClassifier(1).fit(unit[:i].numpy(), theirs[:i]).predict(unit[i : i + 1].numpy())
        right += int(told[0] == theirs[i])
    found = geometry.cluster_learnability(3 * x.float(), seeds.generator(0, "start"))
    assert found == pytest.approx(100 * right / 199, abs=0.6)  # an image between two centres may go to either


def test_features_without_structure_have_clusters_that_are_hardly_learned():
    x = seeds.noise((2000, 200), 0, "nothing")
    assert geometry.cluster_learnability(x, seeds.generator(0, "start")) < 15
    assert geometry.cluster_learnability(torch.zeros(40, 3), seeds.generator(0, "start")) == 100  # all in one place


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_dimension_of_a_sheet_in_space_is_the_sheets(dimension):
    turned, _ = torch.linalg.qr(seeds.noise((12, 12), 0, "turn"))
    sheet = torch.rand(3000, dimension, generator=seeds.generator(0, "sheet")) @ turned[:dimension]
    assert geometry.intrinsic_dimension(5 * sheet + 2) == pytest.approx(dimension, rel=0.08)


def test_the_dimension_is_by_the_two_nearest_neighbours():
    x = seeds.noise((60, 4), 0, "points")
    far = NearestNeighbors(n_neighbors=3).fit(x.numpy()).kneighbors()[0]
    assert geometry.intrinsic_dimension(x) == pytest.approx(59 / np.log(far[:, 1] / far[:, 0]).sum(), rel=1e-5)


def test_the_dimension_of_five_points_on_a_line_by_hand_and_copies_do_not_count():
    """0, 1, 3, 7 and 15: nearest and next are 1, 3; 1, 2; 2, 3; 4, 6; 8, 12. Products of ratios: 3 2 1.5 1.5 1.5."""
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]])
    expected = 4 / math.log(3 * 2 * 1.5**3)
    assert geometry.intrinsic_dimension(line) == pytest.approx(expected)
    assert geometry.intrinsic_dimension(torch.zeros(9, 2)) == 0  # a dead network
    assert geometry.intrinsic_dimension(torch.zeros(2, 2)) == 0
    assert geometry.intrinsic_dimension(torch.eye(2)) == 0  # there is no next
