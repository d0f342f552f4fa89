"""An encoder that has collapsed: what the stages leave of it."""

import json
import shutil

import numpy as np
import pytest

from pipeline.core import store
from pipeline.data import shards
from pipeline.params import presets, reader
from pipeline.run import graph
from stages import linear_eval, pretrain
from tests.pipeline.clones import ROOT


@pytest.mark.fault(15)
@pytest.mark.parametrize("value", ["one", "all"])
def test_images_that_are_all_alike_give_features_that_are_and_the_metrics_say_so(tmp_path, monkeypatch, value, capsys):
    """Real images of one grey, or of any: the flag is 1 or 0, and the evaluation has all its numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    presets.write(presets.load("smoke"), tmp_path / "params.yaml")
    params = reader.load(tmp_path / "params.yaml")
    small = params.pretrain.model_copy(update={"steps": 2, "batch_size": 8, "evaluate_every": 2, "warmup_steps": 0})
    params = params.model_copy(
        update={"pretrain": small, "inflation": params.inflation.model_copy(update={"ratio": 0.0})}
        | {"compute": params.compute.model_copy(update={"threads": 1})}
    )
    images = np.random.default_rng(0).integers(0, 256, (90, 12, 12, 1), np.uint8)
    if value == "one":
        images[:] = 7
    split = np.repeat(np.array([shards.TRAIN, shards.VALIDATION, shards.TEST], np.uint8), 30)
    labels = np.arange(90) % 3
    real = shards.RealSet(images, labels, split, np.arange(90), ("a", "b", "c"), "toy", 30)
    shards.write_real(tmp_path / "data/real", real)
    for name in ("inflation", "positives"):
        store.seal(tmp_path / f"data/generated/{name}", [], {"n": 0, "source": "none"})

    given = {name: graph.load(name).select(params) for name in ("pretrain", "linear_eval")}
    pretrain.main(given["pretrain"])
    collapsed = value == "one"
    assert json.loads((tmp_path / "metrics/pretrain.json").read_text())["collapsed"] == int(collapsed)
    assert ("COLLAPSED" in capsys.readouterr().err) == collapsed
    linear_eval.main(given["linear_eval"])
    judged = json.loads((tmp_path / "metrics/linear_eval.json").read_text())
    assert np.isfinite(list(judged.values())).all()
    if collapsed:
        assert judged["top1"] == pytest.approx(100 / 3, abs=0.1)
