"""How fast a GPU is kept busy: our step beside the bare network, views, sampling, the UNet's step, and a profile."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bench.gpu.rung import Setting, defaults
from pipeline.augment import recipes
from pipeline.core import seeds
from pipeline.data import mixture
from pipeline.data.bank import ImageBank
from pipeline.engine import arithmetic, loop
from pipeline.evaluation.quality import plain
from pipeline.generators import ddpm
from pipeline.methods import simclr
from pipeline.networks import backbones
from pipeline.params import presets
from pipeline.params.methods import SimCLR
from pipeline.params.schema import Augment, Compute, Training
from pipeline.training.batches import Batches

UNET_STEPS = 40  # of one timing
PROFILED = 10  # steps: a profiler keeps some three thousand events of each
HEAD = SimCLR(hidden_dim=2048, output_dim=256, temperature=0.2, views_together=True)


def whole_step(setting: Setting) -> dict:
    """Our loop's step, from drawing the batch to the log, over the bare network's; 1.10 is the goal."""
    found = {}
    for batch in sizes(setting):
        ours = Ours(setting, batch)
        own = ours.step()
        least = bare(setting, ours.batches(0)) / steps(setting)
        found[f"batch {batch}"] = {"ours": own, "bare": least, "ratio": own / least, "images a second": batch / own}
    return found


def without_determinism(setting: Setting) -> dict:
    """The same step where nondeterministic kernels may be taken: what exact resume costs."""
    batch = sizes(setting)[-1]
    ours, seconds = Ours(setting, batch), {}
    for exact in (True, False):
        torch.use_deterministic_algorithms(exact)
        try:
            seconds[exact] = ours.step()
        finally:
            torch.use_deterministic_algorithms(setting.device == "cuda")
    return {"times as long with deterministic algorithms": seconds[True] / seconds[False]}


def memory_format(setting: Setting) -> dict:
    """The bare step with the other memory format over the one that we take."""
    views = list(torch.rand(2, sizes(setting)[0], 3, 32, 32, device=setting.device))
    return {"contiguous": bare(setting, views, torch.contiguous_format) / bare(setting, views)}


def compiled(setting: Setting) -> dict:
    """The bare steps with torch.compile over those without. Apart from the others: a machine may lack a compiler."""
    if setting.toy:
        return {"left out": "a compiler takes longer than a toy"}
    views = list(torch.rand(2, sizes(setting)[0], 3, 32, 32, device=setting.device))
    unet = bare_unet(setting, compiled=True) / bare_unet(setting)
    return {"encoder": bare(setting, views, compiled=True) / bare(setting, views), "unet": unet}


def views(setting: Setting) -> dict:
    """Views a second, two of each image at full strength, beside torchvision v2's.

    Theirs draw once a batch, crop bilinearly and blur with five taps: so the mean of many batches, and less work.
    """
    from torchvision.transforms import v2

    batch = sizes(setting)[0]
    images = torch.randint(0, 256, (batch, 32, 32, 3), dtype=torch.uint8, device=setting.device)
    recipe = recipes.recipe(plain(3, strength=2.0), 0)
    numbers = (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop(32, (recipe.crop_min, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(*numbers)], recipe.jitter_probability),
            v2.RandomGrayscale(recipe.grayscale),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], recipe.blur),
            v2.RandomHorizontalFlip(),
        ]
    )
    draw, turns = seeds.generator(0, "bench views"), 2 if setting.toy else 20

    def both() -> list[torch.Tensor]:
        x = images.permute(0, 3, 1, 2).float() / 255
        return [theirs(x), theirs(x)]

    ours, other = (
        setting.seconds(lambda make=make: [make() for _ in range(turns)]) / turns
        for make in (lambda: recipes.views(images, [recipe, recipe], draw), both)
    )
    return {"ours": 2 * batch / ours, "torchvision, simpler ones": 2 * batch / other, "seconds of a batch": ours}


def sampling(setting: Setting) -> dict:
    """Images a second of our sampler and of diffusers' pipeline, the same UNet and the same DDIM steps."""
    from diffusers import DDIMPipeline, DDIMScheduler

    n, count = (4, 2) if setting.toy else (500, 10)
    model = ddpm.unet(published(setting), 32, 3).eval()
    noise = ddpm.scheduler(published(setting))
    how = defaults().generate.model_copy(update={"steps": count, "eta": 0.0, "sampler": "ddim"})
    model = ddpm.for_sampling(model, arithmetic_of(setting))
    ours = setting.seconds(lambda: ddpm.sample(model, noise, how, range(n), 0, "ddim"), 1)
    scheduler = DDIMScheduler.from_config(noise.config, clip_sample=True, timestep_spacing="trailing")
    made = DDIMPipeline(model, scheduler)
    made.set_progress_bar_config(disable=True)
    other = setting.seconds(lambda: made(batch_size=n, num_inference_steps=count, output_type="pt"), 1)
    return {"ours": n / ours, "diffusers": n / other, "times as fast": other / ours, "steps": count}


