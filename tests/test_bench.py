"""The harness of the benches; the benches themselves are run by hand, with nothing beside them."""

import io
import itertools
import json
import statistics
import sys
import tarfile
import time
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bench import __main__ as everything
from bench import cost, ddpm_train, pairs, pretrain, scale, step, views
from bench.gpu import __main__ as everything_on_gpu
from bench.gpu import diffusion, encoders, images, rung, works
from pipeline.core.errors import Stopped, UserError
from pipeline.data import datasets, mixture
from pipeline.data.bank import ImageBank
from pipeline.engine import loop
from pipeline.evaluation.quality import plain
from pipeline.generators import ddpm
from pipeline.params import reader
from pipeline.training.batches import Batches
from tests.pipeline import clones


@pytest.fixture
def clock(monkeypatch):
    """A clock that work moves on by hand."""
    now = [0.0]
    monkeypatch.setattr(pairs.time, "perf_counter", lambda: now[0])

    def takes(*seconds):
        left = itertools.cycle(seconds)

        def work():
            now[0] += next(left)
            order.append(seconds)

        return work

    order = []
    takes.order = order
    return takes


def test_the_two_run_by_turns_after_a_warm_up_and_the_median_of_the_ratios_counts(clock):
    ours, peer = clock(1.0), clock(9.0, 2.0, 3.0, 4.0)  # the first is the warm-up
    row = pairs.compare("x", ours, peer, target=3, pairs=3)
    assert row.pairs == [(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]
    assert (row.ratio, row.met) == (3.0, True)
    assert clock.order == [(1.0,), (9.0, 2.0, 3.0, 4.0)] * 4
    assert not pairs.compare("x", ours, peer, target=3.5, pairs=3).met


def test_at_most_turns_the_ratio_round(clock):
    row = pairs.compare("x", clock(2.1), clock(2.0), target=1.05, at_most=True, pairs=5)
    assert (row.ratio, row.met) == (pytest.approx(1.05), True)
    assert not pairs.compare("x", clock(2.2), clock(2.0), target=1.05, at_most=True).met


def test_without_a_target_a_row_is_reported_and_met(clock):
    row = pairs.compare("x", clock(2.0), clock(4.0), None, note="words")
    assert (row.met, row.target) == (True, None)
    assert "2.00" in row.line()
    assert "words" in row.line()


# --- what is on record


def recorded() -> list[dict]:
    return json.loads(everything.RESULTS.read_text())


def test_every_bench_is_on_record_and_says_how_it_is_run():
    assert {row["bench"] for row in recorded()} == set(everything.BENCHES)
    for name in everything.BENCHES:
        source = everything.RESULTS.with_name(f"{name}.py").read_text()
        assert f"python -m bench {name}" in source.split('"""')[1]


def test_recorded_rows_say_what_their_pairs_say():
    for row in recorded():
        at_most = row["facts"]["at_most"]
        ratios = sorted(a / b if at_most else b / a for a, b in row["pairs"])
        assert len(ratios) >= 5, row["name"]
        assert row["ratio"] == pytest.approx(statistics.median(ratios)), row["name"]
        if row["target"] is None:
            assert row["met"]
        else:
            assert row["met"] == (row["ratio"] <= row["target"] if at_most else row["ratio"] >= row["target"])


def test_the_table_in_the_docs_is_the_one_on_record():
    shown = (everything.RESULTS.parent.parent / "docs/performance.md").read_text()
    for row in recorded():
        line = next((line for line in shown.splitlines() if line.startswith(f"| {row['name']} |")), None)
        assert line is not None, row["name"]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1] == f"{row['ratio']:.2f}", row["name"]
        assert cells[3] == ("" if row["target"] is None else f"{row['target']:g}, {'met' if row['met'] else 'missed'}")


class Waiting(ImageBank):
    """Images for which a program waits, as torch tells it."""

    def __getitem__(self, rows):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=2)
        return super().__getitem__(rows)


def test_waits_for_the_images_of_a_late_step_are_seen(monkeypatch):
    """Though views of several steps are made at once, in steps before it."""
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 28, 28, 1), dtype=np.uint8)
    draw, setting = mixture.Mixture(64, 64, 1.0, 32, 0), rung.Setting("cpu", True)
    for kind, seen in ((Waiting, 1), (ImageBank, 0)):
        method = works.method("simclr")
        views = Batches(draw, kind(pixels[0], [pixels[1]], "cpu"), 0, method.views, plain(1, strength=2.0))
        found = works.waiting(loop.Task(method.phases(), views, {}), setting)
        assert [place.partition(":")[0] for place in found] == ["test_bench.py"] * seen


