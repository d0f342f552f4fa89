"""CLSP on SimCLR (Zeng et al., ECCV 2024, arXiv 2408.16965): an image is also pulled towards a generated positive.

As in train_simclr_clsp.py of github.com/dewenzeng/clsp@91c8f9e: SimCLR between two views of the image, plus lambda
times the distance between the first view and a view of a candidate. The gradient reaches both. Candidates are never
negatives. The control uses a third view of the image itself in place of the candidate.
"""

import torch
import torch.nn.functional as F

from pipeline.engine.distributed import gather
from pipeline.methods import View
from pipeline.methods.losses import alignment, nt_xent
from pipeline.methods.simclr import SimCLR
from pipeline.networks.backbones import Encoder
from pipeline.params.methods import CLSPSimCLR as Params


class CLSPSimCLR(SimCLR):
    """SimCLR with a third view; all three pass the network together."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        third = {"candidate": "positive", "augmented": "anchor"}[params.third_view]
        self.views = (*SimCLR.views, View(source=third, recipe=1))

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views and a third, float (B, C, H, W) each."""
        z = gather([F.normalize(z.float(), dim=1) for z in self.network(torch.cat(batch)).chunk(3)])
        contrast, distance = nt_xent(torch.cat(z[:2]), self.params.temperature), alignment(z[0], z[2])
        loss = contrast["loss"] + self.params.alignment * distance
        return {"loss": loss, "contrast": contrast["loss"], "alignment": distance, "agreement": contrast["agreement"]}
