"""What is missing, what it may cost, what another row answers already; tests/pipeline/test_study.py runs real cells."""

import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.params import reader
from pipeline.run import launch
from pipeline.study import cells, experiment, rows, runner
from tests.pipeline import clones
from tests.study.toy import STUDY

MEASURED = dict.fromkeys(rows.COLUMNS, 1.0)


def row(one, **values):
    """A row of a cell, as `run` would write it."""
    facts = {"seconds": 60.0, "commit": "c", "key": one.key}
    return MEASURED | rows.setting(one.cell, one.params) | facts | values


def test_a_cell_is_missing_until_a_row_has_its_key(write):
    study = write()
    asked = runner.wanted(study)
    assert runner.missing(asked) == asked
    rows.add(study.memory, row(asked[1]))
    assert runner.missing(asked) == [asked[0], *asked[2:]]
    rows.add(study.memory, row(asked[2], key="of other code"))
    assert runner.missing(asked) == [asked[0], *asked[2:]]


def test_cells_that_ask_for_the_same_are_run_once_and_have_a_row_each(write):
    """A part may say what params.yaml says already: another name, the same key."""
    same = STUDY + "  again:\n    asks: the same\n    seeds: 1\n    base:\n      quality:\n        steps: 3\n"
    study = write(same)
    asked = runner.wanted(study)
    one, twin = asked[1], asked[-1]
    assert one.cell.name != twin.cell.name
    assert one.key == twin.key
    assert twin not in runner.missing(asked)
    rows.add(study.memory, row(one, top1=81.5))
    runner.adopt(study, asked)
    runner.adopt(study, asked)
    found = rows.read(study.memory)
    assert [(r["label"], r["cell"], r["top1"]) for r in found] == [
        (one.cell.label, one.cell.name, "81.5"),
        (twin.cell.label, twin.cell.name, "81.5"),
    ]


def test_a_row_tells_a_games_arms_and_mixed_aes_apart_and_knows_what_was_fine_tuned(write):
    parts = """
parts:
  game:
    asks: x
    seeds: 1
    base: {generator: {kind: gan}, generate: {sampler: direct, steps: 1}, inflation: {ratio: 0.0}}
    arms: {hard: {pretrain: {method: joint_gan}, joint_gan: {mode: hard}}, real only: {}}
  mixed:
    asks: x
    seeds: 1
    base:
      finetune: {labels: [0.1, 0.02]}
      pretrain:
        method: mixed_ae
        backbone: {kind: vit, width: 24, stem: null, block: null, blocks: null, depth: 1, heads: 2, patch: 4}
      augment: {family: crop, strength: 1.0}
    arms:
      all: {mixed_ae: {mix: full}}
      mae: {mixed_ae: {mixing: false, attention: false, segments: false, contrast: 0.0}}
"""
    asked = runner.wanted(write(STUDY.partition("parts:")[0] + parts))
    names = ("generator", "backbone", "mode", "mix", "mixing", "attention", "segments", "contrast", "finetune_labels")
    found = [tuple(rows.setting(one.cell, one.params)[name] for name in names) for one in asked]
    assert found == [
        ("gan", "resnet", "hard", "", "", "", "", "", ""),
        ("gan", "resnet", "", "", "", "", "", "", ""),
        ("ddpm", "vit", "", "full", 1.0, 1.0, 1.0, 0.1, 0.1),
        ("ddpm", "vit", "", "", 0.0, 0.0, 0.0, 0.0, 0.1),
    ]


def test_fine_tunings_top1_is_a_column_of_its_own():
    probed, tuned = {"top1": 70.0, "knn": 60.0}, {"top1": 81.0, "from_scratch": 75.0, "labels": 1000}
    made = {"synthetic": 3.25, "views": 9, "collapsed": 0}
    found = rows.measured({"pretrain": made, "linear_eval": probed, "finetune": tuned})
    assert found == {
        "top1": 70.0,
        "knn": 60.0,
        "finetuned": 81.0,
        "from_scratch": 75.0,
        "synthetic": 3.25,
        "views": 9,
    }


def test_rows_of_another_study_are_taken_over(write):
    study = write()
    asked = runner.wanted(study)
    rows.add(study.memory.with_name("other.csv"), row(asked[0], label="elsewhere", cell="another"))
    assert asked[0] not in runner.missing(asked)
    runner.adopt(study, asked)
    assert [(r["label"], r["cell"]) for r in rows.read(study.memory)] == [(asked[0].cell.label, asked[0].cell.name)]


