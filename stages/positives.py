"""Each train image + noise -> candidates that show the same -> data/generated/positives/, sealed; or none."""

from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs, processes, store
from pipeline.run import machine, stage

READS = ("compute", "positives", "conditioned", "unclip", "quality.steps", "quality.seed")
SET = Path("data/generated/positives")
WRITES = ("data/generated/positives", "metrics/positives.json", "plots/positives.png")
SHOWN = 16


def needs(params: SimpleNamespace) -> machine.Needs:
    if params.positives.kind == "none":
        return machine.Needs(WRITES)
    from pipeline.data import shards

    real, image = machine.images(Path("data/real"), shards.TRAIN)
    size = params.positives.candidates * real * image
    memory = (real + params.positives.shard_size) * image
    return machine.Needs(WRITES, size, size, memory, params.compute.device)


def main(params: SimpleNamespace) -> None:
    if params.positives.kind != "none":
        sample(params)
    elif processes.rank() == 0:  # without torch: every run pays for it
        files.assemble(SET, {}, lambda folder: files.write_sealed(folder / "manifest.json", {"files": {}, "n": 0}))
        outputs.contact_sheet(Path("plots/positives.png"), [])
        outputs.metrics(Path("metrics/positives.json"), {"sampled": 0})


def sample(params: SimpleNamespace) -> None:
    from pipeline.data import shards
    from pipeline.engine import arithmetic, distributed
    from pipeline.evaluation import quality

    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    images, names = (array[real.rows(shards.TRAIN)] for array in (real.images, real.orig_index))
    made, fingerprint, pictures = KINDS[params.positives.kind](params, real, images, names)
    distributed.leave()
    if not distributed.first():
        return
    processes.alone()  # the network that judges is trained by one process
    facts = {"n": params.positives.candidates * len(images), "fingerprint": fingerprint}
    files.assemble(SET, made, lambda folder: store.seal(folder, sorted(made), facts))
    outputs.contact_sheet(Path("plots/positives.png"), [("real", images), *pictures()], columns=SHOWN, rows=1)
    parts = shards.map_positives(SET, names)
    found = {"distance": quality.distance(parts, images)}
    found |= quality.same_class(parts, real, params.quality, params.compute)
    found |= {"sampled": facts["n"], "shards": len(made), "outside_data": params.positives.kind == "unclip"}
    outputs.metrics(Path("metrics/positives.json"), found)


def of_anchors(params, real, images, names):
    """Shards, their set's fingerprint, and what draws the picture: positives of the first images over weights."""
    from pipeline.generators import cards
    from pipeline.positives import anchored

    p, generator = params.positives, Path("data/generator")
    card = cards.of_generator(generator)
    made, fingerprint = anchored.fill(p, card, generator, images, names, params.compute)

    def pictures() -> list:
        batch = anchored.sampler(p, card, generator, images[:SHOWN], params.compute)
        weights = sorted({*anchored.LADDER, p.weight})
        return [(f"positives of these, w = {w:g}", batch(range(SHOWN), w)) for w in weights]

    return made, fingerprint, pictures


def of_features(params, real, images, names):
    """The same of a conditioned DDPM, over guidances."""
    from pipeline.positives import conditioned
    from pipeline.positives import prepared as training

    p, own, shape = params.positives, params.conditioned, (images.shape[1], images.shape[3])
    folder, features = training.prepare(own, real, params.compute)
    made, fingerprint = conditioned.fill(p, own, folder, features, names, shape, params.compute)

    def pictures() -> list:
        batch = conditioned.sampler(p, own, folder, features[:SHOWN], shape, params.compute)
        guidances = sorted({*conditioned.LADDER, p.guidance})
        return [(f"versions of these, guidance {g:g}", batch(range(SHOWN), g)) for g in guidances]

    return made, fingerprint, pictures


def of_embeddings(params, real, images, names):
    """The same of a pipeline that has seen other images and is told CLIP's embedding, over guidances."""
    from pipeline.positives import unclip

    p, own = params.positives, params.unclip
    made, fingerprint = unclip.fill(p, own, images, names, params.compute)

    def pictures() -> list:
        batch = unclip.sampler(p, own, images[:SHOWN], params.compute)
        guidances = sorted({*unclip.LADDER, p.guidance})
        return [(f"versions of these with outside data, guidance {g:g}", batch(range(SHOWN), g)) for g in guidances]

    return made, fingerprint, pictures


KINDS = {"anchored": of_anchors, "conditioned": of_features, "unclip": of_embeddings}

if __name__ == "__main__":
    stage.run("positives", main, READS, needs)
