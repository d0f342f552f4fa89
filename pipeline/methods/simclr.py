"""SimCLR (Chen et al., ICML 2020, arXiv 2002.05709): two views of an image agree, all other images are negatives."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import View
from pipeline.methods.losses import nt_xent
from pipeline.networks.backbones import Encoder
from pipeline.params.methods import SimCLR as Params


def build(params: Params, encoder: Encoder, seed: int) -> "SimCLR":
    """The method around an encoder, its projector freshly initialised."""
    with seeds.scope(seed, "projector"):
        return SimCLR(params, encoder)


class SimCLR(nn.Module):
    """Encoder and a projector of two linear layers without normalisation."""

    views = (View(recipe=0), View(recipe=1))
    passes = (3, 3)

    def __init__(self, params: Params, encoder: Encoder):
        super().__init__()
        self.temperature = params.temperature
        self.encoder = encoder
        self.projector = nn.Sequential(
            nn.Linear(encoder.width, params.hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(params.hidden_dim, params.output_dim),
        )

    def phases(self) -> list[Phase]:
        """One player: all parameters against the contrastive loss."""
        return [Phase(groups_of(self), self.loss)]

    def before_step(self, step: int, progress: float) -> None:
        """Nothing: no queue, no average."""

    def after_step(self, step: int, progress: float) -> None:
        """Nothing: no queue, no average."""

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each."""
        z = torch.cat(gather(self.projector(self.encoder(torch.cat(batch))).chunk(2)))  # 2B D
        return nt_xent(F.normalize(z.float(), dim=1), self.temperature)
