"""Each train image + noise -> generated images that show the same -> data/generated/positives/, sealed; or none."""

from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs, processes, store
from pipeline.run import machine, stage

SET = Path("data/generated/positives")
SHOWN = 16


def needs(params: SimpleNamespace) -> machine.Needs:
    if params.positives.kind == "none":
        return machine.Needs(params.outs)
    from pipeline.data import shards

    real, image = machine.images(Path("data/real"), shards.TRAIN)
    size = params.positives.candidates * real * image
    memory = (real + params.positives.shard_size) * image
    return machine.Needs(params.outs, size, size, memory, params.compute.device)


def main(params: SimpleNamespace) -> None:
    if params.positives.kind != "none":
        sample(params)
    elif processes.rank() == 0:  # without torch: every run passes here
        files.assemble(SET, {}, lambda folder: store.seal(folder, [], {"n": 0}))
        outputs.contact_sheet(Path("plots/positives.png"), [])
        outputs.metrics(Path("metrics/positives.json"), {"sampled": 0})


def sample(params: SimpleNamespace) -> None:
    from pipeline import positives
    from pipeline.data import shards
    from pipeline.engine import arithmetic, distributed
    from pipeline.evaluation import quality

    arithmetic.prepare(params.compute)
    real, kind = shards.read_real(Path("data/real")), positives.load(params.positives.kind)
    images, names = (array[real.rows(shards.TRAIN)] for array in (real.images, real.orig_index))
    inputs = positives.Inputs(params, real, images, Path("data/generator"))
    sampler = kind.prepare(inputs)
    made, fingerprint = positives.sample(sampler, inputs, names)
    distributed.leave()
    if not distributed.first():
        return
    processes.alone()  # one process trains the network that judges the images
    facts = {"n": params.positives.candidates * len(images), "fingerprint": fingerprint}
    files.assemble(SET, made, lambda folder: store.seal(folder, sorted(made), facts))
    sheets = [("real", images), *positives.picture(sampler, inputs, SHOWN)]
    outputs.contact_sheet(Path("plots/positives.png"), sheets, columns=SHOWN, rows=1)
    parts = shards.map_positives(SET, names)
    found = {"distance": quality.distance(parts, images)}
    found |= quality.same_class(parts, real, params.quality, params.compute)
    found |= {"sampled": facts["n"], "shards": len(made), "outside_data": kind.outside_data}
    outputs.metrics(Path("metrics/positives.json"), found)


if __name__ == "__main__":
    stage.run("positives", main, needs, parallel=True)
