"""Small parameters and data that several test files use."""

from pathlib import Path

import numpy as np
import torch

from pipeline import backbones
from pipeline.params.schema import DDPM, GAN, Compute, Pretrain

COMPUTE = Compute(device="cpu", precision="fp32", threads=1, compile=False)
_DDPM = {
    "channels": [4, 8],
    "layers": 1,
    "groups": 2,
    "attention": False,
    "dropout": 0.0,
    "timesteps": 1000,
    "beta_schedule": "linear",
    "prediction": "epsilon",
    "flip": False,
    "steps": 4,
    "batch_size": 6,
    "lr": 0.001,
    "warmup_steps": 1,
    "weight_decay": 0.0,
    "grad_clip": 1.0,
    "ema_decay": 0.9,
    "log_every": 2,
    "checkpoint_every": 3,
    "seed": 0,
}


def ddpm_params(**changes) -> DDPM:
    """A diffusion model that takes no time, with changes."""
    return DDPM(**_DDPM | changes)


_GAN = {
    "latent": 6,
    "generator_channels": 4,
    "discriminator_channels": 5,
    "discriminator_steps": 2,
    "steps": 5,
    "batch_size": 6,
    "lr": 0.001,
    "warmup_steps": 1,
    "weight_decay": 0.0,
    "ema_decay": 0.5,
    "log_every": 2,
    "checkpoint_every": 3,
    "seed": 0,
}


def gan_params(**changes) -> GAN:
    """An adversarial network that takes no time, with changes."""
    return GAN(**_GAN | changes)


_PRETRAIN = {
    "method": "simclr",
    "backbone": backbones.resnet(4, [1, 1, 1, 1]),
    "optimizer": "sgd",
    "momentum": 0.9,
    "beta2": None,
    "trust_coefficient": None,
    "steps": 5,
    "batch_size": 6,
    "lr": 0.1,
    "warmup_steps": 1,
    "weight_decay": 0.01,
    "log_every": 2,
    "checkpoint_every": 2,
    "evaluate_every": 4,
    "seed": 0,
}


def pretrain_params(**changes) -> Pretrain:
    """SimCLR on a ResNet that takes no time, with changes."""
    return Pretrain(**_PRETRAIN | changes)


def counted(monkeypatch, owner: type, name: str):
    """The steps whose loss, a method of the class, was computed: `seen`; `crash` stops before one of them."""
    loss = getattr(owner, name)

    def counting(self, batch, step):
        if step == counting.crash:
            raise KeyboardInterrupt
        counting.seen.append(step)
        return loss(self, batch, step)

    counting.seen, counting.crash = [], None
    monkeypatch.setattr(owner, name, counting)
    return counting


def contents(made: dict[str, Path]) -> dict[str, bytes]:
    """Name -> bytes of files."""
    return {name: path.read_bytes() for name, path in made.items()}


def clusters(n: int, dim: int, classes: int, seed: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around one centre a class: float64 (n, dim), and their labels."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, n)
    x = np.random.default_rng(99).normal(size=(classes, dim))[y] + spread * random.normal(size=(n, dim))
    return torch.from_numpy(x), torch.from_numpy(y)
