"""A frozen encoder and labels -> metrics/ and plots/: linear probe and kNN, beside raw pixels and no training."""

from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs, sources, store
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.evaluation import linear_eval
from pipeline.networks import backbones, pretrained
from pipeline.run import machine, stage

REAL, ENCODER = Path("data/real"), Path("data/encoder")


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    encoder = backbones.load(ENCODER).to(params.compute.device)
    baseline = pretrained.find(params.linear_eval.baseline, "linear_eval.baseline")
    decided = {
        "real": store.verify(REAL, "prepare")["files"],
        "encoder": encoder.card,
        "params": params.linear_eval.model_dump(),
        "baseline": baseline and files.sha256(baseline),
        "code": sources.of_stage(__file__, "evaluation/linear_eval"),
        "arithmetic": arithmetic.facts(params.compute),
        "versions": backbones.versions(),
    }

    def make(folder: Path, fingerprint: str) -> list[str]:
        real = shards.read_real(REAL)
        online = backbones.load_online_head(ENCODER, encoder, len(real.classes))
        judged = linear_eval.judge(encoder, online, real, params.linear_eval, params.compute)
        outputs.metrics(folder / "linear_eval.json", judged.metrics)
        outputs.metrics(folder / "label_free.json", judged.label_free)
        made_of = {"real_sha256": decided["real"][shards.FILE]}
        files.write_json(folder / "linear_eval.protocol.json", judged.protocol | made_of)
        for name, (columns, rows) in judged.tables.items():
            outputs.table(folder / f"{name}.csv", columns, rows)
        return [Path(out).name for out in params.outs]

    made = store.once("linear_eval", decided, make)
    for out in params.outs:
        files.copy(made / Path(out).name, out)


if __name__ == "__main__":
    stage.run("linear_eval", main, machine.holding(shards.TRAIN, shards.VALIDATION, shards.TEST))
