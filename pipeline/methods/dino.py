"""DINO (Caron et al., ICCV 2021, arXiv 2104.14294): a student predicts its teacher's distribution over K outputs.

The teacher is a slowly following copy. Centring keeps it from one output for all images, sharpening from all outputs
for each. Small crops go through the student alone.
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
from pipeline.networks.heads import Follower, momentum, multi_crop
from pipeline.params.methods import DINO as Params


def build(params: Params, encoder: Encoder, seed: int) -> "DINO":
    """The method around an encoder, its head freshly initialised."""
    with seeds.scope(seed, "projector"):
        return DINO(params, encoder)


class Head(nn.Module):
    """Three layers with GELU between them, their output made a unit vector, and a layer whose rows are normalised.

    Weights as in the authors' code: truncated normal, biases 0; the last layer's as torch has them. Their deviation of
    0.02 is for 2048 hidden features; in a narrower head nothing would be left of the input after three layers.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, out: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.layers[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02 * math.sqrt(2048 / hidden))
            nn.init.zeros_(layer.bias)
        self.last = nn.Linear(bottleneck, out, bias=False)

    def forward(self, x: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        """Features (B, width) -> scores, float32 (B, out); with `frozen` the last layer gets no gradient."""
        x = F.normalize(self.layers(x).float(), dim=1)
        weight = self.last.weight.detach() if frozen else self.last.weight
        with torch.autocast(x.device.type, enabled=False):  # which would round the similarities to bf16
            return x @ F.normalize(weight, dim=1).T  # weight normalisation, its lengths kept at 1


class DINO(nn.Module):
    """Encoder and head, the student; a follower of both, the teacher; the centre of the teacher's scores.

    The student's last layer has no gradient in the first `freeze_steps` steps: neither decay nor momentum moves it.
    """

    def __init__(self, params: Params, encoder: Encoder):
        super().__init__()
        small = View(recipe=1, size=params.small_size, crop=(params.small_crop_min, params.small_crop_max))
        self.views = (View(recipe=0), View(recipe=1), *[small] * params.small_views)
        self.passes = (4, 4, *[3] * params.small_views)
        self.params = params
        head = Head(encoder.width, params.hidden_dim, params.bottleneck_dim, params.output_dim)
        self.network = nn.Sequential(encoder, head)
        self.follower = Follower(self.network)
        self.register_buffer("center", torch.zeros(params.output_dim))

    def phases(self) -> list[Phase]:
        """One player, the student; its last layer is a group of its own, for fused optimisers want all of one begun."""
        encoder, head = self.network
        usual = [group for part in (encoder, head.layers) for group in groups_of(part)]
        return [Phase([*usual, Group([head.last.weight])], self.loss)]

    def before_step(self, step: int, progress: float) -> None:
        """Nothing: the teacher moves after the step."""

    def after_step(self, step: int, progress: float) -> None:
        """The teacher follows."""
        tau = momentum(self.params.momentum_start, self.params.momentum_end, progress)
        self.follower.follow(self.network, tau)

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two large views, then the small ones, float (B, C, h, w) each. The centre moves after."""
        params = self.params
        encoder, head = self.network
        student = head(multi_crop(encoder, batch), frozen=step < params.freeze_steps)
        student = gather(student.chunk(len(batch)))
        teacher = gather(self.follower(torch.cat(batch[:2])).chunk(2))
        sharp = teacher_temperature(params, step)
        targets = [((scores - self.center) / sharp).softmax(dim=1) for scores in teacher]
        self.center.lerp_(torch.cat(teacher).mean(dim=0), 1 - params.center_momentum)  # equation 4
        return distillation(student, targets, params.temperature)


def teacher_temperature(params: Params, step: int) -> float:
    """In a straight line from `teacher_temperature_start` to `_end` in the first `teacher_warmup_steps` steps."""
    done = min(1.0, step / params.teacher_warmup_steps) if params.teacher_warmup_steps else 1.0
    return params.teacher_temperature_start + done * (params.teacher_temperature_end - params.teacher_temperature_start)


def distillation(
    student: list[torch.Tensor], targets: list[torch.Tensor], temperature: float
) -> dict[str, torch.Tensor]:
    """Equation 3: mean over all pairs of a target and another view that predicts it, -sum_k p_k log softmax(s / t)_k.

    student: scores, float32 (B, K), of every view; targets: the teacher's distributions (B, K) of the first ones. Also
    gives the targets' entropy over ln K ("entropy") and how far the student is from them ("divergence", Kullback and
    Leibler's): a collapsed teacher has entropy 0 or 1, and then divergence goes to 0 (section 5.3).
    """
    pairs = [(i, v) for i in range(len(targets)) for v in range(len(student)) if v != i]
    loss = sum(F.cross_entropy(student[v] / temperature, targets[i]) for i, v in pairs) / len(pairs)
    together = torch.cat(targets)
    entropy = torch.special.entr(together).sum(dim=1).mean()
    return {"loss": loss, "entropy": entropy / math.log(together.shape[1]), "divergence": loss.detach() - entropy}
