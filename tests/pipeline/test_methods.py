"""Every way of using generated images under real DVC: to the end, with its own dependencies, resumed to the bit."""

import json
import re
import shutil
from types import SimpleNamespace
from typing import get_args

import h5py
import pytest
import yaml

from pipeline.params import presets
from pipeline.params.positives import KINDS
from pipeline.params.schema import Params
from pipeline.study import rows
from tests import toys
from tests.pipeline import clones

METHODS = get_args(Params.model_fields["pretrain"].annotation.model_fields["method"].annotation)
GAN = {"generator__kind": "gan", "generate__sampler": "direct", "generate__steps": "1"}
ANCHORED = {"positives__kind": "anchored"}
TIED = {"weight": {}, "guidance": {"positives__weight": "null", "positives__guidance": "2.0"}}
VERSIONS = TIED["guidance"] | {"augment__replace": "0.5"}
UNCLIP = VERSIONS | {"positives__kind": "unclip", "positives__clip": "false"}
OFFLINE = {"linear_eval__offline": "lars", "linear_eval__offline_lr": "0.2", "linear_eval__offline_epochs": "2"}
# Run -> what it changes: every method, kind of positives, kind of generator and arm of a game; a kind that any method
# takes stands beside one that has no other run.
RUNS = {
    **{name: {"pretrain__method": name} for name in METHODS if name not in ("moco", "byol", "barlow_twins")},
    "clsp_simclr": {"pretrain__method": "clsp_simclr"} | ANCHORED,
    "clsp_moco": {"pretrain__method": "clsp_moco"} | ANCHORED,
    "clsp_simclr augmented": {"pretrain__method": "clsp_simclr", "clsp_simclr__third_view": "augmented"},
    "mixed_ae": {"pretrain__method": "mixed_ae", "augment__family": "crop", "finetune__labels": "[0.5]"},
    "conditioned": {"pretrain__method": "barlow_twins", "positives__kind": "conditioned"} | VERSIONS,
    "unclip": {"pretrain__method": "byol"} | UNCLIP,
    "gan": {"pretrain__method": "moco"} | GAN,
    "resnet50": {"pretrain__accumulate": "2", "pretrain__online_head": "0.25"} | OFFLINE,
    "scored": {"inflation__score": "density_ratio", "inflation__select": "0.75", "inflation__final_real_share": "0.9"},
    "joint_gan": {"pretrain__method": "joint_gan", "inflation__ratio": "0.0", "joint_gan__game_lr": "0.05"} | GAN,
}
RUNS |= {
    f"joint_gan {mode}": RUNS["joint_gan"] | {"joint_gan__mode": mode}
    for mode in ("static", "static_pair", "hard", "pair")
}
for kind, row in KINDS.items():
    if not any(run.get("positives__kind") == kind for run in RUNS.values()):
        RUNS[kind] = {"positives__kind": kind, "augment__replace": "0.5"} | TIED[row.uses]
# It wants patches; the others run on the committed ResNet. The preset's own size would take a minute to judge.
SMALL = {("pretrain", "backbone", name): size for name, size in (("width", 24), ("depth", 1), ("heads", 2))}
DEEP = {("pretrain", "backbone", "width"): 8, ("pretrain", "backbone", "stem"): "3x3-pool"}
PRESETS = {"mixed_ae": presets.compose(["vit"]) | SMALL, "resnet50": presets.compose(["resnet50"]) | DEEP}
# One of every kind of state: queues, momentum encoders, dropout, frozen parameters, positives, AdamW's. The contract's
# tests resume all methods.
KILLED = ("all4one", "swav", "clsp_moco", "mixed_ae")


def append(clone, method):
    with open(clone / f"pipeline/methods/{method}.py", "a") as file:
        file.write("\n_ADDED = 1\n")


@pytest.mark.slow
def test_an_edit_of_one_methods_file_repeats_no_work_of_another(base, tmp_path):
    """The stages that use the room start and find their work in the store; an edit of the method itself trains anew."""
    clone = clones.copy(base.clone, tmp_path / "clone")
    for method in set(METHODS) - {"simclr"}:
        append(clone, method)
    made, _ = clones.digests(clone), clones.counts(clone)
    clones.run(clone, "dvc", "repro")
    counted = clones.counts(clone)
    assert clones.starts(counted) == ["positives", "pretrain"]
    assert not [name for name in counted if name.endswith((".steps", ".forwards"))]
    assert clones.digests(clone) == made
    append(clone, "simclr")
    clones.run(clone, "dvc", "repro")
    assert clones.counts(clone)["pretrain.steps"] > 0
    assert clones.digests(clone, "data/encoder").keys() == {name for name in made if name.startswith("data/encoder/")}


@pytest.mark.parametrize(
    ("section", "key"),
    [("pretrain", "method"), ("positives", "kind"), ("generator", "kind"), ("joint_gan", "mode")],
)
def test_every_kind_has_a_run(section, key):
    kinds = get_args(Params.model_fields[section].annotation.model_fields[key].annotation)
    committed = yaml.safe_load((clones.ROOT / "params.yaml").read_text())[section][key]
    assert {run.get(f"{section}__{key}", committed) for run in RUNS.values()} == set(kinds)


