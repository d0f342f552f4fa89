"""Variants of an image: sampled by a DDPM that is conditioned on an encoder's features of that image.

GenSSL (Ayromlou et al., AAAI 2025, arXiv 2403.05966, section 3) for small images and without outside data: encoder and
DDPM learn from the same unlabelled images. Two linear layers embed the features, a unit vector. Their output is added
to the embedding of the timestep (as in RCDM, Bordes et al. 2022), which scales and shifts after each normalisation. In
training some conditions are dropped, so that sampling can be guided (Ho and Salimans 2022, arXiv 2207.12598).
"""

import hashlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import files, seeds, weights
from pipeline.data import mixture, shards
from pipeline.engine import distributed
from pipeline.generators import ddpm
from pipeline.measures import probes
from pipeline.networks import backbones
from pipeline.networks.heads import mlp
from pipeline.params.methods import SimCLR
from pipeline.params.schema import Augment, Compute, Conditioned, Pretrain, RealOnly
from pipeline.positives import Batch, Inputs, Kind, Sampler
from pipeline.training import encoder, generator
from pipeline.training.batches import Images

_FILE = "conditioned.safetensors"


class Network(nn.Module):
    """A UNet conditioned on features, float (B, D), of the image: unit vectors, or zeros for no condition."""

    def __init__(self, params: Conditioned, size: int, channels: int, width: int):
        super().__init__()
        further = {"class_embed_type": "identity", "resnet_time_scale_shift": "scale_shift"}
        self.unet = ddpm.unet(params, size, channels, **further)
        with seeds.scope(params.seed, "condition"):
            # as wide as the embedding of the timestep
            self.embed = mlp(width, params.hidden_dim, 4 * params.channels[0], norm=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor, features: torch.Tensor):
        """The UNet's prediction for x (B, C, S, S) at timesteps t, as diffusers returns it."""
        return self.unet(x, t, class_labels=self.embed(features))


class Training(ddpm.Training):
    """Trains as a DDPM does, on images (N, H, W, C) and their features, unit vectors, float (N, D), on the device."""

    def __init__(self, params: Conditioned, images: torch.Tensor, features: torch.Tensor):
        super().__init__(params, images, Network(params, images.shape[1], images.shape[3], features.shape[1]))
        self.features = features

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's images and their conditions: zeros where the condition is dropped."""
        p, rows = self.params, self.rows(step)
        draw = seeds.generator(p.seed, "condition-dropout", step, device=self.features.device.type)
        kept = torch.rand(p.batch_size, generator=draw, device=self.features.device) >= p.condition_dropout
        return self.look(rows, step), self.features[rows] * kept[distributed.share(p.batch_size), None]

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """L_simple of the conditioned network."""
        return super().loss(batch[0], step, batch[1])

    def save(self, folder: Path) -> list[str]:
        """Write the averaged network; training is over after this. Returns the names of the files."""
        weights.save(Path(folder) / _FILE, self.averaged())  # the parameters, which find the folder, say the shapes
        return [_FILE]


def load(params: Conditioned, folder: Path, size: int, channels: int, width: int) -> Network:
    """The network in evaluation mode, from a verified folder that `save` wrote."""
    return weights.load(Path(folder) / _FILE, lambda: Network(params, size, channels, width)).eval()


def guided(
    unet: nn.Module,
    condition: torch.Tensor,
    unconditional: torch.Tensor,
    guidance: float,
    x: torch.Tensor,
    t: torch.Tensor,
):
    """The prediction for x (B, C, S, S) at timestep t under classifier-free guidance, as diffusers returns it.

    condition: float (B, E), the embedded features of each image; unconditional: (B, E), the embedding of no condition.
    It is unconditional + guidance x (conditional - unconditional): guidance 0 ignores the image, 1 is the plain
    conditional model.
    """
    if guidance in (0, 1):  # one pass is enough
        return unet(x, t, class_labels=condition if guidance else unconditional)
    labels = torch.cat([condition, unconditional])
    with_it, without = unet(torch.cat([x, x]), t, class_labels=labels).sample.float().chunk(2)
    return SimpleNamespace(sample=without + guidance * (with_it - without))


def train(params: Conditioned, real: shards.RealSet, compute: Compute) -> tuple[Path, torch.Tensor]:
    """Train encoder and DDPM, or find them in the store: the DDPM's folder, and unit features of the train images.

    The features are float (n, D). The encoder has the fingerprint of an experiment without generated images and with
    these parameters, so that either finds the other's work. All processes of a job get both.
    """
    images, _ = real.part(shards.TRAIN)
    made, _, _ = encoder.pretrain(arm_of(params.encoder, images.shape[3]), Images(real, [], []), None, compute)
    folder = distributed.agreed(made["card.json"].parent if distributed.first() else None)
    features = F.normalize(probes.features(backbones.load(folder).to(compute.device), images, compute), dim=1)
    made, _ = generator.train(Training, params, images, compute, features.numpy())
    return distributed.agreed(next(iter(made.values())).parent if distributed.first() else None), features


def arm_of(params: RealOnly, channels: int) -> encoder.Setting:
    """The sections of an experiment without generated images that trains this encoder."""
    unset = dict.fromkeys(Augment.model_fields)
    form = "grey" if channels == 1 else "colour"
    given = {"family": params.family, "form": form, "strength": params.strength, "replace": 0.0, "replaced": "second"}
    given |= {"interpolation": "bicubic", "seed": params.seed}
    return encoder.Setting(
        Pretrain(**params.model_dump(include=set(Pretrain.model_fields))),
        SimCLR(**params.model_dump(include=set(SimCLR.model_fields))),
        Augment(**unset | given),
        mixture.alone(params.seed),
    )


def prepare(inputs: Inputs) -> Sampler:
    """Of a DDPM that is trained here, conditioned on an encoder that is trained here."""
    params = inputs.params.conditioned
    folder, features = train(params, inputs.real, inputs.params.compute)
    decided = {
        "network": [params.model_dump(), files.sha256(folder / _FILE)],
        "features": hashlib.sha256(features.numpy()).hexdigest(),
    }
    return Sampler(decided, lambda: start(inputs, folder, features))


def start(inputs: Inputs, folder: Path, features: torch.Tensor) -> Batch:
    """numbers, guidance -> images. folder: of the trained network; features: unit vectors, float (n, D)."""
    params, ddpm_params, compute = inputs.params.positives, inputs.params.conditioned, inputs.params.compute
    size, channels = inputs.images.shape[1], inputs.images.shape[3]
    network, noise = load(ddpm_params, folder, size, channels, features.shape[1]), ddpm.scheduler(ddpm_params)
    with torch.inference_mode():
        condition, unconditional = network.embed(features), network.embed(torch.zeros(1, features.shape[1]))
    unet = ddpm.for_sampling(network.unet, compute)
    seed = seeds.key(params.seed, "conditioned")  # not the inflation set's noise at the same seed

    def batch(numbers: range, guidance: float) -> np.ndarray:
        given = condition[np.array(numbers) % len(features)].to(unet.device)
        predict = partial(guided, unet, given, unconditional.to(unet.device).expand_as(given), guidance)
        return ddpm.to_uint8(ddpm.sample(unet, noise, params, numbers, seed, predict=predict), size)

    return batch


KIND = Kind(prepare, ladder=(0.0, 1.0, 2.0))
