"""A frozen encoder and labels -> metrics/ and plots/: linear probe and kNN, beside raw pixels and no training."""

from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.evaluation import linear_eval
from pipeline.networks import backbones
from pipeline.run import machine, stage

READS = ("compute", "linear_eval")
WRITES = (
    "metrics/linear_eval.json",
    "metrics/label_free.json",
    "metrics/linear_eval.protocol.json",
    "plots/per_class.csv",
    "plots/confusion.csv",
    "plots/grid.csv",
)


def needs(params: SimpleNamespace) -> machine.Needs:
    rows, image = machine.images(Path("data/real"), shards.VALIDATION, shards.TEST)
    return machine.Needs(WRITES, memory=rows * image, device=params.compute.device)


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    encoder = backbones.load(Path("data/encoder")).to(params.compute.device)
    judged = linear_eval.judge(encoder, real, params.linear_eval, params.compute)
    outputs.metrics(Path("metrics/linear_eval.json"), judged.metrics)
    outputs.metrics(Path("metrics/label_free.json"), judged.label_free)
    files.write_json(Path("metrics/linear_eval.protocol.json"), judged.protocol)
    for name, (columns, rows) in judged.tables.items():
        outputs.table(Path(f"plots/{name}.csv"), columns, rows)


if __name__ == "__main__":
    stage.run("linear_eval", main, READS, needs)
