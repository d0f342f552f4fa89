"""A linear layer that learns the train images' labels while the encoder learns without them (solo-learn's online head).

It sees the features of the large views that are not a method's positives, as the method's passes make them; a view in
which `augment.replace` shows another image counts as the image that it stands for. Its gradient stops there: the
encoder is the same, bit for bit, with and without it. It is logged, and nothing is chosen by it.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.core.devices import sent
from pipeline.engine import distributed
from pipeline.engine.loop import Phase, groups_of
from pipeline.methods import View
from pipeline.networks.backbones import Encoder

UNLABELLED = -1


class OnlineHead(nn.Module):
    """The layer, and a record of the features that the encoder made in training mode."""

    def __init__(self, encoder: Encoder, views: tuple[View, ...], classes: int, seed: int):
        super().__init__()
        large = [view.size is None and view.recipe is not None and view.source == "anchor" for view in views]
        self.large = large.count(True)  # the first ones
        with seeds.scope(seed, "online head"):
            self.layer = nn.Linear(encoder.width, classes)
        self.seen: list[torch.Tensor] = []
        encoder.register_forward_hook(self._record)

    def _record(self, encoder: nn.Module, _: object, features: torch.Tensor) -> None:
        if encoder.training:
            self.seen.append(features.detach())

    def beside(self, phase: Phase, labels: Callable[[int], torch.Tensor], lr_factor: float) -> Phase:
        """A method's phase with this layer learning in it, without weight decay, at `lr_factor` times its rate.

        labels(step) -> int64 (B,), those of the whole batch, UNLABELLED where there is none.
        """

        def loss(batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
            self.seen.clear()
            found = phase.loss(batch, step)
            own, right = self.loss(labels(step))
            # The value of the method's loss, and the gradients of both.
            both = found["loss"] + (own - own.detach())
            return {**found, "loss": both, "online_loss": own.detach(), "online_agreement": right}

        own = [replace(group, lr_factor=lr_factor, decay=False) for group in groups_of(self)]
        return replace(phase, groups=[*phase.groups, *own], loss=loss)

    @torch.no_grad()
    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Classes, int64 (N,), of features (N, width) on the CPU."""
        return self.layer(features.to(self.layer.weight.device)).argmax(dim=1).cpu()

    def loss(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy and accuracy of the large views that were seen last, of all labelled rows of the batch (B,).

        Of a batch in parts, the part's share of both, so that their mean over the parts is that of the batch.
        """
        rows = labels[distributed.of_part(0) :: distributed.parts()]  # of all processes
        features = torch.cat(self.seen)[: self.large * len(rows) // distributed.size()]
        self.seen.clear()
        logits = torch.cat(distributed.gather(self.layer(features).float().chunk(self.large)))
        answers = sent(rows.repeat(self.large), logits.device)
        known = int((labels != UNLABELLED).sum()) or 1  # a batch of generated images alone has no label
        n = self.large * known / distributed.parts()
        right = (logits.detach().argmax(dim=1) == answers).sum() / n
        return F.cross_entropy(logits, answers, ignore_index=UNLABELLED, reduction="sum") / n, right
