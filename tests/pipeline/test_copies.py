"""Experiments and studies of real DVC on a user's own files, in any state of the clone; its one stage only counts."""

import csv
import json

import pytest
import yaml

from tests.pipeline import clones

pytestmark = pytest.mark.slow
STUDY = """
title: a toy
presets: [smoke]
base: {compute: {threads: 1}, dataset: {path: data/mine}, transfer: {}}
seed: [pretrain.seed]
parts: {one: {asks: something, seeds: 1}}
"""
JUDGE = """
import json, sys
from pathlib import Path
seen = sum(path.is_file() for path in Path(sys.argv[1]).rglob("*"))
Path("metrics").mkdir(exist_ok=True)
for name in ("pretrain", "linear_eval", "label_free", "quality"):
    Path(f"metrics/{name}.json").write_text(json.dumps({"top1": seen} if name == "linear_eval" else {}))
"""
RUN = ("python", "-m", "pipeline", "study", "run", "toy", "--minutes", "5")


@pytest.fixture
def clone(tmp_path):
    """The check stage and one that counts the files of dataset.path, in a folder of a larger repository."""
    clone = clones.of_working_tree(tmp_path / "outer/leaven")
    described = yaml.safe_load((clone / "dvc.yaml").read_text())["stages"]["check"]
    judge = {"cmd": "python judge.py ${dataset.path}", "deps": ["judge.py", "data/params.ok", "${dataset.path}"]}
    names = ("pretrain", "linear_eval", "label_free", "quality")
    judge["metrics"] = [{f"metrics/{name}.json": {"cache": False}} for name in names]
    clones.run(clone, "rm", "-rf", ".git", "dvc.lock", "metrics", "plots", "studies")
    (clone / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"check": described, "judge": judge}}))
    (clone / "judge.py").write_text(JUDGE)
    (clone / "studies").mkdir()
    (clone / "studies/toy.yaml").write_text(STUDY)
    clones.edit(clone, compute__threads="1")
    (clone.parent / ".gitignore").write_text("/leaven-beside/\n")
    clones.run(clone.parent, "git", "init", "-q")
    clones.commit(clone.parent, "all")
    for i in range(3):
        (clone / f"data/mine/cat/{i}.png").parent.mkdir(parents=True, exist_ok=True)
        (clone / f"data/mine/cat/{i}.png").write_text(str(i))
    return clone


def test_a_study_in_a_folder_of_a_larger_repository_sees_images_that_git_does_not_track_and_reads_its_numbers(clone):
    assert "0 of 1 cells missing" in clones.run(clone, *RUN)
    (row,) = csv.DictReader((clone / "studies/toy.csv").open())
    assert row["top1"] == "3"
    refs = clones.run(clone, "git", "for-each-ref", "refs/exps")
    (clone / "studies/toy.csv").unlink()
    clones.run(clone, *RUN)  # its experiment is there already
    assert (clone / "studies/toy.csv").exists()
    assert len(clones.run(clone, "git", "for-each-ref", "refs/exps").splitlines()) == len(refs.splitlines()) == 1


def test_experiments_see_them_whether_dvc_has_them_or_nobody_and_whatever_else_changed(clone):
    def seen(name, *words):
        clones.run(clone, "dvc", "exp", "run", "-n", name, "-S", "dataset.path=data/mine", *words)
        return json.loads(clones.experiment(clone, name, "leaven/metrics/linear_eval.json"))["top1"]

    assert seen("nobody", "--temp") == 3
    assert seen("here") == 3
    clones.commit(clone, "What the run here made")
    assert seen("unchanged", "--temp") == 3
    clones.run(clone, "dvc", "add", "data/mine")
    assert clones.run(clone, "git", "status", "--porcelain") == "?? leaven/data/mine.dvc\n"
    clones.commit(clone, "Mine")
    (clone / "data/mine/cat/3.png").write_text("3")
    clones.run(clone, "dvc", "add", "data/mine")
    clones.commit(clone, "More of mine")
    assert seen("dvc", "--temp") == 4
    assert clones.run(clone, "git", "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("dvc config core.no_scm true", "Only supported for Git repositories"),
        ("touch ../.git/index.lock", "the index is locked"),
    ],
)
def test_a_clone_of_which_dvc_makes_no_copy_is_refused_in_a_line(clone, words, said):
    clones.run(clone, *words.split())
    *before, line = clones.run(clone, *RUN, code=2).splitlines()
    assert before == ["study toy: 1 of 1 cells to run, for 5 minutes"]
    assert line.startswith("toy: no cell begins: failed, ")
    assert said in line
