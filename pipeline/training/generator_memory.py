"""What training a generator takes of a GPU; apart from generator.py, whose code is in the fingerprints of work."""

import torch

from pipeline.core import processes
from pipeline.engine import footprint
from pipeline.generators import module
from pipeline.params.schema import Compute, Training


def of_step(kind: str, params: Training, image: tuple[int, int, int], compute: Compute) -> float:
    """What a training step on images (H, W, C) takes of a GPU at least; of a GAN, that of its generator.

    kind: "ddpm" or "gan". Both have the two states of Adam and an average.
    """
    (side, _, channels), images, networks = image, params.batch_size // processes.size(), module(kind)
    with torch.device("meta"):
        if kind == "ddpm":
            network = networks.unet(params, side, channels)
            x, t = torch.empty(images, channels, side, side), torch.empty(images, dtype=torch.int64)
            activations = footprint.kept(network, lambda: network(x, t))
        else:
            widths = params.latent, params.generator_channels, params.discriminator_channels
            network, noise = networks.GAN(*widths, side, channels), torch.empty(images, params.latent)
            activations = footprint.kept(network, lambda: network.discriminator(network.generator(noise)))
    return footprint.step(network, 3, activations, compute)
