"""Stages in two real processes of torchrun: one process's shards, one line when one is killed, the bits of a whole run.

tests/engine/test_distributed.py compares what they compute with what one computes.
"""

import json
import os
import shutil
import signal
import sys

import pytest

from tests.pipeline import clones

TORCHRUN = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2"
ACCELERATE = f"{sys.executable} -m accelerate.commands.accelerate_cli launch --multi_gpu --num_processes 2"


def words(name: str, launcher: str = TORCHRUN) -> tuple[str, ...]:
    return "env", f"PIPELINE_LAUNCH={launcher}", "python", "-m", f"stages.{name}"


def without(base, name: str, clone):
    """A copy of the uninterrupted run whose work of one kind is forgotten; counts begin anew."""
    clones.copy(base.clone, clone)
    shutil.rmtree(clone / ".cache" / name)
    return clone


def killed(clone, name: str, hold: str) -> str:
    """Kill one of the processes at the point `hold`; what the stage said last, after it ended with 3."""
    with clones.background(clone, *words(name), hold=hold) as (process, log):
        os.kill(clones.held(clone, process, log), signal.SIGKILL)
        assert process.wait(300) == 3, log.read_text()
        return log.read_text().split("\n")[-2]


@pytest.fixture(scope="module")
def resumed(base, tmp_path_factory):
    """Pretraining of which a process was killed in the seventh of twelve steps, and which then went on."""
    clone = without(base, "encoder", tmp_path_factory.mktemp("resumed") / "clone")
    said, first = killed(clone, "pretrain", "pretrain-1.steps:7"), clones.counts(clone)
    before = clones.digests(clone)
    clones.run(clone, *words("pretrain"))
    return clone, said, first, before, clones.counts(clone)


@pytest.mark.slow
def test_two_processes_share_the_shards_out_and_make_the_same_bytes(base, tmp_path):
    clone = without(base, "shards", tmp_path / "clone")
    shutil.rmtree(clone / "data/generated/inflation")
    said = clones.run(clone, *words("generate"))
    assert clones.digests(clone) == clones.digests(base.clone)
    counted = clones.counts(clone)
    half = base.counts["generate.forwards"] // 2
    assert (counted["generate-0.forwards"], counted["generate-1.forwards"]) == (half, half)
    assert "200/200" in said  # the first process's images; it alone speaks


@pytest.mark.slow
def test_killed_process_ends_the_job_in_one_line_and_nothing_is_lost(base, resumed):
    _, said, counted, before, _ = resumed
    assert said == "pretrain: process 2 of 2 was killed - run the same command to go on"
    assert (counted["pretrain-0.steps"], counted["pretrain-1.steps"]) in ((7, 7), (6, 7))
    assert before == clones.digests(base.clone)


@pytest.mark.slow
def test_job_goes_on_after_its_last_checkpoint(base, resumed):
    clone, *_, counted = resumed
    assert (counted["pretrain-0.steps"], counted["pretrain-1.steps"]) == (12 - 4, 12 - 4)
    made, alone = (json.loads((c / "metrics/pretrain.json").read_text()) for c in (clone, base.clone))
    assert made["real_drawn"] == alone["real_drawn"]
    assert made["loss"] == pytest.approx(alone["loss"], rel=0.05)  # bf16: another order of sums is other bits


@pytest.mark.slow
def test_killed_job_ends_with_the_bytes_of_a_job_that_was_not_whoever_launched_it(base, resumed, tmp_path):
    clone = without(base, "encoder", tmp_path / "clone")
    clones.run(clone, *words("pretrain", ACCELERATE))
    assert clones.counts(clone)["pretrain-1.steps"] == 12
    assert clones.digests(clone) == clones.digests(resumed[0])
    assert clones.digests(clone, "data/encoder") != clones.digests(base.clone, "data/encoder")


@pytest.mark.slow
def test_generator_of_two_processes_learns_as_that_of_one(base, tmp_path):
    clone = without(base, "generator", tmp_path / "clone")
    clones.run(clone, *words("generator"))
    assert clones.counts(clone)["generator-1.steps"] == 8
    made, alone = (json.loads((c / "metrics/generator.json").read_text()) for c in (clone, base.clone))
    assert made["loss"] == pytest.approx(alone["loss"], rel=0.02)


@pytest.mark.slow
def test_signal_lets_all_processes_finish_the_same_step_and_the_job_goes_on(base, tmp_path):
    clone = without(base, "encoder", tmp_path / "clone")
    clones.edit(clone, pretrain__steps="60", pretrain__evaluate_every="60")
    straight = clones.copy(clone, tmp_path / "straight")
    steps = [clone.parent / "clone-beside" / "counts" / f"pretrain-{rank}.steps" for rank in range(2)]
    with clones.background(clone, *words("pretrain")) as (process, log):
        clones.until(lambda: all(path.exists() and path.stat().st_size > 5 for path in steps), process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 143
        said = log.read_text().strip().split("\n")[-1]
    done = clones.counts(clone)["pretrain-0.steps"]
    assert said == f"pretrain: pretraining (simclr): stopped after step {done}; run the same command to go on"
    assert 5 < done < 60
    clones.run(clone, *words("pretrain"))
    counted = clones.counts(clone)
    assert (counted["pretrain-0.steps"], counted["pretrain-1.steps"]) == (60 - done, 60 - done)
    clones.run(straight, *words("pretrain"))
    assert clones.digests(clone) == clones.digests(straight)


@pytest.mark.slow
def test_positives_of_two_processes_are_those_of_one_and_the_first_judges_them(base, tmp_path):
    clone = without(base, "classifier", tmp_path / "clone")
    clones.edit(clone, positives__kind="anchored")
    alone = clones.copy(clone, tmp_path / "alone")
    clones.stage(alone, "positives")
    clones.run(clone, *words("positives"))
    assert clones.digests(clone, "data/generated/positives") == clones.digests(alone, "data/generated/positives")
    judged, expected = (json.loads((c / "metrics/positives.json").read_text()) for c in (clone, alone))
    assert judged == expected
    assert 0 <= judged["same_class"] <= 100
