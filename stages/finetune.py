"""The encoder, trained on with few labels -> metrics/finetune/: top-1, beside the same training from scratch."""

from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.evaluation import finetune
from pipeline.networks import backbones
from pipeline.run import machine, stage

FOREACH = "finetune.labels"
READS = (
    "compute",
    "finetune.head_lr",
    "finetune.strength",
    "finetune.steps",
    "finetune.batch_size",
    "finetune.lr",
    "finetune.warmup_steps",
    "finetune.weight_decay",
    "finetune.log_every",
    "finetune.checkpoint_every",
    "finetune.seed",
)
WRITES = ("metrics/finetune/${item}.json", "metrics/finetune/${item}.protocol.json")


def needs(params: SimpleNamespace) -> machine.Needs:
    rows, image = machine.images(Path("data/real"), shards.VALIDATION, shards.TEST)
    made = stage.named(WRITES, params.key)
    return machine.Needs(made, memory=rows * image, device=params.compute.device)


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    encoder = backbones.load(Path("data/encoder")).to(params.compute.device)
    metrics, protocol = finetune.judge(encoder, real, params.item, params.finetune, params.compute)
    metrics_file, protocol_file = map(Path, stage.named(WRITES, params.key))
    outputs.metrics(metrics_file, metrics)
    files.write_json(protocol_file, protocol)


if __name__ == "__main__":
    stage.run("finetune", main, READS, needs, FOREACH)
