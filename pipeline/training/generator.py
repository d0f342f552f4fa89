"""A trained generator, from the store or made."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from pipeline.core import files, sources, store
from pipeline.engine import arithmetic, distributed, loop
from pipeline.params.schema import Compute, Training


def train(
    kind: type, params: Training, images: np.ndarray, compute: Compute, *conditions: np.ndarray
) -> tuple[dict[str, Path], list]:
    """Train a generator on uint8 images (N, H, W, C), or find it trained; interrupted training resumes.

    kind: the class `Training` of the generator's module. conditions: what else it learns from, a row an image. Returns
    (name -> file of its folder, the rows of the log); of several processes, only the first gets them.
    """
    name = kind.__module__.removeprefix("pipeline.").replace(".", "/")
    parts = [np.ascontiguousarray(part) for part in (images, *conditions)]
    decided = {
        "kind": name,
        "params": params.model_dump(),
        "images": [[list(part.shape), hashlib.sha256(part).hexdigest()] for part in parts],
        "code": sources.digest(name),
        "arithmetic": arithmetic.facts(compute),
        "processes": distributed.size(),
    }

    def train_in(folder: Path, fingerprint: str) -> list[str]:
        training = kind(params, *(torch.from_numpy(part).to(compute.device) for part in parts))
        what = f"training {name.rpartition('/')[2]}"
        rows = loop.train(what, training.task, training.plan, compute, folder, fingerprint)
        if not distributed.first():
            return []
        names = training.save(folder)
        files.write_json(folder / "rows.json", {"rows": rows})
        return [*names, "rows.json"]

    folder = store.once("generator", decided, train_in, distributed)
    if not distributed.first():
        return {}, []
    names = files.read_json(folder / store.MANIFEST)["files"]
    rows = files.read_json(folder / "rows.json")["rows"]
    return {name: folder / name for name in names if name != "rows.json"}, rows
