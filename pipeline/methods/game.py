"""Limits and records of generators that train against an encoder: gradient guard, quality monitor, snapshots.

All state is buffers, so that the method's checkpoint holds it.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.core import seeds
from pipeline.data import shards
from pipeline.engine.distributed import gather
from pipeline.generators import gan
from pipeline.measures import probes

SNAPSHOTS = "gan_snapshots.h5"
_TINY = 1e-12
_ROWS = 256  # images in one pass of the monitor
_ROUNDED = 1e-9  # step / steps x snapshots may be just below a whole number


def guard(adversarial: torch.Tensor, pulling: torch.Tensor, last: list[nn.Parameter], most: float) -> torch.Tensor:
    """A factor for `pulling`, at most 1, that limits its gradient's norm to `most` times that of `adversarial`.

    The gradients are those at the generators' `last` layers.
    """
    norms = []
    for term in (adversarial, pulling):
        local = torch.cat([part.flatten() for part in torch.autograd.grad(term, last, retain_graph=True)])
        norms.append(gather([local[None]])[0].mean(dim=0).norm())  # over processes, as the loop averages
    return (most * norms[0] / norms[1].clamp(min=_TINY)).clamp(max=1)


def fixed_noise(seed: int, purpose: str, n: int, latent: int) -> torch.Tensor:
    """Latents that stay the same throughout and on any device: float (n, latent)."""
    return torch.randn(n, latent, generator=seeds.generator(seed, f"joint-gan {purpose}"))


class Monitor(nn.Module):
    """Frechet distance of n generated images to n of `images`, uint8 (N, H, W, C), in features of the frozen GAN.

    The features are those of its discriminator. `baseline`: of its own generator. `distance`: the last one measured.
    """

    def __init__(self, seed: int, n: int, frozen: gan.GAN, images: np.ndarray):
        super().__init__()
        self.register_buffer("z", fixed_noise(seed, "monitor", n, frozen.form["latent"]))
        rows = seeds.permutation(seed, "monitor", 0, len(images), np.arange(n))
        real = torch.from_numpy(images[np.sort(rows)]).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            self.register_buffer("real", torch.cat([frozen.discriminator(part)[1] for part in real.split(_ROWS)]))
        self.register_buffer("baseline", torch.tensor(self._of(frozen.generator, frozen), dtype=torch.float64))
        self.register_buffer("distance", self.baseline.clone())

    def measure(self, generators: nn.ModuleList, frozen: gan.GAN) -> None:
        """Set `distance` to that of the farthest generator."""
        self.distance.fill_(max(self._of(generator, frozen) for generator in generators))

    def near(self, growth: float) -> torch.Tensor:
        """Whether the distance exceeds the baseline by at most `growth`, as a share of it: bool ()."""
        return self.distance <= (1 + growth) * self.baseline

    @torch.no_grad()
    def _of(self, generator: nn.Module, frozen: gan.GAN) -> float:
        with gan.held(generator):
            features = [frozen.discriminator(generator(part))[1] for part in self.z.split(_ROWS)]
        return probes.frechet(self.real.cpu(), torch.cat(features).cpu())


class Snapshots(nn.Module):
    """Pairs of images (H, W, C) of fixed latents, `z` and `fresh`, float (M, latent) each, at `n` times of the run."""

    def __init__(self, n: int, z: torch.Tensor, fresh: torch.Tensor, shape: tuple[int, int, int]):
        super().__init__()
        rows = len(z)
        self.register_buffer("z", z)
        self.register_buffer("fresh", fresh)
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self._next: int | None = None
        self.register_buffer("steps", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("cosines", torch.zeros(n, rows))
        self.register_buffer("images", torch.zeros((n, rows, 2, *shape), dtype=torch.uint8))

    def _load_from_state_dict(self, *given: object) -> None:
        super()._load_from_state_dict(*given)
        self._next = None

    def due(self, progress: float) -> bool:
        """Whether the next one is due at this share of the run, 0 to 1; they are evenly apart."""
        if self._next is None:
            self._next = int(self.taken)  # once, since a step should ask a GPU for nothing
        k, last = self._next, len(self.steps) - 1
        return k <= last and progress * last >= k - _ROUNDED

    def keep(self, step: int, pair: list[torch.Tensor], cosines: torch.Tensor) -> None:
        """Keep the pairs after `step` steps, float (M, C, H, W) in [-1, 1] each, and their cosines, float (M,)."""
        k = int(self.taken)
        self._next = k + 1
        self.steps[k] = step
        self.cosines[k] = cosines
        self.images[k] = torch.stack([torch.from_numpy(gan.to_uint8(images)) for images in pair], dim=1)
        self.taken.add_(1)

    def write(self, folder: Path, mode: str) -> None:
        """Write step int64 (T,), z float32 (M, latent), images uint8 (T, M, 2, H, W, C), cosine float32 (T, M)."""
        arrays = {"step": self.steps, "z": self.z, "images": self.images, "cosine": self.cosines}
        found = {name: tensor.cpu().numpy() for name, tensor in arrays.items()}
        shards.write_arrays(Path(folder) / SNAPSHOTS, found, {"mode": mode})


def pictures(path: Path) -> list[tuple[str, np.ndarray]]:
    """Titles and uint8 (M, H, W, C) of saved snapshots: the first of each pair, and the second where they differ."""
    with shards.open_file(path) as file:
        steps, images, cosines = (shards.dataset_of(file, name)[:] for name in ("step", "images", "cosine"))
    sets = []
    for step, pairs, cosine in zip(steps, images, cosines, strict=True):
        sets.append((f"step {step}", pairs[:, 0]))
        if not np.array_equal(pairs[:, 0], pairs[:, 1]):
            sets.append((f"step {step}, their partners, mean cosine {cosine.mean():.2f}", pairs[:, 1]))
    return sets


def last_cosine(path: Path) -> float:
    """The mean cosine of the pairs of the last saved snapshot."""
    with shards.open_file(path) as file:
        return float(shards.dataset_of(file, "cosine")[-1].mean())
