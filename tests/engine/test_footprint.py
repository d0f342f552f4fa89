"""What a step takes of a GPU: by hand, and as autograd keeps it of real numbers."""

import pytest
import torch
from torch import nn

from pipeline.engine import footprint
from tests.toys import COMPUTE


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_what_a_small_network_keeps_is_what_one_counts_by_hand(device):
    """The convolution keeps 5 images of 4 x 4, the ReLU its 5 x 2 x 16 numbers, which the linear layer keeps, too."""
    with torch.device(device):
        net, x = network(), torch.zeros(5, 1, 4, 4)
        assert footprint.kept(net, lambda: net(x)) == 4 * (5 * 16 + 5 * 2 * 16)
        net[0].requires_grad_(False)  # then nobody wants the images
        assert footprint.kept(net, lambda: net(x)) == 4 * 5 * 2 * 16
        with torch.no_grad():
            assert footprint.kept(net, lambda: net(x)) == 0


def test_a_step_is_weights_gradients_states_and_activations():
    net = network()
    every, fixed = 18 + 32 * 3 + 3, 18
    assert footprint.step(net, 3, 1000, COMPUTE) == 4 * every * 5 + 1000
    assert footprint.step(net, 3, 1000, COMPUTE.model_copy(update={"precision": "bf16"})) == 4 * every * 5 + 500
    net[0].requires_grad_(False)
    assert footprint.step(net, 1, 0, COMPUTE) == 4 * fixed + 4 * (every - fixed) * 3
