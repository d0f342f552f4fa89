"""MoCo v2 (He et al., CVPR 2020, arXiv 1911.05722; Chen et al., arXiv 2003.04297), symmetric, as in solo-learn.

The negatives are keys of earlier batches, made by a slowly following copy of the network.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import View
from pipeline.methods.losses import info_nce
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import Follower, Queue, mlp, momentum
from pipeline.params.methods import MoCo as Params


def build(params: Params, encoder: Encoder, seed: int) -> "MoCo":
    """The method around an encoder, its projector and queues freshly initialised."""
    with seeds.scope(seed, "projector"):
        return MoCo(params, encoder, seeds.generator(seed, "queue"))


class MoCo(nn.Module):
    """Encoder and projector, a follower of both, and a queue of the follower's keys for each view."""

    views = (View(recipe=0), View(recipe=1))
    passes = (4, 4)

    def __init__(self, params: Params, encoder: Encoder, draw: torch.Generator):
        super().__init__()
        self.params = params
        self.network = nn.Sequential(encoder, mlp(encoder.width, params.hidden_dim, params.output_dim, norm=False))
        self.follower = Follower(self.network)
        self.queue = Queue(2, params.queue_size, params.output_dim, draw)

    def phases(self) -> list[Phase]:
        """One player: the network, not its follower."""
        return [Phase(groups_of(self.network), self.loss)]

    def before_step(self, step: int, progress: float) -> None:
        """Nothing: the follower moves after the step."""

    def after_step(self, step: int, progress: float) -> None:
        """The follower follows."""
        tau = momentum(self.params.momentum_start, self.params.momentum_end, progress)
        self.follower.follow(self.network, tau)

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. The queues hold the keys of earlier batches; these join after."""
        queries = gather([F.normalize(self.network(view).float(), dim=1) for view in batch])
        keys = gather([F.normalize(self.follower(view).float(), dim=1) for view in batch])
        one, two = (info_nce(queries[i], keys[1 - i], self.queue.keys[1 - i], self.params.temperature) for i in (0, 1))
        self.queue.add(torch.stack(keys))
        return {name: (one[name] + two[name]) / 2 for name in one}