def test_costs_on_paper_are_those_of_the_work_that_the_parameters_ask_for():
    params = cost.composed(["adainf-cifar10"])
    assert (params.dataset.name, params.inflation.ratio) == ("cifar10", 20.0)
    small = cost.composed([])
    found = {stage: flops for stage, (_, flops) in cost.stages(small).items()}
    more = small.model_copy(update={"inflation": small.inflation.model_copy(update={"ratio": 3.0})})
    assert cost.stages(more)["generate"][1] == 3 * found["generate"]
    # A step goes forward, and back for inputs and weights, of two views; features go forward alone.
    images = small.pretrain.steps * small.pretrain.batch_size
    seen = small.dataset.train_size + small.dataset.labelled_size + small.dataset.validation_size
    evaluated = 2 * seen + small.dataset.train_size  # by two encoders, and mirrored
    assert found["pretrain"] / images == pytest.approx(3 * 2 * found["linear_eval"] / evaluated, rel=0.05)
    none = small.model_copy(update={"generator": small.generator.model_copy(update={"source": "none"})})
    assert cost.stages(none)["generator"][1] == cost.stages(none)["generate"][1] == 0


def test_flops_are_two_a_multiplication_and_addition():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert cost.counted(lambda: a @ b) == 2 * 3 * 5 * 7


# --- the benches beside the code that they time


def test_a_bench_that_times_our_step_takes_the_step_that_it_says(monkeypatch):
    """Of the loop's own update and of the peer's, at sizes that take no time: they stop if the work is not the same."""
    monkeypatch.setattr(pretrain, "BATCH", 8)
    compute = reader.load().compute.model_copy(update={"threads": 1})
    ours = pretrain.Ours(views.images()[:64], 16, compute)
    step.same_update(ours, compute)
    small = {"channels": [4, 8], "groups": 2, "attention": [], "batch_size": 6}
    params = reader.load().ddpm.model_copy(update=small | ddpm_train.OBJECTIVE)
    pixels = ddpm_train.gray()[:12, :8, :8].contiguous()
    ddpm_train.same_gradient(params, pixels, compute)
    monkeypatch.setattr(ddpm_train, "STEPS", 2)
    timed = ddpm_train.Ours(params, pixels, compute)
    before = [p.clone() for p in timed.training.unet.parameters()]
    timed()
    assert timed.step == 2
    assert not any(torch.equal(a, b) for a, b in zip(before, timed.training.unet.parameters(), strict=True) if a.any())


# --- the ladder onto a GPU


def test_a_rung_goes_on_after_a_fault_ends_in_its_time_and_leaves_what_it_found(tmp_path, capsys):
    def right(setting):
        return {"device": setting.device, "four": 4}

    def wrong(setting):
        raise ValueError("no such thing")

    def slow(setting):
        time.sleep(1.1)
        return {}

    path = tmp_path / "out/rung.json"
    rows = rung.climb([right, wrong, slow, right], rung.Setting("cpu", True), 1.0, path)
    assert [bool(row["fault"]) for row in rows] == [False, True, False, True]
    assert rows[0]["facts"] == {"device": "cpu", "four": 4}
    assert rows[1]["fault"].endswith("ValueError: no such thing")
    assert rows[3]["fault"] == "not started: 1 s are over"
    written = json.loads(path.read_text())
    assert written["rows"] == rows
    assert written["machine"]["device"] == "cpu"
    assert "4 checks in 1 s, 2 with a fault" in capsys.readouterr().out


