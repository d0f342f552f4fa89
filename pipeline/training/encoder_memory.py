"""What pretraining an encoder takes of a GPU; apart from encoder.py, whose code is in the fingerprints of work."""

from functools import partial

import torch

from pipeline import methods
from pipeline.core import processes
from pipeline.engine import footprint
from pipeline.networks import backbones
from pipeline.params.schema import Compute, Pretrain
from pipeline.params.types import Section


def of_step(params: Pretrain, section: Section, image: tuple[int, int, int], compute: Compute) -> float:
    """What a step on images (H, W, C) by the method of this section takes of a GPU at least: the encoder's passes.

    A method with a generator wants its files: of such a one the encoder and two views are counted alone.
    """
    kind, (side, _, channels) = methods.load(params.method), image
    with torch.device("meta"):
        encoder = backbones.build(params.backbone, [0.5] * channels, [0.5] * channels, params.seed, side)
        method = None if kind.GENERATOR else kind.build(section, encoder, params.seed)
        activations, images = 0.0, params.batch_size // params.accumulate // processes.size()
        for view, passes in zip((method or kind).views, method.passes(0) if method else (3, 3), strict=False):
            x = torch.empty(images, channels, view.size or side, view.size or side)
            share = min(1, passes / 3)  # below 3: of fewer patches
            activations += share * footprint.kept(encoder, partial(encoder, x))
    states = {"sgd": 1, "lars": 1, "adamw": 2}[params.optimizer]
    return footprint.step(method or encoder, states, activations, compute)
