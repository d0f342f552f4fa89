import pytest
import torch
from lightly.loss import NegativeCosineSimilarity

from tests.methods import contract


def cosine(a, b):
    """Mean cosine of paired rows, one by one in float64."""
    pairs = zip(a.double(), b.double(), strict=True)
    return sum(float(x @ y / (x.norm() * y.norm())) for x, y in pairs) / len(a)


def projected(views):
    twin = contract.build("simsiam")
    with torch.no_grad():
        z = [twin.projector(twin.encoder(view)) for view in views]
        return [twin.predictor(each) for each in z], z


def test_the_loss_is_minus_the_mean_cosine_of_predictions_and_the_other_views_projections():
    views = contract.views(6)
    p, z = projected(views)
    found = contract.build("simsiam").loss(views, 0)
    assert found["loss"].item() == pytest.approx(-(cosine(p[0], z[1]) + cosine(p[1], z[0])) / 2, rel=1e-4)
    lightlys = NegativeCosineSimilarity()
    theirs = (lightlys(p[0], z[1]) + lightlys(p[1], z[0])) / 2
    assert found["loss"].item() == pytest.approx(theirs.item(), rel=1e-4)


def test_no_gradient_flows_through_the_target():
    """With the predictor's output held, the loss has no gradient at all: its target is a constant."""
    built = contract.build("simsiam")
    built.predictor.register_forward_hook(lambda module, inputs, output: output.detach().requires_grad_())
    built.loss(contract.views(6), 0)["loss"].backward()
    assert all(parameter.grad is None for parameter in built.parameters())


def test_projections_have_mean_zero_and_variance_one_over_the_batch():
    _, z = projected(contract.views(8))
    assert torch.allclose(z[0].mean(dim=0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(z[0].var(dim=0, correction=0), torch.ones(6), atol=1e-2)


@pytest.mark.parametrize("constant", [True, False])
def test_the_predictor_alone_has_a_constant_rate_where_it_is_asked_for(constant):
    built = contract.build("simsiam", constant_predictor=constant)
    (phase,) = built.phases()
    held = {id(p) for group in phase.groups if group.constant for p in group.parameters}
    assert held == ({id(p) for p in built.predictor.parameters()} if constant else set())
    everything = [id(p) for group in phase.groups for p in group.parameters]
    assert sorted(everything) == sorted(id(p) for p in built.parameters())
