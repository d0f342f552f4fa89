"""The bank of images that batches are drawn from."""

import math

import numpy as np
import torch

from pipeline.core.devices import sent
from pipeline.core.errors import UserError


class ImageBank:
    """Real images, then generated ones, as uint8 (N, H, W, C): one tensor on a GPU, the given arrays on a CPU.

    Where they would take more than half of what a GPU has free they stay where they are, and batches are sent. A batch
    is an index into the bank; rows below `n_real` are real. There are no worker processes and no decoding. shape: of an
    image, (H, W, C).
    """

    def __init__(self, real: np.ndarray, generated: list[np.ndarray], device: str):
        """generated: parts in order; on a CPU, memory maps stay memory maps."""
        for part in generated:
            if len(part) and real.shape[1:] != part.shape[1:]:
                what = f"real images are {real.shape[1:]}, generated ones {part.shape[1:]} (H, W, C)"
                raise UserError(what, "data/generated", "use a generator of the data's size and channels")
        self.n_real, self.n_generated, self.device = len(real), sum(map(len, generated)), device
        parts = [torch.from_numpy(part) for part in (real, *generated) if len(part)]
        if device != "cpu" and sum(part.nbytes for part in parts) <= self._room():
            whole = torch.empty((self.n_real + self.n_generated, *real.shape[1:]), dtype=torch.uint8, device=device)
            for place, part in zip(whole.split([len(part) for part in parts]), parts, strict=True):
                place.copy_(part)
            parts = [whole]
        self.parts, self.starts, self.shape = parts, np.cumsum([0, *map(len, parts)]), real.shape[1:]

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        """uint8 (len(rows), H, W, C) on the device."""
        first = self.parts[0]
        if first.device.type != "cpu":
            return first.index_select(0, sent(torch.from_numpy(rows), first.device))
        which = np.searchsorted(self.starts, rows, side="right") - 1
        found = first.new_empty((len(rows), *first.shape[1:]))
        for k in np.unique(which):
            here = np.flatnonzero(which == k)
            picked = self.parts[k].index_select(0, torch.from_numpy(rows[here] - self.starts[k]))
            if len(here) == len(rows):
                found = picked
            else:
                found[torch.from_numpy(here)] = picked
        return sent(found, self.device)

    def _room(self) -> float:
        """Bytes that images may take of the device."""
        return torch.cuda.mem_get_info()[0] / 2 if self.device == "cuda" else math.inf
