"""Methods beside SimCLR under real DVC: each has its own dependencies, and is resumed to the bit."""

import json

import pytest

from tests import toys
from tests.pipeline import clones

# Of every kind of state one: queues, followers, dropout, frozen parameters, positives, AdamW's; the contract's tests
# resume all methods.
KILLED = {
    "all4one": {},
    "swav": {},
    "clsp_moco": {"positives__kind": "anchored"},
    "mixed_ae": {"augment__family": "crop"},
}
PRESETS = {"mixed_ae": ["vit"]}
OTHERS = (*KILLED, "moco", "byol", "barlow_twins", "simsiam", "nnclr", "clsp_simclr", "vicreg", "dino", "joint_gan")


def append(clone, method):
    with open(clone / f"pipeline/methods/{method}.py", "a") as file:
        file.write("\n_ADDED = 1\n")


def test_an_edit_of_one_methods_file_reruns_nothing_of_another(base, tmp_path):
    clone = clones.copy(base.clone, tmp_path / "clone")
    for method in OTHERS:
        append(clone, method)
    assert clones.would_run(clone) == []
    append(clone, "simclr")
    assert clones.would_run(clone)[:2] == ["positives", "pretrain"]  # the encoder that conditioned ones ask is SimCLR's


@pytest.mark.fault(4)
@pytest.mark.slow
@pytest.mark.parametrize("method", KILLED)
def test_a_method_killed_while_pretraining_ends_with_the_bytes_of_an_uninterrupted_run(method, base, tmp_path):
    straight, killed = (clones.copy(base.clone, tmp_path / name) for name in ("straight", "killed"))
    for clone in (straight, killed):
        if method in PRESETS:
            clones.run(clone, "python", "-m", "pipeline.preset", "--write", *PRESETS[method])
        clones.edit(clone, pretrain__method=method, **KILLED[method])
    clones.run(straight, "dvc", "repro", "pretrain")
    also = ["positives"] if "positives__kind" in KILLED[method] else []
    assert clones.starts(clones.counts(straight)) == ["check", *also, "pretrain"]
    clones.killed_at(killed, "pretrain.steps:7", "dvc", "repro", "pretrain")
    clones.counts(killed)
    clones.run(killed, "dvc", "repro", "pretrain")
    counted = clones.counts(killed)
    assert counted["pretrain.steps"] == 12 - 4
    assert clones.digests(killed, "data") == clones.digests(straight, "data")
    trained, before = (json.loads((clone / "metrics/pretrain.json").read_text()) for clone in (straight, base.clone))
    assert trained["steps"] == 12
    assert trained["loss"] != before["loss"]


@pytest.mark.fault(4)
@pytest.mark.slow
def test_views_replaced_by_conditioned_versions_killed_while_their_generator_trains(base, tmp_path):
    """Of the stage's steps eight are the encoder's; then the DDPM's eight."""
    straight, killed = (clones.copy(base.clone, tmp_path / name) for name in ("straight", "killed"))
    asked = {"positives__kind": "conditioned", "positives__weight": "null", "positives__guidance": "2.0"}
    for clone in (straight, killed):
        clones.edit(clone, augment__replace="0.5", **asked)
    clones.run(straight, "dvc", "repro", "pretrain")
    counted = clones.counts(straight)
    assert clones.starts(counted) == ["check", "positives", "pretrain"]
    assert counted["positives.steps"] >= 16
    clones.killed_at(killed, "positives.steps:14", "dvc", "repro", "pretrain")
    clones.counts(killed)
    clones.run(killed, "dvc", "repro", "pretrain")
    assert clones.counts(killed)["positives.steps"] <= counted["positives.steps"] - 8 - 4  # the checkpoint after four
    assert clones.digests(killed, "data") == clones.digests(straight, "data")
    assert json.loads((straight / "metrics/positives.json").read_text())["outside_data"] is False
    card = json.loads((straight / "data/encoder/card.json").read_text())
    assert card["candidates"] == 2


@pytest.mark.slow
def test_versions_by_a_pipeline_that_has_seen_outside_data_say_so_and_follow_its_bytes(base, tmp_path):
    clone, place = clones.copy(base.clone, tmp_path / "clone"), toys.unclip(tmp_path)
    before = json.loads((clone / "metrics/positives.json").read_text())
    assert before == {"sampled": 0}
    asked = {"kind": "unclip", "weight": "null", "guidance": "2.0", "clip": "false"}
    clones.edit(clone, unclip__path=str(place), **{f"positives__{name}": value for name, value in asked.items()})
    clones.run(clone, "dvc", "repro", "positives")
    assert clones.starts(clones.counts(clone)) == ["check", "positives"]
    found = json.loads((clone / "metrics/positives.json").read_text())
    assert found["outside_data"] is True
    assert found["sampled"] == 2 * 400
    assert (clone / "plots/positives.png").stat().st_size > 0
    with open(place / "scheduler/scheduler_config.json", "a") as file:
        file.write("\n")
    assert clones.would_run(clone)[0] == "positives"
    (place / "model_index.json").unlink()
    said = clones.stage(clone, "positives", code=2)
    assert f"positives: {place}/model_index.json: not found - a saved StableUnCLIP" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_vit_pretrained_by_mixing_is_probed_and_fine_tuned(base, tmp_path):
    clone = clones.copy(base.clone, tmp_path / "clone")
    clones.run(clone, "python", "-m", "pipeline.preset", "--write", "vit")
    clones.edit(clone, pretrain__method="mixed_ae", augment__family="crop", finetune__labels="[0.5]")
    clones.run(clone, "dvc", "repro")
    assert clones.starts(clones.counts(clone)) == ["check", "pretrain", "linear_eval"]
    card = json.loads((clone / "data/encoder/card.json").read_text())
    assert (card["kind"], card["size"], card["method"]) == ("vit", 28, "mixed_ae")
    rows = (clone / "plots/pretrain.csv").read_text().splitlines()
    assert rows[0] == "step,contrast,gradient_norm,loss,reconstruction,top_k,lr"
    tuned = json.loads((clone / "metrics/finetune/0.5.json").read_text())
    assert tuned["labels"] == 250
    assert tuned["top1"] != tuned["from_scratch"]


@pytest.mark.fault(4)
@pytest.mark.slow
def test_a_game_killed_while_pretraining_ends_with_the_bytes_of_an_uninterrupted_run(base, tmp_path):
    """Encoder, generators, discriminator, their optimisers, ramp and snapshots; it plays in steps 3, 5, ... 11."""
    gan = {"generator__kind": "gan", "generate__sampler": "direct", "generate__steps": "1", "inflation__ratio": "0.0"}
    straight, killed = (clones.copy(base.clone, tmp_path / name) for name in ("straight", "killed"))
    for clone in (straight, killed):
        clones.edit(clone, pretrain__method="joint_gan", **gan)
    clones.run(straight, "dvc", "repro", "pretrain")
    counted = clones.counts(straight)
    assert clones.starts(counted) == ["check", "generator", "generate", "positives", "pretrain"]
    assert counted["pretrain.steps"] == 12 + 2 * 5
    clones.killed_at(killed, "pretrain.steps:11", "dvc", "repro", "pretrain")
    clones.counts(killed)
    clones.run(killed, "dvc", "repro", "pretrain")
    assert clones.counts(killed)["pretrain.steps"] == 8 + 2 * 4
    assert clones.digests(killed) == clones.digests(straight)
    assert (straight / "data/encoder/gan_snapshots.h5").exists()
