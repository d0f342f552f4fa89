"""Hard positives: sampled by a DDPM whose bottleneck is, for the most part, that of a given image, its anchor.

CLSP (Zeng et al., ECCV 2024, arXiv 2408.16965; as in ddim_interpolation of github.com/dewenzeng/clsp@91c8f9e): the
bottleneck holds what an image shows, skips and noise hold the rest. At every step the anchor is given fresh noise of
that step, and the output of the UNet's middle block becomes w times the sample's own and 1 - w times the anchor's; the
way up takes the sample's skips. w = 1 is plain sampling.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import seeds, sources
from pipeline.core.errors import UserError
from pipeline.generators import module, sampling
from pipeline.params.schema import Compute, Positives

LADDER = (0.0, 0.1, 0.3, 1.0)  # weights that a picture compares; 1 is plain sampling


class Anchored:
    """A UNet that `sample` of generators/ddpm.py calls as it calls a plain one, the anchors' bottleneck mixed in.

    model, noise: diffusers' UNet2DModel, as for sampling, and the DDPMScheduler that adds its noise; anchors: float
    (B, C, S, S) in [-1, 1]; draws: a generator an image for the anchor's noise, of which each call takes the next.
    """

    def __init__(
        self,
        model: nn.Module,
        noise: object,
        anchors: torch.Tensor,
        weight: float,
        draws: list[torch.Generator],
    ):
        self.model, self.noise, self.weight, self.draws = model, noise, weight, draws
        self.anchors = anchors.to(model.device)
        self.config, self.device, self.dtype = model.config, model.device, model.dtype

    def __call__(self, x: torch.Tensor, t: torch.Tensor):
        """What the UNet predicts of x (B, C, S, S) at timestep t, as diffusers returns it."""
        drawn = torch.stack([torch.randn(self.anchors.shape[1:], generator=draw) for draw in self.draws])
        noisy = self.noise.add_noise(self.anchors, drawn.to(self.device), t.expand(len(x)))
        theirs, w = bottleneck(self.model, noisy.to(self.dtype), t), self.weight
        with self.model.mid_block.register_forward_hook(lambda block, given, own: w * own + (1 - w) * theirs):
            return self.model(x, t)


class _Reached(Exception):
    """The bottleneck, on the way out of a forward pass that need not go on."""


def bottleneck(model: nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The output of the UNet's middle block; the way up is not computed."""

    def stop(block, given, own):
        raise _Reached(own)

    with model.mid_block.register_forward_hook(stop):
        try:
            model(x, t)
        except _Reached as reached:
            return reached.args[0]
    raise RuntimeError("the UNet passed its middle block by")


def sampler(
    params: Positives, card: dict, generator: Path, anchors: np.ndarray, compute: Compute
) -> Callable[[range, float], np.ndarray]:
    """numbers, weight -> their images: number c n + a is candidate c of image a of the n anchors, uint8 (len, H, W, C).

    generator: a folder with this `card`. Anchors are brought to the generator's size, and its images to theirs.
    """
    makes = module(card["kind"])
    model, noise = makes.load(generator)
    makes.fit_to(anchors.shape[1:3], anchors.shape[3], model, str(generator))
    timesteps = noise.config.num_train_timesteps
    if timesteps % params.steps:
        fault = f"{params.steps} does not divide the {timesteps} timesteps that the generator was trained with"
        raise UserError(fault, "params.yaml: positives.steps", "choose a divisor")
    if model.mid_block is None:
        raise UserError("its UNet has no middle block, where anchors are mixed in", generator, "use another generator")
    model = makes.for_sampling(model, _eager(compute))
    seed, n = seeds.key(params.seed, "anchored"), len(anchors)  # other noise than the inflation set's at the same seed

    def batch(numbers: range, weight: float) -> np.ndarray:
        place = np.array(numbers) % n
        x = torch.from_numpy(anchors[place]).permute(0, 3, 1, 2).float() / 127.5 - 1
        if x.shape[2] != model.config.sample_size:
            x = F.interpolate(x, size=(model.config.sample_size,) * 2, mode="bicubic", antialias=True).clamp_(-1, 1)
        draws = [seeds.generator(seed, "anchor", number) for number in numbers]
        mixed = Anchored(model, noise, x, weight, draws)
        solver, extra = makes.solver("ddim", noise, params.eta, params.clip)
        solver.set_timesteps(params.steps, device=compute.device)
        return makes.to_uint8(makes.sample(mixed, solver, extra, numbers, seed), anchors.shape[1])

    return batch


def _eager(compute: Compute) -> Compute:
    # Compiled, a forward pass could not be left half way.
    return compute.model_copy(update={"compile": False})


def fill(
    params: Positives, card: dict, generator: Path, anchors: np.ndarray, names: np.ndarray, compute: Compute
) -> tuple[dict[str, Path], str]:
    """`params.candidates` positives of each anchor, candidate by candidate, as whole shards in the store.

    anchors: uint8 (n, H, W, C); names: int64 (n,), what a shard calls each of them (`anchor_index`). More candidates
    add shards. Returns (shard name -> file, fingerprint of the set).
    """
    decided = {
        "generator": card["files"],
        "anchors": [list(anchors.shape), hashlib.sha256(anchors).hexdigest(), hashlib.sha256(names).hexdigest()],
        "code": sources.digest("positives/anchored", f"generators/{card['kind']}"),
    }
    what = f"anchored sampling ({params.steps} steps, w = {params.weight:g})"

    def start() -> Callable[[range], np.ndarray]:
        batch = sampler(params, card, generator, anchors, compute)
        return lambda numbers: batch(numbers, params.weight)

    return sampling.sample_positives(what, params, decided, names, _eager(compute), start)
