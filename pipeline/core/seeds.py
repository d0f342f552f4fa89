"""The only source of randomness: every random number is a pure function of (seed, purpose, index).

There is no random state to save, so a resumed run draws what an uninterrupted one would have drawn.
"""

import contextlib
import functools
import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch  # three seconds, and the stage `prepare` needs none of it


def key(seed: int, purpose: str, *index: int) -> int:
    """A 64-bit integer that depends on every argument."""
    return int.from_bytes(_digest(seed, purpose, index)[:8], "little")


def _digest(seed: int, purpose: str, index: tuple[int, ...]) -> bytes:
    words = "/".join([str(int(seed)), purpose, *(str(int(i)) for i in index)])
    return hashlib.blake2b(words.encode(), digest_size=16).digest()


def noise(shape: tuple[int, ...], seed: int, purpose: str, *index: int) -> "torch.Tensor":
    """Standard normal float32 numbers of one purpose at one index, from a 128-bit key (Philox).

    For what is drawn a million times: torch's generator on a CPU keeps 32 bits of its seed, so that among a million
    images a hundred pairs would start from the same noise.
    """
    import torch

    philox = np.random.Philox(key=int.from_bytes(_digest(seed, purpose, index), "little"))
    return torch.from_numpy(np.random.Generator(philox).standard_normal(shape, dtype=np.float32))


def generator(seed: int, purpose: str, *index: int, device: str = "cpu") -> "torch.Generator":
    """A fresh torch generator for one purpose at one index (a step, an image, ...); on a CPU, of 32 bits of the key."""
    import torch

    return torch.Generator(device=device).manual_seed(key(seed, purpose, *index))


@contextlib.contextmanager
def scope(seed: int, purpose: str, *index: int):
    """Seed torch's global generators inside the block, for what takes no generator (initialisation, dropout)."""
    import torch

    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed(key(seed, purpose, *index))
        yield


def permutation(seed: int, purpose: str, index: int, n: int, positions: np.ndarray | slice | int) -> np.ndarray:
    """Entries `positions` of the `index`-th pseudo-random permutation of range(n), which is kept for the next call.

    positions: of range(n), int64 (k,), a slice or one number. Returns int64, as many. The last few permutations take
    8 n bytes each.
    """
    return _permutation(_digest(seed, purpose, (index,)), n)[positions]


@functools.lru_cache(maxsize=8)  # of a mixture's real and generated images, this pass and the one before
def _permutation(digest: bytes, n: int) -> np.ndarray:
    philox = np.random.Philox(key=int.from_bytes(digest, "little"))
    return np.random.Generator(philox).permutation(n)
