"""The encoder, trained on with few labels -> metrics/finetune/: top-1, beside the same training from scratch."""

from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.evaluation import finetune
from pipeline.networks import backbones
from pipeline.run import machine, stage


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    encoder = backbones.load(Path("data/encoder")).to(params.compute.device)
    metrics, protocol = finetune.judge(encoder, real, params.item, params.finetune, params.compute)
    metrics_file, protocol_file = map(Path, params.outs)
    outputs.metrics(metrics_file, metrics)
    files.write_json(protocol_file, protocol)


if __name__ == "__main__":
    stage.run("finetune", main, machine.holding(shards.VALIDATION, shards.TEST))
