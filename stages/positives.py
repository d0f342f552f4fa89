"""Each train image + noise -> candidates that show the same -> data/generated/positives/, sealed; or none."""

from pathlib import Path
from types import SimpleNamespace

from pipeline import files, launch, machine, report, stage

READS = ("compute", "positives", "quality.steps", "quality.seed")
SET = Path("data/generated/positives")
WRITES = ("data/generated/positives", "metrics/positives.json", "plots/positives.png")
SHOWN = 16


def needs(params: SimpleNamespace) -> machine.Needs:
    if params.positives.kind == "none":
        return machine.Needs(WRITES)
    from pipeline import shards

    real, image = machine.images(Path("data/real"), shards.TRAIN)
    size = params.positives.candidates * real * image
    memory = (real + params.positives.shard_size) * image
    return machine.Needs(WRITES, size, size, memory, params.compute.device)


def main(params: SimpleNamespace) -> None:
    if params.positives.kind != "none":
        sample(params)
    elif launch.rank() == 0:  # without torch: every run pays for it
        files.assemble(SET, {}, lambda folder: files.write_sealed(folder / "manifest.json", {"files": {}, "n": 0}))
        report.beside(Path("plots/positives.png"), [])
        report.metrics(Path("metrics/positives.json"), {"sampled": 0})


def sample(params: SimpleNamespace) -> None:
    from pipeline import anchored, cards, distributed, loop, quality, shards

    loop.prepare(params.compute)
    real, generator = shards.read_real(Path("data/real")), Path("data/generator")
    images, names = (array[real.rows(shards.TRAIN)] for array in (real.images, real.orig_index))
    card = cards.of_generator(generator)
    made, fingerprint = anchored.fill(params.positives, card, generator, images, names, params.compute)
    distributed.leave()
    if not distributed.first():
        return
    launch.alone()  # the network that judges is trained by one process
    facts = {"n": params.positives.candidates * len(images), "fingerprint": fingerprint}
    files.assemble(SET, made, lambda folder: shards.seal(folder, sorted(made), facts))
    shown = anchored.ladder(params.positives, card, generator, images[:SHOWN], params.compute)
    rows = [("real", images), *((f"positives of these, w = {w:g}", found) for w, found in shown.items())]
    report.beside(Path("plots/positives.png"), rows, columns=SHOWN, rows=1)
    parts = shards.map_positives(SET, names)
    found = {"distance": anchored.distance(parts, images)}
    found |= quality.same_class(parts, real, params.quality, params.compute)
    report.metrics(Path("metrics/positives.json"), {"sampled": facts["n"], "shards": len(made), **found})


if __name__ == "__main__":
    stage.run("positives", main, READS, needs)
