"""Images from a generator, shard by shard: shard k is a function of its fingerprint and k, so a set only ever grows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.core import files, store
from pipeline.core.progress import bar, log
from pipeline.data import shards
from pipeline.engine import distributed, loop
from pipeline.generators import module
from pipeline.params.schema import Compute, Generate, Positives

Batch = Callable[[range], dict[str, np.ndarray]]


def fill(
    params: Generate, card: dict, generator: Path, n: int, size: int, compute: Compute
) -> tuple[dict[str, Path], str]:
    """At least n images of size x size, as whole shards in the store; samples only what is missing there.

    generator: a folder with this `card`. Returns (shard name -> file, fingerprint of the set).
    """
    kind = card["kind"]
    fingerprint = store.fingerprint(
        generator=card["files"],
        params=params.model_dump(),
        size=size,
        code=store.code("generators/sampling", f"generators/{kind}"),
        arithmetic=loop.arithmetic(compute),
    )

    def start() -> Batch:
        made = module(kind).batches(generator, params, size, compute)
        return lambda numbers: {"images": made(numbers)}

    return stock(f"sampling ({params.sampler}, {params.steps} steps)", n, params, fingerprint, start), fingerprint


def fill_positives(
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
    own = params.model_dump(exclude={"candidates"})
    fingerprint = store.fingerprint(**decided, params=own, arithmetic=loop.arithmetic(compute))

    def named() -> Batch:
        batch, n = start(), len(names)

        def of(numbers: range) -> dict[str, np.ndarray]:
            place = np.array(numbers)
            return {"images": batch(numbers), "anchor_index": names[place % n], "candidate": place // n}

        return of

    return stock(what, params.candidates * len(names), params, fingerprint, named), fingerprint


def stock(
    what: str, n: int, grid: Generate | Positives, fingerprint: str, start: Callable[[], Batch]
) -> dict[str, Path]:
    """At least n images as whole shards of `grid.shard_size` in the store: shard name -> file. Makes what is missing.

    start() -> batch(numbers) -> arrays of `grid.batch_size` rows, "images" among them; called if anything is missing.
    Several processes share the shards out.
    """
    count = -(-n // grid.shard_size)
    names = [shards.shard_name(k) for k in range(count)]
    with distributed.work("shards", fingerprint) as folder:
        missing = distributed.agreed([k for k in range(count) if distributed.first() and not _whole(folder / names[k])])
        if len(missing) < count:
            log(f"sampling: {count - len(missing)} of {count} shards are in the store")
        if missing:
            batch, own = start(), missing[distributed.rank() :: distributed.size()]
            with bar(what, len(own) * grid.shard_size, "image") as seen:
                for k in own:
                    parts = []
                    for first in range(k * grid.shard_size, (k + 1) * grid.shard_size, grid.batch_size):
                        parts.append(batch(range(first, first + grid.batch_size)))
                        seen.update(grid.batch_size)
                    path = folder / names[k]
                    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                    shards.write_arrays(path, whole, {"shard": k})
                    files.write_text(path.with_suffix(".sha256"), files.sha256(path))
        return {name: folder / name for name in names}


def _whole(path: Path) -> bool:
    digest = path.with_suffix(".sha256")
    return path.exists() and digest.exists() and digest.read_text() == files.sha256(path)
