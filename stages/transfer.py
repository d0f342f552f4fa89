"""A frozen encoder on another data set -> metrics/transfer/: linear probe and kNN, beside pixels and no training."""

from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs
from pipeline.engine import arithmetic
from pipeline.evaluation import transfer
from pipeline.networks import backbones
from pipeline.params.rules import shape
from pipeline.run import machine, stage

FOREACH = "transfer"
READS = (
    "compute",
    "dataset.name",
    "dataset.image_size",
    "dataset.channels",
    "transfer.${key}",
    "linear_eval.l2",
    "linear_eval.clsp_lr",
    "linear_eval.seed",
)
WRITES = ("metrics/transfer/${key}.json", "metrics/transfer/${key}.protocol.json")


def needs(params: SimpleNamespace) -> machine.Needs:
    size, channels, _ = shape(params.dataset)
    images = params.item.train_size + params.item.validation_size + (params.item.test_size or 0)
    made = stage.named(WRITES, params.key)
    return machine.Needs(made, memory=images * size * size * channels, device=params.compute.device)


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    size, channels, _ = shape(params.dataset)
    encoder = backbones.load(Path("data/encoder")).to(params.compute.device)
    real = transfer.load(params.item, size, channels)
    metrics, protocol = transfer.judge(params.key, encoder, real, params.linear_eval, params.compute)
    metrics_file, protocol_file = map(Path, stage.named(WRITES, params.key))
    outputs.metrics(metrics_file, metrics)
    files.write_json(protocol_file, protocol)


if __name__ == "__main__":
    stage.run("transfer", main, READS, needs, FOREACH)