def unet_step(setting: Setting) -> dict:
    """Our training step of the published UNet over the bare one on a batch in memory; other forms of that."""
    params, (few, many) = published(setting), (1, 2) if setting.toy else (5, UNET_STEPS)
    images = torch.randint(0, 256, (4 * params.batch_size, 32, 32, 3), dtype=torch.uint8, device=setting.device)
    compute = arithmetic_of(setting)

    def ours(after: Callable[[int], None]) -> None:
        at_end = dict.fromkeys(("steps", "log_every", "checkpoint_every"), many) | {"warmup_steps": 0}
        training = ddpm.Training(params.model_copy(update=at_end), images)
        run(followed(training.task, after), training.plan, compute)

    own, other = of_a_step(setting, ours, few, many), bare_unet(setting)
    last = bare_unet(setting, torch.channels_last)
    return {"ours": own, "bare": other, "ratio": own / other, "channels_last": last / other}


def profile(setting: Setting) -> dict:
    """Where a step's time goes: the kernels that take most, and how much of the time the device is at work.

    The time includes what the profiler does itself, so the device is at work for at least that share.
    """
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (setting.device == "cuda")
    seen, first, last = profile(activities=activities), steps(setting) - 1, steps(setting) - 1 + PROFILED
    clock = {}

    def after(step: int) -> None:
        if step == first:
            setting.wait()
            seen.start()
            clock[first] = time.perf_counter()
        if step == last:
            setting.wait()
            clock[last] = time.perf_counter()
            seen.stop()

    Ours(setting, sizes(setting)[0])(last + 1, after)
    took = clock[last] - clock[first]
    key = "self_device_time_total" if setting.device == "cuda" else "self_cpu_time_total"
    # An operator of the CPU has the time of the kernels that it launched as well, which have it themselves.
    cpu, marked = setting.device == "cpu", "is_user_annotation"
    events = [e for e in seen.key_averages() if cpu or (e.device_type.name == "CUDA" and not getattr(e, marked, False))]
    events.sort(key=lambda event: -getattr(event, key))
    busy = sum(getattr(event, key) for event in events) / 1e6
    most = {event.key[:70]: f"{getattr(event, key) / 1e3 / PROFILED:.3f} ms a step" for event in events[:15]}
    return {"share of the time at work": busy / took, **most}


CHECKS = [whole_step, without_determinism, memory_format, views, sampling, unet_step, profile, compiled]


# --- what the checks are made of


def arithmetic_of(setting: Setting) -> Compute:
    """bf16 on a GPU; on a CPU, where it may be slow, fp32."""
    return setting.compute("bf16" if setting.device == "cuda" else "fp32")


def sizes(setting: Setting) -> tuple[int, ...]:
    """Batches, in images."""
    return (8,) if setting.toy else (512, 1024)


def steps(setting: Setting) -> int:
    """Steps of one timing."""
    return 2 if setting.toy else 90


def of_a_step(setting: Setting, work: Callable[[Callable[[int], None]], object], few: int, many: int) -> float:
    """Seconds of a step, the least of two runs: from the end of step `few` to that of step `many`, both from 1.

    work(after) runs many steps and calls after(step) at the end of each, before it logs and saves.
    """
    found = []
    for _ in range(2):
        clock = {}

        def after(step: int, clock: dict[int, float] = clock) -> None:
            if step + 1 in (few, many):
                setting.wait()
                clock[step + 1] = time.perf_counter()

        work(after)
        found.append((clock[many] - clock[few]) / (many - few))
    return min(found)


