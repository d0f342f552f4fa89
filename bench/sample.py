"""Sampling: ours against `diffusers.DDIMPipeline` as shipped; the same UNet, noise and number of steps.

python -m bench.sample
"""

import numpy as np
import torch

from bench import pairs
from pipeline import loop
from pipeline.generators import ddpm
from pipeline.params import reader

IMAGES, STEPS, SEED = 128, 10, 0


def networks():
    """The default preset's UNet (28 x 28 x 1, freshly initialised: its speed is that of a trained one) and process."""
    params = reader.load().ddpm
    return ddpm.unet(params, 28, 1).eval(), ddpm.scheduler(params)


def ours(model, noise, compute) -> np.ndarray:
    """Images by pipeline.generators.ddpm, uint8 (IMAGES, 28, 28, 1)."""
    solver, extra = ddpm.solver("ddim", noise, eta=0.0, clip=True)
    solver.set_timesteps(STEPS)
    return ddpm.to_uint8(ddpm.sample(model, solver, extra, range(IMAGES), SEED, compute), 28)


def pipeline(model, noise):
    """diffusers' pipeline, its progress bar off, its scheduler with the timesteps of ours."""
    from diffusers import DDIMPipeline, DDIMScheduler

    scheduler = DDIMScheduler.from_config(noise.config, clip_sample=True, timestep_spacing="trailing")
    made = DDIMPipeline(model, scheduler)
    made.set_progress_bar_config(disable=True)
    return lambda: made(batch_size=IMAGES, num_inference_steps=STEPS, eta=0.0, output_type="np").images


def same_images(model, noise, theirs, compute) -> None:
    """From the same noise, in fp32, both make the same images (to one grey level)."""
    from diffusers.pipelines.ddim import pipeline_ddim

    from pipeline import seeds

    start = torch.stack([seeds.noise((1, 28, 28), SEED, "image", i) for i in range(IMAGES)])
    drawn, pipeline_ddim.randn_tensor = pipeline_ddim.randn_tensor, lambda *words, **named: start
    try:
        expected = theirs()
    finally:
        pipeline_ddim.randn_tensor = drawn
    exact = compute.model_copy(update={"precision": "fp32"})
    found = ours(model, noise, exact).astype(float)
    off = np.abs(found - 255 * expected).max()
    if off > 1:
        raise SystemExit(f"sample: images differ by {off:.1f} of 255: not the same work")


def rows() -> list[pairs.Row]:
    """The comparison."""
    compute = reader.load().compute
    loop.prepare(compute)
    model, noise = networks()
    theirs = pipeline(model, noise)
    same_images(model, noise, theirs, compute)
    note = f"{IMAGES} images of 28 x 28 x 1, {STEPS} DDIM steps; {compute.precision} against fp32 as shipped"
    return [pairs.compare("sample", lambda: ours(model, noise, compute), theirs, 2, note=note)]


if __name__ == "__main__":
    pairs.main(rows)