@pytest.mark.parametrize("name", everything_on_gpu.RUNGS)
def test_a_rung_runs_on_a_cpu_at_toy_sizes(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    checks, seconds = everything_on_gpu.RUNGS[name]
    assert seconds <= 540
    rows = rung.climb(checks, rung.Setting("cpu", True), seconds, tmp_path / f"{name}.json")
    assert [row["fault"] for row in rows] == [""] * len(checks)
    assert all(row["facts"] for row in rows)
    torch.use_deterministic_algorithms(False)


def test_what_runs_when_the_time_is_over_is_stopped_and_another_signal_ends_the_rung(tmp_path):
    def endless(setting):
        with setting.stopped():
            time.sleep(60)

    def interrupted(setting):
        raise Stopped("by hand", 2)

    toy, path = rung.Setting("cpu", True), tmp_path / "rung.json"
    rows = rung.climb([endless, endless], toy, 0.2, path)
    assert [row["fault"] for row in rows] == ["stopped, as the time is over", "not started: 0.2 s are over"]
    with pytest.raises(Stopped, match="by hand"):
        rung.climb([interrupted, endless], toy, 60, path)


def test_what_a_rung_planned_stays_as_long_as_its_store(tmp_path, monkeypatch):
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    plans = iter([{"steps": 7}, {"steps": 5}])
    for _ in range(2):
        assert encoders.planned(rung.Setting("cpu", True), "toy", lambda: next(plans)) == {"steps": 7}


def test_steps_that_are_planned_take_the_time_that_there_is():
    cost = encoders.Cost(step=0.1, beside=3.0, judge=2.0)
    each = cost.steps(100, trainings=4) * cost.step + cost.beside + cost.judge
    assert 0.9 * 25 < each < 25
    assert cost.steps(1.0) == 1


@pytest.mark.parametrize("data", [[], ["--data", "nowhere"]])
def test_a_rung_without_its_images_says_so_in_a_line(data, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "paper", "--device", "cpu", *data])
    with pytest.raises(SystemExit) as end:
        everything_on_gpu.stage.command(everything_on_gpu.main)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cifar10-jpeg.tar.xz" in said


def test_the_archive_of_images_is_read_as_the_folder_in_it_would_be(tmp_path):
    random = np.random.default_rng(0)
    for name in ("train/cat/1", "train/ape/2", "train/ape/0", "test/cat/3", "test/ape/4"):
        path = tmp_path / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    with tarfile.open(tmp_path / images.ARCHIVE, "w:xz") as packed:
        packed.add(tmp_path / "test", "test")
        packed.add(tmp_path / "train", "train")
    parts, classes = images.unpacked(tmp_path / images.ARCHIVE)
    sizes = {"train_size": 3, "validation_size": 0, "labelled_size": 3, "spare_size": 0, "ceiling_size": 0}
    kind = {"name": "folder", "path": str(tmp_path), "image_size": 32, "channels": 3, "resize": "crop"}
    real = datasets.load(rung.defaults().dataset.model_copy(update=sizes | kind))
    order = np.argsort(real.orig_index[:3])
    assert classes == list(real.classes)
    for (seen, labels), rows in zip(parts, (order, [3, 4]), strict=True):
        np.testing.assert_array_equal(seen, real.images[rows])
        np.testing.assert_array_equal(labels, real.labels[rows])
    (tmp_path / images.ARCHIVE).write_bytes((tmp_path / images.ARCHIVE).read_bytes()[:-200])
    with pytest.raises(UserError, match="copy it again"):
        images.unpacked(tmp_path / images.ARCHIVE)


def test_a_generator_goes_on_from_the_weights_that_a_rung_left_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion, "LIMIT", 40_000)
    params = diffusion.section(rung.Setting("cpu", True))
    training = ddpm.Training(params, torch.zeros(8, 32, 32, 3, dtype=torch.uint8))
    for value in training.average.shadow_params:
        value.add_(0.1)
    left = SimpleNamespace(training=training, setting=rung.Setting("cpu", True, out=tmp_path), before=3, step=4)
    sizes = diffusion.write_weights(left)
    assert len(sizes) > 2
    assert max(sizes.values()) < 48_000
    network, steps = diffusion.started(rung.Setting("cpu", True, data=tmp_path), params)
    assert steps == 7
    for mine, theirs in zip(network.parameters(), training.average.shadow_params, strict=True):
        torch.testing.assert_close(mine.data, theirs, rtol=1e-3, atol=1e-6)
    (tmp_path / next(iter(sizes))).unlink()
    with pytest.raises(UserError, match="bring all of them"):
        diffusion.started(rung.Setting("cpu", True, data=tmp_path), params)


def test_images_come_back_in_archives_below_a_size(monkeypatch):
    monkeypatch.setattr(diffusion, "LIMIT", 20_000)
    packed = diffusion.archives(np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8))
    assert max(map(len, packed)) < 24_000
    names = [name for archive in packed for name in zipfile.ZipFile(io.BytesIO(archive)).namelist()]
    assert names == [f"{k:05d}.jpg" for k in range(30)]


@pytest.mark.parametrize("name", scale.MEASURES)
def test_each_piece_of_bookkeeping_can_be_measured(name, tree, tmp_path, monkeypatch):
    """In little; each checks what it has timed."""
    before = Path.cwd()
    for variable, value in clones.environment(tmp_path / "clone").items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("LEAVEN_STORE", "restored by this fixture")
    assert 0 <= scale.measured(name, 50 if name in ("plan", "cell", "table") else 2, tree) < 100
    assert Path.cwd() == before
