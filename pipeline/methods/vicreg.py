"""VICReg (Bardes et al., ICLR 2022, arXiv 2105.04906): two views agree, features vary over the batch and differ."""

import torch
import torch.nn.functional as F

from pipeline.engine.distributed import gather
from pipeline.methods import Method
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import mlp
from pipeline.params.methods import VICReg as Params

DEVIATION, EPSILON = 1.0, 1e-4  # gamma and epsilon of equation 1


class VICReg(Method):
    """Encoder and a projector (the paper's expander) of three layers with batch normalisation between them."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        hidden = params.hidden_dim
        self.projector = mlp(encoder.width, hidden, hidden, params.output_dim, norm=True)

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. Equation 6, a weighted sum; also gives its three terms."""
        one, two = gather([self.network(view).float() for view in batch])
        terms = {
            "invariance": F.mse_loss(one, two),
            "variance": variance(one) + variance(two),
            "covariance": covariance(one) + covariance(two),
        }
        weighted = (getattr(self.params, name) * term for name, term in terms.items())
        return {"loss": sum(weighted), **{name: term.detach() for name, term in terms.items()}}


def variance(z: torch.Tensor) -> torch.Tensor:
    """Equation 1: mean over the features of max(0, gamma - S), S = sqrt(variance over the batch + epsilon).

    z: float32 (B, D).
    """
    return F.relu(DEVIATION - (z.var(dim=0) + EPSILON).sqrt()).mean()


def covariance(z: torch.Tensor) -> torch.Tensor:
    """Equations 3 and 4: the squared covariances of different features, summed up, over D. z: float32 (B, D)."""
    centred = z - z.mean(dim=0)
    with torch.autocast(z.device.type, enabled=False):  # which would round the covariances to bf16
        c = centred.T @ centred / (len(z) - 1)  # D D
    return (c - c.diag().diag()).square().sum() / len(c)
