"""SwAV (Caron et al., NeurIPS 2020, arXiv 2006.09882): a view predicts which prototypes another view belongs to.

These codes are balanced over the batch, so that no prototype takes all. Small crops predict and are not predicted.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather
from pipeline.engine.loop import Group, Phase, groups_of
from pipeline.methods import View
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import Queue, mlp, multi_crop
from pipeline.params.methods import SwAV as Params


def build(params: Params, encoder: Encoder, seed: int) -> "SwAV":
    """The method around an encoder, its projector, prototypes and queue freshly initialised."""
    with seeds.scope(seed, "projector"):
        return SwAV(params, encoder, seeds.generator(seed, "queue"))


class SwAV(nn.Module):
    """Encoder, projector, prototypes that are unit vectors at every step, a queue of earlier projections a large view.

    The queue fills from the first step on; codes are balanced over it, too, once it is full and from `queue_start` on.
    Prototypes have no gradient in the first `freeze_steps` steps: neither decay nor momentum moves them.
    """

    def __init__(self, params: Params, encoder: Encoder, draw: torch.Generator):
        super().__init__()
        small = View(recipe=1, size=params.small_size, crop=(params.small_crop_min, params.small_crop_max))
        self.views = (View(recipe=0), View(recipe=1), *[small] * params.small_views)
        self.passes = (3,) * len(self.views)
        self.params, self.encoder = params, encoder
        self.projector = mlp(encoder.width, params.hidden_dim, params.output_dim, norm=True)
        self.prototypes = nn.Linear(params.output_dim, params.prototypes, bias=False)
        self.normalise()
        self.queue = Queue(2, params.queue_size, params.output_dim, draw) if params.queue_size else None

    def phases(self) -> list[Phase]:
        """One player; prototypes are a group of their own, for fused optimisers want all of one begun."""
        usual = [group for part in (self.encoder, self.projector) for group in groups_of(part)]
        return [Phase([*usual, Group([self.prototypes.weight])], self.loss)]

    def before_step(self, step: int, progress: float) -> None:
        """Nothing: prototypes are normalised after the step that moved them."""

    def after_step(self, step: int, progress: float) -> None:
        """The prototypes, if they moved, become unit vectors again; to do so twice can change their last bits."""
        if step >= self.params.freeze_steps:
            self.normalise()

    @torch.no_grad()
    def normalise(self) -> None:
        """Give every prototype length 1."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two large views, then the small ones, float (B, C, h, w) each. Projections join the queue after."""
        params, prototypes = self.params, self.prototypes.weight  # K D
        if step < params.freeze_steps:
            prototypes = prototypes.detach()
        z = self.projector(multi_crop(self.encoder, batch)).float()
        z = gather(F.normalize(z, dim=1).chunk(len(batch)))
        full = step * len(z[0]) >= params.queue_size
        with torch.autocast(z[0].device.type, enabled=False):  # which would round the similarities to bf16
            scores = [each @ prototypes.T for each in z]  # B K
            rows = scores[:2]
            if self.queue is not None and full and step >= params.queue_start:
                rows = [torch.cat([rows[i], self.queue.keys[i] @ prototypes.T]) for i in (0, 1)]
        codes = [sinkhorn(each, params.epsilon, params.iterations)[: len(z[0])] for each in rows]
        if self.queue is not None:
            self.queue.add(torch.stack(z[:2]))
        return {"loss": swapped_prediction(scores, codes, params.temperature), **usage(torch.cat(codes))}


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """Codes of N rows, equation 5: N times Q = Diag(u) exp(scores / epsilon) Diag(v), float32 (N, K).

    u and v by turns give every prototype 1 / K in all and every row 1 / N; rows last, so that each code sums to 1. In
    logarithms, so that no epsilon lets exp overflow; constant factors, which the next turn would undo, are left out.
    scores: float32 (N, K).
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(dim=0, keepdim=True)
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q.exp()


def swapped_prediction(scores: list[torch.Tensor], codes: list[torch.Tensor], temperature: float) -> torch.Tensor:
    """Equations 1 and 2, with small crops equation 6: mean over all pairs of a code and another view that predicts it.

    scores: float32 (B, K) of every view; codes: (B, K) of the first ones. -sum_k code_k log softmax(score / t)_k.
    """
    pairs = [(i, v) for i in range(len(codes)) for v in range(len(scores)) if v != i]
    return sum(F.cross_entropy(scores[v] / temperature, codes[i]) for i, v in pairs) / len(pairs)


def usage(codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """The entropy of the mean of codes (N, K) over ln K ("entropy": 1 if all prototypes are used alike), and how many
    prototypes are some code's largest, as a share of the most that could be ("used")."""
    n, k = codes.shape
    entropy = torch.special.entr(codes.mean(dim=0)).sum() / math.log(k)
    largest = codes.new_zeros(k).index_fill(0, codes.argmax(dim=1), 1)
    return {"entropy": entropy, "used": largest.sum() / min(n, k)}