def test_a_file_that_was_read_before_is_read_as_it_is_now(write):
    study = write()
    first, second, third = (row(one, label=one.cell.label, cell=one.cell.name) for one in runner.wanted(study)[:3])
    path = study.memory

    def labels() -> list[str]:
        return [r["label"] for r in rows.read(path)]

    for count, one in enumerate((first, second), 1):
        rows.add(path, one)
        assert labels() == [r["label"] for r in (first, second)[:count]]
    rows.read(path)[0]["label"] = "spoilt by who has read it"
    assert labels() == [first["label"], second["label"]]
    text = path.read_text()
    path.write_text(text.replace(second["label"], "changed"))
    assert labels() == [first["label"], "changed"]
    path.write_text(text[:-1])  # the end of the last line is lost
    assert labels() == [first["label"], second["label"]]
    rows.add(path, third)
    assert labels() == [r["label"] for r in (first, second, third)]
    path.write_text(path.read_text() + "half a row\n")
    with pytest.raises(UserError, match=re.escape(f"{path}:5: no row of a study")):
        rows.read(path)
    path.write_text(text)
    assert labels() == [first["label"], second["label"]]


def test_what_a_cell_may_cost(write):
    """Per image drawn, of the same method and width, or else of any: 256 images here, 384 in the grid's 12 steps."""
    asked = runner.wanted(write())
    assert runner.pace([])(asked[0]) is None
    known = [{"method": "simclr", "width": "8", "images": "256", "seconds": s} for s in ("32", "64", "640")]
    assert runner.pace(known)(asked[0]) == pytest.approx(64)
    assert runner.pace(known)(asked[-1]) == pytest.approx(96)
    assert runner.pace([{"method": "byol", "width": "8", "images": "128", "seconds": "16"}])(asked[0]) == 32


class Busy:
    """In the place of an experiment: it runs until it is told to end."""

    def __init__(self, study, one, commit, gpus):
        self.gpus, self.ended = gpus, None

    def code(self):
        return self.ended


def test_each_experiment_has_gpus_that_no_other_has(monkeypatch):
    monkeypatch.setattr(experiment, "Experiment", Busy)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3, 4,3,6,7,-1,8")
    with pytest.raises(
        UserError, match=r'^--gpus 2: a process uses one GPU.* - export PIPELINE_LAUNCH="torchrun .*2"$'
    ):
        experiment.Gpus(2)
    monkeypatch.setenv("PIPELINE_LAUNCH", "torchrun --nproc-per-node 2")
    gpus = experiment.Gpus(2)
    assert gpus.most == 2
    first, second = (gpus.start("toy", None, "c") for _ in range(2))
    assert (first.gpus, second.gpus) == (["1", "3"], ["4", "6"])
    with pytest.raises(UserError, match=r"^--gpus 2: only 1 of 5 GPUs are free$"):
        gpus.start("toy", None, "c")
    first.ended = 1
    assert gpus.start("toy", None, "c").gpus == ["1", "3"]
    with pytest.raises(UserError, match=r"^--gpus 6: this machine has 5 - ask for fewer, or for none$"):
        experiment.Gpus(6)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert experiment.Gpus(1).start("toy", None, "c").gpus == ["0"]


def test_what_guards_an_experiment_ends_with_it():
    one = experiment.Experiment.__new__(experiment.Experiment)
    one._process = subprocess.Popen(["sleep", "0.2"])
    one._guard = launch.guard(one._process, signal.SIGKILL)
    assert (one.code(), one._guard.poll()) == (None, None)
    one._process.wait()
    assert one.code() == 0
    assert one._guard.poll() is not None
    assert one.code() == 0


# --- running, with a process that does nothing in an experiment's place


