"""Random batches from the image bank against reading each image from the HDF5 file (reported, no target).

python -m bench store
"""

import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch

from bench import pairs
from bench.views import images
from pipeline.data import mixture, shards

BATCH, STEPS = 256, 50


def rows() -> list[pairs.Row]:
    """The same rows of the same images, both ways."""
    pixels = images()
    walk = mixture.Mixture(len(pixels), 0, 1.0, BATCH, 0)
    bank = shards.ImageBank(pixels, [], "cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.h5"
        shards.write_arrays(path, {"images": pixels}, {})
        with h5py.File(path) as file:
            stored = file["images"]

            def one_by_one() -> list[torch.Tensor]:
                return [torch.from_numpy(np.stack([stored[row] for row in walk.rows(k)])) for k in range(STEPS)]

            def ours() -> list[torch.Tensor]:
                return [bank[walk.rows(k)] for k in range(STEPS)]

            for mine, theirs in zip(ours(), one_by_one(), strict=True):
                if not torch.equal(mine, theirs):
                    raise SystemExit("store: images differ: not the same work")
            note = f"{STEPS} random batches of {BATCH}, 32 x 32 x 3"
            return [pairs.compare("store", ours, one_by_one, None, note=note)]
