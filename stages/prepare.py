"""Real images of any source -> data/real/: one HDF5 file with labels and split, sealed by a manifest."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs
from pipeline.data import datasets, shards
from pipeline.params.data import shape
from pipeline.run import machine, stage

READS = ("dataset",)
WRITES = ("data/real", "metrics/prepare.json")


def needs(params: SimpleNamespace) -> machine.Needs:
    d = params.dataset
    side, channels, whole = shape(d)
    part = d.train_size + d.labelled_size + d.validation_size + d.spare_size
    image = side * side * channels
    return machine.Needs(WRITES, made=part * image, memory=((whole or part) + part) * image)


def main(params: SimpleNamespace) -> None:
    real = datasets.load(params.dataset)
    with tempfile.TemporaryDirectory() as folder:
        shards.write_real(Path(folder), real)
        files.assemble(Path("data/real"), {name: Path(folder) / name for name in ("images.h5", "manifest.json")})
    names = {
        "train": shards.TRAIN,
        "labelled_only": shards.LABELLED,
        "validation": shards.VALIDATION,
        "spare": shards.SPARE,
        "test": shards.TEST,
    }
    counts = {name: int((real.split == code).sum()) for name, code in names.items()}
    test = real.split == shards.TEST
    counts["shared_with_test"] = int(shards.among(real.images[~test], real.images[test]).sum())
    outputs.metrics(Path("metrics/prepare.json"), counts)


if __name__ == "__main__":
    stage.run("prepare", main, READS, needs)
