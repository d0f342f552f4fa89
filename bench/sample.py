"""Sampling: ours against `diffusers.DDIMPipeline` as shipped; the same UNet, noise and number of steps.

python -m bench sample
"""

import copy
from types import SimpleNamespace

import numpy as np
import torch

from bench import pairs
from pipeline.generators import ddpm

IMAGES, STEPS, SEED = 128, 10, 0
WIDTHS = {"sample": (32, 64, 64), "sample, narrow": (16, 48, 64)}


def networks(channels: tuple[int, ...]):
    """The default preset's UNet at some widths (28 x 28 x 1, untrained: as fast as a trained one) and its process."""
    params = pairs.setting().ddpm.model_copy(update={"channels": channels})
    return ddpm.unet(params, 28, 1).eval(), ddpm.scheduler(params)


def ours(model, noise) -> np.ndarray:
    """Images by pipeline.generators.ddpm, uint8 (IMAGES, 28, 28, 1)."""
    how = SimpleNamespace(steps=STEPS, eta=0.0, clip=True)
    return ddpm.to_uint8(ddpm.sample(model, noise, how, range(IMAGES), SEED), 28)


def pipeline(channels: tuple[int, ...]):
    """diffusers' pipeline, its progress bar off, its scheduler with the timesteps of ours."""
    from diffusers import DDIMPipeline, DDIMScheduler

    model, noise = networks(channels)
    scheduler = DDIMScheduler.from_config(noise.config, clip_sample=True, timestep_spacing="trailing")
    made = DDIMPipeline(model, scheduler)
    made.set_progress_bar_config(disable=True)
    return lambda: made(batch_size=IMAGES, num_inference_steps=STEPS, eta=0.0, output_type="np").images


def same_images(model, noise, theirs, compute) -> None:
    """From the same noise, in fp32, both make the same images (to one grey level)."""
    from diffusers.pipelines.ddim import pipeline_ddim

    from pipeline.core import seeds

    start = torch.stack([seeds.noise((1, 28, 28), SEED, "image", i) for i in range(IMAGES)])
    drawn, pipeline_ddim.randn_tensor = pipeline_ddim.randn_tensor, lambda *words, **named: start
    try:
        expected = theirs()
    finally:
        pipeline_ddim.randn_tensor = drawn
    exact = compute.model_copy(update={"precision": "fp32"})
    found = ours(ddpm.for_sampling(copy.deepcopy(model), exact), noise).astype(float)
    off = np.abs(found - 255 * expected).max()
    if off > 1:
        raise SystemExit(f"sample: images differ by {off:.1f} of 255: not the same work")


def rows() -> list[pairs.Row]:
    """Two widths: one that is nearer to what others train, and one that suits two cores."""
    compute = pairs.setting().compute
    found = []
    for name, channels in WIDTHS.items():
        model, noise = networks(channels)
        same_images(model, noise, pipeline(channels), compute)
        mine = ddpm.for_sampling(copy.deepcopy(model), compute)
        levels = "-".join(str(c) for c in channels)
        note = f"{IMAGES} images of 28 x 28 x 1, UNet {levels}, {STEPS} DDIM steps; {compute.precision}, theirs fp32"
        with pairs.apart(pipeline, channels) as theirs:
            found.append(pairs.compare(name, lambda m=mine, n=noise: ours(m, n), theirs, 2, note=note))
    return found
