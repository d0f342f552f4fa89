import pytest
import torch
from lightly.loss import BarlowTwinsLoss

from pipeline.methods.barlow_twins import barlow_twins, standardised
from tests.methods import contract


def random(n, dim, seed):
    return 3 * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + 1


def by_the_paper(one, two):
    """Equation 2 by correlation coefficients, entry by entry in float64: (invariance term, redundancy term)."""
    one, two = one.double(), two.double()
    invariance = redundancy = 0.0
    for i in range(one.shape[1]):
        for j in range(two.shape[1]):
            c = float(torch.corrcoef(torch.stack([one[:, i], two[:, j]]))[0, 1])
            if i == j:
                invariance += (1 - c) ** 2
            else:
                redundancy += c**2
    return invariance, redundancy


@pytest.mark.parametrize(("n", "dim"), [(8, 3), (50, 6)])
@pytest.mark.parametrize(("weight", "scale"), [(0.0051, 0.1), (1.0, 1.0)])
def test_the_loss_is_the_papers_formula(n, dim, weight, scale):
    one, two = random(n, dim, 1), random(n, dim, 2)
    invariance, redundancy = by_the_paper(one, two)
    found = barlow_twins(one, two, weight, scale)
    assert found["loss"].item() == pytest.approx(scale * (invariance + weight * redundancy), rel=1e-4)
    assert found["invariance"].item() == pytest.approx(invariance, rel=1e-4)
    assert found["redundancy"].item() == pytest.approx(redundancy, rel=1e-4)


def test_the_loss_is_lightlys():
    one, two = random(16, 5, 1), random(16, 5, 2)
    assert barlow_twins(one, two, 0.0051, 1.0)["loss"].item() == pytest.approx(
        BarlowTwinsLoss(lambda_param=0.0051)(one, two).item(), rel=1e-4
    )


def test_by_hand():
    """Two features that are one: correlations are all 1, or all -1 with the second view turned round."""
    x = random(10, 1, 0).repeat(1, 2)
    same, turned = barlow_twins(x, x, 0.5, 2.0), barlow_twins(x, -x, 0.5, 2.0)
    assert same["loss"].item() == pytest.approx(2 * (0 + 0.5 * 2), rel=1e-4)  # both pairs off the diagonal are 1
    assert turned["loss"].item() == pytest.approx(2 * (4 + 4 + 0.5 * 2), rel=1e-4)
    assert same["invariance"].item() == pytest.approx(0, abs=1e-4)


def test_scale_and_shift_of_a_feature_do_not_matter():
    one, two = random(20, 4, 1), random(20, 4, 2)
    loss = barlow_twins(one, two, 0.0051, 0.1)["loss"].item()
    assert barlow_twins(7 * one + 3, two, 0.0051, 0.1)["loss"].item() == pytest.approx(loss, rel=1e-4)
    assert torch.allclose(standardised(one).square().mean(dim=0), torch.ones(4), atol=1e-3)


def test_a_constant_feature_is_finite():
    one = torch.cat([random(10, 2, 1), torch.full((10, 1), 4.0)], dim=1)
    assert torch.isfinite(barlow_twins(one, one, 0.0051, 0.1)["loss"])


def test_autocast_does_not_round_the_correlations():
    one, two = random(32, 16, 1), random(32, 16, 2)
    exact = barlow_twins(one, two, 0.0051, 0.1)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(barlow_twins(one, two, 0.0051, 0.1)["loss"], exact)


def test_the_loss_is_that_of_the_projections():
    views = contract.views(8)
    twin = contract.build("barlow_twins")
    with torch.no_grad():
        one, two = (twin.projector(twin.encoder(view)) for view in views)
    invariance, redundancy = by_the_paper(one, two)
    found = contract.build("barlow_twins").loss(views, 0)["loss"].item()
    assert found == pytest.approx(0.1 * (invariance + 0.0051 * redundancy), rel=1e-3)
