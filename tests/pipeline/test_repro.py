"""`dvc repro` from nothing, what it leaves, and what DVC makes of it."""

import csv
import io
import json

import h5py
import numpy as np
import pytest

from pipeline.networks import heads
from tests.pipeline import clones


def read(clone, name):
    return json.loads((clone / name).read_text())


def rows(clone, name):
    return list(csv.DictReader(io.StringIO((clone / name).read_text())))


def test_repro_runs_each_stage_once_and_does_the_work_that_the_parameters_name(base):
    assert clones.starts(base.counts) == list(clones.STAGES)
    assert base.counts["generator.steps"] == 8
    assert base.counts["generate.forwards"] == 4 * 2 * 2  # shards, batches in a shard, solver steps
    assert base.counts["quality.steps"] == 2 * 2  # two networks
    assert base.counts["pretrain.steps"] == 12


def test_second_repro_starts_no_stage_and_changes_no_file(base):
    clones.counts(base.clone)
    before = clones.stats(base.clone)
    output = clones.run(base.clone, "dvc", "repro")
    assert "Data and pipelines are up to date." in output
    assert clones.counts(base.clone) == {}
    assert clones.stats(base.clone) == before
    assert clones.run(base.clone, "git", "status", "--porcelain") == ""


def test_git_sees_the_lock_the_metrics_and_the_plots_and_nothing_else(base):
    changed = {line[3:].split("/")[0] for line in base.status.splitlines()}
    assert changed <= {"dvc.lock", "metrics", "plots"}
    tracked = clones.run(base.clone, "git", "ls-files", "metrics", "plots", "dvc.lock").split()
    assert {name for name in tracked if not name.endswith((".gitkeep", ".gitignore"))} == {
        "dvc.lock",
        "metrics/generate.json",
        "metrics/generator.json",
        "metrics/label_free.json",
        "metrics/linear_eval.json",
        "metrics/linear_eval.protocol.json",
        "metrics/positives.json",
        "metrics/score.json",
        "metrics/prepare.json",
        "metrics/pretrain.json",
        "metrics/quality.json",
        "metrics/quality.protocol.json",
        "plots/closest.png",
        "plots/confusion.csv",
        "plots/generated.png",
        "plots/generator.csv",
        "plots/grid.csv",
        "plots/per_class.csv",
        "plots/positives.png",
        "plots/scores.png",
        "plots/pretrain.csv",
        "plots/pretrain.png",
        "plots/validation.csv",
    }


def test_metrics_agree_with_the_data_and_with_one_another(base):
    clone = base.clone
    prepared = read(clone, "metrics/prepare.json")
    counts = {"train": 400, "labelled_only": 100, "validation": 200, "spare": 200, "ceiling": 0, "test": 10_000}
    rarest, commonest = prepared.pop("rarest_class"), prepared.pop("commonest_class")
    assert prepared == counts | {"shared_with_test": 0, "classes": 10, "passed_over": 0}
    assert rarest <= sum(counts.values()) / 10 <= commonest <= rarest + 10  # in proportion, to within one or two a part
    generated = read(clone, "metrics/generate.json")
    assert (generated["images"], generated["shards"]) == (400, 4)
    with h5py.File(clone / "data/real/images.h5") as file:
        train = file["images"][:][file["split"][:] == 0]
    assert generated["mean_pixel_real"] == pytest.approx(train.mean(), abs=1e-3)
    shards = sorted((clone / "data/generated/inflation").glob("shard-*.h5"))
    images = np.concatenate([h5py.File(path)["images"][:] for path in shards])
    assert images.shape == (400, 28, 28, 1)
    assert generated["mean_pixel"] == pytest.approx(images.mean(), abs=1e-3)
    trained = read(clone, "metrics/pretrain.json")
    assert (trained["steps"], trained["beta"]) == (12, 0.5)
    assert trained["real_drawn"] + trained["generated_drawn"] == 12 * 32
    seen = read(clone, "metrics/quality.json")
    assert (seen["judged"], seen["memorised"]) == (100, 0)
    assert seen["frechet"] > seen["frechet_floor"] > 0
    judged = read(clone, "metrics/linear_eval.json")
    assert judged["top1_low"] < judged["top1"] < judged["top1_high"]
    assert judged["pixels"] > 60  # 400 labelled images and a linear model; chance is 10


def test_tables_agree_with_the_metrics(base):
    clone, judged = base.clone, read(base.clone, "metrics/linear_eval.json")
    confusion = rows(clone, "plots/confusion.csv")
    total = sum(int(row["count"]) for row in confusion)
    right = sum(int(row["count"]) for row in confusion if row["actual"] == row["predicted"])
    assert total == 10_000
    assert judged["top1"] == pytest.approx(100 * right / total, abs=1e-3)
    per_class = rows(clone, "plots/per_class.csv")
    assert len({row["class"] for row in per_class}) == 10
    assert np.mean([float(row["top1"]) for row in per_class]) == pytest.approx(judged["top1"], abs=1e-2)
    (cell,) = rows(clone, "plots/grid.csv")
    assert (float(cell["ratio"]), float(cell["strength"])) == (1.0, 2.0)
    assert float(cell["top1"]) == pytest.approx(judged["top1"], abs=1e-2)
    assert [row["step"] for row in rows(clone, "plots/generator.csv")] == ["3", "6", "8"]
    curve = rows(clone, "plots/pretrain.csv")
    assert [row["step"] for row in curve] == ["3", "6", "9", "12"]
    ended = read(clone, "metrics/pretrain.json")
    assert float(curve[-1]["loss"]) == pytest.approx(ended["loss"], abs=1e-3)
    (measured,) = rows(clone, "plots/validation.csv")
    assert (measured["step"], float(measured["validation_knn"])) == (
        "12",
        pytest.approx(ended["validation_knn"], abs=1e-3),
    )
    assert float(measured["feature_spread"]) > heads.COLLAPSED
    assert ended["collapsed"] == 0


def test_dvc_draws_every_plot_of_dvc_yaml(base, tmp_path):
    clones.run(base.clone, "dvc", "plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    titles = ("Generator loss", "Pretraining loss", "Validation while pretraining", "Top-1 per class", "Confusion")
    assert [title for title in (*titles, "Ratio and strength") if title not in page] == []
    assert "DVC_METRIC" not in page  # a template's anchor that nothing filled
    row = rows(base.clone, "plots/confusion.csv")[0]
    assert f'"count": "{row["count"]}"' in page
    assert list(tmp_path.rglob("*generated.png"))
    assert list(tmp_path.rglob("*closest.png"))


def test_a_fresh_clone_of_a_committed_run_would_run_nothing_unless_a_parameter_changes(base, tmp_path):
    clone = clones.fresh(base.clone, tmp_path / "clone")
    assert clones.would_run(clone) == []
    clones.edit(clone, linear_eval__seed="1")
    assert clones.would_run(clone) != []


def test_committed_lock_belongs_to_this_tree(tree):
    """A run of this very code at these very parameters, at some time and place, gave what is committed."""
    assert (tree / "dvc.lock").exists(), "dvc.lock is missing: run `dvc repro` and commit it with metrics/ and plots/"
    assert clones.would_run(tree) == [], "dvc.lock is stale: run `dvc repro` and commit it with metrics/ and plots/"
