"""A trained generator, from the store or made."""

from pathlib import Path

import numpy as np
import torch

from pipeline.core import sources
from pipeline.engine import arithmetic, distributed, loop
from pipeline.params.schema import Compute, Training
from pipeline.training import stored


def train(
    kind: type,
    params: Training,
    images: np.ndarray,
    compute: Compute,
    *conditions: np.ndarray,
    follow: loop.Follow = lambda rows: None,
) -> tuple[dict[str, Path], list[dict]]:
    """Train a generator on uint8 images (N, H, W, C), or find it trained; interrupted training resumes.

    kind: the class `Training` of the generator's module, with task, plan, compile() and save(folder). conditions: what
    else it learns from, a row an image. follow: sees the log as it grows.
    Returns (name -> file of its folder, the rows of the log); of several
    processes, only the first gets them.
    """
    name = kind.__module__.removeprefix("pipeline.").replace(".", "/")
    parts = [np.ascontiguousarray(part) for part in (images, *conditions)]
    decided = {
        "kind": name,
        "params": params.model_dump(),
        "images": [stored.digest(part) for part in parts],
        "code": sources.digest(name),
        "arithmetic": arithmetic.facts(compute),
    }

    def train_in(folder: Path, fingerprint: str) -> tuple[list[str], list[dict]]:
        training = kind(params, *(torch.from_numpy(part).to(compute.device) for part in parts))
        if compute.compile:
            training.compile()
        what = f"training {name.rpartition('/')[2]}"
        rows = loop.train(what, training.task, training.plan, compute, folder, fingerprint, follow)
        return training.save(folder) if distributed.first() else [], rows

    return stored.trained("generator", decided, train_in)
