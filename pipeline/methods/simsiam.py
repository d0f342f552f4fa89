"""SimSiam (Chen and He, CVPR 2021, arXiv 2011.10566): BYOL without the follower; the target is held still instead."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import View
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import mlp, spread
from pipeline.params.methods import SimSiam as Params


def build(params: Params, encoder: Encoder, seed: int) -> "SimSiam":
    """The method around an encoder, its projector and predictor freshly initialised."""
    with seeds.scope(seed, "projector"):
        return SimSiam(params, encoder)


class SimSiam(nn.Module):
    """Encoder, a projector of three layers that ends in batch normalisation, and a predictor with a bottleneck."""

    views = (View(recipe=0), View(recipe=1))
    passes = (3, 3)

    def __init__(self, params: Params, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        out = params.output_dim
        self.projector = nn.Sequential(
            *mlp(encoder.width, params.hidden_dim, params.hidden_dim, out, norm=True),
            nn.BatchNorm1d(out, affine=False),
        )
        self.predictor = mlp(out, params.predictor_dim, out, norm=True)

    def phases(self) -> list[Phase]:
        """One player: all parameters."""
        return [Phase(groups_of(self), self.loss)]

    def before_step(self, step: int, progress: float) -> None:
        """Nothing: no queue, no average."""

    def after_step(self, step: int, progress: float) -> None:
        """Nothing: no queue, no average."""

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. Equation 4: -cos(p, z without gradient), both ways, halved."""
        z = [self.projector(self.encoder(view)) for view in batch]
        p = gather([self.predictor(each).float() for each in z])
        z = gather([each.detach() for each in z])
        still = [each.float() for each in z]
        cosine = F.cosine_similarity(p[0], still[1]).mean() + F.cosine_similarity(p[1], still[0]).mean()
        return {"loss": -cosine / 2, "spread": spread(torch.cat(z))}
