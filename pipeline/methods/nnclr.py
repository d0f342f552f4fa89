"""NNCLR (Dwibedi et al., ICCV 2021, arXiv 2104.14548): an image agrees with the nearest neighbour of its other view.

Neighbours are looked up among projections of earlier batches; all other images of the batch are negatives.
"""

import torch

from pipeline.core import seeds
from pipeline.methods import Method
from pipeline.methods.losses import of_neighbours, symmetric, unit_rows
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import Queue, mlp, nearest, normalised_mlp
from pipeline.params.methods import NNCLR as Params


class NNCLR(Method):
    """Encoder, a projector of three layers that ends in batch normalisation, a predictor, a queue of projections."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        hidden, out = params.hidden_dim, params.output_dim
        self.projector = normalised_mlp(encoder.width, hidden, hidden, out)
        self.predictor = mlp(out, params.predictor_dim, out, norm=True)
        self.queue = Queue(1, params.queue_size, out, seeds.generator(seed, "queue"))

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. Equation 3, mean of both ways; view 0 joins the queue."""
        z = [self.network(view) for view in batch]
        p = unit_rows(map(self.predictor, z))
        z = unit_rows(each.detach() for each in z)
        neighbours = [nearest(each, self.queue.keys[0], 1)[:, 0] for each in z]
        found = symmetric(lambda i, j: of_neighbours(neighbours[i], p[j], self.params.temperature))
        self.queue.add(z[0][None])
        return found

    def after_step(self, step: int, progress: float) -> None:
        """Let the projections of the step join the queue."""
        self.queue.advance()
