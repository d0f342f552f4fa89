"""A supervised classifier, from the store or made: the judges of generated images and of augmentation are such."""

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline import augment, backbones, files, inflation, loop, seeds, shards, store
from pipeline.params.schema import Backbone, Compute, Training

BACKBONE = Backbone(width=16, blocks=[1, 1, 1, 1])
_FILE = "classifier.safetensors"


class Classifier(nn.Module):
    """An encoder and a linear layer: float (N, C, H, W) in [0, 1] -> logits (N, classes)."""

    def __init__(self, encoder: backbones.Encoder, classes: int):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))


def plan(steps: int, seed: int) -> Training:
    """The recipe: AdamW, batches of 128, a tenth of the steps to warm up, half a cosine down."""
    return Training(
        steps=steps,
        batch_size=128,
        lr=0.003,
        warmup_steps=steps // 10,
        weight_decay=0.01,
        log_every=steps,
        checkpoint_every=100,
        seed=seed,
    )


def train(
    what: str, schedule: Training, images: np.ndarray, labels: np.ndarray, recipe: augment.Recipe, compute: Compute
) -> Classifier:
    """Train on uint8 images (N, H, W, C) and labels int64 (N,) from 0 on, augmented by `recipe`; in evaluation mode.

    It resumes, or finds the work done.
    """
    parts = (np.ascontiguousarray(images), np.ascontiguousarray(labels))
    fingerprint = store.fingerprint(
        params=schedule.model_dump(),
        recipe=vars(recipe),
        images=[[list(part.shape), hashlib.sha256(part).hexdigest()] for part in parts],
        code=store.code("training/classifier"),
        arithmetic=loop.arithmetic(compute),
    )
    encoder = backbones.build(BACKBONE, *backbones.statistics(images), schedule.seed)
    with seeds.scope(schedule.seed, "classifier"):
        model = Classifier(encoder, int(labels.max()) + 1).to(compute.device)
    with store.work("classifier", fingerprint) as folder:
        if not (folder / "manifest.json").exists():
            _train(what, model, schedule, parts, recipe, compute, folder, fingerprint)
            weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            files.write(folder / _FILE, lambda path: save_file(weights, path))
            shards.seal(folder, [_FILE], {"fingerprint": fingerprint})
            (folder / "checkpoint.pt").unlink()
        shards.verify(folder, "quality")
        model.load_state_dict(load_file(folder / _FILE), strict=True)
    return model.eval()


def _train(what, model, schedule, parts, recipe, compute, folder, fingerprint) -> None:
    images, labels = parts
    bank, answers = shards.ImageBank(images, [], compute.device), torch.from_numpy(labels).to(compute.device)
    walk = inflation.Mixture(len(images), 0, 1.0, min(schedule.batch_size, len(images)), schedule.seed)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = walk.rows(step)
        draw = seeds.generator(schedule.seed, "classifier views", step, device=compute.device)
        (views,) = augment.views(bank[rows], [recipe], draw)
        return views, answers[torch.from_numpy(rows).to(answers.device)]

    def loss(batch: tuple[torch.Tensor, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        views, right = batch
        logits = model(views).float()
        return {"loss": F.cross_entropy(logits, right), "accuracy": (logits.argmax(dim=1) == right).float().mean()}

    task = loop.Task([loop.Phase(loop.groups_of(model), loss)], batch, {"classifier": model})
    model.train()
    plan = loop.Optimisation(schedule, lambda groups, lr: torch.optim.AdamW(groups, lr, fused=True))
    loop.train(what, task, plan, compute, folder, fingerprint)
