"""Cells as jobs of a real SLURM of two nodes on this machine: cancelled, told to leave, left alone, none is lost."""

import contextlib
import csv
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest

from pipeline.core import files
from tests.pipeline import clones, slurm

STEPS, HALF = 40, 10
STUDY = """
title: a toy
presets: [smoke]
base: {compute: {threads: 1}, generator: {source: none}, inflation: {ratio: 0.0}, quality: {images: 0}}
seed: [pretrain.seed, augment.seed]
parts:
  weak:
    asks: whether it goes on
    seeds: 1
    grid: {augment.strength: [1.0, 2.0]}
"""
# In the place of all stages: steps that cost nothing, of which the second half waits to be let go; what was made is
# saved at the end or when it is told to stop, and nowhere else.
DVC = """
stages:
  toy:
    cmd: python toy.py
    params: [pretrain.seed, augment.strength]
    metrics:
      - metrics/pretrain.json: {cache: false}
      - metrics/linear_eval.json: {cache: false}
      - metrics/label_free.json: {cache: false}
      - metrics/quality.json: {cache: false}
"""
TOY = f"""
import json, signal, sys, time
from pathlib import Path
from pipeline.core import store
from pipeline.params import reader

params, stops = reader.load(), []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: stops.append(number))
store.root().mkdir(exist_ok=True)
if (store.root() / "bad").exists():
    sys.exit("toy.py: it is bad")
saved, seen = (store.root() / f"{{name}}-{{params.augment.strength:g}}" for name in ("saved", "seen"))
step = int(saved.read_text()) if saved.exists() else 0
while step < {STEPS} and not stops:
    if step == {HALF} and not (store.root() / "go").exists():
        (store.root() / f"half-{{params.augment.strength:g}}").touch()
    else:
        with open(seen, "a") as file:
            file.write(".")
        step += 1
    time.sleep(0.05)
saved.write_text(str(step))
if stops:
    sys.exit(130)
Path("metrics").mkdir(exist_ok=True)
linear = {{"top1_labelled": 80 + params.augment.strength, "validation": 80.0}}
for name, found in {{"pretrain": {{}}, "linear_eval": linear, "label_free": {{}}, "quality": {{}}}}.items():
    Path(f"metrics/{{name}}.json").write_text(json.dumps(found))
"""
RUN = ("python", "-m", "pipeline", "study", "run", "toy", "--minutes", "20", "--jobs", "2", "--executor", "slurm")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A study of two cells, and SLURM."""
    clone = clones.of_working_tree(tmp_path / "clone")
    for others in (clone / "studies").glob("*.csv"):
        others.unlink()
    (clone / "studies/toy.yaml").write_text(STUDY)
    clones.commit(clone, "A study")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    with slurm.cluster(tmp_path / "slurm"):
        yield clone


@pytest.fixture
def toy(clone):
    """The same with stages that cost nothing."""
    (clone / "dvc.yaml").write_text(DVC)
    (clone / "toy.py").write_text(TOY)
    (clone / "dvc.lock").unlink()
    for made in ("metrics", "plots"):
        shutil.rmtree(clone / made)
    clones.commit(clone, "Toys")
    return clone


def rows(clone) -> list[dict]:
    path = clone / "studies/toy.csv"
    with open(path) if path.exists() else contextlib.nullcontext([]) as file:
        return list(csv.DictReader(file))


def amid(clone, process, log) -> list[str]:
    """The jobs, once both have made half of their steps, and then let go."""
    clones.until(lambda: len(list((clone / ".cache").glob("half-*"))) == 2, process, log)
    return sorted(slurm.said("squeue", "-h", "-o", "%A").split())


def let_go(clone) -> None:
    (clone / ".cache/go").touch()


def at_once(job: str) -> None:
    """SLURM starts a job that it took back two minutes later, unless it is told otherwise."""
    end = time.monotonic() + 200
    while slurm.said("squeue", "-h", "-j", job, "-o", "%T").strip() != "PENDING":
        assert time.monotonic() < end
        time.sleep(0.2)
    slurm.said("scontrol", "update", f"jobid={job}", "starttime=now")


def nothing_waits() -> None:
    end = time.monotonic() + 120
    while slurm.said("squeue", "-h"):
        assert time.monotonic() < end
        time.sleep(0.2)


def finished(clone, said: str) -> None:
    assert "0 of 2 cells missing" in said
    found = {row["label"]: row for row in rows(clone)}
    assert {label: float(row["top1_labelled"]) for label, row in found.items()} == {
        "weak: strength 1, seed 0": 81.0,
        "weak: strength 2, seed 0": 82.0,
    }
    assert [path.stat().st_size for path in (clone / ".cache").glob("seen-*")] == [STEPS, STEPS]  # each step once
    assert not list((clone / ".dvc/tmp/jobs").iterdir())
    assert not list((clone / ".dvc/tmp/submitted").iterdir())
    nothing_waits()
    for row in found.values():  # each is a DVC experiment of the clone that asked
        name = f"toy-{row['cell']}-{row['key'][:6]}"
        assert f"{float(row['top1_labelled'])}" in clones.experiment(clone, name, "metrics/linear_eval.json")
        assert 0.05 * STEPS < float(row["seconds"]) < 600


@pytest.mark.slow
def test_jobs_that_slurm_takes_back_or_tells_to_leave_go_on_where_they_were(toy):
    with clones.background(toy, *RUN) as (process, log):
        first, second = amid(toy, process, log)
        slurm.said("scontrol", "requeue", first)
        slurm.said("scancel", "--signal", "USR2", second)  # as SLURM does before a job's time is over
        at_once(first)
        at_once(second)
        let_go(toy)
        assert process.wait(400) == 0
        finished(toy, log.read_text())


@pytest.mark.slow
def test_a_lost_job_is_sent_again_in_a_line_and_a_killed_study_takes_its_jobs_over(toy):
    with clones.background(toy, *RUN) as (process, log):
        first, second = amid(toy, process, log)
        process.kill()
        process.wait()
    with clones.background(toy, *RUN) as (process, log):
        waits = f"job {second} of an earlier call is in the queue"
        clones.until(lambda: waits in log.read_text(), process, log)
        slurm.said("scancel", first)
        let_go(toy)
        assert process.wait(400) == 0
        assert f"seed 0: job {first} was lost, sent again" in log.read_text()
        finished(toy, log.read_text())


@pytest.mark.slow
def test_jobs_that_end_while_nobody_looks_are_found_and_a_refused_one_is_a_line(toy):
    said = clones.run(toy, *RUN, "--partition", "none", code=2)
    assert re.search(r"(?m)^sbatch: .*partition.* - see what SLURM wants here$", said)
    with clones.background(toy, *RUN) as (process, log):
        amid(toy, process, log)
        process.kill()
        process.wait()
    let_go(toy)
    nothing_waits()
    said = clones.run(toy, *RUN)
    assert said.count("of an earlier call has ended") == 2
    finished(toy, said)


@pytest.mark.slow
def test_a_stopped_study_cancels_its_jobs_which_save_and_a_failed_cell_is_told_in_a_line(toy):
    with clones.background(toy, *RUN) as (process, log):
        amid(toy, process, log)
        process.terminate()
        assert process.wait(200) == 128 + 15
        assert "stopped; `leaven study run toy` goes on" in log.read_text()
    nothing_waits()
    assert rows(toy) == []
    saved = sorted((toy / ".cache").glob("saved-*"))
    assert [path.read_text() for path in saved] == [str(HALF), str(HALF)]
    (toy / ".cache/bad").touch()
    said = clones.run(toy, *RUN, code=1)
    assert re.search(r"weak: strength 1, seed 0: failed, .*toy.py: it is bad", said)
    assert rows(toy) == []
    (toy / ".cache/bad").unlink()
    let_go(toy)
    finished(toy, clones.run(toy, *RUN))


@pytest.mark.slow
def test_real_cells_give_the_rows_that_they_give_here(clone):
    assert "0 of 2 cells missing" in clones.run(clone, *RUN, warm=False)
    there = rows(clone)
    (clone / "studies/toy.csv").unlink()
    shutil.rmtree(clone / ".cache")
    assert "0 of 2 cells missing" in clones.run(clone, *RUN[:-4], warm=False)
    own = ("seconds", "commit")
    numbers = [{name: value for name, value in row.items() if name not in own} for row in there]
    here = [{name: value for name, value in row.items() if name not in own} for row in rows(clone)]
    assert sorted(numbers, key=lambda row: row["label"]) == sorted(here, key=lambda row: row["label"])


# --- the guide's own job files


GUIDE = Path(__file__).parents[2] / "docs/guide/many-gpus-and-clusters.md"


@pytest.fixture
def run_before(base, tmp_path, monkeypatch):
    """A copy of an uninterrupted run, and SLURM."""
    clone = clones.copy(base.clone, tmp_path / "clone")
    activate = clone / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"export PATH={Path(sys.executable).parent}:$PATH\n")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    with slurm.cluster(tmp_path / "slurm"):
        yield clone


def submit(clone, of: str, *changes: tuple[str, str]) -> str:
    """Submit the guide's job file in which `of` stands, changed so; the job's number."""
    (text,) = (job for job in re.findall(r"(?s)```\n(#!/bin/bash\n.*?)```", GUIDE.read_text()) if of in job)
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path = clone.parent / "job.sh"
    path.write_text(text)
    return clones.run(clone, "sbatch", "--parsable", str(path)).strip()


def output(clone, job: str) -> str:
    return "".join(path.read_text() for path in sorted(clone.glob(f"slurm-{job}*.out")))


@pytest.mark.slow
def test_an_array_fills_a_set_and_a_task_that_is_taken_back_makes_its_shard_again(base, run_before):
    for place in (".cache/shards", "data/generated/inflation"):
        shutil.rmtree(run_before / place)
    shards = len(list((base.clone / "data/generated/inflation").glob("shard-*.h5")))
    job = submit(run_before, "leaven sample", ("0-199 --gpus=1", f"0-{shards - 1}"))
    store, end = run_before / ".cache/shards", time.monotonic() + 300
    while not any(
        files.locked(path) or path.with_suffix(".sha256").exists() for path in store.rglob("shard-00000.lock")
    ):
        assert time.monotonic() < end, output(run_before, job)
        time.sleep(0.02)
    slurm.said("scontrol", "requeue", f"{job}_0")
    at_once(f"{job}_0")
    nothing_waits()
    there = sorted(path.name for path in store.rglob("*.sha256"))
    assert there == [f"shard-{k:05d}.sha256" for k in range(shards)], output(run_before, job)
    clones.run(run_before, "dvc", "repro", "generate")
    assert "generate.forwards" not in clones.counts(run_before)
    assert clones.digests(run_before) == clones.digests(base.clone)


@pytest.mark.slow
def test_processes_on_two_nodes_make_what_two_on_one_make_and_a_job_told_to_stop_goes_on(run_before, tmp_path):
    other = ("-S", "pretrain.seed=1", "-S", "pretrain.steps=60", "-S", "pretrain.evaluate_every=60")
    here = clones.copy(run_before, tmp_path / "here")
    changes = (" --gpus-per-node=8", ""), ("--nproc-per-node 8", "--nproc-per-node 1")
    changes += (("leaven run -n adainf adainf-cifar10", f"leaven run -n adainf {' '.join(other)}"),)
    first = submit(run_before, "srun torchrun", *changes)
    end = time.monotonic() + 300
    while not list((run_before / ".cache/encoder").glob("*/checkpoint.pt")):  # finished work has none
        assert time.monotonic() < end, output(run_before, first)
        time.sleep(0.02)
    slurm.said("scancel", "--signal", "TERM", first)  # as --signal=TERM@120 does before the time is over
    nothing_waits()
    assert re.search(r"stopped after step \d+; run the same command to go on", output(run_before, first))
    second = submit(run_before, "srun torchrun", *changes)
    nothing_waits()
    assert "resuming after step" in output(run_before, second)
    launcher = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2"
    clones.run(here, "env", f"PIPELINE_LAUNCH={launcher}", "python", "-m", "pipeline", "run", "-n", "adainf", *other)
    assert clones.digests(run_before, "data/encoder") == clones.digests(here, "data/encoder")
    assert clones.experiment(run_before, "adainf", "metrics/pretrain.json")


def test_what_a_job_cannot_do_without_is_said_before_anything_is_sent(tmp_path):
    """Where SLURM is not, or nothing is kept."""
    clone = clones.of_working_tree(tmp_path / "clone")
    for others in (clone / "studies").glob("*.csv"):
        others.unlink()
    (clone / "studies/toy.yaml").write_text(STUDY)
    clones.commit(clone, "A study")
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("git", "sh"):
        (bare / name).symlink_to(shutil.which(name))
    said = clones.run(clone, "env", f"PATH={bare}", shutil.which("python"), *RUN[1:], code=2)
    assert said.splitlines()[-1] == "--executor slurm: sbatch is not here - run it where SLURM's commands are"
    said = clones.run(clone, "env", "LEAVEN_STORE=off", *RUN, code=2)
    assert "LEAVEN_STORE=off: keeps nothing that a job could go on from" in said
    assert not Path(clone / "studies/toy.csv").exists()
