"""BYOL (Grill et al., NeurIPS 2020, arXiv 2006.07733): predict a momentum encoder's projection; no negatives."""

import torch
import torch.nn.functional as F

from pipeline.engine.distributed import gather
from pipeline.methods import Method
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import MomentumEncoder, mlp, spread
from pipeline.params.methods import BYOL as Params


class BYOL(Method):
    """Encoder and projector, the momentum encoder of both, and a predictor of the momentum encoder's output."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        hidden, out = params.hidden_dim, params.output_dim
        self.projector = mlp(encoder.width, hidden, out, norm=True)
        self.predictor = mlp(out, params.predictor_dim, out, norm=True)
        self.momentum_encoder = MomentumEncoder(self.network, params.momentum_start, params.momentum_end)

    def passes(self, step: int) -> tuple[float, ...]:
        """The momentum encoder adds a forward pass of each view."""
        return 4, 4

    def after_step(self, step: int, progress: float) -> None:
        """Update the momentum encoder."""
        self.momentum_encoder.update(self.network, progress)

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. Equation 2, both ways."""
        z = [self.network(view) for view in batch]
        p = gather([F.normalize(self.predictor(each).float(), dim=1) for each in z])
        target = gather([F.normalize(self.momentum_encoder(view).float(), dim=1) for view in batch])
        loss = regression(p[0], target[1]) + regression(p[1], target[0])
        return {"loss": loss, "spread": spread(torch.cat(gather([each.detach() for each in z])))}


def regression(p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of |p - target|^2 = 2 - 2 cos over B pairs of unit vectors, float32 (B, D) each."""
    return (2 - 2 * (p * target).sum(dim=1)).mean()
