"""MoCo v2 (He et al., CVPR 2020, arXiv 1911.05722; Chen et al., arXiv 2003.04297), symmetric, as in solo-learn.

The negatives are keys of earlier batches, computed by a momentum encoder.
"""

import torch

from pipeline.core import seeds
from pipeline.methods import MomentumMethod
from pipeline.methods.losses import info_nce, symmetric, unit_rows
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import MomentumEncoder, Queue, mlp
from pipeline.params.methods import MoCo as Params


class MoCo(MomentumMethod):
    """Encoder and projector, the momentum encoder of both, and a queue of its keys for each of the two views."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        self.projector = mlp(encoder.width, params.hidden_dim, params.output_dim, norm=False)
        self.momentum_encoder = MomentumEncoder(self.network, params.momentum_start, params.momentum_end)
        self.queue = Queue(2, params.queue_size, params.output_dim, seeds.generator(seed, "queue"))

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each."""
        return self.contrast(unit_rows(map(self.network, batch)), batch)

    def contrast(self, queries: list[torch.Tensor], batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """InfoNCE of the first two views in both directions. Their keys join the queues after the step.

        queries: unit vectors, float32 (B, D), of each view.
        """
        keys = unit_rows(map(self.momentum_encoder, batch[:2]))
        queues, temperature = self.queue.keys, self.params.temperature
        found = symmetric(lambda i, j: info_nce(queries[i], keys[j], queues[j], temperature))
        self.queue.add(torch.stack(keys))
        return found

    def after_step(self, step: int, progress: float) -> None:
        """Update the momentum encoder, and let the keys of the step join the queues."""
        super().after_step(step, progress)
        self.queue.advance()
