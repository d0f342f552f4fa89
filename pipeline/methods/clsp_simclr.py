"""CLSP on SimCLR (Zeng et al., ECCV 2024, arXiv 2408.16965): an image is also pulled towards a generated positive.

As in train_simclr_clsp.py of github.com/dewenzeng/clsp@91c8f9e: SimCLR between two views of the image, plus lambda
times the distance between the first view and a view of a candidate. The gradient reaches both. Candidates are never
negatives. The control uses a third view of the image itself in place of the candidate.
"""

import torch

from pipeline.methods import third_view
from pipeline.methods.losses import nt_xent, unit_rows, with_alignment
from pipeline.methods.simclr import SimCLR
from pipeline.networks.backbones import Encoder
from pipeline.params.methods import CLSPSimCLR as Params


class CLSPSimCLR(SimCLR):
    """SimCLR with a third view; all three pass the network together."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        self.views = (*SimCLR.views, third_view(params))

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views and a third, float (B, C, H, W) each."""
        z = unit_rows(self.network(torch.cat(batch)).chunk(3))
        return with_alignment(nt_xent(torch.cat(z[:2]), self.params.temperature), z[0], z[2], self.params.alignment)
