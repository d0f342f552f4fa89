"""DINO (Caron et al., ICCV 2021, arXiv 2104.14294): a student predicts its teacher's distribution over K outputs.

The teacher is a momentum encoder. Centring keeps it from giving one output to all images; sharpening keeps it from
giving all outputs to each image. Only the student sees small crops.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.engine.distributed import gather
from pipeline.engine.loop import Group, Phase, groups_of
from pipeline.methods import MomentumMethod, multi_crop_views
from pipeline.methods.losses import cross_prediction
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import MomentumEncoder, multi_crop
from pipeline.params.methods import DINO as Params


class Head(nn.Module):
    """Three layers with GELU between them, normalisation to unit length, and a layer with normalised rows.

    Weights as in the authors' code: truncated normal, biases 0; the last layer has torch's defaults. The deviation of
    0.02 fits 2048 hidden features; a narrower head gets a larger one, or three layers would leave nothing of the input.
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


class DINO(MomentumMethod):
    """Student (encoder and head), teacher (the momentum encoder of both), and the centre of the teacher's scores.

    The student's last layer has no gradient in the first `freeze_steps` steps, so neither decay nor momentum moves it.
    """

    def __init__(self, params: Params, encoder: Encoder, seed: int):
        super().__init__(params, encoder, seed)
        self.views = multi_crop_views(params)
        self.projector = Head(encoder.width, params.hidden_dim, params.bottleneck_dim, params.output_dim)
        self.momentum_encoder = MomentumEncoder(self.network, params.momentum_start, params.momentum_end)
        self.register_buffer("center", torch.zeros(params.output_dim))
        self.seen: list[torch.Tensor] = []  # the teacher's mean scores in this step, which move the centre after it

    def phases(self) -> list[Phase]:
        """The last layer is a separate group: fused optimizers want gradients for all or none of a group."""
        usual = groups_of(self.encoder) + groups_of(self.projector.layers)
        return [Phase([*usual, Group([self.projector.last.weight])], self.loss)]

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """batch: two large views, then the small ones, float (B, C, h, w) each. The centre moves after the step."""
        params = self.params
        student = self.projector(multi_crop(self.encoder, batch), frozen=step < params.freeze_steps)
        student = gather(student.chunk(len(batch)))
        teacher = gather(self.momentum_encoder(torch.cat(batch[:2])).chunk(2))
        sharp = teacher_temperature(params, step)
        targets = [((scores - self.center) / sharp).softmax(dim=1) for scores in teacher]
        self.seen.append(torch.cat(teacher).mean(dim=0))
        return distillation(student, targets, params.temperature)

    def after_step(self, step: int, progress: float) -> None:
        """Update the teacher, and move the centre (equation 4)."""
        super().after_step(step, progress)
        if self.seen:
            self.center.lerp_(torch.stack(self.seen).mean(dim=0), 1 - self.params.center_momentum)
            self.seen.clear()


def teacher_temperature(params: Params, step: int) -> float:
    """Linear from `teacher_temperature_start` to `_end` over the first `teacher_warmup_steps` steps."""
    done = min(1.0, step / params.teacher_warmup_steps) if params.teacher_warmup_steps else 1.0
    return params.teacher_temperature_start + done * (params.teacher_temperature_end - params.teacher_temperature_start)


def distillation(
    student: list[torch.Tensor], targets: list[torch.Tensor], temperature: float
) -> dict[str, torch.Tensor]:
    """`cross_prediction` of the student's scores, float32 (B, K), and the teacher's distributions (B, K) of some views.

    Also gives the targets' entropy over ln K ("entropy") and the Kullback-Leibler divergence of the student from them
    ("divergence"): a collapsed teacher has entropy 0 or 1, and then the divergence goes to 0 (section 5.3).
    """
    loss = cross_prediction(student, targets, temperature)
    together = torch.cat(targets)
    entropy = torch.special.entr(together).sum(dim=1).mean()
    return {"loss": loss, "entropy": entropy / math.log(together.shape[1]), "divergence": loss.detach() - entropy}
