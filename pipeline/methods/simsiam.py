"""SimSiam (Chen and He, CVPR 2021, arXiv 2011.10566): BYOL without a momentum encoder; the target has no gradient."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from pipeline.engine.distributed import gather
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import Method
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import mlp, normalised_mlp, spread
from pipeline.params.methods import SimSiam as Params


class SimSiam(Method):
    """Encoder, a projector of three layers that ends in batch normalisation, and a predictor with a bottleneck."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        hidden, out = params.hidden_dim, params.output_dim
        self.projector = normalised_mlp(encoder.width, hidden, hidden, out, affine=False)
        self.predictor = mlp(out, params.predictor_dim, out, norm=True)

    def phases(self) -> list[Phase]:
        """If asked for, the predictor's rate stays where it is, to keep up with the representation (paper, 4.2)."""
        constant = self.params.constant_predictor
        predictor = [replace(group, constant=constant) for group in groups_of(self.predictor)]
        return [Phase([*groups_of(self.network), *predictor], self.loss)]

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. Equation 4: half of -cos(p, stop-gradient(z)), both ways."""
        z = [self.network(view) for view in batch]
        p = gather([self.predictor(each).float() for each in z])
        z = gather([each.detach() for each in z])
        target = [each.float() for each in z]
        cosine = F.cosine_similarity(p[0], target[1]).mean() + F.cosine_similarity(p[1], target[0]).mean()
        return {"loss": -cosine / 2, "spread": spread(torch.cat(z))}
