"""Train a generator, load a pretrained one, import images, or none -> data/generator/: what it is, and card.json."""

from pathlib import Path
from types import SimpleNamespace

from pipeline import files, imports, loop, report, shards, stage
from pipeline.training import generator

READS = ("compute", "generator", "${generator.kind}")


def main(params: SimpleNamespace) -> None:
    loop.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    source, rows, made = params.generator.source, [], {}
    if source == "train":
        images, _ = real.part(shards.TRAIN)
        made, rows = generator.train(params.generator, params.own, images, params.compute)
    elif source == "pretrained":
        made = generator.pretrained(params.generator, real.images.shape[1:3], real.images.shape[3])
    elif source == "import":
        _, size, _, channels = real.images.shape
        imported = imports.read(Path(params.generator.path), size, channels)
        images, _ = real.part(shards.TRAIN)
        imported = imports.in_order(imported, images, params.generator.channel_order, params.generator.path)

    def finish(folder: Path) -> None:
        if source == "import":
            imports.write(imported, folder / imports.FILE)
        names = [imports.FILE] if source == "import" else made
        digests = {name: files.sha256(folder / name) for name in names}
        files.write_json(folder / "card.json", {"kind": params.generator.kind, "source": source, "files": digests})

    files.assemble(Path("data/generator"), made, finish)
    report.table(Path("plots/generator.csv"), ["step", "loss", "gradient_norm", "lr"], rows)
    last = {"steps": rows[-1]["step"], "loss": rows[-1]["loss"]} if rows else {"steps": 0}
    report.metrics(Path("metrics/generator.json"), last)


if __name__ == "__main__":
    stage.run("generator", main, READS)
