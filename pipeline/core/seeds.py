"""The only source of randomness: every random number is a pure function of (seed, purpose, index).

There is no random state to save, so a resumed run draws what an uninterrupted one would have drawn.
"""

import contextlib
import hashlib

import numpy as np
import torch

_ROUNDS = 6
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key(seed: int, purpose: str, *index: int) -> int:
    """A 64-bit integer that depends on every argument."""
    return int.from_bytes(_digest(seed, purpose, index)[:8], "little")


def _digest(seed: int, purpose: str, index: tuple[int, ...]) -> bytes:
    words = "/".join([str(int(seed)), purpose, *(str(int(i)) for i in index)])
    return hashlib.blake2b(words.encode(), digest_size=16).digest()


def noise(shape: tuple[int, ...], seed: int, purpose: str, *index: int) -> torch.Tensor:
    """Standard normal float32 numbers of one purpose at one index, from a 128-bit key (Philox).

    For what is drawn a million times: torch's generator on a CPU keeps 32 bits of its seed, so that among a million
    images a hundred pairs would start from the same noise.
    """
    philox = np.random.Philox(key=int.from_bytes(_digest(seed, purpose, index), "little"))
    return torch.from_numpy(np.random.Generator(philox).standard_normal(shape, dtype=np.float32))


def generator(seed: int, purpose: str, *index: int, device: str = "cpu") -> torch.Generator:
    """A fresh torch generator for one purpose at one index (a step, an image, ...); on a CPU, of 32 bits of the key."""
    return torch.Generator(device=device).manual_seed(key(seed, purpose, *index))


@contextlib.contextmanager
def scope(seed: int, purpose: str, *index: int):
    """Seed torch's global generators inside the block, for what takes no generator (initialisation, dropout)."""
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed(key(seed, purpose, *index))
        yield


def permutation(seed: int, purpose: str, index: int, n: int, positions: np.ndarray) -> np.ndarray:
    """Entries `positions` of the `index`-th pseudo-random permutation of range(n), without building it.

    A Feistel network on the smallest power of two >= n permutes the domain; values >= n walk on along their
    cycle until they fall inside (Black and Rogaway, CT-RSA 2002). O(len(positions)) time and memory.

    positions: int64 (k,), each in [0, n). Returns int64 (k,).
    """
    bits = max(2, int(n - 1).bit_length())
    low = bits // 2
    keys = np.array([key(seed, purpose, index, r) for r in range(_ROUNDS)], dtype=np.uint64)
    out = np.asarray(positions, dtype=np.uint64).copy()
    outside = np.arange(len(out))
    while len(outside):
        out[outside] = _feistel(out[outside], low, bits - low, keys)
        outside = outside[out[outside] >= n]
    return out.astype(np.int64)


def _feistel(x: np.ndarray, low: int, high: int, keys: np.ndarray) -> np.ndarray:
    # The halves differ by a bit when the domain has an odd number of them, so their widths swap each round.
    for k in keys:
        right, left = x & np.uint64((1 << low) - 1), x >> np.uint64(low)
        left = left ^ (_mix(right, k) & np.uint64((1 << high) - 1))
        x, low, high = (right << np.uint64(high)) | left, high, low
    return x


def _mix(x: np.ndarray, k: np.uint64) -> np.ndarray:
    x = x + k  # unsigned arithmetic wraps around, as splitmix64 wants
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))
