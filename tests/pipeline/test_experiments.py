"""`dvc exp run` in the workspace, in a temporary copy and in the queue: one store, and only missing shards are made."""

import csv
import hashlib
import io
import json
import time
from types import SimpleNamespace

import pytest
import yaml

from tests.pipeline import clones

pytestmark = pytest.mark.slow
SHARD_CALLS = 4  # UNet calls a shard: two batches, two solver steps


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """A copy of the run at ratio 1 with experiments at 2 (workspace) and 0.5 (temporary copy; to the images alone)."""
    clone = clones.copy(base.clone, tmp_path_factory.mktemp("experiments") / "clone")
    seen = SimpleNamespace(clone=clone, store=[stored(clone)], files=[clones.digests(clone)], counts=[], states=[])
    clones.run(clone, "git", "status")  # takes in the copies' new inodes
    for name, words in (
        ("more", ["-S", "inflation.ratio=2.0"]),
        ("fewer", ["--temp", "-S", "inflation.ratio=0.5", "generate"]),
    ):
        clones.run(clone, "dvc", "exp", "run", "--name", name, *words)
        seen.counts.append(clones.counts(clone))
        seen.store.append(stored(clone))
        seen.files.append(clones.digests(clone))
        seen.states.append(clones.run(clone, "git", "status", "--porcelain"))
        if name == "more":
            seen.difference = json.loads(clones.run(clone, "dvc", "metrics", "diff", "--json"))
    seen.table = list(csv.DictReader(io.StringIO(clones.run(clone, "dvc", "exp", "show", "--csv"))))
    return seen


def stored(clone):
    """Shards in the store: name -> (inode, size, time)."""
    found = clones.stats(clone, ".cache/shards")
    return {name: facts for name, facts in found.items() if name.endswith(".h5")}


def cached(clone, name):
    """The generated set of an experiment as DVC's cache has it: file -> sha256."""
    lock = yaml.safe_load(clones.experiment(clone, name, "dvc.lock"))
    folder = next(out for out in lock["stages"]["generate"]["outs"] if out["path"] == "data/generated/inflation")
    listed = json.loads(object_of(clone, folder["md5"]).read_text())
    return {
        entry["relpath"]: hashlib.sha256(object_of(clone, entry["md5"]).read_bytes()).hexdigest() for entry in listed
    }


def object_of(clone, md5):
    return clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def shards(files):
    return {name.rpartition("/")[2]: digest for name, digest in files.items() if name.endswith(".h5")}


def generated(files):
    return shards({name: digest for name, digest in files.items() if "data/generated/inflation/" in name})


def test_larger_ratio_reruns_neither_preparation_nor_generator(runs):
    assert clones.starts(runs.counts[0]) == ["check", "generate", "score", "quality", "pretrain", "linear_eval"]


def test_larger_ratio_samples_only_the_shards_that_are_missing(runs):
    before, after = runs.store[:2]
    assert (len(before), len(after)) == (4, 8)
    assert runs.counts[0]["generate.forwards"] == 4 * SHARD_CALLS
    assert {name: after[name] for name in before} == before  # the same inodes, not touched


def test_generated_images_of_a_smaller_ratio_are_the_first_of_a_larger_one(runs):
    at_1, at_2, at_half = generated(runs.files[0]), generated(runs.files[1]), shards(cached(runs.clone, "fewer"))
    assert (len(at_half), len(at_1), len(at_2)) == (2, 4, 8)
    assert len(set(at_2.values())) == 8
    assert at_1.items() <= at_2.items()
    assert at_half.items() <= at_1.items()


def test_temporary_copy_uses_the_clones_store_and_samples_nothing_that_is_there(runs):
    assert clones.starts(runs.counts[1]) == ["check", "generate"]
    assert "generate.forwards" not in runs.counts[1]
    assert runs.store[2] == runs.store[1]


def test_temporary_copy_leaves_the_workspace_alone(runs):
    assert runs.files[2] == runs.files[1]
    assert runs.states[1] == runs.states[0]


