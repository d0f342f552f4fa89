"""BYOL (Grill et al., NeurIPS 2020, arXiv 2006.07733): predict a follower's view of the same image; no negatives."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import View
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import Follower, mlp, momentum, spread
from pipeline.params.methods import BYOL as Params


def build(params: Params, encoder: Encoder, seed: int) -> "BYOL":
    """The method around an encoder, its projector and predictor freshly initialised."""
    with seeds.scope(seed, "projector"):
        return BYOL(params, encoder)


class BYOL(nn.Module):
    """Encoder and projector, a follower of both, and a predictor of what the follower says."""

    views = (View(recipe=0), View(recipe=1))
    passes = (4, 4)

    def __init__(self, params: Params, encoder: Encoder):
        super().__init__()
        self.params = params
        hidden, out = params.hidden_dim, params.output_dim
        self.network = nn.Sequential(encoder, mlp(encoder.width, hidden, out, norm=True))
        self.predictor = mlp(out, params.predictor_dim, out, norm=True)
        self.follower = Follower(self.network)

    def phases(self) -> list[Phase]:
        """One player: network and predictor, not the follower."""
        return [Phase(groups_of(nn.ModuleList([self.network, self.predictor])), self.loss)]

    def before_step(self, step: int, progress: float) -> None:
        """Nothing: the follower moves after the step."""

    def after_step(self, step: int, progress: float) -> None:
        """The follower follows, ever more slowly."""
        tau = momentum(self.params.momentum_start, self.params.momentum_end, progress)
        self.follower.follow(self.network, tau)

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. Equation 2, both ways."""
        z = [self.network(view) for view in batch]
        p = gather([F.normalize(self.predictor(each).float(), dim=1) for each in z])
        target = gather([F.normalize(self.follower(view).float(), dim=1) for view in batch])
        loss = regression(p[0], target[1]) + regression(p[1], target[0])
        return {"loss": loss, "spread": spread(torch.cat(gather([each.detach() for each in z])))}


def regression(p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of |p - target|^2 = 2 - 2 cos over B pairs of unit vectors, float32 (B, D) each."""
    return (2 - 2 * (p * target).sum(dim=1)).mean()
