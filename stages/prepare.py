"""Real images of any source -> data/real/: one HDF5 file with labels and split, sealed by a manifest."""

from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs, sources, store
from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.data import datasets, folders, shards
from pipeline.params.data import shape
from pipeline.run import machine, stage


def needs(params: SimpleNamespace) -> machine.Needs:
    d = params.dataset
    side, channels, whole = shape(d)
    part = d.train_size + d.labelled_size + d.validation_size + d.spare_size + d.ceiling_size
    image, decoded, faults = side * side * channels, 0, []
    if d.name == "folder" and Path(d.path).exists():
        try:
            listing = folders.read(d)
            log(f"prepare: {d.path}: {listing.told()}")
            whole = decoded = len(listing.train) + len(listing.test or ())
        except UserError as fault:
            faults = fault.faults
    size, memory = part * image, ((whole or part) + part) * image
    kept = size + decoded * image  # the store has all decoded pictures, and those that take part
    return machine.Needs(params.outs, made=size, kept=kept, memory=memory, faults=tuple(faults))


def main(params: SimpleNamespace) -> None:
    content = files.tree_digests(Path(params.dataset.path))
    decided = {
        "params": params.dataset.model_dump(exclude={"path"}),
        "files": files.joint_sha256(content),
        "code": sources.digest("data/datasets"),
        "versions": {name: version(name) for name in ("numpy", "pillow", "torchvision")},
    }

    def make(folder: Path, fingerprint: str) -> list[str]:
        real = datasets.load(params.dataset, content)
        shards.write_real(folder / "real", real)
        outputs.metrics(folder / "prepare.json", shards.counts(real))
        if files.tree_digests(Path(params.dataset.path)) != content:  # which DVC would take for what was read
            raise UserError("changed while it was read", params.dataset.path, "run the same command again", code=1)
        return ["real/images.h5", "real/manifest.json", "prepare.json"]

    made = store.once("real", decided, make)
    files.assemble(Path("data/real"), {name: made / "real" / name for name in ("images.h5", "manifest.json")})
    over = folders.look(params.dataset).passed_over if params.dataset.name == "folder" else {}
    counted = files.read_json(made / "prepare.json") | {"passed_over": sum(over.values())}
    outputs.metrics(Path("metrics/prepare.json"), counted)


if __name__ == "__main__":
    stage.run("prepare", main, needs)
