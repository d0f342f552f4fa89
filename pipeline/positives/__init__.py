"""Positives: generated images of each train image, which stand beside it or take the place of its views.

A kind of positives is one file of this room, named by `positives.kind`, that defines `KIND`. No other code tells one
kind from another. The parameters of a kind are the section `positives` and, if there is one, the section of its name.
"""

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pipeline.core import sources
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.generators import sampling
from pipeline.params.positives import KINDS

Batch = Callable[[range, float], np.ndarray]  # numbers, weight or guidance -> uint8 (len(numbers), H, W, C)


@dataclass(frozen=True)
class Inputs:
    """What a kind makes its positives from.

    params: the parameters of the stage, a section each; real: all real images; images: uint8 (n, H, W, C), the train
    images among them; generator: the folder of the generator stage.
    """

    params: SimpleNamespace
    real: shards.RealSet
    images: np.ndarray
    generator: Path


@dataclass(frozen=True)
class Sampler:
    """How positives of n images are sampled.

    decided: everything that decides their pixels beside the section `positives`, the images and the arithmetic.
    start() -> batch(numbers, value): loads the model, only if there is something to sample. Number c n + a is candidate
    c of image a; value is the weight or the guidance.
    """

    decided: dict[str, object]
    start: Callable[[], Batch]


@dataclass(frozen=True)
class Kind:
    """A kind of positives.

    prepare(inputs) trains, or finds in the store, what the kind needs; all processes of a job call it. ladder: values
    that the picture compares, of the field of `positives` that the kind uses (weight or guidance). outside_data:
    whether the models have seen other images than the train images.
    """

    prepare: Callable[[Inputs], Sampler]
    ladder: tuple[float, ...]
    outside_data: bool = False


def load(name: str) -> Kind:
    """The kind of that name."""
    return importlib.import_module(f"pipeline.positives.{name}").KIND


def sample(sampler: Sampler, inputs: Inputs, names: np.ndarray) -> tuple[dict[str, Path], str]:
    """`positives.candidates` positives of each image, candidate by candidate, as whole shards in the store.

    names: int64 (n,), what a shard calls each image (`anchor_index`). More candidates add shards. Returns (shard name
    -> file, fingerprint of the set).
    """
    params, compute, n = inputs.params.positives, inputs.params.compute, len(names)
    uses = KINDS[params.kind].uses
    value = getattr(params, uses)
    parts = {
        **sampler.decided,
        "images": [list(inputs.images.shape), hashlib.sha256(inputs.images).hexdigest()],
        "names": hashlib.sha256(names).hexdigest(),
        "params": params.model_dump(exclude={"candidates"}),
        "code": sources.digest(f"positives/{params.kind}"),
        "arithmetic": arithmetic.facts(compute),
    }

    def start() -> sampling.Batch:
        batch = sampler.start()

        def arrays(numbers: range) -> dict[str, np.ndarray]:
            place = np.array(numbers)
            return {"images": batch(numbers, value), "anchor_index": names[place % n], "candidate": place // n}

        return arrays

    what = f"{params.kind} sampling ({params.steps} steps, {uses} {value:g})"
    return sampling.sample_shards(what, params.candidates * n, params, parts, start)


def picture(sampler: Sampler, inputs: Inputs, n: int) -> list[tuple[str, np.ndarray]]:
    """Positives of the first n images at each value of the kind's ladder and at the run's own: (caption, images)."""
    params, batch = inputs.params.positives, sampler.start()
    kind, uses = load(params.kind), KINDS[params.kind].uses
    values = sorted({*kind.ladder, getattr(params, uses)})
    origin = " with outside data" if kind.outside_data else ""
    return [(f"positives of these{origin}, {uses} {value:g}", batch(range(n), value)) for value in values]
