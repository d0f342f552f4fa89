"""The toys of docs/extending.md under real DVC, at the smoke preset."""

import json

import pytest

from tests import extending
from tests.pipeline import clones


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A clone at the smoke preset with both toys, committed."""
    clone = clones.smoke(tmp_path_factory.mktemp("extended") / "clone", compute__threads="1")
    for part in (extending.METHOD, extending.KIND):
        for block in extending.blocks(part):
            extending.apply(block, clone)
    clones.run(clone, "python", "-m", "pipeline", "params")
    clones.commit(clone, "Two toys")
    return clone


def metrics(clone, name):
    """A file of metrics."""
    return json.loads((clone / f"metrics/{name}.json").read_text())


@pytest.mark.slow
def test_the_toy_method_is_trained_and_judged(extended):
    clones.run(extended, "python", "-m", "pipeline", "preset", "--write", "toy")
    clones.run(extended, "dvc", "repro", "linear_eval")
    assert json.loads((extended / "data/encoder/card.json").read_text())["method"] == "toy"
    columns = (extended / "plots/pretrain.csv").read_text().splitlines()[0]
    assert columns == "step,alignment,gradient_norm,loss,lr"
    judged = metrics(extended, "linear_eval")
    assert 0 < judged["top1_low"] < judged["top1"] < judged["top1_high"] < 100


@pytest.mark.slow
def test_the_toy_kind_is_sampled_and_shown_to_the_encoder(extended):
    """Its parameters start the stage again, and no other's."""
    clones.run(extended, "python", "-m", "pipeline", "preset", "--write", "noisy")
    clones.run(extended, "dvc", "repro", "pretrain")
    assert metrics(extended, "positives")["sampled"] == 2 * 400
    assert metrics(extended, "positives")["outside_data"] is False
    assert json.loads((extended / "data/encoder/card.json").read_text())["candidates"] == 2
    clones.edit(extended, conditioned__hidden_dim="17", noisy__cut="2.0")
    clones.counts(extended)
    clones.run(extended, "dvc", "repro", "pretrain")
    assert clones.starts(clones.counts(extended)) == ["check", "positives", "pretrain"]
