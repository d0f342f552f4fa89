"""Small versions of all methods in the folder; tests/methods/test_contract.py tests the contract with each."""

import atexit
import copy
import importlib
import pkgutil
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from pipeline import methods
from pipeline.core import seeds
from pipeline.generators import gan
from pipeline.methods import Given, Method
from pipeline.networks import backbones
from pipeline.params.schema import Backbone, Params
from pipeline.params.types import Section
from tests import batches

# Values of parameters by name, whatever the method. A name that is missing here gets a value of its type.
SMALL = {
    "hidden_dim": 12,
    "output_dim": 6,
    "predictor_dim": 7,
    "bottleneck_dim": 5,
    "temperature": 0.2,
    "queue_size": 12,
    "momentum_start": 0.9,
    "momentum_end": 0.99,
    "freeze_steps": 1,
    "small_views": 2,
    "small_size": 8,
    "small_crop_min": 0.1,
    "small_crop_max": 0.4,
    "decoder_width": 8,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "sources": 2,
}
BY_TYPE = {bool: True, int: 2, float: 0.5}
OTHERS = {  # where the method or its tests want other values
    "all4one": {"output_dim": 8, "attention_rate": 0.1, "temperature": 1.0, "momentum_end": 1.0, "dropout": 0.0},
    "barlow_twins": {"redundancy": 0.0051, "scale": 0.1},
    "byol": {"output_dim": 5, "momentum_end": 1.0},
    **{name: {"output_dim": 5} for name in ("simclr", "moco", "clsp_simclr", "clsp_moco")},
    "dino": {
        "output_dim": 9,
        "temperature": 0.1,
        "teacher_temperature_start": 0.04,
        "teacher_temperature_end": 0.07,
        "teacher_warmup_steps": 3,
        "center_momentum": 0.8,
        "momentum_start": 0.99,
        "momentum_end": 1.0,
    },
    "joint_gan": {
        "mode": "both",
        "output_dim": 5,
        "temperature": 0.5,
        "perturbation": 0.3,
        "real_steps": 1,
        "game_lr": 0.001,
        "weight": 1.0,
        "ramp_steps": 3,
        "realism": 0.1,
        "margin_start": 0.05,
        "monitor_images": 8,
        "growth": 0.25,
        "snapshots": 3,
    },
    "mixed_ae": {"contrast": 0.1, "temperature": 0.25},
    "nnclr": {"temperature": 1.0},
    "simclr": {"views_together": True},
    "simsiam": {"predictor_dim": 4, "constant_predictor": True},
    "swav": {"prototypes": 7, "temperature": 0.1, "epsilon": 0.05, "iterations": 3},
    "vicreg": {"invariance": 1.0, "variance": 1.0, "covariance": 0.04},
}
RESNET, VIT = backbones.resnet(4, [1, 1, 1, 1]), backbones.vit(8, 2, 2, 4)
BACKBONES = {"mixed_ae": VIT}  # a ResNet otherwise
SIZE = 12  # pixels of an image's sides


def small(name: str) -> Section:
    """A method's section with small values."""
    section = Params.model_fields[name].annotation
    return section(**{field: value(name, field, info.annotation) for field, info in section.model_fields.items()})


def value(name: str, field: str, kind: type) -> Any:
    """A small value of one parameter of a method."""
    known = SMALL | OTHERS.get(name, {})
    if field in known:
        return known[field]
    return BY_TYPE[kind] if kind in BY_TYPE else get_args(kind)[0]


def found() -> list[str]:
    """The names of the modules of the folder that have a method."""
    modules = [importlib.import_module(f"{methods.__name__}.{m.name}") for m in pkgutil.iter_modules(methods.__path__)]
    return [m.__name__.rpartition(".")[2] for m in modules if any(methods.is_method_of(m, v) for v in vars(m).values())]


METHODS = {name: small(name) for name in found()}  # name -> small section


def build(name: str, seed: int = 0, backbone: Backbone | None = None, **changes) -> Method:
    """A small method, in training mode, with other parameters; a copy, for spectral norms take a second to build."""
    if backbone is not None:
        return made(name, seed, backbone, **changes)
    return copy.deepcopy(_built(name, seed, tuple(changes.items())))


@cache
def _built(name: str, seed: int, changes: tuple) -> Method:
    return made(name, seed, **dict(changes))


def made(
    name: str, seed: int = 0, backbone: Backbone | None = None, encoder_seed: int | None = None, **changes
) -> Method:
    """The method that `build` copies."""
    method, first = methods.load(name), seed if encoder_seed is None else encoder_seed
    encoder = backbones.build(backbone or BACKBONES.get(name, RESNET), [0.5], [0.25], first, SIZE)
    extra = [given()] if method.GENERATOR else []
    return method.build(METHODS[name].model_copy(update=changes), encoder, seed, *extra).train()


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


PAIRED = [name for name in METHODS if len(build(name).views) > 1]  # methods that compare views of an image


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
