import pytest
import torch

from pipeline.methods.byol import regression
from pipeline.networks.heads import momentum
from tests.methods import contract


def by_the_paper(p, target):
    """Equation 2 in float64: the mean squared distance of the unit vectors of two lists."""
    total = 0.0
    for a, b in zip(p.double(), target.double(), strict=True):
        a, b = a / sum(a**2) ** 0.5, b / sum(b**2) ** 0.5
        total += float(sum((a - b) ** 2))
    return total / len(p)


def test_regression_is_the_distance_of_unit_vectors():
    p, target = contract.unit(7, 5, 1), contract.unit(7, 5, 2)
    assert regression(p, target).item() == pytest.approx(by_the_paper(p, target), rel=1e-5)
    assert regression(p, p).item() == pytest.approx(0, abs=1e-6)
    assert regression(p, -p).item() == pytest.approx(4)
    assert regression(torch.eye(4)[:2], torch.eye(4)[2:]).item() == pytest.approx(2)


def test_regression_is_twice_lightlys_distance_to_one():
    from lightly.loss import NegativeCosineSimilarity

    p, target = contract.unit(7, 5, 1), contract.unit(7, 5, 2)
    assert regression(p, target).item() == pytest.approx(2 + 2 * NegativeCosineSimilarity()(p, target).item(), rel=1e-5)


def test_the_loss_predicts_the_momentum_encoders_other_view_both_ways():
    built, views = contract.build("byol"), contract.views(6)
    twin = contract.build("byol")
    with torch.no_grad():
        p = [twin.predictor(z) for z in [twin.network(view) for view in views]]
        target = [twin.momentum_encoder(view) for view in views]
    expected = by_the_paper(p[0], target[1]) + by_the_paper(p[1], target[0])
    found = built.loss(views, 0)
    assert found["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert 0 < found["spread"] < 1.5


def test_the_momentum_encoder_moves_after_the_step_and_stands_at_the_end():
    built = contract.build("byol")
    start = built.momentum_encoder.module[1][0].weight.clone()
    with torch.no_grad():
        built.network[1][0].weight.add_(1.0)
    built.after_step(0, 0.5)
    moved = start + 1 - momentum(0.9, 1.0, 0.5)
    assert torch.allclose(built.momentum_encoder.module[1][0].weight, moved, atol=1e-6)
    built.after_step(1, 1.0)
    assert torch.allclose(built.momentum_encoder.module[1][0].weight, moved, atol=1e-6)