def ask(base, clone, name):
    """Set a clone's parameters to those of a run."""
    shutil.copy(base.clone / "params.yaml", clone / "params.yaml")
    if name in PRESETS:
        presets.write(PRESETS[name], clone / "params.yaml")
    clones.edit(clone, **RUNS[name])
    if name == "unclip":
        clones.edit(clone, unclip__path=str(clone.parent / "pipeline"))


def arrays(clone):
    """HDF5 file under data/ -> {array: dtype}."""
    found = {}
    for path in (clone / "data").rglob("*.h5"):
        with h5py.File(path) as file:
            name = re.sub(r"shard-\d+", "shard-K", str(path.relative_to(clone)))
            found[name] = {array: str(file[array].dtype) for array in file}
    return found


@pytest.fixture(scope="module")
def walk(base, tmp_path_factory):
    """Run -> what `dvc repro` of it left, in one clone that goes from run to run, as a user's does; each once."""
    folder = tmp_path_factory.mktemp("walk")
    clone, walked = clones.copy(base.clone, folder / "clone"), {}
    toys.unclip(folder)

    def walk(name):
        if name not in walked:
            ask(base, clone, name)
            clones.counts(clone)
            clones.run(clone, "dvc", "repro")
            assert clones.would_run(clone) == []
            walked[name] = SimpleNamespace(
                clone=clone,  # as the last run left it
                counts=clones.counts(clone),
                data=clones.digests(clone, "data"),
                arrays=arrays(clone),
                card=json.loads((clone / "data/encoder/card.json").read_text()),
                columns=(clone / "plots/pretrain.csv").read_text().splitlines()[0],
                metrics={
                    str(path.relative_to(clone / "metrics")): json.loads(path.read_text())
                    for path in (clone / "metrics").rglob("*.json")
                },
            )
        return walked[name]

    return walk


def told():
    """File -> {array: dtype}, of the table in docs/files.md."""
    rows = re.findall(r"(?m)^\| `(data/\S+\.h5)` \|[^|]*\| (.*) \|$", (clones.ROOT / "docs/files.md").read_text())
    return {path: dict(re.findall(r"`(\w+)` (\w+) \(", described)) for path, described in rows}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_method_and_kind_runs_to_the_end(name, walk):
    made, asked = walk(name), RUNS[name]
    trained, judged = made.metrics["pretrain.json"], made.metrics["linear_eval.json"]
    assert (trained["steps"], made.card["method"]) == (12, asked.get("pretrain__method", "simclr"))
    assert 0 < judged["top1_low"] < judged["top1"] < judged["top1_high"] < 100
    assert made.arrays.items() <= told().items()


@pytest.mark.slow
def test_every_run_has_an_encoder_of_its_own(walk):
    assert len({walk(name).data["data/encoder/encoder.safetensors"] for name in RUNS}) == len(RUNS)


@pytest.mark.fault(4)
@pytest.mark.slow
@pytest.mark.parametrize("method", KILLED)
def test_a_method_killed_while_pretraining_ends_with_the_bytes_of_an_uninterrupted_run(method, base, walk, tmp_path):
    killed = clones.copy(base.clone, tmp_path / "killed")
    ask(base, killed, method)
    clones.killed_at(killed, "pretrain.steps:7", "dvc", "repro", "pretrain")
    also = ["positives"] if "positives__kind" in RUNS[method] else []
    assert clones.starts(clones.counts(killed)) == ["check", *also, "pretrain"]
    clones.run(killed, "dvc", "repro", "pretrain")
    assert clones.counts(killed)["pretrain.steps"] == 12 - 4
    assert clones.digests(killed, "data") == walk(method).data


@pytest.mark.fault(4)
@pytest.mark.slow
def test_views_replaced_by_conditioned_versions_killed_while_their_generator_trains(base, walk, tmp_path):
    """Of the stage's steps eight are the encoder's; then the DDPM's eight."""
    killed, straight = clones.copy(base.clone, tmp_path / "killed"), walk("conditioned")
    ask(base, killed, "conditioned")
    clones.killed_at(killed, "positives.steps:14", "dvc", "repro", "pretrain")
    clones.counts(killed)
    clones.run(killed, "dvc", "repro", "pretrain")
    steps = straight.counts["positives.steps"]
    assert steps >= 16
    assert clones.counts(killed)["positives.steps"] <= steps - 8 - 4  # the checkpoint after four
    assert clones.digests(killed, "data") == straight.data
    assert straight.metrics["positives.json"]["outside_data"] is False
    assert straight.card["candidates"] == 2


