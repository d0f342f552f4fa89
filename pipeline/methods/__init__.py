"""Self-supervised methods, one file each, named by `pretrain.method`; its parameters are the section of its name.

The contract. A method module has `build(params, encoder, seed)` -> an nn.Module with
    views          the augmented copies it wants of an image, as data: a tuple of `View`
    passes         of the backbone for each view of an image, in forward passes: a backward pass counts as two
    phases()       the players of a step (pipeline.loop.Phase): parameter groups and a loss over the batch's views
    before_step(step, progress), after_step(step, progress)   momentum updates, queues
The module's state (heads, averages, queues) is persistent buffers and parameters. It owns no optimiser, no loop, no
logging and no device call. The batch that reaches the loss is a list of float tensors (B, C, H, W), one a view: with
several processes, this one's rows. What is made of them passes through `distributed.gather` before rows meet in a loss.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal


@dataclass(frozen=True)
class View:
    """One augmented copy.

    source: "anchor", the image that the mixture drew, or "positive", another image in its place, if it has one.
    recipe: its augmentation's number. size: pixels of its sides, null for the image's own. crop: the smallest and the
    largest share of the image that it shows, null for what the augmentation says.
    """

    source: Literal["anchor", "positive"] = "anchor"
    recipe: int = 0
    size: int | None = None
    crop: tuple[float, float] | None = None


def module(name: str) -> ModuleType:
    """The module of one method, imported on use."""
    return importlib.import_module(f"pipeline.methods.{name}")
