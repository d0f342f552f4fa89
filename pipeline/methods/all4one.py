"""All4One (Estepa et al., ICCV 2023, arXiv 2303.09417): neighbours, what attention makes of them, and decorrelation.

As in solo-learn: a slowly following copy looks for the five nearest of its own earlier projections. One view's nearest
and the other's prediction agree (NNCLR); so do the centroid of one view's five and that of the other's, in which a
prediction has taken the first place; and the two views' features are decorrelated over the batch.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather
from pipeline.engine.loop import Group, Phase, groups_of
from pipeline.methods import View
from pipeline.methods.losses import of_neighbours
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import Follower, Queue, mlp, momentum, nearest
from pipeline.params.methods import All4One as Params

NEIGHBOURS, LAYERS, HEADS = 5, 3, 8
CENTROID_TEMPERATURE, FEATURES = 0.1, 10.0  # of the second term; the weight of the third


def build(params: Params, encoder: Encoder, seed: int) -> "All4One":
    """The method around an encoder, its heads, attention and queue freshly initialised."""
    with seeds.scope(seed, "projector"):
        return All4One(params, encoder, seed)


class All4One(nn.Module):
    """Encoder and projector, a follower of both, two predictors, a Transformer's encoder, a queue of projections."""

    views = (View(recipe=0), View(recipe=1))
    passes = (4, 4)

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__()
        self.params, self.seed = params, seed
        out = params.output_dim
        projector = nn.Sequential(
            *mlp(encoder.width, params.hidden_dim, params.hidden_dim, out, norm=True), nn.BatchNorm1d(out)
        )
        self.network = nn.Sequential(encoder, projector)
        self.follower = Follower(self.network)
        self.predictor, self.shifted = (mlp(out, params.predictor_dim, out, norm=True) for _ in range(2))
        layer = nn.TransformerEncoderLayer(out, HEADS, 2 * out, params.dropout, batch_first=True)
        self.attention = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.queue = Queue(1, params.queue_size, out, seeds.generator(seed, "queue"))
        self.register_buffer("positions", positions(NEIGHBOURS, out), persistent=False)

    def phases(self) -> list[Phase]:
        """One player; attention learns at a rate of its own."""
        usual = [group for part in (self.network, self.predictor, self.shifted) for group in groups_of(part)]
        own = [Group(group.parameters, self.params.attention_rate, group.decay) for group in groups_of(self.attention)]
        return [Phase([*usual, *own], self.loss)]

    def before_step(self, step: int, progress: float) -> None:
        """Nothing: the follower moves after the step."""

    def after_step(self, step: int, progress: float) -> None:
        """The follower follows."""
        tau = momentum(self.params.momentum_start, self.params.momentum_end, progress)
        self.follower.follow(self.network, tau)

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two views, float (B, C, H, W) each. Half of each of three terms; the first view's keys join after."""
        z = [self.network(view) for view in batch]
        p = gather([F.normalize(self.predictor(each).float(), dim=1) for each in z])
        first = gather([self.shifted(each).float() for each in z])
        z = gather([each.float() for each in z])
        keys = gather([F.normalize(self.follower(view).float(), dim=1) for view in batch])
        near = [nearest(each, self.queue.keys[0], NEIGHBOURS) for each in keys]  # B 5 D
        with seeds.scope(self.seed, "dropout", step):  # all rows in every process: one process's masks
            centroids = [self.centroid(each) for each in near]
            moved = [
                self.centroid(torch.cat([one[:, None], five[:, :-1]], dim=1))
                for one, five in zip(first, near, strict=True)
            ]
        neighbours = [of_neighbours(near[i][:, 0], p[1 - i], self.params.temperature) for i in (0, 1)]
        attended = [of_neighbours(centroids[i], moved[1 - i], CENTROID_TEMPERATURE) for i in (0, 1)]
        terms = {
            "neighbours": (neighbours[0]["loss"] + neighbours[1]["loss"]) / 2,
            "centroids": (attended[0]["loss"] + attended[1]["loss"]) / 2,
            "features": FEATURES * decorrelation(keys, z),
        }
        self.queue.add(keys[0][None])
        agreement = (neighbours[0]["agreement"] + neighbours[1]["agreement"]) / 2
        return {"loss": sum(terms.values()) / 2, **terms, "agreement": agreement}

    def centroid(self, sequence: torch.Tensor) -> torch.Tensor:
        """What attention makes of the first of five vectors (B, 5, D): unit vectors, float32 (B, D)."""
        return F.normalize(self.attention(sequence + self.positions)[:, 0].float(), dim=1)


def decorrelation(keys: list[torch.Tensor], z: list[torch.Tensor]) -> torch.Tensor:
    """Half the root mean square of 1 - C_ii and half that of C_ij, i != j, over both directions.

    C: products of one view's keys and the other's projections, float32 (B, D) each, whose columns have length 1.
    """
    with torch.autocast(z[0].device.type, enabled=False):
        found = [F.normalize(keys[i], dim=0).T @ F.normalize(z[1 - i], dim=0) for i in (0, 1)]
    both = torch.stack(found)  # 2 D D
    same = torch.eye(both.shape[1], dtype=torch.bool, device=both.device)
    return ((both[:, same] - 1).square().mean().sqrt() + both[:, ~same].square().mean().sqrt()) / 2


def positions(tokens: int, dim: int) -> torch.Tensor:
    """What is added to the sequence, float32 (tokens, dim): sines and cosines that run along the features.

    solo-learn's encoding takes the tokens for channels and the features for places: token t has at feature x
    sin(x w) if t is even, else cos(x w), w = 10000^(-2 (t // 2) / n), n the even number from `tokens` on.
    """
    rates = 10_000.0 ** (-torch.arange(0, tokens, 2) / (tokens + tokens % 2))
    angles = torch.arange(dim)[None] * rates[:, None]
    return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)[:tokens]
