"""A study of smoke cells, run by real DVC: stopped, killed and gone on with, it loses and repeats nothing."""

import csv
import io
import json
import re

import pytest
import yaml

from tests.pipeline import clones

STEPS = 240
STUDY = f"""
title: a toy
presets:
  - smoke
base:
  compute:
    threads: 1
  generator:
    source: none
  inflation:
    ratio: 0.0
  quality:
    images: 0
  pretrain:
    method: mixed_ae
    backbone:
      kind: vit
      width: 24
      stem: null
      block: null
      blocks: null
      depth: 1
      heads: 2
      patch: 4
    steps: {STEPS}
    log_every: 40
    checkpoint_every: 40
    evaluate_every: {STEPS}
  finetune:
    labels:
      - 0.1
      - 0.5
seed:
  - pretrain.seed
  - augment.seed
parts:
  weak:
    asks: whether it goes on
    seeds: 1
    outcomes:
      - top1_labelled
      - finetuned
      - top_k
    against: strength 1
    grid:
      augment.strength:
        - 1.0
        - 2.0
"""
RUN = ("python", "-m", "pipeline", "study", "run", "toy", "--minutes", "20")


def memory(clone):
    path = clone / "studies/toy.csv"
    return path.read_text().splitlines() if path.exists() else []


def steps(clone):
    path = clone.parent / f"{clone.name}-beside" / "counts" / "pretrain.steps"
    return path.stat().st_size if path.exists() else 0


@pytest.mark.slow
def test_a_study_that_is_stopped_and_killed_loses_and_repeats_nothing(tmp_path):
    clone = clones.of_working_tree(tmp_path / "clone")
    for memory_of_others in (clone / "studies").glob("*.csv"):  # which would tell what a cell costs
        memory_of_others.unlink()
    (clone / "studies/toy.yaml").write_text(STUDY)
    (clone / "pipeline/study/cells.py").write_text((clone / "pipeline/study/cells.py").read_text() + "# another\n")
    refused = clones.run(clone, *RUN, code=2)
    assert refused == "pipeline/study/cells.py: not committed, so no row could name what made it - commit first\n"
    clones.commit(clone, "A study")
    assert re.search(r"weak +2 +2 +\? +whether it goes on", clones.run(clone, *RUN[:4], "plan", "toy"))

    with clones.background(clone, *RUN) as (process, log):  # the first cell in the midst: an order to stop
        clones.until(lambda: steps(clone) > 60, process, log)
        process.terminate()
        assert process.wait(60) == 128 + 15
        assert "stopped; `leaven study run toy` goes on" in log.read_text()
    assert memory(clone) == []
    assert steps(clone) < STEPS

    with clones.background(clone, *RUN) as (process, log):  # the second: the study is killed, and its stage lives on
        clones.until(lambda: steps(clone) > STEPS + 60, process, log)
        process.kill()
        process.wait()
    first = memory(clone)
    assert len(first) == 2  # the head and a row

    said = clones.run(clone, *RUN)
    assert "1 of 2 cells to run" in said
    assert "0 of 2 cells missing" in said
    assert memory(clone)[:2] == first
    assert steps(clone) == 2 * STEPS  # every step of every cell once
    assert "0 of 2 cells to run" in clones.run(clone, *RUN)

    clones.commit(clone, "Its rows")
    found = list(csv.DictReader(io.StringIO("\n".join(memory(clone)))))
    assert [row["label"] for row in found] == [f"weak: strength {s}, seed 0" for s in (1, 2)]
    for row in found:  # each is what its DVC experiment has
        name = f"toy-{row['cell']}-{row['key'][:6]}"
        assert f'"top1_labelled": {row["top1_labelled"]}' in clones.experiment(clone, name, "metrics/linear_eval.json")
        asked = yaml.safe_load(clones.experiment(clone, name, "params.yaml"))
        assert asked["augment"]["strength"] == float(row["strength"])
        tuned = json.loads(clones.experiment(clone, name, "metrics/finetune/0.5.json"))  # the larger share
        assert float(row["finetune_labels"]) == 0.5
        assert (float(row["finetuned"]), float(row["from_scratch"])) == (tuned["top1"], tuned["from_scratch"])
    there = clones.fresh(clone, tmp_path / "there")  # nothing but what git has
    table = clones.run(there, *RUN[:4], "table", "toy")
    assert table == clones.run(clone, *RUN[:4], "table", "toy")
    for name, digits in (("top1_labelled", 2), ("finetuned", 2), ("top_k", 4)):
        difference = float(found[1][name]) - float(found[0][name])
        assert f"| strength 2 | {difference:+.{digits}f} | none | nothing: one seed | not resolved |" in table
    assert re.search(r"weak +2 +0 +0 ", clones.run(there, *RUN[:4], "plan", "toy"))


