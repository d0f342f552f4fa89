"""Sampling shard by shard: shard k is a function of its fingerprint and k, so that a set only ever grows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.core import sources, store
from pipeline.core.errors import UserError
from pipeline.core.progress import bar, log
from pipeline.data import shards
from pipeline.engine import arithmetic, distributed
from pipeline.generators import module
from pipeline.params.schema import Compute, Generate, Positives

Batch = Callable[[range], dict[str, np.ndarray]]  # numbers -> arrays of as many rows, "images" among them


def sample(
    params: Generate, card: dict, generator: Path, n: int, size: int, compute: Compute, only: range | None = None
) -> tuple[dict[str, Path], str]:
    """At least n images of size x size as whole shards in the store; only missing shards are sampled.

    generator: a folder with this `card`. Of imported or real images these are the first n. only: these shards alone,
    numbered from 0, whatever n is; of sampled images. Returns (shard name -> file, fingerprint of the set).
    """
    if card["source"] in ("import", "real"):
        return _cut(params, card, generator, n)
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

    return sample_shards(f"sampling ({params.sampler}, {params.steps} steps)", n, params, parts, start, only)


def _cut(params: Generate, card: dict, generator: Path, n: int) -> tuple[dict[str, Path], str]:
    images = shards.map_file(generator / shards.FILE)
    if n > len(images):
        what = f"inflation.ratio asks for {n:,} images and data/generator has {len(images):,} ({card['source']})"
        more = "import more" if card["source"] == "import" else "raise dataset.ceiling_size"
        raise UserError(what, "params.yaml: inflation.ratio", f"lower it, or {more}")
    parts = {"images": card["files"], "shard_size": params.shard_size, "code": sources.digest("generators/sampling")}

    def start() -> Batch:
        return lambda numbers: {"images": images[numbers.start : numbers.stop]}

    return sample_shards("images that are there", n, params, parts, start)


def sample_shards(
    what: str,
    n: int,
    grid: Generate | Positives,
    parts: dict,
    start: Callable[[], Batch],
    only: range | None = None,
) -> tuple[dict[str, Path], str]:
    """At least n images as whole shards of `grid.shard_size`: (shard name -> file, fingerprint of the set).

    parts: everything that decides their pixels. start() -> batch(numbers) -> arrays of `grid.batch_size` rows; called
    only if a shard is missing. only: these shards alone. Several processes divide the shards among them; those that
    another program is at work on are left to it.
    """
    numbers = {shards.shard_name(k): k for k in (range(-(-n // grid.shard_size)) if only is None else only)}
    bars = []

    def begin(missing: list[str]) -> Callable[[Path], None]:
        log(f"{what}: {len(missing)} of {len(numbers)} shards")
        batch, seen = start(), bar(what, len(missing) * grid.shard_size, "image")
        bars.append(seen)

        def write(path: Path) -> None:
            seen.update(max(0, missing.index(path.name) * grid.shard_size - seen.n))  # what others made meanwhile
            k, made = numbers[path.name], []
            for first in range(k * grid.shard_size, (k + 1) * grid.shard_size, grid.batch_size):
                made.append(batch(range(first, first + grid.batch_size)))
                seen.update(grid.batch_size)
            whole = {name: np.concatenate([part[name] for part in made]) for name in made[0]}
            shards.write_arrays(path, whole, {"shard": k})

        return write

    made = store.grow("shards", parts, list(numbers), begin, distributed)
    for seen in bars:
        seen.update(seen.total - seen.n)
        seen.close()
    return made, store.fingerprint(**parts)
