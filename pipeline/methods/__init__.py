"""Self-supervised methods, one file each, named by `pretrain.method`; its parameters are the section of its name.

The contract. A method module has `build(params, encoder, seed)` -> an nn.Module with
    views          the augmented copies it wants of an image, as data: a tuple of `View`
    passes         of the backbone for each view of an image, in forward passes: a backward pass counts as two; of a
                   method whose steps differ a function of the step
    phases()       the players of a step (pipeline.loop.Phase): parameter groups and a loss over the batch's views
    before_step(step, progress), after_step(step, progress)   momentum updates, queues
    leave(folder, images)   where there is something to keep beside the encoder: writes it there when training is over,
                   returns the files' names; images: those of validation, uint8 (N, H, W, C)
A module whose method leaves something has `pictures(made)`, what is to be seen of it, made: file's name -> path; a list
of (title, uint8 images (N, H, W, C)). One that says more of a finished training than its loss has
`outcomes(rows, made)`, numbers by name for metrics/pretrain.json, rows: of its log.
A module that has GENERATOR, a kind of pipeline.generators, wants a trained one: its `build` gets `Given` as well.
The module's state (heads, averages, queues) is persistent buffers and parameters. It owns no optimiser, no loop, no
logging and no device call. The batch that reaches the loss is a list of float tensors (B, C, H, W), one a view: with
several processes, this one's rows. What is made of them passes through `distributed.gather` before rows meet in a loss.
"""

import importlib
import statistics
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from pipeline.params.schema import Augment


@dataclass(frozen=True)
class View:
    """One augmented copy.

    source: "anchor", the image that the mixture drew, or "positive", another image in its place, if it has one.
    recipe: its augmentation's number, null for the image as it is. size: pixels of its sides, null for the image's own.
    crop: the smallest and the largest share of the image that it shows, null for what the augmentation says.
    """

    source: Literal["anchor", "positive"] = "anchor"
    recipe: int | None = 0
    size: int | None = None
    crop: tuple[float, float] | None = None


@dataclass(frozen=True)
class Given:
    """What a method with a generator is built from, beside what all are.

    generator: the folder of a trained one, its files checked. images: the train images, uint8 (N, H, W, C).
    augmentation: of the views of images that the method makes itself.
    """

    generator: Path
    images: np.ndarray
    augmentation: Augment


def module(name: str) -> ModuleType:
    """The module of one method, imported on use."""
    return importlib.import_module(f"pipeline.methods.{name}")


def late(rows: list[dict], name: str) -> float:
    """The mean of a number of the log over the rows of the last tenth of the steps."""
    return statistics.fmean(row[name] for row in rows if 10 * row["step"] > 9 * rows[-1]["step"])
