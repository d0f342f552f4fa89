"""What conditioned sampling needs, from the store or made: an encoder of the real images alone, a DDPM told of it."""

from pathlib import Path

import torch
import torch.nn.functional as F

from pipeline.data import shards
from pipeline.engine import distributed
from pipeline.measures import probes
from pipeline.networks import backbones
from pipeline.params.methods import SimCLR
from pipeline.params.schema import Augment, Compute, Conditioned, Inflation, Pretrain, RealOnly
from pipeline.positives import conditioned
from pipeline.training import encoder, generator
from pipeline.training.batches import Images


def prepare(params: Conditioned, real: shards.RealSet, compute: Compute) -> tuple[Path, torch.Tensor]:
    """Train both, or find the work done: the folder of the DDPM, and unit features of the train images, float (n, D).

    The encoder has the fingerprint of an arm without generated images that has these parameters: whoever ran that has
    it. Of several processes, all get both.
    """
    images, _ = real.part(shards.TRAIN)
    arm = arm_of(params.encoder, images.shape[3])
    made, _, _ = encoder.pretrain(arm, Images(real, [], []), None, compute)
    folder = distributed.agreed(made["card.json"].parent if distributed.first() else None)
    features = F.normalize(probes.features(backbones.load(folder).to(compute.device), images, compute), dim=1)
    made, _ = generator.train(conditioned, params, images, compute, features.numpy())
    return distributed.agreed(next(iter(made.values())).parent if distributed.first() else None), features


def arm_of(params: RealOnly, channels: int) -> encoder.Setting:
    """The sections of an experiment without generated images that trains this encoder."""
    own = params.model_dump()
    pretrain = Pretrain(**{name: own[name] for name in Pretrain.model_fields})
    method = SimCLR(**{name: own[name] for name in SimCLR.model_fields})
    unset = dict.fromkeys(Augment.model_fields)
    form = "grey" if channels == 1 else "colour"
    given = {"family": params.family, "form": form, "strength": params.strength, "replace": 0.0, "replaced": "second"}
    return encoder.Setting(
        pretrain,
        method,
        Augment(**unset | given | {"seed": params.seed}),
        Inflation(ratio=0.0, real_weight=1.0, order="slots", seed=params.seed),
    )
