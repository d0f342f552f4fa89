"""What several methods put around an encoder: multi-layer heads, multi-crop, a momentum encoder, a queue."""

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

ONLINE = "online_head.safetensors"  # beside an encoder, if a linear layer learned the labels while it was pretrained
COLLAPSED = 0.03  # a `spread` of features; untrained encoders of the default have about .1


def mlp(*widths: int, norm: bool) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them, and batch normalisation before each ReLU if `norm`."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), *([nn.BatchNorm1d(fan_out)] if norm else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def normalised_mlp(*widths: int, affine: bool = True) -> nn.Sequential:
    """`mlp` with batch normalisation after its last layer, too; `affine`: whether that one has weights."""
    return nn.Sequential(*mlp(*widths, norm=True), nn.BatchNorm1d(widths[-1], affine=affine))


def multi_crop(module: nn.Module, views: Sequence[torch.Tensor]) -> torch.Tensor:
    """The module's outputs for views (B, C, H, W), concatenated; adjacent views of equal size share a forward pass.

    As in SwAV's and DINO's code, batch normalisation sees all large views together, and all small ones.
    """
    alike = itertools.groupby(views, key=lambda view: view.shape[2:])
    return torch.cat([module(torch.cat(list(group))) for _, group in alike])


class MomentumEncoder(nn.Module):
    """A copy of a network whose parameters are running averages of it: theta' <- tau theta' + (1 - tau) theta.

    tau goes from `start` to `end` while training progresses. Buffers are not averaged: batch statistics come from the
    copy's own forward passes, as in MoCo's and BYOL's code. Nothing is left out by chance in the copy: targets are of
    the whole network, as of DINO's teacher.
    """

    def __init__(self, network: nn.Module, start: float, end: float):
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.start, self.end = start, end
        for inside in self.module.modules():
            if isinstance(inside, nn.Dropout):
                inside.p = 0.0
            if hasattr(inside, "drop_prob"):  # timm's stochastic depth
                inside.drop_prob = 0.0

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The copy's output, without gradient."""
        return self.module(x)

    @torch.no_grad()
    def update(self, network: nn.Module, progress: float) -> None:
        """Move the parameters by 1 - tau towards the network's; progress, from 0 to 1, is the share of steps done."""
        tau = momentum(self.start, self.end, progress)
        for average, parameter in zip(self.module.parameters(), network.parameters(), strict=True):
            average.lerp_(parameter, 1 - tau)


class Queue(nn.Module):
    """The last `size` unit vectors of each of `kinds` kinds, first in, first out; filled with random ones at first.

    The buffers `keys`, float32 (kinds, size, D), and `place`, the position of the oldest, are part of a checkpoint.
    """

    def __init__(self, kinds: int, size: int, dim: int, draw: torch.Generator):
        super().__init__()
        drawn = torch.randn((kinds, size, dim), generator=draw)
        self.register_buffer("keys", nn.functional.normalize(drawn, dim=2))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.waiting: list[torch.Tensor] = []

    def add(self, keys: torch.Tensor) -> None:
        """Have these keys, float (kinds, B, D), join at the end of the step; its loss still needs the old ones."""
        self.waiting.append(keys.detach())

    @torch.no_grad()
    def advance(self) -> None:
        """After a step: replace the oldest keys by those that were added in it."""
        if not self.waiting:
            return
        keys, size = torch.cat(self.waiting, dim=1), self.keys.shape[1]
        self.waiting.clear()
        places = (self.place + torch.arange(keys.shape[1], device=keys.device)) % size
        self.keys.index_copy_(1, places, keys)
        self.place.add_(keys.shape[1]).remainder_(size)


@torch.no_grad()
def nearest(z: torch.Tensor, keys: torch.Tensor, k: int) -> torch.Tensor:
    """The k keys of (K, D) most similar to each row of z (B, D), the nearest first: (B, k, D); all unit vectors."""
    with torch.autocast(z.device.type, enabled=False):  # bf16 would make ties
        return keys[(z @ keys.T).topk(k, dim=1).indices]


def momentum(start: float, end: float, progress: float) -> float:
    """tau from `start` to `end` along half a cosine (BYOL, Grill et al. 2020, section 3.2); progress in [0, 1]."""
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2


def spread(z: torch.Tensor) -> torch.Tensor:
    """How far from collapse: sqrt(D) times the mean deviation of the normalised rows' entries over the batch, z (B, D).

    0 if all rows point one way, about 1 if directions are uniform (SimSiam, Chen and He 2021, section 4.1).
    """
    unit = nn.functional.normalize(z.detach().float(), dim=1)
    return unit.std(dim=0, correction=0).mean() * z.shape[1] ** 0.5