class Stand:
    """In the place of an experiment: a shell that sleeps, and ends as its cell is told to."""

    ends: ClassVar[dict] = {}
    labels: ClassVar[list] = []
    copied = True  # whether DVC makes a copy
    processes: ClassVar[list] = []
    at_once = 0
    settling = 0.0  # seconds in which its parameters stand in the folder
    settled_at = 0.0  # of the one that was begun last

    def __init__(self, study, one, commit):
        assert Stand.settled_at <= time.monotonic(), "another has its parameters in the folder"
        Stand.settled_at = time.monotonic() + self.settling
        self.one, self.commit = one, commit
        Stand.labels.append(one.cell.label)
        sleep, code = self.ends.get(one.cell.label, (0.3, 0))
        words = ["sh", "-c", f"trap 'exit 130' INT; sleep {sleep} & wait $!; exit {code}"]
        self.process = subprocess.Popen(words, start_new_session=True)
        Stand.processes.append(self.process)
        Stand.at_once = max(Stand.at_once, sum(process.poll() is None for process in Stand.processes))

    def settled(self):
        return self.settled_at <= time.monotonic()

    def begun(self):
        return self.copied

    def code(self):
        return self.process.poll()

    def interrupt(self, number):
        if self.code() is None:
            os.killpg(self.process.pid, number)

    def row(self):
        return row(self.one, commit=self.commit, top1_labelled=81.0, seconds=0.3)

    def fault(self):
        return "failed, it was told to"

    def keep_time(self):
        pass


@pytest.fixture
def stand(write, monkeypatch):
    monkeypatch.setenv("LEAVEN_STORE", "store")
    monkeypatch.setattr(runner, "Experiment", Stand)
    monkeypatch.setattr(rows, "commit", lambda: "abc")
    monkeypatch.setattr(Stand, "ends", {})
    monkeypatch.setattr(Stand, "labels", [])
    monkeypatch.setattr(Stand, "copied", True)
    monkeypatch.setattr(Stand, "processes", [])
    monkeypatch.setattr(Stand, "at_once", 0)
    monkeypatch.setattr(Stand, "settled_at", 0.0)
    for key in ("dataset", "generator", "unclip", "start"):
        Path(getattr(reader.load(), key).path).mkdir(parents=True)
    return write()


def test_all_cells_get_a_row_two_at_a_time(stand, capsys):
    runner.run(stand, None, 1, 2)
    assert Stand.at_once == 2
    assert sorted(r["label"] for r in rows.read(stand.memory)) == sorted(cell.label for cell in stand.cells)
    assert "0 of 8 cells missing" in capsys.readouterr().err
    runner.run(stand, None, 1, 2)
    assert len(Stand.labels) == 8


def test_none_begins_and_no_commit_is_read_while_another_has_its_parameters_in_the_folder(stand, monkeypatch):
    """`dvc exp run -S` writes params.yaml here, stashes it and puts the old one back before it works in its copy."""

    def commit():
        assert Stand.settled_at <= time.monotonic(), "params.yaml is another experiment's"
        return "abc"

    monkeypatch.setattr(Stand, "settling", 0.5)
    monkeypatch.setattr(rows, "commit", commit)
    runner.run(stand, ["arms"], 1, 3)
    assert len(rows.read(stand.memory)) == 4


def test_a_cell_that_fails_is_told_and_the_others_go_on(stand, capsys):
    Stand.ends = {"arms: some, seed 0": (0.1, 1)}
    with pytest.raises(UserError, match="failed, 1 of the cells: arms: some, seed 0") as caught:
        runner.run(stand, None, 1, 2)
    assert caught.value.code == 1
    assert "arms: some, seed 0: failed, it was told to" in capsys.readouterr().err
    assert len(rows.read(stand.memory)) == 7


def test_a_clone_of_which_dvc_makes_no_copy_is_told_in_a_line_and_no_other_cell_is_tried(stand):
    Stand.copied, Stand.ends = False, {"arms: none, seed 0": (0.1, 255)}
    with pytest.raises(UserError, match=r"^toy: no cell begins: failed, it was told to - mend that"):
        runner.run(stand, None, 1, 2)
    assert Stand.labels == ["arms: none, seed 0"]


