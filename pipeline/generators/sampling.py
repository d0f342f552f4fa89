"""Images from a generator, shard by shard: shard k is a function of its fingerprint and k, so a set only ever grows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.core import sources, store
from pipeline.core.progress import bar, log
from pipeline.data import shards
from pipeline.engine import arithmetic, distributed
from pipeline.generators import module
from pipeline.params.schema import Compute, Generate, Positives

Batch = Callable[[range], dict[str, np.ndarray]]


def sample(
    params: Generate, card: dict, generator: Path, n: int, size: int, compute: Compute
) -> tuple[dict[str, Path], str]:
    """At least n images of size x size, as whole shards in the store; samples only what is missing there.

    generator: a folder with this `card`. Returns (shard name -> file, fingerprint of the set).
    """
    kind = card["kind"]
    parts = {
        "generator": card["files"],
        "params": params.model_dump(),
        "size": size,
        "code": sources.digest("generators/sampling", f"generators/{kind}"),
        "arithmetic": arithmetic.facts(compute),
    }

    def start() -> Batch:
        batch = module(kind).batches(generator, params, size, compute)
        return lambda numbers: {"images": batch(numbers)}

    return sample_shards(f"sampling ({params.sampler}, {params.steps} steps)", n, params, parts, start)


def sample_positives(
    what: str,
    params: Positives,
    decided: dict,
    names: np.ndarray,
    compute: Compute,
    start: Callable[[], Callable[[range], np.ndarray]],
) -> tuple[dict[str, Path], str]:
    """`params.candidates` positives of each of n images, candidate by candidate, as whole shards in the store.

    Number c n + a is candidate c of image a. decided: what decides their pixels beside parameters and arithmetic;
    names: int64 (n,), what a shard calls each image (`anchor_index`); start() -> batch(numbers) -> uint8 images. More
    candidates add shards. Returns (shard name -> file, fingerprint of the set).
    """
    grid = params.model_dump(exclude={"candidates"})

    def named() -> Batch:
        batch, n = start(), len(names)

        def of(numbers: range) -> dict[str, np.ndarray]:
            place = np.array(numbers)
            return {"images": batch(numbers), "anchor_index": names[place % n], "candidate": place // n}

        return of

    parts = {**decided, "params": grid, "arithmetic": arithmetic.facts(compute)}
    return sample_shards(what, params.candidates * len(names), params, parts, named)


def sample_shards(
    what: str, n: int, grid: Generate | Positives, parts: dict, start: Callable[[], Batch]
) -> tuple[dict[str, Path], str]:
    """At least n images as whole shards of `grid.shard_size`: (shard name -> file, fingerprint of the set).

    parts: what decides their pixels. start() -> batch(numbers) -> arrays of `grid.batch_size` rows, "images" among
    them; called if a shard is missing. Several processes share the shards out.
    """
    names = [shards.shard_name(k) for k in range(-(-n // grid.shard_size))]

    def begin(missing: list[str]) -> Callable[[Path], None]:
        log(f"{what}: {len(missing)} of {len(names)} shards")
        batch, seen = start(), bar(what, len(missing) * grid.shard_size, "image")

        def write(path: Path) -> None:
            k, made = names.index(path.name), []
            for first in range(k * grid.shard_size, (k + 1) * grid.shard_size, grid.batch_size):
                made.append(batch(range(first, first + grid.batch_size)))
                seen.update(grid.batch_size)
            whole = {name: np.concatenate([part[name] for part in made]) for name in made[0]}
            shards.write_arrays(path, whole, {"shard": k})
            if path.name == missing[-1]:
                seen.close()

        return write

    return store.grow("shards", parts, names, begin, distributed), store.fingerprint(**parts)
