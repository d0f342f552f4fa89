"""Real and generated images + a method -> data/encoder/: encoder.safetensors and its card."""

from pathlib import Path
from types import SimpleNamespace

from pipeline import files, loop, report, shards, stage
from pipeline.training import encoder

READS = ("compute", "inflation", "augment", "pretrain", "${pretrain.method}")


def main(params: SimpleNamespace) -> None:
    loop.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    generated = shards.read_generated(Path("data/generated/inflation"))
    made, rows, facts = encoder.pretrain(
        params.pretrain, params.own, params.augment, params.inflation, real, generated, params.compute
    )
    files.assemble(Path("data/encoder"), made)
    columns = ["step", "loss", "agreement", "validation_knn", "rankme", "gradient_norm", "lr"]
    seen = [column for column in columns if any(column in row for row in rows)]
    report.table(Path("plots/pretrain.csv"), seen, rows)
    last = {name: rows[-1][name] for name in ("loss", "validation_knn", "rankme") if name in rows[-1]}
    report.metrics(Path("metrics/pretrain.json"), {"steps": rows[-1]["step"], **last, **facts})


if __name__ == "__main__":
    stage.run("pretrain", main, READS)
