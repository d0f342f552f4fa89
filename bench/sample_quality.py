"""The default's few-step sampler against 1,000 steps of DDPM: images a second, and Frechet distance on 2,000 images.

python -m bench.sample_quality      about an hour on two cores, run once and recorded; needs a default run's data/

Finished shards stay in the store, so a run that was stopped goes on. The noise of a Frechet distance is its deviation
when the generated images are drawn again with replacement.
"""

from pathlib import Path

import numpy as np
import torch

from bench import pairs
from pipeline.core import seeds
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.evaluation import quality
from pipeline.generators import cards, ddpm, sampling
from pipeline.measures import probes
from pipeline.params import reader

IMAGES, AGAIN, BATCH = 2000, 20, 20
GENERATOR = Path("data/generator")


def made(params, compute) -> np.ndarray:
    """The first IMAGES images of a sampler, from the store or sampled."""
    files, _ = sampling.sample(params, cards.of_generator(GENERATOR), GENERATOR, IMAGES, 28, compute)
    parts = []
    for path in files.values():
        with shards.open_file(path) as file:
            parts.append(file["images"][:])
    return np.concatenate(parts)[:IMAGES]


def distance(real: torch.Tensor, x: torch.Tensor) -> tuple[float, float]:
    """Frechet distance to the real features, and its noise."""
    rows = [torch.randint(len(x), (len(x),), generator=seeds.generator(0, "bench bootstrap", k)) for k in range(AGAIN)]
    return probes.frechet(real, x), float(np.std([probes.frechet(real, x[r]) for r in rows], ddof=1))


def rows() -> list[pairs.Row]:
    """Speed in pairs, and whether the faster one's images are as near to real ones."""
    given = reader.load()
    compute = given.compute
    arithmetic.prepare(compute)
    few = given.generate
    changes = {"sampler": "ddpm", "steps": given.ddpm.timesteps, "eta": 0.0, "batch_size": 100, "shard_size": 100}
    slow = few.model_copy(update=changes)
    real = shards.read_real(Path("data/real"))
    embed, _ = quality.features(real, given.quality, compute)
    unseen = embed(real.part(shards.VALIDATION)[0][:IMAGES])
    found = {name: distance(unseen, embed(made(p, compute))) for name, p in (("few", few), ("slow", slow))}
    model, noise = ddpm.load(GENERATOR)
    model = ddpm.for_sampling(model, compute)

    def sampled(params):
        def work() -> None:
            ddpm.sample(model, noise, params, range(BATCH), params.seed, params.sampler)

        return work

    (a, noise_a), (b, noise_b) = found["few"], found["slow"]
    note = (
        f"{few.sampler}, {few.steps} steps, against ddpm, {slow.steps}; Frechet {a:.2f} +- {noise_a:.2f} "
        f"and {b:.2f} +- {noise_b:.2f} on {IMAGES:,} images"
    )
    row = pairs.compare("sample_quality", sampled(few), sampled(slow), 20, note=note)
    row.met = row.met and a <= b + 2 * float(np.hypot(noise_a, noise_b))
    row.facts |= {"frechet": a, "noise": noise_a, "frechet_slow": b, "noise_slow": noise_b}
    return [row]


if __name__ == "__main__":
    pairs.main(rows)
