"""Generated images beside real ones that no generator saw -> metrics/ and a picture: how good, varied, copied."""

from pathlib import Path
from types import SimpleNamespace

from pipeline import files, loop, quality, report, shards, stage

READS = ("compute", "quality")


def main(params: SimpleNamespace) -> None:
    loop.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    generated = shards.read_generated(Path("data/generated/inflation"))
    judged = quality.judge(generated, real, params.quality, params.compute)
    report.metrics(Path("metrics/quality.json"), judged.metrics)
    files.write_json(Path("metrics/quality.protocol.json"), judged.protocol)
    report.beside(Path("plots/closest.png"), judged.pairs, columns=quality.SHOWN, rows=1)


if __name__ == "__main__":
    stage.run("quality", main, READS)
