"""SwAV (Caron et al., NeurIPS 2020, arXiv 2006.09882): a view predicts which prototypes another view belongs to.

These codes are balanced over the batch, so that no prototype takes all. Small crops only predict.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.engine.distributed import gather, parts
from pipeline.engine.loop import Group, Phase, groups_of
from pipeline.methods import Method, multi_crop_views
from pipeline.methods.losses import cross_prediction
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import Queue, mlp, multi_crop
from pipeline.params.methods import SwAV as Params


class SwAV(Method):
    """Encoder, projector, prototypes of unit length, and a queue of earlier projections for each large view.

    The queue fills from the first step on. Once it is full, and from step `queue_start` on, codes are balanced over it
    as well. Prototypes have no gradient in the first `freeze_steps` steps, so neither decay nor momentum moves them.
    """

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        self.views = multi_crop_views(params)
        self.projector = mlp(encoder.width, params.hidden_dim, params.output_dim, norm=True)
        self.prototypes = nn.Linear(params.output_dim, params.prototypes, bias=False)
        self.normalise()
        self.queue = None
        if params.queue_size:
            self.queue = Queue(2, params.queue_size, params.output_dim, seeds.generator(seed, "queue"))

    def phases(self) -> list[Phase]:
        """Prototypes are a separate group: fused optimizers want gradients for all or none of a group."""
        usual = groups_of(self.encoder) + groups_of(self.projector)
        return [Phase([*usual, Group([self.prototypes.weight])], self.loss)]

    def after_step(self, step: int, progress: float) -> None:
        """Normalise the prototypes again if they moved, and let the step's projections join the queue.

        A second normalisation could change the prototypes' last bits.
        """
        if step >= self.params.freeze_steps:
            self.normalise()
        if self.queue is not None:
            self.queue.advance()

    @torch.no_grad()
    def normalise(self) -> None:
        """Give every prototype length 1."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two large views, then the small ones, float (B, C, h, w) each. Projections join the queue."""
        params, prototypes = self.params, self.prototypes.weight  # K D
        if step < params.freeze_steps:
            prototypes = prototypes.detach()
        z = self.projector(multi_crop(self.encoder, batch)).float()
        z = gather(F.normalize(z, dim=1).chunk(len(batch)))
        full = step * parts() * len(z[0]) >= params.queue_size
        with torch.autocast(z[0].device.type, enabled=False):  # which would round the similarities to bf16
            scores = [each @ prototypes.T for each in z]  # B K
            rows = scores[:2]
            if self.queue is not None and full and step >= params.queue_start:
                rows = [torch.cat([rows[i], self.queue.keys[i] @ prototypes.T]) for i in (0, 1)]
        codes = [sinkhorn(each, params.epsilon, params.iterations)[: len(z[0])] for each in rows]
        if self.queue is not None:
            self.queue.add(torch.stack(z[:2]))
        return {"loss": cross_prediction(scores, codes, params.temperature), **usage(torch.cat(codes))}


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """Codes of N rows, equation 5: N times Q = Diag(u) exp(scores / epsilon) Diag(v), float32 (N, K).

    Columns and rows are normalised in turn, rows last, so that each code sums to 1. Logarithms keep exp from
    overflowing. Constant factors, which the next turn would undo, are left out. scores: float32 (N, K).
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(dim=0, keepdim=True)
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q.exp()


def usage(codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """How evenly codes (N, K) use the prototypes.

    "entropy": of their mean, over ln K, 1 if all are used alike. "used": how many prototypes are the largest entry of
    some code, as a share of the most that could be.
    """
    n, k = codes.shape
    entropy = torch.special.entr(codes.mean(dim=0)).sum() / math.log(k)
    largest = codes.new_zeros(k).index_fill(0, codes.argmax(dim=1), 1)
    return {"entropy": entropy, "used": largest.sum() / min(n, k)}