def test_what_would_fail_in_every_cell_or_lose_its_numbers_is_refused_before_the_first(stand, tmp_path, monkeypatch):
    def refused(study, words):
        with pytest.raises(UserError, match=words):
            runner.run(study, None, 1, 1)
        assert Stand.labels == []

    there = Path(reader.load().dataset.path)
    there.rename(tmp_path / "moved")
    refused(stand, f"^params.yaml: dataset.path: {there} does not exist - set it to one that does$")
    (tmp_path / "moved").rename(there)
    base = STUDY.replace("base:\n", f"base:\n  dataset:\n    path: ../{tmp_path.name}\n", 1)
    (tmp_path / "studies/else.yaml").write_text(base)
    refused(cells.load("else"), "^params.yaml: dataset.path: .* leads out of the clone - write it as an absolute path")
    spaced = STUDY.replace("base:\n", "base:\n  dataset:\n    path: data/my set\n", 1)
    (tmp_path / "studies/spaced.yaml").write_text(spaced)
    refused(cells.load("spaced"), "^arms: none, seed 0: 'data/my set' does not survive .* - write it without blanks")
    (tmp_path / "studies/a b.yaml").write_text(STUDY)
    with pytest.raises(UserError, match=r"^a b: no name for experiments"):
        cells.load("a b")
    with monkeypatch.context() as patched:
        patched.setattr(runner.tempfile, "TemporaryFile", closed)
        refused(stand, r"^studies/toy.csv: cannot write: Permission denied")
    shutil.copytree(clones.ROOT / "studies", tmp_path / "origin")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "1"], ["commit", "-qm", "2", "--allow-empty"]):
        subprocess.run(["git", *words], cwd=tmp_path / "origin", check=True, env=clones.environment(tmp_path / "x"))
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{tmp_path}/origin", "shallow"], check=True)
    (tmp_path / "shallow/.git").rename(tmp_path / ".git")
    refused(stand, f"^{tmp_path}: a shallow clone: DVC would lose the experiment .* - git fetch --unshallow$")


def closed(**place):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_time_ends_a_run_and_what_is_finished_meanwhile_counts(stand):
    Stand.ends = {"arms: none, seed 0": (0.1, 0), "arms: some, seed 0": (60, 0)}
    since = time.monotonic()
    runner.run(stand, None, 1.2 / 60, 2)
    assert time.monotonic() - since < 10
    assert "arms: none, seed 0" in [r["label"] for r in rows.read(stand.memory)]
    assert "arms: some, seed 0" not in [r["label"] for r in rows.read(stand.memory)]


def test_nothing_is_started_that_would_not_be_finished_but_the_first(stand):
    """A row says a minute for 256 images: with half a minute, one cell is tried all the same, and no second."""
    rows.add(stand.memory, row(runner.wanted(stand)[0], seconds=60.0))
    runner.run(stand, None, 0.5, 1)
    assert Stand.labels == ["arms: some, seed 0"]


def test_other_code_meanwhile_ends_a_run_before_a_row_is_written(stand, monkeypatch):
    commits, kept = iter(["abc", "abc", "other"]), []
    monkeypatch.setattr(Stand, "keep_time", lambda self: kept.append(self.one.cell.label))
    monkeypatch.setattr(rows, "commit", lambda: next(commits))
    monkeypatch.setattr(rows, "alike", lambda one, other: False)
    with pytest.raises(UserError, match="other code or parameters than when the study began"):
        runner.run(stand, None, 1, 1)
    assert rows.read(stand.memory) == []
    assert kept == ["arms: none, seed 0"]  # or its row would tell of the second look alone


def test_a_commit_of_anything_else_meanwhile_does_not(stand, monkeypatch):
    """A row names the commit at which its cell began."""
    commits = itertools.count()
    monkeypatch.setattr(rows, "commit", lambda: f"commit {next(commits):02}")
    monkeypatch.setattr(rows, "alike", lambda one, other: True)
    runner.run(stand, ["arms"], 1, 1)
    named = [found["commit"] for found in rows.read(stand.memory)]
    assert named == ["commit 01", "commit 03", "commit 05", "commit 07"]


def test_commits_are_alike_where_code_and_parameters_are(tmp_path, monkeypatch):
    def commit(path: str) -> str:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
        for words in (["add", "."], ["commit", "-qm", path]):
            subprocess.run(["git", *words], cwd=tmp_path, check=True, env=clones.environment(tmp_path / "x"))
        return rows.git("rev-parse", "HEAD")

    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    first, page, code, parameters = map(commit, ("a", "docs/page.md", "pipeline/x.py", "params.yaml"))
    assert rows.alike(first, page)
    assert not rows.alike(page, code)
    assert not rows.alike(first, code)
    assert not rows.alike(code, parameters)


@pytest.mark.parametrize(
    ("parts", "minutes", "jobs", "said"),
    [
        (["typo"], 1, 1, "no part typo.* there are arms, grid"),
        (None, 0, 1, "above 0"),
        (None, float("nan"), 1, "above 0"),
        (None, 1, 0, "above 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(stand, parts, minutes, jobs, said):
    with pytest.raises(UserError, match=said):
        runner.run(stand, parts, minutes, jobs)


def test_a_part_alone(stand):
    runner.run(stand, ["arms"], 1, 4)
    assert len(rows.read(stand.memory)) == 4


def test_rows_are_refused_where_git_cannot_name_their_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="not a git repository"):
        rows.commit()
