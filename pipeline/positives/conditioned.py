"""Versions of an image: sampled by a DDPM that is told what an encoder sees in that image.

GenSSL (Ayromlou et al., AAAI 2025, arXiv 2403.05966, section 3) at the size of small images and without outside data:
encoder and DDPM learn from the same unlabelled images. The features, a unit vector, go through two linear layers and
are added to the time embedding (as in RCDM, Bordes et al. 2022), which scales and shifts after each normalisation. In
training some conditions are dropped, so that sampling can be guided (Ho and Salimans 2022, arXiv 2207.12598).
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.core import files, seeds, sources
from pipeline.engine import distributed
from pipeline.generators import ddpm, sampling
from pipeline.networks.heads import mlp
from pipeline.params.schema import Compute, Conditioned, Positives

LADDER = (0.0, 1.0, 2.0)  # guidances that a picture compares; 0 knows nothing of the image
_FILE = "conditioned.safetensors"


class Network(nn.Module):
    """A UNet that is also given features, float (B, D), of the image: unit vectors, or zeros for no condition."""

    def __init__(self, params: Conditioned, size: int, channels: int, width: int):
        super().__init__()
        further = {"class_embed_type": "identity", "resnet_time_scale_shift": "scale_shift"}
        self.unet = ddpm.unet(params, size, channels, **further)
        with seeds.scope(params.seed, "condition"):
            self.embed = mlp(width, params.hidden_dim, 4 * params.channels[0], norm=False)  # as long as time's

    def forward(self, x: torch.Tensor, t: torch.Tensor, features: torch.Tensor):
        """What the UNet predicts of x (B, C, S, S) at timesteps t, as diffusers returns it."""
        return self.unet(x, t, class_labels=self.embed(features))


class Training(ddpm.Training):
    """As a DDPM's, on images (N, H, W, C) and their features, unit vectors, float (N, D), both on the device."""

    def __init__(self, params: Conditioned, images: torch.Tensor, features: torch.Tensor):
        super().__init__(params, images, Network(params, images.shape[1], images.shape[3], features.shape[1]))
        self.features = features

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's images and what the network is told of them: zeros where the condition is dropped."""
        p, rows = self.params, self.rows(step)
        draw = seeds.generator(p.seed, "condition-dropout", step, device=self.features.device.type)
        told = torch.rand(p.batch_size, generator=draw, device=self.features.device) >= p.condition_dropout
        return self.look(rows, step), self.features[rows] * told[distributed.share(p.batch_size), None]

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """L_simple of a network that knows the features."""
        return super().loss(batch[0], step, batch[1])

    def save(self, folder: Path) -> list[str]:
        """`save` of what samples; training is over after this."""
        return save(self.averaged(), folder)


def save(network: Network, folder: Path) -> list[str]:
    """The weights; what they are built from is in the parameters, by which the folder was found."""
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    files.write(Path(folder) / _FILE, lambda path: save_file(weights, path))
    return [_FILE]


def load(params: Conditioned, folder: Path, size: int, channels: int, width: int) -> Network:
    """The network of a folder that `save` wrote and somebody has verified, in evaluation mode."""
    network = Network(params, size, channels, width)
    network.load_state_dict(load_file(Path(folder) / _FILE), strict=True)
    return network.eval()


class Guided:
    """A UNet that `sample` of generators/ddpm.py calls as it calls a plain one, told of each image what to show.

    unet: for sampling. told: float (B, E), the embedded features of each image of the batch; untold: (1, E), of no
    condition. It predicts untold + guidance x (told - untold): 0 knows nothing, 1 is the plain conditional model.
    """

    def __init__(self, unet: nn.Module, told: torch.Tensor, untold: torch.Tensor, guidance: float):
        self.unet, self.guidance = unet, guidance
        self.told, self.untold = told, untold.expand_as(told)
        self.config, self.device, self.dtype = unet.config, unet.device, unet.dtype

    def __call__(self, x: torch.Tensor, t: torch.Tensor):
        """What is predicted of x (B, C, S, S) at timestep t, as diffusers returns it."""
        if self.guidance in (0, 1):  # one pass does
            return self.unet(x, t, class_labels=self.told if self.guidance else self.untold)
        both = self.unet(torch.cat([x, x]), t, class_labels=torch.cat([self.told, self.untold])).sample.float()
        told, untold = both.chunk(2)
        return SimpleNamespace(sample=untold + self.guidance * (told - untold))


def sampler(
    params: Positives, own: Conditioned, folder: Path, features: torch.Tensor, shape: tuple[int, int], compute: Compute
) -> Callable[[range, float], np.ndarray]:
    """numbers, guidance -> their images: number v n + a is version v of image a of n, uint8 (len, H, W, C).

    folder: with the trained network; features: unit vectors, float (n, D), one an image; shape: H = W and channels.
    """
    network, noise = load(own, folder, *shape, features.shape[1]), ddpm.scheduler(own)
    with torch.inference_mode():
        told, untold = network.embed(features), network.embed(torch.zeros(1, features.shape[1]))
    unet = ddpm.for_sampling(network.unet, compute)
    seed = seeds.key(params.seed, "conditioned")  # other noise than the inflation set's at the same seed

    def batch(numbers: range, guidance: float) -> np.ndarray:
        place = torch.from_numpy(np.array(numbers) % len(features))
        guided = Guided(unet, told[place].to(unet.device), untold.to(unet.device), guidance)
        solver, extra = ddpm.solver("ddim", noise, params.eta, params.clip)
        solver.set_timesteps(params.steps, device=compute.device)
        return ddpm.to_uint8(ddpm.sample(guided, solver, extra, numbers, seed), shape[0])

    return batch


def fill(
    params: Positives,
    own: Conditioned,
    folder: Path,
    features: torch.Tensor,
    names: np.ndarray,
    shape,
    compute: Compute,
) -> tuple[dict[str, Path], str]:
    """`params.candidates` versions of each image, version by version, as whole shards in the store.

    names: int64 (n,), what a shard calls each image (`anchor_index`); the rest as for `sampler`. More versions add
    shards. Returns (shard name -> file, fingerprint of the set).
    """
    decided = {
        "generator": files.sha256(Path(folder) / _FILE),
        "network": own.model_dump(),
        "anchors": [list(shape), hashlib.sha256(features.numpy()).hexdigest(), hashlib.sha256(names).hexdigest()],
        "code": sources.digest("positives/conditioned"),
    }
    what = f"conditioned sampling ({params.steps} steps, guidance {params.guidance:g})"

    def start() -> Callable[[range], np.ndarray]:
        batch = sampler(params, own, folder, features, shape, compute)
        return lambda numbers: batch(numbers, params.guidance)

    return sampling.sample_positives(what, params, decided, names, compute, start)
