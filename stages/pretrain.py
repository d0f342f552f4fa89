"""Real and generated images + a method -> data/encoder/: encoder.safetensors and its card."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pipeline import distributed, files, heads, inflation, loop, machine, report, shards, stage
from pipeline.errors import UserError
from pipeline.training import encoder

SET = Path("data/generated/inflation")
POSITIVES = Path("data/generated/positives")
SNAPSHOTS = Path("plots/snapshots.png")
READS = ("compute", "inflation", "augment", "pretrain", "${pretrain.method}")
WRITES = (
    "data/encoder",
    "metrics/pretrain.json",
    "plots/pretrain.csv",
    "plots/validation.csv",
    "plots/snapshots.png",
)


def needs(params: SimpleNamespace) -> machine.Needs:
    train, image = machine.images(Path("data/real"), shards.TRAIN)  # generated ones are mapped
    return machine.Needs(WRITES, memory=train * image, device=params.compute.device)


def main(params: SimpleNamespace) -> None:
    loop.prepare(params.compute)
    real = shards.read_real(Path("data/real"))
    generated = shards.map_generated(SET)
    positives = shards.map_positives(POSITIVES, real.orig_index[real.rows(shards.TRAIN)])
    asked = inflation.generated_count(len(real.rows(shards.TRAIN)), params.inflation.ratio)
    held = sum(map(len, generated))
    if held != asked:
        fault = f"holds {held:,} images, inflation.ratio {params.inflation.ratio} asks for {asked:,}"
        raise UserError(fault, SET, "run `dvc repro generate`, or `python -m stages.generate`")
    made, rows, facts = encoder.pretrain(
        params.pretrain,
        params.own,
        params.augment,
        params.inflation,
        real,
        generated,
        positives,
        Path("data/generator"),
        params.compute,
    )
    distributed.leave()
    if not distributed.first():
        return
    files.assemble(Path("data/encoder"), made)
    judged = "validation_knn" if "validation_knn" in rows[-1] else "rankme"
    terms = report.columns(rows, "step", "lr", judged, "feature_spread")
    report.table(Path("plots/pretrain.csv"), ["step", *terms, "lr"], rows)
    report.table(
        Path("plots/validation.csv"), ["step", judged, "feature_spread"], [row for row in rows if judged in row]
    )
    report.beside(SNAPSHOTS, snapshots(made), rows=1)
    last = {name: rows[-1][name] for name in ("loss", judged)}
    last["collapsed"] = int(rows[-1]["feature_spread"] < heads.COLLAPSED)
    there = ("n_real", "n_generated")  # in metrics/prepare.json and generate.json
    drawn = {name: value for name, value in facts.items() if name not in there}
    report.metrics(Path("metrics/pretrain.json"), {"steps": rows[-1]["step"], **last, **drawn, **own(rows, made)})


def own(rows: list[dict], made: dict[str, Path]) -> dict[str, float]:
    """What a method says of itself, from its log's rows and its files; nothing for most methods.

    synthetic, reconstruction, top_k: means of the rows of the last tenth of the steps. synthetic_start: of the first
    row that has it. frechet_growth, frechet_most: of the generators' monitor, at the end and at most. cosine: mean over
    the pairs of the last snapshot.
    """
    late = [row for row in rows if 10 * row["step"] > 9 * rows[-1]["step"]]
    of_rows = {name: [row[name] for row in late if name in row] for name in ("synthetic", "reconstruction", "top_k")}
    found = {name: float(np.mean(values)) for name, values in of_rows.items() if values}
    if "synthetic" in found:
        found["synthetic_start"] = next(row["synthetic"] for row in rows if "synthetic" in row)
    growth = [row["generator_growth"] for row in rows if "generator_growth" in row]
    if growth:
        found |= {"frechet_growth": growth[-1], "frechet_most": max(growth)}
    if "gan_snapshots.h5" in made:
        with shards.open_file(made["gan_snapshots.h5"]) as file:
            found["cosine"] = float(shards.own(file, "cosine")[-1].mean())
    return found


def snapshots(made: dict[str, Path]) -> list[tuple[str, np.ndarray]]:
    """Of a method with generators: their images over time, those of the first, and of the second where they differ."""
    if "gan_snapshots.h5" not in made:
        return []
    with shards.open_file(made["gan_snapshots.h5"]) as file:
        steps, images, cosines = (shards.own(file, name)[:] for name in ("step", "images", "cosine"))
    sets = []
    for step, pairs, cosine in zip(steps, images, cosines, strict=True):
        alike = bool((pairs[:, 0] == pairs[:, 1]).all())
        sets.append((f"step {step}", pairs[:, 0]))
        if not alike:
            sets.append((f"step {step}, their partners, mean cosine {cosine.mean():.2f}", pairs[:, 1]))
    return sets


if __name__ == "__main__":
    stage.run("pretrain", main, READS, needs)
