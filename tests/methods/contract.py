"""What every method is held to, whatever its formula: tests/methods/test_contract.py runs it for each."""

import torch

from pipeline import backbones, seeds
from pipeline.methods import (
    all4one,
    barlow_twins,
    byol,
    clsp_moco,
    clsp_simclr,
    dino,
    mixed_ae,
    moco,
    nnclr,
    simclr,
    simsiam,
    swav,
    vicreg,
)
from pipeline.params.methods import (
    BYOL,
    DINO,
    NNCLR,
    All4One,
    BarlowTwins,
    CLSPMoCo,
    CLSPSimCLR,
    MixedAE,
    MoCo,
    SimCLR,
    SimSiam,
    SwAV,
    VICReg,
)
from pipeline.params.schema import Backbone

_ALL4ONE = {"hidden_dim": 12, "output_dim": 8, "predictor_dim": 7, "attention_rate": 0.1}
_MOCO = {"temperature": 0.2, "queue_size": 12, "momentum_start": 0.9, "momentum_end": 0.99}
_CLSP = {"hidden_dim": 12, "output_dim": 5, "alignment": 0.5, "third_view": "candidate"}
_SMALL = {"small_views": 2, "small_size": 8, "small_crop_min": 0.1, "small_crop_max": 0.4}
_SWAV = {"prototypes": 7, "temperature": 0.1, "epsilon": 0.05, "iterations": 3, "queue_start": 2}
_MIXED = {"mixing": True, "attention": True, "segments": True, "contrast": 0.1, "temperature": 0.25}
_DINO = {"temperature": 0.1, "teacher_temperature_start": 0.04, "teacher_temperature_end": 0.07}
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
    "simsiam": (simsiam, SimSiam(hidden_dim=12, output_dim=6, predictor_dim=4)),
    "mixed_ae": (
        mixed_ae,
        MixedAE(**_MIXED, sources=2, normalised=True, decoder_width=8, decoder_depth=1, decoder_heads=2),
    ),
}
RESNET, VIT = backbones.resnet(4, [1, 1, 1, 1]), backbones.vit(8, 2, 2, 4)
BACKBONES = {"mixed_ae": VIT}  # a ResNet otherwise
SIZE = 12  # pixels of an image's sides


def build(name: str, seed: int = 0, backbone: Backbone | None = None) -> torch.nn.Module:
    """A small method, in training mode."""
    module, params = METHODS[name]
    chosen = backbone or BACKBONES.get(name, RESNET)
    return module.build(params, backbones.build(chosen, [0.5], [0.25], seed, SIZE), seed).train()


PAIRED = [name for name in METHODS if len(build(name).views) > 1]  # those that compare views of an image


def views(n: int, step: int = 0, name: str = "simclr") -> list[torch.Tensor]:
    """The views that a method wants of n images, float (n, 1, 12, 12) in [0, 1] where it does not say another size."""
    sides = [view.size or SIZE for view in build(name).views]
    draws = [seeds.generator(i, "views", step) for i in range(len(sides))]
    return [torch.rand(n, 1, side, side, generator=draw) for side, draw in zip(sides, draws, strict=True)]


def unit(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    """n random unit vectors, float32 (n, dim)."""
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)
