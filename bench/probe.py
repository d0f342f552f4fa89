"""A linear probe: ours, with features computed once and solved to the optimum, against the usual hundred epochs of SGD.

python -m bench probe

The usual way (solo-learn's and CLSP's evaluation): the frozen encoder in the loop, batches of 256 from a DataLoader,
flips, SGD with the rate divided by ten at epochs 60 and 80. Both get the same encoder and labels, and report top-1 on
the same test images.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from bench import pairs
from pipeline.data import datasets, shards
from pipeline.engine import arithmetic
from pipeline.measures import linear_probe, probes
from pipeline.networks import backbones
from pipeline.params import reader

EPOCHS, BATCH, RATE = 100, 256, 30.0  # MoCo's rate; with 1 it ends 4.5 points lower
SIZES = {"train_size": 1000, "labelled_size": 1000, "validation_size": 1000, "spare_size": 0}
TEST = 2000


class Data:
    """Fashion-MNIST's first images, and an encoder of the default preset (its speed needs no training)."""

    def __init__(self):
        given = reader.load()
        self.compute, self.l2 = given.compute, given.linear_eval.l2
        real = datasets.load(given.dataset.model_copy(update=SIZES))
        self.train, self.validation = real.part(shards.TRAIN), real.part(shards.VALIDATION)
        images, labels = real.part(shards.TEST)
        self.test = images[:TEST], labels[:TEST]
        mean, std = backbones.statistics(self.train[0])
        self.encoder = backbones.build(backbones.resnet(32, [1, 1, 1, 1]), mean, std, 0).eval()


def ours(data: Data) -> float:
    """Top-1 of the probe that linear_eval trains, its strength chosen on validation among the default's eight."""
    x, v, t = (
        probes.features(data.encoder, part[0], data.compute) for part in (data.train, data.validation, data.test)
    )
    y, w = (torch.from_numpy(part[1]) for part in (data.train, data.validation))
    found, _ = linear_probe.linear_probe((x, y), (v, w), t, 10, data.l2)
    return probes.accuracy(found, data.test[1])


def usual(data: Data) -> float:
    """Top-1 of the last epoch."""
    images = torch.from_numpy(data.train[0]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(data.train[1])
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels), BATCH, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    head = torch.nn.Linear(data.encoder.width, 10)
    torch.nn.init.zeros_(head.weight)
    optimiser = torch.optim.SGD(head.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [60, 80])
    flips = torch.Generator().manual_seed(1)
    for _ in range(EPOCHS):
        for x, y in loader:
            flipped = torch.rand(len(x), generator=flips) < 0.5
            x = torch.where(flipped[:, None, None, None], x.flip(3), x)
            with torch.no_grad(), arithmetic.autocast(data.compute):
                features = data.encoder(x).float()
            loss = F.cross_entropy(head(features), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    with torch.no_grad():
        found = head(probes.features(data.encoder, data.test[0], data.compute)).argmax(dim=1)
    return probes.accuracy(found, data.test[1])


def usual_apart() -> Callable[[], float]:
    """The same in a process of its own."""
    data = Data()
    return lambda: usual(data)


def rows() -> list[pairs.Row]:
    """The comparison; ours must reach at least the usual top-1."""
    data = Data()
    mine, theirs = ours(data), usual(data)
    if mine < theirs:
        raise SystemExit(f"probe: top-1 {mine:.2f} here, {theirs:.2f} the usual way: not equal or better")
    note = (
        f"{SIZES['train_size']:,} train, {TEST:,} test images; top-1 {mine:.2f} against {theirs:.2f} %, "
        f"both {data.compute.precision}"
    )
    with pairs.apart(usual_apart) as theirs:
        return [pairs.compare("probe", lambda: ours(data), theirs, 20, note=note)]
