"""How often an image meets itself in a batch: N copies shuffled (the authors' way) against Leaven's mixture.

python -m bench.duplicates
"""

import numpy as np

from pipeline.core import seeds
from pipeline.data.mixture import Mixture

BATCHES = 500


def repeats(rows: np.ndarray) -> int:
    """Slots of a batch whose image stood there before."""
    return len(rows) - len(np.unique(rows))


def copied(n: int, m: int, weight: int, batch: int) -> float:
    """Mean repeats a batch when `weight` copies of n real images and m generated ones are shuffled together."""
    everything = np.concatenate([np.tile(np.arange(n), weight), n + np.arange(m)])
    size, found = len(everything), []
    for start in range(0, min(BATCHES * batch, size - batch), batch):
        order = seeds.permutation(0, "bench", 0, size, np.arange(start, start + batch))
        found.append(repeats(everything[order]))
    return float(np.mean(found))


def main() -> None:
    """Print one row a setting."""
    print("| real | generated | N | batch | copies, shuffled | Leaven |\n|---|---|---|---|---|---|")
    for n, m, weight, batch in ((5_000, 100_000, 10, 512), (50_000, 1_000_000, 10, 512), (5_000, 5_000, 10, 256)):
        mixture = Mixture(n, m, weight, batch, seed=0)
        ours = np.mean([repeats(mixture.rows(step)) for step in range(BATCHES)])
        print(f"| {n:,} | {m:,} | {weight} | {batch} | {copied(n, m, weight, batch):.2f} | {ours:.2f} |")


if __name__ == "__main__":
    main()
