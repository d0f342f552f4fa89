"""The run's encoder on other data, and trained on with few labels: stages that are there where they are asked for."""

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.data import fetch
from pipeline.params import presets
from tests.pipeline import clones

pytestmark = pytest.mark.slow
FOLDER = {"name": "folder", "seed": 0}
COLOURS = FOLDER | {"path": "data/colours", "train_size": 60, "validation_size": 30, "test_size": 60}
DIGITS = FOLDER | {"path": "data/digits", "train_size": 900, "validation_size": 300, "test_size": 500}


def pictures(folder):
    """150 RGB pictures of 20 x 24, bright or dark, in two class folders."""
    random = np.random.default_rng(0)
    for i in range(150):
        path = folder / ("dark", "light")[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = (60, 190)[i % 2] + random.normal(0, 30, (20, 24, 3)) * [1.0, 0.5, 0.8]
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def asked(base, tmp_path_factory):
    """The smoke run and, in it, two sets and a share of the labels."""
    clone = clones.copy(base.clone, tmp_path_factory.mktemp("transfer") / "clone")
    fetch.fetch("digits", clone / "data")
    pictures(clone / "data/colours")
    presets.write({("transfer", "colours"): COLOURS, ("finetune", "labels"): [0.1]}, clone / "params.yaml")
    clones.run(clone, "dvc", "repro")
    first = clones.counts(clone)
    word = ",".join(f"{key}:{value}" for key, value in DIGITS.items())
    clones.run(clone, "dvc", "exp", "run", "-S", f"+transfer.digits={{{word}}}")
    return clone, first, clones.counts(clone)


def read(clone, name):
    return json.loads((clone / "metrics" / name).read_text())


def test_a_stage_runs_for_each_entry_and_none_that_was_there_again(asked):
    _, first, second = asked
    started = [{name for name in counted if name.endswith(".starts")} for counted in (first, second)]
    assert started == [{"check.starts", "transfer.starts", "finetune.starts"}, {"check.starts", "transfer.starts"}]
    assert first["transfer.starts"] == second["transfer.starts"] == 1
    assert first["finetune.steps"] == 2 * 4


def test_sets_of_other_sizes_and_channels_are_judged_beside_the_yardsticks(asked, base):
    clone, _, _ = asked
    colours, digits = (read(clone, f"transfer/{name}.json") for name in ("colours", "digits"))
    assert set(colours) == set(digits) == {"top1", "top1_low", "top1_high", "knn", "clsp", "pixels", "untrained"}
    assert colours["top1"] > 90  # of two classes
    assert digits["pixels"] > 85  # of ten
    assert digits["untrained"] > 50
    facts = read(clone, "transfer/digits.protocol.json")
    assert (facts["train_labels"], facts["validation_images"], facts["test_images"]) == (900, 300, 500)
    assert facts["encoder_sha256"] == read(base.clone, "linear_eval.protocol.json")["encoder_sha256"]


def test_fine_tuning_has_its_yardstick(asked):
    clone, _, _ = asked
    found = read(clone, "finetune/0.1.json")
    assert found["labels"] == 50
    assert found["top1_low"] < found["top1"] < found["top1_high"]
    assert 0 < found["from_scratch"] < 100


def test_dvc_knows_the_pictures_and_the_numbers(asked):
    clone, _, _ = asked
    assert clones.would_run(clone) == []
    shown = json.loads(clones.run(clone, "dvc", "metrics", "show", "--json"))[""]["data"]
    assert shown["metrics/transfer/digits.json"]["data"] == read(clone, "transfer/digits.json")
    victim = clone / "data/colours/dark/000.png"
    victim.write_bytes(victim.with_name("002.png").read_bytes())
    assert clones.would_run(clone) == ["transfer@colours"]


def test_a_set_that_is_not_there_is_refused_before_anything_runs(asked, base, tmp_path):
    clone = clones.copy(base.clone, tmp_path / "clone")
    presets.write({("transfer", "colours"): COLOURS}, clone / "params.yaml")
    said = clones.run(clone, "dvc", "repro", code=None)
    assert "data/colours" in said
    assert "transfer.starts" not in clones.counts(clone)
