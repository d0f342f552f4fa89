"""SIGKILL to dvc and its stage, amid the work: the same command ends with the same bytes, and repeats little.

Steps and UNet calls are counted in the processes themselves (counting/sitecustomize.py), not read from a log.
"""

import shutil
from types import SimpleNamespace

import pytest
import yaml

from tests.pipeline import clones

pytestmark = pytest.mark.slow
TEMP = ("dvc", "exp", "run", "--temp", "--name", "killed")


@pytest.fixture(scope="module")
def killed(small, tmp_path_factory):
    """A clone with a store of its own, killed once in each long stage and carried on; what was seen after each."""
    clone = clones.copy(small, tmp_path_factory.mktemp("killed") / "clone")
    seen = SimpleNamespace(clone=clone)

    clones.killed_at(clone, "generator.steps:7", "dvc", "repro")
    seen.in_generator, seen.made_in_generator = clones.counts(clone), list(clones.digests(clone))

    clones.killed_at(clone, "generate.forwards:7", "dvc", "repro")
    seen.in_generate, seen.made_in_generate = clones.counts(clone), list(clones.digests(clone))
    seen.shards = shards(clone)

    clones.commit(clone, "Two stages and a half")
    with clones.background(clone, *TEMP, hold="pretrain.steps:7") as (experiment, log):
        clones.held(clone, experiment, log)
        seen.in_pretrain, seen.shards_after = clones.counts(clone), shards(clone)
        with clones.background(clone, "dvc", "repro") as (second, second_log):
            clones.until(lambda: "works on encoder" in second_log.read_text(), second, second_log)
            seen.while_waiting = clones.counts(clone)
            clones.kill(experiment)
            second.wait(900)
            seen.second, seen.code = second_log.read_text(), second.returncode
    seen.at_the_end = clones.counts(clone)
    return seen


def shards(clone):
    """The sampled shards in the store: name -> (inode, size, time)."""
    found = clones.stats(clone, ".cache/shards")
    return {name.rpartition("/")[2]: facts for name, facts in found.items() if name.endswith(".h5")}


@pytest.mark.fault(2)
def test_nothing_half_made_has_its_final_name(killed):
    made = [name for name in killed.made_in_generator if "generator" in name or "generated" in name]
    assert made in ([], ["plots/generator.csv"])  # the curve so far, whole at any time
    assert not [name for name in killed.made_in_generate if "generated" in name]
    assert list(killed.shards) == ["shard-00000.h5"]


def test_killed_generator_goes_on_after_its_last_checkpoint(killed):
    assert clones.starts(killed.in_generator) == ["check", "prepare", "generator"]
    assert killed.in_generator["generator.steps"] == 7  # killed on the way into the seventh of eight
    assert clones.starts(killed.in_generate) == ["generator", "generate"]
    assert killed.in_generate["generator.steps"] == 8 - 4  # from checkpoint 4 on


@pytest.mark.fault(1)
def test_killed_sampling_samples_only_the_shards_that_it_lacks(killed):
    assert killed.in_generate["generate.forwards"] == 4 + 3  # shard 0, and into the fourth call of shard 1
    assert killed.in_pretrain["generate.forwards"] == 3 * 4  # shards 1 to 3, in another process of another kind
    assert len(killed.shards_after) == 4
    assert killed.shards_after["shard-00000.h5"] == killed.shards["shard-00000.h5"]


@pytest.mark.fault(4)
def test_pretraining_killed_in_a_temporary_copy_goes_on_in_the_workspace(killed):
    assert killed.in_pretrain["pretrain.steps"] == 7
    assert killed.at_the_end["pretrain.steps"] == 12 - 4


def test_second_process_waits_for_the_first_and_takes_over_when_it_is_killed(killed):
    assert "pretrain.steps" not in killed.while_waiting
    assert "waiting: another process works on encoder" in killed.second
    assert killed.code == 0, killed.second


def test_every_file_after_three_kills_is_that_of_an_uninterrupted_run(killed, base):
    assert clones.digests(killed.clone) == clones.digests(base.clone)
    assert (killed.clone / "dvc.lock").read_text() == (base.clone / "dvc.lock").read_text()


def test_experiment_killed_in_a_temporary_copy_goes_on_in_the_next(base, tmp_path):
    """Of a run of which neither DVC nor the store knows an encoder any more."""
    clone = clones.copy(base.clone, tmp_path / "clone")
    known = lock(clone)
    for name in ("pretrain", "linear_eval"):
        del known["stages"][name]
    (clone / "dvc.lock").write_text(yaml.safe_dump(known))
    for folder in (".cache/encoder", ".dvc/cache/runs"):
        shutil.rmtree(clone / folder)
    clones.commit(clone, "Without an encoder")
    workspace = clones.digests(clone)
    clones.killed_at(clone, "pretrain.steps:7", *TEMP)
    assert clones.counts(clone)["pretrain.steps"] == 7
    clones.run(clone, *TEMP)
    counted = clones.counts(clone)
    assert clones.starts(counted) == ["check", "pretrain", "linear_eval"]
    assert counted["pretrain.steps"] == 12 - 4
    assert yaml.safe_load(clones.experiment(clone, "killed", "dvc.lock")) == lock(base.clone)
    assert clones.digests(clone) == workspace


def test_stages_run_alone_in_order_and_make_the_same_bytes(small, base, tmp_path):
    clone = clones.copy(small, tmp_path / "clone")
    for name in clones.STAGES:
        clones.stage(clone, name)
    assert clones.digests(clone) == clones.digests(base.clone)


def lock(clone):
    return yaml.safe_load((clone / "dvc.lock").read_text())


def test_the_curves_can_be_drawn_while_a_stage_runs(small, tmp_path):
    """DVC holds the lock of its run meanwhile."""
    clone = clones.copy(small, tmp_path / "clone")
    with clones.background(clone, "dvc", "repro", hold="generator.steps:7") as (process, log):
        clones.held(clone, process, log)
        lines = (clone / "plots/generator.csv").read_text().splitlines()
        shown = clones.run(clone, "dvc", "plots", "show", "plots/generator.csv", "--json")
        page = clones.run(clone, "dvc", "plots", "show", "plots/generator.csv", "--out", str(tmp_path / "page"))
    assert lines[0].startswith("step,loss,")
    step = lines[1].partition(",")[0]
    assert 0 < int(step) < 7
    assert f'"step": "{step}"' in shown.replace("\\", "")
    assert "index.html" in page
