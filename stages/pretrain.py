"""Real and generated images + a method -> data/encoder/: encoder.safetensors, its card, what else the method leaves."""

from pathlib import Path
from types import SimpleNamespace

from pipeline import methods
from pipeline.core import files, outputs
from pipeline.core.errors import UserError
from pipeline.data import mixture, shards
from pipeline.engine import arithmetic, distributed
from pipeline.networks import heads
from pipeline.run import machine, stage
from pipeline.training import encoder, encoder_memory
from pipeline.training.batches import Images

SET = Path("data/generated/inflation")
POSITIVES = Path("data/generated/positives")


def needs(params: SimpleNamespace) -> machine.Needs:
    found, (train, shape) = machine.holding(shards.TRAIN)(params), machine.pictured(Path("data/real"), shards.TRAIN)
    if params.compute.device != "cuda" or not train:
        return found
    # Images that do not fit beside a step stay where they are.
    return found._replace(gpu=encoder_memory.of_step(params.pretrain, params.method_params, shape, params.compute))


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    generated = shards.map_generated(SET)
    positives = shards.map_positives(POSITIVES, real.orig_index[real.rows(shards.TRAIN)])
    asked = mixture.generated_count(len(real.rows(shards.TRAIN)), params.inflation.ratio)
    held = sum(map(len, generated))
    if held != asked:
        fault = f"holds {held:,} images, inflation.ratio {params.inflation.ratio} asks for {asked:,}"
        raise UserError(fault, SET, "run `dvc repro generate`, or `python -m stages.generate`")
    setting = encoder.Setting(params.pretrain, params.method_params, params.augment, params.inflation)
    images = Images(real, generated, positives)
    made, rows, facts = encoder.pretrain(setting, images, Path("data/generator"), params.compute)
    distributed.leave()
    if not distributed.first():
        return
    files.assemble(Path("data/encoder"), made)
    judged = [name for name in ("validation_knn", "rankme", "validation_online") if name in rows[-1]]
    measures = [*judged, "feature_spread"]
    terms = outputs.columns(rows, "step", "lr", *measures)
    outputs.table(Path("plots/pretrain.csv"), ["step", *terms, "lr"], rows)
    outputs.table(Path("plots/validation.csv"), ["step", *measures], [row for row in rows if judged[0] in row])
    method = methods.load(params.pretrain.method)
    outputs.contact_sheet(Path("plots/pretrain.png"), method.pictures(made), rows=1)
    last = {name: rows[-1][name] for name in ("loss", *judged)}
    last["collapsed"] = int(rows[-1]["feature_spread"] < heads.COLLAPSED)
    there = ("n_real", "n_generated")  # in metrics/prepare.json and generate.json
    drawn = {name: value for name, value in facts.items() if name not in there}
    outcomes = method.outcomes(rows, made)
    outputs.metrics(Path("metrics/pretrain.json"), {"steps": rows[-1]["step"], **last, **drawn, **outcomes})


if __name__ == "__main__":
    stage.run("pretrain", main, needs, parallel=True)
