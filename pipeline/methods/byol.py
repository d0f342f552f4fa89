"""BYOL (Grill et al., NeurIPS 2020, arXiv 2006.07733): predict a momentum encoder's projection; no negatives."""

import torch

from pipeline.engine.distributed import gather
from pipeline.methods import MomentumMethod
from pipeline.methods.losses import unit_rows
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import MomentumEncoder, mlp, spread
from pipeline.params.methods import BYOL as Params


class BYOL(MomentumMethod):
    """Encoder and projector, the momentum encoder of both, and a predictor of the momentum encoder's output."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        hidden, out = params.hidden_dim, params.output_dim
        self.projector = mlp(encoder.width, hidden, out, norm=True)
        self.predictor = mlp(out, params.predictor_dim, out, norm=True)
        self.momentum_encoder = MomentumEncoder(self.network, params.momentum_start, params.momentum_end)

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. Equation 2, both ways."""
        z = [self.network(view) for view in batch]
        p = unit_rows(map(self.predictor, z))
        target = unit_rows(map(self.momentum_encoder, batch))
        loss = regression(p[0], target[1]) + regression(p[1], target[0])
        return {"loss": loss, "spread": spread(torch.cat(gather([each.detach() for each in z])))}


def regression(p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of |p - target|^2 = 2 - 2 cos over B pairs of unit vectors, float32 (B, D) each."""
    return (2 - 2 * (p * target).sum(dim=1)).mean()
