"""NNCLR (Dwibedi et al., ICCV 2021, arXiv 2104.14548): an image agrees with the nearest neighbour of its other view.

Neighbours are looked up among projections of earlier batches; all other images of the batch are negatives.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import View
from pipeline.methods.losses import of_neighbours
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import Queue, mlp, nearest
from pipeline.params.methods import NNCLR as Params


def build(params: Params, encoder: Encoder, seed: int) -> "NNCLR":
    """The method around an encoder, its projector, predictor and queue freshly initialised."""
    with seeds.scope(seed, "projector"):
        return NNCLR(params, encoder, seeds.generator(seed, "queue"))


class NNCLR(nn.Module):
    """Encoder, a projector of three layers that ends in batch normalisation, a predictor, a queue of projections."""

    views = (View(recipe=0), View(recipe=1))
    passes = (3, 3)

    def __init__(self, params: Params, encoder: Encoder, draw: torch.Generator):
        super().__init__()
        self.temperature = params.temperature
        self.encoder = encoder
        out = params.output_dim
        self.projector = nn.Sequential(
            *mlp(encoder.width, params.hidden_dim, params.hidden_dim, out, norm=True), nn.BatchNorm1d(out)
        )
        self.predictor = mlp(out, params.predictor_dim, out, norm=True)
        self.queue = Queue(1, params.queue_size, out, draw)

    def phases(self) -> list[Phase]:
        """One player: all parameters."""
        return [Phase(groups_of(self), self.loss)]

    def before_step(self, step: int, progress: float) -> None:
        """Nothing: the queue grows with the loss."""

    def after_step(self, step: int, progress: float) -> None:
        """Nothing: the queue grows with the loss."""

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. Equation 3, halves of both directions; z1 joins after."""
        z = [self.projector(self.encoder(view)) for view in batch]
        p = gather([F.normalize(self.predictor(each).float(), dim=1) for each in z])
        z = gather([F.normalize(each.detach().float(), dim=1) for each in z])
        neighbours = [nearest(each, self.queue.keys[0], 1)[:, 0] for each in z]
        one, two = (of_neighbours(neighbours[i], p[1 - i], self.temperature) for i in (0, 1))
        self.queue.add(z[0][None])
        return {name: (one[name] + two[name]) / 2 for name in one}
