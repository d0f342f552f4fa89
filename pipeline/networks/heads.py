"""What several methods put around an encoder: multi-layer heads, multi-crop, a slowly following copy, a queue."""

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

COLLAPSED = 0.03  # a `spread` of features; untrained encoders of the default have about .1


def mlp(*widths: int, norm: bool) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them, and batch normalisation before each ReLU if `norm`."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), *([nn.BatchNorm1d(fan_out)] if norm else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def multi_crop(module: nn.Module, views: Sequence[torch.Tensor]) -> torch.Tensor:
    """What the module makes of views (B, C, H, W), one below the other; neighbours of equal size share a forward pass.

    As in SwAV's and DINO's code: batch normalisation sees all large views together, and all small ones.
    """
    alike = itertools.groupby(views, key=lambda view: view.shape[2:])
    return torch.cat([module(torch.cat(list(group))) for _, group in alike])


class Follower(nn.Module):
    """A copy of a module whose parameters are running averages of it: theta' <- tau theta' + (1 - tau) theta.

    Buffers are its own: batch statistics come from its own forward passes, as in MoCo's and BYOL's code.
    """

    def __init__(self, leader: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(leader).requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the copy makes of x, without gradient."""
        return self.module(x)

    @torch.no_grad()
    def follow(self, leader: nn.Module, tau: float) -> None:
        """Move the parameters a step of 1 - tau towards the leader's."""
        for mine, theirs in zip(self.module.parameters(), leader.parameters(), strict=True):
            mine.lerp_(theirs, 1 - tau)


class Queue(nn.Module):
    """The last `size` unit vectors of each of `kinds` kinds, the oldest replaced first; random ones at the beginning.

    Buffers, so that they are in a checkpoint: `keys`, float32 (kinds, size, D), and `place`, where the oldest stand.
    """

    def __init__(self, kinds: int, size: int, dim: int, draw: torch.Generator):
        super().__init__()
        drawn = torch.randn((kinds, size, dim), generator=draw)
        self.register_buffer("keys", nn.functional.normalize(drawn, dim=2))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, keys: torch.Tensor) -> None:
        """Put the keys, float (kinds, B, D), in the places of the oldest."""
        size = self.keys.shape[1]
        places = (self.place + torch.arange(keys.shape[1], device=keys.device)) % size
        # In place would change what the gradient of this very loss still needs.
        self.keys = self.keys.index_copy(1, places, keys)
        self.place.add_(keys.shape[1]).remainder_(size)


@torch.no_grad()
def nearest(z: torch.Tensor, keys: torch.Tensor, k: int) -> torch.Tensor:
    """The k of the keys (K, D) that are most similar to each row of z (B, D), in order: (B, k, D); all unit vectors."""
    with torch.autocast(z.device.type, enabled=False):  # ties of rounded similarities would be told by their place
        return keys[(z @ keys.T).topk(k, dim=1).indices]


def momentum(start: float, end: float, progress: float) -> float:
    """tau from `start` to `end` along half a cosine (BYOL, Grill et al. 2020, section 3.2); progress in [0, 1]."""
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2


def spread(z: torch.Tensor) -> torch.Tensor:
    """How far from collapse: sqrt(D) times the mean deviation of unit vectors' entries over the batch, z float (B, D).

    0 when all point one way, about 1 when directions are uniform (SimSiam, Chen and He 2021, section 4.1).
    """
    unit = nn.functional.normalize(z.detach().float(), dim=1)
    return unit.std(dim=0, correction=0).mean() * z.shape[1] ** 0.5
