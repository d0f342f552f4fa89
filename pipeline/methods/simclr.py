"""SimCLR (Chen et al., ICML 2020, arXiv 2002.05709): two views of an image agree, all other images are negatives."""

import torch
import torch.nn.functional as F

from pipeline.engine.distributed import gather
from pipeline.methods import Method
from pipeline.methods.losses import nt_xent
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import mlp
from pipeline.params.methods import SimCLR as Params


class SimCLR(Method):
    """Encoder and a projector of two linear layers without normalisation."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        self.projector = mlp(encoder.width, params.hidden_dim, params.output_dim, norm=False)

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each."""
        if self.params.views_together:
            z = self.network(torch.cat(batch)).chunk(2)
        else:
            z = [self.network(view) for view in batch]
        z = torch.cat(gather([view.float() for view in z]))  # 2B D
        return nt_xent(F.normalize(z, dim=1), self.params.temperature)
