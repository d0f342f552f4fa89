import math

import pytest
import torch

from pipeline.methods import all4one
from pipeline.networks import backbones
from tests.methods import contract
from tests.methods.test_nnclr import by_the_paper, slow_nearest


def slow_decorrelation(keys, z):
    """Number by number in float64."""
    same, other = [], []
    for i in (0, 1):
        one, two = keys[i].double(), z[1 - i].double()
        for a in range(one.shape[1]):
            for b in range(one.shape[1]):
                length = math.sqrt(sum(x * x for x in one[:, a].tolist()) * sum(x * x for x in two[:, b].tolist()))
                c = sum(x * y for x, y in zip(one[:, a].tolist(), two[:, b].tolist(), strict=True)) / length
                (same if a == b else other).append((c - 1) ** 2 if a == b else c**2)
    return (math.sqrt(sum(same) / len(same)) + math.sqrt(sum(other) / len(other))) / 2


@pytest.mark.parametrize("images", [2, 5, 9])
def test_decorrelation_is_the_formula_number_by_number(images):
    keys, z = ([contract.unit(images, 4, seed) for seed in pair] for pair in ((1, 2), (3, 4)))
    assert all4one.decorrelation(keys, z).item() == pytest.approx(slow_decorrelation(keys, z), rel=1e-5)


def test_decorrelation_by_hand():
    """Two features that never meet: nothing is left of equal views; of exchanged ones all, on and off the diagonal."""
    one = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert all4one.decorrelation([one, one], [one, one]).item() == pytest.approx(0, abs=1e-6)
    other = one.flip(1)
    assert all4one.decorrelation([one, one], [other, other]).item() == pytest.approx(1)


def test_positions_by_hand():
    found = all4one.positions(5, 8)
    assert found.shape == (5, 8)
    slower, slowest = 10_000 ** (-2 / 6), 10_000 ** (-4 / 6)
    for x in (0, 1, 7):
        expected = [math.sin(x), math.cos(x), math.sin(x * slower), math.cos(x * slower), math.sin(x * slowest)]
        assert found[:, x].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_three_terms_are_those_of_the_description_and_the_first_views_keys_join():
    """With the parts' own outputs; what is checked is which goes where."""
    built, twin, views = contract.build("all4one"), contract.build("all4one"), contract.views(6)
    queue = built.queue.keys.clone()
    unit = torch.nn.functional.normalize
    with torch.no_grad():
        z = [twin.network(view) for view in views]
        p, first = ([part(each) for each in z] for part in (twin.predictor, twin.shifted))
        p = [unit(each, dim=1) for each in p]
        keys = [unit(twin.momentum_encoder(view), dim=1) for view in views]
        five = []
        for each in keys:
            rows = [sorted(range(12), key=lambda i, x=x: -float(x.double() @ queue[0, i].double()))[:5] for x in each]
            five.append(torch.stack([queue[0, row] for row in rows]))
        attend = [twin.attention(each + twin.positions)[:, 0] for each in five]
        shifted = [torch.cat([first[i][:, None], five[i][:, :4]], dim=1) + twin.positions for i in (0, 1)]
        moved = [twin.attention(each)[:, 0] for each in shifted]
    assert torch.allclose(five[0][:, 0], slow_nearest(keys[0], queue[0]))
    neighbours = sum(by_the_paper(five[i][:, 0], p[1 - i], 1.0)[0] for i in (0, 1)) / 2
    centroids = sum(by_the_paper(unit(attend[i], dim=1), unit(moved[1 - i], dim=1), 0.1)[0] for i in (0, 1)) / 2
    features = 10 * slow_decorrelation(keys, z)
    found = built.loss(views, 0)
    assert found["neighbours"].item() == pytest.approx(neighbours, rel=1e-4)
    assert found["centroids"].item() == pytest.approx(centroids, rel=1e-4)
    assert found["features"].item() == pytest.approx(features, rel=1e-4)
    assert found["loss"].item() == pytest.approx((neighbours + centroids + features) / 2, rel=1e-4)
    built.after_step(0, 0.0)
    assert torch.allclose(built.queue.keys[0, :6], keys[0], atol=1e-6)
    assert torch.equal(built.queue.keys[:, 6:], queue[:, 6:])


def test_dropout_is_a_function_of_seed_and_step():
    params = contract.METHODS["all4one"].model_copy(update={"dropout": 0.5})

    def loss(seed, step):
        encoder = backbones.build(contract.RESNET, [0.5], [0.25], 0)
        built = all4one.All4One.build(params, encoder, 0).train()
        built.seed = seed
        return built.loss(contract.views(6), step)["centroids"].item()

    assert loss(0, 3) == loss(0, 3)
    assert len({loss(0, 3), loss(0, 4), loss(1, 3)}) == 3


def test_attention_learns_at_its_own_rate_and_nothing_else_does():
    built = contract.build("all4one")
    own = {id(parameter) for parameter in built.attention.parameters()}
    for group in built.phases()[0].groups:
        for parameter in group.parameters:
            assert group.lr_factor == (0.1 if id(parameter) in own else 1.0)
