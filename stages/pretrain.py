"""Real and generated images + a method -> data/encoder/: encoder.safetensors, its card, what else the method leaves."""

import math
from pathlib import Path
from types import SimpleNamespace

from pipeline import methods
from pipeline.core import files, outputs, store
from pipeline.core.errors import UserError
from pipeline.core.shares import rounded
from pipeline.data import scores, shards
from pipeline.engine import arithmetic, distributed
from pipeline.networks import heads, pretrained
from pipeline.params.generators import ceiling
from pipeline.run import live, machine, stage
from pipeline.training import encoder, encoder_memory
from pipeline.training.batches import Images

SET = Path("data/generated/inflation")
POSITIVES = Path("data/generated/positives")
JUDGED = ("validation_knn", "rankme", "validation_online")  # what the log has of the encoder, where there are labels


def needs(params: SimpleNamespace) -> machine.Needs:
    found, (train, shape) = machine.holding(shards.TRAIN)(params), machine.pictured(Path("data/real"), shards.TRAIN)
    if params.inflation.select < 1 and shape:  # what is chosen is copied; the whole set stays mapped
        chosen = rounded(params.inflation.select, rounded(params.inflation.ratio, train))
        found = found._replace(memory=found.memory + chosen * math.prod(shape))
    if params.compute.device != "cuda" or not train:
        return found
    # Images that do not fit beside a step stay where they are.
    return found._replace(gpu=encoder_memory.of_step(params.pretrain, params.method_params, shape, params.compute))


def write_curves(rows: list[dict]) -> None:
    """Plots/pretrain.csv and plots/validation.csv of the log so far."""
    measures = [name for name in (*JUDGED, "feature_spread") if any(name in row for row in rows)]
    outputs.table(Path("plots/pretrain.csv"), ["step", *outputs.columns(rows, "step", "lr", *measures), "lr"], rows)
    judged = [row for row in rows if "feature_spread" in row]
    if judged:
        outputs.table(Path("plots/validation.csv"), ["step", *measures], judged)


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    generated = shards.map_generated(SET)
    positives = shards.map_positives(POSITIVES, real.orig_index[real.rows(shards.TRAIN)])
    asked = rounded(params.inflation.ratio, len(real.rows(shards.TRAIN)))
    held = sum(map(len, generated))
    if held != asked:
        fault = f"holds {held:,} images, inflation.ratio {params.inflation.ratio} asks for {asked:,}"
        raise UserError(fault, SET, "run `dvc repro generate`, or `python -m stages.generate`")
    start = pretrained.find(params.start, "start")
    setting = encoder.Setting(params.pretrain, params.method_params, params.augment, params.inflation, start)
    manifest = store.verify(SET, "generate")
    kept = scores.kept(params.inflation, manifest, store.verify(Path("data/real"), "prepare"))
    images = Images(real, shards.of_parts(generated, kept.rows), positives, manifest["source"], kept.weights)
    follow = live.follow("pretrain", write_curves)
    made, rows, facts = encoder.pretrain(setting, images, Path("data/generator"), params.compute, follow)
    distributed.leave()
    if not distributed.first():
        return
    files.assemble(Path("data/encoder"), made)
    write_curves(rows)
    method = methods.load(params.pretrain.method)
    outputs.contact_sheet(Path("plots/pretrain.png"), method.pictures(made), rows=1)
    last = {name: rows[-1][name] for name in ("loss", *JUDGED) if name in rows[-1]}
    last["collapsed"] = int(rows[-1]["feature_spread"] < heads.COLLAPSED)
    there = ("n_real", "n_generated")  # in metrics/prepare.json and generate.json
    drawn = {name: value for name, value in facts.items() if name not in there}
    outcomes = method.outcomes(rows, made)
    if len(kept.rows) < held:
        last["generated_kept"] = len(kept.rows)
    if kept.weights is not None:
        last["generated_effective"] = scores.effective(kept.weights)
    last |= drawn | outcomes | ceiling(images.source)
    outputs.metrics(Path("metrics/pretrain.json"), {"steps": rows[-1]["step"], **last})


if __name__ == "__main__":
    stage.run("pretrain", main, needs, parallel=True)
