import math

import pytest
import torch
from lightly.loss import VICRegLoss

from pipeline.methods.vicreg import covariance, variance
from tests.methods import contract


def random(n, dim, seed, scale=1.0):
    return scale * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + 1


def by_the_paper(one, two):
    """Equations 1 to 5 in float64, loops and all: (invariance over D, variance terms' sum, covariance terms' sum)."""
    views = [view.double().tolist() for view in (one, two)]
    n, dim = len(one), one.shape[1]
    invariance = sum((a - b) ** 2 for x, y in zip(*views, strict=True) for a, b in zip(x, y, strict=True)) / n / dim
    hinge = decorrelation = 0.0
    for z in views:
        means = [sum(x[j] for x in z) / n for j in range(dim)]
        for i in range(dim):
            for j in range(dim):
                c = sum((x[i] - means[i]) * (x[j] - means[j]) for x in z) / (n - 1)
                if i == j:
                    hinge += max(0.0, 1 - math.sqrt(c + 1e-4)) / dim
                else:
                    decorrelation += c**2 / dim
    return invariance, hinge, decorrelation


@pytest.mark.parametrize(("n", "dim"), [(2, 3), (8, 5), (30, 2)])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_terms_are_the_papers_formulas(n, dim, scale):
    one, two = random(n, dim, 1, scale), random(n, dim, 2, scale)
    _, hinge, decorrelation = by_the_paper(one, two)
    assert (variance(one) + variance(two)).item() == pytest.approx(hinge, rel=1e-5, abs=1e-6)
    assert (covariance(one) + covariance(two)).item() == pytest.approx(decorrelation, rel=1e-4)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_terms_are_lightlys(scale):
    """Which halves the sum of both views' variance terms, as the authors' code does and the paper does not."""
    one, two = random(16, 5, 1, scale), random(16, 5, 2, scale)
    theirs = VICRegLoss(lambda_param=25.0, mu_param=50.0, nu_param=1.0)(one, two).item()
    ours = 25 * torch.nn.functional.mse_loss(one, two) + 25 * (variance(one) + variance(two))
    assert (ours + covariance(one) + covariance(two)).item() == pytest.approx(theirs, rel=1e-5)


def test_by_hand():
    """One feature of values -1 and 1 has variance 2; two equal such features have covariance 2; constants nothing."""
    x = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    assert variance(x).item() == 0
    assert covariance(x).item() == pytest.approx(2 * 2**2 / 2)
    small = x / 4  # deviation sqrt(2) / 4
    assert variance(small).item() == pytest.approx(1 - math.sqrt(1 / 8 + 1e-4), rel=1e-6)
    assert variance(torch.ones(5, 3)).item() == pytest.approx(1 - 0.01)
    assert covariance(torch.ones(5, 3)).item() == 0


def test_a_constant_feature_has_a_finite_gradient():
    z = torch.ones(5, 3, requires_grad=True)
    (variance(z) + covariance(z)).backward()
    assert torch.isfinite(z.grad).all()


def test_autocast_does_not_round_the_covariances():
    z = random(32, 16, 1)
    exact = covariance(z), variance(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(covariance(z), exact[0])
        assert torch.equal(variance(z), exact[1])


def test_the_loss_is_the_weighted_sum_of_the_projections_terms():
    views, twin, built = contract.views(8), contract.build("vicreg"), contract.build("vicreg")
    built.params = built.params.model_copy(update={"invariance": 3.0, "variance": 5.0, "covariance": 7.0})
    with torch.no_grad():
        one, two = (twin.projector(twin.encoder(view)) for view in views)
    terms = by_the_paper(one, two)
    found = built.loss(views, 0)
    for name, term in zip(("invariance", "variance", "covariance"), terms, strict=True):
        assert found[name].item() == pytest.approx(term, rel=1e-4)
    weighted = 3 * terms[0] + 5 * terms[1] + 7 * terms[2]
    assert found["loss"].item() == pytest.approx(weighted, rel=1e-4)
