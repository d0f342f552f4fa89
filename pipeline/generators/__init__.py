"""Generators of images. A kind is one file, named by `generator.kind`; its parameters are the section of that name.

A kind's module defines what `Kind` lists; pretrained.py and the files beside it serve the DDPM alone. A kind is
trained: images that are made in another way are imported.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.params.schema import Compute, Generate
from pipeline.params.types import Section

if TYPE_CHECKING:
    from torch import nn


class Kind(Protocol):
    """What the module of a kind defines.

    Training(params, images): the class that the stage trains, on uint8 images (N, H, W, C) on the device. It has `task`
    and `plan` for engine.loop.train, and save(folder) -> names of the files, which is called after training.
    """

    Training: type

    def largest_pass(
        self, params: Section, image: tuple[int, int, int], images: int
    ) -> tuple["nn.Module", Callable[[], object]]:
        """What a training step on so many images (H, W, C) keeps most for: a network, and its forward pass."""

    def batches(self, folder: Path, params: Generate, size: int, compute: Compute) -> Callable[[range], np.ndarray]:
        """batch(numbers) -> images, uint8 (n, size, size, C), by the generator that `save` wrote to the folder.

        An image depends on its number and its row in the batch, not on what else is sampled.
        """


def module(kind: str) -> Kind:
    """The module of one kind, imported on use."""
    return importlib.import_module(f"pipeline.generators.{kind}")
