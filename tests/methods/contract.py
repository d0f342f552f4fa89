"""What every method is held to, whatever its formula: tests/methods/test_contract.py runs it for each."""

import torch

from pipeline import backbones, seeds
from pipeline.methods import all4one, barlow_twins, byol, clsp_moco, clsp_simclr, moco, nnclr, simclr, simsiam
from pipeline.params.schema import (
    BYOL,
    NNCLR,
    All4One,
    Backbone,
    BarlowTwins,
    CLSPMoCo,
    CLSPSimCLR,
    MoCo,
    SimCLR,
    SimSiam,
)

_ALL4ONE = {"hidden_dim": 12, "output_dim": 8, "predictor_dim": 7, "attention_rate": 0.1}
_MOCO = {"temperature": 0.2, "queue_size": 12, "momentum_start": 0.9, "momentum_end": 0.99}
_CLSP = {"hidden_dim": 12, "output_dim": 5, "alignment": 0.5, "third_view": "candidate"}
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
    "simsiam": (simsiam, SimSiam(hidden_dim=12, output_dim=6, predictor_dim=4)),
}


def build(name: str, seed: int = 0) -> torch.nn.Module:
    """A small method, in training mode."""
    module, params = METHODS[name]
    encoder = backbones.build(Backbone(width=4, blocks=[1, 1, 1, 1]), [0.5], [0.25], seed)
    return module.build(params, encoder, seed).train()


def views(n: int, step: int = 0, name: str = "simclr") -> list[torch.Tensor]:
    """The views of n images that a method wants, float (n, 1, 12, 12) in [0, 1] or of the size that it says."""
    sides = [view.size or 12 for view in build(name).views]
    return [torch.rand(n, 1, s, s, generator=seeds.generator(view, "views", step)) for view, s in enumerate(sides)]


def unit(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    """n random unit vectors, float32 (n, dim)."""
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)
