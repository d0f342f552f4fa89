import math

import pytest
import timm
import torch

from pipeline.networks import heads


def test_an_mlp_has_its_widths_and_ends_in_a_linear_layer():
    plain, normed = heads.mlp(3, 5, 7, 2, norm=False), heads.mlp(3, 5, 2, norm=True)
    assert [type(layer).__name__ for layer in plain] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [layer.out_features for layer in plain if hasattr(layer, "out_features")] == [5, 7, 2]
    assert [type(layer).__name__ for layer in normed] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert normed(torch.zeros(4, 3)).shape == (4, 2)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def test_a_momentum_encoder_is_a_running_average_of_the_parameters_by_hand():
    online = network()
    average = heads.MomentumEncoder(online, 0.75, 0.0)
    start = online[0].weight.detach().clone()
    with torch.no_grad():
        online[0].weight.add_(1.0)
    average.update(online, 0.0)  # tau 0.75
    assert torch.allclose(average.module[0].weight, start + 0.25)
    average.update(online, 0.0)
    assert torch.allclose(average.module[0].weight, start + 0.25 + 0.25 * 0.75)
    average.update(online, 0.5)  # tau 0.375
    assert torch.allclose(average.module[0].weight, start + 1 - 0.375 * 0.5625)
    average.update(online, 1.0)
    assert torch.equal(average.module[0].weight, online[0].weight)


def test_a_momentum_encoder_has_batch_statistics_of_its_own():
    online = network()
    average = heads.MomentumEncoder(online, 0.5, 0.5).train()
    online(torch.full((6, 3), 5.0))
    assert torch.equal(average.module[1].running_mean, torch.zeros(4))
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    average(x)
    expected = 0.1 * average.module[0](x).mean(dim=0)
    assert torch.allclose(average.module[1].running_mean, expected)
    average.update(online, 0.5)
    assert torch.allclose(average.module[1].running_mean, expected)


def test_a_momentum_encoder_lets_no_gradient_through():
    online = network()
    x = torch.ones(4, 3, requires_grad=True)
    assert not heads.MomentumEncoder(online, 0.9, 1.0)(x).requires_grad
    assert all(not p.requires_grad for p in heads.MomentumEncoder(online, 0.9, 1.0).parameters())
    assert all(p.requires_grad for p in online.parameters())


@pytest.mark.parametrize(("start", "end"), [(0.99, 1.0), (0.99, 0.999), (0.5, 0.5)])
def test_momentum_goes_from_start_to_end_along_half_a_cosine(start, end):
    assert heads.momentum(start, end, 0.0) == pytest.approx(start, abs=1e-12)
    assert heads.momentum(start, end, 1.0) == pytest.approx(end, abs=1e-12)
    assert heads.momentum(start, end, 0.5) == pytest.approx((start + end) / 2)
    assert heads.momentum(start, end, 1 / 3) == pytest.approx(end - (end - start) * 0.75)  # cos 60 degrees = 1/2


def test_spread_is_nothing_in_collapse_and_about_one_on_the_sphere():
    draw = torch.Generator().manual_seed(0)
    one = torch.randn(1, 64, generator=draw)
    lengths = torch.rand(500, 1, generator=draw) + 0.5
    assert heads.spread(one * lengths).item() == pytest.approx(0, abs=1e-5)  # lengths do not count
    assert heads.spread(torch.randn(5000, 64, generator=draw)).item() == pytest.approx(1, abs=0.02)
    two = torch.tensor([[3.0, 0.0], [0.0, 5.0]])  # entries 1 and 0: deviation 1/2 in each of two dimensions
    assert heads.spread(two).item() == pytest.approx(math.sqrt(2) / 2)


def test_a_queue_is_random_unit_vectors_of_its_seed_and_then_what_was_added_last():
    def made(seed):
        return heads.Queue(2, 5, 3, torch.Generator().manual_seed(seed))

    queue = made(0)
    assert torch.allclose(queue.keys.norm(dim=2), torch.ones(2, 5))
    assert torch.equal(queue.keys, made(0).keys)
    assert not torch.equal(queue.keys, made(1).keys)
    assert not torch.equal(queue.keys[0], queue.keys[1])
    for i in range(4):
        queue.add(torch.full((2, 2, 3), float(i)))
        queue.advance()
    assert queue.keys[1, :, 0].tolist() == [2.0, 3.0, 3.0, 1.0, 2.0]  # places 0 1 | 2 3 | 4 0 | 1 2
    assert queue.place == 3
    twin = made(1)
    twin.load_state_dict(queue.state_dict())
    assert torch.equal(twin.keys, queue.keys)
    assert twin.place == 3


def test_the_nearest_are_the_most_similar_in_order():
    keys = torch.nn.functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    z = torch.nn.functional.normalize(torch.randn(7, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    found = heads.nearest(z, keys, 3)
    for x, row in zip(z, found, strict=True):
        order = sorted(range(40), key=lambda i, x=x: -float(x.double() @ keys[i].double()))
        assert torch.equal(row, keys[order[:3]])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(heads.nearest(z, keys, 3), found)


def test_a_momentum_encoder_leaves_nothing_out_by_chance():
    """Stochastic depth is the student's alone."""
    online = torch.nn.Sequential(torch.nn.Linear(3, 8), timm.layers.DropPath(0.5), torch.nn.Dropout(0.5)).train()
    average, x = heads.MomentumEncoder(online, 0.9, 0.9).train(), torch.ones(64, 3)
    assert torch.equal(average(x), online[0](x))
    assert (online(x) == 0).any()