def test_no_generated_images_and_no_generator_is_a_run_like_any_other_and_has_its_plots(base, tmp_path):
    clone = clones.copy(base.clone, tmp_path / "clone")
    clones.run(clone, "dvc", "exp", "run", "-S", "inflation.ratio=0", "-S", "generator.source=none")
    counted = clones.counts(clone)
    assert clones.starts(counted) == ["check", "generator", "generate", "score", "positives", *clones.STAGES[-3:]]
    assert "generate.forwards" not in counted
    assert "generator.steps" not in counted
    made = {name for name in clones.digests(clone) if name.startswith(("data/generator/", "data/generated/"))}
    sets = {f"data/generated/{name}/manifest.json" for name in ("inflation", "positives", "scores")}
    assert made == {"data/generator/card.json", *sets}
    facts = json.loads((clone / "metrics/pretrain.json").read_text())
    assert (facts["beta"], facts["generated_drawn"]) == (1.0, 0)
    assert json.loads((clone / "metrics/generate.json").read_text())["images"] == 0
    clones.run(clone, "dvc", "plots", "show", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text()
    assert "Pretraining loss" in page
    assert "Confusion" in page


def test_metrics_diff_names_what_a_ratio_changed(runs):
    made = runs.difference["metrics/generate.json"]
    assert (made["images"]["old"], made["images"]["new"]) == (400, 800)
    assert runs.difference["metrics/pretrain.json"]["beta"]["diff"] == pytest.approx(1 / 3 - 1 / 2, abs=1e-3)
    assert "metrics/generator.json" not in runs.difference


def test_exp_show_has_a_row_with_parameters_and_metrics_for_each_experiment(runs):
    rows = {row["Experiment"]: row for row in runs.table if row["Experiment"]}
    for name, ratio in (("more", 2.0), ("fewer", 0.5)):
        (ratio_column,) = [column for column in rows[name] if column.endswith("inflation.ratio")]
        assert float(rows[name][ratio_column]) == ratio
        judged = json.loads(clones.experiment(runs.clone, name, "metrics/linear_eval.json"))
        (column,) = [column for column in rows[name] if column == "top1" or column.endswith(":top1")]
        assert float(rows[name][column]) == pytest.approx(judged["top1"], abs=1e-4)


def test_queued_experiments_share_the_store_and_bring_their_metrics(base, tmp_path):
    clone = clones.copy(base.clone, tmp_path / "clone")
    before = stored(clone)
    clones.run(clone, "dvc", "exp", "run", "--queue", "--name", "sweep", "-S", "inflation.ratio=0.5,1.5")
    clones.run(clone, "dvc", "queue", "start")
    end = time.monotonic() + 900
    try:
        while (status := clones.run(clone, "dvc", "queue", "status")).count("Success") < 2:
            assert "Failed" not in status, status + clones.run(clone, "dvc", "queue", "logs", "sweep-1", code=None)
            assert time.monotonic() < end, status
            time.sleep(3)
    finally:
        clones.run(clone, "dvc", "queue", "stop", "--kill")
    assert clones.counts(clone)["generate.forwards"] == 2 * SHARD_CALLS  # of ratio 1.5; 0.5 needs none
    assert {name: facts for name, facts in stored(clone).items() if name in before} == before
    assert len(stored(clone)) == 6
    table = list(csv.DictReader(io.StringIO(clones.run(clone, "dvc", "exp", "show", "--csv"))))
    rows = {row["Experiment"]: row for row in table if row["Experiment"]}
    for name, images in (("sweep-1", 200), ("sweep-2", 600)):
        assert json.loads(clones.experiment(clone, name, "metrics/generate.json"))["images"] == images
        (column,) = [column for column in rows[name] if column == "images" or column.endswith(":images")]
        assert float(rows[name][column]) == images
    found = clones.run(clone, "dvc", "metrics", "diff", "--json", "sweep-1", "sweep-2")
    images = json.loads(found)["metrics/generate.json"]["images"]
    assert (images["old"], images["new"]) == (200, 600)
