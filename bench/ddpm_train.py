"""A training step of the DDPM: ours against the loop body of diffusers' train_unconditional example; the same UNet.

python -m bench ddpm_train
"""

import copy

import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from bench import pairs
from bench.views import images as rgb
from pipeline.engine import arithmetic, loop
from pipeline.generators import ddpm

STEPS = 20


def gray() -> torch.Tensor:
    """Images of the default preset's size, uint8 (N, 28, 28, 1)."""
    return torch.from_numpy(rgb()[:, :28, :28, :1].copy())


# What the example trains its network for; the default has another objective, which costs the same.
OBJECTIVE = {"prediction": "epsilon", "timestep_sampling": "uniform", "logit_mean": None, "logit_std": None}


class Ours:
    """STEPS steps of the real loop's update on the default preset."""

    def __init__(self, params, pixels: torch.Tensor, compute):
        self.training, self.compute, self.step = ddpm.Training(params, pixels), compute, 0
        (self.phase,) = self.training.task.phases
        self.optimiser, self.meter = loop._optimiser(self.phase, self.training.plan), loop.Meter()

    def __call__(self) -> None:
        task, plan = self.training.task, self.training.plan
        for _ in range(STEPS):
            parts = [task.batch(self.step)]
            self.meter.add(loop._update(self.phase, self.optimiser, parts, self.step, plan, self.compute))
            task.after_step(self.step, 0.5)
            self.step += 1


class Example:
    """The same work as the example does it: accelerate, AdamW, clipping, EMA; batches lie in memory already."""

    def __init__(self, params, pixels: torch.Tensor):
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=True)
        self.noise = ddpm.scheduler(params)
        model = ddpm.unet(params, pixels.shape[1], pixels.shape[3])
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-6)
        schedule = get_cosine_schedule_with_warmup(optimiser, 500, 100_000)
        self.model, self.optimiser, self.schedule = self.accelerator.prepare(model, optimiser, schedule)
        self.average = EMAModel(self.model.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75)
        clean = pixels[: params.batch_size].permute(0, 3, 1, 2).float() / 127.5 - 1
        self.clean, self.generator = clean.contiguous(), torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        for _ in range(STEPS):
            noise = torch.randn(self.clean.shape, generator=self.generator)
            count = self.noise.config.num_train_timesteps
            t = torch.randint(0, count, (len(self.clean),), generator=self.generator).long()
            noisy = self.noise.add_noise(self.clean, noise, t)
            with self.accelerator.accumulate(self.model):
                loss = F.mse_loss(self.model(noisy, t).sample.float(), noise.float())
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimiser.step()
                self.schedule.step()
                self.optimiser.zero_grad()
            self.average.step(self.model.parameters())
            loss.detach().item()  # the example logs it at every step


def same_gradient(params, pixels: torch.Tensor, compute) -> None:
    """Given the same images, noise and timesteps, both ways have the same loss and gradient in fp32."""
    exact = compute.model_copy(update={"precision": "fp32"})
    training = ddpm.Training(params.model_copy(update={"flip": False, "dropout": 0.0}), pixels)
    other = copy.deepcopy(training.unet)
    x = training.batch(0)
    with arithmetic.autocast(exact):
        loss = training.loss(x, 0)["loss"]
    loss.backward()
    draw = training._generator("ddpm-noise", 0)
    noise = torch.randn(x.shape, generator=draw)
    t = torch.randint(0, params.timesteps, (len(x),), generator=draw)
    theirs = F.mse_loss(other(training.noise.add_noise(x, noise, t), t).sample, noise)
    theirs.backward()
    for one, two in zip(training.unet.parameters(), other.parameters(), strict=True):
        if not torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-6):
            raise SystemExit("ddpm_train: gradients differ: not the same work")


def rows() -> list[pairs.Row]:
    """The comparison."""
    given = pairs.setting()
    pixels, params = gray(), given.ddpm.model_copy(update=OBJECTIVE)
    same_gradient(params, pixels, given.compute)
    note = f"{STEPS} steps of {params.batch_size}, 28 x 28 x 1; {given.compute.precision} against fp32 as shipped"
    with pairs.apart(Example, params, pixels) as theirs:
        return [pairs.compare("ddpm_train", Ours(params, pixels, given.compute), theirs, 1.3, pairs=9, note=note)]
