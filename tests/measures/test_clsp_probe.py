import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.core import seeds
from pipeline.measures import clsp_probe, probes
from pipeline.networks import backbones
from tests.toys import COMPUTE, clusters


def by_torch(seen, y, classes, lr, seed):
    """The protocol as CLSP writes it: nn.Linear, SGD, MultiStepLR, a step a batch; seen(epoch) -> features that epoch.

    In the order that `train` draws, and from the same initial weights.
    """
    with seeds.scope(seed, "clsp probe"):
        layer = torch.nn.Linear(seen(0).shape[1], classes).double()
    optimiser = torch.optim.SGD(layer.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [60, 80], gamma=0.1)
    for epoch in range(100):
        draw = seeds.generator(seed, "clsp probe", epoch)
        torch.rand(len(y), generator=draw)
        order, x = torch.randperm(len(y), generator=draw), seen(epoch)
        for first in range(0, len(y), 256):
            rows = order[first : first + 256]
            optimiser.zero_grad()
            F.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimiser.step()
        schedule.step()
    return layer.weight.detach(), layer.bias.detach()


def flipped(n, seed, epoch):
    return torch.rand(n, generator=seeds.generator(seed, "clsp probe", epoch)) < 0.5


@pytest.mark.parametrize(("n", "classes", "lr"), [(600, 4, 1.0), (256, 2, 10.0), (40, 3, 0.1)])
def test_it_ends_where_torch_s_own_sgd_does(n, classes, lr):
    x, y = clusters(n, 6, classes, seed=0)
    mirror = x + torch.from_numpy(np.random.default_rng(1).normal(0, 0.1, x.shape))

    def seen(epoch):
        return torch.where(flipped(n, 5, epoch)[:, None], mirror, x)

    found, expected = clsp_probe.train((x, y), mirror, classes, lr, 5), by_torch(seen, y, classes, lr, 5)
    assert found[0].shape == (classes, 6)
    assert all(torch.allclose(one, two, rtol=1e-9, atol=1e-9) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("form", [backbones.resnet(4, [1, 1, 1, 1]), backbones.vit(32, 1, 4, 4)], ids=lambda f: f.kind)
def test_drawing_between_two_features_is_flipping_the_image_before_the_encoder(form):
    """To rounding: a convolution of a batch in which other images are mirrored may add in another order."""
    random, n = np.random.default_rng(0), 40
    images, y = random.integers(0, 256, (n, 12, 12, 3), dtype=np.uint8), torch.arange(n) % 3
    encoder = backbones.build(form, [0.5] * 3, [0.25] * 3, 0, 12).eval()

    def seen(epoch):
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        x = torch.where(flipped(n, 2, epoch)[:, None, None, None], x.flip(3), x)
        with torch.no_grad():
            return encoder(x).double()

    plain, mirror = (probes.features(encoder, part, COMPUTE).double() for part in (images, clsp_probe.mirrored(images)))
    found, expected = clsp_probe.train((plain, y), mirror, 3, 1.0, 2), by_torch(seen, y, 3, 1.0, 2)
    assert all(torch.allclose(one, two, rtol=1e-3, atol=1e-4) for one, two in zip(found, expected, strict=True))
    unflipped = clsp_probe.train((plain, y), plain, 3, 1.0, 2)
    assert not torch.allclose(found[0], unflipped[0], rtol=1e-2, atol=1e-3)


def test_mirroring_exchanges_left_and_right_and_copies():
    images = np.arange(2 * 3 * 4 * 1, dtype=np.uint8).reshape(2, 3, 4, 1)
    found = clsp_probe.mirrored(images)
    assert [list(row) for row in found[0, :, :, 0]] == [[3, 2, 1, 0], [7, 6, 5, 4], [11, 10, 9, 8]]
    assert found.flags.c_contiguous


def test_a_seed_decides_the_layer():
    x, y = clusters(50, 4, 2, seed=0)
    layers = [clsp_probe.train((x, y), x, 2, 1.0, seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[0], layers[2])


def test_top_counts_labels_among_the_largest():
    logits = torch.tensor([[3.0, 2, 1, 0], [0, 1, 2, 3], [3, 1, 0, 2]])
    labels = torch.tensor([0, 1, 3])
    found = [clsp_probe.top(logits, labels, k) for k in (1, 2, 3, 9)]
    assert found == pytest.approx([100 / 3, 200 / 3, 100, 100])
