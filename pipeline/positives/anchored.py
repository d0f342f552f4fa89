"""Hard positives: sampled by a DDPM whose bottleneck is mostly that of a given image, the anchor.

CLSP (Zeng et al., ECCV 2024, arXiv 2408.16965; ddim_interpolation of github.com/dewenzeng/clsp@91c8f9e). The bottleneck
of the UNet holds what an image shows; the skip connections and the noise hold the rest. At every step the anchor gets
fresh noise of that step's level, and the output of the UNet's middle block becomes w times the sample's own and 1 - w
times the anchor's. The decoder uses the skip connections of the sample. w = 1 is plain sampling.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds
from pipeline.core.devices import sent
from pipeline.core.errors import UserError
from pipeline.generators import cards, ddpm, pixels
from pipeline.positives import Batch, Inputs, Kind, Sampler


def mixed(
    model: nn.Module,
    noise: object,
    anchors: torch.Tensor,
    weight: float,
    draws: list[torch.Generator],
    x: torch.Tensor,
    t: torch.Tensor,
):
    """The UNet's prediction for x (B, C, S, S) at timestep t, as diffusers returns it, with the anchors mixed in.

    noise: the DDPMScheduler that adds noise; anchors: float (B, C, S, S) in [-1, 1]; weight: of the sample's own
    bottleneck, 1 - weight is the anchors'; draws: one generator an image for the anchor's noise; each call takes the
    next numbers from it.
    """
    fresh = torch.stack([torch.randn(anchors.shape[1:], generator=draw) for draw in draws])
    noisy = noise.add_noise(anchors, sent(fresh, model.device), t.expand(len(x)))
    of_anchors = bottleneck(model, noisy.to(model.dtype), t)
    with model.mid_block.register_forward_hook(
        lambda block, inputs, of_samples: weight * of_samples + (1 - weight) * of_anchors
    ):
        return model(x, t)


class _Reached(Exception):
    """Carries the bottleneck out of a forward pass that need not continue."""


def bottleneck(model: nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The output of the UNet's middle block; the decoder is not computed."""

    def stop(block, inputs, output):
        raise _Reached(output)

    with model.mid_block.register_forward_hook(stop):
        try:
            model(x, t)
        except _Reached as reached:
            return reached.args[0]
    raise RuntimeError("the UNet did not call its middle block")


def prepare(inputs: Inputs) -> Sampler:
    """Of the DDPM that the generator stage trained or loaded."""
    card = cards.of_generator(inputs.generator)
    return Sampler({"generator": card["files"]}, lambda: start(inputs))


def start(inputs: Inputs) -> Batch:
    """numbers, weight -> images. Anchors are resized to the generator's size, its images to the size of the anchors."""
    params, anchors, compute = inputs.params.positives, inputs.images, inputs.params.compute
    model, noise = ddpm.load(inputs.generator)
    ddpm.fit_to(anchors.shape[1:3], anchors.shape[3], model, str(inputs.generator))
    timesteps = noise.config.num_train_timesteps
    if timesteps % params.steps:
        fault = f"{params.steps} does not divide the {timesteps} timesteps that the generator was trained with"
        raise UserError(fault, "params.yaml: positives.steps", "choose a divisor")
    if model.mid_block is None:
        what = "its UNet has no middle block, where anchors are mixed in"
        raise UserError(what, inputs.generator, "use another generator")
    eager = compute.model_copy(update={"compile": False})  # a compiled forward pass cannot be left half way
    model = ddpm.for_sampling(model, eager)
    size = model.config.sample_size
    seed, n = seeds.key(params.seed, "anchored"), len(anchors)  # not the inflation set's noise at the same seed

    def batch(numbers: range, weight: float) -> np.ndarray:
        x = pixels.to_float(torch.from_numpy(anchors[np.array(numbers) % n]))
        if x.shape[2] != size:
            x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp_(-1, 1)
        draws = [seeds.generator(seed, "anchor", number) for number in numbers]
        predict = partial(mixed, model, noise, x.to(model.device), weight, draws)
        return ddpm.to_uint8(ddpm.sample(model, noise, params, numbers, seed, predict=predict), anchors.shape[1])

    return batch


KIND = Kind(prepare, ladder=(0.0, 0.1, 0.3, 1.0))
