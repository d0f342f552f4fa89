"""All4One (Estepa et al., ICCV 2023, arXiv 2303.09417): neighbours, their centroids by attention, decorrelation.

As in solo-learn, a momentum encoder finds the five nearest of its earlier projections. Three terms are minimised: the
nearest neighbour of one view agrees with the prediction of the other (NNCLR); the centroid of one view's neighbours
agrees with that of the other's, in which a prediction replaces the first; the two views' features are decorrelated.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather, of_part
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import MomentumMethod
from pipeline.methods.losses import of_neighbours, symmetric, unit_rows
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import MomentumEncoder, Queue, mlp, nearest, normalised_mlp
from pipeline.params.methods import All4One as Params

NEIGHBOURS, LAYERS, HEADS = 5, 3, 8
CENTROID_TEMPERATURE, FEATURES = 0.1, 10.0  # of the second term; the weight of the third


class All4One(MomentumMethod):
    """Encoder and projector, their momentum encoder, two predictors, a Transformer encoder, a queue of projections."""

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        hidden, out = params.hidden_dim, params.output_dim
        self.projector = normalised_mlp(encoder.width, hidden, hidden, out)
        self.momentum_encoder = MomentumEncoder(self.network, params.momentum_start, params.momentum_end)
        self.predictor, self.shifted = (mlp(out, params.predictor_dim, out, norm=True) for _ in range(2))
        layer = nn.TransformerEncoderLayer(out, HEADS, 2 * out, params.dropout, batch_first=True)
        self.attention = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.queue = Queue(1, params.queue_size, out, seeds.generator(seed, "queue"))
        self.register_buffer("positions", positions(NEIGHBOURS, out), persistent=False)

    def phases(self) -> list[Phase]:
        """Attention has a learning rate of its own."""
        usual = [group for part in (self.network, self.predictor, self.shifted) for group in groups_of(part)]
        attention = [replace(group, lr_factor=self.params.attention_rate) for group in groups_of(self.attention)]
        return [Phase([*usual, *attention], self.loss)]

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. Half the sum of three terms; view 0's keys join the queue."""
        z = [self.network(view) for view in batch]
        p = unit_rows(map(self.predictor, z))
        first = gather([self.shifted(each).float() for each in z])
        z = gather([each.float() for each in z])
        keys = unit_rows(map(self.momentum_encoder, batch))
        near = [nearest(each, self.queue.keys[0], NEIGHBOURS) for each in keys]  # B 5 D
        with seeds.scope(self.seed, "dropout", of_part(step)):  # every process draws the masks of all rows
            centroids = [self.centroid(each) for each in near]
            moved = [
                self.centroid(torch.cat([one[:, None], five[:, :-1]], dim=1))
                for one, five in zip(first, near, strict=True)
            ]
        neighbours = symmetric(lambda i, j: of_neighbours(near[i][:, 0], p[j], self.params.temperature))
        attended = symmetric(lambda i, j: of_neighbours(centroids[i], moved[j], CENTROID_TEMPERATURE))
        terms = {
            "neighbours": neighbours["loss"],
            "centroids": attended["loss"],
            "features": FEATURES * decorrelation(keys, z),
        }
        self.queue.add(keys[0][None])
        return {"loss": sum(terms.values()) / 2, **terms, "agreement": neighbours["agreement"]}

    def after_step(self, step: int, progress: float) -> None:
        """Update the momentum encoder, and let the keys of the step join the queue."""
        super().after_step(step, progress)
        self.queue.advance()

    def centroid(self, sequence: torch.Tensor) -> torch.Tensor:
        """The output of attention at the first of five vectors (B, 5, D): unit vectors, float32 (B, D)."""
        return F.normalize(self.attention(sequence + self.positions)[:, 0].float(), dim=1)


def decorrelation(keys: list[torch.Tensor], z: list[torch.Tensor]) -> torch.Tensor:
    """Half the root mean square of 1 - C_ii and half that of C_ij, i != j, over both directions.

    C: products of one view's keys and the other's projections, float32 (B, D) each, whose columns have length 1.
    """
    with torch.autocast(z[0].device.type, enabled=False):
        found = [F.normalize(keys[i], dim=0).T @ F.normalize(z[1 - i], dim=0) for i in (0, 1)]
    both = torch.stack(found)  # 2 D D
    same = torch.eye(both.shape[1], dtype=torch.bool, device=both.device)
    others = both.square().masked_fill(same, 0).sum() / (len(both) * len(same) * (len(same) - 1))
    return ((both.diagonal(dim1=1, dim2=2) - 1).square().mean().sqrt() + others.sqrt()) / 2


def positions(tokens: int, dim: int) -> torch.Tensor:
    """The encoding that is added to the sequence, float32 (tokens, dim): sines and cosines that run along the features.

    solo-learn's encoding takes the tokens for channels and the features for places: token t has at feature x
    sin(x w) if t is even, else cos(x w), w = 10000^(-2 (t // 2) / n), n the even number from `tokens` on.
    """
    rates = 10_000.0 ** (-torch.arange(0, tokens, 2) / (tokens + tokens % 2))
    angles = torch.arange(dim)[None] * rates[:, None]
    return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)[:tokens]
