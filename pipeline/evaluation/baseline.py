"""A network that one can download, frozen: its features of the images, for the probes that the encoder gets.

Images become what the network was trained on: enlarged (bicubic) if its size is given, grey shown in each of its
channels, normalised by the mean and std that timm knows of its published weights.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from pipeline.core import files, sources
from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.measures import probes
from pipeline.networks import backbones, pretrained
from pipeline.params.schema import Baseline, Compute

_SECTION = "linear_eval.baseline"


class Downloaded(nn.Module):
    """float (N, C, H, W) in [0, 1] -> features (N, D) of the network of a baseline, in evaluation mode."""

    def __init__(self, params: Baseline, path: Path, channels: int, size: int):
        super().__init__()
        config = pretrained.timm_config(params.name)
        wanted, self.size = config.input_size[0], params.size
        if channels not in (1, wanted):
            raise UserError(f"timm's {params.name} takes {wanted} channels, not {channels}", f"params.yaml: {_SECTION}")
        self.network = pretrained.timm_network(params.name, wanted, params.size or size, path).eval()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(config, name))[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.size is not None:
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return self.network((x.expand(-1, len(self.mean), -1, -1) - self.mean) / self.std)


def load(params: Baseline, channels: int, size: int) -> tuple[Downloaded, dict] | None:
    """The frozen network for images of these channels and pixels a side, and what it is; None with source none."""
    path = pretrained.find(params, _SECTION)
    if path is None:
        return None
    facts = {"name": params.name, "sha256": files.sha256(path), "pixels": params.size or size}
    return Downloaded(params, path, channels, size), facts


def features(network: Downloaded, facts: dict, images: np.ndarray, compute: Compute) -> torch.Tensor:
    """Features of uint8 images (N, H, W, C), float32 (N, D) on the CPU; in the store, part by part as they are made.

    facts: what `load` said of the network.
    """
    decided = {
        "network": facts,
        "images": hashlib.sha256(np.ascontiguousarray(images)).hexdigest(),
        "code": sources.digest("evaluation/baseline"),
        "arithmetic": arithmetic.facts(compute),
        "versions": backbones.versions(),
    }

    def begin() -> Callable[[range, tqdm], dict[str, np.ndarray]]:
        network.to(compute.device)
        return make

    def make(rows: range, progress: tqdm) -> dict[str, np.ndarray]:
        found, few = [], probes.at_once(facts["pixels"])
        for first in range(rows.start, rows.stop, few):
            found.append(probes.features(network, images[first : min(first + few, rows.stop)], compute))
            progress.update(len(found[-1]))
        return {"features": torch.cat(found).numpy()}

    made = shards.in_parts("features", decided, len(images), "features of the baseline", "image", begin)
    return torch.from_numpy(np.concatenate([shards.read_array(path, "features") for path in made]))
