"""CLSP on MoCo v2 (Zeng et al., ECCV 2024, arXiv 2408.16965): a generated positive is drawn to an image.

As in train_moco_clsp.py of github.com/dewenzeng/clsp@91c8f9e: symmetric MoCo between two views of the image, and lambda
times the distance of the first and a view of one of the image's candidates, both of the network, with gradient in both.
No key is made of a candidate. The control takes a third view of the image itself in the candidate's place.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import View
from pipeline.methods.losses import alignment, info_nce
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import Follower, Queue, mlp, momentum
from pipeline.params.methods import CLSPMoCo as Params


def build(params: Params, encoder: Encoder, seed: int) -> "CLSPMoCo":
    """The method around an encoder, its projector and queues freshly initialised."""
    with seeds.scope(seed, "projector"):
        return CLSPMoCo(params, encoder, seeds.generator(seed, "queue"))


class CLSPMoCo(nn.Module):
    """Encoder and projector, a follower of both, and a queue of the follower's keys for each of the first two views."""

    passes = (4, 4, 3)

    def __init__(self, params: Params, encoder: Encoder, draw: torch.Generator):
        super().__init__()
        self.params = params
        third = {"candidate": "positive", "augmented": "anchor"}[params.third_view]
        self.views = (View(recipe=0), View(recipe=1), View(source=third, recipe=1))
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
        """batch: two views and a third, float (B, C, H, W) each. The keys of the first two join the queues after."""
        q = gather([F.normalize(self.network(view).float(), dim=1) for view in batch])
        keys = gather([F.normalize(self.follower(view).float(), dim=1) for view in batch[:2]])
        one, two = (info_nce(q[i], keys[1 - i], self.queue.keys[1 - i], self.params.temperature) for i in (0, 1))
        self.queue.add(torch.stack(keys))
        contrast, agreement = ((one[name] + two[name]) / 2 for name in ("loss", "agreement"))
        distance = alignment(q[0], q[2])
        loss = contrast + self.params.alignment * distance
        return {"loss": loss, "contrast": contrast, "alignment": distance, "agreement": agreement}
