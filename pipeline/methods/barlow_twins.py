"""Barlow Twins (Zbontar et al., ICML 2021, arXiv 2103.03230): two views agree in each feature, features differ."""

import torch

from pipeline.engine.distributed import gather
from pipeline.methods import Method
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import mlp
from pipeline.params.methods import BarlowTwins as Params

_EPSILON = 1e-5  # batch normalisation's, which is how the paper's code standardises


class BarlowTwins(Method):
    """Encoder and a projector of three layers with batch normalisation between them."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        hidden = params.hidden_dim
        self.projector = mlp(encoder.width, hidden, hidden, params.output_dim, norm=True)

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each."""
        one, two = gather([self.network(view).float() for view in batch])
        return barlow_twins(one, two, self.params.redundancy, self.params.scale)


def barlow_twins(one: torch.Tensor, two: torch.Tensor, redundancy: float, scale: float) -> dict[str, torch.Tensor]:
    """Equations 1 and 2, times `scale`: the cross-correlation of the views' features is to be the identity.

    one, two: float32 (B, D). redundancy: the paper's lambda. Also gives both terms before weighing.
    """
    with torch.autocast(one.device.type, enabled=False):  # which would round the correlations to bf16
        correlation = standardised(one).T @ standardised(two) / len(one)  # D D
    diagonal = correlation.diagonal()
    invariance = (diagonal - 1).square().sum()
    redundant = (correlation - correlation.diag().diag()).square().sum()
    loss = scale * (invariance + redundancy * redundant)
    return {"loss": loss, "invariance": invariance.detach(), "redundancy": redundant.detach()}


def standardised(z: torch.Tensor) -> torch.Tensor:
    """Each feature with mean 0 and variance 1 over the batch: (B, D)."""
    centred = z - z.mean(dim=0)
    return centred * (centred.square().mean(dim=0) + _EPSILON).rsqrt()
