"""CLSP on SimCLR (Zeng et al., ECCV 2024, arXiv 2408.16965): a generated positive is drawn to an image.

As in train_simclr_clsp.py of github.com/dewenzeng/clsp@91c8f9e: SimCLR between two views of the image, and lambda times
the distance of the first and a view of one of the image's candidates, with gradient in both. Candidates are nobody's
negatives. The control takes a third view of the image itself in the candidate's place.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import View
from pipeline.methods.losses import alignment, nt_xent
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import mlp
from pipeline.params.methods import CLSPSimCLR as Params


def build(params: Params, encoder: Encoder, seed: int) -> "CLSPSimCLR":
    """The method around an encoder, its projector freshly initialised."""
    with seeds.scope(seed, "projector"):
        return CLSPSimCLR(params, encoder)


class CLSPSimCLR(nn.Module):
    """Encoder and a projector of two linear layers without normalisation; all three views go through them at once."""

    passes = (3, 3, 3)

    def __init__(self, params: Params, encoder: Encoder):
        super().__init__()
        self.params = params
        third = {"candidate": "positive", "augmented": "anchor"}[params.third_view]
        self.views = (View(recipe=0), View(recipe=1), View(source=third, recipe=1))
        self.network = nn.Sequential(encoder, mlp(encoder.width, params.hidden_dim, params.output_dim, norm=False))

    def phases(self) -> list[Phase]:
        """One player: all parameters."""
        return [Phase(groups_of(self), self.loss)]

    def before_step(self, step: int, progress: float) -> None:
        """Nothing: no queue, no average."""

    def after_step(self, step: int, progress: float) -> None:
        """Nothing: no queue, no average."""

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views and a third, float (B, C, H, W) each."""
        f = gather([F.normalize(z.float(), dim=1) for z in self.network(torch.cat(batch)).chunk(3)])
        contrast, distance = nt_xent(torch.cat(f[:2]), self.params.temperature), alignment(f[0], f[2])
        loss = contrast["loss"] + self.params.alignment * distance
        return {"loss": loss, "contrast": contrast["loss"], "alignment": distance, "agreement": contrast["agreement"]}