@pytest.mark.slow
def test_versions_by_a_pipeline_that_has_seen_outside_data_say_so_and_follow_its_bytes(base, walk):
    assert json.loads((base.clone / "metrics/positives.json").read_text()) == {"sampled": 0}
    made = walk("unclip")
    clone, place, found = made.clone, made.clone.parent / "pipeline", made.metrics["positives.json"]
    assert found["outside_data"] is True
    assert found["sampled"] == 2 * 400
    assert clones.starts(made.counts) == ["check", "positives", "pretrain", "linear_eval"]
    ask(base, clone, "unclip")
    clones.counts(clone)
    clones.run(clone, "dvc", "repro")  # whatever ran since, DVC brings it back
    assert set(clones.counts(clone)) <= {"check.starts"}  # whose output is no data
    assert clones.digests(clone, "data") == made.data
    assert (clone / "plots/positives.png").stat().st_size > 0
    with open(place / "scheduler/scheduler_config.json", "a") as file:
        file.write("\n")
    assert clones.would_run(clone)[0] == "positives"
    (place / "model_index.json").unlink()
    said = clones.stage(clone, "positives", code=2)
    assert f"positives: {place}/model_index.json: not found - a saved StableUnCLIP" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_vit_pretrained_by_mixing_is_fine_tuned(walk):
    made = walk("mixed_ae")
    assert (made.card["kind"], made.card["size"]) == ("vit", 28)
    assert made.columns == "step,contrast,gradient_norm,loss,reconstruction,top_k,lr"
    tuned = made.metrics["finetune/0.5.json"]
    assert tuned["labels"] == 250
    assert tuned["top1"] != tuned["from_scratch"]


@pytest.mark.slow
def test_a_resnet_50_learns_in_parts_beside_an_online_head_and_is_judged_offline(walk):
    made = walk("resnet50")
    judged, trained = made.metrics["linear_eval.json"], made.metrics["pretrain.json"]
    assert (made.card["block"], made.card["stem"], made.card["blocks"]) == ("bottleneck", "3x3-pool", [3, 4, 6, 3])
    assert "data/encoder/online_head.safetensors" in made.data
    assert all(0 < number < 100 for number in (judged["online"], judged["offline"], trained["validation_online"]))
    assert judged["online"] != judged["top1"] != judged["offline"]
    assert "online_agreement" in made.columns


@pytest.mark.slow
def test_scores_choose_what_takes_part_and_another_share_scores_nothing_anew(base, walk):
    made = walk("scored")
    trained, n = made.metrics["pretrain.json"], made.metrics["generate.json"]["images"]
    assert made.metrics["score.json"]["scored"] == n
    assert trained["generated_kept"] == 3 * n // 4
    assert trained["beta"] == pytest.approx((1 / 1.75 + 0.9) / 2, abs=1e-4)  # in a line from 4 / 7 to 0.9
    assert made.metrics["quality.json"]["judged"] > 0
    ask(base, made.clone, "scored")
    clones.edit(made.clone, inflation__select="0.5", inflation__weighting="density_ratio")
    clones.counts(made.clone)
    clones.run(made.clone, "dvc", "repro")
    assert clones.starts(clones.counts(made.clone)) == ["check", "quality", "pretrain", "linear_eval"]
    trained = json.loads((made.clone / "metrics/pretrain.json").read_text())
    assert trained["generated_kept"] == n // 2
    assert n // 20 < trained["generated_effective"] < n // 2
    with h5py.File(made.clone / "data/generated/scores/scores.h5") as file:
        assert len(set(file["score"][:])) > n // 2
        assert list(file["number"]) == list(range(n))


@pytest.mark.fault(4)
@pytest.mark.slow
def test_a_game_killed_while_pretraining_ends_with_the_bytes_of_an_uninterrupted_run(base, walk, tmp_path):
    """Encoder, generators, discriminator, their optimisers, ramp and snapshots; it plays in steps 3, 5, ... 11."""
    killed, straight = clones.copy(base.clone, tmp_path / "killed"), walk("joint_gan")
    ask(base, killed, "joint_gan")
    clones.killed_at(killed, "pretrain.steps:11", "dvc", "repro", "pretrain")
    assert clones.starts(clones.counts(killed)) == ["check", "generator", "generate", "score", "positives", "pretrain"]
    clones.run(killed, "dvc", "repro", "pretrain")
    assert clones.counts(killed)["pretrain.steps"] == 8 + 2 * 4
    assert straight.counts["pretrain.steps"] == 12 + 2 * 5
    assert clones.digests(killed, "data") == straight.data
    assert "data/encoder/gan_snapshots.h5" in straight.data


@pytest.mark.slow
def test_a_studys_row_has_the_outcomes_of_a_game(walk):
    static, both = (rows.measured(named(walk(name))) for name in ("joint_gan static", "joint_gan"))
    assert static["cosine"] == pytest.approx(1, abs=1e-3)  # one image is its own partner
    assert both["cosine"] < 0.995
    assert static["synthetic"] > 0
    assert both["frechet_most"] >= both["frechet_growth"]
    assert abs(both["frechet_growth"]) > 0.01  # it was measured again, of generators that have moved
    assert not {"frechet_growth", "frechet_most"} & set(static)  # a GAN that stays as it came


def named(made):
    """A run's metrics as studies read them."""
    return {name: made.metrics[f"{name}.json"] for name in rows.FILES if f"{name}.json" in made.metrics}
