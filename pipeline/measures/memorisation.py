"""Whether generated images are copies of train images: nearest neighbours in pixels, compared with real images."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.core.progress import bar
from pipeline.measures.probes import pixels

CROWD = 50  # neighbours that a nearest distance is measured against (Carlini et al. 2023)
RARE = 0.01  # share of unseen real images that are as near to a train image as a copy
SURELY = 0.01  # a relative distance below this is a copy, whatever the real images are like
_CHUNK = 10_000_000  # values of the bank that are compared at once


@dataclass
class Near:
    """For each of n images: its nearest train image (row), their distance, and that over the mean of the nearest 50."""

    row: np.ndarray
    distance: np.ndarray
    relative: np.ndarray


def nearest(images: np.ndarray, bank: np.ndarray) -> Near:
    """Nearest neighbours among the bank's images and their mirror images, by Euclidean distance of pixels in [0, 1].

    images: uint8 (n, H, W, C); bank: uint8 (N, H, W, C).
    """
    queries, ways = pixels(images), (bank, bank[:, :, ::-1])
    best = torch.full((len(images), 0), torch.inf)
    rows = torch.zeros((len(images), 0), dtype=torch.int64)  # a mirror image's number is its image's + N
    chunk = max(1, _CHUNK // queries.shape[1])
    with bar("nearest train images", 2 * len(bank), "image") as progress:
        for first in range(0, len(bank), chunk):
            for mirrored, way in enumerate(ways):
                part = pixels(way[first : first + chunk])
                found, number = _smallest(torch.cdist(queries, part))
                best, kept = _smallest(torch.cat([best, found], dim=1))
                rows = torch.cat([rows, mirrored * len(bank) + first + number], dim=1).gather(1, kept)
                progress.update(len(part))
    row = rows[:, 0].numpy()
    neighbours = np.where((row >= len(bank))[:, None, None, None], ways[1][row % len(bank)], ways[0][row % len(bank)])
    # Computed again for the nearest: by the matrix products of the search, a copy is not quite at distance 0.
    distance = (queries - pixels(neighbours)).norm(dim=1)
    crowd = best.mean(dim=1).clamp(min=1e-12)
    return Near(row % len(bank), distance.numpy(), (distance / crowd).numpy())


def copies(generated: Near, unseen: Near) -> tuple[np.ndarray, float]:
    """Whether each generated image is as near to a train image as the nearest RARE of unseen real ones; that limit.

    Distances are relative to those of the other neighbours; otherwise a smooth image would be near to everything
    (Carlini et al., USENIX Security 2023, section 4.2). The limit is at least SURELY, so that copies are found even if
    many real images have duplicates.
    """
    limit = max(float(np.quantile(unseen.relative, RARE)), SURELY)
    return generated.relative <= limit, limit


def _smallest(distances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return distances.topk(min(CROWD, distances.shape[1]), dim=1, largest=False)
