"""What every method is held to, whatever its formula: tests/methods/test_contract.py runs it for each."""

import atexit
import copy
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from pipeline.core import seeds
from pipeline.generators import gan
from pipeline.methods import (
    Given,
    all4one,
    barlow_twins,
    byol,
    clsp_moco,
    clsp_simclr,
    dino,
    joint_gan,
    mixed_ae,
    moco,
    nnclr,
    simclr,
    simsiam,
    swav,
    vicreg,
)
from pipeline.networks import backbones
from pipeline.params.methods import (
    BYOL,
    DINO,
    NNCLR,
    All4One,
    BarlowTwins,
    CLSPMoCo,
    CLSPSimCLR,
    JointGAN,
    MixedAE,
    MoCo,
    SimCLR,
    SimSiam,
    SwAV,
    VICReg,
)
from pipeline.params.schema import Backbone
from tests import batches

_ALL4ONE = {"hidden_dim": 12, "output_dim": 8, "predictor_dim": 7, "attention_rate": 0.1}
_MOCO = {"temperature": 0.2, "queue_size": 12, "momentum_start": 0.9, "momentum_end": 0.99}
_CLSP = {"hidden_dim": 12, "output_dim": 5, "alignment": 0.5, "third_view": "candidate"}
_SMALL = {"small_views": 2, "small_size": 8, "small_crop_min": 0.1, "small_crop_max": 0.4}
_SWAV = {"prototypes": 7, "temperature": 0.1, "epsilon": 0.05, "iterations": 3, "queue_start": 2}
_MIXED = {"mixing": True, "mix": "compose", "attention": True, "segments": True, "contrast": 0.1, "temperature": 0.25}
_DINO = {"temperature": 0.1, "teacher_temperature_start": 0.04, "teacher_temperature_end": 0.07}
_JOINT = {
    "hidden_dim": 12,
    "output_dim": 5,
    "temperature": 0.5,
    "synthetic": 0.5,
    "perturbation": 0.3,
    "real_steps": 1,
    "every": 2,
    "game_lr": 0.001,
    "weight": 1.0,
    "ramp_steps": 3,
    "guard": 0.5,
    "realism": 0.1,
    "margin_start": 0.05,
    "margin_end": 0.5,
    "monitor_images": 8,
    "monitor_every": 2,
    "growth": 0.25,
    "snapshots": 3,
    "snapshot_images": 2,
}
METHODS = {
    "simclr": (simclr, SimCLR(hidden_dim=12, output_dim=5, temperature=0.2)),
    "moco": (moco, MoCo(hidden_dim=12, output_dim=5, **_MOCO)),
    "clsp_moco": (clsp_moco, CLSPMoCo(**_CLSP, **_MOCO)),
    "clsp_simclr": (clsp_simclr, CLSPSimCLR(**_CLSP, temperature=0.2)),
    "byol": (byol, BYOL(hidden_dim=12, output_dim=5, predictor_dim=7, momentum_start=0.9, momentum_end=1.0)),
    "barlow_twins": (barlow_twins, BarlowTwins(hidden_dim=12, output_dim=6, redundancy=0.0051, scale=0.1)),
    "all4one": (
        all4one,
        All4One(**_ALL4ONE, temperature=1.0, queue_size=12, momentum_start=0.9, momentum_end=1.0, dropout=0.0),
    ),
    "nnclr": (nnclr, NNCLR(hidden_dim=12, output_dim=6, predictor_dim=7, temperature=1.0, queue_size=12)),
    "dino": (
        dino,
        DINO(
            **_DINO,
            **_SMALL,
            hidden_dim=12,
            bottleneck_dim=5,
            output_dim=9,
            teacher_warmup_steps=3,
            center_momentum=0.8,
            momentum_start=0.99,
            momentum_end=1.0,
            freeze_steps=1,
        ),
    ),
    "swav": (swav, SwAV(**_SWAV, **_SMALL, hidden_dim=12, output_dim=6, queue_size=12, freeze_steps=1)),
    "vicreg": (vicreg, VICReg(hidden_dim=12, output_dim=6, invariance=1.0, variance=1.0, covariance=0.04)),
    "joint_gan": (joint_gan, JointGAN(mode="both", **_JOINT)),
    "simsiam": (simsiam, SimSiam(hidden_dim=12, output_dim=6, predictor_dim=4)),
    "mixed_ae": (
        mixed_ae,
        MixedAE(**_MIXED, sources=2, normalised=True, decoder_width=8, decoder_depth=1, decoder_heads=2),
    ),
}
RESNET, VIT = backbones.resnet(4, [1, 1, 1, 1]), backbones.vit(8, 2, 2, 4)
BACKBONES = {"mixed_ae": VIT}  # a ResNet otherwise
SIZE = 12  # pixels of an image's sides


def build(name: str, seed: int = 0, backbone: Backbone | None = None, **changes) -> torch.nn.Module:
    """A small method, in training mode, with other parameters; a copy, for spectral norms take a second to build."""
    if backbone is not None:
        return made(name, seed, backbone, **changes)
    return copy.deepcopy(_built(name, seed, tuple(changes.items())))


@cache
def _built(name: str, seed: int, changes: tuple) -> torch.nn.Module:
    return made(name, seed, **dict(changes))


def made(name: str, seed: int = 0, backbone: Backbone | None = None, **changes) -> torch.nn.Module:
    """What `build` copies."""
    module, params = METHODS[name]
    encoder = backbones.build(backbone or BACKBONES.get(name, RESNET), [0.5], [0.25], seed, SIZE)
    beside = [given()] if hasattr(module, "GENERATOR") else []
    return module.build(params.model_copy(update=changes), encoder, seed, *beside).train()


@cache
def given() -> Given:
    """A GAN of grey images of 12 pixels as it was before its first step, and 20 images."""
    folder = tempfile.mkdtemp(prefix="leaven-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with seeds.scope(0, "toy"):
        toy = gan.GAN(6, 4, 5, SIZE, 1)
    toy.generator.last.weight.data *= 5  # its images would be nearly grey, and their features nearly at a ReLU's kink
    gan.save(toy, folder)
    images = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 1), dtype=np.uint8)
    return Given(Path(folder), images, batches.section("symmetric", "grey", 1.0))


PAIRED = [name for name in METHODS if len(build(name).views) > 1]  # those that compare views of an image


def passes(built: torch.nn.Module, step: int) -> tuple[float, ...]:
    """Of the backbone for each view of an image in a step."""
    return built.passes(step) if callable(built.passes) else built.passes


def views(n: int, step: int = 0, name: str = "simclr") -> list[torch.Tensor]:
    """The views that a method wants of n images, float (n, 1, 12, 12) in [0, 1] where it does not say another size."""
    draws = [seeds.generator(i, "views", step) for i in range(len(sides(name)))]
    return [torch.rand(n, 1, side, side, generator=draw) for side, draw in zip(sides(name), draws, strict=True)]


@cache
def sides(name: str) -> tuple[int, ...]:
    """Of a method's views, in pixels."""
    return tuple(view.size or SIZE for view in build(name).views)


def unit(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    """n random unit vectors, float32 (n, dim)."""
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)