HOLDS = """
import sys, time, zc.lockfile

while True:
    try:
        lock = zc.lockfile.LockFile(sys.argv[1])
        break
    except zc.lockfile.LockError:
        time.sleep(0.01)
time.sleep(8)
"""
SEES = f"""
import json, os, subprocess, sys, time
from pathlib import Path

began, end = Path(os.environ["COUNTS"]) / "began", time.monotonic() + 60
began.mkdir(exist_ok=True)
(began / str(os.getpid())).touch()
while len(list(began.iterdir())) < 2:  # two at a time
    assert time.monotonic() < end
    time.sleep(0.05)
if str(os.getpid()) == min(path.name for path in began.iterdir()):  # another has DVC's lock when the first two end
    words = [sys.executable, "-c", {HOLDS!r}, os.environ["LOCK"]]
    subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
assert os.environ["PIPELINE_LAUNCH"] == ""  # a process needs no launcher
Path("metrics").mkdir(exist_ok=True)
linear = {{"top1_labelled": float(os.environ["CUDA_VISIBLE_DEVICES"])}}
for name, found in {{"pretrain": {{}}, "linear_eval": linear, "label_free": {{}}, "quality": {{}}}}.items():
    Path(f"metrics/{{name}}.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_each_of_several_experiments_sees_a_gpu_of_its_own_and_waits_for_dvc_s_lock(tmp_path):
    """A stage that says which; there need be none."""
    clone = clones.of_working_tree(tmp_path / "clone")
    for others in (clone / "studies").glob("*.csv"):
        others.unlink()
    study = yaml.safe_load(STUDY)
    study["parts"]["weak"] |= {"seeds": 2, "outcomes": ["top1_labelled"]}
    study["base"]["finetune"]["labels"] = []
    on_cpu = yaml.safe_dump(study)
    study["base"]["compute"] = study["base"].get("compute", {}) | {"device": "cuda"}
    (clone / "studies/toy.yaml").write_text(yaml.safe_dump(study))
    (clone / "sees.py").write_text(SEES)
    metrics = [
        {f"metrics/{name}.json": {"cache": False}} for name in ("pretrain", "linear_eval", "label_free", "quality")
    ]
    stage = {"cmd": "python sees.py", "params": ["pretrain.seed", "augment.strength"], "metrics": metrics}
    (clone / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"sees": stage}}))
    for made in ("dvc.lock", "metrics", "plots"):
        clones.run(clone, "git", "rm", "-r", "--quiet", "--cached", made)
        clones.run(clone, "rm", "-r", made)
    clones.commit(clone, "Toys")
    lock = clone / ".dvc/tmp/lock"
    given = ("env", f"LOCK={lock}", "CUDA_VISIBLE_DEVICES=5,7", "PIPELINE_LAUNCH=torchrun --nproc-per-node 2")
    said = clones.run(clone, *given, *RUN, "--jobs", "3", "--gpus", "1")
    assert "--jobs 3: the GPUs are enough for 2 at a time" in said
    assert "it waits until another has ended" not in said
    found = [float(row["top1_labelled"]) for row in csv.DictReader(memory(clone))]
    assert (len(found), set(found)) == (4, {5.0, 7.0})
    said = clones.run(clone, "env", "CUDA_VISIBLE_DEVICES=", *RUN, "--gpus", "1", code=2)
    assert said == "--gpus 1: this machine has 0 - ask for fewer, or for none\n"
    (clone / "studies/toy.yaml").write_text(on_cpu)
    clones.commit(clone, "On the CPU")
    said = clones.run(clone, "env", "CUDA_VISIBLE_DEVICES=5", *RUN, "--gpus", "1", code=2)
    assert said.startswith("--gpus 1: compute.device is cpu, so they would be idle - set it to cuda in params.yaml")
