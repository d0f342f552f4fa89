"""What training a generator takes of a GPU; apart from generator.py, whose code is in the fingerprints of work."""

import torch

from pipeline.core import processes
from pipeline.engine import footprint
from pipeline.generators import module
from pipeline.params.schema import Compute, Training


def of_step(kind: str, params: Training, image: tuple[int, int, int], compute: Compute) -> float:
    """What a training step on images (H, W, C) takes of a GPU at least, with the two states of Adam and an average."""
    with torch.device("meta"):
        network, forward = module(kind).largest_pass(params, image, params.batch_size // processes.size())
        return footprint.step(network, 3, footprint.kept(network, forward), compute)
