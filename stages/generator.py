"""Train a generator, load one, import images, take real ones, or none -> data/generator/: its files and card.json."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pipeline.core import files, outputs
from pipeline.core.progress import log
from pipeline.data import imports, shards
from pipeline.engine import arithmetic, distributed
from pipeline.generators import module
from pipeline.params.generators import SOURCES
from pipeline.run import live, machine, stage
from pipeline.training import generator, generator_memory


def needs(params: SimpleNamespace) -> machine.Needs:
    source, (train, shape) = params.generator.source, machine.pictured(Path("data/real"), shards.TRAIN)
    image = math.prod(shape or (0,))
    made = image * imports.count(Path(params.generator.path)) if source == "import" else 0
    if source == "real":
        made = math.prod(machine.images(Path("data/real"), shards.CEILING))
    memory = made + (train * image if source in ("train", "import") else 0)
    gpu = 0.0
    if params.compute.device == "cuda" and source == "train" and train:
        gpu = train * image + generator_memory.of_step(params.generator.kind, params.kind_params, shape, params.compute)
    return machine.Needs(params.outs, made=made, memory=memory, device=params.compute.device, gpu=gpu)


def write_curve(rows: list[dict]) -> None:
    """Plots/generator.csv of the log so far."""
    first = ("step", "loss", "gradient_norm")
    outputs.table(Path("plots/generator.csv"), [*first, *outputs.columns(rows, *first, "lr"), "lr"], rows)


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    arithmetic.advise(params.compute)  # here, where torch is imported first, and anew after each change of `compute`
    source, rows, made, ready = params.generator.source, [], {}, None
    if source == "train":
        images, _ = real.part(shards.TRAIN)
        kind, follow = module(params.generator.kind).Training, live.follow("generator", write_curve)
        made, rows = generator.train(kind, params.kind_params, images, params.compute, follow=follow)
    distributed.leave()
    if not distributed.first():
        return
    if source == "pretrained":
        from pipeline.generators import pretrained  # diffusers takes seconds to import

        made = pretrained.load(params.generator, real.images.shape[1:3], real.images.shape[3])
    elif source == "import":
        ready = imports.load(params.generator, real)
    elif source == "real":
        ready, _ = real.part(shards.CEILING)
        imports.refuse_leaks(ready, real, "data/real", *set(np.unique(real.split)) - {shards.CEILING})
        log(f"generator: {len(ready):,} {SOURCES[source]}")
    elif source not in ("train", "none"):
        raise NotImplementedError(source)

    def finish(folder: Path) -> None:
        if ready is not None:
            imports.write(ready, folder, source)
        paths = [path for path in folder.rglob("*") if path.is_file()]
        digests = {path.relative_to(folder).as_posix(): files.sha256(path) for path in paths}
        files.write_sealed(folder / "card.json", {"kind": params.generator.kind, "source": source, "files": digests})

    files.assemble(Path("data/generator"), made, finish)
    write_curve(rows)
    last = {"steps": rows[-1]["step"], "loss": rows[-1]["loss"]} if rows else {"steps": 0}
    outputs.metrics(Path("metrics/generator.json"), last)


if __name__ == "__main__":
    stage.run("generator", main, needs, parallel=True)
