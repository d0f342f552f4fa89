"""Generated images beside real ones that no generator saw -> metrics/ and a picture: how good, varied, copied."""

from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.evaluation import quality
from pipeline.run import machine, stage

READS = ("compute", "quality")
SET = Path("data/generated/inflation")
WRITES = ("metrics/quality.json", "metrics/quality.protocol.json", "plots/closest.png")


def needs(params: SimpleNamespace) -> machine.Needs:
    _, image = machine.images(Path("data/real"), shards.VALIDATION)
    return machine.Needs(WRITES, memory=2 * params.quality.images * image, device=params.compute.device)


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    generated = shards.read_generated(SET, most=params.quality.images)
    source = files.read_json(SET / "manifest.json")["source"]
    judged = quality.judge(generated, source, real, params.quality, params.compute)
    outputs.metrics(Path("metrics/quality.json"), judged.metrics)
    files.write_json(Path("metrics/quality.protocol.json"), judged.protocol)
    outputs.contact_sheet(Path("plots/closest.png"), judged.pairs, columns=quality.SHOWN, rows=1)


if __name__ == "__main__":
    stage.run("quality", main, READS, needs)
