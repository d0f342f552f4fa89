"""dvc.yaml's plots and what the stages write, in every mode: DVC's own converter finds the fields that it is told."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.render.converter.vega import VegaConverter, get_datapoints

from pipeline.core import store
from pipeline.data import shards
from pipeline.params import presets, reader
from pipeline.run import graph
from stages import generator, linear_eval, pretrain, quality
from tests.pipeline.clones import ROOT

STAGES = {"generator": generator, "pretrain": pretrain, "quality": quality, "linear_eval": linear_eval}
GAN = {("generator", "kind"): "gan", ("generate", "sampler"): "direct", ("generate", "steps"): 1}
SMALL = {("pretrain", "backbone", name): size for name, size in (("width", 16), ("depth", 1), ("heads", 2))}
MIXED = presets.compose(["vit"]) | SMALL | {("augment", "family"): "crop", ("pretrain", "method"): "mixed_ae"}
NONE = {("generator", "source"): "none"}
WITHOUT = {("dataset", "validation_size"): 0, ("quality", "images"): 0}
MODES = {
    "labels": (True, NONE),
    "labels beside": (True, NONE | {("pretrain", "online_head"): 0.5}),
    "no validation": (True, NONE | WITHOUT | {("pretrain", "online_head"): 0.5}),
    "no labels": (False, NONE | {("quality", "images"): 0}),
    "mixed_ae": (True, NONE | MIXED),
    "joint_gan": (True, GAN | {("pretrain", "method"): "joint_gan"}),
}


def run(folder: Path, labelled: bool, changes: dict) -> None:
    """The stages that write plots, on noise of 12 x 12 without generated images."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    short = {("pretrain", name): value for name, value in (("steps", 2), ("evaluate_every", 2), ("batch_size", 8))}
    short |= {(name, "warmup_steps"): 0 for name in ("pretrain", "ddpm")} | {
        (name, "steps"): 2 for name in ("ddpm", "gan")
    }
    short |= {
        ("joint_gan", name): value for name, value in (("real_steps", 1), ("ramp_steps", 1), ("monitor_images", 8))
    } | {("joint_gan", "every"): 1}
    short |= {("inflation", "ratio"): 0.0, ("compute", "threads"): 1, ("joint_gan", "snapshots"): 2}
    presets.write(presets.load("smoke") | changes | short, folder / "params.yaml")
    params = reader.load(folder / "params.yaml")
    images = np.random.default_rng(0).integers(0, 256, (90, 12, 12, 1), np.uint8)
    labels = np.arange(90) % 3 if labelled else np.full(90, -1)
    unseen = shards.VALIDATION if params.dataset.validation_size else shards.TRAIN
    split = np.repeat(np.array([shards.TRAIN, unseen, shards.TEST], np.uint8), 30)
    shards.write_real(
        folder / "data/real", shards.RealSet(images, labels, split, np.arange(90), ("a", "b", "c"), "toy", 30)
    )
    for name in ("inflation", "positives"):
        store.seal(folder / f"data/generated/{name}", [], {"n": 0, "source": "none"})
    for name, stage in STAGES.items():
        stage.main(graph.load(name).select(params))


SLOW = ("mixed_ae", "joint_gan")


@pytest.mark.parametrize("mode", [pytest.param(m, marks=[pytest.mark.slow] * (m in SLOW)) for m in MODES])
def test_what_dvc_yaml_plots_is_in_what_is_written(tmp_path, monkeypatch, mode):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    run(tmp_path, *MODES[mode])
    stages, drawn = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"], set()
    for name in STAGES:
        for plot in stages[name]["plots"]:
            ((path, asked),) = plot.items()
            assert Path(path).exists()
            if path.endswith(".json"):
                get_datapoints(json.loads(Path(path).read_text()))  # a list in a protocol would be one more plot
            if not path.endswith(".csv"):
                continue
            with open(path, newline="") as file:
                reading = csv.DictReader(file)
                rows = list(reading)
            assert {asked["x"], asked["y"]} <= set(reading.fieldnames), path
            assert (
                asked["template"] in ("linear", "bar_horizontal")
                or (ROOT / f".dvc/plots/{asked['template']}.json").exists()
            )
            if rows:
                VegaConverter(path, {path: rows}, asked).flat_datapoints("workspace")
                assert all(row[asked["x"]] and row[asked["y"]] for row in rows), path  # an empty cell is drawn as 0
                drawn.add(Path(path).stem)
    labelled, _ = MODES[mode]
    assert {"pretrain", "validation"} <= drawn
    assert ("confusion" in drawn) == ("per_class" in drawn) == ("grid" in drawn) == labelled
    template = json.loads((ROOT / ".dvc/plots/measures.json").read_text())
    with open("plots/validation.csv", newline="") as file:
        measures = set(csv.DictReader(file).fieldnames) - {"step"}
    assert measures <= set(template["transform"][0]["fold"])
    judged = {"validation_knn"} if labelled and mode != "no validation" else {"rankme"}
    judged |= {"validation_online"} if mode == "labels beside" else set()
    assert measures == judged | {"feature_spread"}
    told, evaluated = (json.loads(Path(f"metrics/{name}.json").read_text()) for name in ("pretrain", "linear_eval"))
    assert {"validation_knn", "rankme", "validation_online"} & told.keys() == judged
    assert ("online" in evaluated) == (mode in ("labels beside", "no validation"))
