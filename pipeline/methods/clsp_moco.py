"""CLSP on MoCo v2 (Zeng et al., ECCV 2024, arXiv 2408.16965): an image is also pulled towards a generated positive.

As in train_moco_clsp.py of github.com/dewenzeng/clsp@91c8f9e: symmetric MoCo between two views of the image, plus
lambda times the distance between the first view and a view of a candidate. Both go through the network, and the
gradient reaches both. Candidates never become keys. The control uses a third view of the image itself in place of the
candidate.
"""

import torch

from pipeline.methods import third_view
from pipeline.methods.losses import unit_rows, with_alignment
from pipeline.methods.moco import MoCo
from pipeline.networks.backbones import Encoder
from pipeline.params.methods import CLSPMoCo as Params


class CLSPMoCo(MoCo):
    """MoCo with a third view."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        self.views = (*MoCo.views, third_view(params))

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views and a third, float (B, C, H, W) each."""
        queries = unit_rows(map(self.network, batch))
        return with_alignment(self.contrast(queries, batch), queries[0], queries[2], self.params.alignment)
