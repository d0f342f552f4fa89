"""A network that one can download, frozen: its features of the images, for the probes that the encoder gets.

Images become what the network was trained on: enlarged (bicubic) if its size is given, grey shown in each of its
channels, normalised by the mean and std that timm knows of its published weights.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.core.progress import bar
from pipeline.measures import probes
from pipeline.networks import elsewhere
from pipeline.params.schema import Baseline, Compute

_SECTION = "linear_eval.baseline"
_BATCH = 500


class Downloaded(nn.Module):
    """float (N, C, H, W) in [0, 1] -> features (N, D) of the network of a baseline, in evaluation mode."""

    def __init__(self, params: Baseline, path: Path, channels: int, size: int):
        super().__init__()
        config = elsewhere.timm_config(params.name)
        wanted, self.size = config.input_size[0], params.size
        if channels not in (1, wanted):
            raise UserError(f"timm's {params.name} takes {wanted} channels, not {channels}", f"params.yaml: {_SECTION}")
        self.network = elsewhere.timm_network(params.name, wanted, params.size or size, path).eval()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(config, name))[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.size is not None:
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return self.network((x.expand(-1, len(self.mean), -1, -1) - self.mean) / self.std)


def load(params: Baseline, channels: int, size: int) -> tuple[Downloaded, dict] | None:
    """The frozen network for images of these channels and pixels a side, and what it is; None with source none."""
    path = elsewhere.find(params, _SECTION)
    if path is None:
        return None
    facts = {"name": params.name, "sha256": files.sha256(path), "pixels": params.size or size}
    return Downloaded(params, path, channels, size), facts


def features(network: Downloaded, images: np.ndarray, compute: Compute) -> torch.Tensor:
    """Features of uint8 images (N, H, W, C): float32 (N, D) on the CPU."""
    network, found = network.to(compute.device), []
    with bar("features of the baseline", len(images), "image") as progress:
        for first in range(0, len(images), _BATCH):
            found.append(probes.features(network, images[first : first + _BATCH], compute))
            progress.update(len(found[-1]))
    return torch.cat(found)
