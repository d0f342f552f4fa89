"""A supervised classifier, from the store or made: judges of generated images and of augmentation, fine-tuned ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.augment import recipes
from pipeline.core import seeds, sources, store, weights
from pipeline.core.devices import sent
from pipeline.data import mixture, shards
from pipeline.data.bank import ImageBank
from pipeline.engine import arithmetic, loop
from pipeline.networks import backbones
from pipeline.params.schema import Compute, Training
from pipeline.training import stored

BACKBONE = backbones.resnet(16, [1, 1, 1, 1])
_FILE = "classifier.safetensors"


class Classifier(nn.Module):
    """An encoder and a linear layer, of its features as they are or standardised over the batch: float (N, C, H, W) in
    [0, 1] -> logits (N, classes)."""

    def __init__(self, encoder: backbones.Encoder, classes: int, standardise: bool = False):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, classes)
        self.norm = nn.BatchNorm1d(encoder.width, affine=False) if standardise else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.encoder(x)))


def plan(steps: int, seed: int) -> Training:
    """The recipe: AdamW, batches of 128, a tenth of the steps to warm up, half a cosine down."""
    return Training(
        steps=steps,
        batch_size=128,
        lr=0.003,
        min_lr=0.0,
        warmup_steps=steps // 10,
        warmup_lr=None,
        weight_decay=0.01,
        log_every=steps,
        checkpoint_every=100,
        seed=seed,
    )


def train(
    what: str, schedule: Training, images: np.ndarray, labels: np.ndarray, recipe: recipes.Recipe, compute: Compute
) -> Classifier:
    """`fit` of a small network that starts from nothing, on labels from 0 on."""
    encoder = backbones.build(BACKBONE, *backbones.statistics(images), schedule.seed)
    return fit(what, encoder, schedule, (images, labels), int(labels.max()) + 1, recipe, compute)


def fit(
    what: str,
    encoder: backbones.Encoder,
    schedule: Training,
    labelled: shards.Part,
    classes: int,
    recipe: recipes.Recipe,
    compute: Compute,
    head_lr: float = 1.0,
    standardise: bool = False,
) -> Classifier:
    """Train all of an encoder and a new linear layer on labelled images augmented by `recipe`; in evaluation mode.

    labelled: uint8 (N, H, W, C) and int64 (N,) in [0, classes); head_lr: the layer's rate, as a multiple of the
    schedule's; standardise: whether it sees features of mean 0 and variance 1 over the batch (of two at least). Where
    there are fewer images than a batch, a batch is all of them. It resumes, or finds the work done.
    """
    parts = tuple(np.ascontiguousarray(part) for part in labelled)
    with seeds.scope(schedule.seed, "classifier"):
        model = Classifier(encoder, classes, standardise).to(compute.device)
    first = [[name, stored.digest(np.atleast_1d(x.cpu().numpy()))] for name, x in model.state_dict().items()]
    decided = {
        "params": schedule.model_dump(),
        "head_lr": head_lr,
        "start": [encoder.card["mean"], encoder.card["std"], first],
        "recipe": vars(recipe),
        "images": [stored.digest(part) for part in parts],
        "code": sources.digest("training/classifier"),
        "arithmetic": arithmetic.facts(compute),
        "versions": backbones.versions(),
    }

    def train_in(folder: Path, fingerprint: str) -> list[str]:
        model.train()
        plan = loop.Optimisation(schedule, lambda groups, lr: torch.optim.AdamW(groups, lr, fused=True))
        task = _task(model, schedule, parts, recipe, head_lr)
        loop.train(what, task, plan, compute, folder, fingerprint)
        weights.save(folder / _FILE, model)
        return [_FILE]

    folder = store.once("classifier", decided, train_in)
    model.load_state_dict(weights.read(folder / _FILE))
    return model.eval()


def _task(
    model: Classifier, schedule: Training, labelled: shards.Part, recipe: recipes.Recipe, head_lr: float
) -> loop.Task:
    """What the loop trains; `head_lr`: the layer's rate, as a multiple of the schedule's."""
    images, labels = labelled
    device = model.head.weight.device
    bank, answers = ImageBank(images, [], device.type), torch.from_numpy(labels).to(device)
    walk = mixture.Mixture(len(images), 0, 1.0, min(schedule.batch_size, len(images)), schedule.seed)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = walk.rows(step)
        draw = seeds.generator(schedule.seed, "classifier views", step)
        (views,) = recipes.views(bank[rows], [recipe], draw)
        return views, answers[sent(torch.from_numpy(rows), device)]

    def loss(batch: tuple[torch.Tensor, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        views, right = batch
        logits = model(views).float()
        return {"loss": F.cross_entropy(logits, right)}

    head = [replace(group, lr_factor=head_lr) for group in loop.groups_of(model.head)]
    return loop.Task([loop.Phase([*loop.groups_of(model.encoder), *head], loss)], batch, {"classifier": model})
