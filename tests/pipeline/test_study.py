"""A study of smoke cells, run by real DVC: stopped, killed and gone on with, it loses and repeats nothing."""

import csv
import io
import json
import re

import pytest

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
    steps: {STEPS}
    log_every: 40
    checkpoint_every: 40
    evaluate_every: {STEPS}
seed:
  - pretrain.seed
  - augment.seed
parts:
  weak:
    asks: whether it goes on
    seeds: 1
    against: strength 1
    grid:
      augment.strength:
        - 1.0
        - 2.0
"""
RUN = ("python", "-m", "pipeline.study", "run", "toy", "--minutes", "20")


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
    assert refused == "pipeline/study/cells.py: not committed, so that no row could say what made it - commit first\n"
    clones.commit(clone, "A study")
    assert re.search(r"weak +2 +2 +\? +whether it goes on", clones.run(clone, *RUN[:3], "plan", "toy"))

    with clones.background(clone, *RUN) as (process, log):  # the first cell in the midst: an order to stop
        clones.until(lambda: steps(clone) > 60, process, log)
        process.terminate()
        assert process.wait(60) == 128 + 15
        assert "stopped; `python -m pipeline.study run toy` goes on" in log.read_text()
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
        assert f'"top1_10k": {row["top1_10k"]}' in clones.experiment(clone, name, "metrics/linear_eval.json")
        assert f"strength: {row['strength']}" in clones.experiment(clone, name, "params.yaml")
    there = clones.fresh(clone, tmp_path / "there")  # nothing but what git has
    table = clones.run(there, *RUN[:3], "table", "toy")
    assert table == clones.run(clone, *RUN[:3], "table", "toy")
    difference = float(found[1]["top1_10k"]) - float(found[0]["top1_10k"])
    assert f"| strength 2 | {difference:+.2f} | none | nothing: one seed | not resolved |" in table
    assert re.search(r"weak +2 +0 +0 ", clones.run(there, *RUN[:3], "plan", "toy"))


GAME = """
title: rows of the game and of fine-tuning
presets:
  - smoke
base:
  compute:
    threads: 1
  inflation:
    ratio: 0.0
  quality:
    images: 0
seed:
  - pretrain.seed
parts:
  game:
    asks: what the rows of a game have
    seeds: 1
    outcomes:
      - top1_10k
      - synthetic
      - cosine
      - frechet_growth
    against: static
    base:
      generator:
        kind: gan
      generate:
        sampler: direct
        steps: 1
      pretrain:
        method: joint_gan
    arms:
      static:
        joint_gan:
          mode: static
      both:
        joint_gan:
          mode: both
          game_lr: 0.05
  tuned:
    asks: what the row of a fine-tuned autoencoder has
    seeds: 1
    outcomes:
      - finetuned
      - top_k
    base:
      generator:
        source: none
      pretrain:
        method: mixed_ae
        backbone:
          kind: vit
          width: 24
          blocks: null
          depth: 1
          heads: 2
          patch: 4
      finetune:
        labels:
          - 0.1
          - 0.5
"""


@pytest.mark.slow
def test_rows_have_the_outcomes_of_a_game_and_of_fine_tuning(tmp_path):
    clone = clones.of_working_tree(tmp_path / "clone")
    (clone / "studies/toy.yaml").write_text(GAME)
    clones.commit(clone, "A study")
    clones.run(clone, *RUN)
    static, both, tuned = csv.DictReader(io.StringIO("\n".join(memory(clone))))
    assert (static["mode"], both["mode"], tuned["mode"]) == ("static", "both", "")
    assert float(static["cosine"]) == pytest.approx(1, abs=1e-3)  # one image is its own partner
    assert float(both["cosine"]) < 1
    assert (static["frechet_growth"], static["frechet_most"], tuned["synthetic"]) == ("", "", "")
    assert float(both["frechet_most"]) >= float(both["frechet_growth"])
    assert float(static["synthetic"]) > 0
    name = f"toy-{tuned['cell']}-{tuned['key'][:6]}"
    judged = json.loads(clones.experiment(clone, name, "metrics/finetune/0.5.json"))  # the larger share
    assert (float(tuned["finetuned"]), float(tuned["from_scratch"])) == (judged["top1"], judged["from_scratch"])
    assert float(tuned["finetune_labels"]) == 0.5
    assert 0 <= float(tuned["top_k"]) <= 1
    table = clones.run(clone, *RUN[:3], "table", "toy")
    assert "nan" not in table
    cosine = float(both["cosine"]) - float(static["cosine"])
    assert f"| both | {cosine:+.4f} | none | nothing: one seed | not resolved |" in table
