"""What runs cost on this machine: measured in some seconds before the first one, then by the rows that there are."""

import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from pipeline import methods
from pipeline.core import processes, seeds
from pipeline.data import mixture
from pipeline.data.bank import ImageBank
from pipeline.engine import arithmetic, loop
from pipeline.generators import module
from pipeline.networks import backbones
from pipeline.params.data import shape
from pipeline.params.schema import Params
from pipeline.recommend import arms
from pipeline.training import encoder
from pipeline.training.batches import Batches

FEW, MORE, MOST = 2, 8, 2048  # steps whose times are compared, and at most: what a run does once falls out
OVERHEAD = 40.0  # seconds of a run beside its training: the stages' imports, linear evaluation, DVC
IMAGES = 512  # that measured batches are of, at least


class Prices(NamedTuple):
    """Seconds. run, short: a run of the whole length and of the short heat. jobs: runs at a time.

    generator: trained once, with its images; None: one that is loaded, of which nothing is known.
    """

    run: float
    short: float
    generator: float | None
    jobs: int = 1

    def hours(self, *heats: tuple[int, float]) -> float:
        """Hours of heats that run one after another; each is (runs, seconds of one)."""
        return sum(math.ceil(runs / self.jobs) * seconds for runs, seconds in heats) / 3600

    def told(self) -> str:
        """In words."""
        line = f"a run of the whole length takes about {self.run / 60:.1f} minutes, a short one {self.short / 60:.1f}"
        if self.generator is None:
            return f"{line}; what the generator's images take is not known"
        return f"{line}, the generator and its images {self.generator / 60:.1f}" if self.generator else line


def measured(params: Params, ratio: float) -> Prices:
    """By some steps of the encoder's and the generator's own training on noise, and the images that `ratio` asks for.

    In a process of its own, which leaves a GPU as it was. A generated image costs a third of a training step's share
    for each step of the sampler, the forward pass alone; of a generator that is not trained here nothing is known.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), processes.end_with_parent) as process:
        return process.submit(_measured, params, ratio).result()


def of_rows(rows: list[dict[str, str]]) -> float | None:
    """Seconds of a run, by finished ones of its length; None if there is none.

    The median: a few of them made the generator or its images as well.
    """
    return statistics.median(float(row["seconds"]) for row in rows) if rows else None


def _measured(params: Params, ratio: float) -> Prices:
    arithmetic.prepare(params.compute)
    side, channels, _ = shape(params.dataset)
    noise = 128 + 50 * seeds.noise((max(IMAGES, params.pretrain.batch_size), side, side, channels), 0, "prices")
    images = noise.clamp(0, 255).to(torch.uint8)
    training = _encoder_step(params, images) * params.pretrain.steps
    run, short = training + OVERHEAD, training / arms.SHORT + OVERHEAD
    if params.generator.source != "train":
        return Prices(run, short, None if params.generator.source == "pretrained" else 0.0)
    section = getattr(params, params.generator.kind)
    task = module(params.generator.kind).Training(section, images.to(params.compute.device))
    step = _timed(params, task.task, section, task.plan.build)
    sampled = ratio * params.dataset.train_size * params.generate.steps
    return Prices(run, short, step * section.steps + step / section.batch_size / 3 * sampled)


def _encoder_step(params: Params, images: torch.Tensor) -> float:
    p, channels = params.pretrain, images.shape[3]
    network = backbones.build(p.backbone, [0.5] * channels, [0.25] * channels, 0, images.shape[1])
    method = methods.load(p.method).build(getattr(params, p.method), network, 0).to(params.compute.device)
    draw = mixture.Mixture(len(images), 0, 1.0, p.batch_size, 0)
    batches = Batches(draw, ImageBank(images.numpy(), [], params.compute.device), 0, method.views, params.augment)
    phases = encoder.phases_of(method, p.decay_vectors)
    task = loop.Task(phases, batches, {"method": method}, before_step=method.before_step, after_step=method.after_step)
    method.train()
    return _timed(params, task, p, lambda groups, lr: encoder.optimiser(p, groups, lr), p.accumulate)


def _timed(params: Params, task: loop.Task, schedule, build: Callable, parts: int = 1) -> float:
    """Seconds of a step of the real loop: of so many that what a run does once is the smaller part."""

    def run(steps: int) -> float:
        at_end = dict.fromkeys(("steps", "log_every", "checkpoint_every"), steps)
        plan = loop.Optimisation(schedule.model_copy(update=at_end), build, parts=parts)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            loop.train("measuring", task, plan, params.compute, Path(folder), "measuring")
            return time.perf_counter() - start

    run(FEW)  # makes kernels
    once, more = run(FEW), MORE
    while (longer := run(FEW + more) - once) < max(1.0, once) and more < MOST:
        more *= 4
    return max(0.0, longer) / more