def followed(task: loop.Task, after: Callable[[int], None]) -> loop.Task:
    """The task, with after(step) at each step's end."""

    def both(step: int, progress: float) -> None:
        task.after_step(step, progress)
        after(step)

    return replace(task, after_step=both)


def run(task: loop.Task, plan: loop.Optimisation, compute: Compute) -> None:
    """The loop, with a checkpoint that nobody wants."""
    with tempfile.TemporaryDirectory() as folder:
        loop.train("bench", task, plan, compute, Path(folder), "bench")


def published(setting: Setting):
    """The published DDPM's section, or one that takes no time."""
    values = {where[-1]: value for where, value in presets.load("adainf-cifar10").items() if where[0] == "ddpm"}
    small = {"channels": [8, 16], "layers": 1, "groups": 4, "attention": [], "batch_size": 4}
    values = values | {"batch_size": 256} | (small if setting.toy else {})
    return defaults().ddpm.model_copy(update=values)


def network(setting: Setting) -> simclr.SimCLR:
    """SimCLR on ResNet-18."""
    form = backbones.resnet(8, [1, 1, 1, 1]) if setting.toy else backbones.resnet(64, [2, 2, 2, 2])
    return simclr.SimCLR.build(HEAD, backbones.build(form, [0.5] * 3, [0.25] * 3, 0), 0).train().to(setting.device)


def sgd(groups: list[dict], lr: float) -> torch.optim.Optimizer:
    """Momentum, fused."""
    return torch.optim.SGD(groups, lr, momentum=0.9, fused=True)


def bare(
    setting: Setting,
    views: list[torch.Tensor],
    memory: torch.memory_format = torch.channels_last,
    compiled: bool = False,
) -> float:
    """Seconds of `steps` bare steps."""
    method, compute = network(setting), arithmetic_of(setting)
    method.encoder.backbone.to(memory_format=memory)
    if compiled:
        method.encoder.backbone.compile()
    optimiser = sgd(list(method.parameters()), 0.05)

    def turn() -> None:
        for _ in range(steps(setting)):
            with arithmetic.autocast(compute):
                loss = method.loss(views, 0)["loss"]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    return setting.seconds(turn)


def bare_unet(setting: Setting, memory: torch.memory_format = torch.contiguous_format, compiled: bool = False) -> float:
    """Seconds of a step of the published UNet on a batch in memory."""
    params, compute, many = published(setting), arithmetic_of(setting), 2 if setting.toy else UNET_STEPS
    x = torch.rand(params.batch_size, 3, 32, 32, device=setting.device)
    t = torch.arange(params.batch_size, device=setting.device)
    network = ddpm.unet(params, 32, 3).to(setting.device, memory_format=memory)
    if compiled:
        network.compile()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)  # whose moments have the weights' format

    def turn() -> None:
        for _ in range(many):
            with arithmetic.autocast(compute):
                loss = F.mse_loss(network(x, t).sample.float(), x)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    return setting.seconds(turn, 1) / many


class Ours:
    """The real loop on real and generated images that lie on the device."""

    def __init__(self, setting: Setting, batch: int):
        self.setting, self.method = setting, network(setting)
        n = 4 * batch
        real, made = (np.random.default_rng(k).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for k in range(2))
        bank = ImageBank(real, [made], setting.device)
        numbers: Augment = plain(3, strength=2.0)
        self.batches = Batches(mixture.Mixture(n, n, 1.0, batch, 0), bank, 0, self.method.views, numbers)
        given = {"lr": 0.05, "min_lr": 0.0, "warmup_steps": 0, "warmup_lr": None, "weight_decay": 0.0, "seed": 0}
        self.given = given | {"batch_size": batch}

    def step(self) -> float:
        """Seconds of a step."""
        many = steps(self.setting)
        return of_a_step(self.setting, lambda after: self(many, after), max(1, many // 3), many)

    def __call__(self, count: int, after: Callable[[int], None]) -> None:
        """So many steps, and after(step) at the end of each."""
        at_end = dict.fromkeys(("steps", "log_every", "checkpoint_every"), count)
        task = loop.Task(self.method.phases(), self.batches, {"method": self.method})
        plan = loop.Optimisation(Training(**self.given, **at_end), sgd)
        run(followed(task, after), plan, arithmetic_of(self.setting))
