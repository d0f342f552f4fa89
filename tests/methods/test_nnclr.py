import math

import pytest
import torch

from pipeline.methods.losses import of_neighbours
from tests.methods import contract


def by_the_paper(neighbours, p, temperature):
    """Equation 3, number by number in float64: (mean loss, share of neighbours that agree)."""
    losses, agreeing = [], 0
    for i, neighbour in enumerate(neighbours.double().tolist()):
        cosine = [sum(a * b for a, b in zip(neighbour, other, strict=True)) for other in p.double().tolist()]
        losses.append(-math.log(math.exp(cosine[i] / temperature) / sum(math.exp(c / temperature) for c in cosine)))
        agreeing += cosine[i] == max(cosine)
    return sum(losses) / len(losses), agreeing / len(losses)


def slow_nearest(z, keys):
    """The key with the largest cosine, by a plain loop."""
    cosine = [[sum(a * b for a, b in zip(x, key, strict=True)) for key in keys.tolist()] for x in z.tolist()]
    return torch.stack([keys[row.index(max(row))] for row in cosine])


@pytest.mark.parametrize("images", [1, 4, 9])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_the_loss_is_the_papers_formula(images, temperature):
    neighbours, p = contract.unit(images, 5, 1), contract.unit(images, 5, 2)
    loss, agreement = by_the_paper(neighbours, p, temperature)
    found = of_neighbours(neighbours, p, temperature)
    assert found["loss"].item() == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert found["agreement"].item() == pytest.approx(agreement)


def test_the_loss_by_hand():
    """Two images at right angles; neighbours that are their own predictions, then each other's."""
    p = torch.eye(2)
    assert of_neighbours(p, p, 0.5)["loss"].item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)
    swapped = of_neighbours(p.flip(0), p, 0.5)
    assert swapped["loss"].item() == pytest.approx(math.log(1 + math.exp(2)), rel=1e-6)
    assert (swapped["agreement"], of_neighbours(p, p, 0.5)["agreement"]) == (0, 1)


def test_autocast_does_not_round_the_similarities():
    neighbours, p = contract.unit(8, 32, 1), contract.unit(8, 32, 2)
    exact = of_neighbours(neighbours, p, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(of_neighbours(neighbours, p, 0.07)["loss"], exact["loss"])


def test_a_view_agrees_with_the_neighbour_of_the_other_and_the_first_joins_the_queue():
    built, twin, views = contract.build("nnclr"), contract.build("nnclr"), contract.views(4)
    queue = built.queue.keys.clone()
    with torch.no_grad():
        z = [twin.projector(twin.encoder(view)) for view in views]
        p = [torch.nn.functional.normalize(twin.predictor(each), dim=1) for each in z]
        z = [torch.nn.functional.normalize(each, dim=1) for each in z]
    halves = [by_the_paper(slow_nearest(z[i], queue[0]), p[1 - i], 1.0)[0] for i in (0, 1)]
    assert halves[0] != pytest.approx(halves[1])
    assert built.loss(views, 0)["loss"].item() == pytest.approx(sum(halves) / 2, rel=1e-4)
    built.after_step(0, 0.0)
    assert torch.allclose(built.queue.keys[0, :4], z[0], atol=1e-6)
    assert torch.equal(built.queue.keys[:, 4:], queue[:, 4:])


def test_no_gradient_goes_through_the_neighbours():
    """With the predictor's weights at zero all predictions are its bias: nothing is left that z could move."""
    built, views = contract.build("nnclr"), contract.views(6)
    with torch.no_grad():
        built.predictor[-1].weight.zero_()
    built.loss(views, 0)["loss"].backward()
    assert all(not parameter.grad.any() for parameter in built.encoder.parameters())
    assert built.predictor[-1].bias.grad.any()
