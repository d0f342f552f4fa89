"""What several methods put around an encoder: multi-layer heads, and a slowly following copy."""

import copy
import itertools
import math

import torch
from torch import nn

COLLAPSED = 0.03  # a `spread` of features; untrained encoders of the default have about .1


def mlp(*widths: int, norm: bool) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them, and batch normalisation before each ReLU if `norm`."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), *([nn.BatchNorm1d(fan_out)] if norm else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


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


def momentum(start: float, end: float, progress: float) -> float:
    """tau from `start` to `end` along half a cosine (BYOL, Grill et al. 2020, section 3.2); progress in [0, 1]."""
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2


def spread(z: torch.Tensor) -> torch.Tensor:
    """How far from collapse: sqrt(D) times the mean deviation of unit vectors' entries over the batch, z float (B, D).

    0 when all point one way, about 1 when directions are uniform (SimSiam, Chen and He 2021, section 4.1).
    """
    unit = nn.functional.normalize(z.detach().float(), dim=1)
    return unit.std(dim=0, correction=0).mean() * z.shape[1] ** 0.5
