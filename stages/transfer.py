"""A frozen encoder on another data set -> metrics/transfer/: linear probe and kNN, beside pixels and no training."""

from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs, sources, store
from pipeline.engine import arithmetic
from pipeline.evaluation import transfer
from pipeline.networks import backbones
from pipeline.params.data import shape
from pipeline.run import machine, stage


def needs(params: SimpleNamespace) -> machine.Needs:
    size, channels, _ = shape(params.dataset)
    images = params.item.train_size + params.item.validation_size + (params.item.test_size or 0)
    return machine.Needs(params.outs, memory=images * size * size * channels, device=params.compute.device)


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    size, channels, _ = shape(params.dataset)
    encoder = backbones.load(Path("data/encoder")).to(params.compute.device)
    decided = {
        "set": [params.key, params.item.dataset(size, channels).model_dump(exclude={"path"}), size, channels],
        "files": files.tree_sha256(Path(params.item.path)),
        "encoder": encoder.card,
        "params": vars(params.linear_eval),
        "code": sources.of_stage(__file__, "evaluation/transfer"),
        "arithmetic": arithmetic.facts(params.compute),
        "versions": backbones.versions() | {name: version(name) for name in ("numpy", "pillow")},
    }

    def make(folder: Path, fingerprint: str) -> list[str]:
        real = transfer.load(params.item, size, channels)
        metrics, protocol = transfer.judge(params.key, encoder, real, params.linear_eval, params.compute)
        outputs.metrics(folder / f"{params.key}.json", metrics)
        files.write_json(folder / f"{params.key}.protocol.json", protocol)
        return [Path(out).name for out in params.outs]

    made = store.once("transfer", decided, make)
    for out in params.outs:
        files.copy(made / Path(out).name, out)


if __name__ == "__main__":
    stage.run("transfer", main, needs)
