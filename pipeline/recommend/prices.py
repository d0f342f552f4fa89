"""What runs cost on this machine: measured in some seconds before the first one, then by the rows that there are."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline import methods
from pipeline.core import seeds
from pipeline.data import mixture, shards
from pipeline.engine import arithmetic, loop
from pipeline.generators import module
from pipeline.networks import backbones
from pipeline.params.data import shape
from pipeline.params.schema import Params
from pipeline.training import encoder
from pipeline.training.batches import Batches

STEPS, WARM = 8, 2  # timed, after so many that are not
OVERHEAD = 40.0  # seconds of a run beside its training: the stages' imports, linear evaluation, DVC
IMAGES = 512  # that measured batches are of


class Prices(NamedTuple):
    """Seconds. run: one of the whole length; generator: trained once, with its images."""

    run: float
    generator: float

    def told(self) -> str:
        """In words."""
        run, generator = self.run / 60, self.generator / 60
        return f"a run of the whole length takes about {run:.1f} minutes, the generator and its images {generator:.1f}"


def measured(params: Params, ratio: float) -> Prices:
    """By some steps of the encoder's and the generator's own training on noise, and the images that `ratio` asks for.

    A generated image costs a third of a training step's share for each step of the sampler: the forward pass alone.
    """
    arithmetic.prepare(params.compute)
    side, channels, _ = shape(params.dataset)
    noise = 128 + 50 * seeds.noise((IMAGES, side, side, channels), 0, "prices")
    images = noise.clamp(0, 255).to(torch.uint8).numpy()
    run = _encoder_step(params, images) * params.pretrain.steps + OVERHEAD
    if params.generator.source != "train":
        return Prices(run, 0.0)
    section = getattr(params, params.generator.kind)
    step = _generator_step(params, images)
    sampled = ratio * params.dataset.train_size * params.generate.steps
    return Prices(run, step * section.steps + step / section.batch_size / 3 * sampled)


def of_rows(rows: list[dict[str, str]], steps: int) -> float | None:
    """Seconds of a run of so many steps, by finished ones; None if there is none.

    The median: a few of them made the generator or its images as well.
    """
    found = [max(0.0, float(row["seconds"]) - OVERHEAD) / int(row["steps"]) for row in rows]
    return statistics.median(found) * steps + OVERHEAD if found else None


def _encoder_step(params: Params, images: np.ndarray) -> float:
    p, channels = params.pretrain, images.shape[3]
    network = backbones.build(p.backbone, [0.5] * channels, [0.25] * channels, 0, images.shape[1])
    method = methods.load(p.method).build(getattr(params, p.method), network, 0).to(params.compute.device)
    draw = mixture.Mixture(IMAGES, 0, 1.0, p.batch_size, 0)
    bank = shards.ImageBank(images, [], params.compute.device)
    batches = Batches(draw, bank, 0, method.views, params.augment)
    phases = encoder.phases_of(method, p.decay_vectors)
    task = loop.Task(phases, batches, {"method": method}, before_step=method.before_step, after_step=method.after_step)
    method.train()
    return _timed(params, task, p, lambda groups, lr: encoder.optimiser(p, groups, lr))


def _generator_step(params: Params, images: np.ndarray) -> float:
    section = getattr(params, params.generator.kind)
    training = module(params.generator.kind).Training(section, torch.from_numpy(images).to(params.compute.device))
    return _timed(params, training.task, training.plan.schedule, training.plan.build)


def _timed(params: Params, task: loop.Task, schedule, build) -> float:
    """Seconds of a step of the real loop."""
    for steps in (WARM, STEPS):
        short = schedule.model_copy(update={"steps": steps, "log_every": steps, "checkpoint_every": steps})
        plan = loop.Optimisation(short, build)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            loop.train("measuring", task, plan, params.compute, Path(folder), "measuring")
            seconds = time.perf_counter() - start
    return seconds / STEPS
