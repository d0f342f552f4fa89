"""solo-learn's offline linear protocol: a linear layer trained for many epochs on features of random crops and flips.

The encoder is frozen, in evaluation mode, and sees every image anew in each epoch; so it costs as many passes as a
pretraining. Numbers of github.com/vturrisi/solo-learn@9187ea3 (scripts/linear, solo/args/linear.py) with SGD, and of
github.com/PKU-ML/adainf@233a6bd (solo-learn/scripts/linear) with LARS.
"""

import hashlib
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
from pipeline.measures.linear_probe import Weights
from pipeline.networks import backbones
from pipeline.params.schema import Compute, LinearEval, Training

BATCH, MOMENTUM, CROP_MIN, FLIP = 256, 0.9, 0.08, 0.5
DROPS, DROP = (0.6, 0.8), 0.1  # SGD: shares of the epochs after which the rate falls, by this factor
DECAY = {"sgd": 0.0, "lars": 1e-4}
WARM_UP, WARM_UP_LR = 0.1, 3e-5  # LARS: share of the epochs, and the rate of the first step
TRUST = {"trust_coeff": 0.02, "trust_clip": True}
_FILE = "offline.safetensors"


def recipe() -> recipes.Recipe:
    """Crops of 0.08 to 1 of the image and flips; PIL's bilinear, which torchvision's crop takes."""
    return recipes.Recipe(**vars(recipes.PLAIN) | {"crop_min": CROP_MIN, "flip": FLIP, "interpolation": "bilinear"})


def told(params: LinearEval) -> str:
    """The protocol in words."""
    falls = f"a tenth from epoch {' and '.join(str(_drop(share, params)) for share in DROPS)} on"
    rates = falls if params.offline == "sgd" else "half a cosine after a tenth of the epochs"
    how = f"{params.offline_epochs} epochs of {params.offline.upper()} from rate {params.offline_lr:g}, {rates}"
    return f"features of random crops and flips, {how}; last"


def rate(params: LinearEval, schedule: Training, step: int) -> float:
    """The rate of a step: with SGD a tenth after each of DROPS, with LARS half a cosine after a warm-up."""
    if params.offline == "lars":
        return loop.learning_rate(schedule, step)
    epoch = step * params.offline_epochs // schedule.steps
    return schedule.lr * DROP ** sum(epoch >= _drop(share, params) for share in DROPS)


def _drop(share: float, params: LinearEval) -> int:
    return round(share * params.offline_epochs)


def schedule(params: LinearEval, images: int) -> Training:
    """The steps and numbers of a training on so many images; an epoch has as many steps as they fill batches."""
    batch = min(BATCH, images)
    each = images // batch
    steps = each * params.offline_epochs
    warm = int(WARM_UP * steps) if params.offline == "lars" else 0
    return Training(
        steps=steps,
        batch_size=batch,
        lr=params.offline_lr,
        min_lr=0.0,
        warmup_steps=warm,
        warmup_lr=min(WARM_UP_LR, params.offline_lr) if warm else None,
        weight_decay=DECAY[params.offline],
        log_every=each,
        checkpoint_every=10 * each,
        seed=params.seed,
    )


def train(
    encoder: backbones.Encoder, labelled: shards.Part, classes: int, params: LinearEval, compute: Compute
) -> Weights:
    """The layer after the last epoch, (classes, D) and (classes,); it resumes, or finds the work done.

    labelled: uint8 (N, H, W, C) and int64 (N,) in [0, classes). The encoder is frozen.
    """
    images, labels = (np.ascontiguousarray(part) for part in labelled)
    plan = schedule(params, len(images))
    with seeds.scope(params.seed, "offline probe"):
        layer = nn.Linear(encoder.width, classes).to(compute.device)
    decided = {
        "encoder": encoder.card,
        "data": [hashlib.sha256(part).hexdigest() for part in (images, labels)],
        "params": plan.model_dump() | {"optimizer": params.offline, "classes": classes},
        "code": sources.digest("evaluation/offline_probe"),
        "arithmetic": arithmetic.facts(compute),
        "versions": backbones.versions(),
    }

    def train_in(folder: Path, fingerprint: str) -> list[str]:
        optimisation = loop.Optimisation(
            plan, lambda groups, lr: _optimiser(params, groups, lr), rate=lambda _, step: rate(params, plan, step)
        )
        task = _task(encoder, layer, plan, images, labels)
        loop.train("offline linear protocol", task, optimisation, compute, folder, fingerprint)
        weights.save(folder / _FILE, layer)
        return [_FILE]

    folder = store.once("offline", decided, train_in)
    found = weights.load(folder / _FILE, lambda: nn.Linear(encoder.width, classes))
    return found.weight.detach(), found.bias.detach()


def _optimiser(params: LinearEval, groups: list[dict], lr: float) -> torch.optim.Optimizer:
    if params.offline == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)
    from timm.optim import Lars

    return Lars(groups, lr=lr, momentum=MOMENTUM, **TRUST)


def _task(
    encoder: backbones.Encoder, layer: nn.Linear, plan: Training, images: np.ndarray, labels: np.ndarray
) -> loop.Task:
    """What the loop trains: the layer, on features of views that are drawn anew in each epoch."""
    device = layer.weight.device
    bank, answers = ImageBank(images, [], device.type), torch.from_numpy(labels).to(device)
    walk = mixture.Mixture(len(images), 0, 1.0, plan.batch_size, plan.seed)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = walk.rows(step)
        draw = seeds.generator(plan.seed, "offline views", step)
        (views,) = recipes.views(bank[rows], [recipe()], draw)
        return views, answers[sent(torch.from_numpy(rows), device)]

    def loss(batch: tuple[torch.Tensor, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        views, right = batch
        with torch.no_grad():
            features = encoder(views)
        logits = layer(features).float()
        return {"loss": F.cross_entropy(logits, right), "accuracy": (logits.argmax(dim=1) == right).float().mean()}

    encoder.eval()
    return loop.Task([loop.Phase(loop.groups_of(layer), loss)], batch, {"layer": layer})
